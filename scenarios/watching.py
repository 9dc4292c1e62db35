"""What an operator sees of a run: the simulator is the operator, and reads the evidence along.

Sealing does not keep the operator out: containers keep the code that runs from the network and from the machine, not
whoever controls the machine from the memory. `Watching` shows what that means, whatever kind of runtime it is around.
"""

import socket
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from contracts.canonical import parse
from contracts.gain import Measurement
from contracts.gate import Evidence
from contracts.terms import Digest
from escrow.disk import private, write_whole
from escrow.runtime.base import Output, Progress, Runtime, Status
from escrow.runtime.job import Job
from escrow.sealing import Seal


class Watching(Runtime):
    """A runtime whose operator reads along: keeps the evidence of every run, also of one that withholds.

    Args:
        runtime: what runs the jobs.
        seen: directory where the evidence is written down, one file for each job that measured.
    """

    def __init__(self, runtime: Runtime, seen: Path) -> None:
        self._runtime = runtime
        self.sealing, self.capacity = runtime.sealing, runtime.capacity
        self.folder = private(seen)

    def collect(self, job: Job) -> Mapping[str, Output]:
        """As the runtime within, with a copy of the evidence."""
        found = self._runtime.collect(job)
        if job.spec.get("role") == "evaluate":
            folder = private(_folder(self.folder, str(job.spec["contract"])))
            write_whole(folder / f"{job.id}.json", found["evidence.json"].read())
        return found

    @property
    def warning(self) -> str:
        """See `Runtime.warning`."""
        return self._runtime.warning

    def worker(self) -> Digest:
        """See `Runtime.worker`."""
        return self._runtime.worker()

    def prepare(self, job: Job) -> None:
        """See `Runtime.prepare`."""
        self._runtime.prepare(job)

    def start(self, job: Job) -> None:
        """See `Runtime.start`."""
        self._runtime.start(job)

    def status(self, job_id: str) -> Status:
        """See `Runtime.status`."""
        return self._runtime.status(job_id)

    def wait(
        self, job_ids: Collection[str], *, seconds: float | None = None, progress: Progress | None = None
    ) -> frozenset[str]:
        """See `Runtime.wait`."""
        return self._runtime.wait(job_ids, seconds=seconds, progress=progress)

    def link(self, job_id: str, *, seconds: float) -> socket.socket:
        """See `Runtime.link`."""
        return self._runtime.link(job_id, seconds=seconds)

    def logs(self, job_id: str) -> bytes:
        """See `Runtime.logs`."""
        return self._runtime.logs(job_id)

    def destroy(self, job_id: str) -> None:
        """See `Runtime.destroy`."""
        self._runtime.destroy(job_id)

    def sweep(self, keep: Collection[str] = ()) -> frozenset[str]:
        """See `Runtime.sweep`."""
        return self._runtime.sweep(keep)

    def close(self) -> None:
        """See `Runtime.close`."""
        self._runtime.close()


def seen(folder: Path, contract: str) -> dict[str, Measurement]:
    """What the operator saw of a contract's first run, by the number of the clause; empty if it was never measured.

    One job measured for everybody, or one for each party.
    """
    found: dict[str, Measurement] = {}
    for path in sorted(_folder(folder, contract).glob("*.json")):
        document = parse(path.read_bytes())
        if not isinstance(document, dict):
            raise TypeError("evidence is not an object")
        found |= Evidence.model_validate({**document, "run": 1}).measurements
    return found


def _folder(folder: Path, contract: str) -> Path:
    return folder / contract.removeprefix("sha256:")


def cleared(seal: Seal, directory: Path) -> None:
    """See that the jobs of the escrow in a directory can run on this machine, and that none is left there.

    Raises:
        EscrowError: as `Seal.runtime`.
    """
    try:
        with seal.runtime(directory) as runtime:
            runtime.sweep()
    finally:
        with suppress(OSError):  # who could not sweep says why
            seal.jobs(directory).rmdir()
