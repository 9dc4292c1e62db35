"""Runs workers as plain child processes: for development, simulations and the demo. NOT sealed.

The worker has a directory, an environment and limits of its own, no secret, and dies with the escrow; but it runs as
the escrow's user, can reach the network and can read what that user can read. A contract that names a sealing other
than `none` must not run here.

A job with id ID lives in `ROOT/ID/`: `job/` is the worker's (`job.json`, `inputs/`, `results/`, `tmp/`); `started`,
`outcome` and `log` are the runtime's. `ROOT/.ID/` is one that is being made or removed: a job appears and disappears
with a rename. Between the escrow and each worker stands `supervisor.py`, connected by a socket that carries progress
one way and, by closing, the end both ways.
"""

import hashlib
import importlib.util
import json
import logging
import os
import secrets
import select
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final

from contracts.errors import CODES, EscrowError
from contracts.terms import Digest
from escrow.runtime import base, folders
from escrow.runtime.base import Job, Output, Progress, Runtime, State, Status
from escrow.runtime.children import Child, end_marked, environment

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


class ProcessRuntime(Runtime):
    """A runtime of child processes; see `Runtime` for what each method owes.

    `runtime-unfit` if the machine or the directory cannot serve.

    Args:
        root: directory of this escrow's jobs alone; see `memory_root`.
        command: the program, to which the job's directory is added.
        packages: directories of the packages the worker may import besides installed ones; their code is digested.
        capacity: how many jobs may run at once; the number of usable cores by default.

    """

    sealing = "none"

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
        self.root = folders.make_private(root).resolve()
        self.capacity = len(os.sched_getaffinity(0)) if capacity is None else capacity
        self._command = tuple(command)
        self._packages = tuple(package_folders("models", "contracts") if packages is None else packages)
        self._worker = code_digest(self._packages)
        self._children: dict[str, Child] = {}
        self._table = threading.Lock()  # of `_children` and their links; held briefly
        self._duty = threading.RLock()  # one change of a job at a time; `wait` and `status` never take it
        _LOG.warning("%s", self.warning)

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

    def _home(self, job_id: str) -> Path:
        if not base.is_job_id(job_id):
            raise ValueError(f"{job_id!r} cannot be the id of a job")
        return self.root / job_id

    def _scratch(self, job_id: str) -> Path:
        return self._home(job_id).with_name(f".{job_id}")

    def prepare(self, job: Job) -> None:
        """See `Runtime.prepare`."""
        with self._duty:
            if self.status(job.id).state is not State.ABSENT:
                return
            self.destroy(job.id)
            scratch = self._scratch(job.id)
            try:
                for name in ("inputs", "results", "tmp"):
                    folders.make_below(self.root, f"{scratch.name}/job/{name}")
                spec = json.dumps(dict(job.spec), sort_keys=True, allow_nan=False).encode()
                folders.write_new(scratch / "job", "job.json", spec)
                for relative, source in job.inputs.items():
                    folders.write_new(scratch / "job/inputs", relative, source)
            except BaseException:
                folders.remove(scratch)
                raise
            scratch.rename(self._home(job.id))

    def start(self, job: Job) -> None:
        """See `Runtime.start`."""
        with self._duty:
            state = self.status(job.id).state
            if state is State.ABSENT:
                raise ValueError(f"job {job.id} is not prepared")
            if state is not State.PREPARED:
                return
            if code_digest(self._packages) != self._worker:
                raise EscrowError("worker-changed", "The worker's code has changed since the escrow started.")
            if sum(child.running for child in self._children.values()) >= self.capacity:
                raise EscrowError(
                    "runtime-busy", f"{self.capacity} jobs are running, which is all this runtime may run."
                )
            self._launch(job, self._home(job.id))

    def _launch(self, job: Job, home: Path) -> None:
        mark = f"{job.id}.{secrets.token_hex(16)}"
        (home / "started").write_text(mark, encoding="ascii")
        child = Child.launch(home, self._command, job.limits, environment(mark, home / "job", self._packages))
        with self._table:
            self._children[job.id] = child

    def status(self, job_id: str) -> Status:
        """See `Runtime.status`."""
        home = self._home(job_id)
        with self._table:
            child = self._children.get(job_id)
        if child and child.running:
            return Status(State.RUNNING)
        try:
            return self._ended(home, (home / "outcome").read_text(encoding="ascii"))
        except FileNotFoundError:
            if child:  # the supervisor was killed, by the machine or a person
                return Status(State.FAILED, "training-failed")
        prepared = home.is_dir() and not (home / "started").exists()
        return Status(State.PREPARED if prepared else State.ABSENT)

    @staticmethod
    def _ended(home: Path, outcome: str) -> Status:
        """Judge by the supervisor's line and the worker's own word."""
        if outcome in CODES:
            return Status(State.FAILED, outcome)
        try:
            with folders.open_output(home / "job/results", base.FAILURE_FILE) as file:
                return Status(State.FAILED, base.failure_code(file.read(base.FAILURE_BYTES_AT_MOST)))
        except FileNotFoundError:
            return Status(State.FINISHED) if outcome == "exit 0" else Status(State.FAILED, "training-failed")
        except EscrowError:
            return Status(State.FAILED, "training-failed")

    def wait(
        self, job_ids: Collection[str], *, seconds: float | None = None, progress: Progress | None = None
    ) -> frozenset[str]:
        """See `Runtime.wait`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        with ExitStack() as stack:
            links = self._links(job_ids, stack)
            ended = frozenset(job_ids) - {job_id for job_id, _ in links.values()}
            poll = select.poll()
            for fd in links:
                poll.register(fd, select.POLLIN)
            while links and not ended:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                ready = poll.poll(None if left is None else 1000 * left)
                ended = frozenset(links[fd][0] for fd, _ in ready if self._hear(*links[fd], progress))
                if left == 0.0:
                    break
            return ended

    def _links(self, job_ids: Collection[str], stack: ExitStack) -> dict[int, tuple[str, socket.socket]]:
        """Copies of the links to started jobs, so that `destroy` in another thread cannot close them under us."""
        links = {}
        with self._table:
            for job_id in set(job_ids):
                child = self._children.get(job_id)
                if child:  # if it has ended, what it told is still to be read
                    link = stack.enter_context(child.link.dup())
                    links[link.fileno()] = (job_id, link)
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

    def collect(self, job: Job) -> Mapping[str, Output]:
        """See `Runtime.collect`."""
        if self.status(job.id).state is not State.FINISHED:
            raise ValueError(f"job {job.id} has not finished")
        results = self._home(job.id) / "job/results"
        outputs = {}
        for relative in job.outputs:
            with suppress(FileNotFoundError), folders.open_output(results, relative) as file:
                size = os.fstat(file.fileno()).st_size
                outputs[relative] = Output(size, partial(folders.open_output, results, relative))
        if sum(output.size for output in outputs.values()) > job.limits.results_mib * base.MIB:
            raise EscrowError("output-refused", f"The outputs are larger than {job.limits.results_mib} MiB together.")
        return outputs

    def logs(self, job_id: str) -> bytes:
        """See `Runtime.logs`; the supervisor keeps the first 4 MiB."""
        try:
            return (self._home(job_id) / "log").read_bytes()
        except FileNotFoundError:
            return b""

    def destroy(self, job_id: str) -> None:
        """See `Runtime.destroy`."""
        with self._duty:
            home, scratch = self._home(job_id), self._scratch(job_id)
            self._stop(job_id)
            with suppress(FileNotFoundError):
                end_marked((home / "started").read_text(encoding="ascii"))
            folders.remove(scratch)
            with suppress(FileNotFoundError):
                home.rename(scratch)
            folders.remove(scratch)

    def _stop(self, job_id: str) -> None:
        with self._table:
            child = self._children.get(job_id)
        if child:
            child.stop()
            with self._table:
                del self._children[job_id]
                child.link.close()

    def sweep(self, keep: Collection[str] = ()) -> frozenset[str]:
        """See `Runtime.sweep`."""
        with self._duty:
            if not self.root.exists():
                return frozenset()
            names = {path.name.removeprefix(".") for path in self.root.iterdir()}
            ids = {name for name in names if base.is_job_id(name)}
            left = frozenset(job_id for job_id in ids & set(keep) if self.status(job_id).state is not State.ABSENT)
            for job_id in ids - left:
                self.destroy(job_id)
            for job_id in left:
                folders.remove(self._scratch(job_id))
            return left

    def close(self) -> None:
        """See `Runtime.close`."""
        with self._duty:
            for job_id in list(self._children):
                self._stop(job_id)
