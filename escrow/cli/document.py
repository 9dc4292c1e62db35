"""The file of a contract, read for `contracts.document`: a regular file, no more of it than the bound."""

from pathlib import Path
from typing import Any

from contracts.document import MAX_BYTES, read_mapping
from contracts.errors import EscrowError

_BEGIN = "Begin with `contract: 1`; README.md shows a whole contract."


def read_document(path: Path) -> dict[str, Any]:
    """The mapping that a contract's file holds.

    Raises:
        EscrowError: `file-unreadable`, or `document-invalid` as `contracts.document.read_mapping`.
    """
    try:
        if path.is_dir():
            raise EscrowError("file-unreadable", f"{path} is a directory, not a contract's file.")
        if path.exists() and not path.is_file():
            raise EscrowError("file-unreadable", f"{path} is not a regular file.")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise EscrowError("file-unreadable", f"{path} cannot be read: {error.strerror}.") from None
    return read_mapping(data, path.name, what="contract", begin=_BEGIN)
