"""Every wait has a reason and an owner: whose turn it is in each state of a contract."""

from contracts.lifecycle import State
from contracts.records import CaseRecord
from contracts.terms import Name

ESCROW = "escrow"


def turn(case: CaseRecord) -> tuple[Name, ...]:
    """Who has to act next; nobody when the contract has ended and its key is erased."""
    if case.state is State.OPEN:
        return tuple(case.missing())
    if case.ended and case.key_erased:
        return ()
    return (ESCROW,)
