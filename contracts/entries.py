"""Ledger entries as bytes: one signed statement and the time at which the escrow accepted it.

A leaf of the Merkle tree is the canonical JSON `{"envelope": <DSSE envelope>, "time": <seconds since 1970>}`, so the
tree head covers the statement, its signature and the escrow's clock.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from contracts.errors import EscrowError
from contracts.records import Entry, Key, Record, Records
from contracts.rules import apply, authority
from contracts.signing import Envelope, verify
from contracts.statements import LedgerOpened, Statement, read
from contracts.transparency import Tree, leaf_hash

_HEAD, _TIME, _END = b'{"envelope":', b',"time":', b"}"


def leaf(envelope: Envelope, time: int) -> bytes:
    """The bytes that stand on the ledger; canonical, as the keys are in order and the envelope is canonical."""
    return _HEAD + envelope.to_bytes() + _TIME + str(time).encode() + _END


Verifier = Callable[[Envelope, str], None]
"""Checks an envelope's signature against a public key: `contracts.signing.verify`, or one that does it elsewhere."""


class Leaf(NamedTuple):
    """What a leaf holds."""

    envelope: Envelope
    time: int


def split_leaf(data: bytes) -> tuple[bytes, int]:
    """The bytes of a leaf's envelope, not looked into, and its time.

    Raises:
        EscrowError: `ledger-tampered` if the bytes around them are not exactly what `leaf` writes.
    """
    middle = data.rfind(_TIME)
    text = data[middle + len(_TIME) : -1].decode("ascii", "replace")
    known = data.startswith(_HEAD) and data.endswith(_END) and middle > 0
    if not (known and text.isdecimal() and len(text) < 16 and text == str(int(text))):
        raise EscrowError("ledger-tampered", "A ledger entry is malformed.")
    return data[len(_HEAD) : middle], int(text)


def read_leaf(data: bytes) -> Leaf:
    """The envelope and time of a leaf.

    Raises:
        EscrowError: as `split_leaf`, or what `Envelope.from_bytes` raises for the envelope, whose form is strict.
    """
    envelope, time = split_leaf(data)
    return Leaf(Envelope.from_bytes(envelope), time)


def checked(
    records: Records,
    envelope: Envelope,
    *,
    index: int,
    time: int,
    key: str | None = None,
    statement: Statement | None = None,
    verifier: Verifier = verify,
) -> tuple[Entry, tuple[Record, ...]]:
    """The entry an envelope makes and the records it changes, every rule applied and the signature verified first.

    Args:
        records: everything `contracts.rules.wanted` names.
        envelope: whose signature has not been verified yet.
        index: its place on the ledger.
        time: the escrow's clock, whole seconds since 1970.
        key: the pinned public key of the ledger, if the first entry is to be checked against one.
        statement: what `read` gave for the envelope's payload, if it was read before.
        verifier: checks the signature, or sees to it that it is checked before anybody relies on the result.
    """
    statement = read(envelope.payload) if statement is None else statement
    if isinstance(statement, LedgerOpened) and key not in (None, statement.public_key):
        raise EscrowError("ledger-tampered", "The ledger was opened with another key than the pinned one.")
    verifier(envelope, authority(records, statement))
    entry = Entry(index=index, time=time, statement=statement)
    return entry, apply(records, entry)


class Step(NamedTuple):
    """One entry of a replay: what it is, what it changed, and the tree that ends with it."""

    entry: Entry
    data: bytes  # the leaf
    envelope: bytes  # as it stands in the leaf
    changed: tuple[Record, ...]
    tree: Tree
    nodes: tuple[bytes, ...]  # hashes of the complete subtrees that end here


class Replayed(NamedTuple):
    """What replaying a ledger yields."""

    records: dict[Key, Record]
    tree: Tree
    time: int  # of the last entry


def steps(
    leaves: Iterable[bytes], records: dict[Key, Record], *, key: str | None = None, verifier: Verifier = verify
) -> Iterator[Step]:
    """Every entry from the first, each verified and applied; needs the ledger and nothing else.

    Args:
        leaves: in the ledger's order.
        records: where the records are kept; empty, and after each step as of its entry.
        key: the pinned public key of the ledger, if there is one.
        verifier: as for `checked`.

    Raises:
        EscrowError: `ledger-tampered` at the first entry that is malformed, badly signed, out of time or refused.
    """
    tree, clock = Tree(), 0
    for index, data in enumerate(leaves):
        try:
            envelope, time = split_leaf(data)
            signed = Envelope.from_bytes(envelope)
            entry, changed = checked(records, signed, index=index, time=time, key=key, verifier=verifier)
        except EscrowError as error:
            raise EscrowError("ledger-tampered", f"Entry {index} is refused ({error.code}): {error.message}") from error
        if time < clock:
            raise EscrowError("ledger-tampered", f"Entry {index} is earlier than the entry before it.")
        clock = time
        records.update({record.key(): record for record in changed})
        tree, nodes = tree.append(leaf_hash(data))
        yield Step(entry, data, envelope, changed, tree, nodes)


def replay(leaves: Iterable[bytes], *, key: str | None = None, verifier: Verifier = verify) -> Replayed:
    """What all the entries come to.

    Raises:
        EscrowError: as `steps`.
    """
    records: dict[Key, Record] = {}
    tree, clock = Tree(), 0
    for step in steps(leaves, records, key=key, verifier=verifier):
        tree, clock = step.tree, step.entry.time
    return Replayed(records, tree, clock)


__all__ = ["Leaf", "Replayed", "Step", "checked", "leaf", "read_leaf", "replay", "split_leaf", "steps"]
