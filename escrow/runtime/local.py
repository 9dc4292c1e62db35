"""What the runtimes of one machine share: where a job lies, and what its files say about it.

A job with id ID lives in `ROOT/ID/`: `job/` is what its worker is given (`job.json`, `inputs/`, `door/`; the inputs of
a program lie in `job/` itself); `started`, `outcome` and `log` are the runtime's. `ROOT/.ID/` is one that is being made
or removed: a job appears and disappears with a rename. How it ended is one line in `outcome`: `exit N`, `signal N`, or
a catalogued code that no word of the worker's can change.
"""

import json
import os
import signal
import socket
import threading
from abc import abstractmethod
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import ClassVar, Final

from contracts.errors import CODES, EscrowError
from escrow.runtime import base, doors, folders
from escrow.runtime.base import Output, Runtime, State, Status
from escrow.runtime.doors import Door
from escrow.runtime.job import FAILURE_FILE, MIB, Job, is_job_id
from escrow.runtime.locks import Locks

SPEC: Final = "job.json"
"""What the escrow's own worker is asked; a program has none, and what it would put there is its own."""


KILLED: Final = f"signal {signal.SIGKILL:d}"
"""Outcome of a worker that somebody or the machine ended."""


class LocalRuntime(Runtime):
    """A runtime whose jobs' files lie on this machine; see `Runtime` for what each method owes.

    `runtime-unfit` if the directory cannot serve.

    Args:
        root: directory of this escrow's jobs alone; see `escrow.runtime.process.memory_root`.
        capacity: how many jobs should compute at once; the number of usable cores by default.

    """

    rooms: ClassVar[tuple[str, ...]]
    """Directories that a worker finds in its own besides what it is given."""

    results: ClassVar[str]
    """Where what a worker wrote is found when it has ended, in the job's home."""

    file_mode: ClassVar[int]
    """Of what a worker is given."""

    def __init__(self, root: Path, *, capacity: int | None = None) -> None:
        self.root = folders.make_private(root).resolve()
        self.capacity = len(os.sched_getaffinity(0)) if capacity is None else capacity
        self._table = threading.Condition()  # of what runs; held briefly
        self._duties = Locks()  # one change of a job at a time; `wait`, `link` and `status` never take one
        self._closed = False
        self._doors: dict[str, Door] = {}
        self._silenced: set[str] = set()  # somebody's code: no line of theirs is passed on

    @abstractmethod
    def _running(self, job_id: str) -> bool:
        """Tell whether the job runs, started by this object."""

    @abstractmethod
    def _held(self) -> Collection[str]:
        """Ids of the jobs for which `_end` has something to do."""

    @abstractmethod
    def _launch(self, job: Job, home: Path) -> None:
        """Start the worker of a prepared job."""

    @abstractmethod
    def _end(self, job_id: str) -> None:
        """End what runs for a job, and wait until it is gone."""

    @abstractmethod
    def _life(self, job_id: str) -> AbstractContextManager[int]:
        """A descriptor that hangs up when the running job ends."""

    def _home(self, job_id: str) -> Path:
        if not is_job_id(job_id):
            raise ValueError(f"{job_id!r} cannot be the id of a job")
        return self.root / job_id

    def _scratch(self, job_id: str) -> Path:
        return self._home(job_id).with_name(f".{job_id}")

    def prepare(self, job: Job) -> None:
        """See `Runtime.prepare`."""
        with self._duties.of(job.id):
            self._require_open()
            if self.status(job.id).state is not State.ABSENT:
                return
            self.destroy(job.id)
            scratch = self._scratch(job.id)
            try:
                self._fill(scratch / "job", job)
            except BaseException:
                self.destroy(job.id)
                raise
            scratch.rename(self._home(job.id))

    def _require_open(self) -> None:
        if self._closed:
            raise EscrowError("runtime-unfit", "The runtime has been closed.", "Start the escrow again.")

    def _fill(self, top: Path, job: Job) -> None:
        """Write what the worker is given into the new directory `top`."""
        folders.make_private(self.root)  # another runtime over it may have closed
        top.parent.mkdir(mode=0o700)
        mode = 0o700 | (self.file_mode & 0o044) | (self.file_mode & 0o044) >> 2
        for name in ("", *self.rooms, *([doors.FOLDER] if job.door else ())):
            folders.make_below(top.parent, f"job/{name}".rstrip("/"), mode=mode)
        if job.program is None:
            spec = json.dumps(dict(job.spec), sort_keys=True, allow_nan=False).encode()
            folders.write_new(top, SPEC, spec, mode=self.file_mode)
            top = folders.make_below(top, "inputs", mode=mode)
        for relative, source in job.inputs.items():
            executed = job.program is not None and relative == job.program.command[0]
            executable = (self.file_mode & 0o444) >> 2 if executed else 0
            folders.write_new(top, relative, source, mode=self.file_mode | executable)

    def start(self, job: Job) -> None:
        """See `Runtime.start`."""
        with self._duties.of(job.id):
            self._require_open()
            state = self.status(job.id).state
            if state is State.ABSENT:
                raise ValueError(f"job {job.id} is not prepared")
            if state is not State.PREPARED:
                return
            home = self._home(job.id)
            if job.program is not None:
                self._silenced.add(job.id)
            if job.door:
                door = Door(home / "job" / doors.FOLDER)
                with self._table:
                    self._doors[job.id] = door
            try:
                self._launch(job, home)
            except BaseException:
                self._close_door(job.id)
                raise

    def _close_door(self, job_id: str) -> None:
        with self._table:
            door = self._doors.pop(job_id, None)
        if door:
            door.close()

    def link(self, job_id: str, *, seconds: float) -> socket.socket:
        """See `Runtime.link`; a worker that was silent once has lost its chance."""
        with self._table:
            door = self._doors.pop(job_id, None)
        if door is None:
            raise ValueError(f"job {job_id} was not started with a door, or somebody came in by it")
        with door, self._life(job_id) as life:
            return door.accept(seconds, life)

    def status(self, job_id: str) -> Status:
        """See `Runtime.status`."""
        home = self._home(job_id)
        if self._running(job_id):
            return Status(State.RUNNING)
        try:
            outcome = (home / "outcome").read_text(encoding="ascii")
            if (home / "job" / SPEC).exists():
                return self._judged(home / self.results, outcome)
            return self._judged_program(outcome)
        except FileNotFoundError:
            prepared = not (home / "started").exists() and home.is_dir()  # in this order: it may be removed meanwhile
            return Status(State.PREPARED if prepared else State.ABSENT)

    @staticmethod
    def _judged(results: Path, outcome: str) -> Status:
        """Judge by the runtime's line and the worker's own word."""
        if outcome in CODES:
            return Status(State.FAILED, outcome)
        try:
            with folders.open_output(results, FAILURE_FILE) as file:
                return base.failure(file.read(base.FAILURE_BYTES_AT_MOST))
        except FileNotFoundError:
            if outcome == "exit 0":
                return Status(State.FINISHED)
            return Status(State.FAILED, "worker-lost" if outcome == KILLED else "training-failed")
        except EscrowError:
            return Status(State.FAILED, "training-failed")

    @staticmethod
    def _judged_program(outcome: str) -> Status:
        """Judge by the runtime's line alone: somebody's code has no word in it."""
        if outcome == "exit 0":
            return Status(State.FINISHED)
        return Status(State.FAILED, outcome if outcome in CODES else "capsule-failed")

    def collect(self, job: Job) -> Mapping[str, Output]:
        """See `Runtime.collect`."""
        if self.status(job.id).state is not State.FINISHED:
            raise ValueError(f"job {job.id} has not finished")
        results = self._home(job.id) / self.results
        outputs = {}
        for relative in job.outputs:
            with suppress(FileNotFoundError), folders.open_output(results, relative) as file:
                size = os.fstat(file.fileno()).st_size
                outputs[relative] = Output(size, partial(folders.open_output, results, relative))
        if sum(output.size for output in outputs.values()) > job.limits.results_mib * MIB:
            raise EscrowError("output-refused", f"The outputs are larger than {job.limits.results_mib} MiB together.")
        return outputs

    def logs(self, job_id: str) -> bytes:
        """See `Runtime.logs`; the first 4 MiB are kept."""
        try:
            return (self._home(job_id) / "log").read_bytes()
        except FileNotFoundError:
            return b""

    def destroy(self, job_id: str) -> None:
        """See `Runtime.destroy`."""
        home, scratch = self._home(job_id), self._scratch(job_id)
        with self._duties.of(job_id):
            self._end(job_id)
            self._close_door(job_id)
            self._silenced.discard(job_id)
            folders.remove(scratch)
            with suppress(FileNotFoundError):
                home.rename(scratch)
            folders.remove(scratch)

    def sweep(self, keep: Collection[str] = ()) -> frozenset[str]:
        """See `Runtime.sweep`."""
        if not self.root.exists():
            return frozenset()
        names = {path.name.removeprefix(".") for path in self.root.iterdir()}
        ids = {name for name in names if is_job_id(name)}
        left = frozenset(job_id for job_id in ids & set(keep) if self.status(job_id).state is not State.ABSENT)
        for job_id in ids - left:
            self.destroy(job_id)
        for job_id in left:
            with self._duties.of(job_id):
                folders.remove(self._scratch(job_id))
        return left

    def close(self) -> None:
        """See `Runtime.close`; nothing can be prepared or started any more, and an empty directory is removed."""
        self._closed = True  # what has begun meanwhile holds its lock, and so its name, before `_held` is asked
        with self._table:
            doors = set(self._doors)
        with ExitStack() as stack:  # each is done, whatever another raises
            stack.callback(self._leave)
            for job_id in {*self._duties.names(), *self._held(), *doors}:
                stack.callback(self._let_go, job_id)

    def _let_go(self, job_id: str) -> None:
        with self._duties.of(job_id):
            self._end(job_id)
            self._close_door(job_id)

    def _leave(self) -> None:
        with suppress(OSError):  # what has ended stays
            self.root.rmdir()
