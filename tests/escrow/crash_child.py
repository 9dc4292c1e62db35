"""An escrow that is killed: `python crash_child.py DIRECTORY JOBS WORKER WHAT WHERE ARGUMENT…`.

Without words it reads them from stdin, one JSON list a line, does each in a fork of its own and tells its exit code on
stdout: an escrow that is killed ten times then imports everything once.

It opens the escrow, runs a contract or does what else is asked, and kills itself with SIGKILL at the point that WHERE
names: `after:KIND` once a statement of that kind stands on the ledger, `before:KIND` with everything done but the
statement, `in:STAGE` while a worker of that stage is running, `kept:N` once it has kept the N-th checkpoint. WORKER is
the program of joint trainings; `-` stands for capsules. These, and trainings by `sealed_worker.py`, run as plain
processes that pass for containers.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contracts.statements import Statement
from escrow.checkpoints import Checkpoints
from escrow.core import Core
from escrow.ledger import Appended, Ledger
from escrow.runtime.job import Job
from escrow.runtime.process import ProcessRuntime
from parties.client import Client
from parties.identity import Identity
from scenarios import tiny

SECONDS = 60  # that nothing should need


class Pretended(ProcessRuntime):
    """Plain processes that pass for containers."""

    sealing = "container"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def armed(where: str) -> None:
    """Make the program die at the named point."""
    moment, _, what = where.partition(":")
    if moment == "in":
        start = ProcessRuntime.start

        def started(self: ProcessRuntime, job: Job) -> None:
            start(self, job)
            if f"-{what}-" in job.id:
                die()

        ProcessRuntime.start = started  # type: ignore[method-assign]
        return
    if moment == "kept":
        keep, left = Checkpoints.keep, [None] * int(what)

        def kept(self: Checkpoints, *given: Any) -> None:
            keep(self, *given)
            left.pop()
            if not left:
                die()

        Checkpoints.keep = kept  # type: ignore[method-assign]
        return
    append: Callable[..., Appended] = Ledger.append

    def appended(self: Ledger, envelope: Any, now: int, statement: Statement) -> Appended:
        named = f"{statement.kind}/{getattr(statement, 'stage', '')}".rstrip("/") == what  # type: ignore[attr-defined]
        if named and moment == "before":
            die()
        found = append(self, envelope, now, statement)
        if named and found.changed:
            die()
        return found

    Ledger.append = appended  # type: ignore[method-assign]


def main(directory: str, jobs: str, worker: str, what: str, where: str, *arguments: str) -> None:
    home = Path(directory)
    kind = ProcessRuntime if Path(worker).name == "quick_worker.py" else Pretended
    runtime = kind(Path(jobs), command=(sys.executable, worker), packages=())
    core = Core.open(home / "escrow", runtime, now=tiny.Clock())
    armed(where)
    if what == "run":
        core.run(arguments[0])
    elif what == "submit":
        name, envelope = arguments
        identity = Identity.open(home / "banks" / name)
        Client(home / "banks" / name, identity, core.session(name)).escrow.submit(Path(envelope).read_bytes())
    sys.exit("the escrow was not killed")


def forked() -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            signal.alarm(SECONDS)
            main(*json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:]) if sys.argv[1:] else forked()
