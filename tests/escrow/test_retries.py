"""Training that loses somebody: it goes on at the last whole round to the same model, or ends, named to whom it is due.

Sealed apart, played by plain processes that are killed with SIGKILL.
"""

from pathlib import Path
from typing import Any

import pytest

from contracts import statements as st
from contracts.entries import read_leaf
from contracts.package import GRAPH
from contracts.statements import read
from escrow import faults
from escrow.faults import Fault
from parties.release import fetch
from scenarios.consortium import Consortium
from tests.escrow.pretended import Sealed, approved, killing, nothing_left, runtime_of, waiting, wishing


def retrying(consortium: Consortium, title: str, retries: int) -> str:
    limits = consortium.draft(model={"family": "logistic"}, method={"name": "fedavg"})["limits"]
    return approved(consortium, title=title, limits={**limits, "retries": retries})


def started(consortium: Consortium, job: str) -> int:
    """How often a job of the training was given to the runtime, over all contracts."""
    return runtime_of(consortium).prepared[f"train-{job}"]


def rounds(consortium: Consortium, digest: str) -> tuple[str, ...]:
    """The digests of the training's rounds on the ledger."""
    found = [read(read_leaf(leaf).envelope.payload) for leaf in consortium.core.ledger.leaves()]
    (stated,) = (
        each.rounds
        for each in found
        if isinstance(each, st.StageCompleted) and (each.contract, each.stage) == (digest, "train")
    )
    return stated


def graph(consortium: Consortium, digest: str, into: Path) -> bytes:
    return (fetch(consortium.banks["north"], digest, into / digest[7:19]) / GRAPH).read_bytes()


def fault(consortium: Consortium, digest: str) -> Fault | None:
    return faults.last(consortium.core.directory / faults.FOLDER, digest)


def test_whoever_is_killed_in_whichever_round_the_model_is_the_same(sealed: Sealed, tmp_path: Path) -> None:
    """Each is killed in every round, and while own models are trained, before the first."""
    consortium = sealed(exchanged=waiting())
    smooth = retrying(consortium, "Smooth", 0)
    assert consortium.core.run(smooth, killing(consortium, {})).state == "released"
    moments = ("own models", *(f"round {number} of 3" for number in (1, 2, 3)))
    for number, who in enumerate(("joint", "client-north", "client-harbour"), 1):
        rough = retrying(consortium, f"Rough for {who}", len(moments))
        told: list[str] = []
        plan = dict.fromkeys(moments, who)
        assert consortium.core.run(rough, killing(consortium, plan, told)).state == "released"
        assert started(consortium, "joint") == 1 + number * (len(moments) + 1)
        assert [words for words in told if words.startswith("goes on")] == [
            "goes on after round 1",
            "goes on after round 2",
        ]
        assert graph(consortium, rough, tmp_path) == graph(consortium, smooth, tmp_path)
        assert rounds(consortium, rough) == rounds(consortium, smooth)
        assert fault(consortium, rough) is None
    assert len(rounds(consortium, smooth)) == 1 + 3
    nothing_left(consortium)


@pytest.mark.parametrize("who", ["joint", "client-harbour"])
def test_without_retries_a_loss_ends_the_run(sealed: Sealed, who: str, caplog: pytest.LogCaptureFixture) -> None:
    consortium = sealed(exchanged=waiting())
    digest = retrying(consortium, "Once", 0)
    case = consortium.core.run(digest, killing(consortium, {"round 2 of 3": who}))
    assert (case.state, case.reason, started(consortium, "joint")) == ("failed", "worker-lost", 1)
    nothing_left(consortium)
    logged = [record.getMessage() for record in caplog.records if record.name == "escrow.runs"]
    whose = [] if who == "joint" else [f"run-fault contract={digest} run=1 party=harbour code=worker-lost"]
    assert logged == whose
    assert fault(consortium, digest) is None  # the escrow ran that worker: whose rows it saw is not to blame


def test_no_more_attempts_than_the_contract_has_retries(sealed: Sealed) -> None:
    consortium = sealed(exchanged=waiting())
    digest = retrying(consortium, "Once more", 1)

    plan = {"round 1 of 3": "client-north", "round 2 of 3": "client-north"}
    case = consortium.core.run(digest, killing(consortium, plan))
    assert (case.state, case.reason, started(consortium, "joint")) == ("failed", "worker-lost", 2)
    nothing_left(consortium)


@pytest.mark.parametrize(("wish", "code"), [("nan", "update-invalid"), ("fail", "counts-differ")])
def test_who_lies_gets_no_second_try(sealed: Sealed, wish: str, code: str) -> None:
    consortium = sealed(exchanged=wishing(north=wish))
    digest = retrying(consortium, "A liar", 3)
    case = consortium.core.run(digest)
    assert (case.state, case.reason, started(consortium, "joint")) == ("failed", code, 1)
    found = fault(consortium, digest)
    assert found is not None
    assert (found.party, found.code, found.run) == ("north", code, 1)
    (kept,) = (consortium.core.directory / faults.FOLDER).iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    nothing_left(consortium)


def test_a_run_that_every_party_refuses_is_failed(sealed: Sealed) -> None:
    consortium = sealed(exchanged=wishing(north="fail", harbour="fail"))
    digest = retrying(consortium, "Refused by all", 3)
    case = consortium.core.run(digest)
    assert (case.state, case.reason, case.verdict, case.packages) == ("failed", "counts-differ", None, {})
    assert "train" not in case.stages
    nothing_left(consortium)


def test_a_halt_in_a_later_attempt_leaves_nothing(sealed: Sealed) -> None:
    consortium = sealed(exchanged=waiting())
    digest = retrying(consortium, "Halted", 3)
    plan = killing(consortium, {"round 2 of 3": "joint"})

    def progress(stage: str, words: str) -> None:
        plan(stage, words)
        if words == "goes on after round 1":
            consortium.banks["north"].halt(digest)
            nothing_left(consortium)  # when the halt is answered, the checkpoint too

    case = consortium.core.run(digest, progress)
    assert (case.state, case.reason) == ("halted", "halted")
    nothing_left(consortium)


def test_a_fault_is_forgotten_when_the_next_run_begins(sealed: Sealed) -> None:
    consortium = sealed(exchanged=wishing(north="nan"))
    limits = consortium.draft(model={"family": "logistic"}, method={"name": "fedavg"})["limits"]
    digest = approved(consortium, title="Twice", limits={**limits, "runs": 2})
    first = consortium.core.run(digest)
    assert (first.state, first.reason) == ("approved", "update-invalid")
    assert fault(consortium, digest) is not None
    seen: list[Any] = []
    consortium.core.run(digest, lambda *_: seen.append(fault(consortium, digest)))
    assert seen[0] is None
    found = fault(consortium, digest)
    assert found is not None
    assert found.run == 2
