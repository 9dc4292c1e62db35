"""What anyone with a copy of an escrow's directory can check, without its keys and without writing to it.

1. Every entry is replayed: its form, its place, its signature and the rule that permits it.
2. What stands beside each entry, the hashes of its subtrees above all, is what the entries themselves yield.
3. The other tables hold exactly what the replay yields.
4. Each checkpoint that somebody remembers was signed with this ledger's key and is a beginning of this ledger.

The first three cannot tell a ledger that was shortened or forked by its own operator, who holds the key and has every
signature; the fourth can, as long as one party kept a checkpoint of what was taken away.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import tee
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import Connection, LargeBinary, Result, Table, cast, select
from sqlalchemy import Row as Read
from sqlalchemy import exc as sql

from contracts.canonical import digest
from contracts.entries import Step as Entry
from contracts.entries import steps
from contracts.errors import EscrowError
from contracts.notes import Checkpoint, parse_note
from contracts.records import Key, Record
from contracts.signing import Envelope, verify
from contracts.transparency import Tree
from escrow import home
from escrow.engine import Database
from escrow.migrations import require_current
from escrow.rows import BATCH as ROWS
from escrow.tables import ENTRIES, EVENTS, MEMBERS, RECORDS, Row, event_rows, member_rows, record_row

Step = tuple[int, str]
Told = Callable[[Step], None]

BATCH: Final = 256  # signatures that a thread takes at once


def unheard(step: Step) -> None:
    """Nobody listens."""


def audit(directory: Path, heads: Mapping[str, str] | None = None, told: Told = unheard) -> tuple[Step, ...]:
    """Check the ledger in an escrow's directory, step by step as numbered above.

    Args:
        directory: of the escrow.
        heads: checkpoints that parties remember, signed notes by whose they are.
        told: hears each step as it is done.

    Returns:
        The steps, with a few words on each.

    Raises:
        EscrowError: `ledger-tampered` at the first step that fails; `escrow-missing` if the directory holds no escrow.
    """
    origin, key = home.about(directory)
    remembered = {whose: _remembered(whose, note, origin, key) for whose, note in (heads or {}).items()}
    done: list[Step] = []

    def say(words: str) -> None:
        done.append((len(done) + 1, words))
        told(done[-1])

    database = Database(home.database_url(directory))
    found = _Found({head.size for head in remembered.values() if isinstance(head, Checkpoint)})
    try:
        with database.snapshot() as connection:
            require_current(connection)
            with _Verifying() as verifying:
                found.replay(connection, key, verifying)
            say(f"{found.size} entries replayed: form, signature and rule of each")
            found.same_entries()
            say("the hashes and columns beside each entry are those that the entries yield")
            found.same_tables(connection)
            say(f"{len(found.records)} records in the read tables are those of the replay")
    except sql.DBAPIError as error:
        raise _tampered(f"The ledger's database cannot be read: {error.orig}.") from error
    finally:
        database.close()
    for whose, head in remembered.items():
        _begins(whose, head, found.roots)
    say(f"{len(remembered)} remembered checkpoints are beginnings of this ledger")
    return tuple(done)


def _tampered(sentence: str) -> EscrowError:
    return EscrowError("ledger-tampered", sentence)


@dataclass
class _Found:
    """What one pass over the entries yields for all steps."""

    sizes: Collection[int]  # of trees whose roots are asked for
    size: int = 0
    records: dict[Key, Record] = field(default_factory=dict)
    roots: dict[int, bytes] = field(default_factory=dict)
    events: list[Row] = field(default_factory=list)
    members: list[Row] = field(default_factory=list)
    odd: list[int] = field(default_factory=list)  # entries beside which stands something else than they yield

    def replay(self, connection: Connection, key: str, verifying: "_Verifying") -> None:
        """Step 1, with what the others need."""
        self._note(Tree())
        with _rows(connection, ENTRIES, ordered=True) as stored:
            rows, again = tee(stored)
            for row, entry in zip(rows, steps(_leaves(again), self.records, key=key, verifier=verifying), strict=True):
                if not _fits(row, entry):
                    self.odd.append(row.position)
                self.events += event_rows(entry.entry, entry.changed)
                self.members += member_rows(entry.entry)
                self._note(entry.tree)

    def _note(self, tree: Tree) -> None:
        self.size = tree.size
        if tree.size in self.sizes:
            self.roots[tree.size] = tree.root()

    def same_entries(self) -> None:
        """Step 2."""
        if self.odd:
            raise _tampered(f"What stands beside entry {self.odd[0]} is not what the entries yield.")

    def same_tables(self, connection: Connection) -> None:
        """Step 3."""
        _same(connection, RECORDS, map(record_row, self.records.values()))
        _same(connection, MEMBERS, self.members)
        _same(connection, EVENTS, self.events)


def _rows(connection: Connection, table: Table, *, ordered: bool = False) -> Result[Any]:
    """All rows; bytes as bytes, for SQLite gives back whatever type was stored."""
    columns = [cast(each, LargeBinary).label(each.name) if _binary(each.type) else each for each in table.c]
    query = select(*columns).order_by(*table.primary_key) if ordered else select(*columns)
    return connection.execute(query, execution_options={"yield_per": ROWS})


def _binary(kind: object) -> bool:
    return isinstance(kind, LargeBinary)


def _leaves(rows: Iterable[Read[Any]]) -> Iterator[bytes]:
    for place, row in enumerate(rows):
        if row.position != place:
            raise _tampered(f"Entry {place} is missing.")
        yield row.leaf


def _fits(row: Read[Any], entry: Entry) -> bool:
    return (row.envelope, row.time, row.nodes) == (digest(entry.envelope), entry.entry.time, b"".join(entry.nodes))


def _same(connection: Connection, table: Table, expected: Iterable[Row]) -> None:
    """Whether a table holds the expected rows and no others."""
    name = itemgetter(*(place for place, column in enumerate(table.c) if column.primary_key))
    rows = (tuple(row[column.name] for column in table.c) for row in expected)
    due = {name(row): row for row in rows}
    with _rows(connection, table) as stored:
        for row in stored:
            if due.pop(name(row), None) != row:
                raise _tampered(f"The row {_shown(name(row))} of {table.name} is not what the ledger says.")
    if due:
        raise _tampered(f"The row {_shown(min(due))} of {table.name} is missing.")


def _shown(name: object) -> str:
    return " ".join(map(str, name)) if isinstance(name, tuple) else str(name)


class _Verifying:
    """Checks signatures on other processors while the replay goes on; leaving it, all of them are checked."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor()
        self._batch: list[tuple[Envelope, str]] = []
        self._batches: list[Future[None]] = []

    def __call__(self, envelope: Envelope, public: str) -> None:
        self._batch.append((envelope, public))
        if len(self._batch) == BATCH:
            self._send()

    def _send(self) -> None:
        batch, self._batch = self._batch, []
        self._batches.append(self._pool.submit(_verify_all, batch))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failed: object) -> None:
        self._send()
        self._pool.shutdown()
        for batch in self._batches if failed[0] is None else ():
            batch.result()


def _verify_all(batch: Sequence[tuple[Envelope, str]]) -> None:
    for envelope, public in batch:
        try:
            verify(envelope, public)
        except EscrowError as error:
            raise _tampered(f"The statement {envelope.digest} is badly signed: {error.message}") from error


def _remembered(whose: str, note: str, origin: str, key: str) -> Checkpoint | EscrowError:
    """The checkpoint of a note, or what is wrong with it, which is told when its step comes."""
    try:
        head = parse_note(note, {origin: key})
    except EscrowError as error:
        return _tampered(f"The checkpoint of {whose} was not signed with this ledger's key: {error.message}")
    return head if head.origin == origin else _tampered(f"The checkpoint of {whose} is of another ledger.")


def _begins(whose: str, head: Checkpoint | EscrowError, roots: Mapping[int, bytes]) -> None:
    if isinstance(head, EscrowError):
        raise head
    if head.size not in roots:
        raise _tampered(f"The ledger is shorter than the {head.size} entries that {whose} remembers.")
    if roots[head.size] != head.root:
        raise _tampered(f"The first {head.size} entries are not those that {whose} remembers.")


__all__ = ["Step", "audit"]
