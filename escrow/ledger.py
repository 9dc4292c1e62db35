"""The ledger on SQL: every change of state is a signed statement, and a statement is one transaction.

`append` validates an envelope against the pure rules, adds it as a Merkle leaf and updates the tables, all or nothing.
It needs the same number of SQL statements whatever the number of parties, and the same time but for the length of the
records it writes. What was read or written lately is kept in memory (`escrow.cache`): nobody else writes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select

from contracts.entries import checked, leaf, read_leaf
from contracts.errors import EscrowError
from contracts.notes import Checkpoint, sign_note
from contracts.records import CaseRecord, DepositRecord, Key, Record, case_record
from contracts.rules import wanted
from contracts.signing import Envelope, Signer
from contracts.statements import Statement, read
from contracts.transparency import HASH_BYTES, Node, Tree, consistency_proof, inclusion_proof, leaf_hash, node_row
from escrow import rows
from escrow.cache import Cache, Nodes
from escrow.engine import Database
from escrow.migrations import migrate
from escrow.tables import entry_row, read_key


@dataclass(frozen=True)
class Appended:
    """Where a statement stands, and the records it changed (none if it stood there before)."""

    index: int
    time: int
    changed: tuple[Record, ...]


@dataclass(frozen=True)
class Happened:
    """A contract was proposed or changed."""

    index: int  # of the entry
    time: int
    kind: str  # of the statement
    contract: str


class _Noted(NamedTuple):
    """A head that was signed."""

    tree: Tree
    origin: str
    signer: Signer
    note: str


class Ledger:
    """One ledger in one database, of which this object is the only writer. Safe for threads: writers take turns,
    readers see committed entries only.
    """

    def __init__(self, url: str) -> None:
        """Open the database at a SQLAlchemy URL, with its tables made or brought up to date.

        Raises:
            EscrowError: `database-unsupported`, `database-unreachable`, `database-newer`, or `escrow-busy` if another
                process writes to it.
        """
        self.database = Database(url)
        self._cache, self._nodes = Cache(), Nodes()
        self._tree = Tree()  # of the committed entries
        self._noted: _Noted | None = None
        try:
            with self.writing() as connection:
                migrate(connection)
                self._standing(connection)
        except BaseException:
            self.database.close()
            raise
        self.database.discreet = True

    def close(self) -> None:
        """Give every connection back."""
        self.database.close()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that no other writer can come between."""
        with self.database.turn() as connection, connection.begin():
            yield connection

    def append(self, envelope: Envelope, now: int, statement: Statement | None = None) -> Appended:
        """Verify, validate, append and apply one statement in one transaction. Idempotent by the envelope's digest.

        Args:
            envelope: the signed statement.
            now: the clock, whole seconds since 1970; an entry is never earlier than the one before.
            statement: what `read` gave for the envelope's payload, if it was read before.

        Raises:
            EscrowError: the statement is refused, or `storage-full`, and nothing was stored; or `database-unreachable`,
                and whether it was stored is told by trying again.
        """
        with self.database.turn() as connection, connection.begin() as transaction:
            tree, clock = self._standing(connection)
            known = rows.first(connection, rows.KNOWN, digest=envelope.digest)
            if known:
                return Appended(known.position, known.time, ())
            statement = read(envelope.payload) if statement is None else statement
            records = self._wanted(connection, statement)
            entry, changed = checked(records, envelope, index=tree.size, time=max(now, clock), statement=statement)
            tree, nodes = add_entry(connection, tree, envelope, entry.time)
            kept = rows.store(connection, entry, changed)
            with self._cache.committing(kept):
                transaction.commit()
            self._nodes.put({entry.index: nodes})
            self._tree = tree
        return Appended(entry.index, entry.time, changed)

    def _standing(self, connection: Connection) -> tuple[Tree, int]:
        """The tree of all entries and the time of the last, for the writer; read anew if they are not those known."""
        last = rows.first(connection, rows.LAST)
        size = last.position + 1 if last else 0
        if self._tree.size != size:  # the outcome of a commit was unknown, or somebody else wrote
            self._cache.clear()
            self._nodes.clear()
            self._tree = Tree.restore(size, rows.fetcher(connection))
        return self._tree, last.time if last else 0

    def _wanted(self, connection: Connection, statement: Statement) -> dict[Key, Record]:
        """What the rules ask for: asked again, at most three times, until nothing new is named."""
        records: dict[Key, Record] = {}
        asked: set[Key] = set()
        while new := wanted(statement, records) - asked:
            asked |= new
            stamp, found = self._cache.get(new)
            if missing := new - found.keys():
                loaded = rows.load(connection, missing)
                self._cache.put(stamp, loaded)
                found |= {key: each.record for key, each in loaded.items()}
            records |= found
        return records

    def has(self, envelope: Envelope) -> bool:
        """Whether this very envelope stands on the ledger."""
        with self.database.reading() as connection:
            return rows.first(connection, rows.KNOWN, digest=envelope.digest) is not None

    def records(self, *keys: Key) -> dict[Key, Record]:
        """The named records that exist, all of one state."""
        stamp, found = self._cache.get(keys)
        missing = set(keys) - found.keys()
        if not missing:
            return found
        with self.database.reading() as connection:
            loaded = rows.load(connection, missing)
            if not self._cache.put(stamp, loaded) and found:  # what was found before may be older
                found, loaded = {}, rows.load(connection, set(keys))
        return found | {key: each.record for key, each in loaded.items()}

    def case(self, contract: str) -> CaseRecord:
        """A contract as it stands; `contract-unknown` if none has this digest."""
        return case_record(self.records(Key("case", contract)), contract)

    def all(self, kind: str, *, states: Sequence[str] = ()) -> list[Record]:
        """All records of a kind; contracts may be asked for by state."""
        return self._listed(rows.of_kind(kind, states))

    def cases(self, party: str) -> list[CaseRecord]:
        """The contracts of a party, by digest."""
        return [each for each in self._listed(rows.CASES, party=party) if isinstance(each, CaseRecord)]

    def unsettled(self) -> list[CaseRecord]:
        """The contracts that something may still happen to, by digest: all but those whose run key is erased."""
        return [each for each in self._listed(rows.UNSETTLED) if isinstance(each, CaseRecord)]

    def deposits(self, party: str) -> list[DepositRecord]:
        """The deposits of a party, by commitment."""
        return [each for each in self._listed(rows.DEPOSITS, party=party) if isinstance(each, DepositRecord)]

    def _listed(self, query: Select[Any], **values: object) -> list[Record]:
        """The records of a query, parsed only if they are not in the cache."""
        stamp = self._cache.stamp()
        with self.database.reading() as connection:
            documents = {read_key(row.key): bytes(row.document) for row in connection.execute(query, values)}
        known = self._cache.unchanged(stamp, documents)
        loaded = {key: rows.kept(key, data) for key, data in documents.items() if key not in known}
        self._cache.put(stamp, loaded)
        return [known[key] if key in known else loaded[key].record for key in documents]

    def events(self, party: str, since: int, limit: int) -> list[Happened]:
        """What happened to the contracts of a party, in the ledger's order.

        Args:
            party: whose contracts.
            since: index of the first entry that may be among them.
            limit: how many entries at most. Each comes whole, with all the contracts that it changed: what follows
                begins after the last one's index.
        """
        values = {"party": party, "since": rows.bounded(since), "limit": limit}
        with self.database.reading() as connection:
            return [Happened(*row) for row in connection.execute(rows.HAPPENED, values)]

    def documents(self) -> dict[Key, bytes]:
        """Every row of the read table, for comparison with a replay."""
        with self.database.reading() as connection:
            return {read_key(row.key): bytes(row.document) for row in connection.execute(rows.DOCUMENTS)}

    def size(self) -> int:
        """How many entries stand on the ledger."""
        return self._tree.size

    def leaves(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The leaves from `start` up to, not including, `stop`, in the order of the ledger."""
        with self.database.reading() as connection:
            yield from rows.leaves(connection, start, stop)

    def envelopes(self, indexes: Sequence[int]) -> list[Envelope]:
        """The envelopes at the given places, in that order."""
        with self.database.reading() as connection:
            found = {row.position: row.leaf for row in connection.execute(rows.PLACED, {"positions": indexes})}
        return [read_leaf(bytes(found[index])).envelope for index in indexes]

    def checkpoint(self, origin: str) -> Checkpoint:
        """The ledger's head: origin, size and root."""
        tree = self._tree
        return Checkpoint(origin, tree.size, tree.root())

    def root(self, size: int) -> bytes:
        """The root over the first `size` entries, 32 bytes.

        Raises:
            EscrowError: `proof-invalid` if there are fewer.
        """
        self._require(size)
        return Tree.restore(size, self._fetch).root()

    def head(self, origin: str, signer: Signer) -> str:
        """The head as a signed note. Signatures are deterministic: one head, one note, signed once."""
        return self._note(self._tree, origin, signer)

    def _note(self, tree: Tree, origin: str, signer: Signer) -> str:
        noted = self._noted
        if noted is None or noted.tree is not tree or noted.origin != origin or noted.signer is not signer:
            note = sign_note(Checkpoint(origin, tree.size, tree.root()), origin, signer)
            self._noted = noted = _Noted(tree, origin, signer, note)
        return noted.note

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """Proof that entry `index` stands in the tree of the first `size` entries.

        Raises:
            EscrowError: `proof-invalid` if there is no such entry, or are fewer entries.
        """
        self._require(size)
        return inclusion_proof(index, size, self._fetch)

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """Proof that the first `new` entries begin with the first `old` ones.

        Raises:
            EscrowError: `proof-invalid` if `old` is beyond `new`, or there are fewer entries than `new`.
        """
        self._require(new)
        return consistency_proof(old, new, self._fetch)

    def _require(self, size: int) -> None:
        if size > self._tree.size:
            raise EscrowError("proof-invalid", f"The ledger has {self._tree.size} entries, fewer than {size}.")

    def _fetch(self, nodes: Sequence[Node]) -> list[bytes]:
        """The hashes of subtrees: those near the ledger's end, and those that all proofs share, are in memory."""
        places = [node_row(*node) for node in nodes]
        wanted = {row for row, _ in places}
        held = self._nodes.get(wanted)
        if missing := wanted - held.keys():
            with self.database.reading() as connection:
                loaded = rows.nodes(connection, missing)
            self._nodes.put(loaded)
            held |= loaded
        return [held[row][level * HASH_BYTES : (level + 1) * HASH_BYTES] for row, level in places]


def add_entry(connection: Connection, tree: Tree, envelope: Envelope, time: int) -> tuple[Tree, bytes]:
    """Put a checked envelope after the `tree` of all entries before it; the tree with it, and what ends with it."""
    data = leaf(envelope, time)
    grown, nodes = tree.append(leaf_hash(data))
    row = entry_row(tree.size, envelope.digest, time, data, nodes)
    rows.store_entry(connection, row)
    return grown, row["nodes"]


__all__ = ["Appended", "Happened", "Ledger", "add_entry"]
