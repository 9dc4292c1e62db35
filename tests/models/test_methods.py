"""What a method makes of the parties' parameters, one part of them at a time."""

import numpy as np
import pytest
from flwr.app import Message
from scipy import stats

from models.federated.grid import LocalGrid
from models.federated.methods import Combiner, plan
from models.federated.records import ASK_TRAIN, Part, answer, one, query
from models.federated.vectors import Vector, packed


def replies(vectors: list[Vector]) -> list[Message]:
    grid = LocalGrid({f"bank-{number:03}": lambda message, context: message for number in range(len(vectors))})
    asked = [grid.create_message(query(Part(1)), ASK_TRAIN, node, "1") for node in grid.get_node_ids()]
    return [
        Message(answer(one(packed(vector)), rows=7), reply_to=question)
        for vector, question in zip(vectors, asked, strict=True)
    ]


@pytest.mark.parametrize(
    ("parties", "trim", "left_out"),
    [(3, 1 / 3, 1), (3, 0.49, 1), (5, 0.49, 2), (100, 0.29, 29), (4, 0.25, 1), (10, 0.3, 3), (49, 0.4999, 24)],
)
def test_a_trimmed_mean_leaves_out_as_many_as_the_contract_says(parties: int, trim: float, left_out: int) -> None:
    rng = np.random.default_rng(parties)
    vectors = [rng.standard_cauchy(11).astype(np.float32) for _ in range(parties)]
    method = plan({"name": "trimmed-mean", "trim": trim})
    found = Combiner(method, parties).combine(1, np.zeros(11, np.float32), {}, replies(vectors))
    ordered = np.sort(np.stack(vectors).astype(np.float64), axis=0)
    np.testing.assert_allclose(found, ordered[left_out : parties - left_out].mean(axis=0), rtol=1e-5, atol=1e-6)
    assert np.abs(found).max() < np.abs(stats.trim_mean(np.stack(vectors), 0)).max()
