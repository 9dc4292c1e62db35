"""What each term of a bank's policy demands of a contract: one pure check a term, none of which knows of another.

A check yields a sentence for each violation. So a policy with one term more never allows more. Terms about models
govern joint trainings, `capsules` governs capsules.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from contracts.clauses import Gain, Leakage, Measured
from contracts.computation import CapsuleRun, Ensemble, JointTraining
from contracts.contract import Contract, Disclosure
from contracts.contributions import Contribution, TableContribution
from contracts.terms import Commitment, Name

DAY: Final = 86400


@dataclass(frozen=True)
class Case:
    """What is checked, from the bank's side.

    Attributes:
        contract: what is to be approved.
        party: the bank.
        looks: runs started so far over each of its holdouts.
        now: whole seconds since 1970.
    """

    contract: Contract
    party: Name
    looks: Mapping[Commitment, int]
    now: int

    @property
    def ours(self) -> Contribution | None:
        """What the bank contributes, if anything."""
        return self.contract.contribution(self.party)

    @property
    def training(self) -> JointTraining | None:
        """What runs, unless it is a capsule."""
        computation = self.contract.computation
        return computation if isinstance(computation, JointTraining) else None

    @property
    def measured(self) -> list[tuple[str, Measured]]:
        """The clauses measured on the bank's holdout, each with its place."""
        return [
            (f"release[{number}]", clause)
            for number, clause in enumerate(self.contract.release)
            if isinstance(clause, Measured) and clause.party == self.party
        ]

    @property
    def leakage(self) -> list[tuple[str, Leakage]]:
        """The clauses that limit what the model gives away about the bank's rows; none if it contributes none."""
        return [
            (f"release[{number}]", clause)
            for number, clause in enumerate(self.contract.release)
            if isinstance(clause, Leakage) and self.ours
        ]


Broken = Iterator[str]


def _listed(what: str, found: Iterable[str], allowed: Collection[str]) -> Broken:
    """A sentence for each of `found` that is not in `allowed`."""
    words = ", ".join(allowed) or "none"
    for each in dict.fromkeys(found):
        if each not in allowed:
            yield f"{what} is {each}; allowed: {words}."


def _own_condition(_: str, case: Case) -> Broken:
    if case.ours and not case.measured:
        yield f"No clause is measured on {case.party}'s holdout."


def _minimum_gain(wanted: Mapping[str, float], case: Case) -> Broken:
    gains = [clause for _, clause in case.measured if isinstance(clause, Gain)]
    for metric, least in wanted.items():
        if case.ours and not any(gain.metric == metric and gain.more_than >= least for gain in gains):
            yield f"No gain clause asks for more than {least:g} in {metric} on {case.party}'s holdout."


def _minimum_confidence(least: float, case: Case) -> Broken:
    asked = {place: clause.confidence for place, clause in case.measured}
    asked |= {place: clause.confidence for place, clause in case.leakage}
    for place, confidence in asked.items():
        if confidence < least:
            yield f"{place} asks for {confidence:.2%} confidence; at least {least:.2%} is demanded."


def _minimum_positives(least: int, case: Case) -> Broken:
    for place, clause in case.measured:
        if clause.min_positives < least:
            yield f"{place} is decided on {clause.min_positives} positives; at least {least} are demanded."


def _metrics(allowed: tuple[str, ...], case: Case) -> Broken:
    for place, clause in case.measured:
        yield from _listed(f"The metric of {place}", [clause.metric], allowed)


def _leakage(_: str, case: Case) -> Broken:
    if case.ours and not case.leakage:
        yield "No leakage clause limits what the model gives away about single rows."


def _leakage_bound(most: float, case: Case) -> Broken:
    if case.ours and not any(clause.tpr_at_1pct_fpr_at_most <= most for _, clause in case.leakage):
        yield f"No leakage clause keeps the attack's true-positive rate at {most:g} or below."


def _families(allowed: tuple[str, ...], case: Case) -> Broken:
    if case.training:
        if isinstance(case.training.method, Ensemble):
            found = (spec.family for spec in case.training.candidates())
            yield from _listed("The family of a model that may be in the ensemble", found, allowed)
        else:
            yield from _listed("The joint model's family", [case.training.model.family], allowed)


def _methods(allowed: tuple[str, ...], case: Case) -> Broken:
    if case.training:
        yield from _listed("The method", [case.training.method.name], allowed)


def _capsules(allowed: tuple[str, ...], case: Case) -> Broken:
    computation = case.contract.computation
    theirs = isinstance(case.contract.contributed(case.party), TableContribution)
    if isinstance(computation, CapsuleRun) and theirs and computation.capsule not in allowed:
        yield f"{computation.capsule} would run on {case.party}'s table and is none of the allowed capsules."


def _sealings(allowed: tuple[str, ...], case: Case) -> Broken:
    yield from _listed("The sealing", [case.contract.computation.sealing], allowed)


def _placements(allowed: tuple[str, ...], case: Case) -> Broken:
    contributed = case.contract.contributed(case.party)
    if isinstance(contributed, Contribution | TableContribution):
        yield from _listed(f"The placement of {case.party}'s rows", [contributed.placement], allowed)


def _exposure(allowed: tuple[str, ...], case: Case) -> Broken:
    if case.contract.see_rounds():
        yield from _listed("The exposure", filter(None, [case.contract.exposure]), allowed)


def _partners(allowed: tuple[str, ...], case: Case) -> Broken:
    yield from _listed("Another party", (name for name in case.contract.names() if name != case.party), allowed)


def _recipients(allowed: tuple[str, ...], case: Case) -> Broken:
    others = (each.party for each in case.contract.recipients if each.party != case.party)
    yield from _listed("A recipient of the model", others, allowed)
    seers = (name for name in case.contract.see_rounds() if name != case.party)
    yield from _listed("A party that is shown the model in rounds", seers, allowed)


def _purpose(allowed: tuple[str, ...], case: Case) -> Broken:
    if case.contract.purpose not in allowed:
        yield "The purpose is none of the allowed texts, word for word."


def _disclosure(allowed: Disclosure, case: Case) -> Broken:
    for outcome in Disclosure.model_fields:
        told, most = getattr(case.contract.disclosure, outcome), getattr(allowed, outcome)
        yield from _listed(f"What is disclosed when {outcome}", told, most)


def _runs_at_most(most: int, case: Case) -> Broken:
    if (runs := case.contract.limits.runs) > most:
        yield f"The contract may run {runs} times; at most {most} is allowed."


def _retries_at_most(most: int, case: Case) -> Broken:
    if (retries := case.contract.limits.retries) > most:
        yield f"One run may go on {retries} times after a loss; at most {most} is allowed."


def _looks_at_most(most: int, case: Case) -> Broken:
    contributed = case.contract.contributed(case.party)
    for part, found in contributed.parts().items() if contributed else ():
        if found.commitment not in case.contract.looked_at():
            continue
        so_far = case.looks.get(found.commitment)
        if so_far is None:
            yield f"How often {case.party}'s {part} was run over is not known: the escrow has no such deposit."
        elif so_far + case.contract.limits.runs > most:
            yield (
                f"{case.party}'s {part} was run over {so_far} times and would be {case.contract.limits.runs} times "
                f"more; at most {most} in all is allowed."
            )


def _expiry_at_most(most: str, case: Case) -> Broken:
    days = int(most.removesuffix("d"))
    if case.contract.limits.expires.timestamp() > case.now + days * DAY:
        yield f"The contract expires {case.contract.limits.expires:%Y-%m-%d}, more than {days} days from now."


CHECKS: Final[Mapping[str, Callable[[Any, Case], Broken]]] = MappingProxyType(
    {
        "own-condition": _own_condition,
        "minimum-gain": _minimum_gain,
        "minimum-confidence": _minimum_confidence,
        "minimum-positives": _minimum_positives,
        "metrics": _metrics,
        "leakage": _leakage,
        "tpr-at-1pct-fpr-at-most": _leakage_bound,
        "families": _families,
        "methods": _methods,
        "capsules": _capsules,
        "sealings": _sealings,
        "placements": _placements,
        "exposure": _exposure,
        "partners": _partners,
        "recipients": _recipients,
        "purpose": _purpose,
        "disclosure": _disclosure,
        "runs-at-most": _runs_at_most,
        "retries-at-most": _retries_at_most,
        "looks-at-most": _looks_at_most,
        "expiry-at-most": _expiry_at_most,
    }
)
"""Each term's check, by the term as YAML spells it, in the order in which a policy shows them."""
