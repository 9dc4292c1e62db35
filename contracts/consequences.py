"""What follows from a contract, in sentences, before anyone signs: what leaves, who learns what in each outcome, what
the operator could see, and which gain the holdout could show at all.

Computed from the contract's text alone, so every party reads the same.
"""

from collections.abc import Iterator
from typing import Final, Literal

from contracts import capsule_consequences, training_consequences
from contracts.clauses import Floor, Gain, Measured
from contracts.computation import CapsuleRun, Ensemble, JointTraining
from contracts.contract import Contract
from contracts.contributions import Contribution
from contracts.facts import Facts, agreed, count, listed
from contracts.gain import detectable_gain
from contracts.terms import Name, Term

LARGE_GAIN: Final = 0.1
"""A gain in average precision that few consortia can hope for; a condition that needs more gets a warning."""

Standing = Literal["development", "sealed"]
"""What a release can be relied on for. Nothing but the contract says it, which every party signed."""

DEVELOPMENT: Final = (
    "DEVELOPMENT: this run was not sealed. What ran could reach the network and the escrow's files: "
    "use what it released for development only."
)


class ForParty(Term):
    """What follows for one party."""

    party: Name
    consequences: tuple[str, ...]
    warnings: tuple[str, ...]


class Explanation(Term):
    """What follows from a contract."""

    title: str
    digest: str
    standing: Standing
    computation: str
    conditions: tuple[str, ...]
    outcomes: dict[str, str]
    operator: tuple[str, ...]
    parties: tuple[ForParty, ...]


def explain(contract: Contract) -> Explanation:
    """Everything a party should read before it approves."""
    facts = Facts.of(contract)
    return Explanation(
        title=contract.title,
        digest=contract.digest(),
        standing=standing(contract),
        computation=_computation(facts),
        conditions=_conditions(contract),
        outcomes=_outcomes(facts),
        operator=tuple(_operator(facts)),
        parties=tuple(
            ForParty(
                party=name,
                consequences=tuple(_for_party(facts, name)),
                warnings=tuple(_warnings(facts, name)),
            )
            for name in contract.names()
        ),
    )


def standing(contract: Contract) -> Standing:
    """What the releases of a contract can be relied on for."""
    return "development" if contract.computation.sealing == "none" else "sealed"


def card(contract: Contract) -> str:
    """The card that a recipient gets: what it holds, what that is for, and what it had to show."""
    about = capsule_consequences.card(contract) if contract.author else _trained_on(contract)
    lines = [
        *([f"**{DEVELOPMENT}**", ""] if standing(contract) == "development" else []),
        f"# {contract.title}",
        "",
        f"Purpose: {contract.purpose}",
        "",
        _computation(Facts.of(contract)),
        "",
        *about,
        "",
        f"Contract: {contract.digest()}",
    ]
    return "\n".join(lines) + "\n"


def _trained_on(contract: Contract) -> list[str]:
    training = contract.computation
    members = isinstance(training, JointTraining) and isinstance(training.method, Ensemble)
    saw = (
        "Each of its members saw the training rows of the party that model.json names it by, with its weight."
        if members
        else "The model saw the training rows of all parties named above."
    )
    return [
        "Trained on contributions of: " + ", ".join(c.party for c in contract.training) + ".",
        "Released because every condition held on the holdouts that were committed before training:",
        "",
        *(f"- {condition}" for condition in _conditions(contract)),
        "",
        "Limits: the conditions were tested on the test window of the contract and say nothing of later drift; a bank",
        f"should watch its own figures. {saw}",
    ]


def _computation(facts: Facts) -> str:
    computation = facts.contract.computation
    if isinstance(computation, CapsuleRun):
        return capsule_consequences.computation(computation)
    return training_consequences.computation(computation, facts)


def _conditions(contract: Contract) -> tuple[str, ...]:
    if isinstance(contract.computation, CapsuleRun):
        return capsule_consequences.conditions(contract.computation)
    return tuple(clause.describe() for clause in contract.release)


def _outcomes(facts: Facts) -> dict[str, str]:
    computation = facts.contract.computation
    if isinstance(computation, CapsuleRun):
        return capsule_consequences.outcomes(facts, computation)
    return training_consequences.outcomes(computation, facts)


def _operator(facts: Facts) -> Iterator[str]:
    yield "Until a party approves, the operator holds ciphertext that it cannot read, and the counts stated above."
    yield "An approval gives the escrow that party's keys; it opens nothing before everyone approved, but could."
    computation = facts.contract.computation
    if computation.sealing == "none":
        yield "During the run nothing seals the workers: whoever controls the machine can read data and models."
        yield "What the run releases is marked DEVELOPMENT for whoever receives it."
    else:
        yield (
            "During the run whoever controls the machine could read data and models: containers keep the code from the "
            "network, not the operator from the memory. Only a trusted execution environment would prevent that."
        )
    if isinstance(computation, JointTraining):
        yield from training_consequences.operator(computation, facts)
    yield "The operator cannot approve for a party, change a contract or release against the verdict unseen."
    yield "It can refuse to work, and it sees who contracts with whom, when, and the size of every encrypted file."


def _for_party(facts: Facts, name: str) -> Iterator[str]:
    training = facts.contract.computation
    if isinstance(training, CapsuleRun):
        yield from capsule_consequences.for_party(facts, name)
        return
    contribution = facts.contract.contribution(name)
    if contribution is None:
        yield f"{name} contributes no data."
    else:
        yield from _leaves(contribution)
    if name in facts.recipients:
        yield f"If released, {name} receives the model, encrypted to its key."
    elif name in facts.seers:
        yield f"{name} receives no release in any outcome; what the rounds show it of the joint model, it can keep."
    else:
        yield f"{name} receives no model in any outcome."
    others = count(facts.recipients, but=name)
    if contribution and others:
        who, hold = listed(facts.recipients, but=name), agreed(others, "holds", "hold")
        yield f"If released, {who} {hold} a model trained on {name}'s rows, and can probe it for ever."
    if contribution:
        for clause in facts.clauses.get(name, ()):
            yield f"Condition: {clause.describe()}{_shown_by(facts.contract, contribution, clause)}"
        yield from training_consequences.exchanged(training, facts, name)
    yield from training_consequences.shown_to_others(training, facts, name)
    yield f"Until the release {name} can halt the contract at any time; one rejection by anyone ends it."


def _shown_by(contract: Contract, contribution: Contribution, clause: Measured) -> str:
    """A sentence on the gain that the holdout can show; nothing for a floor, which is no gain."""
    if isinstance(clause, Floor):
        return ""
    low, high = _needed_gain(contract, contribution, clause)
    return (
        f" With {contribution.holdout.positives} frauds a true gain of about {low:.3f} (alike models) to {high:.3f} "
        "(unlike ones) would be shown with 80 % chance (estimated for average precision)."
    )


def _needed_gain(contract: Contract, contribution: Contribution, clause: Measured) -> tuple[float, float]:
    """The true gain at which the clause holds with 80 % chance: its threshold and the gain the holdout detects."""
    threshold = clause.more_than if isinstance(clause, Gain) else -getattr(clause, "margin", 0.0)
    low, high = detectable_gain(contribution.holdout.positives, confidence=1 - contract.alpha(clause))
    return threshold + low, threshold + high


def _leaves(contribution: Contribution) -> Iterator[str]:
    name, train, holdout = contribution.party, contribution.train, contribution.holdout
    if contribution.placement == "escrow":
        yield (
            f"{name}'s {train.rows} training rows and {holdout.rows} holdout rows lie encrypted at the escrow; "
            "approving seals their keys to this contract's run key."
        )
    else:
        yield (
            f"{name}'s {train.rows} training rows stay there; its {holdout.rows} holdout rows lie encrypted at the "
            "escrow; approving seals their key to this contract's run key."
        )
        yield (
            f"{name} runs a node (`party start`) while the contract runs. Its rows are checked by its own worker, "
            "which the escrow cannot see: the others rely on the checks of what it sends and on their own conditions. "
            "Rows of other parties' holdouts are kept apart from its training rows by their days alone."
        )
    yield (
        f"Every reader of the ledger learns these counts: {train.rows} training rows, {holdout.rows} holdout rows, "
        f"{holdout.positives} frauds among them."
    )


def _warnings(facts: Facts, name: str) -> Iterator[str]:
    contract = facts.contract
    if isinstance(contract.computation, CapsuleRun):
        yield from capsule_consequences.warnings(facts, contract.computation, name)
        return
    contribution, own = contract.contribution(name), facts.clauses.get(name, ())
    if contribution and not own:
        yield f"No condition protects {name}: the model may be released although it does not benefit {name}."
    for clause in own:
        if contribution is None or isinstance(clause, Floor):
            continue
        low, high = _needed_gain(contract, contribution, clause)
        if low > LARGE_GAIN:
            yield (
                f"{contribution.holdout.positives} frauds can hardly decide the {clause.metric_words()} condition: the "
                f"true gain would have to be about {low:.3f} to {high:.3f} to be shown with 80 % chance."
            )
    if contribution and not facts.leakage:
        yield f"No condition limits what the released model gives away about single rows of {name}."
    yield from training_consequences.warnings(contract.computation, facts, name)
    if contract.computation.sealing == "none":
        yield "Nothing seals this run: for development and made-up data only."
    if contract.limits.runs > 1:
        yield f"Up to {contract.limits.runs} runs: each test is at 1/{contract.limits.runs} of its level."
