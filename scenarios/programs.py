"""The commands that simulated people type: processes of `party` and `escrow`, which end when the scenario does.

Each terminal keeps a log of what was typed there and what was answered.
"""

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from contracts.errors import CODES, EscrowError

Json = dict[str, Any]
Program = Literal["party", "escrow"]
_MODULES: Final[Mapping[Program, str]] = {"party": "parties.cli", "escrow": "escrow.cli"}
END_SECONDS: Final = 30
LOOK: Final = "Keep everything with --keep DIR and look into DIR/logs."


class Processes:
    """Processes that were started together and end together. Safe for threads."""

    def __init__(self) -> None:
        self._change = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._over = False

    @contextmanager
    def started(
        self, command: list[str], log: Path, environment: Mapping[str, str], *, serves: bool = False
    ) -> Iterator[subprocess.Popen[str]]:
        """A process with a pipe from its stdout; its stderr goes to the end of `log`. It has ended afterwards.

        `end` leaves one that `serves` to whoever started it: killed, it could not remove what its workers were given.

        Raises:
            EscrowError: `interrupted` once `end` was called.
        """
        with log.open("a") as errors, self._change:
            if self._over:
                raise EscrowError("interrupted", "Everything was ended before this command began.")
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **environment},
            )
            if not serves:
                self._running.add(process)
        with process:
            try:
                yield process
            finally:
                process.kill()  # nothing happens to one that has been waited for
                process.wait()
                with self._change:
                    self._running.discard(process)

    def end(self) -> None:
        """End all that run, but those that serve, and start no more; they have ended afterwards."""
        with self._change:
            self._over = True
            running = [*self._running]
        for process in running:
            process.kill()
        for process in running:
            process.wait()  # whoever started it waits as well, but in a thread that an interrupt leaves behind


@dataclass(frozen=True)
class Terminal:
    """Where one bank, or the operator, types commands.

    Attributes:
        name: who sits there.
        program: which they use.
        home: the party's or the escrow's directory.
        log: what was typed and answered.
        processes: with which the commands end.
    """

    name: str
    program: Program
    home: Path
    log: Path
    processes: Processes

    def run(self, *words: object) -> Json:
        """A command's result.

        Raises:
            EscrowError: what the command answered instead, with the name of who typed it.
        """
        with self._typed("json", words) as process:
            text, _ = process.communicate()
            self._note(text)
            return self._result(text, process.returncode)

    def follow(self, *words: object) -> Generator[Json]:
        """What a command tells, as it goes on; the same errors as `run`, when it ends."""
        with self._typed("jsonl", words) as process:
            assert process.stdout is not None  # noqa: S101 - it was given a pipe
            line = ""
            for line in process.stdout:
                self._note(line)
                if line.endswith("\n") and not _is_envelope(told := json.loads(line)):
                    yield told
            self._result(line, process.wait())

    @contextmanager
    def serving(self, *words: object) -> Iterator[None]:
        """A command that goes on meanwhile; it is asked to end, so that it can leave nothing behind.

        Raises:
            EscrowError: `escrow-slow` if it does not end.
        """
        with self._typed("jsonl", words, serves=True) as process:
            assert process.stdout is not None  # noqa: S101 - it was given a pipe
            listening = threading.Thread(target=self._noted, args=(process.stdout,), name=f"{self.name} {words[0]}")
            listening.start()
            try:
                yield
            finally:
                process.terminate()
                try:
                    process.wait(END_SECONDS)
                except subprocess.TimeoutExpired:
                    raise EscrowError("escrow-slow", f"{self.name}: a command did not end.", LOOK) from None
                finally:
                    process.kill()
                    listening.join()

    def _noted(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._note(line)

    @contextmanager
    def _typed(self, form: str, words: tuple[object, ...], *, serves: bool = False) -> Iterator[subprocess.Popen[str]]:
        arguments = [*map(str, words)]
        self._note(f"$ {self.program} {shlex.join(arguments)}\n")
        start = f"import sys; from {_MODULES[self.program]} import main; sys.exit(main())"
        command = [sys.executable, "-P", "-c", start, *arguments, "--format", form]
        begin, where = time.perf_counter(), {f"{self.program.upper()}_HOME": str(self.home)}
        with self.processes.started(command, self.log, where, serves=serves) as process:
            yield process
        self._note(f"# {arguments[0]}: {time.perf_counter() - begin:.1f} s\n")

    def _note(self, text: str) -> None:
        with self.log.open("a") as file:
            file.write(text)

    def _result(self, text: str, code: int) -> Json:
        """The data of the envelope that a command ended with."""
        if not text.endswith("\n") or not _is_envelope(envelope := json.loads(text)):
            raise EscrowError("bug", f"{self.name}: a command ended without an answer (exit code {code}).", LOOK)
        data: Json = envelope["data"]
        if envelope["status"] == "error":
            known = data["code"] if data["code"] in CODES else "bug"
            raise EscrowError(known, f"{self.name}: {data['message']}", data["hint"], data.get("details", ()))
        return data


def _is_envelope(told: Json) -> bool:
    return "schema_version" in told
