"""The release clauses: each describes itself in a sentence, says what must be measured, and judges the measurement.

A clause never sees data. It receives one `Measurement` (see `contracts.gain`) and answers `holds`, `fails` or
`undecided`; only `holds` can release. Too few positives, a missing or an undefined bound are `undecided`, never a pass.
"""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from contracts.gain import Measurement
from contracts.metrics import Metric, MetricName
from contracts.terms import Name, Term

Share = Annotated[float, Field(ge=0, le=1)]
Baseline = Literal["best-own", "incumbent"]


class Outcome(StrEnum):
    """What a clause says of the evidence."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"  # too little evidence, which never releases


class Measured(Term):
    """What the clauses share that measure the joint model on one party's holdout."""

    party: Name
    metric: MetricName
    at: float | None = None
    baseline: Baseline = "best-own"
    confidence: Annotated[float, Field(ge=0.5, le=0.9999)] = 0.95
    min_positives: Annotated[int, Field(ge=1)] = 50

    @model_validator(mode="after")
    def _metric_known(self) -> Self:
        Metric(self.metric, self.at)
        return self

    def measured(self) -> Metric:
        """The metric, with its operating point."""
        return Metric(self.metric, self.at)

    def metric_words(self) -> str:
        """The metric as a sentence names it, for example `recall-at-fpr at 0.005`."""
        return self.metric if self.at is None else f"{self.metric} at {self.at:g}"

    def own_words(self) -> str:
        """What the joint model is compared with."""
        return "its best own model" if self.baseline == "best-own" else "its incumbent model"

    def compare(self, measurement: Measurement | None, bound: float | None, above: float) -> Outcome:
        """`holds` if the one-sided lower `bound` lies above `above`; `undecided` on too little evidence."""
        if measurement is None or bound is None or measurement.positives < self.min_positives:
            return Outcome.UNDECIDED
        return Outcome.HOLDS if bound > above else Outcome.FAILS


class Gain(Measured):
    """The joint model beats the party's own by more than a threshold."""

    kind: Literal["gain"]
    more_than: Annotated[float, Field(ge=0, le=1)] = 0.0

    def describe(self) -> str:
        """One sentence for people."""
        return (
            f"{self.party}: {self.metric_words()} of the joint model exceeds that of {self.own_words()} "
            f"by more than {self.more_than:g} with {self.confidence:.2%} confidence, on at least "
            f"{self.min_positives} frauds of its holdout."
        )

    def judge(self, measurement: Measurement | None) -> Outcome:
        """Compares the lower bound of the gain with `more-than`."""
        return self.compare(measurement, measurement.gain_lower if measurement else None, self.more_than)


class NoHarm(Measured):
    """The joint model is not worse than the party's own by more than a margin."""

    kind: Literal["no-harm"]
    margin: Share = 0.0

    def describe(self) -> str:
        """One sentence for people."""
        return (
            f"{self.party}: {self.metric_words()} of the joint model is not lower than that of {self.own_words()} "
            f"by {self.margin:g} or more, with {self.confidence:.2%} confidence."
        )

    def judge(self, measurement: Measurement | None) -> Outcome:
        """Compares the lower bound of the gain with minus the margin."""
        return self.compare(measurement, measurement.gain_lower if measurement else None, -self.margin)


class Floor(Measured):
    """The joint model reaches a minimum on the party's holdout."""

    kind: Literal["floor"]
    at_least: Share

    def describe(self) -> str:
        """One sentence for people."""
        return (
            f"{self.party}: {self.metric_words()} of the joint model is more than {self.at_least:g} "
            f"with {self.confidence:.2%} confidence."
        )

    def judge(self, measurement: Measurement | None) -> Outcome:
        """Compares the lower bound of the joint model's metric with the floor."""
        return self.compare(measurement, measurement.joint_lower if measurement else None, self.at_least)


class Leakage(Term):
    """A membership attack on the joint model stays below a bound in every stratum."""

    kind: Literal["leakage"]
    strata: Literal["party-by-label"] = "party-by-label"
    tpr_at_1pct_fpr_at_most: Share
    confidence: Annotated[float, Field(ge=0.5, le=0.9999)] = 0.95

    def describe(self) -> str:
        """One sentence for people."""
        return (
            "A membership attack, run for each party and label, finds at most "
            f"{self.tpr_at_1pct_fpr_at_most:.2%} of the training rows at 1 % false alarms, "
            f"with {self.confidence:.2%} confidence."
        )

    def judge(self, measurement: Measurement | None) -> Outcome:  # noqa: ARG002 - one signature for all clauses
        """No attack has been run: undecided."""
        return Outcome.UNDECIDED


Clause = Annotated[Gain | NoHarm | Floor | Leakage, Field(discriminator="kind")]
