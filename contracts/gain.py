"""The gain of a joint model over a party's own: a paired bootstrap over groups, its bounds, and what a sample can show.

Rules:

1. Groups (cards) are resampled, never rows: frauds of one card are not independent. With 150 positives on about 50
   cards, resampling rows released 15.5 % of the joint models that gained nothing where 5 % were allowed.
2. The test is paired: each resample serves both models.
3. Bounds are one-sided, each at the confidence that the clause asks.
4. What the rows cannot give is None, and None never holds a clause. A resample in which the metric is undefined (it
   drew no fraud) is undefined for both models; it counts as an unlimited loss for the lower bounds and as an unlimited
   gain for the upper ones, so it can never help a release. If so many are undefined that a bound falls among them, the
   bound is None.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import NonNegativeInt

from contracts.metrics import Metric, Rows, scorer
from contracts.ranking import Counts, Floats, Scorer
from contracts.resampling import Bounds, bca_bounds, leave_one_out, percentile_bounds, resamples
from contracts.terms import Term

Method = Literal["percentile", "bca"]
"""How bounds are read from the resamples; `percentile` unless the contract says otherwise (see `assess`)."""

SPREAD: Final = (0.16, 0.42)
"""Standard error of a gain in average precision times √positives: two similar models, two very different ones."""


class Measurement(Term):
    """One metric of a party's own model and of the joint one on that party's holdout, with one-sided bounds.

    `gain` is joint − own. Every number is None where it is undefined.
    """

    own: float | None
    joint: float | None
    gain: float | None
    gain_lower: float | None
    gain_upper: float | None
    joint_lower: float | None
    joint_upper: float | None
    rows: NonNegativeInt
    positives: NonNegativeInt
    groups: NonNegativeInt
    replicates: NonNegativeInt
    degenerate: NonNegativeInt  # resamples in which the metric is undefined


@dataclass(frozen=True, eq=False)
class Pair:
    """The metric of both models on the same (B,) resamples, or on the (G,) tables with one group left out."""

    own: Floats
    joint: Floats

    @property
    def gain(self) -> Floats:
        """Joint − own, nan where undefined."""
        return self.joint - self.own


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything about one metric from which measurements at any confidence are read.

    Attributes:
        rows: the holdout.
        observed: (1,) values on the rows themselves.
        resampled: (B,) values on the bootstrap resamples.
        left_out: (G,) values with each group left out; None unless BCa bounds are wanted.
    """

    rows: Rows
    observed: Pair
    resampled: Pair
    left_out: Pair | None

    def measurement(self, confidence: float) -> Measurement:
        """Values and one-sided bounds, each at `confidence` (0.5 ≤ confidence < 1)."""
        if not 0.5 <= confidence < 1:
            raise ValueError("confidence must be at least 0.5 and below 1")
        gain_lower, gain_upper = self._bounds("gain", confidence)
        joint_lower, joint_upper = self._bounds("joint", confidence)
        return Measurement(
            own=_defined(self.observed.own[0]),
            joint=_defined(self.observed.joint[0]),
            gain=_defined(self.observed.gain[0]),
            gain_lower=gain_lower,
            gain_upper=gain_upper,
            joint_lower=joint_lower,
            joint_upper=joint_upper,
            rows=len(self.rows),
            positives=self.rows.positives,
            groups=self.rows.group_count,
            replicates=len(self.resampled.own),
            degenerate=int(np.count_nonzero(np.isnan(self.resampled.gain))),
        )

    def _bounds(self, what: Literal["gain", "joint"], confidence: float) -> Bounds:
        values: Floats = getattr(self.resampled, what)
        if self.left_out is None:
            return percentile_bounds(values, confidence)
        return bca_bounds(values, getattr(self.observed, what)[0], getattr(self.left_out, what), confidence)


def compare(
    metrics: Sequence[Metric],
    rows: Rows,
    own_scores: ArrayLike,
    joint_scores: ArrayLike,
    *,
    replicates: int,
    seed: bytes,
    bound: Method = "percentile",
) -> dict[Metric, Comparison]:
    """Compare two models by several metrics on one set of resamples; `Comparison.measurement` then takes a confidence.

    Arguments and errors are those of `assess`. The resamples are drawn once, a bounded number at a time.
    """
    if replicates < 1:
        raise ValueError("there must be at least one replicate")
    pairs = {metric: (scorer(metric, rows, own_scores), scorer(metric, rows, joint_scores)) for metric in metrics}
    groups = rows.group_count
    observed = _pairs(pairs, [np.ones((groups, 1), dtype=np.float32)])
    resampled = _pairs(pairs, resamples(groups, replicates, seed))
    left_out = _pairs(pairs, leave_one_out(groups)) if bound == "bca" else {}
    return {m: Comparison(rows, observed[m], resampled[m], left_out.get(m)) for m in pairs}


def assess(
    metric: Metric,
    rows: Rows,
    own_scores: ArrayLike,
    joint_scores: ArrayLike,
    *,
    confidence: float,
    replicates: int,
    seed: bytes,
    bound: Method = "percentile",
) -> Measurement:
    """Measure the gain of the joint model on one party's holdout.

    How often a clause held at 95 % confidence although nothing was gained (average precision, frauds clustered on a
    third as many cards, `scenarios.benchmarks.calibration`, B = 1,000, 3,000 draws each, standard error .004 to .005):

        positives        50     100    300
        percentile      .059   .054   .054
        bca             .095   .074   .066

    So `percentile` is the default. BCa costs one more resample for each group, and suits metrics that move smoothly
    with the rows (average precision, ROC AUC); for recall at a rate it is erratic and often gives no bound.

    Args:
        metric: what to compare.
        rows: n rows of the holdout.
        own_scores: (n,) scores of the party's own model.
        joint_scores: (n,) scores of the joint model.
        confidence: of each one-sided bound; a caller that looks several times splits its error rate before.
        replicates: B, the number of resamples.
        seed: any bytes; the same seed gives the same resamples for tables with equally many groups.
        bound: how bounds are read from the resamples.

    Raises:
        EscrowError: `scores-invalid` if a model did not give one finite score for each row.
        ValueError: for a confidence or a number of replicates out of range.
    """
    comparisons = compare([metric], rows, own_scores, joint_scores, replicates=replicates, seed=seed, bound=bound)
    return comparisons[metric].measurement(confidence)


def detectable_gain(positives: int, *, confidence: float, power: float = 0.8) -> tuple[float, float]:
    """Estimate the smallest true gain in average precision that a holdout is likely to show, from its frauds alone.

    For planning, before any model exists: with a true gain this large a clause that asks for more than 0 at
    `confidence` holds with probability `power`. It is (z_confidence + z_power) standard errors. The standard error is
    about s / √positives, where s depends on how differently the two models rank: on a year of simulated card payments
    split over four banks it was .007 at 509 frauds, .011 at 326, .030 at 153 and .056 at 57, so s = .16 where joint
    and own model were much alike (the largest bank) up to s = .42 where they were not (the smallest).

    Args:
        positives: number of fraud rows in the holdout, at least 1.
        confidence: of the clause, one-sided.
        power: chance of passing that the planner asks for.

    Returns:
        (low, high): for two similar and two very different models; at most 1, the largest gain there can be.
    """
    if positives < 1:
        raise ValueError("a holdout without a fraud can show no gain")
    normal = NormalDist()
    errors = (normal.inv_cdf(confidence) + normal.inv_cdf(power)) / sqrt(positives)
    low, high = (min(1.0, spread * errors) for spread in SPREAD)
    return low, high


def _pairs(scorers: dict[Metric, tuple[Scorer, Scorer]], chunks: Iterable[Counts]) -> dict[Metric, Pair]:
    """Every metric of both models on every column of the counts, which are drawn once and not kept."""
    values: dict[Metric, tuple[list[Floats], list[Floats]]] = {metric: ([], []) for metric in scorers}
    for counts in chunks:
        for metric, (own, joint) in scorers.items():
            values[metric][0].append(own(counts))
            values[metric][1].append(joint(counts))
    return {metric: Pair(np.concatenate(own), np.concatenate(joint)) for metric, (own, joint) in values.items()}


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
