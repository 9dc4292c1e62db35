"""Runs whose jobs are sealed apart, played by plain processes: who sees what, and that nothing is left."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from contracts.errors import EscrowError
from escrow.jobs import assembled, stage_gangs
from escrow.leaving import LeavingRuns, LeftError
from escrow.runs import key_name
from escrow.runstore import RunStore
from escrow.stagejobs import Deposited
from tests.escrow.pretended import (
    BANKS,
    FEDAVG,
    PATIENCE,
    Pretended,
    Sealed,
    approved,
    killing,
    nothing_left,
    paused,
    waiting,
    wishing,
)

ASKED: dict[str, Any] = {f"train-client-{bank}": (bank, {bank}, True) for bank in BANKS} | {
    "train-joint": (None, set(), True)
}
POOLED: dict[str, Any] = {f"baseline-own-{bank}": (bank, {bank}, False) for bank in BANKS} | {
    "train-joint": (None, set(BANKS), False)
}


@pytest.mark.parametrize(
    ("method", "training"), [(FEDAVG, ASKED), ({"name": "pooled"}, POOLED)], ids=["fedavg", "pooled"]
)
def test_each_banks_rows_are_seen_apart_but_where_they_are_compared_or_pooled(
    sealed: Sealed, method: dict[str, Any], training: dict[str, Any]
) -> None:
    consortium = sealed()
    digest = approved(consortium, method)
    assert consortium.core.run(digest).state == "released"
    runtime = consortium.core.runtime
    assert isinstance(runtime, Pretended)
    given = {job_id.split("-1-", 1)[1]: job for job_id, job in runtime.given.items()}
    seen = {
        name: (job.party, {path.split("/")[0] for path in job.inputs} & set(BANKS), job.door)
        for name, job in given.items()
    }
    assert seen == {
        "prepare-check": (None, set(BANKS), False),
        **training,
        **{f"evaluate-evaluate-{bank}": (bank, {bank}, False) for bank in BANKS},
    }
    assert not any("holdout" in path for name in training for path in given[name].inputs)
    nothing_left(consortium)


def test_members_of_an_ensemble_learn_apart_and_meet_without_rows(sealed: Sealed) -> None:
    consortium = sealed()
    contract = consortium.contract(consortium.draft(model={"family": "logistic"}, method={"name": "ensemble"}))
    members = [(each.party, set(each.inputs)) for gang in stage_gangs(contract, "baseline", 1) for each in gang.jobs]
    assert members == [(bank, {f"{bank}/train.parquet"}) for bank in sorted(BANKS)]
    (gang,) = stage_gangs(contract, "train", 1)
    assert not [need for each in gang.jobs for need in each.inputs.values() if isinstance(need, Deposited)]


def test_what_jobs_printed_is_kept_under_the_run_key_until_the_contract_ends(sealed: Sealed) -> None:
    consortium = sealed()
    digest = approved(consortium)
    core = consortium.core
    kept: dict[str, dict[str, bytes]] = {}

    def progress(stage: str, words: str) -> None:
        if (stage, words) == ("decide", "started"):
            identity = core.vault.run_identity(key_name(digest))
            store = RunStore.of(core.directory / "runs", digest, 1, identity)
            kept.update({stage: store.logs(stage) for stage in ("prepare", "baseline", "train", "evaluate")})
            for path in (store.root / "logs").rglob("*.age"):
                assert b"round" not in path.read_bytes()

    assert core.run(digest, progress).state == "released"
    assert {stage: sorted(logs) for stage, logs in kept.items()} == {
        "prepare": ["check"],
        "baseline": [],  # each bank's worker trains its own model, too
        "train": ["client-harbour", "client-north", "joint", "relay"],
        "evaluate": ["evaluate-harbour", "evaluate-north"],
    }
    assert b"round 3 of 3" in kept["train"]["joint"]
    passed = json.loads(kept["train"]["relay"])
    assert [passed["answers"][bank]["frames"] for bank in BANKS] == [5, 5]  # own model, moments, rounds
    nothing_left(consortium)


def test_a_failed_runs_logs_outlive_it_while_the_contract_has_another(sealed: Sealed) -> None:
    consortium = sealed(exchanged=waiting())
    limits = consortium.draft(model={"family": "logistic"}, method=FEDAVG)["limits"]
    digest = approved(consortium, limits={**limits, "runs": 2})
    core = consortium.core
    case = core.run(digest, killing(consortium, {"round 1 of 3": "client-north"}))
    assert (case.state, case.run) == ("approved", 1)
    store = RunStore.of(core.directory / "runs", digest, 1, core.vault.run_identity(key_name(digest)))
    assert b"round 1 of 3" in store.logs("train")["joint"]
    assert [path.name for path in store.root.iterdir()] == ["logs"]
    consortium.banks["north"].halt(digest)
    nothing_left(consortium)


def test_a_bank_whose_worker_dies_ends_the_run_with_its_code(sealed: Sealed) -> None:
    consortium = sealed(exchanged=waiting())
    digest = approved(consortium)
    case = consortium.core.run(digest, killing(consortium, {"round 1 of 3": "client-harbour"}))
    assert (case.state, case.reason) == ("failed", "worker-lost")
    nothing_left(consortium)


def test_a_halt_ends_all_jobs_that_talk_at_once(sealed: Sealed) -> None:
    consortium = sealed(exchanged=waiting())
    digest = approved(consortium, {**FEDAVG, "rounds": 30})
    with paused(consortium, consortium.core.run, digest, "round 2 of 30") as running:
        consortium.banks["harbour"].halt(digest)
        nothing_left(consortium)  # when the halt is answered, not some time later
        case = running.result(PATIENCE)
    assert (case.state, case.reason) == ("halted", "halted")


def test_a_halt_ends_a_gang_of_which_one_never_answers(sealed: Sealed) -> None:
    consortium = sealed(exchanged=wishing(north="hang"))
    digest = approved(consortium)
    reached = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        told = {("train", "started"): reached.set}
        running = pool.submit(consortium.core.run, digest, lambda *at: told.get(at, bool)())
        assert reached.wait(PATIENCE)
        consortium.banks["north"].halt(digest)
        assert running.result(PATIENCE).state == "halted"
    nothing_left(consortium)


def test_a_run_that_is_left_in_mid_training_goes_on_with_the_same_stage(sealed: Sealed) -> None:
    consortium = sealed(exchanged=waiting())
    digest = approved(consortium)
    leaving = threading.Event()
    runs = LeavingRuns.of(consortium.core.runs, leaving)
    with paused(consortium, runs.run, digest, "round 2 of 3") as running:
        leaving.set()
        with pytest.raises(LeftError):
            running.result(PATIENCE)
        assert list(consortium.core.runtime.root.iterdir()) == []  # type: ignore[attr-defined]
    assert sorted(consortium.core.runs.case(digest).stages) == ["prepare"]
    assert consortium.core.run(digest, killing(consortium, {})).state == "released"
    nothing_left(consortium)


def test_evidence_about_something_else_than_was_asked_is_refused(sealed: Sealed) -> None:
    consortium = sealed()
    apart = consortium.contract(consortium.draft(model={"family": "logistic"}, method=FEDAVG))
    asked = {str(number): clause.party for number, clause in enumerate(apart.release)}  # type: ignore[union-attr]

    def evidence(bank: str, **changes: Any) -> bytes:
        measured = {number: {} for number, party in asked.items() if party == bank}
        return json.dumps(
            {"contract": apart.digest(), "measurements": measured} | changes, separators=(",", ":")
        ).encode()

    sound = {f"evaluate-{bank}.json": evidence(bank) for bank in BANKS}
    assert "evidence.json" in assembled(apart, "evaluate", sound)
    for wrong in (
        evidence("harbour"),
        evidence("north", measurements={}),
        evidence("north", measurements=dict.fromkeys(asked, 1)),
        evidence("north", contract="sha256:" + 64 * "0"),
        evidence("north", run=2),
        b"[]",
        b"{",
    ):
        with pytest.raises(EscrowError) as refused:
            assembled(apart, "evaluate", {**sound, "evaluate-north.json": wrong})
        assert refused.value.code == "evidence-mismatch"
