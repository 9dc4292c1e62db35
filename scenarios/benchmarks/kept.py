"""What stands on a ledger after a benchmark, against what banks were told: nothing may be lost, nothing doubled."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from contracts.entries import Leaf, read_leaf
from contracts.statements import ContractProposed, read
from escrow.home import database_url
from escrow.ledger import Ledger


class Told(NamedTuple):
    """What one bank was told."""

    acknowledged: list[tuple[int, str]]  # place and envelope digest of each statement, from its receipt
    seen: list[tuple[int, str]]  # place and contract of each event that its watcher saw, in that order


class Kept(NamedTuple):
    """How often the ledger and what banks were told disagree."""

    lost: int
    doubled: int


def kept(directory: Path, banks: Mapping[str, Told]) -> Kept:
    """Compare the ledger of an escrow that is not being served with what each bank was told, by name."""
    leaves = entries(directory)
    happened = _happened(leaves)
    lost = doubled = 0
    for name, told in banks.items():
        lost += sum(not _stands(leaves, *each) for each in set(told.acknowledged))
        lost += len(happened.get(name, set()) - set(told.seen))
        doubled += len(told.seen) - len(set(told.seen))
        doubled += len(set(told.acknowledged)) - len({digest for _, digest in told.acknowledged})
    return Kept(lost, doubled + len(leaves) - len({leaf.envelope.payload for leaf in leaves}))


def entries(directory: Path) -> list[Leaf]:
    """All entries of an escrow that is not being served."""
    ledger = Ledger(database_url(directory))
    try:
        return [read_leaf(data) for data in ledger.leaves()]
    finally:
        ledger.close()


def _stands(leaves: list[Leaf], index: int, digest: str) -> bool:
    return index < len(leaves) and leaves[index].envelope.digest == digest


def _happened(leaves: Iterable[Leaf]) -> dict[str, set[tuple[int, str]]]:
    """What concerned each party's contracts, found in the entries themselves and not in the tables beside them."""
    parties: dict[str, list[str]] = {}
    found: dict[str, set[tuple[int, str]]] = {}
    for index, leaf in enumerate(leaves):
        statement = read(leaf.envelope.payload)
        if isinstance(statement, ContractProposed):
            name = statement.contract.digest()
            parties[name] = statement.contract.names()
        else:
            name = getattr(statement, "contract", "")
        for party in parties.get(name, ()):
            found.setdefault(party, set()).add((index, name))
    return found
