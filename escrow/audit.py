"""What anyone with a copy of an escrow's directory can check, without its keys and without writing to it.

1. Every entry is replayed: its form, its place, its signature and the rule that permits it.
2. The Merkle root computed anew from the leaves is the root that the stored hashes of subtrees lead to, and the columns
   beside each leaf say what the leaf says.
3. The read tables hold exactly what the replay yields.
4. Each checkpoint that somebody remembers was signed with this ledger's key and is a beginning of this ledger.

The first three cannot tell a ledger that was shortened or forked by its own operator, who holds the key and has every
signature; the fourth can, as long as one party kept a checkpoint of what was taken away.
"""

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from contracts.canonical import digest
from contracts.entries import Replayed, replay, split_leaf
from contracts.errors import EscrowError
from contracts.records import CaseRecord, Record
from contracts.signing import Envelope, verify
from contracts.transparency import HASH_BYTES, Checkpoint, Node, Tree, leaf_hash, node_row, parse_note
from escrow import home

Step = tuple[int, str]
Told = Callable[[Step], None]

BATCH: Final = 256  # signatures that a thread takes at once
_ENTRIES: Final = (
    "SELECT position, envelope, time, CAST(leaf AS BLOB), CAST(nodes AS BLOB) FROM entries ORDER BY position"
)
_RECORDS: Final = "SELECT key, kind, state, CAST(document AS BLOB) FROM records"
_NODES: Final = "SELECT CAST(nodes AS BLOB) FROM entries WHERE position = ?"


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

    try:
        with _opened(directory / home.LEDGER) as connection:
            reading = _Reading(connection, {head.size for head in remembered.values() if isinstance(head, Checkpoint)})
            with _Verifying() as verifying:
                replayed = replay(reading.leaves(), key=key, verifier=verifying)
            say(f"{replayed.tree.size} entries replayed: form, signature and rule of each")
            _same_tree(connection, replayed.tree, reading)
            say("the root of the leaves is the root of the stored hashes")
            _same_records(connection, replayed)
            say(f"{len(replayed.records)} records in the read tables are those of the replay")
    except sqlite3.Error as error:
        raise _tampered(f"The ledger's database cannot be read: {error}.") from error
    for whose, head in remembered.items():
        _begins(whose, head, reading.roots)
    say(f"{len(remembered)} remembered checkpoints are beginnings of this ledger")
    return tuple(done)


def _tampered(sentence: str) -> EscrowError:
    return EscrowError("ledger-tampered", sentence)


def _opened(path: Path) -> "_Closing":
    if not path.is_file():
        raise EscrowError("escrow-missing", f"{path} is not there.")
    # A copy that nobody serves has no log beside it and may lie on a medium that takes no writing.
    mode = "mode=ro" if path.with_name(path.name + "-wal").exists() else "immutable=1"
    return _Closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?{mode}", uri=True))


@dataclass
class _Closing:
    """A connection that is closed at the end, in one read transaction: what is checked does not change meanwhile."""

    connection: sqlite3.Connection

    def __enter__(self) -> sqlite3.Connection:
        try:
            self.connection.isolation_level = None
            self.connection.execute("BEGIN")
        except sqlite3.Error:
            self.connection.close()
            raise
        return self.connection

    def __exit__(self, *_: object) -> None:
        self.connection.close()


@dataclass
class _Reading:
    """One pass over the entries: their leaves for the replay, and beside it what the other steps need."""

    connection: sqlite3.Connection
    sizes: Collection[int]  # of trees whose roots are asked for
    roots: dict[int, bytes] = field(default_factory=dict)
    odd: list[int] = field(default_factory=list)  # entries whose columns do not say what their leaf says

    def leaves(self) -> Iterator[bytes]:
        tree = Tree()
        self._note(tree)
        for place, (position, envelope, time, data, nodes) in enumerate(self.connection.execute(_ENTRIES)):
            if position != place:
                raise _tampered(f"Entry {place} is missing.")
            yield data  # the replay reads it first, so its form is known to be good afterwards
            tree, expected = tree.append(leaf_hash(data))
            signed, when = split_leaf(data)
            if (envelope, time, nodes) != (digest(signed), when, b"".join(expected)):
                self.odd.append(place)
            self._note(tree)

    def _note(self, tree: Tree) -> None:
        if tree.size in self.sizes:
            self.roots[tree.size] = tree.root()


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


def _same_tree(connection: sqlite3.Connection, tree: Tree, reading: _Reading) -> None:
    def fetch(nodes: Sequence[Node]) -> list[bytes]:
        found = []
        for row, level in (node_row(*node) for node in nodes):
            [stored] = connection.execute(_NODES, (row,)).fetchone()
            found.append(stored[level * HASH_BYTES : (level + 1) * HASH_BYTES])
        return found

    if Tree.restore(tree.size, fetch).root() != tree.root():
        raise _tampered("The stored hashes lead to another root than the leaves.")
    if reading.odd:
        raise _tampered(f"The columns beside entry {reading.odd[0]} do not say what the entry says.")


def _same_records(connection: sqlite3.Connection, replayed: Replayed) -> None:
    stored = {key: (kind, state, document) for key, kind, state, document in connection.execute(_RECORDS)}
    for key, record in replayed.records.items():
        if stored.pop(f"{key.kind}/{key.name}", None) != (key.kind, _state(record), record.document()):
            raise _tampered(f"The record {key.kind}/{key.name} is not what the ledger says.")
    if stored:
        raise _tampered(f"The record {min(stored)} stands on no entry of the ledger.")


def _state(record: Record) -> str | None:
    return str(record.state) if isinstance(record, CaseRecord) else None


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
