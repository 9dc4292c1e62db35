"""What the parties have deposited, read from the ledger by somebody who wants to draw a contract up with them.

Every party may read the ledger. Its entries are replayed, each signature and rule checked, and must lead to a head that
this bank has verified: nothing below it can be changed or left out, and each deposit is signed with the key that its
party was admitted with.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from contracts.api import Escrow
from contracts.entries import steps
from contracts.errors import EscrowError
from contracts.ledgerfile import fits
from contracts.notes import Checkpoint
from contracts.records import DepositRecord, Key, PartyRecord, Record
from contracts.statements import DataDeposited
from contracts.terms import Commitment, Digest, Name
from contracts.transparency import Tree
from parties.sealing import Part

PAGE: Final = 1000


class Offer(NamedTuple):
    """A deposit that stands on the ledger and was not revoked."""

    party: Name
    part: Part
    commitment: Commitment
    schema: Digest | None  # of what a joint training uses
    rows: int | None
    positives: int | None
    entry: int  # where it was stated on the ledger; a later one has a larger
    looks: int  # runs started over it as a holdout
    kept: bool = False  # the rows stay with the party


def leaves(escrow: Escrow, size: int, start: int = 0) -> Iterator[bytes]:
    """The ledger's entries from `start` to `size`, exclusive, a page at a time.

    Raises:
        EscrowError: `ledger-tampered` if the escrow does not show as many as its head has.
    """
    while start < size:
        page = escrow.entries(start, min(size, start + PAGE))
        if not page:
            raise EscrowError("ledger-tampered", f"The escrow shows {start} of the {size} entries its head stands for.")
        yield from page
        start += len(page)


def offers(ledger: Iterable[bytes], *, key: str, head: Checkpoint) -> dict[Name, tuple[Offer, ...]]:
    """What each party that was not revoked has deposited and not revoked, oldest first.

    Args:
        ledger: all entries under the head, as `leaves` fetches them.
        key: the pinned public key of the ledger.
        head: the checkpoint that the entries must lead to.

    Raises:
        EscrowError: `ledger-tampered` if the entries do not replay, or not to this head.
    """
    records: dict[Key, Record] = {}
    stated: dict[Commitment, int] = {}  # in the ledger's order
    tree = Tree()
    for step in steps(ledger, records, key=key):
        tree = step.tree
        if isinstance(step.entry.statement, DataDeposited):
            stated[step.entry.statement.commitment] = step.entry.index
    fits(head, tree)
    offered: defaultdict[Name, list[Offer]] = defaultdict(list)
    for commitment, entry in stated.items():
        deposit = records[Key("deposit", commitment)]
        if isinstance(deposit, DepositRecord) and not deposit.revoked:
            owner = records[Key("party", deposit.stated.party)]
            if isinstance(owner, PartyRecord) and not owner.revoked:
                offered[deposit.stated.party].append(_offer(deposit, entry))
    return {party: tuple(each) for party, each in offered.items()}


def _offer(record: DepositRecord, entry: int) -> Offer:
    stated = record.stated
    return Offer(
        party=stated.party,
        part=stated.part,
        commitment=stated.commitment,
        schema=stated.data_schema,
        rows=stated.rows,
        positives=stated.positives,
        entry=entry,
        looks=record.looks,
        kept=stated.blob is None,
    )
