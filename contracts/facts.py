"""What sentences about a contract are made from, gathered once: there may be a thousand parties, each with its own."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Final, Self

from contracts.clauses import Floor, Gain, Leakage, NoHarm
from contracts.contract import Contract
from contracts.contributions import AnyContribution

NAMED_AT_MOST: Final = 8
"""So many names are all listed; of more, the first `NAMED_OF_MANY` are, and the others are counted."""
NAMED_OF_MANY: Final = 3

Names = AbstractSet[str]
"""Names in an order that stays; whether one is among them costs the same however many there are."""


@dataclass(frozen=True)
class Facts:
    """A contract, and who is what in it.

    Attributes:
        contract: the contract itself.
        recipients: who receives the model or the outputs.
        contributed: what each party contributes, if anything.
        trainers: whose rows are trained on.
        answering: as `Contract.answering`.
        at_home: as `Contract.at_home`.
        seers: as `Contract.see_rounds`.
        clauses: those measured on each party's holdout.
        leakage: whether a clause limits what the model gives away about single rows.
    """

    contract: Contract
    recipients: Names
    contributed: Mapping[str, AnyContribution]
    trainers: Names
    answering: Names
    at_home: Names
    seers: Names
    clauses: Mapping[str, Sequence[Gain | NoHarm | Floor]]
    leakage: bool

    @classmethod
    def of(cls, contract: Contract) -> Self:
        """What there is to know of a contract."""
        clauses: defaultdict[str, list[Gain | NoHarm | Floor]] = defaultdict(list)
        for clause in contract.release:
            if not isinstance(clause, Leakage):
                clauses[clause.party].append(clause)
        return cls(
            contract=contract,
            recipients=_ordered(recipient.party for recipient in contract.recipients),
            contributed=MappingProxyType({each.party: each for each in contract.contributions}),
            trainers=_ordered(each.party for each in contract.training),
            answering=_ordered(contract.answering()),
            at_home=_ordered(contract.at_home()),
            seers=_ordered(contract.see_rounds()),
            clauses=MappingProxyType(dict(clauses)),
            leakage=any(isinstance(clause, Leakage) for clause in contract.release),
        )


def _ordered(names: Iterable[str]) -> Names:
    return dict.fromkeys(names).keys()


def count(names: Names, but: str | None = None) -> int:
    """How many names there are, one left out."""
    return len(names) - (but in names)


def listed(names: Names, but: str | None = None) -> str:
    """Names in their order, one left out: all of a few, or `a, b, c and 997 others`."""
    number = count(names, but)
    shown = number if number <= NAMED_AT_MOST else NAMED_OF_MANY
    words = ", ".join(islice((name for name in names if name != but), shown))
    return words if shown == number else f"{words} and {number - shown} others"


def agreed(number: int, one: str, several: str) -> str:
    """The verb or pronoun that fits so many."""
    return one if number == 1 else several
