"""How many contracts a bank's machine serves at once: each node takes a place before it says that it is there.

An escrow begins no run whose nodes are not all there, and a node that is there is expected to answer in time. So who
has no place yet must not say so.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

IDLE_SECONDS: Final = 30.0
"""For which a contract that has not begun keeps a place that others wait for: its other banks may not be there."""


class Places:
    """So many places, given in the order in which they were asked for. Safe for threads."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._waiting: deque[object] = deque()
        self._change = threading.Condition()

    @property
    def scarce(self) -> bool:
        """Whether whoever asks now waits, or somebody does."""
        with self._change:
            return self._free == 0 or bool(self._waiting)

    @property
    def wanted(self) -> bool:
        """Whether somebody waits."""
        with self._change:
            return bool(self._waiting)

    def take(self, still: Callable[[], bool]) -> bool:
        """Wait for a place as long as it is `still` wanted; whether it was got. Who stops wanting it calls `wake`."""
        me = object()
        with self._change:
            self._waiting.append(me)
            self._change.wait_for(lambda: not still() or (self._free > 0 and self._waiting[0] is me))
            self._waiting.remove(me)
            got = still()
            self._free -= got
            self._change.notify_all()
            return got

    def give(self) -> None:
        """Give a place back."""
        with self._change:
            self._free += 1
            self._change.notify_all()

    def wake(self) -> None:
        """Somebody does not want a place any more."""
        with self._change:
            self._change.notify_all()


class Seat:
    """One contract's place. One thread takes and leaves it; another may ask, and set `yielded`.

    Attributes:
        yielded: whether it is about to be left for others.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._taken = False
        self._since = 0.0  # when it was taken, or its last attempt ended
        self.yielded = False

    @property
    def waits(self) -> bool:
        """Whether to take it now is to wait."""
        return not self._taken and self._places.scarce

    @property
    def to_yield(self) -> bool:
        """Whether it has been idle for long, if it is, and others wait."""
        idle = self._taken and not self.yielded and time.monotonic() - self._since >= IDLE_SECONDS
        return idle and self._places.wanted

    def take(self, still: Callable[[], bool]) -> None:
        """Have it, or wait for it as long as it is `still` wanted."""
        if not self._taken:
            self._taken = self._places.take(still)
            self.rest()

    def rest(self) -> None:
        """It is idle from now on."""
        self._since = time.monotonic()

    def leave(self) -> None:
        """Give it back, if it was taken."""
        taken, self._taken, self.yielded = self._taken, False, False
        if taken:
            self._places.give()


__all__ = ["Places", "Seat"]
