"""What a bank's commands keep in its home besides keys and deposits: the schemas it deposited by.

The ledger holds a schema's digest only; whoever draws a contract up needs the text.
"""

from pathlib import Path

from contracts.canonical import canonical
from contracts.proceedings import term_digest
from contracts.schema import Schema
from contracts.terms import Digest
from parties.draft import read_schema
from parties.identity import write_private


def keep_schema(home: Path, schema: Schema) -> None:
    """Keep a schema under its digest."""
    path = _path(home, term_digest(schema))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, canonical(schema.model_dump(mode="json", by_alias=True, exclude_none=True)))


def kept_schema(home: Path, digest: Digest) -> Schema | None:
    """The schema of this digest, if it was kept."""
    path = _path(home, digest)
    return read_schema(path) if path.is_file() else None


def _path(home: Path, digest: Digest) -> Path:
    return home / "schemas" / f"{digest.removeprefix('sha256:')}.json"
