"""The ledger on SQL: every change of state is a signed statement, and a statement is one transaction.

`append` validates an envelope against the pure rules, adds it as a Merkle leaf and updates the read tables, all or
nothing. It needs the same number of SQL statements whatever the number of parties. With entry *i* stand the hashes of
the complete subtrees that end there, so appending reads nothing but the tree's right edge and a proof is one query.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    Column,
    Connection,
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
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite

from contracts.entries import checked, leaf, read_leaf
from contracts.errors import EscrowError
from contracts.records import RECORDS, CaseRecord, Key, Record
from contracts.rules import wanted
from contracts.signing import Envelope, Signer
from contracts.statements import read
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
    Column("kind", String(16), primary_key=True),
    Column("name", String(96), primary_key=True),
    Column("state", String(16), nullable=True, index=True),  # of a contract, for finding the unfinished ones
    Column("document", LargeBinary, nullable=False),
)
_ADD_ENTRY: Final = ENTRIES.insert()
_LAST: Final = select(ENTRIES.c.position, ENTRIES.c.time).order_by(ENTRIES.c.position.desc()).limit(1)
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
        self._tree = Tree()  # the tree of the entries this object has seen; checked against the database at each append
        METADATA.create_all(self._engine)

    def close(self) -> None:
        """Give every connection back."""
        self._engine.dispose()

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._turn, self._engine.connect().execution_options(write=True) as connection, connection.begin():
            yield connection

    def append(self, envelope: Envelope, now: int) -> Appended:
        """Verify, validate, append and apply one statement in one transaction. Idempotent by the envelope's digest.

        Args:
            envelope: the signed statement.
            now: the clock, whole seconds since 1970; an entry is never earlier than the one before.

        Raises:
            EscrowError: the statement is refused, and nothing was stored.
        """
        with self._writing() as connection:
            known = connection.execute(_KNOWN, {"digest": envelope.digest}).first()
            if known:
                return Appended(known.position, known.time, ())
            last = connection.execute(_LAST).first()
            size, time = (last.position + 1, max(now, last.time)) if last else (0, now)
            records = self._wanted(connection, envelope)
            _, changed = checked(records, envelope, index=size, time=time)
            tree = self._add(connection, envelope, size, time)
            _store(connection, changed)
        self._tree = tree
        return Appended(size, time, changed)

    def _add(self, connection: Connection, envelope: Envelope, size: int, time: int) -> Tree:
        tree = self._tree if self._tree.size == size else Tree.restore(size, _fetcher(connection))
        data = leaf(envelope, time)
        tree, nodes = tree.append(leaf_hash(data))
        row = {"position": size, "envelope": envelope.digest, "time": time, "leaf": data, "nodes": b"".join(nodes)}
        connection.execute(_ADD_ENTRY, row)
        return tree

    def _wanted(self, connection: Connection, envelope: Envelope) -> dict[Key, Record]:
        """What the rules ask for: asked again, at most three times, until nothing new is named."""
        statement = read(envelope.payload)
        records: dict[Key, Record] = {}
        asked: set[Key] = set()
        while new := wanted(statement, records) - asked:
            asked |= new
            records.update(_load(connection, new))
        return records

    def records(self, *keys: Key) -> dict[Key, Record]:
        """The named records that exist, in one query."""
        with self._engine.connect() as connection:
            return _load(connection, set(keys))

    def all(self, kind: str, *, states: Sequence[str] = ()) -> list[Record]:
        """All records of a kind; contracts may be asked for by state."""
        query = select(RECORDS_TABLE.c.document).where(RECORDS_TABLE.c.kind == kind).order_by(RECORDS_TABLE.c.name)
        if states:
            query = query.where(RECORDS_TABLE.c.state.in_(states))
        with self._engine.connect() as connection:
            return [RECORDS[kind].model_validate_json(row.document) for row in connection.execute(query)]  # type: ignore[index]

    def documents(self) -> dict[Key, bytes]:
        """Every row of the read table, for comparison with a replay."""
        columns = (RECORDS_TABLE.c.kind, RECORDS_TABLE.c.name, RECORDS_TABLE.c.document)
        with self._engine.connect() as connection:
            return {Key(row.kind, row.name): bytes(row.document) for row in connection.execute(select(*columns))}

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


def _load(connection: Connection, keys: set[Key]) -> dict[Key, Record]:
    if not keys:
        return {}
    columns = RECORDS_TABLE.c
    query = select(columns.kind, columns.name, columns.document).where(
        tuple_(columns.kind, columns.name).in_(sorted(keys))
    )
    rows = connection.execute(query)
    return {Key(row.kind, row.name): RECORDS[row.kind].model_validate_json(row.document) for row in rows}


def _store(connection: Connection, changed: Sequence[Record]) -> None:
    if not changed:
        return
    rows = []
    for record in changed:
        state = str(record.state) if isinstance(record, CaseRecord) else None
        rows.append({**record.key()._asdict(), "state": state, "document": record.document()})
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    insert = dialect.insert(RECORDS_TABLE)
    update = {"state": insert.excluded.state, "document": insert.excluded.document}
    connection.execute(insert.on_conflict_do_update(index_elements=["kind", "name"], set_=update), rows)


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
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


__all__ = ["Appended", "Ledger"]
