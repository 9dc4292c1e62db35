"""Who waits for what happens to a contract, among the threads of one escrow.

A listener is woken, never fed: what happened it reads from the ledger, so nothing is lost or doubled, however slow it
is. A party has a bounded number of listeners.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Self

from contracts.api import Event
from contracts.errors import EscrowError

LISTENERS_AT_MOST: Final = 8  # of one party


class Ear:
    """One listener: `wait` returns once something happened after the last `clear`, or the ear was closed."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._closed = threading.Event()

    def clear(self) -> None:
        """Forget what was heard; called before looking at the ledger."""
        self._event.clear()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether to go on: False once the ear is closed. Returns after `seconds` at the latest."""
        if not self._closed.is_set():
            self._event.wait(seconds)
        return not self._closed.is_set()

    def hear(self) -> None:
        """Something happened."""
        self._event.set()

    def close(self) -> None:
        """Stop listening; may be called from any thread."""
        self._closed.set()
        self._event.set()


class Hub:
    """Listeners by party. The listener of nobody in particular (`None`) hears everything."""

    def __init__(self) -> None:
        self._change = threading.Lock()
        self._ears: dict[str | None, list[Ear]] = {}
        self._closed = False

    def listen(self, party: str | None) -> Ear:
        """A new listener.

        Raises:
            EscrowError: `quota-exceeded` if the party has too many.
        """
        ear = Ear()
        with self._change:
            ears = self._ears.setdefault(party, [])
            if party is not None and len(ears) >= LISTENERS_AT_MOST:
                raise EscrowError("quota-exceeded", f"{party} watches {LISTENERS_AT_MOST} times already.")
            ears.append(ear)
            if self._closed:
                ear.close()
        return ear

    def leave(self, party: str | None, ear: Ear) -> None:
        """The listener is gone."""
        with self._change:
            self._ears[party].remove(ear)

    def tell(self, parties: Iterable[str]) -> None:
        """Something happened that concerns these parties."""
        with self._change:
            for party in {*parties, None}:
                for ear in self._ears.get(party, ()):
                    ear.hear()

    def close(self) -> None:
        """Everyone stops listening, also who comes later."""
        with self._change:
            self._closed = True
            for ears in self._ears.values():
                for ear in ears:
                    ear.close()


class Watching(Iterator[Event]):
    """What happens to a party's contracts, from a ledger index on. `close` ends it, from any thread."""

    def __init__(self, hub: Hub, party: str, since: int, look: Callable[[int], list[Event]]) -> None:
        self._hub, self._party, self._since, self._look = hub, party, since, look
        self._ear: Ear | None = hub.listen(party)
        self._waiting: list[Event] = []  # the next one last

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        while not self._waiting:
            ear = self._ear
            if ear is None:
                raise StopIteration
            ear.clear()
            self._waiting = self._look(self._since)[::-1]
            if not self._waiting and not ear.wait():
                self.leave()
        event = self._waiting.pop()
        self._since = event.index + 1
        return event

    def close(self) -> None:
        """Wake whoever waits in `next`, which ends."""
        ear = self._ear
        if ear is not None:
            ear.close()

    def leave(self) -> None:
        """Give the place back; called by the thread that iterates."""
        ear, self._ear = self._ear, None
        if ear is not None:
            self._hub.leave(self._party, ear)
