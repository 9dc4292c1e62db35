"""The tables of the ledger, and what stands in their rows.

`entries` is the ledger. With entry *i* stand the hashes of the complete subtrees that end there, so appending reads
nothing but the tree's right edge and a proof is one query. The other tables are what replaying the entries yields, kept
in the same transaction so that they can be asked: `records` by kind, state and owner, `members` and `events` for what
concerns a party. A change here needs a migration (`escrow.migrations`); a test compares the two.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, String, Table

from contracts.records import CaseRecord, DepositRecord, Entry, Key, Record, RuleRecord
from contracts.statements import ContractProposed

Row = dict[str, Any]

REVISION: Final = "0002"
"""The migration that leads to these tables."""

_NUMBER: Final = BigInteger().with_variant(Integer, "sqlite")  # there INTEGER has 64 bits and can be the rowid

METADATA: Final = MetaData()
ENTRIES: Final = Table(
    "entries",
    METADATA,
    Column("position", _NUMBER, primary_key=True, autoincrement=False),
    Column("envelope", String(71), nullable=False, unique=True),  # digest of the signed envelope
    Column("time", _NUMBER, nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("nodes", LargeBinary, nullable=False),  # hashes of the complete subtrees that end here, 32 bytes each
)
RECORDS: Final = Table(
    "records",
    METADATA,
    Column("key", String(112), primary_key=True),  # kind/name: one column, for SQLite scans the table for pairs
    Column("kind", String(16), nullable=False, index=True),
    Column("state", String(16), nullable=True, index=True),  # of a contract, for finding the unfinished ones
    Column("document", LargeBinary, nullable=False),
    Column("owner", String(32), nullable=True, index=True),  # the party whose deposit or standing rule it is
)
MEMBERS: Final = Table(
    "members",
    METADATA,
    Column("party", String(32), primary_key=True),
    Column("contract", String(71), primary_key=True),
    sqlite_with_rowid=False,
)
EVENTS: Final = Table(
    "events",
    METADATA,
    Column("contract", String(71), primary_key=True),  # that the entry proposed or changed
    Column("position", _NUMBER, primary_key=True, autoincrement=False),  # of the entry
    Column("time", _NUMBER, nullable=False),
    Column("kind", String(32), nullable=False),  # of the statement
    sqlite_with_rowid=False,
)


def key_text(key: Key) -> str:
    """A key as the table has it."""
    return f"{key.kind}/{key.name}"


def read_key(text: str) -> Key:
    """The key of a table's text."""
    kind, _, name = text.partition("/")
    return Key(kind, name)  # type: ignore[arg-type]


def record_row(record: Record) -> Row:
    """A record's row."""
    key = record.key()
    return {
        "key": key_text(key),
        "kind": key.kind,
        "state": str(record.state) if isinstance(record, CaseRecord) else None,
        "document": record.document(),
        "owner": record.stated.party if isinstance(record, DepositRecord | RuleRecord) else None,
    }


def event_rows(entry: Entry, changed: Iterable[Record]) -> list[Row]:
    """A row for each contract that the entry changes."""
    kind = entry.statement.kind  # type: ignore[attr-defined]
    contracts = [record.digest for record in changed if isinstance(record, CaseRecord)]
    return [{"contract": each, "position": entry.index, "time": entry.time, "kind": kind} for each in contracts]


def member_rows(entry: Entry) -> list[Row]:
    """A row for each party of the contract that the entry proposes, if it does."""
    if not isinstance(entry.statement, ContractProposed):
        return []
    contract = entry.statement.contract
    return [{"party": name, "contract": contract.digest()} for name in contract.names()]


def entry_row(position: int, envelope: str, time: int, leaf: bytes, nodes: Sequence[bytes]) -> Row:
    """An entry's row."""
    return {"position": position, "envelope": envelope, "time": time, "leaf": leaf, "nodes": b"".join(nodes)}
