"""Training in rounds: our own loop around Flower's messages, grids and strategies.

Flower's loop combines whoever answered, waits for ever for the others, takes each party's word for its row count and
adds up in order of arrival. Here each round either has every party's checked answer or ends the run
(`models.federated.checks`), parties weigh what the contract says they weigh, and sums are in the order of their names:
the same run gives the same bytes.

What is in memory: the joint parameters, what the method keeps, and one part for each party. A round changes the joint
parameters in place; it returns only if every part of every party passed, and nothing uses them if it does not.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import BinaryIO, TypeAlias

import numpy as np
from flwr.app import Message, RecordDict

from contracts.computation import InRounds
from contracts.errors import EscrowError
from contracts.frames import floats_in_a_part
from models.families.base import Federated, Model, Moments
from models.federated import checkpoint, methods, records
from models.federated.checkpoint import Mark, State
from models.federated.checks import Distances, checked_vectors, require_in_range
from models.federated.grid import PartyGrid
from models.federated.records import Part
from models.federated.roster import Roster
from models.federated.vectors import Vector, count_of, cuts, find_views, flat, let_go, packed, shaped, shapes_of
from models.seeds import part_number

Keep: TypeAlias = Callable[[int, Iterator[memoryview]], None]
"""Given the number of the round that is done and its checkpoint in pieces (`models.federated.checkpoint`)."""
Answers: TypeAlias = Callable[[], dict[str, Message]]
"""Waits for everybody's answer to a question that was asked."""


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
    keep: Keep | None = None,
    start: BinaryIO | None = None,
) -> Model:
    """Train one model over a grid of parties.

    Args:
        grid: the parties.
        family: what is trained.
        method: the contract's term, `{"name": "fedavg", "rounds": 12, "local-epochs": 1}`.
        rows: training rows of each party as the contract states them; the weights of an average.
        features: number of features.
        seed: the run's seed.
        timeout: seconds that all parties together have for one question.
        progress: told the rounds that are done and how many there are.
        keep: given a checkpoint after each round.
        start: a checkpoint; if it is one of this very training, training goes on after its round.

    Raises:
        EscrowError: `model-invalid` for a method that cannot be run; `roster-incomplete` and `update-invalid` as the
            checks say, with the party that is to blame.
    """
    agreed = methods.plan(method)
    methods.check_roster(agreed, len(rows))
    shapes = shapes_of(family, features)
    coordinator = _Coordinator(Roster(grid, rows, timeout), agreed)
    what = {"method": dict(method), "family": family.name, "rows": dict(rows), "seed": seed.hex()}
    mark = Mark.of(what, features=features, parameters=count_of(shapes), keeps=coordinator.keeps)
    state = checkpoint.read(start, mark) if start is not None else None
    if state is None:
        moments = coordinator.joint_moments(features)
        state = coordinator.first(moments, flat(family.initial(features, moments, seed=part_number(seed, "initial"))))
    for number in range(state.round + 1, agreed.rounds + 1):
        coordinator.round(number, state)
        state = replace(state, round=number)
        if keep is not None:
            keep(number, checkpoint.written(state, mark))
        if progress is not None:
            progress(number, agreed.rounds)
    return family.from_parameters(shaped(state.parameters, shapes), state.moments)


class _Coordinator:
    """Asks every party the same question, checks what comes back and combines it."""

    def __init__(self, roster: Roster, method: InRounds) -> None:
        self._roster, self._combiner = roster, methods.Combiner(method, len(roster.rows))
        self._length = floats_in_a_part(len(roster.rows))

    @property
    def keeps(self) -> tuple[str, ...]:
        """What the method remembers between rounds."""
        return self._combiner.keeps

    def first(self, moments: Moments, parameters: Vector) -> State:
        """Before round 1."""
        return State(0, moments, parameters, {name: np.zeros_like(parameters) for name in self.keeps})

    def joint_moments(self, features: int) -> Moments:
        """Round 0: the joint standardisation."""

        def check(party: str, reply: Message) -> Moments:
            rows = self._roster.rows[party]
            found = checked_vectors(reply.content, records.moment_layout(features), {records.ROWS: rows}, party)
            sums, squares, positives = found
            try:
                return Moments(rows, sums, squares, int(positives[0]))
            except EscrowError as error:
                raise EscrowError(error.code, f"Party {party}: {error.message}", party=party) from None

        parts = self._roster.ask(records.ASK_MOMENTS, records.query(Part(0)), number=0, check=check)()
        return self._combiner.moments(list(parts.values()))

    def round(self, number: int, state: State) -> None:
        """Send the parameters out, then take each part of every update, check and combine it.

        The next part of all is asked for before one is combined: parties elsewhere send it meanwhile.
        """
        places = cuts(state.parameters.size, self._length)
        require_in_range(state.parameters)
        distances = Distances(state.parameters.size)
        take = self._send(number, state, places)
        for position, place in enumerate(places, start=1):
            replies = take()
            if position < len(places):
                part = Part(number, position + 1, len(places))
                following = places[position]
                take = self._ask(records.ASK_UPDATE, records.query(part), number, following.stop - following.start)
            self._combine(number, state, place, replies, distances)
            if len(places) > 1:
                replies.clear()
                find_views()
        if len(places) > 1:
            let_go()

    def _combine(
        self, number: int, state: State, place: slice, replies: Mapping[str, Message], distances: Distances
    ) -> None:
        """Take one part of every update into the joint parameters."""
        parameters = state.parameters[place]
        for party, reply in replies.items():
            distances.add(records.only_vector(reply.content), parameters, party)
        kept = {name: vector[place] for name, vector in state.kept.items()}
        parameters[:] = self._combiner.combine(number, parameters, kept, list(replies.values()))

    def _send(self, number: int, state: State, places: list[slice]) -> Answers:
        """Send every part of the parameters; the answers to the last hold the first part of each update."""
        for position, place in enumerate(places, start=1):
            part = Part(number, position, len(places))
            question = records.train_request(packed(state.parameters[place]), part, state.moments)
            take = self._ask(records.ASK_TRAIN, question, number, places[0].stop if part.last else 0)
            if not part.last:
                take()
        return take

    def _ask(self, kind: str, question: RecordDict, number: int, count: int) -> Answers:
        """Ask everyone for one vector of `count` numbers."""

        def check(party: str, reply: Message) -> Message:
            checked_vectors(reply.content, [("float32", count)], {records.ROWS: self._roster.rows[party]}, party)
            return reply

        return self._roster.ask(kind, question, number=number, check=check)
