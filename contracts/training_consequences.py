"""What follows from a joint training, in sentences: what runs, and everything that is said while it runs.

Where rows are trained on in rounds, each sentence stands for messages that `models.federated.records` declares, and a
test compares the two. What a party's worker is sent reaches the party only if the worker runs on its own machine.
"""

from collections.abc import Iterator
from typing import Final

from contracts.computation import (
    BoostedSpec,
    Ensemble,
    FedAdam,
    FedAvg,
    Federated,
    FedProx,
    JointTraining,
    Median,
    Pooled,
    TrimmedMean,
)
from contracts.facts import Facts, agreed, count, listed

_SEALED: Final = {
    "none": "in an ordinary process, NOT SEALED: for development only",
    "container": "sealed in containers without network",
    "gvisor": "sealed in containers without network, under gVisor",
}
SHORT_SECONDS: Final = 30
"""A party has to start and train its own model before its first answer; less than this is a warning."""


def computation(training: JointTraining, facts: Facts) -> str:
    """What runs, and on what."""
    own = " or ".join(dict.fromkeys(spec.family for spec in training.candidates()))
    sealed = _SEALED[training.sealing]
    if isinstance(training.method, Ensemble):
        what = (
            f"Each contributor's own model ({own}) is trained on its rows alone, and all of them are combined into one "
            f"(ensemble), {sealed}. Each weighs as its contributor had frauds in the last {training.select_days} days "
            "of its training rows (none more than half, of two none more than two thirds), and is calibrated on those "
            "days, as far as they allow."
        )
    else:
        what = (
            f"One {training.model.family} model is trained on everyone's training rows ({training.method.name}), "
            f"{sealed}. Each contributor's own model ({own}) is trained on its rows alone, for comparison."
        )
    return f"{what}{_elsewhere(facts)} Code: {training.worker}."


def _elsewhere(facts: Facts) -> str:
    if not facts.at_home:
        return ""
    do = agreed(len(facts.at_home), "does its part on its", "do their parts on their")
    return f" {listed(facts.at_home)} {do} own premises; nobody else can know what runs there or how it is sealed."


def outcomes(training: JointTraining, facts: Facts) -> dict[str, str]:
    """What is learned in each outcome."""
    disclosure, runs = facts.contract.disclosure, facts.contract.limits.runs
    receive = agreed(len(facts.recipients), "receives", "receive")
    own = " Each contributor also learns its own figures." if "own-finding" in disclosure.released else ""
    keys = "The model, the figures and the run key are destroyed."
    if runs > 1:
        keys = "The model and the figures are destroyed, the run key when the contract has ended."
    kept = _kept(facts)
    besides = "and, besides what the rounds have shown, nothing else" if kept else "and nothing else"
    return {
        "released": f"{listed(facts.recipients)} {receive} the model; every party learns the verdict."
        f"{own}{_inside(training)}{kept}",
        "withheld": "Every party learns the verdict, withheld or undecided (too little evidence), "
        f"{besides}: not which condition failed, for whom, or by how much. {keys}{kept}",
        "failed": f"Every party learns a catalogued error code, {besides}. If the run failed because of one party, "
        f"that party and the operator are told so, and nobody else.{kept}",
    }


def _kept(facts: Facts) -> str:
    """What no verdict takes back."""
    if not facts.seers:
        return ""
    shown = agreed(
        len(facts.seers), "was shown in the rounds stays with it", "were shown in the rounds stays with them"
    )
    return f" What {listed(facts.seers)} {shown}: nothing here destroys that."


def _inside(training: JointTraining) -> str:
    """What a released model holds besides what it is for."""
    if isinstance(training.method, Ensemble):
        return (
            " The model holds the own model of every contributor whole, and says whose it is, what it weighs and how "
            "it is calibrated."
        )
    if isinstance(training.model, BoostedSpec):
        return ""
    if isinstance(training.method, Median | TrimmedMean):
        return " The model holds, of each feature, the median of the contributors' means and spreads."
    return " The model holds the mean and the spread of each feature over the training rows of all contributors."


def operator(training: JointTraining, facts: Facts) -> Iterator[str]:
    """What the operator could see of rows that stay with their party."""
    if not facts.at_home:
        return
    sent = agreed(len(facts.at_home), "its holdout and own model", "their holdouts and own models")
    if isinstance(training.method, Federated):
        sent += ", sums and parameters"
    yield (
        f"The training rows of {listed(facts.at_home)} never come to the escrow; {sent} do, and whoever controls the "
        "machine could learn from them."
    )
    yield "How a bank's own machine seals its worker, nobody else can know: not the escrow, not the other parties."


def exchanged(training: JointTraining, facts: Facts, name: str) -> Iterator[str]:
    """What is said in training by and to the worker beside one contributor's rows."""
    match training.method:
        case Pooled():
            yield f"In training one worker at the escrow sees {name}'s rows and those of every other contributor."
        case Ensemble():
            yield from _one_way(training, facts, name)
        case Federated() if name in facts.answering:
            yield from _in_rounds(training, facts, name)
        case _:
            yield (
                "In training one process at the escrow holds the training rows of all contributors and plays each of "
                f"them in turn: what would be sent in {name}'s name stays in that process."
            )
    if name in facts.answering:
        yield from _lost(training, facts)


def _in_rounds(training: JointTraining, facts: Facts, name: str) -> Iterator[str]:
    where = f"on {name}'s own machine" if name in facts.at_home else "at the escrow"
    yield (
        f"In training {name}'s worker, {where}, sends the worker at the escrow that combines them: once, its own "
        f"model, and how large that is{_chosen(training)}; once, the sum and the sum of squares of each feature (of "
        "logarithms) and the number of frauds among its training rows; every round, its parameters after local "
        "training; each time, how many rows it trains on."
    )
    if isinstance(training.method, Median | TrimmedMean):
        joint = (
            "the medians over the contributors of what follows from those sums and numbers, and the number of all rows"
        )
    else:
        joint = "those sums and the numbers of frauds and rows of all contributors together"
    yield (
        f"It is sent, every round, the joint parameters, and with them {joint}; any other question says only which "
        "part of which round it asks for."
    )
    if name not in facts.seers:
        yield f"As {name}'s worker runs at the escrow, {name} itself is shown none of this."
    else:
        yield (
            f"All of that comes to {name}'s premises: it can keep the joint parameters of every round, and what comes "
            f"with them, whatever the verdict.{_subtracted(training, facts, name, name)}"
        )
        yield _own_word(name)


def _chosen(training: JointTraining) -> str:
    """What goes with an own model that was chosen among several."""
    return f", with {_measured(training)}" if len(training.candidates()) > 1 else ""


def _measured(training: JointTraining) -> str:
    return (
        f"how it did on the last {training.select_days} days of its training rows (how many rows and frauds there "
        "were, its average precision, the calibration of its scores)"
    )


def _own_word(name: str) -> str:
    return (
        f"{name}'s own model is made on its own machine: that a condition of {name} compares with the best of its own "
        f"is {name}'s word."
    )


def shown_to_others(training: JointTraining, facts: Facts, name: str) -> Iterator[str]:
    """What others can keep of the rounds."""
    watchers = count(facts.seers, but=name)
    if not watchers:
        return
    who = listed(facts.seers, but=name)
    said = (
        f"Every round shows the joint parameters, and {_shown(training)}, to {who}, who can keep them whatever the "
        "verdict."
    )
    if name in facts.trainers:
        said += _subtracted(training, facts, who if watchers == 1 else "each of them", name)
    yield said


def _shown(training: JointTraining) -> str:
    """What the joint parameters come with."""
    if isinstance(training.method, Median | TrimmedMean):
        return "the medians of the contributors' means, spreads and shares of frauds"
    return "the sums of features and numbers of frauds and rows of all contributors together"


def _subtracted(training: JointTraining, facts: Facts, who: str, name: str) -> str:
    """What `who`, shown everybody's sums and parameters, can work out by taking its own away; said to `name`."""
    others = count(facts.trainers, but=name)
    if not others:
        return ""
    if isinstance(training.method, Median | TrimmedMean):
        return " Such a median is one contributor's own figure, or midway between two, but does not say whose."
    if others == 1:
        whose = listed(facts.trainers, but=name) if who == name else name
        parameters = _parameters(training, f"{whose}'s parameters")
        return (
            f" By taking its own away {who} learns {whose}'s exactly: each feature's sum and sum of squares, and how "
            f"many frauds {whose} trains on{parameters}."
        )
    return (
        f" By taking its own away {who} learns what those of the other {others} contributors are together"
        f"{_parameters(training, 'the average of their parameters')}; all contributors but one, if they join theirs, "
        "learn that one's."
    )


def _parameters(training: JointTraining, whose: str) -> str:
    """Which parameters can be worked out from the joint ones of one round and the next."""
    match training.method:
        case FedAvg() | FedProx():
            return f", and {whose} after every round but the last"
        case FedAdam():
            return f", and much of {whose} after every round but the last"
        case _:
            return ""


def _one_way(training: JointTraining, facts: Facts, name: str) -> Iterator[str]:
    shown = _measured(training)
    if name in facts.at_home:
        yield (
            f"In training {name}'s worker, on {name}'s own machine, sends the worker at the escrow that combines them "
            f"its own model, how large that is and how many rows it trains on, with {shown}. "
            "It is sent nothing but the question for a part of it."
        )
        yield f"{name} measures that itself: the figures that decide what its model weighs are its own word."
        yield _own_word(name)
    else:
        yield (
            f"In training {name}'s own model is handed, within the escrow, to the worker that combines them, with "
            f"{shown}."
        )
    if count(facts.at_home, but=name):
        who = listed(facts.at_home, but=name)
        measure = agreed(
            count(facts.at_home, but=name), "measures its own model itself", "measure their own themselves"
        )
        yield f"{who} {measure}: what decides the weight of it is no more than that party's word."
    yield f"The joint model holds {name}'s own model whole: whoever receives the one can take the other out of it."
    yield (
        f"It also shows what each weighs, which up to a bound is its contributor's share in all the frauds of such "
        f"days, {name}'s too: who knows one number of frauds can work out others."
    )


def _lost(training: JointTraining, facts: Facts) -> Iterator[str]:
    """What becomes of a party that does not answer."""
    method, retries = training.method, facts.contract.limits.retries
    if isinstance(method, Pooled):
        return
    yield (
        f"What a party is asked in one round is to be answered within {method.round_seconds} seconds in all "
        "(round-seconds), and so is what comes before the first, the training of its own model with it; a party that "
        "is later is lost, and with it the attempt."
    )
    if retries:
        place = "anew" if isinstance(method, Ensemble) else "after the last whole round"
        yield (
            f"After a loss training goes on {place}, in one run up to {retries} {agreed(retries, 'time', 'times')} "
            "(retries): each attempt asks the parties again, for their own models too."
        )


def warnings(training: JointTraining, facts: Facts, name: str) -> Iterator[str]:
    """What a contributor should think about before it signs."""
    if name not in facts.answering or isinstance(training.method, Pooled):
        return
    if not facts.contract.limits.retries:
        yield "A worker or node that is lost in training ends the run: limits.retries is 0."
    if training.method.round_seconds < SHORT_SECONDS:
        yield (
            f"round-seconds {training.method.round_seconds} is short: a party's first answer needs its worker started "
            "and its own model trained, and who is later is lost."
        )
