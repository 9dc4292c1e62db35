"""How much may be asked of a bank's worker in one attempt: what the contract's training can need, and no more.

What the aggregator asks (`models.federated.records`) follows from the contract:

1. Before the first round each part of the party's own model, `OWN_BYTES` at most, and its moments: `FIRST` questions.
2. In a round each part of the joint parameters once on their way down, and once on their way up: the last part of the
   way down is answered with the first of the way up. How large a part is follows from how many parties are asked.
3. Rounds do not go back: one that has been asked for is not asked for again in the same attempt.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from contracts.computation import Federated, JointTraining, LogisticSpec, MlpSpec
from contracts.contract import Contract
from contracts.frames import ARRAY_BYTES_AT_MOST, floats_in_a_part

OWN_BYTES: Final = 66 << 20
"""Of a party's own model: its graph (64 MiB at most), its manifest, and what else goes with them."""
FIRST: Final = -(-OWN_BYTES // ARRAY_BYTES_AT_MOST) + 1


@dataclass(frozen=True)
class Bounds:
    """What may be asked of a worker in one attempt.

    Attributes:
        party: the number of the party, which stands on each of its frames.
        rounds: how many there are at most; none where models only go up.
        questions: of each round.
        first: of what comes before the first round.
    """

    party: int
    rounds: int
    questions: int
    first: int = FIRST

    def of(self, number: int) -> int:
        """How many questions a round may have."""
        return self.questions if number else self.first


def bounds(contract: Contract, party: str) -> Bounds:
    """What a party may be asked under a contract.

    Raises:
        ValueError: if it is not asked anything.
    """
    return Bounds(contract.answering().index(party), _rounds(contract), 2 * _parts(contract) - 1)


def _rounds(contract: Contract) -> int:
    """How many rounds the training has; none where models only go up."""
    method = contract.computation.method if isinstance(contract.computation, JointTraining) else None
    return method.rounds if isinstance(method, Federated) else 0


def _parts(contract: Contract) -> int:
    """In how many parts the joint parameters travel."""
    from models.features import feature_names  # noqa: PLC0415 - tables are slow to import

    model = contract.computation.model if isinstance(contract.computation, JointTraining) else None
    layers = model.layers if isinstance(model, LogisticSpec | MlpSpec) else ()
    widths = (len(feature_names(contract.schema_of_rows)), *layers, 1)
    numbers = sum((into + 1) * out for into, out in pairwise(widths))
    return -(-numbers // floats_in_a_part(len(contract.answering())))


__all__ = ["Bounds", "bounds"]
