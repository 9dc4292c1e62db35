"""Jobs for the tests of runtimes, done by a worker that misbehaves as it is told (`escrow/naughty.py`)."""

import os
import select
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from contracts.errors import EscrowError
from escrow.runtime.base import Runtime, State, Status
from escrow.runtime.job import Job, Limits, Source

NAUGHTY = Path(__file__).with_name("escrow") / "naughty.py"
PATIENCE = 60.0  # seconds that no test should need
FINISHED = Status(State.FINISHED)


def job(
    do: str, *, job_id: str = "job-1", outputs: tuple[str, ...] = ("out.bin",), door: bool = False, **limits: int
) -> Job:
    """A job that does one thing."""
    inputs: dict[str, Source] = {"in.bin": b"input"}
    return Job(job_id, {"do": do}, inputs, outputs, Limits(**limits), door=door)


def run(runtime: Runtime, what: Job) -> Status:
    """Run a job to its end."""
    runtime.prepare(what)
    runtime.start(what)
    assert runtime.wait([what.id], seconds=PATIENCE) == {what.id}
    return runtime.status(what.id)


def start_and_hear(runtime: Runtime, what: Job) -> None:
    """Start a job that says `sleeping`, and return when it has said so."""

    class Heard(Exception):  # noqa: N818 - an event
        pass

    def heard(job_id: str, text: str) -> None:
        raise Heard

    runtime.prepare(what)
    runtime.start(what)
    with pytest.raises(Heard):
        runtime.wait([what.id], seconds=PATIENCE, progress=heard)


def refused(code: str):
    """Expect a refusal with a code."""
    return pytest.raises(EscrowError, check=lambda error: error.code == code)


def has_ended(pidfd: int) -> bool:
    """Wait for a process to end."""
    try:
        return bool(select.select([pidfd], [], [], PATIENCE)[0])
    finally:
        os.close(pidfd)


def processes(word: str) -> Iterator[int]:
    """Pids of the processes that have `word` on their command line."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if word.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    yield int(entry.name)
