"""The gain test: what it measures, that nothing undefined ever helps, and that it errs about as often as it says."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap
from sklearn.metrics import average_precision_score

from contracts import resampling
from contracts.gain import assess, compare, detectable_gain
from contracts.metrics import Metric, Rows, measure
from contracts.resampling import bca_bounds, leave_one_out, percentile_bounds, resamples
from scenarios.benchmarks.calibration import draw_bank, holds

AP = Metric("average-precision")
METRICS = [
    AP,
    Metric("roc-auc"),
    Metric("recall-at-fpr", 0.05),
    Metric("amount-weighted-recall", 0.05),
    Metric("card-precision-at-k", 5),
]
every_metric = pytest.mark.parametrize("metric", METRICS, ids=str)
every_bound = pytest.mark.parametrize("bound", ["percentile", "bca"])


def bank(seed=0, *, n=600, frauds=60, cards=80):
    """Rows and two models' scores, the second one better; rounding makes ties."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) < frauds)
    groups = np.unique(rng.integers(0, cards, n), return_inverse=True)[1]
    rows = Rows(labels, groups, np.round(rng.gamma(2, 30, n)), rng.integers(0, 7, n))
    own = np.round(labels + rng.normal(size=n), 1)
    return rows, own, np.round(own + labels * rng.normal(0.6, 0.3, n), 1)


def run(metric, rows, own, joint, **options):
    return assess(metric, rows, own, joint, **{"confidence": 0.95, "replicates": 400, "seed": b"s", **options})


@every_metric
def test_each_resample_is_the_metric_of_the_drawn_cards(metric):
    rows, own, joint = bank()
    comparison = compare([metric], rows, own, joint, replicates=30, seed=b"s")[metric]
    counts = np.concatenate(list(resamples(rows.group_count, 30, b"s")), axis=1)
    for k in range(30):
        weights = counts[rows.groups, k]
        assert comparison.resampled.own[k] == pytest.approx(measure(metric, rows, own, weights), abs=1e-12)
        assert comparison.resampled.joint[k] == pytest.approx(measure(metric, rows, joint, weights), abs=1e-12)


def test_each_resample_equals_scikit_learn():
    rows, own, joint = bank(n=2_000, frauds=90, cards=300)
    resampled = compare([AP], rows, own, joint, replicates=200, seed=b"s")[AP].resampled
    counts = np.concatenate(list(resamples(rows.group_count, 200, b"s")), axis=1)
    for scores, values in ((own, resampled.own), (joint, resampled.joint)):
        expected = [average_precision_score(rows.labels, scores, sample_weight=w) for w in counts[rows.groups].T]
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("metric", "bound"), [*((metric, "percentile") for metric in METRICS), (AP, "bca"), (METRICS[1], "bca")], ids=str
)
def test_a_better_model_has_a_gain_between_its_bounds(metric, bound):
    rows, own, joint = bank()
    found = run(metric, rows, own, joint, bound=bound)
    assert found.own == measure(metric, rows, own)
    assert found.joint == measure(metric, rows, joint)
    assert found.gain == found.joint - found.own
    assert 0 < found.gain_lower < found.gain < found.gain_upper
    assert 0 < found.joint_lower < found.joint < found.joint_upper <= 1
    assert (found.rows, found.positives, found.groups) == (600, 60, rows.group_count)
    assert (found.replicates, found.degenerate) == (400, 0)


@every_metric
@every_bound
def test_equal_scores_gain_exactly_nothing(metric, bound):
    rows, own, _ = bank()
    found = run(metric, rows, own, own.copy(), bound=bound)
    assert (found.gain, found.gain_lower, found.gain_upper) == (0, 0, 0)


@every_bound
def test_a_model_that_never_flags_does_not_pass(bound):
    rows, own, _ = bank(frauds=24)
    found = run(AP, rows, own, np.zeros(len(rows)), bound=bound)
    assert found.joint == pytest.approx(0.04)
    assert found.gain_upper < 0


@every_bound
@settings(max_examples=25)
@given(seed=st.integers(0, 9), confidences=st.lists(st.floats(0.5, 0.9999), min_size=2, max_size=2).map(sorted))
def test_more_confidence_never_raises_a_lower_bound(bound, seed, confidences):
    rows, own, joint = bank(seed, n=60, frauds=6, cards=15)
    comparison = compare([AP], rows, own, joint, replicates=99, seed=b"s", bound=bound)[AP]
    low, high = (comparison.measurement(confidence) for confidence in confidences)
    infinity = float("inf")
    for lower, upper in (("gain_lower", "gain_upper"), ("joint_lower", "joint_upper")):
        bounds = [(getattr(m, lower), getattr(m, upper)) for m in (low, high)]
        (a, b), (c, d) = [(-infinity if x is None else x, infinity if y is None else y) for x, y in bounds]
        assert c <= a
        assert d >= b


def test_same_seed_same_result_other_seed_other_result():
    rows, own, joint = bank()
    assert run(AP, rows, own, joint) == run(AP, rows, own, joint)
    assert run(AP, rows, own, joint).gain_lower != run(AP, rows, own, joint, seed=b"t").gain_lower


def test_several_metrics_and_confidences_share_the_resamples():
    rows, own, joint = bank()
    together = compare(METRICS, rows, own, joint, replicates=200, seed=b"s")
    for metric in METRICS:
        for confidence in (0.9, 0.99):
            alone = run(metric, rows, own, joint, confidence=confidence, replicates=200)
            assert together[metric].measurement(confidence) == alone


def test_the_order_of_rows_changes_nothing():
    rows, own, joint = bank()
    order = np.random.default_rng(1).permutation(len(rows))
    shuffled = Rows(rows.labels[order], rows.groups[order], rows.amounts[order], rows.days[order])
    a, b = run(AP, rows, own, joint), run(AP, shuffled, own[order], joint[order])
    assert a.model_dump() == pytest.approx(b.model_dump(), abs=1e-12)


# What is undefined


@every_metric
@every_bound
def test_without_fraud_everything_is_undefined(metric, bound):
    rows, own, joint = bank(frauds=0)
    found = run(metric, rows, own, joint, bound=bound)
    assert {found.own, found.joint, found.gain, found.gain_lower, found.gain_upper, found.joint_lower} == {None}
    assert found.degenerate == 400


@every_bound
def test_fraud_on_one_card_only_gives_no_bound(bound):
    # A third of the resamples misses that card: far more than the 5 % among which the bound lies.
    rows, own, _ = bank()
    rows = Rows(rows.groups == 3, rows.groups, rows.amounts, rows.days)
    found = run(AP, rows, own, own + rows.labels, bound=bound)
    assert 0.3 < found.degenerate / 400 < 0.45
    assert found.gain > 0
    assert (found.gain_lower, found.gain_upper, found.joint_lower, found.joint_upper) == (None, None, None, None)


@pytest.mark.parametrize("seed", range(3))
def test_a_few_undefined_resamples_never_move_a_bound_inwards(seed):
    rng = np.random.default_rng(seed)
    values, left_out = rng.normal(0.1, 1, 399), rng.normal(size=20)
    read = (percentile_bounds, lambda v, c: bca_bounds(v, 0.1, left_out, c))
    for bounds in read:
        lower, upper = bounds(values, 0.95)
        for lost in np.argsort(values)[[0, 50, 200, 350, 398]]:
            fewer = values.copy()
            fewer[lost] = np.nan
            assert bounds(fewer, 0.95)[0] <= lower
            assert bounds(fewer, 0.95)[1] >= upper


# Order statistics


@given(replicates=st.integers(1, 3_000), percent=st.integers(50, 99))
def test_the_percentile_bound_is_an_exact_order_statistic(replicates, percent):
    values = np.random.default_rng(0).permutation(np.arange(1.0, replicates + 1))
    rank = Fraction(100 - percent, 100) * (replicates + 1) // 1
    expected = (rank, replicates + 1 - rank) if rank else (None, None)
    assert percentile_bounds(values, percent / 100) == expected


def test_too_few_replicates_for_the_confidence_give_no_bound():
    assert percentile_bounds(np.arange(98.0), 0.99) == (None, None)
    assert percentile_bounds(np.arange(99.0), 0.99) == (0.0, 98.0)


def test_bca_without_bias_and_skew_is_the_percentile_bound():
    values = np.arange(-1000.0, 1001)
    lower, upper = bca_bounds(values, 0.0, np.array([-1.0, 1.0]), 0.95)
    assert (lower, upper) == pytest.approx(percentile_bounds(values, 0.95), abs=1)


def test_bca_agrees_with_scipy():
    sample = np.random.default_rng(0).exponential(size=40)
    reference = bootstrap((sample,), np.mean, method="BCa", n_resamples=9_999, confidence_level=0.9, rng=1)
    left_out = np.array([np.delete(sample, i).mean() for i in range(40)])
    lower, upper = bca_bounds(reference.bootstrap_distribution, float(sample.mean()), left_out, 0.95)
    assert (lower, upper) == pytest.approx(tuple(reference.confidence_interval), abs=2e-3)


# Resampling


@pytest.mark.parametrize(("groups", "replicates"), [(1, 5), (7, 300), (4_901, 3)])
def test_a_resample_draws_as_many_groups_as_there_are(groups, replicates):
    counts = np.concatenate(list(resamples(groups, replicates, b"s")), axis=1)
    assert counts.shape == (groups, replicates)
    assert (counts.sum(axis=0) == groups).all()


def test_groups_are_drawn_evenly():
    drawn = np.concatenate(list(resamples(50, 4_000, b"even")), axis=1).sum(axis=1)
    chi_square = ((drawn - 4_000) ** 2 / 4_000).sum()
    assert 20 < chi_square < 95  # 49 degrees of freedom: about 2e-4 of chance on either side


def test_the_stream_is_fixed_for_ever():
    counts = next(resamples(7, 3, b"model escrow"))
    assert counts.T.astype(int).tolist() == [[1, 3, 0, 2, 1, 0, 0], [0, 1, 1, 0, 0, 2, 3], [1, 3, 0, 0, 1, 2, 0]]


def test_chunks_do_not_change_what_is_drawn(monkeypatch):
    whole = np.concatenate(list(resamples(9, 40, b"s")), axis=1)
    monkeypatch.setattr(resampling, "_CELLS", 30)
    pieces = list(resamples(9, 40, b"s"))
    assert len(pieces) > 10
    assert np.array_equal(np.concatenate(pieces, axis=1), whole)


def test_the_jackknife_leaves_each_group_out_once():
    counts = np.concatenate(list(leave_one_out(6)), axis=1)
    assert np.array_equal(counts, 1 - np.eye(6))


# Error rates and planning


def test_a_joint_model_without_advantage_is_seldom_released():
    banks = [draw_bank(np.random.default_rng([5, k]), 100) for k in range(120)]
    assert np.mean([holds(bank, bytes([k])) for k, bank in enumerate(banks)]) <= 0.11  # .05 and three standard errors


def test_drawing_rows_instead_of_cards_claims_more_certainty_than_there_is():
    widths = []
    for seed in range(5):
        bank = draw_bank(np.random.default_rng(seed), 150)
        found = [run(AP, b.rows, b.own, b.joint) for b in (bank, bank.by_row())]
        widths.append([measurement.gain_upper - measurement.gain_lower for measurement in found])
    by_card, by_row = np.mean(widths, axis=0)
    assert by_card > 1.15 * by_row


@pytest.mark.parametrize(("positives", "error"), [(509, 0.007), (326, 0.011), (153, 0.030), (57, 0.056)])
def test_the_detectable_gain_covers_what_four_banks_showed(positives, error):
    low, high = detectable_gain(positives, confidence=0.95)
    assert low <= 2.5 * error * 1.05
    assert high >= 2.5 * error * 0.95


def test_the_detectable_gain_falls_with_frauds_and_rises_with_confidence_and_power():
    base = detectable_gain(200, confidence=0.95)
    assert detectable_gain(800, confidence=0.95) == pytest.approx(tuple(x / 2 for x in base))
    assert detectable_gain(200, confidence=0.99) > base
    assert detectable_gain(200, confidence=0.95, power=0.9) > base
    assert detectable_gain(1, confidence=0.99)[1] == 1.0
    with pytest.raises(ValueError, match="without a fraud"):
        detectable_gain(0, confidence=0.95)


@pytest.mark.parametrize("options", [{"confidence": 0.4}, {"confidence": 1.0}, {"replicates": 0}])
def test_impossible_questions_are_refused(options):
    rows, own, joint = bank()
    with pytest.raises(ValueError, match=next(iter(options))[:9]):
        run(AP, rows, own, joint, **options)
