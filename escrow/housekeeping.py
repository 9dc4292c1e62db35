"""What an escrow clears away from time to time: abandoned uploads, and encrypted files that nothing names any more.

A file is needed while a statement gives it a meaning: the deposits that were not revoked or that an unfinished contract
uses, and every released package. Others are deleted once they are older than any file that may still wait for its
statement (`escrow.vault.WAIT`).
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from contracts.lifecycle import State
from contracts.records import CaseRecord, DepositRecord
from contracts.terms import Digest
from escrow.core import Core
from escrow.ledger import Ledger


@dataclass(frozen=True)
class Housekeeping:
    """Of one escrow. `paused` keeps deletions away while somebody copies."""

    core: Core
    storage_clock: Callable[[], float] = time.time  # by which files are dated, not the escrow's own clock
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Meanwhile no file is deleted."""
        with self._turn:
            yield

    def tidy(self) -> tuple[Digest, ...]:
        """Clear away what is no longer needed; the files that were deleted: none while they are paused."""
        if not self._turn.acquire(blocking=False):
            return ()
        try:
            now = self.storage_clock()
            deposits = [each for each in self.core.ledger.all("deposit") if isinstance(each, DepositRecord)]
            self.core.uploads.sweep(now, _blobs(deposits))
            old = self.core.vault.unclaimed(needed(self.core.ledger), now)
            late = needed(self.core.ledger) if old else frozenset()  # a statement may have come while we looked
            gone = tuple(each for each in old if each not in late)
            for blob in gone:
                self.core.vault.delete(blob)
            return gone
        finally:
            self._turn.release()


def needed(ledger: Ledger) -> frozenset[Digest]:
    """The encrypted files that the ledger gives a meaning."""
    deposits = [each for each in ledger.all("deposit") if isinstance(each, DepositRecord)]
    released = [each for each in ledger.all("case", states=[State.RELEASED]) if isinstance(each, CaseRecord)]
    stated = _blobs(each for each in deposits if each.contracts or not each.revoked)
    return frozenset(stated | {blob for case in released for blob in case.packages.values()})


def _blobs(deposits: Iterable[DepositRecord]) -> set[Digest]:
    """The files of these deposits; rows that stay with their party have none here."""
    return {each.stated.blob for each in deposits if each.stated.blob is not None}


__all__ = ["Housekeeping", "needed"]
