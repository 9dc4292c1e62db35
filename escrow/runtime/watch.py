"""Follows one sealed worker from its start to its end, in a thread of its own, and brings home what it left.

1. What the worker prints is read all the time, so it never waits for a reader: the first 4 MiB are kept, the rest is
   dropped. Lines that may be progress wait for whoever waits for the job; a flood of them is dropped too.
2. When its time is over it is removed from the engine; if the engine refuses or does not answer, again until it is.
3. When it is dead its results are read into the job's directory, and then the outcome is written, so that a job that
   has ended needs neither engine nor escrow any more. What it had in the engine is removed right then.
4. If the engine dies under it the outcome is `engine-missing`: nobody knows how the worker ended.
5. Whatever goes wrong here is an outcome too, with nothing brought home: a job never runs on because its thread died.
"""

import errno
import logging
import os
import re
import signal
import tarfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from contracts.errors import CODES, EscrowError
from escrow.runtime import base, folders, outputs
from escrow.runtime.cells import OUT, Cell, Printing
from escrow.runtime.confinement import FILES_AT_MOST
from escrow.runtime.job import FAILURE_FILE, Job
from escrow.runtime.local import KILLED

_LOG: Final = logging.getLogger(__name__)
_LOG_BYTES_AT_MOST: Final = 4 << 20
_LINE_BYTES_AT_MOST: Final = 256
_LIKELY: Final = re.compile(rb"^\{[^\n]{0,%d}\n" % (_LINE_BYTES_AT_MOST - 1), re.MULTILINE)
_LINES_AT_MOST: Final = 256
_LINES_A_SECOND: Final = 100
_LEAST_SECONDS: Final = 0.1  # to ask whether a worker has ended
_RETRY_SECONDS: Final = 1.0
_KILLED_STATUS: Final = 128 + signal.SIGKILL  # of a container that was killed, and of its init if the worker was

RESULTS: Final = "results"
"""Directory in a job's home: what was found of its outputs."""
REFUSED: Final = "refused"
"""File in a job's home: why its outputs were refused."""
_PRINTED: Final = "log"


class _Printed:
    """Takes what a worker prints: to the log, and the texts of progress lines of its standard output to `tell`."""

    def __init__(self, log: Path, tell: Callable[[str], None]) -> None:
        self._log = log
        self._room = _LOG_BYTES_AT_MOST
        self._tell = tell
        self._rest = b""
        self._second = 0
        self._lines_left = 0

    def take(self, pairs: Iterable[tuple[int, bytes]]) -> None:
        with self._log.open("wb", buffering=0) as log:
            for stream, data in pairs:
                log.write(data[: self._room])
                self._room -= min(self._room, len(data))
                if stream == OUT:
                    self._lines(data)

    def _lines(self, data: bytes) -> None:
        text = self._rest + data
        end = text.rfind(b"\n") + 1
        self._rest = text[end : end + _LINE_BYTES_AT_MOST + 1]
        for line in _LIKELY.finditer(text, 0, end):
            if not self._in_turn():
                return
            told = base.progress_text(line[0])
            if told is not None:
                self._tell(told)

    def _in_turn(self) -> bool:
        """Whether one more line may be looked at in this second."""
        if (now := int(time.monotonic())) != self._second:
            self._second, self._lines_left = now, _LINES_A_SECOND
        self._lines_left -= 1
        return self._lines_left >= 0


class Watch:
    """A worker that is started and runs: `begin` it once, and `destroy` it in the end.

    Args:
        cell: the job's things in the engine, furnished but not started.
        job: what runs.
        home: directory of the job's files.
        change: guards `told`, `ended` and `life`, and is notified when there is news.

    Attributes:
        told: progress that nobody has heard yet.
        ended: whether the job has ended.
        unwritten: the code of a failure that could not be written into the job's home.
        life: descriptor that hangs up when the job has ended; -1 when it was destroyed.

    """

    def __init__(self, cell: Cell, job: Job, home: Path, change: threading.Condition) -> None:
        self.told: deque[str] = deque(maxlen=_LINES_AT_MOST)
        self.ended = False
        self.unwritten: str | None = None
        self._cell = cell
        self._job = job
        self._home = home
        self._change = change
        self._abandoned = False
        self._removed = threading.Event()
        self._begun: Future[None] = Future()
        self._thread = threading.Thread(target=self._follow, name=f"watch {job.id}", daemon=True)
        self.life, self._alive = os.pipe()

    def begin(self) -> None:
        """Start the worker. If that raises it must be destroyed: an engine that was slow may start it yet."""
        try:
            self._thread.start()
        except BaseException:
            self._say_ended()
            raise
        self._begun.result()

    def _follow(self) -> None:
        try:
            printed = self._started()
        except BaseException as error:  # noqa: BLE001 - raised where the job is started
            self._say_ended()
            self._begun.set_exception(error)
            return
        self._begun.set_result(None)
        self.unwritten = "runtime-unfit"  # if this thread should die
        try:
            self.unwritten = self._write(self._outcome(printed, time.monotonic() + self._job.limits.seconds))
        finally:
            self._say_ended()
        self._clear_away()

    def _started(self) -> Printing:
        """Start the worker; what it prints, from the beginning on."""
        printed = self._cell.attach()
        try:
            self._cell.start()
        except BaseException:
            printed.close()
            raise
        return printed

    def _say_ended(self) -> None:
        with self._change:
            self.ended = True
            os.close(self._alive)
            self._change.notify_all()

    def _write(self, outcome: str) -> str | None:
        """Write the outcome; if that fails, the code to remember instead."""
        if self._abandoned:
            return None
        new = self._home / "outcome.new"
        try:
            new.write_text(outcome, encoding="ascii")
            new.rename(self._home / "outcome")
        except OSError as error:
            return outcome if outcome in CODES else self._failure(error)
        return None

    def _outcome(self, printed: Printing, deadline: float) -> str:
        try:
            with closing(printed):
                _Printed(self._home / _PRINTED, self._tell).take(printed.until(deadline))
            end = self._cell.end(max(_LEAST_SECONDS, deadline - time.monotonic()))
            if end is None:
                self._clear_away()
                return "limit-time"
            return "limit-memory" if end.out_of_memory else self._brought_home(end.status)
        except Exception as error:  # noqa: BLE001 - see rule 5
            return self._failure(error)

    def _clear_away(self) -> None:
        """End the worker if it runs, and remove all of it from the engine, however often that must be asked."""
        while not self._removed.is_set() and not self._remove():
            self._removed.wait(_RETRY_SECONDS)

    def _remove(self) -> bool:
        """Ask the engine once; whether nothing is left there now."""
        try:
            self._cell.remove()
        except Exception as error:  # noqa: BLE001 - asked again; whoever destroys the job is told
            _LOG.warning("job %s: %s", self._job.id, error)
            return False
        return True

    def _failure(self, error: Exception) -> str:
        """The code of what went wrong while the worker was followed; it is ended, and what was brought home removed."""
        self._remove()
        code = _code(error)
        if code == "storage-full":
            with suppress(OSError):
                (self._home / _PRINTED).unlink(missing_ok=True)
        with suppress(OSError):
            folders.remove(self._home / RESULTS)
        if not isinstance(error, EscrowError):
            _LOG.error("job %s failed here: %s", self._job.id, code, exc_info=error)
        return code

    def _tell(self, text: str) -> None:
        with self._change:
            self.told.append(text)
            self._change.notify_all()

    def _brought_home(self, status: int) -> str:
        """Store what the dead worker left; the outcome."""
        wanted = (FAILURE_FILE,) if status else (*self._job.outputs, FAILURE_FILE)
        into = folders.make_below(self._home, RESULTS)
        with self._cell.results() as chunks:
            found = outputs.receive(chunks, wanted, into, limit_mib=self._job.limits.results_mib, files=FILES_AT_MOST)
        refused = dict(found.refused)
        for path in set(wanted) - found.stored - set(refused):
            if self._cell.has(path):  # the engine leaves sockets out of the stream
                refused[path] = "it is not a regular file"
        if found.full and (status or FAILURE_FILE in refused or FAILURE_FILE in found.stored):
            return "limit-results"
        if FAILURE_FILE in refused:
            return f"exit {status or 1}"
        if refused:
            why = "; ".join(f"{path}: {reason}" for path, reason in sorted(refused.items()))
            (self._home / REFUSED).write_text(why, encoding="utf-8")
        return KILLED if status == _KILLED_STATUS else f"exit {status}"

    def destroy(self) -> None:
        """End the worker, without an outcome if it runs, and wait until nothing is left of it in the engine."""
        self._abandoned = True
        self._cell.remove()
        self._removed.set()
        if self._thread.ident is not None:
            self._thread.join()
        with self._change:
            if self.life >= 0:
                os.close(self.life)
                self.life = -1


def _code(error: Exception) -> str:
    """What an outcome says of an error on the escrow's side: always a code of the machine's, never the worker's."""
    if isinstance(error, EscrowError):
        return error.code
    if isinstance(error, tarfile.TarError):
        return "engine-missing"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "storage-full"
    return "runtime-unfit"
