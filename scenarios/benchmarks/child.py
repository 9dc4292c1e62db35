"""Child processes of a benchmark: programs of this package that answer one line of JSON with another.

A child says its first line when it is ready. It ends when its standard input does, so none outlives the benchmark.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from scenarios.memory import peak_mib

HOST: Final = "127.0.0.1"
ORIGIN: Final = "escrow.example/ledger"
"""Of the ledgers of a benchmark."""
END_SECONDS: Final = 30


class Child:
    """One child, from the side of the benchmark.

    Attributes:
        ready: its first line.
    """

    def __init__(self, module: str, *arguments: object, log: Path) -> None:
        """Start `python -m module arguments`; what it says to people goes to the end of `log`."""
        self._log = log
        self.begun = time.perf_counter()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"scenarios.benchmarks.{module}", *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.ready: dict[str, Any] = {}

    def wait_ready(self) -> Self:
        """Wait for its first line."""
        self.ready = self.answer()
        return self

    def ask(self, do: str, **what: object) -> Any:
        """The answer to a question."""
        self.post(do, **what)
        return self.answer()

    def post(self, do: str, **what: object) -> None:
        """Ask, and go on; `answer` gives the answer."""
        assert self._process.stdin is not None  # noqa: S101 - it was given a pipe
        self._process.stdin.write(json.dumps({"do": do, **what}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """The next line.

        Raises:
            RuntimeError: the child has ended.
        """
        assert self._process.stdout is not None  # noqa: S101 - it was given a pipe
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"a child of the benchmark ended:\n{self._log.read_text()[-2000:]}")
        return json.loads(line)

    def kill(self) -> None:
        """End it with SIGKILL, wherever it is."""
        self._process.kill()
        self._process.communicate()

    def stop(self) -> None:
        """Let it end by itself, and see that it does."""
        try:
            self._process.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self.wait_ready()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self.stop()
        else:
            self.kill()


def serve(ready: object, handlers: Mapping[str, Callable[..., object]]) -> None:
    """In the child: say that it is ready, then answer until nobody asks any more. Every child answers `usage`."""
    known = {"usage": usage, **handlers}
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(known[request.pop("do")](**request)), flush=True)


def usage() -> dict[str, float]:
    """Processor seconds of this process so far, and the most memory it ever held, in MiB."""
    return {
        "cpu": time.process_time(),
        "peak_mib": peak_mib(),
    }
