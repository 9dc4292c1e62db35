"""Runs: stages in order, halted at any moment, two at once, never twice, and nothing left behind."""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts import statements as st
from contracts.capabilities import require_supported
from contracts.computation import FedAvg
from contracts.contract import Contract
from contracts.entries import read_leaf
from contracts.errors import EscrowError
from contracts.metrics import Metric, Rows, measure
from contracts.package import CARD, CONTRACT, GRAPH, MANIFEST, OPENING
from contracts.statements import read
from escrow import faults
from models import bundle
from models.table import Prepared
from parties.deposit import seal_incumbent
from parties.identity import pinned
from parties.release import fetch, verify_release
from scenarios import tiny
from scenarios.consortium import ORIGIN, Consortium

PATIENCE = 120.0  # seconds that no test should need


def wishing(wish: str, position: int = 0) -> dict[str, tuple[Prepared, Prepared]]:
    """North's tables, with which the quick worker does something else than training."""
    train, holdout = tiny.tables(position, "north", banks=2)
    return {"north": (replace(train, terminals=np.array([f"{wish}-{each}" for each in train.terminals])), holdout)}


def statements(consortium: Consortium, digest: str) -> list[str]:
    """The kinds of the statements about a contract, in the ledger's order."""
    found = [read(read_leaf(leaf).envelope.payload) for leaf in consortium.core.ledger.leaves()]
    return [str(each.kind) for each in found if getattr(each, "contract", None) == digest]  # type: ignore[attr-defined]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def nothing_left(consortium: Consortium, digest: str) -> None:
    """No job, no process, no output and no key of a contract; its deposits are opaque again."""
    assert files(consortium.core.runtime.root) == []  # type: ignore[attr-defined]
    assert files(consortium.core.directory / "runs") == []
    keys = consortium.core.directory / "vault" / "keys"
    name = digest.removeprefix("sha256:")
    assert not (keys / name).exists()
    assert (keys / f"{name}.erased").exists()
    assert statements(consortium, digest).count("key-erased") == 1


def deposited(consortium: Consortium) -> set[str]:
    return {each.blob.removeprefix("sha256:") for parts in consortium.deposits.values() for each in parts}


def stored(consortium: Consortium) -> set[str]:
    return {path.name for path in (consortium.core.directory / "vault" / "blobs").iterdir()}


@contextmanager
def hanging(consortium: Consortium, digest: str) -> Iterator[Any]:
    """A run whose training hangs, in a thread of its own; yields the future of its result."""
    reached = threading.Event()

    def progress(_: str, words: str) -> None:
        if words == "hanging":
            reached.set()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(consortium.core.run, digest, progress)
        try:
            assert reached.wait(PATIENCE)
            yield running
        finally:
            consortium.core.runtime.close()


def test_a_run_goes_through_its_stages_and_releases(consortium: Consortium, tmp_path: Path) -> None:
    digest = tiny.approved(consortium)
    told: list[tuple[str, str]] = []
    case = consortium.core.run(digest, lambda stage, words: told.append((stage, words)))
    assert (case.state, case.verdict, case.run) == ("released", "released", 1)
    assert statements(consortium, digest) == [
        "run-key-opened",
        *("contract-approved",) * 2,
        "run-started",
        *("stage-completed",) * 4,
        "run-decided",
        "run-released",
        "key-erased",
    ]
    done = [stage for stage, words in told if words == "done"]
    assert done == ["prepare", "baseline", "train", "evaluate", "decide", "release"]
    nothing_left(consortium, digest)
    models = set()
    for name, bank in consortium.banks.items():
        verified = verify_release(fetch(bank, digest, tmp_path / name), bank.identity, pinned(bank.home))
        assert verified.bundle is not None
        assert [finding.party for finding in verified.opening.findings] == [name]
        models.add(verified.bundle.digest)
    assert len(models) == 1


def test_what_ended_is_not_run_again(replayed: Consortium, played: Any, refused: Any) -> None:
    for digest in (played.released, played.withheld):
        with refused("state-refused"):
            replayed.core.run(digest)


def test_a_halt_stops_the_job_at_once(found: Any, refused: Any) -> None:
    consortium = found(exchanged=wishing("hang"))
    digest = tiny.approved(consortium)
    root = consortium.core.runtime.root
    with hanging(consortium, digest) as running:
        assert files(root) != []
        consortium.banks["harbour"].halt(digest)
        nothing_left(consortium, digest)  # when the halt is answered, not some time later
        case = running.result(PATIENCE)
    assert (case.state, case.reason, case.verdict) == ("halted", "halted", None)
    nothing_left(consortium, digest)
    assert stored(consortium) == deposited(consortium)
    with refused("vault-sealed"):
        consortium.core.vault.run_identity(digest.removeprefix("sha256:"))
    with refused("state-refused"):
        consortium.core.run(digest)


def test_data_taken_back_during_a_run_stops_it(found: Any) -> None:
    consortium = found(exchanged=wishing("hang"))
    digest = tiny.approved(consortium)
    with hanging(consortium, digest) as running:
        consortium.banks["harbour"].revoke(consortium.deposits["harbour"][1].commitment)
        case = running.result(PATIENCE)
    assert (case.state, case.reason) == ("halted", "data-revoked")
    nothing_left(consortium, digest)


def test_a_contract_has_one_run_at_a_time(found: Any, refused: Any) -> None:
    consortium = found(exchanged=wishing("hang"))
    digest = tiny.approved(consortium)
    with hanging(consortium, digest) as running:
        with refused("runtime-busy"):
            consortium.core.run(digest)
        assert consortium.banks["north"].view(digest).state == "running"
        consortium.banks["north"].halt(digest)
        running.result(PATIENCE)


def test_a_halt_between_two_steps_leaves_nothing(consortium: Consortium) -> None:
    for step in ("baseline", "release"):
        digest = tiny.approved(consortium, title=f"Halted at {step}")

        def progress(stage: str, words: str, *, step: str = step, digest: str = digest) -> None:
            if (stage, words) == (step, "started"):
                consortium.banks["north"].halt(digest)

        case = consortium.core.run(digest, progress)
        assert (case.state, case.run) == ("halted", 1), step
        assert "run-released" not in statements(consortium, digest)
        nothing_left(consortium, digest)
        assert stored(consortium) == deposited(consortium)


def test_two_contracts_at_once_each_get_their_own_model(consortium: Consortium, tmp_path: Path) -> None:
    others = [
        {"kind": "no-harm", "party": name, "metric": "roc-auc", "margin": 0.5, "baseline": "best-own"}
        for name in consortium.banks
    ]
    digests = [
        tiny.approved(consortium),
        tiny.approved(consortium, title="Another", release=others, recipients=[{"party": "north"}]),
    ]
    with ThreadPoolExecutor(2) as pool:
        cases = list(pool.map(consortium.core.run, digests))
    assert [case.state for case in cases] == ["released", "released"]
    for digest in digests:
        for name, bank in consortium.banks.items():
            folder = fetch(bank, digest, tmp_path / digest / name)
            verified = verify_release(folder, bank.identity, pinned(bank.home))
            assert verified.contract.digest() == digest
            if name == "north" or digest == digests[0]:
                assert verified.bundle is not None
                assert verified.bundle.manifest.trained_for == digest
                assert {CONTRACT, CARD, OPENING, GRAPH, MANIFEST} <= set(files(folder))
            else:  # receives nothing but its own findings
                assert verified.bundle is None
                assert files(folder) == ["contract.json", "opening.json", "package.age", "receipt.json"]
        nothing_left(consortium, digest)


def test_withheld_says_nothing_but_the_verdict(consortium: Consortium, outcome: Any, refused: Any) -> None:
    """Two contracts fail for different reasons at different banks, and nobody can tell which did."""
    floor = {"kind": "floor", "party": "harbour", "metric": "average-precision", "at-least": 0.999}
    gain = {"kind": "gain", "party": "north", "metric": "average-precision", "more-than": 0.9}
    easy = {"kind": "floor", "metric": "average-precision", "at-least": 0.0}
    seen = []
    for release in ([floor, {**easy, "party": "north"}], [{**easy, "party": "harbour"}, gain]):
        digest = tiny.approved(consortium, release=release)
        case = consortium.core.run(digest)
        assert (case.state, case.verdict, case.reason) == ("withheld", "withheld", "verdict")
        failed = {each.party for each in outcome(consortium, digest).findings if each.outcome == "fails"}
        views = [bank.view(digest).model_dump() for bank in consortium.banks.values()]
        for view in views:
            view.pop("contract")
            view.pop("digest")
            view.pop("run_recipient")
        assert views[0] == views[1]
        seen.append((failed, views, statements(consortium, digest), _shapes(consortium, digest)))
        nothing_left(consortium, digest)
        assert stored(consortium) == deposited(consortium)
        for bank in consortium.banks.values():
            with refused("not-released"):
                list(bank.escrow.collect(digest))
    assert (seen[0][0], seen[1][0]) == ({"harbour"}, {"north"})
    assert seen[0][1:] == seen[1][1:]


def _shapes(consortium: Consortium, digest: str) -> list[object]:
    """What the statements about a contract look like once salted hashes and keys are taken out."""
    found = [read(read_leaf(leaf).envelope.payload) for leaf in consortium.core.ledger.leaves()]
    return [_shape(each.model_dump()) for each in found if getattr(each, "contract", None) == digest]


def _shape(value: object) -> object:
    if isinstance(value, dict):
        return {("#" if str(key).startswith("sha256") else key): _shape(each) for key, each in value.items()}
    return "#" if isinstance(value, str) and len(value) > 32 else value


def test_the_run_budget_is_spent_run_by_run(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    beyond = [{"kind": "floor", "party": "north", "metric": "average-precision", "at-least": 0.999}]
    limits = consortium.draft(model={"family": "logistic"}, method={"name": "pooled"})["limits"]
    digest = tiny.approved(consortium, release=beyond, limits={**limits, "runs": 2})
    first = consortium.core.run(digest)
    assert (first.state, first.run, first.verdict) == ("approved", 1, "withheld")
    kept = {Path(path).parts[2] for path in files(consortium.core.directory / "runs")}
    assert kept == {"logs"}  # the withheld model of the first run is gone already
    monkeypatch.setattr(consortium.core.runtime, "_command", (sys.executable, "-c", "raise SystemExit(1)"))
    second = consortium.core.run(digest)
    assert (second.state, second.run, second.verdict) == ("failed", 2, None)
    with refused("state-refused"):
        consortium.core.run(digest)
    assert [each.looks for each in consortium.banks["north"].escrow.deposits() if each.part == "holdout"] == [2]


def test_looks_at_a_holdout_are_counted_over_contracts(consortium: Consortium, refused: Any) -> None:
    limits = consortium.draft(model={"family": "logistic"}, method={"name": "pooled"})["limits"]
    waiting = tiny.approved(consortium, title="Twice", limits={**limits, "looks": 1})
    digest = tiny.approved(consortium, title="Once only", limits={**limits, "looks": 1})
    consortium.core.state(st.RunStarted(ledger=ORIGIN, contract=digest, run=1))
    with refused("looks-exhausted"):
        consortium.core.run(waiting)
    with refused("looks-exhausted"):
        tiny.proposed(consortium, title="Once more", limits={**limits, "looks": 1})


def test_an_expired_contract_is_not_approved_run_or_released(
    consortium: Consortium, clock: tiny.Clock, refused: Any
) -> None:
    limits = {"expires": "2027-01-15T09:00:00Z"}  # an hour after the start
    waiting, ready, running = (tiny.proposed(consortium, title=title, limits=limits) for title in ("A", "B", "C"))
    for digest in (ready, running):
        consortium.approve(digest)

    def late(stage: str, words: str) -> None:
        if (stage, words) == ("release", "started"):
            clock.time = tiny.START + 3600

    case = consortium.core.run(running, late)
    assert (case.state, case.verdict) == ("expired", "released")  # decided in time, not released in time
    assert stored(consortium) == deposited(consortium)
    with refused("contract-expired"):
        consortium.approve(waiting)
    with refused("contract-expired"):
        consortium.core.run(ready)
    consortium.core.expire()
    for digest in (waiting, ready, running):
        assert consortium.banks["north"].view(digest).state == "expired"
        nothing_left(consortium, digest)
        with refused("not-released"):
            consortium.banks["north"].escrow.collect(digest)


def test_a_stage_that_ends_after_the_contract_expired_does_not_count(consortium: Consortium, clock: tiny.Clock) -> None:
    digest = tiny.approved(consortium, limits={"expires": "2027-01-15T09:00:00Z"})

    def late(stage: str, words: str) -> None:
        if (stage, words) == ("evaluate", "started"):
            clock.time = tiny.START + 3600

    case = consortium.core.run(digest, late)
    assert (case.state, case.verdict) == ("expired", None)
    nothing_left(consortium, digest)


def test_other_code_than_the_contract_names_never_runs(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    """The escrow was started anew with changed code, before the run or in mid-run."""
    waiting, running = tiny.approved(consortium, title="A"), tiny.approved(consortium, title="B")
    consortium.core.state(st.RunStarted(ledger=ORIGIN, contract=running, run=1))
    monkeypatch.setattr(consortium.core.runtime, "_worker", "sha256:" + 64 * "0")
    with refused("worker-unknown"):
        consortium.core.run(waiting)
    assert consortium.core.runs.case(waiting).state == "approved"
    case = consortium.core.run(running)
    assert (case.state, case.reason) == ("failed", "worker-unknown")
    monkeypatch.setattr(consortium.core.runtime, "sealing", "container")
    with refused("not-supported"):
        consortium.core.run(waiting)


def test_a_round_that_a_job_has_no_time_for_is_refused_when_it_is_proposed(consortium: Consortium) -> None:
    digest = tiny.approved(consortium)
    runs = consortium.core.runs
    asked = runs.case(digest).contract
    at_home = tuple(each.model_copy(update={"placement": "party"}) for each in asked.contributions)

    def training(seconds: int) -> Contract:
        method = FedAvg(name="fedavg", round_seconds=seconds)
        computation = asked.computation.model_copy(update={"method": method})
        return asked.model_copy(update={"computation": computation, "contributions": at_home})

    most = runs.limits.seconds
    require_supported(training(most - 1), runs.able)
    with pytest.raises(EscrowError, match=f"round-seconds not below {most}"):
        require_supported(training(most), runs.able)


def test_whom_a_fault_blames(consortium: Consortium) -> None:
    contract = consortium.core.runs.case(tiny.approved(consortium)).contract
    at_home = contract.model_copy(
        update={"contributions": tuple(c.model_copy(update={"placement": "party"}) for c in contract.contributions)}
    )

    def blamed(where: Contract, stage: str, code: str) -> bool:
        error = EscrowError(code, "It failed.", party="north")
        return faults.blames(where, stage, faults.Fault.of(error, contract.digest(), 1, "north"))

    for code in ("worker-lost", "worker-silent", "limit-time", "limit-memory", "roster-incomplete"):
        assert (blamed(contract, "train", code), blamed(at_home, "train", code)) == (False, True)
    for code in ("counts-differ", "update-invalid", "training-failed", "holdout-too-early", "key-refused"):
        assert blamed(contract, "prepare", code)
        assert not blamed(at_home, "evaluate", code)


def test_a_failing_worker_ends_the_run_with_a_code(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consortium.core.runtime, "_command", (sys.executable, "-c", "raise SystemExit(1)"))
    digest = tiny.approved(consortium)
    case = consortium.core.run(digest)
    assert (case.state, case.reason, case.verdict) == ("failed", "training-failed", None)
    nothing_left(consortium, digest)


def test_a_full_disk_ends_nothing(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = tiny.approved(consortium)

    def full(*_: object) -> None:
        raise OSError("no space left on the device")

    with monkeypatch.context() as patch:
        patch.setattr("escrow.runs.RunStore.put", full)
        with pytest.raises(OSError, match="no space"):
            consortium.core.run(digest)
    assert files(consortium.core.runtime.root) == []  # type: ignore[attr-defined]
    assert consortium.banks["north"].view(digest).state == "running"
    consortium.banks["north"].halt(digest)
    nothing_left(consortium, digest)


def test_an_incumbent_model_is_what_must_be_beaten(consortium: Consortium, played: Any, outcome: Any) -> None:
    north = consortium.banks["north"]
    own = played.releases / "north"
    incumbent = seal_incumbent(bundle.pack(own), tiny.SCHEMA, north.folder)
    north.deposit([incumbent])
    consortium.deposits["north"] = (*consortium.deposits["north"], incumbent)
    clause = {"kind": "no-harm", "party": "north", "metric": "average-precision", "margin": 0.3}
    digest = tiny.approved(consortium, release=[clause, {**clause, "baseline": "incumbent"}])
    assert consortium.core.run(digest).state == "released"
    trained, incumbents = (finding.measurement for finding in outcome(consortium, digest).findings)
    _, holdout = tiny.tables(0, "north", banks=2)
    rows = Rows.of(holdout.labels, holdout.groups, holdout.amounts, holdout.times)
    scores = bundle.load(own).scores(holdout.features)
    assert incumbents.own == pytest.approx(measure(Metric("average-precision"), rows, scores), abs=1e-9)
    assert incumbents.own > trained.own
    assert incumbents.joint == trained.joint
