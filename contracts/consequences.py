"""What follows from a contract, in sentences, before anyone signs: what leaves, who learns what in each outcome, what
the operator could see, and which gain the holdout could show at all.

Computed from the contract's text alone, so every party reads the same.
"""

from collections.abc import Iterator
from typing import Final

from contracts.clauses import Floor, Gain, Leakage, Measured
from contracts.computation import JointTraining
from contracts.contract import Contract, Contribution
from contracts.gain import detectable_gain
from contracts.terms import Name, Term

LARGE_GAIN: Final = 0.1
"""A gain in average precision that few consortia can hope for; a condition that needs more gets a warning."""


class ForParty(Term):
    """What follows for one party."""

    party: Name
    consequences: tuple[str, ...]
    warnings: tuple[str, ...]


class Explanation(Term):
    """What follows from a contract."""

    title: str
    digest: str
    computation: str
    conditions: tuple[str, ...]
    outcomes: dict[str, str]
    operator: tuple[str, ...]
    parties: tuple[ForParty, ...]


def explain(contract: Contract) -> Explanation:
    """Everything a party should read before it approves."""
    return Explanation(
        title=contract.title,
        digest=contract.digest(),
        computation=_computation(contract),
        conditions=tuple(clause.describe() for clause in contract.release),
        outcomes=_outcomes(contract),
        operator=tuple(_operator(contract)),
        parties=tuple(
            ForParty(
                party=name,
                consequences=tuple(_for_party(contract, name)),
                warnings=tuple(_warnings(contract, name)),
            )
            for name in contract.names()
        ),
    )


def card(contract: Contract) -> str:
    """The model card that a recipient gets: what the model is, what it is for, and what it had to show."""
    explanation = explain(contract)
    lines = [
        f"# {contract.title}",
        "",
        f"Purpose: {contract.purpose}",
        "",
        explanation.computation,
        "",
        "Trained on contributions of: " + ", ".join(c.party for c in contract.contributions) + ".",
        "Released because every condition held on the holdouts that were committed before training:",
        "",
        *(f"- {condition}" for condition in explanation.conditions),
        "",
        "Limits: the conditions were tested on the test window of the contract and say nothing of later drift; a bank",
        "should watch its own figures. The model saw the training rows of all parties named above.",
        "",
        f"Contract: {explanation.digest}",
    ]
    return "\n".join(lines) + "\n"


def _computation(contract: Contract) -> str:
    computation = contract.computation
    if not isinstance(computation, JointTraining):
        return f"The capsule {computation.capsule} runs on the contributed data, in mode {computation.mode}."
    own = " or ".join(dict.fromkeys(spec.family for spec in computation.candidates()))
    sealed = {
        "none": "in an ordinary process, NOT SEALED: for development only",
        "container": "sealed in containers without network",
        "gvisor": "sealed in containers without network, under gVisor",
    }[computation.sealing]
    return (
        f"One {computation.model.family} model is trained on everyone's training rows ({computation.method.name}), "
        f"{sealed}. "
        f"Each contributor's own model ({own}) is trained on its rows alone, for comparison. "
        f"Code: {computation.worker}."
    )


def _outcomes(contract: Contract) -> dict[str, str]:
    recipients = ", ".join(r.party for r in contract.recipients)
    own = " Each contributor also learns its own figures." if "own-finding" in contract.disclosure.released else ""
    return {
        "released": f"{recipients} receive the model; every party learns the verdict.{own}",
        "withheld": "Every party learns the verdict, withheld or undecided (too little evidence), and nothing else: "
        "not which condition failed, for whom, or by how much. The model, the figures and the run key are destroyed.",
        "failed": "Every party learns a catalogued error code, and nothing else.",
    }


def _operator(contract: Contract) -> Iterator[str]:
    yield "Until a party approves, the operator holds ciphertext that it cannot read, and the counts stated above."
    yield "An approval gives the escrow that party's keys; it opens nothing before everyone approved, but could."
    sealing = contract.computation.sealing
    if sealing == "none":
        yield "During the run nothing seals the workers: whoever controls the machine can read data and models."
    else:
        yield (
            "During the run whoever controls the machine could read data and models: containers keep the code from the "
            "network, not the operator from the memory. Only a trusted execution environment would prevent that."
        )
    yield "The operator cannot approve for a party, change a contract or release against the verdict unseen."
    yield "It can refuse to work, and it sees who contracts with whom, when, and the size of every encrypted file."


def _for_party(contract: Contract, name: str) -> Iterator[str]:
    contribution = contract.contribution(name)
    if contribution is None:
        yield f"{name} contributes no data."
    else:
        yield from _leaves(contract, contribution)
    receives = any(r.party == name for r in contract.recipients)
    others = [r.party for r in contract.recipients if r.party != name]
    if receives:
        yield f"If released, {name} receives the model, encrypted to its key."
    else:
        yield f"{name} receives no model in any outcome."
    if contribution and others:
        holds = "holds" if len(others) == 1 else "hold"
        yield f"If released, {', '.join(others)} {holds} a model trained on {name}'s rows, and can probe it for ever."
    for clause in contract.release:
        if isinstance(clause, Measured) and clause.party == name and contribution:
            yield f"Condition: {clause.describe()}{_shown_by(contract, contribution, clause)}"
    watchers = [other for other in contract.see_rounds() if other != name]
    if watchers:
        yield f"Every round shows the joint model to {', '.join(watchers)}, who can keep it whatever the verdict."
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


def _leaves(contract: Contract, contribution: Contribution) -> Iterator[str]:
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
        if name in contract.see_rounds():
            yield f"Every round sends the joint model to {name}'s premises: it can keep a copy whatever the verdict."
    yield (
        f"Every reader of the ledger learns these counts: {train.rows} training rows, {holdout.rows} holdout rows, "
        f"{holdout.positives} frauds among them."
    )


def _warnings(contract: Contract, name: str) -> Iterator[str]:
    contribution = contract.contribution(name)
    own = [clause for clause in contract.release if isinstance(clause, Measured) and clause.party == name]
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
    if contribution and not any(isinstance(clause, Leakage) for clause in contract.release):
        yield f"No condition limits what the released model gives away about single rows of {name}."
    if contract.computation.sealing == "none":
        yield "Nothing seals this run: for development and made-up data only."
    if contract.limits.runs > 1:
        yield f"Up to {contract.limits.runs} runs: each test is at 1/{contract.limits.runs} of its level."
