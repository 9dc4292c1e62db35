"""Federated averaging: our own loop of rounds around Flower's messages, grids and FedAvg strategy.

Flower's loop averages whoever answered, waits for ever for the others, takes each party's word for its row count and
adds up in order of arrival. Here each round either has every party's checked answer or ends the run
(`models.federated.checks`), parties weigh what the contract says they weigh, and sums are in the order of their names:
the same run gives the same bytes.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Literal, cast

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg
from pydantic import Field, ValidationError

from contracts.errors import EscrowError
from contracts.terms import Term
from models.families.base import Federated, Model, Moments, Parameters
from models.federated import records
from models.federated.checks import answers, check_distance, checked_arrays
from models.federated.grid import PartyGrid
from models.seeds import part_number


class FedAvgMethod(Term):
    """Federated averaging (McMahan et al. 2017, arXiv:1602.05629) of every party in every round."""

    name: Literal["fedavg"]
    rounds: Annotated[int, Field(strict=True, ge=1, le=1000)] = 12
    local_epochs: Annotated[int, Field(strict=True, ge=1, le=100)] = 1


def fit_federated(
    grid: PartyGrid,
    family: Federated,
    method: Mapping[str, object],
    rows: Mapping[str, int],
    *,
    features: int,
    seed: bytes,
    timeout: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Train one model over a grid of parties.

    Args:
        grid: the parties.
        family: what is trained.
        method: the contract's term, `{"name": "fedavg", "rounds": 12, "local-epochs": 1}`.
        rows: training rows of each party as the contract states them; the weights of the average.
        features: number of features.
        seed: the run's seed.
        timeout: seconds that all parties together have for one round.
        progress: told the rounds that are done and how many there are.

    Raises:
        EscrowError: `model-invalid` for another method; `roster-incomplete` and `update-invalid` as the checks say.
    """
    plan = _plan(method)
    if set(rows) != set(grid.parties.values()):
        raise EscrowError("roster-incomplete", "The parties of the grid are not those of the contract.")
    coordinator = _Coordinator(grid, rows, timeout)
    moments = coordinator.joint_moments(features)
    parameters = family.initial(features, moments, seed=part_number(seed, "initial"))
    for number in range(1, plan.rounds + 1):
        parameters = coordinator.round(parameters, moments, number=number, epochs=plan.local_epochs)
        if progress is not None:
            progress(number, plan.rounds)
    return family.from_parameters(parameters, moments)


def _plan(method: Mapping[str, object]) -> FedAvgMethod:
    try:
        return FedAvgMethod.model_validate(dict(method))
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise EscrowError("model-invalid", f"The federated method's {place!r} is not one that can be run.") from None


class _Coordinator:
    """Asks every party the same question and checks what comes back."""

    def __init__(self, grid: PartyGrid, rows: Mapping[str, int], timeout: float | None) -> None:
        self._grid, self._rows, self._timeout = grid, rows, timeout
        with _quiet():
            self._strategy = FedAvg(weighted_by_key=records.ROWS, arrayrecord_key=records.ARRAYS)

    def joint_moments(self, features: int) -> Moments:
        """Round 0: the joint standardisation."""
        expected = records.array_record([np.zeros(features), np.zeros(features)])
        parts = []
        for party, reply in self._ask(records.ASK_MOMENTS, RecordDict(), number=0).items():
            sums, squares = checked_arrays(reply.content, expected, self._rows[party], party)
            try:
                parts.append(Moments(self._rows[party], sums, squares))
            except EscrowError as error:
                raise EscrowError(error.code, f"Party {party}: {error.message}") from None
        return Moments.joint(parts)

    def round(self, parameters: Parameters, moments: Moments, *, number: int, epochs: int) -> Parameters:
        """Send the parameters out, check every update and average them."""
        request = records.train_request(parameters, moments, number=number, epochs=epochs)
        expected = request.array_records[records.ARRAYS]
        replies = self._ask(records.ASK_TRAIN, request, number=number)
        for party, reply in replies.items():
            check_distance(checked_arrays(reply.content, expected, self._rows[party], party), parameters, party)
        with _quiet():  # Flower weighs by the row counts, which are now known to be the contract's
            joint, _ = self._strategy.aggregate_train(number, list(replies.values()))
        return cast("ArrayRecord", joint).to_numpy_ndarrays()

    def _ask(self, kind: str, content: RecordDict, *, number: int) -> dict[str, Message]:
        messages = [self._grid.create_message(content, kind, node, str(number)) for node in self._grid.get_node_ids()]
        sent = {message.metadata.dst_node_id: message.metadata.message_id for message in messages}
        replies = self._grid.send_and_receive(messages, timeout=self._timeout)
        return answers(replies, sent, self._grid.parties)


@contextmanager
def _quiet() -> Iterator[None]:
    """Flower logs every step for a person at a terminal; hold that back while it works for us."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
