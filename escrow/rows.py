"""What the ledger asks of SQL and writes with it, each as one statement on a connection that somebody else opened."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, Dialect, Executable, Select, Table, bindparam, exists, func, select
from sqlalchemy.dialects import postgresql, sqlite

from contracts.canonical import digest
from contracts.entries import Step
from contracts.errors import EscrowError
from contracts.records import RECORDS as KINDS
from contracts.records import Entry, Key, Record
from contracts.transparency import HASH_BYTES, Fetch, Node, node_row
from escrow.cache import Kept
from escrow.tables import (
    ENTRIES,
    EVENTS,
    MEMBERS,
    RECORDS,
    Row,
    entry_row,
    event_rows,
    key_text,
    member_rows,
    read_key,
    record_row,
)

BATCH: Final = 1000  # rows that are read or written at once
_BEYOND: Final = 2**62  # past every position, and a number that every database holds

LAST: Final = select(ENTRIES.c.position, ENTRIES.c.time).order_by(ENTRIES.c.position.desc()).limit(1)
KNOWN: Final = select(ENTRIES.c.position, ENTRIES.c.time).where(ENTRIES.c.envelope == bindparam("digest"))
PLACED: Final = select(ENTRIES.c.position, ENTRIES.c.leaf).where(
    ENTRIES.c.position.in_(bindparam("positions", expanding=True))
)
DOCUMENTS: Final = select(RECORDS.c.key, RECORDS.c.document).order_by(RECORDS.c.key)
NAMED: Final = DOCUMENTS.where(RECORDS.c.key.in_(bindparam("keys", expanding=True)))
CASES: Final = DOCUMENTS.join(MEMBERS, RECORDS.c.key == "case/" + MEMBERS.c.contract).where(
    MEMBERS.c.party == bindparam("party")
)
# contracts that something may still happen to: unfinished, or ended with a run key that is not erased
UNSETTLED: Final = DOCUMENTS.where(
    RECORDS.c.kind == "case",
    ~exists().where(EVENTS.c.contract == func.substr(RECORDS.c.key, len("case/") + 1), EVENTS.c.kind == "key-erased"),
)
DEPOSITS: Final = DOCUMENTS.where(RECORDS.c.owner == bindparam("party"), RECORDS.c.kind == "deposit")


def of_kind(kind: str, states: Sequence[str]) -> Select[Any]:
    """The records of a kind, or the contracts in some states."""
    query = DOCUMENTS.where(RECORDS.c.kind == kind)
    return query.where(RECORDS.c.state.in_(states)) if states else query


def _happened() -> Select[Any]:
    """Found by way of the party's contracts, so that neither others' entries nor the ledger's length cost anything."""
    place = func.dense_rank().over(order_by=EVENTS.c.position).label("place")
    found = (
        select(EVENTS, place)
        .join(MEMBERS, MEMBERS.c.contract == EVENTS.c.contract)
        .where(MEMBERS.c.party == bindparam("party"), EVENTS.c.position >= bindparam("since"))
        .subquery()
    )
    columns = (found.c.position, found.c.time, found.c.kind, found.c.contract)
    return select(*columns).where(found.c.place <= bindparam("limit")).order_by(found.c.position, found.c.contract)


HAPPENED: Final = _happened()


def bounded(position: int) -> int:
    """A position that was asked for, as a number that the database can hold."""
    return min(max(position, 0), _BEYOND)


def leaves(connection: Connection, start: int, stop: int | None) -> Iterator[bytes]:
    """The leaves from `start` up to, not including, `stop`, in the order of the ledger."""
    query = select(ENTRIES.c.leaf).where(ENTRIES.c.position >= bounded(start)).order_by(ENTRIES.c.position)
    if stop is not None:
        query = query.where(ENTRIES.c.position < bounded(stop))
    with connection.execute(query, execution_options={"yield_per": BATCH}) as found:
        for row in found:
            yield bytes(row.leaf)


def load(connection: Connection, keys: Iterable[Key]) -> dict[Key, Kept]:
    """The named records that exist."""
    found = connection.execute(NAMED, {"keys": [key_text(key) for key in sorted(keys)]})
    return {(key := read_key(row.key)): kept(key, bytes(row.document)) for row in found}


def kept(key: Key, document: bytes) -> Kept:
    """A record as the cache keeps it."""
    return Kept(KINDS[key.kind].model_validate_json(document), len(document))


def store(connection: Connection, entry: Entry, changed: Sequence[Record]) -> dict[Key, Kept]:
    """Write what an entry changes; the records as the cache keeps them."""
    rows = [record_row(record) for record in changed]
    _write(connection, _UPSERTS[connection.dialect.name], rows)
    insert(connection, EVENTS, event_rows(entry, changed))
    insert(connection, MEMBERS, member_rows(entry))
    return {record.key(): Kept(record, len(row["document"])) for record, row in zip(changed, rows, strict=True)}


def insert(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Write rows, if there are any."""
    _write(connection, _INSERTS[table.name], rows)


def _write(connection: Connection, statement: Executable, rows: Sequence[Row]) -> None:
    if rows:
        sql, _, names = _compiled(statement, connection.dialect)
        values = [tuple(row[name] for name in names) for row in rows] if names else list(rows)
        connection.exec_driver_sql(sql, values)


def first(connection: Connection, statement: Executable, **values: object) -> Any:
    """The first row that a query finds, or None."""
    sql, given, names = _compiled(statement, connection.dialect)
    values = {**given, **values}
    return connection.exec_driver_sql(sql, tuple(values[name] for name in names) if names else values).first()


@cache
def _compiled(statement: Executable, dialect: Dialect) -> tuple[str, Mapping[str, Any], tuple[str, ...]]:
    """A statement that runs for every entry, compiled once and handed to the driver: half its time is saved.

    Returns:
        The SQL, the values it has already, and the names of all values in their order (none if the driver takes names).
    """
    compiled: Any = statement.compile(dialect=dialect)  # type: ignore[attr-defined]
    given = {name: value for name, value in compiled.params.items() if value is not None}
    return str(compiled), given, tuple(compiled.positiontup or ()) if dialect.positional else ()


def store_steps(connection: Connection, steps: Sequence[Step]) -> None:
    """Write a stretch of entries and what they say of parties and contracts, but no records."""
    insert(connection, ENTRIES, [_entry_row(step) for step in steps])
    insert(connection, EVENTS, [row for step in steps for row in event_rows(step.entry, step.changed)])
    insert(connection, MEMBERS, [row for step in steps for row in member_rows(step.entry)])


def _entry_row(step: Step) -> Row:
    return entry_row(step.entry.index, digest(step.envelope), step.entry.time, step.data, step.nodes)


def store_entry(connection: Connection, row: Row) -> None:
    """Write one entry."""
    insert(connection, ENTRIES, [row])


def _upsert(insertion: Any) -> Any:
    update = {"state": insertion.excluded.state, "document": insertion.excluded.document}
    return insertion.on_conflict_do_update(index_elements=["key"], set_=update)


_UPSERTS: Final = {"sqlite": _upsert(sqlite.insert(RECORDS)), "postgresql": _upsert(postgresql.insert(RECORDS))}
_INSERTS: Final = {table.name: table.insert() for table in (ENTRIES, EVENTS, MEMBERS, RECORDS)}


def fetcher(connection: Connection) -> Fetch:
    """The hashes of subtrees, in one query."""

    def fetch(wanted: Sequence[Node]) -> list[bytes]:
        places = [node_row(*node) for node in wanted]
        held = nodes(connection, {row for row, _ in places})
        return [held[row][level * HASH_BYTES : (level + 1) * HASH_BYTES] for row, level in places]

    return fetch


def nodes(connection: Connection, positions: Collection[int]) -> dict[int, bytes]:
    """The hashes of the complete subtrees that end at these entries, joined, by the entry's position."""
    query = select(ENTRIES.c.position, ENTRIES.c.nodes).where(ENTRIES.c.position.in_(positions))
    held = {row.position: bytes(row.nodes) for row in connection.execute(query)}
    if len(held) != len(positions):
        raise EscrowError("ledger-tampered", "Entries are missing from the ledger's database.")
    return held
