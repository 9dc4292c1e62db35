"""How long a bank goes on when a stream is cut off, or its escrow is away, and where it goes on."""

import threading
import time
from collections.abc import Callable
from typing import Final

from contracts.api import Event
from contracts.errors import EscrowError

ATTEMPTS: Final = 5  # of a stream that makes no progress in between
PAUSE_SECONDS: Final = 0.2  # before the second attempt; then three times as long each time
STEADY_SECONDS: Final = 30.0  # a connection that held so long was none that failed
BUSY_SECONDS: Final = 150.0  # the escrow gives the place of a transfer whose line is dead back after 60 to 120
BUSY_PAUSE_SECONDS: Final = 5.0
_TRIED_AGAIN: Final = frozenset({"escrow-unreachable", "upload-stalled"})
_COMES_BACK: Final = frozenset({"escrow-unreachable", "escrow-slow", "escrow-crowded", "quota-exceeded"})
LONGEST_PAUSE_SECONDS: Final = 30.0

Warn = Callable[[str], object]
"""Hears a sentence about what went wrong and is no reason to stop."""


def unwarned(_: str) -> None:
    """Nobody listens."""


class Place:
    """Where a listener is. One entry may change several contracts, so listening goes on at the entry heard last.

    Attributes:
        since: the ledger index to listen from.
    """

    def __init__(self, since: int) -> None:
        self.since = since
        self._contracts: set[str] = set()  # of which that entry was heard

    def moves(self, event: Event) -> bool:
        """Whether this event was not heard before; now it was."""
        if event.index > self.since:
            self.since, self._contracts = event.index, set()
        if event.index < self.since or event.contract in self._contracts:
            return False
        self._contracts.add(event.contract)
        return True


class Patience:
    """Counts how often a stream was cut off without progress, and waits a while before the next attempt.

    Where an earlier transfer of the same upload still has the place, it is waited for as long as the escrow may take to
    notice that its line is dead.
    """

    def __init__(self, ended: threading.Event, warn: Warn = unwarned) -> None:
        self._ended, self._warn = ended, warn
        self._place, self._failed = -1, 0
        self._begun: float | None = None  # when the stream that goes on did
        self._busy = 0.0  # seconds waited for the place

    def at(self, place: int) -> None:
        """Where the stream goes on."""
        if place > self._place:
            self._place, self._failed = place, 0
        self._begun = time.monotonic()

    def again(self, error: EscrowError) -> None:
        """Wait, and try again after a lost connection, or give up and raise the error."""
        if error.code == "upload-busy" and self._busy < BUSY_SECONDS:
            self._wait_for_place()
            return
        if self._begun is not None and time.monotonic() - self._begun > STEADY_SECONDS:
            self._failed = 0
        self._begun = None
        self._failed += 1
        if error.code not in _TRIED_AGAIN or self._failed == ATTEMPTS:
            raise error
        self._ended.wait(PAUSE_SECONDS * 3 ** (self._failed - 1))

    def _wait_for_place(self) -> None:
        if not self._busy:
            self._warn(
                "The escrow still holds the place of an earlier transfer of this file;"
                f" waiting until it gives it back, at most {BUSY_SECONDS:.0f} s."
            )
        self._ended.wait(BUSY_PAUSE_SECONDS)
        self._busy += BUSY_PAUSE_SECONDS


class Persistence:
    """How long a bank's node waits before it connects anew: longer each time, from the first while all goes well.

    Args:
        at_most: seconds without a connection after which it gives up; None never does.
    """

    def __init__(self, at_most: float | None = None) -> None:
        self._at_most = at_most
        self._failed = 0
        self._since: float | None = None  # when the first of these failures was

    def well(self) -> None:
        """The escrow answered."""
        self._failed, self._since = 0, None

    def pause(self, error: EscrowError) -> float:
        """Seconds to wait before the next connection; raises the error if none is to be made any more."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        gone = now - self._since
        if error.code not in _COMES_BACK or (self._at_most is not None and gone >= self._at_most):
            raise error
        self._failed += 1
        return min(PAUSE_SECONDS * 2.0 ** min(self._failed - 1, 10), LONGEST_PAUSE_SECONDS)
