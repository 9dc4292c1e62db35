"""Runs that a process can leave where they are: it ends, the next one goes on.

Left, a run states nothing, keeps nothing and destroys nothing but its jobs. Without this, jobs that end because their
escrow does would look like a failure of the run, and the ledger would say so.
"""

import threading
from dataclasses import dataclass, field, fields

from contracts.records import CaseRecord
from contracts.statements import Statement
from escrow.runs import Runs


class LeftError(Exception):
    """The process ends: the run stays under way."""


@dataclass(frozen=True)
class LeavingRuns(Runs):
    """Runs that are left where they are once `leaving` is set."""

    leaving: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def of(cls, runs: Runs, leaving: threading.Event) -> "LeavingRuns":
        """The same runs, stating nothing any more once they are left."""

        def state(statement: Statement) -> object:
            if leaving.is_set():
                raise LeftError
            return runs.state(statement)

        given = {each.name: getattr(runs, each.name) for each in fields(runs)}
        return cls(**{**given, "state": state}, leaving=leaving)

    def _go_on(self, case: CaseRecord) -> None:
        if self.leaving.is_set():
            raise LeftError
        super()._go_on(case)


__all__ = ["LeavingRuns", "LeftError"]
