"""What an executor of jobs owes the escrow.

A job is one stage of one run for one party: a directory with `job.json` and `inputs/`, a worker that reads them and
writes into `results/`, and limits. The docstrings of `Runtime` are the contract that every executor keeps, a plain
child process as well as a container; the stages of a run are written against them and nothing else.

    absent ──prepare──► prepared ──start──► running ──► finished | failed
       ▲                    │                  │               │
       └────────────────────┴──── destroy ─────┴───────────────┘

Rules for every duty:

1. It is idempotent: called again in its state after, it does nothing and succeeds.
2. Jobs are told apart by their id alone; two jobs never share a file.
3. Nothing that a worker writes reaches a person unless it is a declared output, a catalogued code or a short progress
   line. What it prints is kept for the vault.
4. No job outlives the escrow that started it: after a crash every job that had not ended is absent.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import BinaryIO, Final, Literal, Self

from contracts.errors import CODES
from contracts.terms import Digest

Sealing = Literal["none", "container", "gvisor"]
Source = bytes | Callable[[BinaryIO], None]
"""Content of an input: the bytes, or a function that writes plaintext into the open file (and raises to refuse)."""

MIB: Final = 1 << 20
FAILURE_FILE: Final = "failure.json"
FAILURE_BYTES_AT_MOST: Final = 4096
_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,119}")
_PATH: Final = re.compile(r"(?!.{201})[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*){0,3}")
_PROGRESS: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ,.:/%()=+_-]{0,79}")


def is_job_id(text: str) -> bool:
    """Tell whether `text` is 1 to 120 of a-z, 0-9 and hyphen, not first a hyphen: ids become names of directories."""
    return _ID.fullmatch(text) is not None


@dataclass(frozen=True)
class Limits:
    """What one job may use. Exceeding time, memory, results or processes ends it with the code `limit-…`."""

    seconds: int = 3600  # wall time
    memory_mib: int = 4096  # resident memory of all its processes together
    results_mib: int = 512  # all files it writes together, and so each of them
    processes: int = 256  # processes and threads together
    open_files: int = 1024  # for each process

    def __post_init__(self) -> None:
        if min(self.seconds, self.memory_mib, self.results_mib, self.processes, self.open_files) < 1:
            raise ValueError("every limit is at least 1")


@dataclass(frozen=True)
class Job:
    """One job; ValueError for an id or a path that could mean more than one file.

    Attributes:
        id: unique for contract digest, run number, stage and party; at most 120 of a-z, 0-9 and hyphen.
        spec: JSON object that the worker finds as `job.json`.
        inputs: relative path under `inputs/` → content.
        outputs: relative paths under `results/` that may be collected; a worker need not write each.
        limits: what it may use.

    """

    id: str
    spec: Mapping[str, object]
    inputs: Mapping[str, Source] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not is_job_id(self.id):
            raise ValueError(f"{self.id!r} cannot be the id of a job")
        for path in (*self.inputs, *self.outputs):
            if not _PATH.fullmatch(path):
                raise ValueError(f"{path!r} cannot be an input or output of a job")
        if FAILURE_FILE in self.outputs or len(set(self.outputs)) != len(self.outputs):
            raise ValueError(f"outputs are different files, and {FAILURE_FILE} is not one of them")


class State(StrEnum):
    """Where a job stands."""

    ABSENT = "absent"  # nothing usable: never prepared, destroyed, or lost with the escrow that ran it
    PREPARED = "prepared"  # inputs are complete; nothing runs
    RUNNING = "running"
    FINISHED = "finished"  # ended well; outputs can be collected
    FAILED = "failed"  # ended otherwise; the status has a code


@dataclass(frozen=True)
class Status:
    """A job's state and, when it failed, the catalogued code (a key of `contracts.errors.CODES`)."""

    state: State
    code: str | None = None


@dataclass(frozen=True)
class Output:
    """A declared output that was found fit to collect: a regular file of `size` bytes."""

    size: int
    opener: Callable[[], BinaryIO] = field(repr=False)

    def open(self) -> BinaryIO:
        """Open the file, which is checked once more; the caller closes it."""
        return self.opener()

    def read(self) -> bytes:
        """Return the whole content."""
        with self.open() as file:
            return file.read()


Progress = Callable[[str, str], None]
"""Called with a job's id and one progress line that `progress_text` let through."""


class Runtime(ABC):
    """An executor. Methods may be called from several threads, for one job from one thread, `destroy` from any."""

    sealing: Sealing
    """What stands between the worker and the world; a contract names the least it accepts."""

    capacity: int
    """How many jobs may run at once."""

    @property
    @abstractmethod
    def warning(self) -> str:
        """One line on what this runtime does not protect from; empty when nothing is missing from its sealing."""

    @abstractmethod
    def worker(self) -> Digest:
        """Return the digest of the code that will run, as a contract names it.

        1. The same code has the same digest on every machine.
        2. The digest stays the same for the life of this object; `start` notices if the code does not.
        """

    @abstractmethod
    def prepare(self, job: Job) -> None:
        """Bring the job's directory into being.

        State before: absent. State after: prepared. Must be idempotent: does nothing in any other state.

        1. Remove whatever an earlier, lost attempt at this id left, and end its processes.
        2. Write `job.json` and every input, in memory where the machine allows, readable by the worker only.
        3. If an input refuses (its source raises), remove everything and raise that error; the job stays absent.
        """

    @abstractmethod
    def start(self, job: Job) -> None:
        """Start the worker.

        State before: prepared. State after: running. Must be idempotent: does nothing if running, finished or failed.

        1. Refuse with `worker-changed` if the code is no longer the code of `worker()`.
        2. Refuse with `runtime-busy` if `capacity` jobs are running.
        3. Give the worker its directory, the limits, and nothing else: no secret, no input stream, no open file.

        An absent job is a ValueError.
        """

    @abstractmethod
    def status(self, job_id: str) -> Status:
        """Tell the job's state, from what is on the machine; changes nothing.

        1. Finished and failed outlive the escrow: another object over the same directory tells the same.
        2. A job that exceeded a limit has its `limit-…` code, whatever the worker wrote.
        3. Otherwise a failed job has the code of `results/failure.json` if it is in the catalogue, else
           `training-failed`. A worker that wrote that file has failed, whatever its exit status.
        """

    @abstractmethod
    def wait(
        self, job_ids: Collection[str], *, seconds: float | None = None, progress: Progress | None = None
    ) -> frozenset[str]:
        """Block until at least one of the jobs is not running; return those that are not.

        1. Empty only if `seconds` have passed (None waits for ever). No busy loop.
        2. Call `progress` for each progress line of these jobs, in this thread. Lines that nobody waits for are lost.
        3. A job destroyed from another thread ends the wait.
        """

    @abstractmethod
    def collect(self, job: Job) -> Mapping[str, Output]:
        """Find the declared outputs that exist, by path.

        State before and after: finished (ValueError otherwise). Must be idempotent.

        1. Only declared paths; everything else the worker wrote is ignored.
        2. Only regular files with one name, reached without following a link, together within `results_mib`.
           Anything else under a declared path is refused with `output-refused`, and then nothing is collected.
        3. The outputs can be opened until the job is destroyed.
        """

    @abstractmethod
    def logs(self, job_id: str) -> bytes:
        """Return what the worker printed, up to the runtime's bound: for the vault, never shown."""

    @abstractmethod
    def destroy(self, job_id: str) -> None:
        """End the job and remove every byte of it.

        State before: any. State after: absent. Must be idempotent.

        1. End every process of the job and wait until they are gone.
        2. Remove inputs, results, logs and temporary files, however the worker named, nested or protected them.
        """

    @abstractmethod
    def sweep(self, keep: Collection[str] = ()) -> frozenset[str]:
        """At start-up: destroy every job that is not in `keep`, and half-prepared or lost ones even if they are.

        Returns the ids that are left: prepared, finished or failed. Ends only processes that a runtime over the same
        directory started. Must be idempotent.
        """

    @abstractmethod
    def close(self) -> None:
        """End every running job. What has ended stays for another object over the same directory."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _string_in(raw: bytes, key: str) -> str | None:
    """Return the string under `key` of the JSON object `raw`, if that is all it holds."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or set(document) != {key} or not isinstance(document[key], str):
        return None
    return str(document[key])


def failure_code(raw: bytes) -> str:
    """Return the code in the content of `failure.json` if the catalogue has it, else `training-failed`."""
    code = _string_in(raw, "code")
    return code if code is not None and code in CODES else "training-failed"


def progress_text(line: bytes) -> str | None:
    """Return the text of a worker's line `{"progress": "…"}`: at most 80 plain characters; None for any other line."""
    text = _string_in(line, "progress")
    return text if text is not None and _PROGRESS.fullmatch(text) else None
