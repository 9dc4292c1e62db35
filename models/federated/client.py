"""A party's side of federated training: a Flower ClientApp over the rows that it alone holds.

It answers what `models.federated.records` declares and nothing else: its own model and the moments of its rows once
each, and rounds of local training, each once and in rising order; so whoever asks cannot have it train on parameters of
its choice more often than the contract has rounds. A party that restarts has forgotten what it answered, for an attempt
goes on at any round; how many attempts there are is its bank's to limit. What it keeps: `models.federated.outbox`. How
it trains is in the contract, and its random choices follow from the contract's seed, its own name and the round: the
side that asks chooses neither.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from contracts.computation import FedProx, InRounds
from contracts.errors import EscrowError
from contracts.frames import ARRAY_BYTES_AT_MOST
from models.families.base import Federated, Float32Matrix, Labels, Parameters
from models.federated import methods, outbox, records
from models.federated.door import Door
from models.federated.encoding import Encoder, from_frame
from models.federated.own import packed_own
from models.federated.records import Part
from models.federated.vectors import (
    Shapes,
    count_of,
    cuts,
    has_layout,
    keep_freed,
    let_go,
    packed,
    pieces,
    shaped,
    shapes_of,
    unpacked,
)
from models.seeds import part_number

Own = Callable[[], Mapping[str, bytes]]
"""Trains a party's own model; its files by name."""


def party_app(
    family: Federated,
    X: Float32Matrix,
    y: Labels,
    *,
    party: str,
    seed: bytes,
    method: Mapping[str, object],
    own: Own | None = None,
) -> ClientApp:
    """The ClientApp of one party, for methods in rounds.

    Args:
        family: what is trained.
        X: float32 (n, d), the party's training features.
        y: (n,) labels.
        party: its name.
        seed: the run's seed.
        method: the contract's term.
        own: how its own model is trained, if it is asked for.

    Raises:
        EscrowError: `model-invalid` for a method that is none.
    """
    shapes = shapes_of(family, X.shape[1])
    side = _Side(family, X, y, party=party, seed=seed, method=methods.plan(method), shapes=shapes)
    app = own_app(len(y), own) if own is not None else ClientApp()

    @app.query("moments")
    def moments(message: Message, context: Context) -> Message:
        outbox.once(context.state, "moments")
        vectors = records.moment_vectors(family.moments(X, y))
        return Message(records.answer(records.array_record(vectors), len(y)), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        vector = side.train(message.content, context.state)
        return Message(records.answer(records.one(vector), len(y)), reply_to=message)

    @app.query("update")
    def update(message: Message, context: Context) -> Message:
        vector = outbox.fetch(context.state, "update", Part.asked(message.content))
        return Message(records.answer(records.one(vector), len(y)), reply_to=message)

    return app


def own_app(rows: int, own: Own) -> ClientApp:
    """The ClientApp of a party that is asked for its own model alone.

    Args:
        rows: how many training rows it has.
        own: trains it; called when the first part is asked for.
    """
    app = ClientApp()

    @app.query("own")
    def answer(message: Message, context: Context) -> Message:
        part = Part.asked(message.content)
        if part.number == 1:
            outbox.once(context.state, "own")
            data = packed_own(own())
            vectors = (packed(data[cut]) for cut in cuts(data.size, ARRAY_BYTES_AT_MOST))
            vector = outbox.put(context.state, "own", part.round, vectors)
            context.state["own-size"] = MetricRecord({records.BYTES: data.size})
        else:
            vector = outbox.fetch(context.state, "own", part)
        size = cast("int", context.state.metric_records["own-size"][records.BYTES])
        return Message(records.answer(records.one(vector), rows, **{records.BYTES: size}), reply_to=message)

    return app


def serve(app: ClientApp, door: Door) -> None:
    """Answer every message that comes through the door until the stream ends.

    An exception of the app ends the worker, and so the run, with its own code: it is not answered for.
    """
    keep_freed()
    context: Context | None = None
    while (frame := door.receive()) is not None:
        message = from_frame(frame.payload)
        node, run = message.metadata.dst_node_id, message.metadata.run_id
        context = context or Context(run, node, node_config={}, state=RecordDict(), run_config={})
        door.send_pieces(frame.party, frame.round, Encoder().encode(app(message, context)))


@dataclass(frozen=True)
class _Side:
    """Local training, one party's; see `party_app`."""

    family: Federated
    X: Float32Matrix
    y: Labels
    party: str
    seed: bytes
    method: InRounds
    shapes: Shapes

    def train(self, asked: RecordDict, state: RecordDict) -> Array:
        """Take a part of the joint parameters; after the last one train, and answer with the first part of the new."""
        part = Part.asked(asked)
        if not 1 <= part.round <= self.method.rounds:
            raise EscrowError("update-invalid", "A round was asked for that the contract does not have.")
        if part.number == 1:
            outbox.once(state, "train", part.round)
        record = asked.get(records.ARRAYS)
        array = record.get(records.VECTOR) if isinstance(record, ArrayRecord) else None
        if array is None or len(array.shape) != 1 or not has_layout(array, "float32", array.shape[0]):
            raise EscrowError("update-invalid", "A part of the joint parameters is not a vector.")
        arrived = outbox.take(state, part, array)
        if part.number == 1 < part.of:
            let_go()
        if not part.last:
            return packed(np.empty(0, np.float32))
        length = arrived[0].shape[0]
        trained = self._fit(part.round, arrived, asked)
        vectors = (packed(piece) for piece in pieces(trained, length))
        return outbox.put(state, "update", part.round, vectors)

    def _fit(self, number: int, arrived: list[Array], asked: RecordDict) -> Parameters:
        method = self.method
        return self.family.local_fit(
            _joined(arrived, self.shapes),
            records.joint_moments(asked, self.X.shape[1]),
            self.X,
            self.y,
            epochs=method.local_epochs,
            seed=part_number(self.seed, "local", self.party, number),
            proximal=method.proximal if isinstance(method, FedProx) else 0.0,
        )


def _joined(arrived: list[Array], shapes: Shapes) -> Parameters:
    """The parameters in all parts; each part is let go once it is copied.

    Raises:
        EscrowError: `update-invalid` if they are not as many as the family has.
    """
    count = count_of(shapes)
    if sum(array.shape[0] for array in arrived) != count:
        raise EscrowError("update-invalid", "The joint parameters are not as many as those of the contract's model.")
    vector = np.empty(count, np.float32)
    parts, end = len(arrived), count
    while arrived:
        part = unpacked(arrived.pop())
        vector[end - part.size : end] = part
        end -= part.size
    if parts > 1:
        del part
        let_go()
    return shaped(vector, shapes)
