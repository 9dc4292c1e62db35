"""How much a node lets an escrow ask: as much as the aggregator needs for any contract, and hardly more."""

from dataclasses import replace
from typing import Any

import pytest

from contracts import frames
from contracts.contract import Contract
from models import bundle, ensemble
from models.families.base import make_federated
from models.features import feature_names
from models.federated import vectors
from models.federated.own import _AROUND
from parties import questions
from scenarios import tiny
from scenarios.consortium import Consortium


@pytest.fixture
def contract(consortium: Consortium) -> Any:
    """A contract with a method and model of one's choice, under which all rows stay at home."""

    def made(method: dict[str, Any], model: dict[str, Any]) -> Contract:
        document = consortium.draft(model=model, method=method)
        for each in document["contributions"]:
            each["placement"] = "party"
        return consortium.contract({**document, "exposure": "parties-see-rounds"})

    return made


@pytest.mark.parametrize("hidden", [(), (8,), (512, 512, 512, 512)])
def test_a_round_has_as_many_questions_as_its_parts_need(contract: Any, hidden: tuple[int, ...]) -> None:
    model: dict[str, Any] = {"family": "mlp", "hidden": hidden} if hidden else {"family": "logistic"}
    agreed = contract({"name": "fedavg", "rounds": 7}, model)
    count = vectors.count_of(vectors.shapes_of(make_federated(model), len(feature_names(tiny.SCHEMA))))
    parts = len(vectors.cuts(count, frames.floats_in_a_part(len(agreed.answering()))))
    found = questions.bounds(agreed, "north")
    assert (found.rounds, found.questions) == (7, 2 * parts - 1)


def test_many_parties_have_smaller_parts_as_the_aggregator_says(contract: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    agreed = contract({"name": "fedavg"}, {"family": "mlp", "hidden": [512, 512, 512, 512]})
    many = [f"bank-{number}" for number in range(1023)] + ["north"]
    monkeypatch.setattr(Contract, "answering", lambda _: many)
    count = vectors.count_of(
        vectors.shapes_of(make_federated({"family": "mlp", "hidden": [512] * 4}), len(feature_names(tiny.SCHEMA)))
    )
    parts = len(vectors.cuts(count, frames.floats_in_a_part(len(many))))
    assert questions.bounds(agreed, "north").questions == 2 * parts - 1
    assert parts > 2


@pytest.mark.parametrize(
    ("parties", "hidden", "asked"),
    [
        (2, (), 1),
        (2, (512, 512, 512, 512), 1),  # 792 577 parameters: 3.2 MB fit in a part of 4 MiB
        (1024, (512, 512, 512, 512), 25),  # 13 parts of 65 536 parameters each
    ],
)
def test_how_much_may_be_asked_in_figures(
    contract: Any, monkeypatch: pytest.MonkeyPatch, parties: int, hidden: tuple[int, ...], asked: int
) -> None:
    """What the sides compute together could be wrong on both."""
    model: dict[str, Any] = {"family": "mlp", "hidden": hidden} if hidden else {"family": "logistic"}
    agreed = contract({"name": "fedavg", "rounds": 7}, model)
    many = [f"bank-{number}" for number in range(parties - 1)] + ["north"]
    monkeypatch.setattr(Contract, "answering", lambda _: many)
    assert len(feature_names(tiny.SCHEMA)) == 7
    assert questions.bounds(agreed, "north") == questions.Bounds(parties - 1, 7, asked, 18)  # 17 parts of 66 MiB


def test_the_largest_own_model_comes_in_before_the_first_round() -> None:
    limits = {**bundle.LIMITS, ensemble.OWN: ensemble.OWN_AT_MOST}
    largest = sum(size + _AROUND for size in limits.values())
    parts = len(vectors.cuts(largest, frames.ARRAY_BYTES_AT_MOST))
    assert parts + 1 == questions.FIRST  # and the moments


def test_where_models_only_go_up_there_are_no_rounds(contract: Any) -> None:
    found = questions.bounds(contract({"name": "ensemble"}, {"family": "boosted"}), "north")
    assert found.rounds == 0
    assert found.of(0) == questions.FIRST
    assert replace(found, questions=5).of(1) == 5
