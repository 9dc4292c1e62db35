"""Metrics of a ranking on many resamples at once: rows are sorted and binned once, then a resample is only counts.

Rows with equal scores are one threshold. Only thresholds that end at a fraud are kept, because nothing changes for the
better between two of them. Rows are binned by the first of these thresholds at or below their score, and one sparse
product of the bins with the resampling counts gives every threshold of every resample. Counts are exact: sums of whole
numbers in float32 below 2^24, in float64 above; ratios are always float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # scipy takes a fifth of a second, and most programs that know metrics measure nothing
    from scipy.sparse import csr_array

Floats = NDArray[np.float64]

Counts = NDArray[np.float32] | NDArray[np.float64]
"""Whole numbers in floats: (groups, B), how often each group was drawn in each of B resamples."""

Scorer = Callable[[Counts], Floats]
"""From counts (groups, B) to the metric's value (B,) on each resample, nan where it is undefined."""


@dataclass(frozen=True, eq=False)
class Thresholds:
    """K thresholds, each ending a block of equal scores that holds a fraud, from the highest score down.

    Attributes:
        caught: (K, groups) frauds in the block.
        worth: (K, groups) what these frauds are worth, each as the caller says.
        tied: (K, groups) genuine rows in the block.
        flagged: (K, groups) all rows after the previous threshold, up to and including the block.
        sizes: (groups,) rows of each group.
    """

    caught: "csr_array"
    worth: "csr_array"
    tied: "csr_array"
    flagged: "csr_array"
    sizes: NDArray[np.float32]

    @classmethod
    def of(
        cls, labels: NDArray[np.bool_], groups: NDArray[np.int64], scores: Floats, worth: Floats, group_count: int
    ) -> Self:
        """Sort and bin n > 0 rows; every array is (n,)."""
        order = np.argsort(-scores, kind="stable")
        y, g, s = labels[order], groups[order], scores[order]
        starts = np.flatnonzero(np.r_[True, s[1:] != s[:-1]])
        lengths = np.diff(np.r_[starts, len(y)])
        has_fraud = np.logical_or.reduceat(y, starts)
        bins = np.repeat(np.cumsum(has_fraud) - has_fraud, lengths)  # thresholds above the row's block
        shape = (int(has_fraud.sum()), group_count)

        from scipy.sparse import csr_array  # noqa: PLC0415 - see above

        def sums(values: NDArray[Any], kept: NDArray[np.bool_]) -> "csr_array":
            return csr_array((values[kept], (bins[kept], g[kept])), shape=shape)

        one = np.ones(len(y), dtype=np.float32)
        return cls(
            caught=sums(one, y),
            worth=sums(worth[order], y),
            tied=sums(one, np.repeat(has_fraud, lengths) & ~y),
            flagged=sums(one, bins < shape[0]),
            sizes=np.bincount(groups, minlength=group_count).astype(np.float32),
        )


def exact(counts: Counts, rows: int) -> Counts:
    """Hold the counts in the narrowest float in which no sum over the rows can lose a unit."""
    if rows * float(counts.max(initial=0)) < 2**24:
        return counts.astype(np.float32, copy=False)
    return counts.astype(np.float64, copy=False)


def ratio(numerator: Counts, denominator: Counts) -> Floats:
    """Divide in float64; nan where the denominator is 0."""
    quotient = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0, dtype=np.float64)
    return quotient


def average_precision(thresholds: Thresholds, counts: Counts) -> Floats:
    """Sum (Rᵢ − Rᵢ₋₁)·Pᵢ over the thresholds; nan without a fraud."""
    caught = thresholds.caught @ counts
    true_positives = np.cumsum(caught, axis=0)
    flagged = np.cumsum(thresholds.flagged @ counts, axis=0)
    # Whole numbers: where nothing is flagged yet the numerator is 0 too.
    precision = np.divide(true_positives, np.maximum(flagged, 1), dtype=np.float64)
    return ratio(np.einsum("kb,kb->b", precision, caught, dtype=np.float64), true_positives[-1])


def roc_auc(thresholds: Thresholds, counts: Counts) -> Floats:
    """Return the chance that a fraud outscores a genuine row, ties counting half; nan without one of either."""
    caught = (thresholds.caught @ counts).astype(np.float64)
    false_positives, genuine = _false_positives(thresholds, counts)
    beaten = genuine - false_positives + (thresholds.tied @ counts) / 2
    return ratio((caught * beaten).sum(axis=0), caught.sum(axis=0) * genuine)


def recall(thresholds: Thresholds, counts: Counts, rate: float) -> Floats:
    """Return the largest share of frauds by worth caught at a false-positive rate up to `rate`.

    Nan without a genuine row or without any worth.
    """
    found = np.cumsum((thresholds.worth @ counts).astype(np.float64), axis=0)
    false_positives, genuine = _false_positives(thresholds, counts)
    # Dividing, not multiplying: 5 of 1,000 must compare equal to .005. A rate that is nan allows nothing.
    allowed = ratio(false_positives, genuine) <= rate
    best = np.where(allowed, found, 0.0).max(axis=0)
    return np.where(genuine > 0, ratio(best, found[-1]), np.nan)


def hits(thresholds: Thresholds, counts: Counts, places: int) -> Floats:
    """Return the expected number of frauds in the first `places` rows, ties in random order."""
    caught = (thresholds.caught @ counts).astype(np.float64)
    block = caught + thresholds.tied @ counts
    above = np.cumsum(thresholds.flagged @ counts, axis=0) - block
    taken = np.clip(places - above, 0, block)
    found: Floats = (taken * caught / np.maximum(block, 1)).sum(axis=0)
    return found


def _false_positives(thresholds: Thresholds, counts: Counts) -> tuple[Floats, Floats]:
    """(K, B) genuine rows flagged at each threshold, and (B,) all genuine rows."""
    true_positives = np.cumsum(thresholds.caught @ counts, axis=0).astype(np.float64)
    flagged = np.cumsum(thresholds.flagged @ counts, axis=0).astype(np.float64)
    return flagged - true_positives, (thresholds.sizes @ counts).astype(np.float64) - true_positives[-1]
