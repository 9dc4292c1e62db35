"""What a contract's explanation says of training is all that is said in it: each kind of message has its sentence."""

from typing import cast

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from contracts.consequences import explain
from contracts.contract import Contract, validated
from models.families.base import make_federated
from models.federated import rounds
from models.federated.client import own_app, party_app
from models.federated.grid import LocalGrid
from models.federated.own import fetch_own
from models.federated.roster import Roster
from models.federated.rounds import fit_federated
from scenarios.crowd import SCHEMA

PARTIES = ("harbour", "north")
ROWS = 40
SEED = bytes(range(32))
METHOD = {"name": "fedavg", "rounds": 2}
MODEL = {"family": "logistic", "batch": 16}

Said = set[tuple[str, str, str]]
"""Kind of message, whether it is a question or an answer, and `record/key` of each thing in it."""

IN_ROUNDS = {
    ("query.own", "question", "config/server-round"): "which part of which round it asks for",
    ("query.own", "question", "config/part"): "which part of which round it asks for",
    ("query.own", "question", "config/parts"): "which part of which round it asks for",
    ("query.own", "answer", "arrays/0"): "once, its own model",
    ("query.own", "answer", "metrics/num-bytes"): "how large that is",
    ("query.own", "answer", "metrics/num-examples"): "each time, how many rows it trains on",
    ("query.moments", "question", "config/server-round"): "which part of which round it asks for",
    ("query.moments", "question", "config/part"): "which part of which round it asks for",
    ("query.moments", "question", "config/parts"): "which part of which round it asks for",
    ("query.moments", "answer", "arrays/0"): "once, the sum and",
    ("query.moments", "answer", "arrays/1"): "and the sum of squares of each feature",
    ("query.moments", "answer", "arrays/2"): "the number of frauds among its training rows",
    ("query.moments", "answer", "metrics/num-examples"): "each time, how many rows it trains on",
    ("train", "question", "config/server-round"): "It is sent, every round",
    ("train", "question", "config/part"): "It is sent, every round",
    ("train", "question", "config/parts"): "It is sent, every round",
    ("train", "question", "arrays/0"): "the joint parameters",
    ("train", "question", "moments/0"): "with them those sums",
    ("train", "question", "moments/1"): "with them those sums",
    ("train", "question", "moments/2"): "the numbers of frauds and rows of all contributors together",
    ("train", "question", "metrics/num-examples"): "the numbers of frauds and rows of all contributors together",
    ("train", "answer", "arrays/0"): "every round, its parameters after local training",
    ("train", "answer", "metrics/num-examples"): "each time, how many rows it trains on",
    ("query.update", "question", "config/server-round"): "which part of which round it asks for",
    ("query.update", "question", "config/part"): "which part of which round it asks for",
    ("query.update", "question", "config/parts"): "which part of which round it asks for",
    ("query.update", "answer", "arrays/0"): "every round, its parameters after local training",
    ("query.update", "answer", "metrics/num-examples"): "each time, how many rows it trains on",
}
ONE_WAY = {
    ("query.own", "question", "config/server-round"): "sent nothing but the question for a part of it",
    ("query.own", "question", "config/part"): "sent nothing but the question for a part of it",
    ("query.own", "question", "config/parts"): "sent nothing but the question for a part of it",
    ("query.own", "answer", "arrays/0"): "its own model",
    ("query.own", "answer", "metrics/num-bytes"): "how large that is",
    ("query.own", "answer", "metrics/num-examples"): "how many rows it trains on",
}


def noting(app: ClientApp, said: Said) -> ClientApp:
    """The same app, while everything that comes to it and goes from it is noted."""

    def call(message: Message, context: Context) -> Message:
        kind = message.metadata.message_type
        said.update((kind, "question", each) for each in held(message.content))
        reply = app(message, context)
        said.update((kind, "answer", each) for each in held(reply.content))
        return reply

    return cast("ClientApp", call)


def held(content: RecordDict) -> list[str]:
    return [f"{name}/{key}" for name, record in content.items() for key in record]


def agreed(method: dict[str, object]) -> Contract:
    """A contract under which the rows of both parties stay with them."""
    digest = f"sha256:{'0' * 64}"
    commitments = iter(f"sha256-salted:{number:064x}" for number in range(4))
    return validated(
        {
            "contract": 1,
            "title": "Messages",
            "purpose": "None.",
            "parties": list(PARTIES),
            "contributions": [
                {
                    "party": name,
                    "placement": "party",
                    "train": {"commitment": next(commitments), "rows": ROWS},
                    "holdout": {"commitment": next(commitments), "rows": ROWS, "positives": 20},
                }
                for name in PARTIES
            ],
            "schema": SCHEMA.model_dump(mode="json", by_alias=True),
            "computation": {
                "kind": "joint-training",
                "worker": digest,
                "model": MODEL,
                "method": method,
                "sealing": "container",
            },
            "recipients": [{"party": name} for name in PARTIES],
            "release": [
                {"kind": "gain", "party": name, "metric": "average-precision", "min-positives": 1} for name in PARTIES
            ],
            "limits": {"expires": "2100-01-01T00:00:00Z"},
            **({"exposure": "parties-see-rounds"} if method["name"] != "ensemble" else {}),
        }
    )


def sentences(method: dict[str, object], party: str) -> str:
    [found] = [each for each in explain(agreed(method)).parties if each.party == party]
    return "\n".join(found.consequences)


def own() -> dict[str, bytes]:
    return {"model.onnx": b"a party's own model"}


def test_every_message_of_training_in_rounds_has_its_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "floats_in_a_part", lambda parties: 3)
    family, rng, said = make_federated(MODEL), np.random.default_rng(7), Said()
    apps = {}
    for name in PARTIES:
        X, y = rng.normal(size=(ROWS, 4)).astype(np.float32), (np.arange(ROWS) % 2).astype(np.int8)
        app = party_app(family, X, y, party=name, seed=SEED, method=METHOD, own=own)
        apps[name] = noting(app, said)
    grid, rows = LocalGrid(apps), dict.fromkeys(PARTIES, ROWS)
    fetch_own(Roster(grid, rows), PARTIES, {"model.onnx": 1000})
    fit_federated(grid, family, METHOD, rows, features=4, seed=SEED)
    assert said == set(IN_ROUNDS)
    for party in PARTIES:
        text = sentences(METHOD, party)
        assert [words for words in IN_ROUNDS.values() if words not in text] == []


def test_every_message_of_a_one_way_method_has_its_sentence() -> None:
    said = Said()
    grid = LocalGrid({name: noting(own_app(ROWS, own), said) for name in PARTIES})
    fetch_own(Roster(grid, dict.fromkeys(PARTIES, ROWS)), PARTIES, {"model.onnx": 1000})
    assert said == set(ONE_WAY)
    for party in PARTIES:
        text = sentences({"name": "ensemble"}, party)
        assert [words for words in ONE_WAY.values() if words not in text] == []
        assert "joint parameters" not in text


def test_a_record_is_a_mapping_of_what_it_holds() -> None:
    """Else the notes above would be empty and agree with anything."""
    assert held(RecordDict({"arrays": ArrayRecord([np.zeros(1)])})) == ["arrays/0"]
