"""Who may act when, among the threads of one escrow.

1. A contract has one run at a time.
2. All runs together have no more jobs than the runtime can take; who finds no place waits for one. A gang has one
   place, however many jobs it is: they wait for each other most of the time, and two gangs that each held half of the
   places would do so for ever.
3. What gives plaintext to a job, or keeps what a run made, holds the contract's guard and looks at the ledger first. So
   does what destroys it when the contract has ended: once a halt is answered, nothing of the contract starts any more.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from contracts.errors import EscrowError
from escrow.runtime.locks import Locks


class Turns:
    """Shared by everything that runs contracts with one runtime."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._running: set[str] = set()
        self._guards = Locks()
        self._jobs = 0

    @contextmanager
    def running(self, contract: str) -> Iterator[None]:
        """The one run of a contract.

        Raises:
            EscrowError: `runtime-busy` if another thread runs it.
        """
        with self._change:
            if contract in self._running:
                raise EscrowError("runtime-busy", "A run of this contract is under way already.")
            self._running.add(contract)
        try:
            yield
        finally:
            with self._change:
                self._running.remove(contract)

    def guard(self, contract: str) -> threading.RLock:
        """The lock on what a contract's run holds."""
        return self._guards.of(contract)

    def take_place(self, capacity: int, seconds: float) -> bool:
        """A place for one job, or one gang, among `capacity`; False if none became free for so long."""
        with self._change:
            free = self._change.wait_for(lambda: self._jobs < capacity, seconds)
            self._jobs += free
            return free

    def give_place(self) -> None:
        """The job, or the gang, is gone from the machine."""
        with self._change:
            self._jobs -= 1
            self._change.notify()
