"""How often the gate is wrong: contracts of four simulated banks, decided by the clauses a real contract would have.

A bank is a table of card payments whose frauds come in clusters on a few cards, and two models' scores for it. Both
models share what makes a card easy or hard, and each has its own card and row noise. If the joint model has no
advantage, the two are exchangeable, so the true gain is exactly 0 and every release is a false one.

Figures:
    false_release_rate: contracts released although one bank (each in turn) gains nothing and three gain strongly.
    power: smallest share, over the banks, of clauses that hold when the true gain is 3 standard errors at each.
    false_release_rate_P: as the first, with P frauds at the bank that gains nothing.
    false_release_rate_P_rows: the same tables if rows were resampled instead of cards, to show what that would cost.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from contracts.gain import Method, assess
from contracts.metrics import Metric, Rows, measure
from contracts.ranking import Floats
from scenarios.benchmarks.report import Figures, Target

CONTRACTS: Final = 1_000
REPLICATES: Final = 1_000  # half of what a contract demands, to save time
CONFIDENCE: Final = 0.95
PILOT: Final = 500  # tables from which a bank's standard error is taken
BANKS: Final = (509, 326, 153, 57)  # frauds in each bank's holdout
SIZES: Final = (50, 100, 500)
FRAUDS_PER_CARD: Final = 3
GENUINE: Final = 1_000  # genuine rows of a bank
GENUINE_PER_CARD: Final = 8
STRENGTH: Final = 1.8  # how much higher frauds score than genuine rows
SHARED_NOISE: Final = 0.8  # standard deviation of a card, the same for both models
CARD_NOISE: Final = 0.35  # of a card, each model's own
ROW_NOISE: Final = 0.4  # of a row, each model's own
STRONG: Final = 1.5  # what a strongly better joint model adds to the strength
SEED: Final = 20180814
AVERAGE_PRECISION: Final = Metric("average-precision")


@dataclass(frozen=True, eq=False)
class Bank:
    """One bank's holdout and both models' scores for it."""

    rows: Rows
    own: Floats
    joint: Floats

    def improved(self, effect: float) -> "Bank":
        """Return the same bank with a joint model that scores every fraud higher by `effect`."""
        return replace(self, joint=self.joint + effect * self.rows.labels)

    def by_row(self) -> "Bank":
        """Return the same bank as if each row were a card of its own."""
        return replace(self, rows=replace(self.rows, groups=np.arange(len(self.rows))))


def draw_bank(rng: np.random.Generator, positives: int) -> Bank:
    """Draw a bank with `positives` frauds on a third as many cards and a joint model that gains nothing."""
    fraud_cards = max(1, positives // FRAUDS_PER_CARD)
    cards = fraud_cards + GENUINE // GENUINE_PER_CARD
    owner = np.r_[rng.integers(0, fraud_cards, positives), rng.integers(0, cards, GENUINE)]
    labels = np.arange(len(owner)) < positives
    rows = Rows(
        labels=labels,
        groups=np.unique(owner, return_inverse=True)[1],
        amounts=np.ones(len(owner)),
        days=np.zeros(len(owner), dtype=np.int64),
    )
    shared = STRENGTH * labels + rng.normal(0, SHARED_NOISE, cards)[owner]
    own, joint = (
        shared + rng.normal(0, CARD_NOISE, cards)[owner] + rng.normal(0, ROW_NOISE, len(owner)) for _ in range(2)
    )
    return Bank(rows, own, joint)


def holds(bank: Bank, seed: bytes, bound: Method = "percentile") -> bool:
    """Whether the bank's gain clause holds: the lower bound of the gain is above 0."""
    measurement = assess(
        AVERAGE_PRECISION,
        bank.rows,
        bank.own,
        bank.joint,
        confidence=CONFIDENCE,
        replicates=REPLICATES,
        seed=seed,
        bound=bound,
    )
    return measurement.gain_lower is not None and measurement.gain_lower > 0


def run(progress: Callable[[str], None]) -> Figures:
    """Simulate all contracts and give the figures of the module's docstring; some minutes on one core."""
    progress("contracts in which one bank gains nothing")
    released = [_released(_stream(0, k), BANKS[k % 4], BANKS[: k % 4] + BANKS[k % 4 + 1 :]) for k in range(CONTRACTS)]
    values = {"false_release_rate": float(np.mean(released)), "power": min(_power(p, progress) for p in BANKS)}
    for positives in SIZES:
        for suffix, by_row in (("", False), ("_rows", True)):
            progress(f"{positives} frauds at the bank that gains nothing{', rows resampled' if by_row else ''}")
            released = [_released(_stream(positives, k), positives, BANKS[:3], by_row=by_row) for k in range(CONTRACTS)]
            values[f"false_release_rate_{positives}{suffix}"] = float(np.mean(released))
    # Twice the standard error of a rate of .05 over 1,000 contracts is .014.
    return Figures(values, (Target("false_release_rate", "at_most", 0.064), Target("power", "at_least", 0.85)))


def _released(rng: np.random.Generator, idle: int, strong: tuple[int, ...], *, by_row: bool = False) -> bool:
    """Whether a contract is released although the bank with `idle` frauds gains nothing.

    The clauses are evaluated in turn up to the first that does not hold, which cannot change the verdict.
    """
    seed = rng.bytes(32)
    banks = ((idle, 0.0), *((positives, STRONG) for positives in strong))
    drawn = (draw_bank(rng, positives).improved(effect) for positives, effect in banks)
    return all(holds(bank.by_row() if by_row else bank, seed) for bank in drawn)


def _power(positives: int, progress: Callable[[str], None]) -> float:
    """Share of clauses that hold at a bank whose true gain is 3 standard errors."""
    progress(f"power with {positives} frauds")
    effect = _effect(positives, standard_errors=3.0)
    streams = (_stream(positives, CONTRACTS + k) for k in range(CONTRACTS))
    return float(np.mean([holds(draw_bank(rng, positives).improved(effect), rng.bytes(32)) for rng in streams]))


def _effect(positives: int, *, standard_errors: float) -> float:
    """Find the improvement at which the mean gain over pilot tables is that many of its standard deviations."""
    rng = _stream(positives, 2 * CONTRACTS)
    pilot = [draw_bank(rng, positives) for _ in range(PILOT)]
    own = np.array([measure(AVERAGE_PRECISION, bank.rows, bank.own) for bank in pilot])
    low, high = 0.0, STRONG
    for _ in range(7):
        middle = (low + high) / 2
        joint = [measure(AVERAGE_PRECISION, bank.rows, bank.improved(middle).joint) for bank in pilot]
        gain = np.array(joint) - own
        low, high = (middle, high) if gain.mean() < standard_errors * gain.std() else (low, middle)
    return (low + high) / 2


def _stream(*key: int) -> np.random.Generator:
    return np.random.default_rng([SEED, *key])
