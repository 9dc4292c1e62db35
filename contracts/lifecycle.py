"""The states of a contract and the one table of transitions between them.

`diagram()` draws the table; the README's picture is generated from it and a test keeps them equal.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class State(StrEnum):
    """Where a contract stands. Terminal is terminal."""

    PROPOSED = "proposed"  # on the ledger; the escrow has yet to open its run key
    OPEN = "open"  # parties may approve or reject
    APPROVED = "approved"  # everyone approved these bytes; the escrow may start a run
    RUNNING = "running"  # sealed stages are under way
    RELEASING = "releasing"  # every clause held; packages are being made
    RELEASED = "released"  # recipients may collect
    HELD = "held"  # a capsule has run; its outputs wait to be vetted
    WITHHELD = "withheld"  # a clause failed or could not be decided, and no run is left
    REJECTED = "rejected"  # a party said no
    WITHDRAWN = "withdrawn"  # the proposer took it back
    HALTED = "halted"  # a party stopped it, revoked its data or lost its admission
    EXPIRED = "expired"  # its time ran out
    FAILED = "failed"  # no run is left and the last one ended without a verdict


TERMINAL: Final = frozenset(
    {State.RELEASED, State.WITHHELD, State.REJECTED, State.WITHDRAWN, State.HALTED, State.EXPIRED, State.FAILED}
)


class Event(StrEnum):
    """What happens to a contract. Mostly a statement's kind; where its content matters, one event for each meaning.

    No colon in a name: many Mermaid versions cannot read one in a label.
    """

    RUN_KEY_OPENED = "run-key-opened"
    LAST_APPROVAL = "last approval"
    REJECTED = "contract-rejected"
    WITHDRAWN = "contract-withdrawn"
    HALTED = "contract-halted, data or party revoked"
    EXPIRED = "contract-expired"
    RUN_STARTED = "run-started"
    DECIDED_RELEASED = "run-decided (released)"
    DECIDED_WITHHELD = "run-decided (withheld or undecided)"
    DECIDED_HELD = "run-decided (held)"
    FAILED = "run-failed"
    FAILED_LAST = "run-failed, no run left"
    WITHHELD_LAST = "run-decided (withheld or undecided), no run left"
    RELEASED = "run-released"


_UNFINISHED: Final = (State.PROPOSED, State.OPEN, State.APPROVED, State.RUNNING, State.HELD, State.RELEASING)

TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = MappingProxyType(
    {
        (State.PROPOSED, Event.RUN_KEY_OPENED): State.OPEN,
        (State.OPEN, Event.LAST_APPROVAL): State.APPROVED,
        (State.PROPOSED, Event.REJECTED): State.REJECTED,
        (State.OPEN, Event.REJECTED): State.REJECTED,
        (State.PROPOSED, Event.WITHDRAWN): State.WITHDRAWN,
        (State.OPEN, Event.WITHDRAWN): State.WITHDRAWN,
        (State.APPROVED, Event.RUN_STARTED): State.RUNNING,
        (State.RUNNING, Event.DECIDED_RELEASED): State.RELEASING,
        (State.RUNNING, Event.DECIDED_WITHHELD): State.APPROVED,
        (State.RUNNING, Event.DECIDED_HELD): State.HELD,
        (State.RUNNING, Event.WITHHELD_LAST): State.WITHHELD,
        (State.RUNNING, Event.FAILED): State.APPROVED,
        (State.RUNNING, Event.FAILED_LAST): State.FAILED,
        (State.RELEASING, Event.FAILED): State.APPROVED,
        (State.RELEASING, Event.FAILED_LAST): State.FAILED,
        (State.RELEASING, Event.RELEASED): State.RELEASED,
        **{(state, Event.HALTED): State.HALTED for state in _UNFINISHED},
        **{(state, Event.EXPIRED): State.EXPIRED for state in _UNFINISHED},
    }
)


def after(state: State, event: Event) -> State | None:
    """The state after `event`, or None where the table has no such transition."""
    return TRANSITIONS.get((state, event))


def diagram() -> str:
    """The transition table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.PROPOSED}"]
    lines += [f"    {before} --> {then}: {event}" for (before, event), then in TRANSITIONS.items()]
    lines += [f"    {state} --> [*]" for state in State if state in TERMINAL]
    return "\n".join(lines)
