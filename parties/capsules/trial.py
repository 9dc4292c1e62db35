"""A capsule run on its author's machine, by the same job as at the escrow (`escrow.runtime.capsules`).

What it printed is shown here, because the machine and the rows are the author's own; what others would be told is
kept apart from it.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from contracts.capsule import Capsule
from contracts.errors import EscrowError
from contracts.statements import ErrorPlace
from contracts.terms import Digest
from escrow.runtime.base import Output, Runtime, Sealing, State
from escrow.runtime.capsules import capsule_job, failure, within_sizes
from escrow.runtime.folders import make_private
from escrow.runtime.job import Job, Source
from escrow.runtime.process import memory_root

JOB: Final = "trial"
_TICK: Final = 0.5  # seconds between two words to whoever waits

Told = Callable[[int, int | None], object]
"""Hears how many of how many seconds have passed."""


@dataclass(frozen=True)
class Trial:
    """How a run went.

    Attributes:
        sealing: what it ran in.
        confidential: whether it ran as on confidential rows.
        written: declared output that was written → bytes.
        missing: declared outputs that were not, without which a run has failed.
        seconds: that it took.
        code: what the escrow would tell others if it failed.
        place: where in the capsule's code, if that can be told.
        log: what it printed.
    """

    sealing: Sealing
    confidential: bool
    written: Mapping[str, int]
    missing: tuple[str, ...]
    seconds: float
    code: str | None
    place: ErrorPlace | None
    log: bytes


def tables_in(folder: Path, capsule: Capsule) -> dict[str, Source]:
    """The files of a directory that stand for the confidential rows, by their declared names.

    Raises:
        EscrowError: `tables-differ` if one is not there; a source raises `file-unreadable` if it cannot be opened.
    """
    missing = [name for name in capsule.declaration.data if not (folder / name).is_file()]
    if missing:
        raise EscrowError("tables-differ", f"{folder} does not hold {', '.join(missing)}, which the capsule reads.")
    return {name: _copy_of(folder / name) for name in capsule.declaration.data}


def _copy_of(file: Path) -> Source:
    def write(target: BinaryIO) -> None:
        try:
            source = file.open("rb")
        except OSError as error:
            raise EscrowError("file-unreadable", f"{file} cannot be read: {error.strerror}.") from None
        with source:
            shutil.copyfileobj(source, target)

    return write


@contextmanager
def private_root(folder: Path) -> Iterator[Path]:
    """Where the jobs of the capsule in a directory lie, in memory if the machine allows, for one command at a time.

    Raises:
        EscrowError: `runtime-busy`.
    """
    root = make_private(memory_root(folder))
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EscrowError("runtime-busy", "This capsule is running already.", "Wait until it has ended.") from None
        try:
            yield root
        finally:
            with suppress(OSError):  # something was left, for the next command to sweep
                root.rmdir()
    finally:
        os.close(descriptor)


def try_out(
    capsule: Capsule,
    runtime: Runtime,
    *,
    image: Digest,
    tables: Mapping[str, Source] | None,
    out: Path,
    told: Told,
) -> Trial:
    """Run a capsule to its end; what it wrote replaces what an earlier run wrote.

    Args:
        capsule: what runs.
        runtime: what runs it.
        image: what it runs in; a plain process ignores it.
        tables: file of `/data` → rows, as if they were confidential; None for its own synthetic rows.
        out: directory for its declared outputs.
        told: hears how long it has been running.

    Raises:
        EscrowError: as `capsule_job`, `file-unwritable`, or what keeps the runtime from running anything.
    """
    job = capsule_job(JOB, capsule, image=image, tables=tables, party=None)
    try:
        runtime.prepare(job)
        began = time.monotonic()
        runtime.start(job)
        while not runtime.wait([JOB], seconds=_TICK):
            told(int(time.monotonic() - began), job.limits.seconds)
        seconds = time.monotonic() - began
        code, outputs = _ended(runtime, job, capsule)
        missing = () if code else tuple(path for path in job.outputs if path not in outputs)
        _write(outputs, job.outputs, out)
        log = runtime.logs(JOB)
        failed = failure(job, code, log) if code or missing else None
        return Trial(
            sealing=runtime.sealing,
            confidential=tables is not None,
            written={path: output.size for path, output in outputs.items()},
            missing=missing,
            seconds=seconds,
            code=failed.code if failed else None,
            place=failed.place if failed else None,
            log=log,
        )
    finally:
        runtime.destroy(JOB)


def _ended(runtime: Runtime, job: Job, capsule: Capsule) -> tuple[str | None, Mapping[str, Output]]:
    """The runtime's word for how it failed, if it did, and what can be collected."""
    status = runtime.status(job.id)
    if status.state is not State.FINISHED:
        return status.code or "capsule-failed", {}
    try:
        outputs = runtime.collect(job)
        within_sizes(capsule.declaration.outputs, outputs)
    except EscrowError as error:
        if error.code != "output-refused":
            raise
        return error.code, {}
    return None, outputs


def _write(outputs: Mapping[str, Output], declared: Iterable[str], out: Path) -> None:
    try:
        for path in declared:
            (out / path).unlink(missing_ok=True)
        for path, output in outputs.items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            with output.open() as source, (out / path).open("wb") as target:
                shutil.copyfileobj(source, target)
    except OSError as error:
        raise EscrowError("file-unwritable", f"{error.filename} cannot be written: {error.strerror}.") from None
