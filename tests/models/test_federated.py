"""Federated averaging over Flower: what it computes, that it repeats, and that it disturbs nobody."""

import logging
from collections.abc import Mapping

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from contracts.errors import EscrowError
from contracts.metrics import Metric, Rows, measure
from models.families.base import Federated, Model, Moments, make, make_federated
from models.federated.client import party_app
from models.federated.grid import LocalGrid
from models.federated.rounds import fit_federated
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


def apps(family: Federated, data: Data, seed: bytes = SEED) -> dict[str, ClientApp]:
    return {name: party_app(family, X, y, party=name, seed=seed) for name, (X, y) in data.items()}


def fit(family: Federated, data: Data, method: Mapping[str, object] = METHOD, seed: bytes = SEED) -> Model:
    rows = {name: len(y) for name, (_, y) in data.items()}
    return fit_federated(LocalGrid(apps(family, data, seed)), family, method, rows, features=4, seed=seed)


def test_the_model_is_the_row_weighted_average_of_local_training_in_party_order(family: Federated, data: Data) -> None:
    names = sorted(data)
    moments = Moments.joint([family.moments(data[name][0]) for name in names])
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


def test_features_are_standardised_by_everyones_rows_together(family: Federated, rng: np.random.Generator) -> None:
    data = {"north": draw(rng, 80), "corner": draw(rng, 40, shift=50.0)}
    everyone = family.moments(np.concatenate([X for X, _ in data.values()]))
    model = fit(family, data)
    assert model.moments.rows == 120  # type: ignore[attr-defined]
    np.testing.assert_allclose(model.moments.sums, everyone.sums)  # type: ignore[attr-defined]
    np.testing.assert_allclose(model.moments.squares, everyone.squares)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "method",
    [
        {"name": "fedprox", "rounds": 3},
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
    replies = grid.send_and_receive(messages)
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
