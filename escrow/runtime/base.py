"""What an executor of jobs owes the escrow.

A job is one stage of one run for one party: a directory with `job.json` and `inputs/`, a worker that reads them and
writes into `results/`, and limits. The docstrings of `Runtime` are the contract that every executor keeps, a plain
child process as well as a container; the stages of a run are written against them and nothing else. What a job is
stands in `escrow.runtime.job`.

    absent ──prepare──► prepared ──start──► running ──► finished | failed
       ▲                    │                  │               │
       └────────────────────┴──── destroy ─────┴───────────────┘

Rules for every duty:

1. It is idempotent: called again in its state after, it does nothing and succeeds.
2. Jobs are told apart by their id alone; two jobs never share a file.
3. Nothing that a worker writes reaches a person unless it is a declared output, a catalogued code, a party's name or a
   short progress line; of a program, which is somebody's code, only a declared output does. What it prints is kept for
   the vault.
4. No job outlives the escrow that started it: after a crash every job that had not ended is absent.
"""

import json
import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import BinaryIO, Final, Literal, Self

from contracts.capsule import Capsule
from contracts.errors import CODES
from contracts.terms import Digest
from escrow.runtime.job import Job

Sealing = Literal["none", "container", "gvisor"]
FAILURE_BYTES_AT_MOST: Final = 4096
DIAL_SECONDS: Final = 120.0
"""From a start until a worker dials its door, which it does before it has loaded anything (`Runtime.link`)."""
LAST_WORD_SECONDS: Final = 5.0
"""In which a worker whose stream broke is expected to have ended, and said why."""
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")  # as `contracts.terms.Name`
_PROGRESS: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ,.:/%()=+_-]{0,79}")


class State(StrEnum):
    """Where a job stands."""

    ABSENT = "absent"  # nothing usable: never prepared, destroyed, or lost with the escrow that ran it
    PREPARED = "prepared"  # inputs are complete; nothing runs
    RUNNING = "running"
    FINISHED = "finished"  # ended well; outputs can be collected
    FAILED = "failed"  # ended otherwise; the status has a code


@dataclass(frozen=True)
class Status:
    """A job's state.

    Attributes:
        state: where it stands.
        code: when it failed, why: a key of `contracts.errors.CODES`.
        party: whom the worker blames for that, if one party: its own word, which whoever relies on it compares with the
            job's roster.

    """

    state: State
    code: str | None = None
    party: str | None = None


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
    """How many jobs should compute at once; who starts jobs minds it (see `escrow.turns`)."""

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

    def images(self) -> frozenset[Digest] | None:
        """The images that programs can run in here; None where they run in none, and any is as good."""
        return None

    def require_image(self, image: Digest, capsule: Capsule) -> None:  # noqa: B027 - without images nothing is refused
        """Refuse an image that was not made from the capsule's environment: `image-missing` or `image-refused`.

        A plain process runs in no image, so nothing is refused.
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
        2. Give the worker its directory, the limits, and nothing else: no secret, no input stream, no open file.

        An absent job is a ValueError.
        """

    @abstractmethod
    def status(self, job_id: str) -> Status:
        """Tell the job's state, from what is on the machine; changes nothing.

        1. Finished and failed outlive the escrow: another object over the same directory tells the same.
        2. A job that exceeded a limit has its `limit-…` code, whatever the worker wrote.
        3. Otherwise a worker that wrote `results/failure.json` has failed, whatever its exit status, with the code and
           the party in there (see `failure`), or with `training-failed` if that is no such file.
        4. Otherwise a worker that SIGKILL has ended has `worker-lost`, as has one whose supervisor is gone: somebody or
           the machine ended it, not a limit and not this object. A worker can do that to itself, and, sealed, can end
           with status 137, which is the same; so the code says how it ended and proves nothing about who did it.
        5. Any other failure is `training-failed`, a crash (SIGSEGV, SIGABRT) included.
        6. A failed program has `capsule-failed` instead of 3 to 5, whatever it wrote and however it ended, and blames
           nobody.
        7. A job that is being destroyed is running or absent, never failed for that.
        """

    @abstractmethod
    def wait(
        self, job_ids: Collection[str], *, seconds: float | None = None, progress: Progress | None = None
    ) -> frozenset[str]:
        """Block until at least one of the jobs is not running; return those that are not.

        1. Empty only if `seconds` have passed (None waits for ever). No busy loop.
        2. Call `progress` for each progress line of these jobs, in this thread. Lines that nobody waits for are lost;
           those of a program are never passed on.
        3. A job destroyed from another thread ends the wait.
        """

    @abstractmethod
    def link(self, job_id: str, *, seconds: float) -> socket.socket:
        """Wait until the worker of a started job with a door dials it; the escrow's end of that stream.

        1. One connection a job: once it is made nobody can dial again, and a second call is a ValueError.
        2. `worker-silent` if the worker has not dialled after `seconds`, or has ended.
        3. The stream ends when the job does. The caller closes it.
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


def _object(raw: bytes) -> dict[str, object]:
    """The JSON object `raw`; empty for anything else."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def failure(raw: bytes) -> Status:
    """What `failure.json` says: `{"code": "…"}` of the catalogue, and maybe `"party": "…"`.

    Anything else says `training-failed`; a party that is no plain name is passed over.
    """
    document = _object(raw)
    code, party = document.get("code"), document.get("party")
    if not {"code"} <= set(document) <= {"code", "party"} or not isinstance(code, str) or code not in CODES:
        return Status(State.FAILED, "training-failed")
    return Status(State.FAILED, code, party if isinstance(party, str) and _NAME.fullmatch(party) else None)


def progress_text(line: bytes) -> str | None:
    """Return the text of a worker's line `{"progress": "…"}`: at most 80 plain characters; None for any other line."""
    document = _object(line)
    text = document.get("progress")
    return text if len(document) == 1 and isinstance(text, str) and _PROGRESS.fullmatch(text) else None
