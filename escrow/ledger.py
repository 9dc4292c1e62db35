"""The ledger on SQL: every change of state is a signed statement, and a statement is one transaction.

`append` validates an envelope against the pure rules, adds it as a Merkle leaf and updates the read tables, all or
nothing. It needs the same number of SQL statements whatever the number of parties. With entry *i* stand the hashes of
the complete subtrees that end there, so appending reads nothing but the tree's right edge and a proof is one query.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    Column,
    Connection,
    Dialect,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from contracts.entries import checked, leaf, read_leaf
from contracts.errors import EscrowError
from contracts.records import RECORDS, CaseRecord, Key, Record
from contracts.rules import wanted
from contracts.signing import Envelope, Signer
from contracts.statements import Statement, read
from contracts.transparency import (
    HASH_BYTES,
    Checkpoint,
    Node,
    Tree,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_row,
    sign_note,
)

METADATA: Final = MetaData()
ENTRIES: Final = Table(
    "entries",
    METADATA,
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("envelope", String(71), nullable=False, unique=True),  # digest of the signed envelope
    Column("time", Integer, nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("nodes", LargeBinary, nullable=False),  # hashes of the complete subtrees that end here, 32 bytes each
)
RECORDS_TABLE: Final = Table(
    "records",
    METADATA,
    Column("key", String(112), primary_key=True),  # kind/name: one column, for SQLite scans the table for pairs
    Column("kind", String(16), nullable=False, index=True),
    Column("state", String(16), nullable=True, index=True),  # of a contract, for finding the unfinished ones
    Column("document", LargeBinary, nullable=False),
)
_LAST: Final = select(ENTRIES.c.position, ENTRIES.c.time).order_by(ENTRIES.c.position.desc()).limit(1)
_NAMED: Final = select(RECORDS_TABLE.c.key, RECORDS_TABLE.c.document).where(
    RECORDS_TABLE.c.key.in_(bindparam("keys", expanding=True))
)
_KNOWN: Final = select(ENTRIES.c.position, ENTRIES.c.time).where(ENTRIES.c.envelope == bindparam("digest"))


@dataclass(frozen=True)
class Appended:
    """Where a statement stands, and the records it changed (none if it stood there before)."""

    index: int
    time: int
    changed: tuple[Record, ...]


class Ledger:
    """One ledger in one database. Safe for threads: writers take turns, readers see committed entries only."""

    def __init__(self, url: str) -> None:
        """Open the database at a SQLAlchemy URL, with its tables made if there are none."""
        self._engine = _engine(url)
        self._turn = threading.Lock()
        self._writer: Connection | None = None  # kept open: taking one from the pool costs half an insert
        self._tree = Tree()  # the tree of the entries this object has seen; checked against the database at each append
        METADATA.create_all(self._engine)

    def close(self) -> None:
        """Give every connection back."""
        with self._turn:
            if self._writer is not None:
                self._writer.close()
        self._engine.dispose()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that no other writer can come between."""
        with self._turn:
            if self._writer is None:
                self._writer = self._engine.connect().execution_options(write=True)
            with self._writer.begin():
                yield self._writer

    def append(self, envelope: Envelope, now: int) -> Appended:
        """Verify, validate, append and apply one statement in one transaction. Idempotent by the envelope's digest.

        Args:
            envelope: the signed statement.
            now: the clock, whole seconds since 1970; an entry is never earlier than the one before.

        Raises:
            EscrowError: the statement is refused, and nothing was stored.
        """
        with self.writing() as connection:
            known = connection.execute(_KNOWN, {"digest": envelope.digest}).first()
            if known:
                return Appended(known.position, known.time, ())
            last = connection.execute(_LAST).first()
            size, time = (last.position + 1, max(now, last.time)) if last else (0, now)
            statement = read(envelope.payload)
            records = self._wanted(connection, statement)
            _, changed = checked(records, envelope, index=size, time=time, statement=statement)
            tree = self._tree if self._tree.size == size else Tree.restore(size, _fetcher(connection))
            tree = add_entry(connection, tree, envelope, time)
            _store(connection, changed)
        self._tree = tree
        return Appended(size, time, changed)

    def _wanted(self, connection: Connection, statement: Statement) -> dict[Key, Record]:
        """What the rules ask for: asked again, at most three times, until nothing new is named."""
        records: dict[Key, Record] = {}
        asked: set[Key] = set()
        while new := wanted(statement, records) - asked:
            asked |= new
            records.update(_load(connection, new))
        return records

    def has(self, envelope: Envelope) -> bool:
        """Whether this very envelope stands on the ledger."""
        with self._engine.connect() as connection:
            return connection.execute(_KNOWN, {"digest": envelope.digest}).first() is not None

    def records(self, *keys: Key) -> dict[Key, Record]:
        """The named records that exist, in one query."""
        with self._engine.connect() as connection:
            return _load(connection, set(keys))

    def all(self, kind: str, *, states: Sequence[str] = ()) -> list[Record]:
        """All records of a kind; contracts may be asked for by state."""
        query = select(RECORDS_TABLE.c.document).where(RECORDS_TABLE.c.kind == kind).order_by(RECORDS_TABLE.c.key)
        if states:
            query = query.where(RECORDS_TABLE.c.state.in_(states))
        with self._engine.connect() as connection:
            return [RECORDS[kind].model_validate_json(row.document) for row in connection.execute(query)]  # type: ignore[index]

    def documents(self) -> dict[Key, bytes]:
        """Every row of the read table, for comparison with a replay."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(RECORDS_TABLE.c.key, RECORDS_TABLE.c.document))
            return {_key(row.key): bytes(row.document) for row in rows}

    def size(self) -> int:
        """How many entries stand on the ledger."""
        with self._engine.connect() as connection:
            return int(connection.execute(select(func.count()).select_from(ENTRIES)).scalar_one())

    def leaves(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The leaves from `start` up to, not including, `stop`, in the order of the ledger."""
        query = select(ENTRIES.c.leaf).where(ENTRIES.c.position >= start).order_by(ENTRIES.c.position)
        if stop is not None:
            query = query.where(ENTRIES.c.position < stop)
        with self._engine.connect().execution_options(yield_per=1000) as connection:
            for row in connection.execute(query):
                yield bytes(row.leaf)

    def envelopes(self, indexes: Sequence[int]) -> list[Envelope]:
        """The envelopes at the given places, in that order."""
        query = select(ENTRIES.c.position, ENTRIES.c.leaf).where(ENTRIES.c.position.in_(indexes))
        with self._engine.connect() as connection:
            found = {row.position: read_leaf(bytes(row.leaf)).envelope for row in connection.execute(query)}
        return [found[index] for index in indexes]

    def checkpoint(self, origin: str) -> Checkpoint:
        """The ledger's head: origin, size and root."""
        with self._engine.connect() as connection:
            last = connection.execute(_LAST).first()
            size = last.position + 1 if last else 0
            tree = self._tree
            if tree.size != size:
                tree = Tree.restore(size, _fetcher(connection))
        return Checkpoint(origin, size, tree.root())

    def root(self, size: int) -> bytes:
        """The root over the first `size` entries, 32 bytes."""
        with self._engine.connect() as connection:
            return Tree.restore(size, _fetcher(connection)).root()

    def head(self, origin: str, signer: Signer) -> str:
        """The head as a signed note. Signatures are deterministic: one head, one note."""
        return sign_note(self.checkpoint(origin), origin, signer)

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """Proof that entry `index` stands in the tree of the first `size` entries."""
        with self._engine.connect() as connection:
            return inclusion_proof(index, size, _fetcher(connection))

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """Proof that the first `new` entries begin with the first `old` ones."""
        with self._engine.connect() as connection:
            return consistency_proof(old, new, _fetcher(connection))


def add_entry(connection: Connection, tree: Tree, envelope: Envelope, time: int) -> Tree:
    """Put a checked envelope after the `tree` of all entries before it; the tree with it."""
    data = leaf(envelope, time)
    grown, nodes = tree.append(leaf_hash(data))
    row = (tree.size, envelope.digest, time, data, b"".join(nodes))
    connection.connection.cursor().execute(_add_entry(connection.dialect), row)
    return grown


@cache
def _add_entry(dialect: Dialect) -> str:
    """The one statement that runs for every entry, compiled once and handed to the driver: half its time is saved."""
    return str(ENTRIES.insert().compile(dialect=dialect))


def _key(text: str) -> Key:
    kind, _, name = text.partition("/")
    return Key(kind, name)  # type: ignore[arg-type]


def _load(connection: Connection, keys: set[Key]) -> dict[Key, Record]:
    if not keys:
        return {}
    rows = connection.execute(_NAMED, {"keys": ["/".join(key) for key in sorted(keys)]})
    return {(key := _key(row.key)): RECORDS[key.kind].model_validate_json(row.document) for row in rows}


def _store(connection: Connection, changed: Sequence[Record]) -> None:
    if not changed:
        return
    rows = []
    for record in changed:
        key = record.key()
        state = str(record.state) if isinstance(record, CaseRecord) else None
        rows.append({"key": "/".join(key), "kind": key.kind, "state": state, "document": record.document()})
    connection.execute(_UPSERTS[connection.dialect.name], rows)


def _upsert(insert: Any) -> Any:
    update = {"state": insert.excluded.state, "document": insert.excluded.document}
    return insert.on_conflict_do_update(index_elements=["key"], set_=update)


_UPSERTS: Final = {
    "sqlite": _upsert(sqlite.insert(RECORDS_TABLE)),
    "postgresql": _upsert(postgresql.insert(RECORDS_TABLE)),
}


def _fetcher(connection: Connection) -> Any:
    """`transparency.Fetch` in one query."""

    def fetch(nodes: Sequence[Node]) -> list[bytes]:
        places = [node_row(*node) for node in nodes]
        query = select(ENTRIES.c.position, ENTRIES.c.nodes).where(ENTRIES.c.position.in_({row for row, _ in places}))
        held: Mapping[int, bytes] = {row.position: bytes(row.nodes) for row in connection.execute(query)}
        if len(held) != len({row for row, _ in places}):
            raise EscrowError("ledger-tampered", "Entries are missing from the ledger's database.")
        return [held[row][level * HASH_BYTES : (level + 1) * HASH_BYTES] for row, level in places]

    return fetch


def _engine(url: str) -> Engine:
    engine = create_engine(url)
    if engine.dialect.name != "sqlite":
        return engine

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions by itself
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes its lock at once: what it has read cannot change before it writes.
        write = connection.get_execution_options().get("write", False)
        connection.connection.cursor().execute("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


__all__ = ["Appended", "Ledger"]
