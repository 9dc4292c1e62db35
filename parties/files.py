"""Files that people write at a bank, read for `contracts.document`: regular files, no more of them than the bound."""

from pathlib import Path
from typing import Any

from contracts.document import MAX_BYTES, read_mapping
from contracts.errors import EscrowError


def read_document(path: Path, *, what: str, begin: str) -> dict[str, Any]:
    """The mapping that a file holds; `what` it should hold (`policy`) and `begin`, the hint if it holds something else.

    Raises:
        EscrowError: `file-unreadable`, or `document-invalid` as `contracts.document.read_mapping`.
    """
    try:
        if path.is_dir():
            raise EscrowError("file-unreadable", f"{path} is a directory, not the file of a {what}.")
        if path.exists() and not path.is_file():
            raise EscrowError("file-unreadable", f"{path} is not a regular file.")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise EscrowError("file-unreadable", f"{path} cannot be read: {error.strerror}.") from None
    return read_mapping(data, path.name, what=what, begin=begin)
