"""A capsule's run is killed with SIGKILL, or left, at every step, and ends as it would have."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contracts import statements as st
from contracts.entries import read_leaf
from escrow.audit import audit
from escrow.leaving import LeavingRuns, LeftError
from parties.identity import pinned
from parties.release import fetch, verify_release
from scenarios.consortium import Consortium
from tests.escrow.crash_child import Pretended
from tests.escrow.test_capsule_runs import Study, capsule, texts

HERE = Path(__file__).parent
STAGES = ("synthetic", "confidential")
MOMENTS = (
    "after:run-started",
    *(
        moment
        for stage in STAGES
        for moment in (f"in:{stage}", f"before:stage-completed/{stage}", f"after:stage-completed/{stage}")
    ),
    "before:run-decided",
)
"""Every step of a run, in order; a chain of processes goes on where the one before was killed."""


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Callable[..., tuple[Study, str]]]:
    """Makes a contract that everyone approved."""
    opened: list[Study] = []

    def make(vetting: str) -> tuple[Study, str]:
        opened.append(Study.made(tmp_path / "world", capsule(vetting=vetting), Pretended(tmp_path / "jobs")))
        return opened[-1], opened[-1].approved()

    yield make
    for each in opened:
        each.consortium.close()


def killed(folder: Path, digest: str, *moments: str) -> None:
    """Run the contract in one process after the other, each killed at its moment."""
    for moment in moments:
        command = [
            sys.executable,
            HERE / "crash_child.py",
            folder / "world",
            folder / "jobs",
            "-",
            "run",
            moment,
            digest,
        ]
        child = subprocess.run([str(part) for part in command], capture_output=True, timeout=60, check=False)
        assert child.returncode == -signal.SIGKILL, (moment, child.stderr.decode())


def stated(consortium: Consortium, digest: str) -> list[str]:
    """What the escrow stated about a contract, in order."""
    found = [st.read(read_leaf(leaf).envelope.payload) for leaf in consortium.core.ledger.leaves()]
    return [
        f"{each.kind}/{getattr(each, 'stage', '')}".rstrip("/")  # type: ignore[attr-defined]
        for each in found
        if isinstance(each, st.ByEscrow) and getattr(each, "contract", None) == digest
    ]


SO_FAR = ["run-key-opened", "run-started", *(f"stage-completed/{stage}" for stage in STAGES), "run-decided"]


def test_killed_at_every_step_it_releases_what_the_last_run_made(
    study: Callable[..., tuple[Study, str]], tmp_path: Path
) -> None:
    made, digest = study("none")
    made.consortium.core.close()
    killed(tmp_path, digest, *MOMENTS, "after:run-decided", "before:run-released", "after:run-released")
    made.consortium.reopen(Pretended(tmp_path / "jobs"))  # the start alone erases the key
    assert stated(made.consortium, digest) == [*SO_FAR, "run-released", "key-erased"]
    lab = made.consortium.banks["lab"]
    folder = fetch(lab, digest, tmp_path / "lab")
    assert verify_release(folder, lab.identity, pinned(lab.home)).outputs is not None
    assert (folder / "outputs" / "table.csv").read_text() == "confidential,rows,frauds\nyes,4,2\n"
    assert not texts(made.consortium.core.directory / "runs")
    assert not texts(tmp_path / "jobs")
    assert audit(made.consortium.core.directory)


def test_killed_at_every_step_it_holds_what_needs_vetting(
    study: Callable[..., tuple[Study, str]], tmp_path: Path
) -> None:
    made, digest = study("disclosure-control")
    made.consortium.core.close()
    killed(tmp_path, digest, *MOMENTS, "after:run-decided")
    made.consortium.reopen(Pretended(tmp_path / "jobs"))
    case = made.consortium.core.runs.case(digest)
    assert (case.state, stated(made.consortium, digest)) == ("held", SO_FAR)
    kept = texts(made.consortium.core.directory / "runs")
    assert [path.name for path in kept if path.parent.name == "confidential" and path.parent.parent.name == "1"] == [
        "table.csv.age"
    ]
    assert not texts(tmp_path / "jobs")
    made.consortium.banks["north"].halt(digest)
    assert not texts(made.consortium.core.directory / "runs")


@pytest.mark.parametrize("stage", STAGES)
def test_left_in_mid_stage_it_goes_on_with_the_same_stage(study: Callable[..., tuple[Study, str]], stage: str) -> None:
    made, digest = study("none")
    leaving = threading.Event()

    def progress(at: str, words: str) -> None:
        if (at, words) == (stage, "started"):
            leaving.set()

    with pytest.raises(LeftError):
        LeavingRuns.of(made.consortium.core.runs, leaving).run(digest, progress)
    case = made.consortium.core.runs.case(digest)
    assert (case.state, list(case.stages)) == ("running", list(STAGES[: STAGES.index(stage)]))
    assert made.run(digest).state == "released"
    assert stated(made.consortium, digest) == [*SO_FAR, "run-released", "key-erased"]
