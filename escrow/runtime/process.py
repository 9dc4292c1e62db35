"""Runs workers as plain child processes: for development, simulations and the demo. NOT sealed.

The worker has a directory, an environment and limits of its own, no secret, and dies with the escrow; but it runs as
the escrow's user, can reach the network and can read what that user can read. A contract that names a sealing other
than `none` must not run here.

The worker finds `results/` and `tmp/` in its directory (see `escrow.runtime.local`). Between the escrow and each worker
stands `supervisor.py`, connected by a socket that carries progress one way and, by closing, the end both ways.
"""

import hashlib
import importlib.util
import logging
import os
import secrets
import select
import socket
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from contracts.errors import EscrowError
from contracts.terms import Digest
from escrow.runtime import base
from escrow.runtime.base import Progress, State, Status
from escrow.runtime.children import Child, end_marked, plain_environment
from escrow.runtime.job import Job
from escrow.runtime.local import LocalRuntime

_LOG: Final = logging.getLogger(__name__)
_PACKET_BYTES: Final = 1024


def memory_root(owner: Path) -> Path:
    """Where the jobs of the escrow that keeps its state in `owner` belong: in /dev/shm if it is there and writable,
    which is memory (and swap, if the machine has any), else in the system's directory for temporary files.
    """
    shared = Path("/dev/shm")  # noqa: S108 - memory; `make_private` refuses what another user put there
    parent = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    return parent / f"escrow-{hashlib.sha256(os.fsencode(owner.resolve())).hexdigest()[:16]}"


def package_folders(*names: str) -> tuple[Path, ...]:
    """Find the directories of installed packages without importing them."""
    specs = [importlib.util.find_spec(name) for name in names]
    return tuple(Path(location) for spec in specs if spec for location in spec.submodule_search_locations or ())


def code_digest(packages: Iterable[Path]) -> Digest:
    """SHA-256 over the sorted paths and contents of all `*.py` of the packages, as `sha256sum` would list them."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(package.parent).as_posix()}\n"
        for package in packages
        for path in package.rglob("*.py")
    ]
    return f"sha256:{hashlib.sha256(''.join(sorted(lines, key=lambda line: line[66:])).encode()).hexdigest()}"


class ProcessRuntime(LocalRuntime):
    """A runtime of child processes; see `Runtime` for what each method owes.

    `runtime-unfit` if the machine or the directory cannot serve.

    Args:
        root: directory of this escrow's jobs alone; see `memory_root`.
        command: the program, to which the job's directory is added.
        packages: directories of the packages the worker may import besides installed ones; their code is digested.
        capacity: how many jobs should compute at once; the number of usable cores by default.

    """

    sealing = "none"
    rooms = ("results", "tmp")
    results = "job/results"
    file_mode = 0o400

    def __init__(
        self,
        root: Path,
        *,
        command: Sequence[str] = (sys.executable, "-m", "models.worker"),
        packages: Iterable[Path] | None = None,
        capacity: int | None = None,
    ) -> None:
        if not hasattr(os, "pidfd_open") or not Path("/proc/self/environ").exists():
            raise EscrowError("runtime-unfit", "Workers need Linux 5.3 or later with /proc.")
        super().__init__(root, capacity=capacity)
        self._command = tuple(command)
        self._packages = tuple(package_folders("models", "contracts") if packages is None else packages)
        self._worker = code_digest(self._packages)
        self._children: dict[str, Child] = {}
        self._ending: set[str] = set()
        self._warned = False

    @property
    def warning(self) -> str:
        """What is missing from the sealing, and where plaintext lies."""
        place = "in memory" if self.root.is_relative_to("/dev/shm") else "ON DISK"  # noqa: S108 - compared only
        return (
            "NOT SEALED: workers run as plain processes of this user, with network and files in reach; "
            f"plaintext lies {place} in {self.root}"
        )

    def worker(self) -> Digest:
        """Digest of all `*.py` of the worker's packages; bytecode caches are trusted like the interpreter itself."""
        return self._worker

    def prepare(self, job: Job) -> None:
        """See `Runtime.prepare`; the first time, the log says what is missing from the sealing."""
        with self._table:
            warned, self._warned = self._warned, True
        if not warned:
            _LOG.warning("%s", self.warning)
        super().prepare(job)

    def start(self, job: Job) -> None:
        """See `Runtime.start`."""
        if code_digest(self._packages) != self._worker:
            raise EscrowError("worker-changed", "The worker's code has changed since the escrow started.")
        super().start(job)

    def _launch(self, job: Job, home: Path) -> None:
        mark = f"{job.id}.{secrets.token_hex(16)}"
        (home / "started").write_text(mark, encoding="ascii")
        top = home / "job"
        environ = plain_environment(job, mark, str(top / "tmp"), self._packages)
        if job.program is None:
            command, place = [*self._command, str(top)], top
        else:
            command = [str(top / job.program.command[0]), *job.program.command[1:]]
            place = Path(command[0]).parent
        child = Child.launch(home, command, place, job.limits, environ)
        with self._table:
            self._children[job.id] = child

    def _running(self, job_id: str) -> bool:
        with self._table:
            child = self._children.get(job_id)
        return child is not None and child.running

    def status(self, job_id: str) -> Status:
        """See `Runtime.status`."""
        found = super().status(job_id)
        with self._table:
            lost = job_id in self._children and job_id not in self._ending
        if found.state is State.ABSENT and lost:  # the supervisor was killed, by machine or person
            return Status(State.FAILED, "capsule-failed" if job_id in self._silenced else "worker-lost")
        return found

    @contextmanager
    def _life(self, job_id: str) -> Iterator[int]:
        with self._table:
            child = self._children.get(job_id)
            if child is None:
                raise EscrowError("worker-silent", f"Job {job_id} has ended.")
            link = child.link.dup()
        with link:
            yield link.fileno()

    def wait(
        self, job_ids: Collection[str], *, seconds: float | None = None, progress: Progress | None = None
    ) -> frozenset[str]:
        """See `Runtime.wait`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        with ExitStack() as stack:
            links = self._links(job_ids, progress, stack)
            ended = frozenset(job_ids) - {job_id for job_id, _, _ in links.values()}
            poll = select.poll()
            for fd in links:
                poll.register(fd, select.POLLIN)
            while links and not ended:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                ready = poll.poll(None if left is None else 1000 * left)
                ended = frozenset(links[fd][0] for fd, _ in ready if self._hear(*links[fd]))
                if left == 0.0:
                    break
            return ended

    def _links(
        self, job_ids: Collection[str], progress: Progress | None, stack: ExitStack
    ) -> dict[int, tuple[str, socket.socket, Progress | None]]:
        """Copies of the links to started jobs, so that `destroy` in another thread cannot close them under us.

        With each stands who hears of the job: nobody if it runs a program.
        """
        links = {}
        with self._table:
            for job_id in set(job_ids):
                child = self._children.get(job_id)
                if child:  # if it has ended, what it told is still to be read
                    link = stack.enter_context(child.link.dup())
                    links[link.fileno()] = (job_id, link, None if job_id in self._silenced else progress)
        return links

    def _hear(self, job_id: str, link: socket.socket, progress: Progress | None) -> bool:
        """Take one packet from a link; True if it was the end."""
        try:
            packet = link.recv(_PACKET_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:  # another thread took it
            return False
        except ConnectionResetError:
            packet = b""
        if packet:
            text = base.progress_text(packet)
            if text is not None and progress is not None:
                progress(job_id, text)
            return False
        with self._table:
            child = self._children.get(job_id)
        if child:
            child.process.wait()  # its end of the link is closed: it is exiting
        return True

    def _held(self) -> set[str]:
        with self._table:
            return set(self._children)

    def _end(self, job_id: str) -> None:
        with self._table:
            child = self._children.get(job_id)
            if child:
                self._ending.add(job_id)
        if child:
            child.stop()
            with self._table:
                del self._children[job_id]
                self._ending.remove(job_id)
                child.link.close()
        with suppress(FileNotFoundError):
            end_marked((self._home(job_id) / "started").read_text(encoding="ascii"))
