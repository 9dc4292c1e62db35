"""The escrow is killed with SIGKILL after every statement and in every stage, and ends as it would have.

Each chain kills one escrow again and again: every child process goes on where the one before was killed.
"""

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts import statements as st
from contracts.entries import read_leaf, replay
from contracts.package import GRAPH
from contracts.signing import sign
from contracts.statements import read
from escrow.audit import audit
from escrow.runs import key_name
from parties.identity import pinned
from parties.release import fetch, verify_release
from scenarios import tiny
from scenarios.consortium import ORIGIN, Consortium
from tests.escrow.pretended import BANKS, Pretended, approved

HERE = Path(__file__).parent


def ledger(consortium: Consortium) -> list[st.Statement]:
    return [read(read_leaf(leaf).envelope.payload) for leaf in consortium.core.ledger.leaves()]


def escrows_own(consortium: Consortium, digest: str) -> list[str]:
    """What the escrow stated about a contract, in order."""
    return [
        f"{each.kind}/{getattr(each, 'stage', '')}".rstrip("/")  # type: ignore[attr-defined]
        for each in ledger(consortium)
        if isinstance(each, st.ByEscrow) and getattr(each, "contract", None) == digest
    ]


def workers(jobs: Path) -> list[str]:
    """Processes of the machine that were started for jobs in this directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(jobs) in line:
            found.append(line)
    return found


class Killed:
    """A consortium whose escrow lives in processes that are killed, forks of one `crash_child`."""

    def __init__(self, folder: Path, child: subprocess.Popen[str], errors: Path) -> None:
        self.folder, self.jobs = folder / "consortium", folder / "jobs"
        self.worker = "quick_worker.py"
        self._child, self._errors = child, errors

    def at(self, where: str, what: str, *arguments: str) -> None:
        assert self._child.stdin
        assert self._child.stdout
        words = [self.folder, self.jobs, HERE / self.worker, what, where, *arguments]
        print(json.dumps([str(each) for each in words]), file=self._child.stdin, flush=True)
        assert self._child.stdout.readline() == f"{-signal.SIGKILL}\n", self._errors.read_text()


@pytest.fixture(scope="module")
def forking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """What the killed escrows of all tests here are forks of, and what they print on stderr."""
    errors = tmp_path_factory.mktemp("killed") / "errors"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with errors.open("w") as file:
        command = [sys.executable, str(HERE / "crash_child.py")]
        with subprocess.Popen(command, **pipes, stderr=file, text=True) as child:
            yield child, errors


@pytest.fixture
def killed(tmp_path: Path, forking: tuple[subprocess.Popen[str], Path]) -> Killed:
    return Killed(tmp_path, *forking)


@pytest.fixture
def ready(consortium: Consortium) -> tuple[Consortium, str]:
    """A contract that everyone approved, in an escrow that is closed."""
    digest = tiny.approved(consortium)
    consortium.core.close()
    return consortium, digest


@pytest.fixture
def again(tmp_path: Path, runtime: Any, clock: tiny.Clock) -> Iterator[Any]:
    """Starts the escrow again in this process."""
    opened = []

    def start() -> Consortium:
        opened.append(tiny.reopened(tmp_path / "consortium", runtime, clock))
        return opened[-1]

    yield start
    for consortium in opened:
        consortium.core.close()


def nothing_left(consortium: Consortium, jobs: Path) -> None:
    core = consortium.core
    assert workers(jobs) == []
    assert [path for folder in (jobs, core.directory / "runs") for path in folder.rglob("*") if path.is_file()] == []
    known = {each.blob for each in ledger(consortium) if isinstance(each, st.DataDeposited)}
    for each in ledger(consortium):
        if isinstance(each, st.RunReleased):
            known |= set(each.packages.values())
    assert {f"sha256:{path.name}" for path in (core.directory / "vault" / "blobs").iterdir()} == known
    opened = [each.contract for each in ledger(consortium) if isinstance(each, st.RunKeyOpened)]
    kept = sorted(path.name for path in (core.directory / "vault" / "keys").iterdir())
    assert kept == sorted(f"{key_name(contract)}.erased" for contract in opened)


def ends_as_it_would_have(consortium: Consortium, digest: str, jobs: Path, into: Path) -> None:
    assert consortium.core.runs.case(digest).state == "released"
    assert escrows_own(consortium, digest) == [
        "run-key-opened",
        "run-started",
        *(f"stage-completed/{stage}" for stage in ("prepare", "baseline", "train", "evaluate")),
        "run-decided",
        "run-released",
        "key-erased",
    ]
    nothing_left(consortium, jobs)
    replayed = replay(consortium.core.ledger.leaves())
    assert {key: record.document() for key, record in replayed.records.items()} == consortium.core.ledger.documents()
    for name, bank in consortium.banks.items():
        verified = verify_release(fetch(bank, digest, into / name), bank.identity, pinned(bank.home))
        assert verified.bundle is not None


def test_killed_after_every_statement(ready: Any, killed: Killed, again: Any, tmp_path: Path) -> None:
    _, digest = ready
    stages = [f"stage-completed/{stage}" for stage in ("prepare", "baseline", "train", "evaluate")]
    for kind in ("run-started", *stages, "run-decided", "run-released"):
        killed.at(f"after:{kind}", "run", digest)
    consortium = again()  # the start alone finishes what is left: the erasure of the key
    ends_as_it_would_have(consortium, digest, killed.jobs, tmp_path / "releases")
    assert audit(consortium.core.directory)


def test_killed_in_every_stage_and_before_statements(ready: Any, killed: Killed, again: Any, tmp_path: Path) -> None:
    _, digest = ready
    killed.at("in:prepare", "run", digest)
    for moment in ("in:train", "in:baseline", "before:stage-completed/baseline"):
        killed.at(moment, "run", digest)
    for moment in ("in:evaluate", "before:stage-completed/evaluate", "before:run-released"):
        killed.at(moment, "run", digest)
    consortium = again()
    assert workers(killed.jobs) == []
    assert consortium.core.runs.case(digest).state == "releasing"
    consortium.core.run(digest)
    ends_as_it_would_have(consortium, digest, killed.jobs, tmp_path / "releases")


def test_killed_in_mid_training_it_goes_on_at_the_checkpoint(killed: Killed, tmp_path: Path, clock: tiny.Clock) -> None:
    """Sealed apart: the same model as without, and the rounds are told once, whichever escrow saw them."""
    killed.worker = "sealed_worker.py"
    with Pretended(killed.jobs) as runtime:
        consortium = tiny.founded(killed.folder, runtime, clock, banks=BANKS)
        smooth, rough = (approved(consortium, title=title) for title in ("Smooth", "Rough"))
        assert consortium.core.run(smooth).state == "released"
        expected = (fetch(consortium.banks["north"], smooth, tmp_path / "smooth") / GRAPH).read_bytes()
        consortium.core.close()
    killed.at("kept:1", "run", rough)
    killed.at("kept:1", "run", rough)
    killed.at("before:stage-completed/train", "run", rough)
    with Pretended(killed.jobs) as runtime:
        consortium = tiny.reopened(killed.folder, runtime, clock)
        assert workers(killed.jobs) == []
        told: list[str] = []
        case = consortium.core.run(rough, lambda _, words: told.append(words))
        assert (case.state, "goes on after round 3" in told) == ("released", True)
        found = (fetch(consortium.banks["north"], rough, tmp_path / "rough") / GRAPH).read_bytes()
        stated = [each.rounds for each in ledger(consortium) if getattr(each, "stage", None) == "train"]
        nothing_left(consortium, killed.jobs)
        consortium.core.close()
    assert found == expected
    assert len(stated[0]) == 1 + 3
    assert stated[0] == stated[1]


def test_killed_before_the_key_is_erased(ready: Any, killed: Killed, again: Any) -> None:
    """What ended is destroyed at the next start, with packages that were made and never released."""
    consortium, digest = ready
    killed.at("before:run-released", "run", digest)
    harbour = consortium.banks["harbour"]
    halt = st.ContractHalted(ledger=ORIGIN, party="harbour", contract=digest)
    envelope = killed.folder / "halt"
    envelope.write_bytes(sign(halt.payload(), harbour.identity.signer).to_bytes())
    killed.at("after:contract-halted", "submit", "harbour", str(envelope))
    restarted = again()
    assert restarted.core.runs.case(digest).state == "halted"
    assert escrows_own(restarted, digest)[-1] == "key-erased"
    assert Counter(escrows_own(restarted, digest))["run-released"] == 0
    nothing_left(restarted, killed.jobs)


def test_killed_before_the_run_key_is_stated(consortium: Consortium, killed: Killed, again: Any) -> None:
    north = consortium.banks["north"]
    document = consortium.draft(model={"family": "logistic"}, method={"name": "pooled"})
    contract = consortium.contract(document)
    consortium.core.close()
    proposal = st.ContractProposed(ledger=ORIGIN, party="north", contract=contract)
    envelope = killed.folder / "proposal"
    envelope.write_bytes(sign(proposal.payload(), north.identity.signer).to_bytes())
    killed.at("before:run-key-opened", "submit", "north", str(envelope))
    restarted = again()
    view = restarted.banks["north"].view(contract.digest())
    assert view.state == "open"
    assert view.run_recipient is not None
    assert escrows_own(restarted, contract.digest()) == ["run-key-opened"]
    restarted.approve(contract.digest())
    assert restarted.banks["north"].view(contract.digest()).state == "approved"


def test_a_second_process_does_not_sweep_away_what_the_first_runs(
    consortium: Consortium, again: Any, refused: Any
) -> None:
    with refused("escrow-busy"):
        again()
    consortium.core.close()
    assert again().core.directory == consortium.core.directory
