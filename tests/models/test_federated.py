"""Federated training over Flower: what it computes, that it repeats, and that it disturbs nobody."""

import logging
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto

from contracts import frames
from contracts.errors import EscrowError
from contracts.frames import PART_BYTES, Frame
from contracts.metrics import Metric, Rows, measure
from models.families.base import Federated, Model, Moments, make, make_federated
from models.federated import outbox, records, rounds, vectors
from models.federated.checkpoint import in_parts
from models.federated.client import own_app, party_app, serve
from models.federated.door import Door
from models.federated.encoding import from_frame, to_frame
from models.federated.grid import LocalGrid
from models.federated.methods import Combiner
from models.federated.own import fetch_own
from models.federated.roster import Roster
from models.federated.rounds import fit_federated
from models.federated.socketgrid import SocketGrid
from models.seeds import part_number

SEED = bytes(range(32))
METHOD = {"name": "fedavg", "rounds": 3, "local-epochs": 1}
SIZES = {"north": 600, "harbour": 300, "corner": 60}

Data = dict[str, tuple[np.ndarray, np.ndarray]]


def draw(rng: np.random.Generator, n: int, *, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    X = rng.normal(loc=shift, size=(n, 4)).astype(np.float32)
    y = (X[:, 0] * X[:, 1] + rng.normal(scale=0.5, size=n) > 1.2).astype(np.int8)
    return X, y


@pytest.fixture
def data(rng: np.random.Generator) -> Data:
    return {name: draw(rng, n) for name, n in SIZES.items()}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def family() -> Federated:
    return make_federated({"family": "mlp", "hidden": [8], "batch": 32, "learning-rate": 0.02})


def apps(
    family: Federated, data: Data, seed: bytes = SEED, method: Mapping[str, object] = METHOD
) -> dict[str, ClientApp]:
    return {name: party_app(family, X, y, party=name, seed=seed, method=method) for name, (X, y) in data.items()}


def fit(family: Federated, data: Data, method: Mapping[str, object] = METHOD, seed: bytes = SEED, **more: Any) -> Model:
    rows = {name: len(y) for name, (_, y) in data.items()}
    grid = LocalGrid(apps(family, data, seed, method))
    return fit_federated(grid, family, method, rows, features=4, seed=seed, **more)


def test_the_model_is_the_row_weighted_average_of_local_training_in_party_order(family: Federated, data: Data) -> None:
    names = sorted(data)
    moments = Moments.joint([family.moments(*data[name]) for name in names])
    parameters = family.initial(4, moments, seed=part_number(SEED, "initial"))
    total = sum(SIZES.values())
    for number in range(1, 4):
        updates = [
            family.local_fit(parameters, moments, *data[n], epochs=1, seed=part_number(SEED, "local", n, number))
            for n in names
        ]
        weights = [SIZES[name] / total for name in names]
        parameters = [sum(w * a for w, a in zip(weights, arrays, strict=True)) for arrays in zip(*updates, strict=True)]
    expected = family.from_parameters(parameters, moments)
    assert fit(family, data).to_onnx() == expected.to_onnx()


def test_the_same_run_gives_the_same_bytes_whatever_order_the_parties_are_named_in(
    family: Federated, data: Data
) -> None:
    reordered = dict(sorted(data.items()))
    assert list(reordered) != list(data)
    assert fit(family, data).to_onnx() == fit(family, reordered).to_onnx()


def test_another_seed_gives_another_model(family: Federated, data: Data) -> None:
    assert fit(family, data).to_onnx() != fit(family, data, seed=bytes(32)).to_onnx()


def test_it_ranks_nearly_as_well_as_the_pooled_model(family: Federated, rng: np.random.Generator) -> None:
    data = {name: draw(rng, n * 4) for name, n in SIZES.items()}
    X, y = draw(rng, 3000)
    spec = {"family": "mlp", "hidden": [8], "batch": 32, "learning-rate": 0.02, "epochs": 6}
    pooled = make(spec).fit(*(np.concatenate(part) for part in zip(*data.values(), strict=True)), seed=1)
    joint = fit(family, data, {"name": "fedavg", "rounds": 6})
    rows = Rows.of(y, np.arange(len(y)), np.ones(len(y)), np.zeros(len(y), "M8[s]"))
    pooled_value, joint_value = (measure(Metric("average-precision"), rows, m.scores(X)) for m in (pooled, joint))
    assert pooled_value > 5 * y.mean()
    assert joint_value > pooled_value - 0.1


def means_and_spreads(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    mean = moments.sums / moments.rows
    return mean, np.sqrt(moments.squares / moments.rows - mean**2)


@pytest.mark.parametrize("method", [{"name": "median"}, {"name": "trimmed-mean", "trim": 0.34}])
def test_no_single_party_bends_the_standardisation_of_a_robust_method(
    family: Federated, data: Data, method: dict[str, object]
) -> None:
    honest = fit(family, data, method).moments  # type: ignore[attr-defined]
    X, y = data["north"]
    model = fit(family, {**data, "north": (np.full_like(X, 3e38), np.ones_like(y))}, method)
    bent = model.moments  # type: ignore[attr-defined]
    np.testing.assert_allclose(means_and_spreads(bent), means_and_spreads(honest), atol=0.2)
    assert bent.positives / bent.rows == pytest.approx(honest.positives / honest.rows, abs=0.05)
    assert bent.rows == sum(SIZES.values())


def test_features_are_standardised_by_everyones_rows_together(family: Federated, rng: np.random.Generator) -> None:
    data = {"north": draw(rng, 80), "corner": draw(rng, 40, shift=50.0)}
    everyone = family.moments(*(np.concatenate(part) for part in zip(*data.values(), strict=True)))
    model = fit(family, data)
    assert (model.moments.rows, model.moments.positives) == (120, everyone.positives)  # type: ignore[attr-defined]
    np.testing.assert_allclose(model.moments.sums, everyone.sums)  # type: ignore[attr-defined]
    np.testing.assert_allclose(model.moments.squares, everyone.squares)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "method",
    [
        {"name": "pooled"},
        {"name": "ensemble"},
        {"name": "fedprox", "proximal": 0.0},
        {"name": "trimmed-mean", "trim": 0.5},
        {"name": "trimmed-mean", "trim": 0.3},
        {"name": "fedavg", "rounds": 0},
        {"name": "fedavg", "rounds": "3"},
        {"name": "fedavg", "local-epochs": 0},
        {"name": "fedavg", "clients": 2},
        {},
    ],
)
def test_a_method_that_cannot_be_run_is_refused(family: Federated, data: Data, method: dict[str, object]) -> None:
    with pytest.raises(EscrowError) as refused:
        fit(family, data, method)
    assert refused.value.code == "model-invalid"


@pytest.mark.parametrize("rows", [{"north": 600, "harbour": 300}, {**SIZES, "stranger": 5}])
def test_the_grid_must_be_the_contracts_parties(family: Federated, data: Data, rows: dict[str, int]) -> None:
    with pytest.raises(EscrowError) as refused:
        fit_federated(LocalGrid(apps(family, data)), family, METHOD, rows, features=4, seed=SEED)
    assert refused.value.code == "roster-incomplete"


def test_progress_counts_the_rounds_and_flower_stays_silent(
    family: Federated, data: Data, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[int, int]] = []
    level = logging.getLogger("flwr").level
    rows = {name: len(y) for name, (_, y) in data.items()}
    grid = LocalGrid(apps(family, data))
    fit_federated(grid, family, METHOD, rows, features=4, seed=SEED, progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("flwr").level == level


def counting_app() -> ClientApp:
    """Answers how often it was asked, as its own state remembers it."""
    app = ClientApp()

    @app.query()
    def count(message: Message, context: Context) -> Message:
        before = context.state.config_records.get("seen", ConfigRecord({"times": 0}))
        context.state["seen"] = ConfigRecord({"times": before["times"] + 1})
        return Message(RecordDict({"seen": context.state["seen"]}), reply_to=message)

    return app


def test_each_party_keeps_its_own_state_on_the_grid() -> None:
    shared = counting_app()
    grid = LocalGrid({"north": shared, "corner": shared})
    corner, north = grid.get_node_ids()

    def ask(node: int) -> int:
        (reply,) = grid.send_and_receive([grid.create_message(RecordDict(), "query", node, "1")])
        return reply.content.config_records["seen"]["times"]

    assert [ask(north), ask(north), ask(corner)] == [1, 2, 1]


def test_a_reply_on_the_grid_names_its_sender_and_its_question() -> None:
    """The parts of Flower that are not documented but needed: numbered messages, replies that point to them."""
    grid = LocalGrid({"north": counting_app(), "corner": counting_app()})
    assert dict(grid.parties) == {2: "corner", 3: "north"}
    messages = [grid.create_message(RecordDict(), "query", node, "4") for node in grid.get_node_ids()]
    assert len({message.metadata.message_id for message in messages}) == 2
    replies = list(grid.send_and_receive(messages))
    assert [(r.metadata.src_node_id, r.metadata.reply_to_message_id, r.metadata.group_id) for r in replies] == [
        (m.metadata.dst_node_id, m.metadata.message_id, "4") for m in messages
    ]


def test_pushed_messages_wait_and_are_answered_once() -> None:
    grid = LocalGrid({"north": counting_app()})
    ids = grid.push_messages([grid.create_message(RecordDict(), "query", 2, "1")])
    assert len(list(grid.pull_messages(ids))) == 1
    assert list(grid.pull_messages(ids)) == []
    assert grid.run.run_id == 1


def test_what_an_app_raises_stays_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    app = ClientApp()

    @app.query()
    def fail(message: Message, context: Context) -> Message:
        raise RuntimeError("card 4711 has 3 frauds")

    grid = LocalGrid({"north": app})
    (reply,) = grid.send_and_receive([grid.create_message(RecordDict(), "query", 2, "1")])
    assert reply.has_error()
    assert "4711" not in str(reply)
    assert "party north" in caplog.text


# methods


def plainly(method: Mapping[str, Any], family: Federated, data: Data) -> bytes:
    """The model by numpy alone, from the papers, with the constants that Flower's strategies have."""
    names = sorted(data)
    robust = method["name"] in ("median", "trimmed-mean")
    moments = (Moments.middle if robust else Moments.joint)([family.moments(*data[name]) for name in names])
    start = family.initial(4, moments, seed=part_number(SEED, "initial"))
    shapes = [array.shape for array in start]
    w = np.concatenate([array.ravel() for array in start])
    m, v = np.zeros_like(w), np.zeros_like(w)

    def cut(vector: np.ndarray) -> list[np.ndarray]:
        return np.split(vector, np.cumsum([np.prod(s) for s in shapes])[:-1])

    share = [np.float32(SIZES[name] / sum(SIZES.values())) for name in names]
    for number in range(1, method["rounds"] + 1):
        before = [part.reshape(s) for part, s in zip(cut(w), shapes, strict=True)]
        updates = []
        for name in names:
            seed, mu = part_number(SEED, "local", name, number), method.get("proximal", 0.0)
            trained = family.local_fit(before, moments, *data[name], epochs=1, seed=seed, proximal=mu)
            updates.append(np.concatenate([array.ravel() for array in trained]))
        if robust:
            w = np.sort(updates, axis=0)[1]  # of three: the middle one, and what is left when one at each end is cut
            continue
        mean = updates[0] * share[0] + updates[1] * share[1] + updates[2] * share[2]
        if method["name"] == "fedadam":
            m = np.float32(0.9) * m + np.float32(1 - 0.9) * (mean - w)
            v = np.float32(0.99) * v + np.float32(1 - 0.99) * (mean - w) ** 2
            step = method["server-rate"] * np.sqrt(1 - 0.99 ** (number + 1)) / (1 - 0.9 ** (number + 1))
            mean = (w + step * m.astype(np.float64) / (np.sqrt(v) + np.float32(method["adaptivity"]))).astype(
                np.float32
            )
        w = mean
    return family.from_parameters([p.reshape(s) for p, s in zip(cut(w), shapes, strict=True)], moments).to_onnx()


METHODS: list[dict[str, Any]] = [
    {"name": "fedavg", "rounds": 3},
    {"name": "fedprox", "rounds": 3, "proximal": 0.5},
    {"name": "fedadam", "rounds": 3, "server-rate": 0.05, "adaptivity": 0.01},
    {"name": "median", "rounds": 3},
    {"name": "trimmed-mean", "rounds": 3, "trim": 0.34},
]
every_method = pytest.mark.parametrize("method", METHODS, ids=[method["name"] for method in METHODS])


@every_method
def test_a_method_is_what_its_paper_says(family: Federated, data: Data, method: dict[str, Any]) -> None:
    assert fit(family, data, method).to_onnx() == plainly(method, family, data)


def test_methods_differ(family: Federated, data: Data) -> None:
    models = {fit(family, data, method).to_onnx() for method in METHODS}
    assert len(models) == len(METHODS) - 1  # of three parties the trimmed mean is the median


class Shuffled(LocalGrid):
    """A grid on which answers arrive in some other order."""

    def __init__(self, apps: Mapping[str, ClientApp], seed: int) -> None:
        super().__init__(apps)
        self._order = np.random.default_rng(seed)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = list(super().send_and_receive(messages, timeout=timeout))
        return [replies[place] for place in self._order.permutation(len(replies))]


@every_method
def test_no_byte_depends_on_the_order_of_arrival_or_on_how_parameters_are_cut(
    family: Federated, data: Data, method: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {name: len(y) for name, (_, y) in data.items()}
    expected = fit(family, data, method).to_onnx()
    monkeypatch.setattr(rounds, "floats_in_a_part", lambda parties: 7)
    for seed in range(2):
        grid = Shuffled(apps(family, data, method=method), seed)
        model = fit_federated(grid, family, method, rows, features=4, seed=SEED)
        assert model.to_onnx() == expected


# checkpoints


def test_the_next_part_is_asked_for_before_one_is_combined(
    family: Federated, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(LocalGrid):
        asked = 0

        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
            type(self).asked += 1
            return self.pull_messages(self.push_messages(messages))

    honest, seen = Combiner.combine, []

    def combine(self: Combiner, *how: Any) -> Any:
        seen.append(Counting.asked)
        return honest(self, *how)

    monkeypatch.setattr(Combiner, "combine", combine)
    monkeypatch.setattr(rounds, "floats_in_a_part", lambda parties: 2)
    grid, rows = Counting(apps(family, data)), {name: len(y) for name, (_, y) in data.items()}
    fit_federated(grid, family, METHOD | {"rounds": 1}, rows, features=4, seed=SEED)
    parts = len(seen)
    assert parts > 2
    before = 1 + parts  # the moments, and the way down; the first part up is the answer to its last
    assert seen == [before + min(number, parts - 1) for number in range(1, parts + 1)]


def kept(family: Federated, data: Data, method: Mapping[str, object], **more: Any) -> tuple[bytes, list[bytes]]:
    """A model, and the checkpoint of each round before it was done."""
    found: list[bytes] = []
    model = fit(family, data, method, keep=lambda _, pieces: found.append(b"".join(pieces)), **more)
    return model.to_onnx(), found


@every_method
def test_training_that_was_cut_after_any_round_ends_with_the_same_bytes(
    family: Federated, data: Data, method: dict[str, Any]
) -> None:
    expected, checkpoints = kept(family, data, method)
    assert len(checkpoints) == 3
    for done, each in enumerate(checkpoints, start=1):
        told: list[tuple[int, int]] = []
        again = fit(family, data, method, start=BytesIO(each), progress=lambda *at, told=told: told.append(at))
        assert again.to_onnx() == expected
        assert told == [(number, 3) for number in range(done + 1, 4)]


def test_a_checkpoint_that_is_none_of_this_training_is_ignored(family: Federated, data: Data) -> None:
    expected, (first, *_) = kept(family, data, METHOD)
    others = [
        b"",
        first[:-1],
        first + b"\0",
        first[:40],
        bytes(32) + first[32:],
        first[:-4] + np.float32(np.nan).tobytes(),
        first[:36] + bytes(8) + first[44:],
        kept(family, data, METHODS[1])[1][0],
        kept(family, data, METHODS[2])[1][0],
        kept(family, data, METHOD, seed=bytes(32))[1][0],
        kept(family, {**data, "corner": tuple(part[:50] for part in data["corner"])}, METHOD)[1][0],
        kept(make_federated({"family": "logistic"}), data, METHOD)[1][0],
    ]
    for other in others:
        told: list[int] = []
        model = fit(family, data, start=BytesIO(other), progress=lambda done, _, told=told: told.append(done))
        assert model.to_onnx() == expected
        assert told == [1, 2, 3]


@pytest.mark.parametrize("size", [0, 5, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES])
def test_what_is_kept_comes_in_full_parts_and_a_shorter_one(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    parts = [
        b"".join(part) for part in in_parts(data[start : start + 1_000_000] for start in range(0, size, 1_000_000))
    ]
    assert b"".join(parts) == data
    assert [len(part) for part in parts] == [PART_BYTES] * (size // PART_BYTES) + [size % PART_BYTES]


# messages as bytes


@pytest.mark.parametrize(
    "content",
    [
        RecordDict({}),
        RecordDict({"nothing": ArrayRecord({}), "more": ConfigRecord({})}),
        records.query(records.Part(3, 2, 2)),
        records.answer(records.one(vectors.packed(np.arange(70_000, dtype=np.float32))), 130, more=1 << 40),
        *(records.answer(records.one(vectors.packed(np.zeros(size, np.uint8))), 1) for size in (0, 1, 16_200, 1 << 22)),
        records.train_request(
            vectors.packed(np.empty(0, np.float32)), records.Part(1), Moments(5, np.zeros(3), np.ones(3), 2)
        ),
    ],
)
def test_messages_are_written_as_flower_writes_them(content: RecordDict) -> None:
    question = LocalGrid({"north": own_app(1, dict)}).create_message(content, "query", 2, "1")
    for message in (question, Message(content, reply_to=question), Message(Error(2), reply_to=question)):
        frame = to_frame(message)
        assert frame == message_to_proto(message).SerializeToString(deterministic=True)
        assert to_frame(from_frame(frame)) == frame


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 16_383, 16_384, 1 << 21])
def test_lengths_are_written_as_flower_writes_them(length: int) -> None:
    record = ArrayRecord({"0": Array("uint8", (length,), "numpy.ndarray", bytes(length + 1))})
    message = LocalGrid({"north": own_app(1, dict)}).create_message(RecordDict({"a": record}), "query", 2, "1")
    assert to_frame(message) == message_to_proto(message).SerializeToString(deterministic=True)


# behind a door


def test_a_frame_in_many_pieces_arrives_whole_although_it_is_read_slowly() -> None:
    pieces = [bytes([number % 251]) * (number % 7 * 100) for number in range(3000)]
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with Door(near) as mine, far, ThreadPoolExecutor(1) as thread:
        sending = thread.submit(mine.send_pieces, 3, 7, pieces)
        data = b""
        while len(data) < 12 + sum(map(len, pieces)):
            data += far.recv(1000)
        sending.result()
    assert data == Frame(3, b"".join(pieces), 7).encode()


@contextmanager
def behind_a_door(*answers: Callable[[Frame], bytes]) -> Iterator[SocketGrid]:
    """A grid of two parties, corner and north; whatever it asks is answered, in turn, with these bytes and no more."""
    near, far = socket.socketpair()

    def answer() -> None:
        with Door(far) as door:
            for each in answers:
                question = door.receive()
                assert question is not None
                far.sendall(each(question))
            far.shutdown(socket.SHUT_WR)
            while door.receive() is not None:
                pass

    with Door(near) as door, ThreadPoolExecutor(1) as threads:
        answering = threads.submit(answer)
        yield SocketGrid(["north", "corner"], door)
        near.shutdown(socket.SHUT_WR)
        answering.result(30)


def reply(question: Frame, *, party: int | None = None, number: int | None = None) -> bytes:
    """An honest answer, but for the numbers it may stand under."""
    answer = Message(RecordDict({"seen": ConfigRecord({"times": 1})}), reply_to=from_frame(question.payload))
    party, number = question.party if party is None else party, question.round if number is None else number
    return Frame(party, to_frame(answer), number).encode()


def asked(grid: SocketGrid) -> list[Message]:
    """What came back to one question for each party."""
    return list(
        grid.send_and_receive([grid.create_message(RecordDict(), "query", node, "1") for node in grid.get_node_ids()])
    )


def test_parties_behind_a_door_answer_as_on_any_grid() -> None:
    with behind_a_door(reply, reply) as grid:
        assert dict(grid.parties) == {2: "corner", 3: "north"}
        assert [message.metadata.src_node_id for message in asked(grid)] == [2, 3]


def test_answers_that_are_missing_at_the_streams_end_are_left_out() -> None:
    with behind_a_door(reply) as grid:
        assert len(asked(grid)) == 1


@pytest.mark.parametrize(
    ("answer", "code", "party"),
    [
        (lambda question: Frame(question.party, b"\xff" * 40, 1).encode(), "update-invalid", "corner"),
        (lambda question: Frame(question.party, b"", 1).encode(), "update-invalid", "corner"),
        (lambda question: reply(question, party=1), "roster-incomplete", "north"),
        (lambda question: reply(question, party=7), "roster-incomplete", None),
        (lambda question: reply(question, number=0), "roster-incomplete", "corner"),
        (lambda question: reply(question, number=2), "roster-incomplete", "corner"),
        (lambda question: b"\0\0\0\0\0\0\0\1\xff\xff\xff\xff", "update-invalid", None),
        (lambda question: reply(question)[:-1], "roster-incomplete", None),
        (lambda question: reply(question)[:7], "roster-incomplete", None),
    ],
    ids=[
        "garbage",
        "nothing",
        "as another party",
        "as nobody",
        "for an old round",
        "for a later round",
        "endless",
        "cut off",
        "cut off in its header",
    ],
)
def test_an_answer_through_the_door_that_is_none_ends_the_run(
    answer: Callable[[Frame], bytes], code: str, party: str | None
) -> None:
    with behind_a_door(answer) as grid, pytest.raises(EscrowError) as refused:
        asked(grid)
    assert (refused.value.code, refused.value.party) == (code, party)


def served(app: ClientApp, *questions: Message) -> list[Message]:
    """What an app answers through its door."""
    near, far = socket.socketpair()
    with Door(near) as mine, Door(far) as door:
        for message in questions:
            mine.send(Frame(5, to_frame(message), 3))
        near.shutdown(socket.SHUT_WR)
        serve(app, door)
        door.close()
        answers = []
        while (frame := mine.receive()) is not None:
            assert (frame.party, frame.round) == (5, 3)
            answers.append(from_frame(frame.payload))
        return answers


def test_a_client_keeps_its_state_for_as_long_as_it_is_asked() -> None:
    grid = LocalGrid({"north": counting_app()})
    messages = [grid.create_message(RecordDict(), "query", 2, "1") for _ in range(3)]
    found = [answer.content.config_records["seen"]["times"] for answer in served(counting_app(), *messages)]
    assert found == [1, 2, 3]


def test_what_a_clients_app_raises_ends_the_client() -> None:
    app = ClientApp()

    @app.query()
    def fail(message: Message, context: Context) -> Message:
        raise EscrowError("training-failed", "The training rows are all of one class.")

    with pytest.raises(EscrowError, match="one class"):
        served(app, LocalGrid({"north": app}).create_message(RecordDict(), "query", 2, "1"))


# what a client refuses, and its own model


def refusal_of(app: ClientApp, kind: str, *questions: RecordDict) -> EscrowError:
    """The error with which the last of some questions ends a client; those before are answered."""
    grid = LocalGrid({"north": app})
    messages = [grid.create_message(content, kind, 2, "1") for content in questions]
    context = Context(1, 2, node_config={}, state=RecordDict(), run_config={})
    for message in messages[:-1]:
        app(message, context)
    with pytest.raises(EscrowError) as refused:
        app(messages[-1], context)
    return refused.value


def pushed(number: int, of: int, *, round_number: int = 1, size: int = 7) -> RecordDict:
    """One part of joint parameters for a net of 49."""
    moments = Moments(10, np.zeros(4), np.ones(4), 1)
    part = records.Part(round_number, number, of)
    return records.train_request(records.packed(np.zeros(size, np.float32)), part, moments)


@pytest.mark.parametrize(
    "questions",
    [
        [pushed(2, 7)],
        [pushed(1, 7), pushed(3, 7)],
        [pushed(1, 7), pushed(2, 6)],
        [pushed(1, 7), pushed(2, 7, round_number=2)],
        [pushed(1, 7), pushed(2, 7), pushed(2, 7)],
        [pushed(1, 1, size=49), pushed(1, 1, size=49)],
        [pushed(1, 1, round_number=3, size=49), pushed(1, 1, round_number=1, size=49)],
        [pushed(1, 1, round_number=2, size=49), pushed(1, 7, round_number=2)],
        [*(pushed(number, 7) for number in range(1, 8)), pushed(1, 7)],
        [pushed(1, 7, round_number=2), pushed(1, 7, round_number=1)],
        [pushed(1, 1, size=48)],
        [pushed(1, 1, size=50)],
        [pushed(1, 1, size=49, round_number=4)],
        [pushed(1, 1, size=49, round_number=0)],
        [pushed(3, 2)],
        [RecordDict({records.ARRAYS: records.one(records.packed(np.zeros(49, np.float32)))})],
    ],
    ids=[
        "not from the start",
        "one left out",
        "of another number",
        "of another round",
        "one twice",
        "a round twice",
        "a round before the last",
        "a round twice, cut otherwise",
        "a round of many parts twice",
        "a round before one that has begun",
        "too few numbers",
        "too many numbers",
        "a round after the last",
        "a round before the first",
        "a part beyond the last",
        "no part at all",
    ],
)
def test_a_client_refuses_parts_that_do_not_follow(family: Federated, data: Data, questions: list[RecordDict]) -> None:
    assert refusal_of(apps(family, data)["north"], "train", *questions).code == "update-invalid"


def test_a_client_answers_no_part_that_it_does_not_have(family: Federated, data: Data) -> None:
    question = records.query(records.Part(1, 2, 2))
    assert refusal_of(apps(family, data)["north"], "query.update", question).code == "update-invalid"


@pytest.mark.parametrize("kind", ["query.moments", "query.own"])
def test_a_client_tells_of_its_rows_and_its_own_model_once(family: Federated, data: Data, kind: str) -> None:
    app = party_app(family, *data["north"], party="north", seed=SEED, method=METHOD, own=lambda: own_files(100))
    assert refusal_of(app, kind, *2 * [records.query(records.Part(0))]).code == "update-invalid"
    other = records.query(records.Part(1))
    assert refusal_of(app, kind, records.query(records.Part(0)), other).code == "update-invalid"


def test_a_client_that_is_asked_for_other_rounds_than_rise_ends_and_answers_once_when_it_is_new(
    family: Federated, data: Data
) -> None:
    app = apps(family, data)["north"]
    grid = LocalGrid({"north": app})
    third, first = (
        grid.create_message(pushed(1, 1, round_number=number, size=49), "train", 2, str(number)) for number in (3, 1)
    )
    for messages in ([third, first], [first, first]):
        with pytest.raises(EscrowError, match="second time") as refused:
            served(app, *messages)
        assert refused.value.code == "update-invalid"
    for messages in ([third], [first, third]):  # an attempt goes on at any round, with a worker that is new
        assert len(served(app, *messages)) == len(messages)


def test_what_is_in_one_part_leaves_nothing_behind_but_its_round(family: Federated, data: Data) -> None:
    app, state = apps(family, data)["north"], RecordDict()
    context = Context(1, 2, node_config={}, state=state, run_config={})
    message = LocalGrid({"north": app}).create_message(pushed(1, 1, size=49), "train", 2, "1")
    reply = app(message, context)
    assert records.only_vector(reply.content).size == 49
    assert dict(state) == {"train-asked": ConfigRecord({"server-round": 1})}


def test_parts_of_a_round_lie_where_a_new_process_finds_them() -> None:
    """SuperLink gives a fresh process nothing but the state, as bytes."""
    arrays = [records.packed(np.full(3, number, np.float32)) for number in range(12)]
    state = RecordDict()
    assert outbox.put(state, "update", 4, arrays) is arrays[0]
    for number in range(2, 13):
        state = from_frame(to_frame(LocalGrid({"a": own_app(1, dict)}).create_message(state, "query", 2, "1"))).content
        assert outbox.fetch(state, "update", records.Part(4, number, 12)) == arrays[number - 1]
    assert not state


def own_files(size: int) -> dict[str, bytes]:
    return {"baseline.json": b"{}", "model.json": b"{ }", "model.onnx": np.random.default_rng(size).bytes(size)}


LIMITS = {"baseline.json": 10, "model.json": 10, "model.onnx": 6 << 20}


@pytest.mark.parametrize("sizes", [{"north": 100}, {"north": 100, "corner": 5 << 20, "harbour": 6 << 20}])
def test_own_models_come_whole_however_large_they_are(sizes: dict[str, int]) -> None:
    grid = LocalGrid({party: own_app(SIZES[party], lambda size=size: own_files(size)) for party, size in sizes.items()})
    found = fetch_own(Roster(grid, {party: SIZES[party] for party in sizes}), sizes, LIMITS)
    assert found == {party: own_files(size) for party, size in sorted(sizes.items())}


def test_an_own_model_is_trained_once(family: Federated, data: Data) -> None:
    times: list[int] = []

    def own() -> dict[str, bytes]:
        times.append(1)
        return own_files(6 << 20)

    fetch_own(Roster(LocalGrid({"north": own_app(600, own)}), {"north": 600}), ["north"], LIMITS)
    assert times == [1]


@pytest.mark.parametrize(
    "files",
    [
        {**own_files(100), "rows.parquet": b"4711"},
        {"model.json": b"{}"},
        own_files((6 << 20) + 1),
        own_files(20 << 20),
        {**own_files(10), "model.json": b"{          }"},
    ],
    ids=["a file more", "files missing", "a file too large", "much too large", "a small file too large"],
)
def test_an_own_model_that_is_not_exactly_that_is_refused(files: dict[str, bytes]) -> None:
    grid = LocalGrid({"north": own_app(600, lambda: files), "corner": own_app(60, lambda: own_files(9))})
    with pytest.raises(EscrowError) as refused:
        fetch_own(Roster(grid, {"north": 600, "corner": 60}), ["north", "corner"], LIMITS)
    assert (refused.value.code, refused.value.party) == ("update-invalid", "north")


# vectors


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8"])
def test_an_array_is_made_and_read_as_flower_does(dtype: str) -> None:
    for size in (0, 1, 1000):
        values = np.arange(size).astype(dtype)
        array = vectors.packed(values)
        assert array == Array(values)
        assert vectors.has_layout(array, dtype, size)
        assert not vectors.has_layout(array, dtype, size + 1)
        np.testing.assert_array_equal(vectors.unpacked(array), values)


def test_pieces_are_the_parts_of_one_vector(rng: np.random.Generator) -> None:
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in [(3, 4), (1,), (5,), (2, 9)]]
    whole = vectors.flat(arrays)
    for length in (1, 5, 7, 12, 35, 36, 37):
        cut = [whole[each] for each in vectors.cuts(whole.size, length)]
        found = list(vectors.pieces(arrays, length))
        assert [part.tolist() for part in found] == [part.tolist() for part in cut]


def test_many_parties_share_the_room_that_one_part_of_each_takes() -> None:
    assert frames.floats_in_a_part(3) * 4 <= PART_BYTES
    assert frames.floats_in_a_part(64) == frames.floats_in_a_part(3)
    assert frames.floats_in_a_part(1000) * 4 * 1000 <= frames.ARRAYS_AT_MOST
