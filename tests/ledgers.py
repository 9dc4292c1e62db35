"""Ledgers that were played in memory by the rules alone, for tests of what stores and reads them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from sqlalchemy import RootTransaction
from sqlalchemy.exc import OperationalError
from support import LEDGER, World, contribution, document, gain, run_key, signer

from contracts import statements as st
from contracts.contract import Contract, drawn_up, validated
from contracts.entries import read_leaf
from escrow.ledger import Ledger


def banks(count: int) -> list[str]:
    return [f"bank-{number}" for number in range(count)]


def founded(names: Sequence[str]) -> World:
    """An open ledger, these parties admitted, each with a train and a holdout deposit."""
    world = World()
    world.submit(st.LedgerOpened(ledger=LEDGER, public_key=world.escrow.public))
    for name in names:
        world.admit(name)
        world.deposit(name)
    return world


def agreement(names: Sequence[str], **terms: object) -> Contract:
    """A contract of these parties, each contributing, receiving, and to gain."""
    whole = document(
        parties=list(names),
        contributions=[contribution(name) for name in names],
        recipients=[{"party": name} for name in names],
        release=[gain(name) for name in names],
        **terms,
    )
    return drawn_up(validated(whole), {name: signer(name).key_id for name in names})


def proposed(world: World, names: Sequence[str], title: str = "One") -> str:
    """Propose such a contract and open its run key; the contract's digest."""
    contract = agreement(names, title=title)
    world.submit(st.ContractProposed(ledger=LEDGER, party=names[0], contract=contract))
    world.submit(run_key(contract.digest()))
    return contract.digest()


def busy() -> World:
    """Three parties, a contract of each two that was released, rejected or is open, a standing rule, and a deposit
    that was revoked under two contracts at once.
    """
    names = banks(3)
    world = founded(names)
    first = proposed(world, names[:2], "first")
    world.approve(first, *names[:2])
    world.run(first)
    second = proposed(world, names[1:], "second")
    world.submit(st.ContractRejected(ledger=LEDGER, party=names[2], contract=second))
    for number in range(2):
        proposed(world, names, f"third, {number}")
    world.submit(st.DataRevoked(ledger=LEDGER, party=names[2], commitment=agreement(names).commitments()[-1]))
    fourth = proposed(world, names[:2], "fourth")
    world.approve(fourth, names[0])
    return world


@contextmanager
def answer_lost() -> Iterator[None]:
    """Meanwhile commits take effect, and then the connection breaks before anybody hears of it."""
    commit = RootTransaction.commit

    def committed(self: RootTransaction) -> None:
        commit(self)
        raise OperationalError("COMMIT", {}, ConnectionError("the line was cut"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RootTransaction, "commit", committed)
        yield


def fill(ledger: Ledger, world: World) -> None:
    """Append what was played."""
    for data in world.leaves[ledger.size() :]:
        ledger.append(*read_leaf(data))
