"""Resampling of groups, and bounds from resamples: the arithmetic under `contracts.gain`.

Rules: what is drawn depends on the seed alone, not on a library's version or on how the work is cut into chunks; order
statistics are taken by an exact rule that errs on the careful side; a resample in which the metric is undefined counts
as the worst case for whichever bound is asked.
"""

import math
from collections.abc import Iterator
from fractions import Fraction
from hashlib import sha256
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from contracts.ranking import Floats

Bounds = tuple[float | None, float | None]
"""One-sided lower and upper bound, each at the same confidence; None where the resamples cannot give it."""

_CELLS = 2**20
"""Counts held at once, 4 bytes each: a chunk of resamples and what is made of it stay in the processor's cache."""


def resamples(groups: int, replicates: int, seed: bytes) -> Iterator[NDArray[np.float32]]:
    """Draw `groups` groups with replacement, `replicates` times, and count how often each was drawn.

    The stream is Philox4x64-10 (Salmon et al., 2011) keyed with the first 16 bytes of SHA-256(seed), little-endian. A
    replicate takes ⌈groups / 2⌉ of its 64-bit words, low half first; the half-word u draws group ⌊u · groups / 2³²⌋,
    so that no group's chance differs from 1 / groups by more than 2⁻³².

    Yields:
        (groups, b) whole numbers, replicates in order, b chosen so that memory stays bounded.
    """
    key = int.from_bytes(sha256(seed).digest()[:16], "little")
    stream = np.random.Philox(key=key)
    words = (groups + 1) // 2
    for start, stop in _chunks(replicates, groups):
        size = stop - start
        halves = stream.random_raw(size * words).astype("<u8", copy=False).view("<u4").reshape(size, 2 * words)
        cells = halves[:, :groups].astype(np.uint64)
        cells *= np.uint64(groups)
        cells >>= np.uint64(32)
        cells += np.arange(0, size * groups, groups, dtype=np.uint64)[:, None]
        counts = np.bincount(cells.view(np.int64).ravel(), minlength=size * groups).reshape(size, groups)
        yield np.ascontiguousarray(counts.T, dtype=np.float32)


def leave_one_out(groups: int) -> Iterator[NDArray[np.float32]]:
    """Count for the jackknife: column i draws every group once except group i; (groups, b) in order of i."""
    for start, stop in _chunks(groups, groups):
        counts = np.ones((groups, stop - start), dtype=np.float32)
        counts[np.arange(start, stop), np.arange(stop - start)] = 0
        yield counts


def _chunks(columns: int, height: int) -> Iterator[tuple[int, int]]:
    width = max(1, min(256, _CELLS // max(1, height)))
    for start in range(0, columns, width):
        yield start, min(start + width, columns)


def percentile_bounds(values: Floats, confidence: float) -> Bounds:
    """Take the r-th smallest and r-th largest of B values, r = ⌊(1 − confidence)(B + 1)⌋, computed exactly.

    Rank (B + 1)α is the one that makes the test exact when values and truth are exchangeable (Davison and Hinkley,
    Bootstrap Methods and their Application, 1997, section 4.2); rounding down can only widen the interval. Values that
    are nan stand below all others for the lower bound and above all others for the upper one. A bound is None if r < 1
    (too few values for this confidence) or if it falls among the nan (too many of them).
    """
    rank = math.floor((1 - Fraction(repr(float(confidence)))) * (len(values) + 1))
    return _ranked(values, rank), _negated(_ranked(-values, rank))


def bca_bounds(values: Floats, observed: float, left_out: Floats, confidence: float) -> Bounds:
    """Take bias-corrected and accelerated bounds (Efron, 1987, equation 4.2; acceleration by jackknife, equation 6.6).

    Values equal to the observed one count half below it. Nan values count as above the observed one in the lower
    bound's bias correction and below it in the upper one's, so that they never move a bound inwards. Ranks are rounded
    outwards as in `percentile_bounds`.

    Args:
        values: (B,) bootstrap values, nan where undefined.
        observed: the value on the rows themselves.
        left_out: (G,) values with each group left out, nan where undefined (these are ignored).
        confidence: of each bound, one-sided.
    """
    acceleration = _acceleration(left_out[np.isfinite(left_out)])
    return (
        _bca_lower(values, observed, acceleration, confidence),
        _negated(_bca_lower(-values, -observed, -acceleration, confidence)),
    )


def _bca_lower(values: Floats, observed: float, acceleration: float, confidence: float) -> float | None:
    below = (np.count_nonzero(values < observed) + np.count_nonzero(values == observed) / 2) / len(values)
    if not 0 < below < 1:
        return None
    normal = NormalDist()
    bias = normal.inv_cdf(below)
    shifted = bias + normal.inv_cdf(1 - confidence)
    if acceleration * shifted >= 1:  # the transformation has no inverse there
        return None
    level = normal.cdf(bias + shifted / (1 - acceleration * shifted))
    return _ranked(values, math.floor(level * (len(values) + 1)))


def _acceleration(left_out: Floats) -> float:
    if not len(left_out):
        return 0.0
    deviations = left_out.mean() - left_out
    spread = float((deviations**2).sum())
    return float((deviations**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0


def _ranked(values: Floats, rank: int) -> float | None:
    """Find the rank-th smallest value (from 1), nan standing below all; None for a rank below 1 or nan."""
    undefined = np.count_nonzero(np.isnan(values))
    if rank < 1 or rank <= undefined:
        return None
    place = min(rank - undefined, len(values) - undefined) - 1
    return float(np.partition(values, place)[place])  # numpy sorts nan last


def _negated(value: float | None) -> float | None:
    return None if value is None else -value
