"""The release rule: all clauses hold on the whole evidence of this very run, or nothing is released."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs
from pydantic import ValidationError
from support import (
    CONTRIBUTORS,
    KEYS,
    OUTPUTS,
    POSITIVES,
    ROWS,
    capsule_document,
    capsule_run,
    contract,
    gain,
    limits,
    measurement,
    refused,
    training,
)

from contracts.contract import Contract, drawn_up, validated
from contracts.gain import Measurement
from contracts.gate import Decision, Evidence, decide, measured_clauses

BOUND = hs.one_of(hs.none(), hs.floats(-0.3, 0.3))
THRESHOLDS = {"gain": "more-than", "floor": "at-least", "no-harm": "margin"}


def evidence(asked: Contract, *found: Measurement, run: int = 1) -> Evidence:
    numbers = measured_clauses(asked)
    return Evidence(contract=asked.digest(), run=run, measurements=dict(zip(numbers, found, strict=True)))


def clauses(*terms: dict[str, Any]) -> list[dict[str, Any]]:
    """Clauses of all kinds, each with its own `min-positives`, so that no two are the same."""
    plain: dict[str, dict[str, Any]] = {
        "gain": {"metric": "average-precision"},
        "no-harm": {"metric": "roc-auc"},
        "floor": {"metric": "average-precision", "at-least": 0.0},
    }
    return [
        {"party": CONTRIBUTORS[number % 2], "min-positives": 1 + number, **plain[term["kind"]], **term}
        for number, term in enumerate(terms)
    ]


@hs.composite
def cases(draw: hs.DrawFn) -> tuple[list[dict[str, Any]], list[Measurement]]:
    """Clauses with thresholds, and what was measured for each."""
    kinds = draw(hs.lists(hs.sampled_from(list(THRESHOLDS)), min_size=1, max_size=4))
    terms = [{"kind": kind, THRESHOLDS[kind]: draw(hs.floats(0, 0.3))} for kind in kinds]
    found = [measurement(gain_lower=draw(BOUND), joint_lower=draw(BOUND)) for _ in kinds]
    return clauses(*terms), found


def test_all_hold_released() -> None:
    asked = contract(release=clauses({"kind": "gain"}, {"kind": "no-harm"}, {"kind": "floor"}))
    decision = decide(asked, evidence(asked, *[measurement()] * 3), run=1)
    assert decision.verdict == "released"
    assert [finding.outcome for finding in decision.findings] == ["holds"] * 3


@pytest.mark.parametrize("failing", range(3))
@pytest.mark.parametrize(("bound", "verdict"), [(-0.5, "withheld"), (None, "undecided")])
def test_one_clause_is_enough_to_withhold(failing: int, bound: float | None, verdict: str) -> None:
    asked = contract(release=clauses({"kind": "gain"}, {"kind": "no-harm"}, {"kind": "floor"}))
    found = [measurement()] * 3
    found[failing] = measurement(gain_lower=bound, joint_lower=bound)
    assert decide(asked, evidence(asked, *found), run=1).verdict == verdict


def test_a_failure_outweighs_too_little_evidence() -> None:
    asked = contract(release=clauses({"kind": "gain"}, {"kind": "gain"}))
    found = [measurement(gain_lower=None), measurement(gain_lower=-0.1)]
    assert decide(asked, evidence(asked, *found), run=1).verdict == "withheld"


def test_a_joint_model_that_harms_one_party_is_withheld_whatever_the_other_gains() -> None:
    asked = contract()
    found = [measurement(gain=0.4, gain_lower=0.39), measurement(gain=-0.12, gain_lower=-0.15)]
    assert decide(asked, evidence(asked, *found), run=1).verdict == "withheld"


@settings(max_examples=60)
@given(cases(), hs.data())
def test_raising_any_threshold_never_releases_what_was_not(
    case: tuple[list[dict[str, Any]], list[Measurement]], data: hs.DataObject
) -> None:
    terms, found = case
    number = data.draw(hs.integers(0, len(terms) - 1))
    kind = terms[number]["kind"]
    value: float
    if data.draw(hs.booleans()):
        key, value = "min-positives", data.draw(hs.integers(terms[number]["min-positives"], POSITIVES))
    else:
        key, value = THRESHOLDS[kind], data.draw(hs.floats(0, 1))
        now = terms[number][key]
        value = min(now, value) if kind == "no-harm" else max(now, value)  # a smaller margin asks for more
    stricter = [{**clause, key: value} if place == number else clause for place, clause in enumerate(terms)]
    if stricter[number] in stricter[:number] + stricter[number + 1 :]:
        return
    before, after = contract(release=terms), contract(release=stricter)
    if decide(after, evidence(after, *found), run=1).verdict == "released":
        assert decide(before, evidence(before, *found), run=1).verdict == "released"


@settings(max_examples=40)
@given(cases(), hs.randoms(use_true_random=False))
def test_the_order_of_clauses_does_not_matter(
    case: tuple[list[dict[str, Any]], list[Measurement]], random: Any
) -> None:
    pairs = list(zip(*case, strict=True))
    shuffled = random.sample(pairs, len(pairs))
    verdicts = []
    for order in (pairs, shuffled):
        asked = contract(release=[clause for clause, _ in order])
        verdicts.append(decide(asked, evidence(asked, *(found for _, found in order)), run=1).verdict)
    assert verdicts[0] == verdicts[1]


@settings(max_examples=60)
@given(cases())
def test_a_verdict_follows_from_the_bounds_and_a_missing_one_never_releases(
    case: tuple[list[dict[str, Any]], list[Measurement]],
) -> None:
    terms, found = case
    asked = contract(release=terms)
    holds = []
    for clause, measured in zip(terms, found, strict=True):
        bound = measured.joint_lower if clause["kind"] == "floor" else measured.gain_lower
        threshold = clause[THRESHOLDS[clause["kind"]]] * (-1 if clause["kind"] == "no-harm" else 1)
        holds.append(None if bound is None else bound > threshold)
    expected = "released" if all(holds) else "withheld" if False in holds else "undecided"
    decision = decide(asked, evidence(asked, *found), run=1)
    assert decision.verdict == expected
    assert len(decision.findings) == len(terms)


def test_evidence_of_another_contract_or_run_is_refused() -> None:
    asked, other = contract(), contract(title="another")
    found = [measurement()] * 2
    for wrong, run in ((evidence(other, *found), 1), (evidence(asked, *found, run=2), 1), (evidence(asked, *found), 2)):
        with refused("evidence-mismatch"):
            decide(asked, wrong, run=run)


@pytest.mark.parametrize("numbers", [[], ["0"], ["0", "1", "2"], ["0", "2"], ["1", "01"]])
def test_there_is_one_measurement_for_each_clause(numbers: list[str]) -> None:
    asked = contract()
    wrong = Evidence(contract=asked.digest(), run=1, measurements=dict.fromkeys(numbers, measurement()))
    with refused("evidence-mismatch"):
        decide(asked, wrong, run=1)


@pytest.mark.parametrize(
    "figures",
    [
        {"rows": ROWS["holdout"] - 1},
        {"positives": POSITIVES - 1},
        {"positives": POSITIVES + 1},
        {"replicates": 1999},
        {"replicates": 200_000},
    ],
)
def test_evidence_on_less_than_the_committed_holdout_or_other_replicates_is_refused(figures: dict[str, int]) -> None:
    asked = contract()
    with refused("evidence-mismatch"):
        decide(asked, evidence(asked, measurement(), measurement(**figures)), run=1)


def test_evidence_with_anything_else_in_it_is_refused() -> None:
    plain = evidence(contract(), measurement(), measurement()).model_dump(mode="json", by_alias=True)
    assert Evidence.model_validate(plain).run == 1
    with pytest.raises(ValidationError, match="verdict"):
        Evidence.model_validate({**plain, "verdict": "released"})


def test_a_leakage_clause_that_nobody_evaluated_never_releases() -> None:
    leakage = {"kind": "leakage", "tpr-at-1pct-fpr-at-most": 1.0}
    asked = contract(release=[gain("north"), leakage, gain("harbour")])
    assert list(measured_clauses(asked)) == ["0", "2"]
    assert decide(asked, evidence(asked, measurement(), measurement()), run=1).verdict == "undecided"


def test_a_capsule_is_held_while_an_output_needs_vetting() -> None:
    unvetted = [{**OUTPUTS[0], "path": "other.csv", "vetting": "disclosure-control"}]
    for outputs, verdict in ((OUTPUTS, "released"), (unvetted, "held"), ([*OUTPUTS, *unvetted], "held")):
        asked = drawn_up(validated(capsule_document(computation=capsule_run(outputs=outputs))), KEYS)
        assert decide(asked, evidence(asked), run=1).verdict == verdict
        with refused("evidence-mismatch"):
            decide(asked, evidence(asked), run=2)


def test_findings_are_told_apart_by_party() -> None:
    asked = contract(release=[gain("north"), gain("harbour"), gain("north", confidence=0.9)])
    decision: Decision = decide(asked, evidence(asked, *[measurement()] * 3), run=1)
    assert [finding.clause for finding in decision.of("north")] == [0, 2]
    assert decision.of("valley") == ()


def test_a_decision_depends_on_nothing_but_contract_and_evidence() -> None:
    asked = contract(computation=training(replicates=3000), limits=limits(runs=2))
    found = evidence(asked, *[measurement(replicates=3000)] * 2, run=2)
    assert decide(asked, found, run=2) == decide(asked, found, run=2)
