"""What the nodes of a bank share: how they reach the escrow, where their workers run, and who hears what happens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from contracts.contract import Contract
from contracts.terms import Digest
from escrow.runtime.base import Runtime
from parties.client import Client
from parties.places import Places

MEMORY_MIB: Final = 4096


class Session(NamedTuple):
    """A connection to the escrow, and what ends it, from any thread."""

    client: Client
    close: Callable[[], object]


@dataclass(frozen=True)
class News:
    """Something that a node tells.

    Attributes:
        contract: digest of the contract that it is about.
        kind: `waiting`, `queued`, `begun`, `round`, `failed`, `over` or `reconnecting`.
        words: for people.
        data: for programs.
    """

    contract: Digest
    kind: str
    words: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Conditions:
    """Under which the nodes of a bank run.

    Attributes:
        dial: makes a session with the escrow.
        runtime: finds what runs a contract's worker, and refuses one that is another (`parties.premises`).
        now: tells whole seconds since 1970.
        news: hears what happens; called in the nodes' threads.
        places: that contracts take.
        memory_mib: that a worker may use.
        patience: seconds without a connection after which a node gives up; None never does.
    """

    dial: Callable[[], Session]
    runtime: Callable[[Contract], Runtime]
    now: Callable[[], int]
    news: Callable[[News], object]
    places: Places = field(default_factory=lambda: Places(1))
    memory_mib: int = MEMORY_MIB
    patience: float | None = None


__all__ = ["MEMORY_MIB", "Conditions", "News", "Session"]
