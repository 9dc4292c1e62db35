"""What the engines of others have in common: a job in a directory, the same loop, a journal that times its rounds.

An engine is given a directory as the role `federated` finds it: `job.json`, `inputs/PARTY/train.parquet`, and where
that role puts its results, `results/model/`. Whatever the engine, the same job gives the same bytes.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from contracts.errors import CODES, EscrowError
from models.jobs import FederatedJob, Place, Tell, read_job

ENDING_SECONDS: Final = 5.0
"""How long a process may take to end when it is asked to; then it is killed."""

KILLING_SECONDS: Final = 60.0
"""How long the kernel may take to end what was killed."""

_WATCH_SECONDS: Final = 0.1
_END_LOOK_SECONDS: Final = 0.01
_ROUND: Final = "round "


@dataclass(frozen=True)
class Timing:
    """How long a job took.

    Attributes:
        seconds: all of it, processes started and ended.
        rounds: of each round; the first one also holds the exchange of moments before it.
    """

    seconds: float
    rounds: tuple[float, ...]


def quiet(words: str) -> None:
    """Tell nobody."""


def job_in(directory: Path) -> FederatedJob:
    """The job of role `federated` in a directory.

    Raises:
        EscrowError: `document-invalid` for another role, and what `read_job` raises.
    """
    job = read_job(directory / "job.json")
    if not isinstance(job, FederatedJob):
        raise EscrowError("document-invalid", "Only a job of role federated can be given to another engine.")
    return job


class Journal:
    """What happens in processes that others start for us, one JSON object a line, each with its moment.

    Moments are of the machine's monotonic clock, which all of its processes share.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def tell(self, words: str) -> None:
        """Note progress."""
        self._note({"progress": words})

    def failed(self, error: EscrowError) -> None:
        """Note why the job failed."""
        self._note({"code": error.code, "message": error.message, "party": error.party})

    def entries(self) -> list[dict[str, Any]]:
        """What was noted; a line that is still being written is left out."""
        if not self._path.exists():
            return []
        return [json.loads(line) for line in self._path.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def rounds(self) -> tuple[float, ...]:
        """Seconds of each round; the first entry is the loop's beginning."""
        entries = self.entries()
        ends = [each["at"] for each in entries if each.get("progress", "").startswith(_ROUND)]
        starts = [each["at"] for each in entries[:1]] + ends
        return tuple(end - start for start, end in zip(starts, ends, strict=False))

    def raise_failure(self) -> None:
        """Raise what was noted as failed, if anything was."""
        for entry in self.entries():
            if "code" in entry:
                raise EscrowError(entry["code"], entry["message"], party=entry["party"])

    def _note(self, what: Mapping[str, Any]) -> None:
        line = json.dumps({**what, "at": time.monotonic()}) + "\n"
        with self._path.open("a") as file:
            file.write(line)


@contextmanager
def noted(journal: Journal) -> Iterator[None]:
    """Note a failure, if there is one; nothing but an error's own words is told."""
    try:
        yield
    except EscrowError as error:
        journal.failed(error)
        raise
    except Exception as error:
        journal.failed(EscrowError("training-failed", f"The round loop failed ({type(error).__name__})."))
        raise


class Started:
    """A process of ours and whatever it starts: a group that ends together, and with this process if that is killed."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "models.federated.child", str(os.getpid()), *command],
                env=dict(environment),
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.name, self.log = Path(command[0]).name, log

    @property
    def pid(self) -> int:
        """The process's id, and its group's."""
        return self._process.pid

    def ended(self) -> int | None:
        """The exit code, if it has ended."""
        return self._process.poll()

    def wait(self, seconds: float) -> int | None:
        """The exit code, or None if it goes on after so many seconds."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def ask_to_end(self) -> None:
        """Ask the whole group to end."""
        self._signal(signal.SIGTERM)

    def end(self) -> None:
        """End it and all that it started; idempotent.

        When it returns none of them runs, so nobody writes into what is removed next.

        Raises:
            EscrowError: `worker-lost` if the kernel does not end them.
        """
        self.ask_to_end()
        self.wait(ENDING_SECONDS)
        self._signal(signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + KILLING_SECONDS
        while _goes_on(self.pid):  # nobody but the kernel waits for those that it started
            if time.monotonic() > deadline:
                raise EscrowError("worker-lost", f"{self.name} was killed, and something of it still runs.")
            time.sleep(_END_LOOK_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return  # nobody of the group is left


def _goes_on(group: int) -> bool:
    """Whether a process of a group has not ended, or a thread of one; what nobody has waited for yet has ended."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile, or is none of ours
        state, its_group, threads = fields[0], int(fields[2]), int(fields[17])  # fields 3, 5 and 20 of proc(5)
        if its_group == group and (state not in "ZX" or threads > 1):
            return True
    return False


def watched(process: Started, others: Sequence[Started], journal: Journal, tell: Tell, *, until: float) -> None:
    """Pass on all that the journal is told until the process has ended.

    Raises:
        EscrowError: what the journal says has failed; `worker-lost` if it failed without saying why, or one of the
            others ended meanwhile; `limit-time` after `until`, a moment of the monotonic clock.
    """
    told, goes_on = 0, True
    while goes_on:
        goes_on = process.wait(_WATCH_SECONDS) is None  # before the look into the journal, which so misses nothing
        entries = journal.entries()
        for entry in entries[told:]:
            if "progress" in entry:
                tell(entry["progress"])
        told = len(entries)
        if goes_on:
            _require_going_on(others, until)
    journal.raise_failure()
    if process.ended() != 0:
        raise EscrowError("worker-lost", f"{process.name} failed without saying why.")


def _require_going_on(others: Sequence[Started], until: float) -> None:
    for other in others:
        if other.ended() is not None:
            raise EscrowError("worker-lost", f"{other.name} ended by itself.")
    if time.monotonic() > until:
        raise EscrowError("limit-time", "The engine took longer than it may.", CODES["limit-time"].hint)


def environment(home: Path) -> dict[str, str]:
    """What a Flower process of ours is given: our code and its tools, one thread, no telemetry and nothing to look up.

    Args:
        home: where it may keep what it installs.
    """
    code = Path(__file__).resolve().parents[2]
    return {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
        "PYTHONPATH": os.pathsep.join([str(code), *filter(None, sys.path)]),
        "HOME": str(home),
        "TMPDIR": str(home),
        "LANG": "C.UTF-8",
        "FLWR_HOME": str(home / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


def begun(place: Place) -> None:
    """Make room for a job's results; whatever lies there afterwards is of this job.

    Raises:
        EscrowError: `file-unwritable` if results of another are there.
    """
    place.results.mkdir(exist_ok=True)
    if any(place.results.iterdir()):
        raise EscrowError("file-unwritable", "The job has results already.", "Give the engine a new directory.")


def finished(place: Place) -> None:
    """Refuse a job that ended without its model: `worker-lost`."""
    if not (place.results / "model").is_dir():
        raise EscrowError("worker-lost", "The engine ended without a model and without saying why.")
