"""How fast the gate resamples, and that it says what scikit-learn says.

The table has the size of four banks' holdouts of four weeks. One pair times what `contracts.gain.assess` does for both
models, from raw scores to bounds and the drawing of the resamples included, and then, in the same process, scikit-learn
on a sample of the same resamples, scaled to all of them (its time hardly depends on the resample). Nothing timed uses
more than one thread. The largest difference is taken over **every** resample.
"""

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Final

import numpy as np
from sklearn.metrics import average_precision_score

from contracts.gain import Comparison, compare
from contracts.metrics import Metric, Rows
from contracts.ranking import Counts, Floats
from contracts.resampling import resamples
from scenarios.benchmarks.report import Figures, Target

ROWS: Final = 172_893
POSITIVES: Final = 1_045
GROUPS: Final = 4_900
REPLICATES: Final = 2_000
PAIRS: Final = 5
SAMPLE: Final = 10  # resamples of both models that scikit-learn is timed on in each pair
SEED: Final = b"gate benchmark"


def run(progress: Callable[[str], None]) -> Figures:
    """Time and compare; figures `seconds`, `speedup` and `max_difference`. Takes minutes, most in scikit-learn."""
    rows, own, joint = _table(np.random.default_rng(0))
    counts = np.concatenate(list(resamples(rows.group_count, REPLICATES, SEED)), axis=1)
    seconds, ratios = [], []
    for pair in range(PAIRS):
        progress(f"pair {pair + 1} of {PAIRS}")
        start = perf_counter()
        comparison = _compare(rows, own, joint)
        comparison.measurement(0.95)
        fast = perf_counter() - start
        sample = range(pair * SAMPLE, (pair + 1) * SAMPLE)
        start = perf_counter()
        for k in sample:
            for scores in (own, joint):
                _slow(rows, scores, counts[:, k])
        slow = (perf_counter() - start) * REPLICATES / SAMPLE
        seconds.append(fast)
        ratios.append(slow / fast)
    values = {
        "seconds": median(seconds),
        "speedup": median(ratios),
        "max_difference": _difference(rows, (own, joint), counts, comparison, progress),
    }
    targets = (
        Target("seconds", "at_most", 0.6),
        Target("speedup", "at_least", 200),
        Target("max_difference", "at_most", 1e-9),
    )
    return Figures(values, targets)


def _table(rng: np.random.Generator) -> tuple[Rows, Floats, Floats]:
    """Rows, scores of the own model and scores of the joint one; the latter are rounded so that ties are common."""
    labels = np.zeros(ROWS, dtype=np.bool_)
    labels[rng.choice(ROWS, POSITIVES, replace=False)] = True
    cards = np.r_[np.arange(GROUPS), rng.integers(0, GROUPS, ROWS - GROUPS)]
    rows = Rows(labels=labels, groups=cards, amounts=rng.gamma(2, 30, ROWS), days=rng.integers(0, 28, ROWS))
    own = rng.normal(size=ROWS) + 2.5 * labels
    joint: Floats = np.round(rng.normal(size=ROWS) + 2.7 * labels, 3).astype(np.float64)
    return rows, own, joint


def _compare(rows: Rows, own: Floats, joint: Floats) -> Comparison:
    metric = Metric("average-precision")
    return compare([metric], rows, own, joint, replicates=REPLICATES, seed=SEED)[metric]


def _slow(rows: Rows, scores: Floats, counts: Counts) -> float:
    return float(average_precision_score(rows.labels, scores, sample_weight=counts[rows.groups]))


def _difference(
    rows: Rows,
    scores: tuple[Floats, Floats],
    counts: Counts,
    comparison: Comparison,
    progress: Callable[[str], None],
) -> float:
    """Largest difference from scikit-learn over every resample of both models."""
    largest = 0.0
    for k in range(REPLICATES):
        if k % 100 == 0:
            progress(f"resample {k} of {REPLICATES} against scikit-learn")
        for s, fast in zip(scores, (comparison.resampled.own[k], comparison.resampled.joint[k]), strict=True):
            largest = max(largest, abs(_slow(rows, s, counts[:, k]) - float(fast)))
    return largest
