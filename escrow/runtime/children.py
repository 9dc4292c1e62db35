"""Child processes of the runtimes: their environment, supervisor and guard, and the sure end of all they started."""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final, Self

from contracts.errors import EscrowError
from escrow.runtime.job import Job, Limits

_SUPERVISOR: Final = str(Path(__file__).with_name("supervisor.py"))
_GUARD: Final = str(Path(__file__).with_name("guard.py"))
_MARK: Final = "ESCROW_JOB"
_END_SECONDS: Final = 10.0
_EVERYWHERE: Final = {
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "OMP_NUM_THREADS": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}


def environment(job: Job, tmp: str) -> dict[str, str]:
    """What every worker finds in its environment; a program's own variables never replace the runtime's."""
    if job.program:  # which imports what stands beside its code
        return {**job.program.environment, **_EVERYWHERE, "HOME": tmp, "TMPDIR": tmp}
    return {**_EVERYWHERE, "PYTHONSAFEPATH": "1", "HOME": tmp, "TMPDIR": tmp}  # nothing from the job's directory


def plain_environment(job: Job, mark: str, tmp: str, packages: Iterable[Path]) -> dict[str, str]:
    """Make the whole environment of a worker that is a plain process: nothing is inherited.

    The packages are for the escrow's own worker; a program's `python3` is this one, with what is installed beside it.
    """
    path = os.pathsep.join(sorted({str(package.parent) for package in packages}))
    own = {} if job.program else {"PYTHONPATH": path}
    programs = os.pathsep.join((str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"))
    return {**environment(job, tmp), **own, "PATH": programs, _MARK: mark}


def _carries(pid: int, line: bytes) -> bool:
    """Tell whether the process was started with `line` in its environment; one of another user is not ours."""
    try:
        return line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return False


def _marked(mark: str) -> list[int]:
    """Open pidfds of the processes whose environment carries the random `mark`: those that one job started.

    The mark is read once more with the pidfd open, so that a pid that was given anew is not taken for the old process.
    """
    line = f"{_MARK}={mark}".encode()
    found = []
    for pid in [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]:
        if _carries(pid, line):
            with suppress(ProcessLookupError):  # it ended meanwhile
                fd = os.pidfd_open(pid)
                if _carries(pid, line):
                    found.append(fd)
                else:
                    os.close(fd)
    return found


def end_marked(mark: str) -> None:
    """Kill what a job left behind, and wait until it is gone."""
    while left := _marked(mark):
        try:
            for fd in left:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            for fd in left:
                if not select.select([fd], [], [], _END_SECONDS)[0]:
                    raise EscrowError("runtime-unfit", "A process of a job could not be killed.")
        finally:
            for fd in left:
                os.close(fd)


@dataclass(frozen=True)
class Child:
    """A supervisor that this object started."""

    process: subprocess.Popen[bytes]
    link: socket.socket

    @classmethod
    def launch(
        cls, home: Path, command: Sequence[str], place: Path, limits: Limits, environ: Mapping[str, str]
    ) -> Self:
        """Start `command` in the directory `place` of `home/job`; its outcome and log go into `home`."""
        folder, outcome = str(home / "job"), str(home / "outcome")
        numbers = [str(number) for number in astuple(limits)]
        with ExitStack() as stack:
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(mine)
            with theirs, (home / "log").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", _SUPERVISOR, folder, str(place), outcome, *numbers, *command],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    env=environ,
                    cwd="/",
                    start_new_session=True,
                )
            stack.pop_all()
        return cls(process, mine)

    @property
    def running(self) -> bool:
        """Whether the supervisor, and so possibly its worker, is alive."""
        return self.process.poll() is None

    def stop(self) -> None:
        """Close the link, at which the supervisor ends the job, and wait for it."""
        with suppress(OSError):  # it has ended already
            self.link.shutdown(socket.SHUT_WR)
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()  # the kernel kills the worker with it; the mark finds the rest
            self.process.wait()


class Guard:
    """A process that outlives this one and then removes from the engine what has a label; see `guard.py`.

    Args:
        engine: path of the engine's socket.
        label: `NAME=VALUE`.

    """

    def __init__(self, engine: str, label: str) -> None:
        self._arguments = (engine, label)
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self) -> None:
        """Start it unless it runs; it watches from now on."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", _GUARD, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
        )

    def close(self) -> None:
        """Let it do its work, and wait for it a while: if the engine is away, it goes on alone."""
        if self._process is not None and self._process.stdin is not None:
            with self._process.stdin as pipe, suppress(BrokenPipeError):  # it was killed
                os.write(pipe.fileno(), b".")
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:  # somebody has to be there when it ends
                threading.Thread(target=self._process.wait, name="guard", daemon=True).start()
            self._process = None
