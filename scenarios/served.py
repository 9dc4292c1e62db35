"""The escrow of the demo over the network: `python -m scenarios.served DIRECTORY SEEN SEALING IMAGE`, and its handle.

It is the operator's own daemon on free ports of this machine, whose runtime reads along (`scenarios.watching`), so that
the demo can show what no bank sees. Its log goes to stdout. It serves until SIGTERM, or until its standard input
ends: it never outlives the demo.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from contracts.answers import Answer, Edge, run
from contracts.errors import CODES, EscrowError
from escrow.daemon import Settings, serve
from escrow.logs import Log
from escrow.sealing import Seal
from scenarios.programs import LOOK
from scenarios.watching import Watching, cleared

if TYPE_CHECKING:
    from escrow.runtime.base import Sealing

STOP_SECONDS: Final = 30


class Served:
    """A serving escrow, from the side of the demo.

    Args:
        directory: of the escrow.
        seen: where its operator writes down the evidence.
        seal: how it seals its jobs.
        log: where its log goes.
        broken: called, in another thread, when it ended or will not run a contract: nobody should wait any longer.
    """

    def __init__(self, directory: Path, seen: Path, seal: Seal, log: Path, broken: Callable[[], None]) -> None:
        self._directory, self._seal, self._log, self._broken = directory, seal, log, broken
        where = [str(directory), str(seen), seal.sealing, seal.image]
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "scenarios.served", *where],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "GRPC_VERBOSITY": "NONE"},
            )
        self._news = threading.Condition()
        self._ready: dict[str, Any] = {}
        self._ended: set[str] = set()
        self._problem: EscrowError | None = None
        self._over = False
        self._thread = threading.Thread(target=self._listen, name="escrow-log")
        self._thread.start()

    def address(self) -> str:
        """Where those who are not admitted yet reach it, as soon as it serves.

        Raises:
            EscrowError: it cannot serve, and why.
        """
        self._wait(lambda: bool(self._ready))
        return f"{self._ready['host']}:{self._ready['enrolment']}"

    def finished(self, contract: str) -> None:
        """Wait until a run is over and what it leaves is destroyed.

        Raises:
            EscrowError: it never will be.
        """
        self._wait(lambda: contract in self._ended)

    def failure(self) -> EscrowError | None:
        """Why the demo cannot go on, if the escrow is the reason."""
        with self._news:
            if self._problem or not (self._over or self._process.poll() is not None):
                return self._problem
        code = self._process.wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return EscrowError("escrow-unreachable", f"The escrow {how} before the demo was over.", LOOK)

    def stop(self) -> None:
        """Let it drain, and see that it and its workers end; no job is left in memory."""
        self._broken = lambda: None
        assert self._process.stdin is not None  # noqa: S101 - it was given a pipe
        self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            self._thread.join()
            assert self._process.stdout is not None  # noqa: S101 - as above
            self._process.stdout.close()
        cleared(self._seal, self._directory)  # one that was killed left its jobs

    def _wait(self, happened: Callable[[], bool]) -> None:
        with self._news:
            self._news.wait_for(lambda: happened() or self._problem is not None or self._over)
            if happened():
                return
        raise self.failure() or EscrowError("bug", "The escrow fell silent.", LOOK)

    def _listen(self) -> None:
        """Hear its log to the end."""
        assert self._process.stdout is not None  # noqa: S101 - it was given a pipe
        with self._log.open("a") as log:
            for line in self._process.stdout:
                log.write(line)
                log.flush()
                self._hear(json.loads(line))
        with self._news:
            self._over = True
            self._news.notify_all()
        self._broken()

    def _hear(self, told: dict[str, Any]) -> None:
        with self._news:
            match told:
                case {"event": "ready"}:
                    self._ready = told
                case {"event": "run-ended", "contract": contract}:
                    self._ended.add(contract)
                case {"event": "run-put-aside", "code": code}:
                    self._problem = EscrowError(code if code in CODES else "bug", "The escrow put the contract aside.")
                case {"status": "error", "data": data}:
                    self._problem = EscrowError(data["code"], data["message"], data["hint"])
            self._news.notify_all()
        if self._problem:
            self._broken()


def served(argv: Sequence[str]) -> Answer:
    """Serve the escrow of a directory, writing the evidence that is seen into another."""
    directory, seen, sealing, image = argv
    seal = Seal(cast("Sealing", sealing), image)
    threading.Thread(target=_leave, name="demo", daemon=True).start()
    serve(
        Path(directory),
        Log(sys.stdout, time.time),
        Settings(),
        runtime=lambda home: Watching(seal.runtime(home), Path(seen)),
    )
    return Answer({"stopped": True})


def _leave() -> None:
    """Wait until nobody holds the other end of standard input, then end as by the operator's signal."""
    while os.read(sys.stdin.fileno(), 1 << 10):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    edge = Edge(print, print, print)
    sys.exit(run(served, [*sys.argv[1:], "--format", "json"], edge))
