"""Child processes of the process runtime: their environment, their supervisor, and the sure end of all they started."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final, Self

from contracts.errors import EscrowError
from escrow.runtime.base import Limits

_SUPERVISOR: Final = str(Path(__file__).with_name("supervisor.py"))
_MARK: Final = "ESCROW_JOB"
_END_SECONDS: Final = 10.0


def environment(mark: str, job: Path, packages: Iterable[Path]) -> dict[str, str]:
    """Make the worker's whole environment: nothing is inherited."""
    return {
        _MARK: mark,
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(job / "tmp"),
        "TMPDIR": str(job / "tmp"),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sorted({str(package.parent) for package in packages})),
        "PYTHONSAFEPATH": "1",  # nothing is imported from the job's directory
        "PYTHONNOUSERSITE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }


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
    def launch(cls, home: Path, command: Sequence[str], limits: Limits, environ: Mapping[str, str]) -> Self:
        """Start `command` on the directory `home/job`; its outcome and log go into `home`."""
        folder, outcome = str(home / "job"), str(home / "outcome")
        numbers = [str(number) for number in astuple(limits)]
        with ExitStack() as stack:
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(mine)
            with theirs, (home / "log").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", _SUPERVISOR, folder, outcome, *numbers, *command, folder],
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
