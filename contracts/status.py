"""Every wait has a reason and an owner: whose turn it is in each state of a contract."""

from collections.abc import Sequence
from typing import Final

from contracts.lifecycle import State
from contracts.records import CaseRecord
from contracts.terms import Name

ESCROW = "escrow"
NODES: Final = "nodes"
"""The reason for which a contract waits while a node is missing that it needs: that stands on no ledger."""


def turn(case: CaseRecord) -> tuple[Name, ...]:
    """Who has to act next; nobody when the contract has ended and its key is erased."""
    if case.state is State.OPEN:
        return tuple(case.missing())
    if case.ended and case.key_erased:
        return ()
    return (ESCROW,)


def waits(case: CaseRecord, missing: Sequence[Name]) -> tuple[str, tuple[Name, ...]]:
    """Why a contract waits, and whose turn it is, where the nodes of the parties `missing` are not connected."""
    if missing and _needs_nodes(case):
        return NODES, tuple(missing)
    return case.reason, turn(case)


def _needs_nodes(case: CaseRecord) -> bool:
    """Whether nothing goes on without them: no run begins, and none that has come to its training goes on."""
    due = next((stage for stage in case.contract.stages() if stage not in case.stages), None)
    return case.state is State.APPROVED or (case.state is State.RUNNING and due == "train")
