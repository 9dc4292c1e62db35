"""A bank whose rows stay with it lies in its own worker: what a check can see ends the run, the rest is for the gate.

Whole runs have an escrow, two banks with nodes and real worker processes; harbour's worker is made to lie before it
begins. What only harms is decided over apps in this process, by the product's own round loop, measurement and gate.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from contracts import statements as st
from contracts.entries import read_leaf
from contracts.errors import EscrowError
from contracts.lifecycle import State
from contracts.records import CaseRecord
from escrow.runtime.process import ProcessRuntime
from models.families.base import Float32Matrix, Float32Vector, Model
from scenarios import direct, lying, tiny
from scenarios.consortium import Consortium
from scenarios.lies import LIES

BANKS = ("north", "harbour")
SEEN = {name: lie for name, lie in LIES.items() if lie.code is not None}
PLAYED = [name for name, lie in SEEN.items() if lie.change is None or name == "millionfold"]
Play = Callable[..., CaseRecord]


def runtime(root: Path, words: str) -> ProcessRuntime:
    """A runtime whose workers do what the words say, and learn in a blink."""
    return ProcessRuntime(root, command=(sys.executable, "-m", "scenarios.lies", f"quick,{words}"), packages=())


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    """Two banks whose rows stay with them."""
    folder = tmp_path_factory.mktemp("lying")
    with runtime(folder / "jobs", "honest") as jobs:
        made = tiny.founded(folder / "world", jobs, tiny.Clock(), banks=BANKS, at_home=BANKS)
        yield made
        made.close()


@pytest.fixture
def play(consortium: Consortium, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Play]:
    """Runs a contract under which each bank's worker does what is said of it."""
    runtimes: list[ProcessRuntime] = []

    def run(*, limits: Mapping[str, Any] | None = None, seconds: int = 60, **words: str) -> CaseRecord:
        for bank in BANKS:
            runtimes.append(runtime(tmp_path / f"{bank}-{len(runtimes)}", words.get(bank, "honest")))
            consortium.workers[bank] = runtimes[-1]
        method = {"name": "fedavg", "rounds": 3, "round-seconds": seconds}
        title = f"{request.node.name} {len(runtimes)}"
        document = consortium.draft(model={"family": "logistic"}, method=method, title=title)
        document["limits"].update(limits or {})
        contract = consortium.propose(consortium.contract(document))
        consortium.approve(contract)
        return consortium.run(contract)

    yield run
    for each in runtimes:
        assert not list(each.root.iterdir())
        each.close()


def failures(consortium: Consortium, contract: str) -> list[st.RunFailed]:
    """What the ledger says of failed runs under a contract."""
    said = (st.read(read_leaf(leaf).envelope.payload) for leaf in consortium.core.ledger.leaves())
    return [each for each in said if isinstance(each, st.RunFailed) and each.contract == contract]


@pytest.mark.parametrize("name", PLAYED)
def test_a_lie_that_a_check_sees_ends_the_run_and_names_the_liar_to_itself_and_the_operator_alone(
    name: str, consortium: Consortium, play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="escrow")
    case = play(harbour=name, seconds=20 if name == "silence" else 60)
    assert (case.state, case.reason, case.verdict) == (State.FAILED, SEEN[name].code, None)
    told = [record.getMessage() for record in caplog.records]
    assert any("run-fault" in line and "harbour" in line for line in told), told
    assert "harbour" in (consortium.banks["harbour"].view(case.digest).fault or "")
    assert consortium.banks["north"].view(case.digest).fault is None
    [failed] = failures(consortium, case.digest)
    assert failed.code == SEEN[name].code
    assert "harbour" not in failed.model_dump_json()
    assert "train" not in case.stages
    assert not case.packages


@pytest.mark.parametrize("name", [name for name, lie in SEEN.items() if lie.change is not None])
def test_an_update_that_no_training_gives_is_refused_with_the_name_of_its_bank(name: str) -> None:
    with pytest.raises(EscrowError) as refused:
        lying.decided(lying.honest(), "fedavg", lie=name)
    assert (refused.value.code, refused.value.party) == (SEEN[name].code, lying.LIAR)


def test_a_run_in_which_every_node_refuses_is_failed_and_never_completed(consortium: Consortium, play: Play) -> None:
    case = play(north="refusal", harbour="refusal")
    assert (case.state, case.verdict) == (State.FAILED, None)
    assert "train" not in case.stages


def test_without_lies_the_same_run_comes_to_a_verdict(play: Play) -> None:
    assert play().verdict is not None


def test_a_bank_that_vanished_once_is_waited_for_if_the_contract_allows_it(play: Play, tmp_path: Path) -> None:
    marker = tmp_path / "vanished"
    case = play(harbour=f"vanish-once:{marker}", limits={"retries": 1})
    assert marker.exists()
    assert case.verdict is not None


def test_a_bank_that_vanishes_again_and_again_ends_the_run(play: Play) -> None:
    case = play(harbour="vanish", limits={"retries": 1})
    assert (case.state, case.verdict) == (State.FAILED, None)


def test_what_may_not_be_sent_is_not_tried_again(play: Play) -> None:
    case = play(harbour="nan", limits={"retries": 100})
    assert (case.state, case.reason) == (State.FAILED, "update-invalid")


@pytest.mark.parametrize("method", ["fedavg", "median"])
def test_honest_banks_gain_by_either_method(method: str) -> None:
    assert lying.decided(lying.honest(), method).verdict == "released"


@pytest.mark.parametrize("lie", ["tenfold", "upside-down"])
def test_an_update_that_only_harms_is_withheld_by_the_clauses_of_those_it_harms(lie: str) -> None:
    decision = lying.decided(lying.honest(), "fedavg", lie=lie)
    assert decision.verdict == "withheld"
    assert {finding.party for finding in decision.findings if finding.outcome == "fails"} >= {"north", "valley"}


@pytest.mark.parametrize("method", ["median", "trimmed-mean"])
def test_one_bank_does_not_bend_the_standardisation_of_a_robust_method(method: str) -> None:
    assert lying.decided(lying.honest(), method, lie="moments").verdict == "released"


def test_moments_that_squash_everybodys_features_are_withheld_by_the_clauses_where_they_add_up() -> None:
    decision = lying.decided(lying.honest(), "fedavg", lie="moments")
    assert decision.verdict == "withheld"
    assert {finding.party for finding in decision.findings if finding.outcome == "fails"} >= {"north", "valley"}


def test_the_median_takes_a_scaled_update_for_what_it_is() -> None:
    assert lying.decided(lying.honest(), "median", lie="tenfold").verdict == "released"


def test_where_the_median_does_not_help_enough_the_clause_of_the_harmed_bank_does() -> None:
    decision = lying.decided(lying.honest(), "median", lie="upside-down")
    assert decision.verdict == "withheld"
    assert "north" in {finding.party for finding in decision.findings if finding.outcome == "fails"}


@pytest.mark.parametrize("labels", [lying.flipped, lying.mislabelled])
def test_bad_labels_are_withheld_by_the_others_although_their_bank_gains(labels: Callable[..., Any]) -> None:
    outcome = {each.party: each.outcome for each in lying.decided(labels(lying.honest()), "fedavg").findings}
    assert outcome == {"north": "fails", "harbour": "holds", "valley": "fails", "corner": "fails"}


def test_the_median_outvotes_flipped_labels() -> None:
    assert lying.decided(lying.flipped(lying.honest()), "median").verdict == "released"


@dataclass(frozen=True)
class Backwards:
    """The poorest model that knows the rows: what it takes for the surest fraud is genuine."""

    honest: Model

    def scores(self, X: Float32Matrix) -> Float32Vector:
        return 1 - self.honest.scores(X)


def test_who_hands_in_a_poor_own_model_weakens_its_own_clause_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a joint model that harms everybody: the liar's clause lets it pass, and all the others do not."""
    honest = lying.decided(lying.honest(), "fedavg", lie="tenfold")
    fitted = direct.own_models

    def poor(*about: Any, **how: Any) -> dict[str, Any]:
        models = fitted(*about, **how)
        return {**models, lying.LIAR: Backwards(models[lying.LIAR])}

    monkeypatch.setattr(direct, "own_models", poor)
    decision = lying.decided(lying.honest(), "fedavg", lie="tenfold")
    assert [finding.outcome for finding in (*honest.of(lying.LIAR), *decision.of(lying.LIAR))] == ["fails", "holds"]
    for bank in set(lying.BANKS) - {lying.LIAR}:
        assert decision.of(bank) == honest.of(bank)
        assert {finding.outcome for finding in decision.of(bank)} == {"fails"}
    assert decision.verdict == "withheld"


@pytest.mark.parametrize("method", ["fedavg", "median"])
def test_free_riding_is_not_detected_and_the_free_rider_receives_the_model(method: str) -> None:
    """The gate measures what the joint model is worth to each bank, not what each put into it: here the others'
    rows suffice, so all gain, the free rider too. Had its update been needed, those who needed it would not gain.
    """
    decision = lying.decided(lying.honest(), method, lie="free-ride")
    assert decision.verdict == "released"
    assert all(finding.outcome == "holds" for finding in decision.of("harbour"))
