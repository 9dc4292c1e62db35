"""Weights of many messages fit into workers that hold little more than two copies of them, and arrive whole.

An aggregator and three clients are processes of their own, joined by the escrow's relay: `scenarios.benchmarks.bulk`.
What a worker needs for itself is what it needed at most when the weights were next to nothing.
"""

import pytest

from scenarios.benchmarks.bandwidth import PARTIES, carried

MB = 48.0
MIB = MB * 1e6 / 2**20
COPIES = {"aggregate": 1.85, **dict.fromkeys(PARTIES, 2.5)}
"""Of the weights, that a worker may have in memory at once; measured were 1.6 and 2.16."""


@pytest.fixture(scope="module")
def above(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """How many copies of the weights each worker held at its peak, beyond what it needs for itself."""
    little, much = (carried(tmp_path_factory.mktemp("big"), mb=mb, rounds=2).peak_mib for mb in (0.004, MB))
    return {worker: (much[worker] - little[worker]) / MIB for worker in COPIES}


@pytest.mark.parametrize("worker", COPIES)
def test_a_worker_holds_few_copies_of_a_big_model(above: dict[str, float], worker: str) -> None:
    assert 1 < above[worker] < COPIES[worker]
