"""An escrow served in a process of its own: `python -m scenarios.benchmarks.served DIRECTORY MAIN ENROLMENT`.

It is the real server over the real core, on loopback. Besides serving it does what its operator would (admit those who
ask), and it counts: processor time, memory, and for each call the SQL statements and rows that were handed to the
database's driver.
"""

import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from contracts import statements as st
from contracts.canonical import digest
from escrow.core import Core
from escrow.front import Told
from escrow.runtime.process import ProcessRuntime
from escrow.server import Ports, Server
from scenarios.benchmarks.child import HOST, ORIGIN, Child, serve


class Served(Child):
    """The handle of an escrow that is served by a child."""

    def __init__(self, directory: Path, *, main: int = 0, enrolment: int = 0) -> None:
        super().__init__("served", directory, main, enrolment, log=directory.with_name(f"{directory.name}.log"))

    @property
    def address(self) -> str:
        """Where those who are not admitted yet reach it."""
        return f"{HOST}:{self.ready['enrolment']}"

    @property
    def fingerprint(self) -> str:
        """By which banks know it."""
        return str(self.ready["fingerprint"])


class Counter(threading.local):
    """What this thread has asked of SQL since it was last taken."""

    statements = 0
    rows = 0

    def take(self) -> tuple[int, int]:
        """SQL statements and the rows of parameters they were executed with; counted from zero again."""
        taken = self.statements, self.rows
        self.statements = self.rows = 0
        return taken

    def listen(self) -> None:
        """Count whatever SQLite's driver executes in this process; a statement over many rows counts once."""
        counter = self

        class Cursor(sqlite3.Cursor):
            def execute(self, *arguments: Any) -> Any:
                counter.statements += 1
                counter.rows += 1
                return super().execute(*arguments)

            def executemany(self, sql: str, rows: Any) -> Any:
                rows = list(rows)
                counter.statements += 1
                counter.rows += len(rows)
                return super().executemany(sql, rows)

        class Connection(sqlite3.Connection):
            def cursor(self, factory: Any = Cursor) -> Any:
                return super().cursor(factory)

        @event.listens_for(Engine, "do_connect")
        def connect(_: object, __: object, ___: object, how: dict[str, Any]) -> None:
            how["factory"] = Connection


class Calls(Told):
    """The calls that ended, in their order, each with what it asked of SQL."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._ended: list[tuple[str, int, int]] = []

    def call(self, verb: str, party: str, code: str, seconds: float) -> None:  # noqa: ARG002 - as `Told`
        """See `Told.call`."""
        self._ended.append((verb, *self._counter.take()))

    @contextmanager
    def counted(self, verb: str) -> Iterator[None]:
        """What the escrow does by itself, as a call."""
        self._counter.take()
        yield
        self.call(verb, "", "ok", 0)

    def take(self) -> list[tuple[str, int, int]]:
        """The calls since this was last asked."""
        taken, self._ended = self._ended, []
        return taken


def decide(core: Core, calls: Calls, contract: str) -> None:
    """Take an approved contract through a run that withholds, with commitments to nothing: no training is measured."""
    nothing = f"sha256-salted:{digest(contract.encode()).removeprefix('sha256:')}"
    case = core.runs.case(contract)
    about = {"ledger": core.origin, "contract": contract, "run": case.run + 1}
    findings = {contribution.party: nothing for contribution in case.contract.training}
    steps: tuple[st.RunStarted | st.StageCompleted | st.RunDecided, ...] = (
        st.RunStarted.model_validate(about),
        *(
            st.StageCompleted.model_validate({**about, "stage": stage, "outputs": nothing})
            for stage in case.contract.stages()
        ),
        st.RunDecided.model_validate({**about, "verdict": "withheld", "findings": findings}),
    )
    for step in steps:
        with calls.counted(step.kind):
            core.state(step)
    with calls.counted("key-erased"):
        core.runs.clean(core.runs.case(contract))


def admit(server: Server) -> int:
    """Admit everybody who asks; how many that were. Nobody compares fingerprints here: all are the benchmark's own."""
    waiting = server.requests.waiting()
    for each in waiting:
        server.requests.admit(each.name, each.fingerprint)
    return len(waiting)


def main(directory: Path, main_port: int, enrolment_port: int) -> None:
    """Serve until nobody asks any more."""
    counter = Counter()
    counter.listen()
    calls = Calls(counter)
    with ProcessRuntime(directory.with_name(f"{directory.name}-jobs")) as runtime:
        there = (directory / "escrow.json").exists()
        core = Core.open(directory, runtime) if there else Core.create(directory, ORIGIN, runtime)
        server = Server.start(core, Ports(HOST, main_port, enrolment_port), calls)
        ready = {
            "main": server.ports.main,
            "enrolment": server.ports.enrolment,
            "fingerprint": core.signer.key_id,
        }
        handlers: dict[str, Callable[..., object]] = {
            "admit": lambda: admit(server),
            "calls": calls.take,
            "decide": lambda contract: decide(core, calls, contract),
        }
        serve(ready, handlers)
        server.stop(grace_seconds=0)
        core.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
