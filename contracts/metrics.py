"""What clauses measure: how well one model's scores rank one party's rows. Pure numpy, no randomness.

Rules that hold for every metric here:

1. Rows with equal scores are one threshold, as in scikit-learn: no order inside a tie can help or harm a model.
2. A weight is the number of times a row's group (card) was drawn in a resample. A weighted value equals the value of a
   table in which the group's rows are repeated that often; scikit-learn's `sample_weight` gives the same number.
3. A value that the rows cannot give is nan, never 0 or 1: no fraud, or no genuine row where the metric needs one.

All metrics lie between 0 and 1 and larger is better.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contracts.errors import EscrowError
from contracts.ranking import (
    Counts,
    Floats,
    Scorer,
    Thresholds,
    average_precision,
    exact,
    hits,
    ratio,
    recall,
    roc_auc,
)

MetricName = Literal["average-precision", "recall-at-fpr", "roc-auc", "amount-weighted-recall", "card-precision-at-k"]
_RATE: Final = frozenset({"recall-at-fpr", "amount-weighted-recall"})
_PER_DAY: Final = "card-precision-at-k"


@dataclass(frozen=True)
class Metric:
    """One metric of the closed vocabulary.

    - `average-precision`: Σ (Rᵢ − Rᵢ₋₁)·Pᵢ over thresholds (`sklearn.metrics.average_precision_score`).
    - `recall-at-fpr`: the largest recall of a threshold whose false-positive rate is at most `at`
      (`roc_curve(..., drop_intermediate=False)`, read without interpolation; 0 if every threshold exceeds it).
    - `roc-auc`: chance that a fraud scores higher than a genuine row, ties counting half (`roc_auc_score`).
    - `amount-weighted-recall`: the same threshold as `recall-at-fpr`, but the share of the fraud **amount** it catches.
    - `card-precision-at-k`: each day the `at` cards with the highest score of that day are looked at; the share of them
      with a fraud that day, averaged over the days (Le Borgne et al., Reproducible Machine Learning for Credit Card
      Fraud Detection, 2022, section 4.4; cards already known as compromised are for the caller to drop). Cards tied at
      the last places share them equally. On a day with fewer than `at` cards all are looked at and the share is of
      those; days without a card do not count. A card drawn m times in a resample is m cards with the same score.

    Attributes:
        name: one of `MetricName`.
        at: maximal false-positive rate (0 to 1), or cards a day (a whole number from 1); None for the others.

    Raises:
        ValueError: for an unknown name, a missing `at`, one out of range, or one that the metric does not take.
    """

    name: MetricName
    at: float | None = None

    def __post_init__(self) -> None:
        if self.name not in get_args(MetricName):
            raise ValueError(f"unknown metric {self.name!r}; known are {', '.join(get_args(MetricName))}")
        if self.name in _RATE:
            if self.at is None or not 0 <= self.at <= 1:
                raise ValueError(f"{self.name} needs `at`, a false-positive rate from 0 to 1")
        elif self.name == _PER_DAY:
            if self.at is None or not 1 <= self.at < 2**24 or self.at != int(self.at):
                raise ValueError(f"{self.name} needs `at`, a whole number of cards a day from 1")
        elif self.at is not None:
            raise ValueError(f"{self.name} takes no `at`")

    def __str__(self) -> str:
        return self.name if self.at is None else f"{self.name}({self.at:g})"


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one party's holdout, without its features: what a metric has to know.

    Attributes:
        labels: (n,) bool, true for fraud.
        groups: (n,) int64, the card of each row as a code 0 … G−1, each code used.
        amounts: (n,) float64, finite and not negative, in the table's currency.
        days: (n,) int64, calendar day of each row, counted from 1970-01-01.
    """

    labels: NDArray[np.bool_]
    groups: NDArray[np.int64]
    amounts: Floats
    days: NDArray[np.int64]

    @classmethod
    def of(cls, labels: ArrayLike, groups: ArrayLike, amounts: ArrayLike, times: ArrayLike) -> Self:
        """Rows from a table's columns, checked.

        Args:
            labels: (n,) 0 or 1, or bool.
            groups: (n,) of any one type that sorts (texts, whole numbers).
            amounts: (n,) numbers.
            times: (n,) datetime64 of any unit, in the table's own clock.

        Raises:
            EscrowError: `table-invalid` for columns of different lengths or a value out of range.
        """
        y, g, amount = np.asarray(labels), np.asarray(groups), np.asarray(amounts, dtype=np.float64)
        time = np.asarray(times).astype("datetime64[s]")
        if y.ndim != 1 or not (y.shape == g.shape == amount.shape == time.shape):
            raise EscrowError("table-invalid", "Labels, groups, amounts and times are not columns of one length.")
        if not np.isin(y, (0, 1)).all():
            raise EscrowError("table-invalid", "A label is neither 0 nor 1.")
        if not (np.isfinite(amount) & (amount >= 0)).all():
            raise EscrowError("table-invalid", "An amount is negative or not a finite number.")
        if np.isnat(time).any():
            raise EscrowError("table-invalid", "A row has no time.")
        codes = np.unique(g, return_inverse=True)[1].astype(np.int64)
        days = time.astype("datetime64[D]").astype(np.int64)
        return cls(labels=y.astype(np.bool_), groups=codes, amounts=amount, days=days)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def positives(self) -> int:
        """Number of fraud rows."""
        return int(np.count_nonzero(self.labels))

    @property
    def group_count(self) -> int:
        """Number of groups, G."""
        return int(self.groups.max()) + 1 if len(self) else 0


def measure(metric: Metric, rows: Rows, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Measure one model's scores on the rows; nan where the metric is undefined.

    Args:
        metric: what to measure.
        rows: n rows.
        scores: (n,) finite numbers, higher for more suspicious.
        weights: (n,) whole numbers from 0, the same for all rows of a group; None for 1 each.

    Raises:
        EscrowError: `scores-invalid` if there is not one finite score for each row.
        ValueError: if the weights are not multiplicities of groups.
    """
    counts = np.ones(rows.group_count) if weights is None else _group_counts(rows, np.asarray(weights))
    return float(scorer(metric, rows, scores)(counts[:, None])[0])


def scorer(metric: Metric, rows: Rows, scores: ArrayLike) -> Scorer:
    """Sort and bin once; then measure any number of resamples by their counts.

    Raises:
        EscrowError: `scores-invalid` if there is not one finite score for each row.
    """
    s = np.asarray(scores, dtype=np.float64)
    if s.shape != rows.labels.shape or not np.isfinite(s).all():
        raise EscrowError("scores-invalid", "A model did not give one finite score for each row.")
    if not rows.labels.any():
        return lambda counts: np.full(counts.shape[1], np.nan)
    if metric.name == _PER_DAY:
        value = _card_precision(rows, s, int(metric.at or 0))
    else:
        value = _ranking_metric(metric, rows, s)
    return lambda counts: value(exact(counts, len(rows)))


def _group_counts(rows: Rows, weights: NDArray[Any]) -> Floats:
    counts = np.zeros(rows.group_count)
    if weights.shape != rows.labels.shape:
        raise ValueError("there must be one weight for each row")
    counts[rows.groups] = weights
    if (counts[rows.groups] != weights).any() or (counts < 0).any() or (counts != np.floor(counts)).any():
        raise ValueError("weights must be whole numbers from 0, the same for all rows of a group")
    return counts


def _ranking_metric(metric: Metric, rows: Rows, scores: Floats) -> Scorer:
    worth = rows.amounts if metric.name == "amount-weighted-recall" else np.ones(len(rows))
    thresholds = Thresholds.of(rows.labels, rows.groups, scores, worth, rows.group_count)
    match metric.name:
        case "average-precision":
            return lambda counts: average_precision(thresholds, counts)
        case "roc-auc":
            return lambda counts: roc_auc(thresholds, counts)
        case _:
            return lambda counts: recall(thresholds, counts, metric.at or 0.0)


def _card_precision(rows: Rows, scores: Floats, places: int) -> Scorer:
    """Rank each day's cards by their highest score; a card is a fraud if any of its rows that day is."""
    order = np.lexsort((rows.groups, rows.days))
    day, card = rows.days[order], rows.groups[order]
    starts = np.flatnonzero(np.r_[True, (day[1:] != day[:-1]) | (card[1:] != card[:-1])])
    day, card = day[starts], card[starts]
    best = np.maximum.reduceat(scores[order], starts)
    fraud = np.logical_or.reduceat(rows.labels[order], starts)
    worth = np.ones(len(day))
    days = [
        Thresholds.of(fraud[today], card[today], best[today], worth[today], rows.group_count)
        for today in np.split(np.arange(len(day)), np.flatnonzero(np.diff(day)) + 1)
    ]
    frauds = np.bincount(rows.groups, weights=rows.labels, minlength=rows.group_count)

    def value(counts: Counts) -> Floats:
        total, days_with_cards = np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
        for thresholds in days:
            seen = np.minimum(places, thresholds.sizes @ counts)
            total += np.nan_to_num(ratio(hits(thresholds, counts, places), seen))
            days_with_cards += seen > 0
        return np.where(frauds @ counts > 0, ratio(total, days_with_cards), np.nan)

    return value
