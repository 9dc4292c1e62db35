"""Metrics: equal to scikit-learn and to repeating rows, blind to the order of rows, undefined where they must be."""

import warnings
from math import isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from contracts.errors import EscrowError
from contracts.metrics import Metric, Rows, measure, scorer

METRICS = [
    Metric("average-precision"),
    Metric("roc-auc"),
    Metric("recall-at-fpr", 0.25),
    Metric("amount-weighted-recall", 0.25),
    Metric("card-precision-at-k", 2),
]
every_metric = pytest.mark.parametrize("metric", METRICS, ids=str)


def table(labels, groups=None, amounts=None, days=None):
    n = len(labels)
    groups = range(n) if groups is None else groups
    amounts = [1.0] * n if amounts is None else amounts
    times = np.datetime64("2018-08-01", "s") + np.asarray([0] * n if days is None else days) * np.timedelta64(
        86_400, "s"
    )
    return Rows.of(labels, np.asarray(groups), amounts, times)


@st.composite
def cases(draw):
    """Rows with many ties, their scores, and how often each group was drawn."""
    n = draw(st.integers(1, 40))
    column = lambda values: draw(st.lists(values, min_size=n, max_size=n))  # noqa: E731
    rows = table(
        column(st.sampled_from([0, 0, 1])),
        groups=column(st.integers(0, 7)),
        amounts=column(st.integers(0, 9)),
        days=column(st.integers(0, 2)),
    )
    scores = np.array(column(st.sampled_from([-2.0, 0.0, 0.1, 0.1 + 1e-12, 0.5, 1.0])))
    counts = np.array(draw(st.lists(st.integers(0, 3), min_size=rows.group_count, max_size=rows.group_count)))
    return rows, scores, counts[rows.groups]


def same(a, b):
    return (isnan(a) and isnan(b)) or a == pytest.approx(b, abs=1e-12)


@every_metric
@settings(max_examples=30)
@given(case=cases())
def test_weights_are_repetitions(metric, case):
    rows, scores, weights = case
    copies = [(i, copy) for i, weight in enumerate(weights) for copy in range(weight)]
    index = np.array([i for i, _ in copies], dtype=int)
    repeated = Rows(
        labels=rows.labels[index],
        groups=np.unique([f"{rows.groups[i]}/{copy}" for i, copy in copies], return_inverse=True)[1],
        amounts=rows.amounts[index],
        days=rows.days[index],
    )
    assert same(measure(metric, rows, scores, weights), measure(metric, repeated, scores[index]))


@every_metric
@settings(max_examples=25)
@given(case=cases(), seed=st.integers(0, 99))
def test_order_of_rows_and_scale_of_scores_do_not_matter(metric, case, seed):
    rows, scores, weights = case
    order = np.random.default_rng(seed).permutation(len(rows))
    shuffled = Rows(rows.labels[order], rows.groups[order], rows.amounts[order], rows.days[order])
    value = measure(metric, rows, scores, weights)
    assert same(value, measure(metric, shuffled, 3 * scores[order] - 1, weights[order]))
    assert isnan(value) or 0 <= value <= 1


@settings(max_examples=60)
@given(case=cases())
def test_equals_scikit_learn(case):
    rows, scores, weights = case
    drawn = weights > 0
    ap, auc, recall = (measure(metric, rows, scores, weights) for metric in METRICS[:3])
    if not rows.labels[drawn].any():
        assert isnan(ap)
    else:
        assert ap == pytest.approx(average_precision_score(rows.labels, scores, sample_weight=weights), abs=1e-12)
    if len(set(rows.labels[drawn])) < 2:
        assert isnan(auc)
        assert isnan(recall)
    else:
        assert auc == pytest.approx(roc_auc_score(rows.labels, scores, sample_weight=weights), abs=1e-12)
        fpr, tpr, _ = roc_curve(rows.labels, scores, sample_weight=weights, drop_intermediate=False)
        assert recall == pytest.approx(tpr[fpr <= 0.25].max(), abs=1e-12)


@settings(max_examples=60)
@given(case=cases())
def test_amount_weighted_recall_is_the_best_threshold_tried_one_by_one(case):
    rows, scores, weights = case
    genuine, fraud = (weights * ~rows.labels).sum(), (weights * rows.labels * rows.amounts).sum()
    value = measure(Metric("amount-weighted-recall", 0.25), rows, scores, weights)
    if genuine == 0 or fraud == 0:
        assert isnan(value)
        return
    shares = [0.0]
    for threshold in np.unique(scores):
        flagged = weights * (scores >= threshold)
        if (flagged * ~rows.labels).sum() / genuine <= 0.25:
            shares.append((flagged * rows.labels * rows.amounts).sum() / fraud)
    assert value == pytest.approx(max(shares), abs=1e-12)


def test_a_false_positive_rate_just_at_the_limit_is_allowed():
    rows = table([1] + [0] * 200 + [1])
    scores = [3.0, 2.0] + [0.0] * 199 + [1.0]
    assert measure(Metric("recall-at-fpr", 0.005), rows, scores) == 1.0
    assert measure(Metric("recall-at-fpr", 0.0049), rows, scores) == 0.5


def test_card_precision_counts_cards_not_rows_and_days_by_their_own_date():
    # Day 0: card a (two alerts, one fraud) and b first; day 1: c and a first, c a fraud; b's fraud is never looked at.
    rows = table([1, 0, 0, 0, 1, 0, 1], groups=list("aabccab"), days=[0, 0, 0, 0, 1, 1, 1])
    scores = [0.2, 0.9, 0.8, 0.1, 0.9, 0.8, 0.1]
    assert measure(Metric("card-precision-at-k", 2), rows, scores) == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert measure(Metric("card-precision-at-k", 1), rows, scores) == 1.0
    assert measure(Metric("card-precision-at-k", 50), rows, scores) == pytest.approx((1 / 3 + 2 / 3) / 2)


def test_cards_tied_at_the_last_place_share_it():
    rows = table([1, 0, 0, 0], days=[0] * 4)
    assert measure(Metric("card-precision-at-k", 2), rows, [1, 1, 1, 2]) == pytest.approx((1 / 3) / 2)


def test_a_day_without_fraud_lowers_card_precision_and_a_day_without_cards_does_not():
    rows = table([1, 0], groups=["a", "b"], days=[0, 5])
    assert measure(Metric("card-precision-at-k", 1), rows, [1, 1]) == 0.5
    assert measure(Metric("card-precision-at-k", 1), rows, [1, 1], [1, 0]) == 1.0


@every_metric
def test_no_fraud_is_undefined_not_zero(metric):
    assert isnan(measure(metric, table([0, 0, 0]), [1, 2, 3]))
    assert isnan(measure(metric, table([1, 0, 0]), [1, 2, 3], [0, 1, 1]))
    assert isnan(measure(metric, table([]), []))


@pytest.mark.parametrize("metric", METRICS[1:4], ids=str)
def test_no_genuine_row_is_undefined_where_rates_need_one(metric):
    assert isnan(measure(metric, table([1, 1]), [1, 2]))


def test_a_model_that_flags_nothing_has_the_prevalence_as_average_precision():
    rows = table([1] * 4 + [0] * 96)
    assert measure(Metric("average-precision"), rows, np.zeros(100)) == pytest.approx(0.04)
    assert measure(Metric("recall-at-fpr", 0.5), rows, np.zeros(100)) == 0.0
    assert measure(Metric("roc-auc"), rows, np.zeros(100)) == 0.5


def test_counts_beyond_float32_stay_exact():
    rows = table([1, 0, 1, 0], groups=[0, 1, 2, 3])
    counts = np.array([[2**24 + 1.0], [2**24 - 1], [1], [2]])
    value = scorer(Metric("average-precision"), rows, [4, 3, 2, 1])(counts)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = average_precision_score(rows.labels, [4, 3, 2, 1], sample_weight=counts[:, 0])
    assert value == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("scores", [[1.0], [1.0, np.nan], [1.0, np.inf], [[1.0], [2.0]]])
def test_missing_or_infinite_scores_are_refused(scores):
    with pytest.raises(EscrowError) as refused:
        measure(Metric("average-precision"), table([0, 1]), scores)
    assert refused.value.code == "scores-invalid"


@pytest.mark.parametrize("weights", [[1, 2, 1], [1, 1], [-1, -1, 1], [0.5, 0.5, 1]])
def test_weights_that_are_no_multiplicities_of_groups_are_refused(weights):
    with pytest.raises(ValueError, match="weight"):
        measure(Metric("average-precision"), table([0, 1, 1], groups=["a", "a", "b"]), [1, 2, 3], weights)


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("accuracy", None),
        ("average-precision", 0.1),
        ("recall-at-fpr", None),
        ("recall-at-fpr", 1.5),
        ("recall-at-fpr", float("nan")),
        ("amount-weighted-recall", -0.1),
        ("card-precision-at-k", None),
        ("card-precision-at-k", 0),
        ("card-precision-at-k", 2.5),
        ("card-precision-at-k", float("nan")),
    ],
)
def test_metrics_outside_the_vocabulary_are_refused(name, at):
    with pytest.raises(ValueError, match=name):
        Metric(name, at)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (([0, 1], ["a"], [1, 1], ["2018-08-01"] * 2), "one length"),
        (([0, 2], ["a", "b"], [1, 1], ["2018-08-01"] * 2), "label"),
        (([0, 1], ["a", "b"], [1, -1], ["2018-08-01"] * 2), "amount"),
        (([0, 1], ["a", "b"], [1, np.nan], ["2018-08-01"] * 2), "amount"),
        (([0, 1], ["a", "b"], [1, 1], ["2018-08-01", "NaT"]), "time"),
    ],
)
def test_rows_that_cannot_be_are_refused(columns, says):
    labels, groups, amounts, times = columns
    with pytest.raises(EscrowError, match=says) as refused:
        Rows.of(labels, groups, amounts, np.array(times, dtype="datetime64[s]"))
    assert refused.value.code == "table-invalid"


def test_rows_count_calendar_days_and_code_cards():
    times = np.array(["2018-08-01T23:59:59", "2018-08-02T00:00:00", "1969-12-31T23:00:00"], dtype="datetime64[s]")
    rows = Rows.of([0, 1, 1], ["x", "b", "x"], [1, 2, 3], times)
    assert rows.days[1] - rows.days[0] == 1
    assert rows.days[2] == -1
    assert rows.groups.tolist() == [1, 0, 1]
    assert (len(rows), rows.positives, rows.group_count) == (3, 2, 2)
