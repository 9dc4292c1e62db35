"""A clause holds only on enough evidence and a bound beyond its threshold; what is missing is never a pass."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from support import POSITIVES, measurement

from contracts.clauses import Clause, Outcome
from contracts.gain import Measurement

READ: TypeAdapter[Any] = TypeAdapter(Clause)
GAIN = {"kind": "gain", "party": "north", "metric": "average-precision", "more-than": 0.05}
NO_HARM = {"kind": "no-harm", "party": "north", "metric": "recall-at-fpr", "at": 0.005, "margin": 0.01}
FLOOR = {"kind": "floor", "party": "north", "metric": "roc-auc", "at-least": 0.3}
LEAKAGE = {"kind": "leakage", "tpr-at-1pct-fpr-at-most": 0.05}


def judged(clause: dict[str, Any], found: Measurement | None) -> str:
    return str(READ.validate_python(clause).judge(found))


@pytest.mark.parametrize(
    ("clause", "bound", "just_above"),
    [(GAIN, "gain_lower", 0.05), (NO_HARM, "gain_lower", -0.01), (FLOOR, "joint_lower", 0.3)],
)
def test_the_lower_bound_must_exceed_the_threshold(clause: dict[str, Any], bound: str, just_above: float) -> None:
    assert judged(clause, measurement(**{bound: just_above + 1e-9})) == "holds"
    assert judged(clause, measurement(**{bound: just_above})) == "fails"
    assert judged(clause, measurement(**{bound: just_above - 1e-9})) == "fails"


@pytest.mark.parametrize(("clause", "bound"), [(GAIN, "gain_lower"), (NO_HARM, "gain_lower"), (FLOOR, "joint_lower")])
def test_a_bound_that_is_missing_is_undecided_however_good_the_rest(clause: dict[str, Any], bound: str) -> None:
    assert judged(clause, measurement(**{bound: None})) == "undecided"
    assert judged(clause, None) == "undecided"


@pytest.mark.parametrize("clause", [GAIN, NO_HARM, FLOOR])
def test_too_few_positives_are_undecided(clause: dict[str, Any]) -> None:
    asks = {**clause, "min-positives": POSITIVES}
    assert judged(asks, measurement(gain_lower=0.9, joint_lower=0.9)) == "holds"
    assert judged(asks, measurement(gain_lower=0.9, joint_lower=0.9, positives=POSITIVES - 1)) == "undecided"
    assert judged(asks, measurement(gain_lower=-0.9, joint_lower=0.0, positives=POSITIVES - 1)) == "undecided"


def test_point_estimates_decide_nothing() -> None:
    assert judged(GAIN, measurement(gain=0.9, gain_upper=0.95, joint=1.0, gain_lower=0.01)) == "fails"


def test_no_attack_that_was_not_run_is_a_pass() -> None:
    assert judged(LEAKAGE, None) == "undecided"
    assert judged(LEAKAGE, measurement()) == "undecided"


@pytest.mark.parametrize("figure", ["gain_lower", "joint_lower", "gain"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_no_figures(figure: str, value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        measurement(**{figure: value})


@pytest.mark.parametrize(
    ("clause", "words"),
    [
        (GAIN, ["north", "average-precision", "more than 0.05", "95.00%", "50 frauds", "best own model"]),
        ({**GAIN, "baseline": "incumbent"}, ["incumbent model"]),
        (NO_HARM, ["north", "recall-at-fpr at 0.005", "not lower", "0.01", "95.00%"]),
        (FLOOR, ["north", "roc-auc", "more than 0.3"]),
        (LEAKAGE, ["membership", "each party and label", "5.00%"]),
    ],
)
def test_a_clause_says_in_one_sentence_what_it_asks(clause: dict[str, Any], words: list[str]) -> None:
    sentence = READ.validate_python(clause).describe()
    assert sentence.endswith(".")
    assert ". " not in sentence
    for word in words:
        assert word in sentence


@pytest.mark.parametrize(
    "clause",
    [
        {**GAIN, "metric": "recall-at-fpr"},  # needs `at`
        {**GAIN, "metric": "recall-at-fpr", "at": 1.5},
        {**GAIN, "metric": "card-precision-at-k", "at": 0.5},
        {**GAIN, "at": 0.1},
        {**GAIN, "more-than": -0.1},
        {**GAIN, "margin": 0.1},
        {**GAIN, "min-positives": 0},
        {**GAIN, "confidence": 1.0},
        {**GAIN, "party": "North"},
        {**NO_HARM, "margin": -0.1},
        {**FLOOR, "at-least": 1.1},
        {"kind": "floor", "party": "north", "metric": "roc-auc"},
        {**LEAKAGE, "tpr-at-1pct-fpr-at-most": 2},
        {**LEAKAGE, "party": "north"},
        {"kind": "accuracy", "at-least": 0.95},
    ],
)
def test_a_clause_outside_the_language_is_refused(clause: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        READ.validate_python(clause, by_alias=True, by_name=False)


def test_there_are_three_outcomes_and_one_of_them_releases() -> None:
    assert [outcome.value for outcome in Outcome] == ["holds", "fails", "undecided"]
