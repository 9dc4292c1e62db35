"""Runs workers sealed, in containers of the engine on this machine; see `escrow.runtime.confinement` for the sealing.

What a worker is given lies in memory (tmpfs) and is mounted read-only; what it may write is in memory too. Under
`gvisor` it meets the kernel of gVisor (`runsc`) instead of this machine's. Between the escrow and each worker stand a
keeper, which holds the results (`cells.py`), a thread that follows the worker (`watch.py`), and for the day the escrow
dies a guard (`guard.py`).

A job that has ended has its results in its home (see `escrow.runtime.local`) and nothing in the engine. Of the limits,
processes, open files and temporary files are refused by the kernel when they are used up, which a worker may survive;
if it does not, its code is its own or `training-failed`, because the kernel tells nobody else. A failed worker whose
results take up all their room has `limit-results`.
"""

import hashlib
import os
import secrets
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import docker

from contracts.capsule import Capsule
from contracts.errors import EscrowError
from contracts.terms import Digest
from escrow.runtime import confinement, folders
from escrow.runtime.base import Output, Progress, State, Status
from escrow.runtime.cells import Cell, answering, left_in, socket_of
from escrow.runtime.children import Guard
from escrow.runtime.confinement import GVISOR, LIFE, Names, unlimited
from escrow.runtime.images import engine, find
from escrow.runtime.images.capsule import check_image
from escrow.runtime.images.engine import KIND
from escrow.runtime.job import Job
from escrow.runtime.local import LocalRuntime
from escrow.runtime.watch import REFUSED, RESULTS, Watch

_RUNTIMES: Final = {"container": "runc", "gvisor": GVISOR}
_AT_ONCE: Final = 4


@dataclass(frozen=True)
class _Kept:
    """What a job has in the engine before it is started: a cell whose keeper is on its way, if one was called."""

    cell: Cell
    keeper: Future[None] | None = None


class ContainerRuntime(LocalRuntime):
    """A runtime of containers; see `Runtime` for what each method owes.

    Raises `engine-missing`, `image-missing`, `image-refused` for an image that asks for volumes, and `runtime-unfit` if
    the engine has no gVisor, cannot keep a limit, or is not on this machine, or if the directory is not in memory.

    Args:
        root: directory of this escrow's jobs alone, on tmpfs.
        image: tag or ID of the worker's image; what it names now is what runs for the life of this object.
        sealing: `container` or `gvisor`.
        capacity: how many jobs should compute at once; the number of usable cores by default.
        client: of the engine; one of its own by default.
        command: the escrow's own worker in the image, to which the directories of job and results are added.

    """

    rooms = ()
    results = RESULTS
    file_mode = 0o444  # the directories above are the escrow's alone, and the worker is another user

    def __init__(
        self,
        root: Path,
        *,
        image: str,
        sealing: Literal["container", "gvisor"] = "container",
        capacity: int | None = None,
        client: docker.DockerClient | None = None,
        command: Sequence[str] = ("python3", "-m", "models.worker"),
    ) -> None:
        super().__init__(root, capacity=capacity)
        with ExitStack() as stack:  # what is undone if there can be no runtime
            stack.callback(self._leave)
            folders.require_memory(self.root)
            self.sealing = sealing
            self._own = client is None
            self._client = engine() if client is None else client
            stack.callback(self._close_client)
            self._settle(image, command)
            stack.pop_all()

    def _settle(self, image: str, command: Sequence[str]) -> None:
        self._image = find(self._client, image).id
        self._fit = {self._fitting(self._image)}
        self._command = tuple(command)
        self._cpus = _processors(self._client, _RUNTIMES[self.sealing])
        self._name = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        self._label = secrets.token_hex(8)
        self._guard = Guard(socket_of(self._client), f"{LIFE}={self._label}")
        self._kept = {job_id: _Kept(self._cell(job_id, empty=False)) for job_id in left_in(self._client, self._name)}
        self._guarding = threading.Lock()
        self._watches: dict[str, Watch] = {}
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="keepers")

    def _cell(self, job_id: str, *, empty: bool) -> Cell:
        return Cell(self._client, Names(self._name, job_id, self._label), empty=empty)

    def _fitting(self, image: Digest) -> Digest:
        """Refuse an image whose containers would write to a disk."""
        with answering():
            if self._client.images.get(image).attrs["Config"].get("Volumes"):
                raise EscrowError("image-refused", f"The image {image} asks for volumes, which would lie on a disk.")
        return image

    @property
    def warning(self) -> str:
        """Whether what lies in memory could reach a disk all the same."""
        if len(Path("/proc/swaps").read_text(encoding="utf-8").splitlines()) <= 1:
            return ""
        return f"this machine swaps: what lies in memory in {self.root} may reach its disk"

    def worker(self) -> Digest:
        """The ID of the worker's image: the digest of its configuration, which names every byte of it."""
        return self._image

    def images(self) -> frozenset[Digest]:
        """See `Runtime.images`: those that were made here from a capsule's environment."""
        with answering():
            found = self._client.images.list(filters={"label": f"{KIND}=capsule"})
        return frozenset(str(each.id) for each in found)

    def require_image(self, image: Digest, capsule: Capsule) -> None:
        """See `Runtime.require_image`."""
        check_image(self._client, image, capsule)

    def prepare(self, job: Job) -> None:
        """See `Runtime.prepare`; meanwhile the engine gets ready."""
        if job.program is not None and job.program.image not in self._fit:
            self._fit.add(self._fitting(job.program.image))
        super().prepare(job)

    def _fill(self, top: Path, job: Job) -> None:
        self._keep(job)
        super()._fill(top, job)

    def _keep(self, job: Job) -> _Kept:
        """Let a keeper be started for the job, unless one is on its way."""
        kept = self._kept.get(job.id)
        if kept is None or kept.keeper is None:
            with self._guarding:
                self._guard.watch()
            cell = self._cell(job.id, empty=True) if kept is None else kept.cell
            cell.remove()
            config = confinement.keeper(job, cell.names, image=self._image)
            kept = _Kept(cell, self._pool.submit(cell.keep, config))
            with self._table:
                self._kept[job.id] = kept
        return kept

    def _launch(self, job: Job, home: Path) -> None:
        kept = self._keep(job)
        config = confinement.worker(
            job,
            kept.cell.names,
            top=home / "job",
            image=self._image,
            command=self._command,
            runtime=_RUNTIMES[self.sealing],
            cpus=self._cpus,
        )
        try:
            kept.cell.furnish(config)
            if kept.keeper is not None:
                kept.keeper.result()
        except BaseException:
            try:
                if kept.keeper is not None:
                    kept.keeper.exception()  # wait: a late one would take the next keeper away and empty its volume
            finally:
                with self._table:
                    self._kept[job.id] = _Kept(kept.cell)  # the next attempt begins with a new keeper
            raise
        started = home / "started"
        started.write_bytes(b"")
        try:
            watch = Watch(kept.cell, job, home, self._table)
            with self._table:
                self._watches[job.id] = watch
            watch.begin()
        except BaseException:
            self._end(job.id)  # until that works the job is absent: the engine may start it yet
            started.unlink()
            raise

    def status(self, job_id: str) -> Status:
        """See `Runtime.status`; a failure that found no room on the machine is remembered here."""
        found = super().status(job_id)
        if found.state is State.ABSENT:
            with self._table:
                watch = self._watches.get(job_id)
            if watch is not None and watch.ended and watch.unwritten is not None:
                return Status(State.FAILED, watch.unwritten)
        return found

    def _running(self, job_id: str) -> bool:
        with self._table:
            watch = self._watches.get(job_id)
            return watch is not None and not watch.ended

    @contextmanager
    def _life(self, job_id: str) -> Iterator[int]:
        with self._table:
            watch = self._watches.get(job_id)
            if watch is None or watch.life < 0:
                raise EscrowError("worker-silent", f"Job {job_id} has ended.")
            life = os.dup(watch.life)
        try:
            yield life
        finally:
            os.close(life)

    def wait(
        self, job_ids: Collection[str], *, seconds: float | None = None, progress: Progress | None = None
    ) -> frozenset[str]:
        """See `Runtime.wait`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            with self._table:
                told = self._told(job_ids)
                ended = frozenset(job_id for job_id in job_ids if not self._running(job_id))
                left = None if deadline is None else deadline - time.monotonic()
                over = bool(ended) or (left is not None and left <= 0)
                if not told and not over:
                    self._table.wait(left)
            for job_id, text in told:
                if progress is not None:
                    progress(job_id, text)
            if over:
                return ended

    def _told(self, job_ids: Collection[str]) -> list[tuple[str, str]]:
        heard = [job_id for job_id in job_ids if job_id in self._watches and job_id not in self._silenced]
        watches = [(job_id, self._watches[job_id]) for job_id in heard]
        return [(job_id, watch.told.popleft()) for job_id, watch in watches for _ in range(len(watch.told))]

    def collect(self, job: Job) -> Mapping[str, Output]:
        """See `Runtime.collect`; what was refused was refused when the worker had ended."""
        refused = self._home(job.id) / REFUSED
        if refused.exists():
            raise EscrowError("output-refused", f"What the worker left was refused: {refused.read_text('utf-8')}.")
        return super().collect(job)

    def _end(self, job_id: str) -> None:
        with self._table:
            watch, kept = self._watches.get(job_id), self._kept.get(job_id)
        if watch is not None:
            watch.destroy()
        elif kept is not None:
            if kept.keeper is not None:
                kept.keeper.exception()  # wait for it
            kept.cell.remove()
        with self._table:
            self._watches.pop(job_id, None)
            self._kept.pop(job_id, None)
            self._table.notify_all()

    def sweep(self, keep: Collection[str] = ()) -> frozenset[str]:
        """See `Runtime.sweep`; a job that is only prepared gets a new keeper when it starts."""
        left = super().sweep(keep)
        for job_id in self._held() | left_in(self._client, self._name):
            with self._duties.of(job_id):
                with self._table:
                    runs = job_id in self._watches
                    self._kept.setdefault(job_id, _Kept(self._cell(job_id, empty=False)))
                if not runs:
                    self._end(job_id)
        return left

    def _held(self) -> set[str]:
        with self._table:
            return {*self._watches, *self._kept}

    def close(self) -> None:
        """See `Runtime.close`."""
        with ExitStack() as stack:  # each is done, whatever another raises
            for end in (self._close_client, self._guard.close, self._pool.shutdown):
                stack.callback(end)
            super().close()

    def _close_client(self) -> None:
        if self._own:
            self._client.close()


def _processors(client: docker.DockerClient, runtime: str) -> int:
    """How many processors the engine may give; `runtime-unfit` if it cannot seal a worker."""
    with answering():
        told = client.info()
    if runtime not in told["Runtimes"]:
        raise EscrowError(
            "runtime-unfit",
            f"The container engine has no runtime {runtime}.",
            "Install gVisor and name it to the engine, or choose --sealing container.",
        )
    if missing := unlimited(told):
        raise EscrowError("runtime-unfit", f"The container engine cannot limit {', '.join(missing)}.")
    return int(told["NCPU"])
