"""Plain processes that pass for containers: runs whose jobs are sealed apart, without an engine."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from escrow.runtime.job import Job
from escrow.runtime.process import ProcessRuntime
from models.table import Prepared
from scenarios import tiny
from scenarios.consortium import Consortium

PATIENCE = 60.0  # seconds that no test should need
BANKS = ("north", "harbour")
FEDAVG = {"name": "fedavg", "rounds": 3}


class Pretended(ProcessRuntime):
    """Plain processes that pass for containers; remembers the jobs that it was given."""

    sealing = "container"

    def __init__(self, root: Path) -> None:
        worker = Path(__file__).with_name("sealed_worker.py")
        super().__init__(root, command=(sys.executable, str(worker)), packages=(), capacity=2)
        self.given: dict[str, Job] = {}
        self.prepared: Counter[str] = Counter()

    def prepare(self, job: Job) -> None:
        self.given[job.id] = job
        self.prepared[job.id.split("-", 2)[2]] += 1
        super().prepare(job)

    def kill(self, name: str) -> None:
        """End a running job's processes from outside, as the machine might."""
        (child,) = (child for job_id, child in list(self._children.items()) if job_id.endswith(name))
        child.process.kill()

    def asked(self, number: int) -> list[Path]:
        """Wait until every bank's worker that there is, all of which wait, was asked in a round; where each waits."""
        places = [self.root / job_id / "job/tmp" for job_id in list(self._children) if "-client-" in job_id]
        pause, deadline = threading.Event(), time.monotonic() + PATIENCE
        while any(place.exists() and not (place / f"asked-{number}").exists() for place in places):
            assert time.monotonic() < deadline, f"somebody was never asked in round {number}"
            pause.wait(0.01)
        return places

    def answer(self, number: int) -> None:
        """Let the banks' workers, all of which wait, answer in a round."""
        for place in self.asked(number):
            with suppress(FileNotFoundError):  # the job was destroyed meanwhile
                (place / f"answer-{number}").touch()


Sealed = Callable[..., Consortium]
Progress = Callable[[str, str], None]


@pytest.fixture
def sealed(tmp_path: Path, clock: tiny.Clock) -> Iterator[Sealed]:
    """Makes a consortium of two banks whose escrow seals jobs apart."""
    threads = set(threading.enumerate())
    made: list[Consortium] = []

    def make(**others: Any) -> Consortium:
        runtime = Pretended(tmp_path / "jobs")
        made.append(tiny.founded(tmp_path / "consortium", runtime, clock, banks=BANKS, **others))
        return made[-1]

    yield make
    for consortium in made:
        assert list(consortium.core.runtime.root.iterdir()) == []  # type: ignore[attr-defined]
        consortium.close()
        consortium.core.runtime.close()
    assert set(threading.enumerate()) <= threads


def approved(consortium: Consortium, method: Mapping[str, Any] = FEDAVG, **terms: Any) -> str:
    document = consortium.draft(model={"family": "logistic"}, method=method, **terms)
    digest = consortium.propose(consortium.contract(document))
    consortium.approve(digest)
    return digest


def nothing_left(consortium: Consortium) -> None:
    assert [path for path in (consortium.core.directory / "runs").rglob("*") if path.is_file()] == []
    assert list(consortium.core.runtime.root.iterdir()) == []  # type: ignore[attr-defined]


def wishing(**wishes: str) -> dict[str, tuple[Prepared, Prepared]]:
    """Tables of banks whose workers do something else (see `sealed_worker`)."""
    made = {}
    for bank, wish in wishes.items():
        train, holdout = tiny.tables(BANKS.index(bank), bank, banks=len(BANKS))
        terminals = np.array([f"{wish}-{each}" for each in train.terminals])
        made[bank] = (replace(train, terminals=terminals), holdout)
    return made


def waiting() -> dict[str, tuple[Prepared, Prepared]]:
    """Both banks wait for the test, so that what happens in a round happens in that round, however slow the machine."""
    return wishing(north="wait", harbour="wait")


def runtime_of(consortium: Consortium) -> Pretended:
    assert isinstance(consortium.core.runtime, Pretended)
    return consortium.core.runtime


def round_told(words: str) -> int | None:
    """The round that begins, when progress says so; in round 0 the own models are asked for."""
    if words == "own models":
        return 0
    return int(words.split()[1]) if words.startswith("round ") else None


def killing(consortium: Consortium, plan: Mapping[str, str], told: list[str] | None = None) -> Progress:
    """Kills a job, once, when progress comes to some words, in all other rounds lets the banks answer."""
    runtime, left = runtime_of(consortium), dict(plan)

    def progress(_: str, words: str) -> None:
        if told is not None:
            told.append(words)
        number = round_told(words)
        if number is not None:
            runtime.asked(number)  # and so the round before it is kept
        if words in left:
            runtime.kill(left.pop(words))
        elif number is not None:
            runtime.answer(number)

    return progress


@contextmanager
def paused(consortium: Consortium, run: Callable[..., Any], digest: str, at: str) -> Iterator[Any]:
    """A run of banks that wait, in a thread of its own; it has come to where it says `at`, and comes to its last round.

    Yields the future of its result.
    """
    runtime, reached = runtime_of(consortium), threading.Event()

    def progress(_: str, words: str) -> None:
        if words == at:
            reached.set()
        number = round_told(words)
        if number is not None and not words.endswith(f" {number}"):
            runtime.answer(number)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, digest, progress)
        try:
            assert reached.wait(PATIENCE)
            yield running
        finally:
            if not running.done():  # the test has failed: let its run end
                runtime.close()
