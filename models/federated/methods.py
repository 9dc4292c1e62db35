"""How the parties' parameters become joint ones: the contract's method, through Flower's own strategies, part by part.

Every method here works on each parameter by itself, so a part can be combined without the others. What Flower's
strategies leave to their caller is settled here: the answers are checked and in the order of the parties' names before
they come here; what a strategy remembers between rounds (Adam's moments) is handed to it part by part and kept by the
caller; its arithmetic may be in double precision, what comes out is float32 again. Weights are the contract's row
counts; median and trimmed mean do not weigh, and what they make of the parties' moments is medians as well: a joint
standardisation that one party could bend would undo what they are for.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Final, cast

import numpy as np
from flwr.app import ArrayRecord, Message
from flwr.serverapp import strategy
from pydantic import Field, TypeAdapter, ValidationError

from contracts.computation import FedAdam, InRounds, Median, TrimmedMean, unfit
from contracts.errors import EscrowError
from models.families.base import Moments
from models.federated.records import ROWS, VECTOR
from models.federated.vectors import Vector

_METHOD: Final[TypeAdapter[InRounds]] = TypeAdapter(Annotated[InRounds, Field(discriminator="name")])


def plan(method: Mapping[str, object]) -> InRounds:
    """A contract's method term, `{"name": "fedavg", "rounds": 12, "local-epochs": 1}`, if it is one in rounds.

    Raises:
        EscrowError: `model-invalid` naming the first key that is wrong.
    """
    try:
        return _METHOD.validate_python(dict(method))
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise EscrowError("model-invalid", f"The federated method's {place!r} is not one that can be run.") from None


def check_roster(method: InRounds, parties: int) -> None:
    """Refuse a method that would not do what it is named for.

    Raises:
        EscrowError: `model-invalid` for a trimmed mean that leaves nobody out, and where nobody is in the middle.
    """
    if why := unfit(method, parties):
        raise EscrowError("model-invalid", f"The contract's {why}.")


class Combiner:
    """One method at work, with so many parties.

    Attributes:
        keeps: names of what it remembers between rounds, each as long as the parameters and zero before round 1.

    """

    def __init__(self, method: InRounds, parties: int) -> None:
        with quiet():
            self._strategy = _strategy(method, parties)
        self._robust = isinstance(method, Median | TrimmedMean)
        self.keeps = ("m", "v") if isinstance(method, FedAdam) else ()

    def moments(self, parts: Sequence[Moments]) -> Moments:
        """The joint moments, of the parties' in the order of their names.

        Raises:
            EscrowError: `update-invalid` if they are of different numbers of features.
        """
        return Moments.middle(parts) if self._robust else Moments.joint(parts)

    def combine(
        self, number: int, parameters: Vector, kept: Mapping[str, Vector], replies: Sequence[Message]
    ) -> Vector:
        """One part of the new joint parameters.

        Args:
            number: of the round, from 1.
            parameters: this part of the joint parameters.
            kept: this part of what the method keeps; changed in place.
            replies: the parties' checked answers in the order of their names; used up.
        """
        flower = self._strategy
        if isinstance(flower, strategy.FedAdam):
            flower.current_arrays = {VECTOR: parameters}
            flower.m_t, flower.v_t = ({VECTOR: kept[name]} for name in self.keeps)
        with quiet():
            joint, _ = flower.aggregate_train(number, replies)
        if isinstance(flower, strategy.FedAdam):
            for name, moved in zip(self.keeps, (flower.m_t, flower.v_t), strict=True):
                kept[name][:] = cast("dict[str, Vector]", moved)[VECTOR]
        return cast("ArrayRecord", joint)[VECTOR].numpy().astype(np.float32, copy=False)


def _strategy(method: InRounds, parties: int) -> strategy.FedAvg:
    match method:
        case FedAdam():
            return strategy.FedAdam(eta=method.server_rate, tau=method.adaptivity, weighted_by_key=ROWS)
        case Median():
            return strategy.FedMedian(weighted_by_key=ROWS)
        case TrimmedMean():
            # Flower cuts beta · parties down to a whole number, which rounding must not make one too few.
            return strategy.FedTrimmedAvg(beta=(method.trimmed(parties) + 0.25) / parties, weighted_by_key=ROWS)
        case _:
            return strategy.FedAvg(weighted_by_key=ROWS)


@contextmanager
def quiet() -> Iterator[None]:
    """Flower logs every step for a person at a terminal; hold that back while it works for us."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
