"""`escrow simulate`: many made-up banks, the same rows and model for the same seed, and no pretence of an escrow."""

import json
import tracemalloc
from typing import Any, get_args

import pytest

from contracts.answers import Answer
from contracts.consequences import explain
from contracts.errors import EscrowError
from contracts.work import run_seed
from escrow.cli import main
from scenarios.crowd import Crowd, train_locally
from scenarios.simulate import HONEST, PARTIES, PARTIES_AT_MOST, SUPERNODES_AT_MOST, EngineName, simulate

MODEL = {"family": "mlp", "hidden": [16], "batch": 16}


def simulated(**how: Any) -> dict[str, Any]:
    chosen = {"parties": 6, "rounds": 8, "engine": "local", "method": "fedavg", "rows": 64, "seed": 1}
    answer = simulate(**{**chosen, **how})
    assert isinstance(answer, Answer)
    return dict(json.loads(answer.to_json())["data"])


def test_it_tells_the_rounds_and_the_joint_model_beats_the_median_own(
    capfd: pytest.CaptureFixture[str],
) -> None:
    data = simulated()
    assert len(data["round_seconds"]) == 8
    assert all(seconds > 0 for seconds in data["round_seconds"])
    assert data["party_round_ms"] > 0
    assert data["peak_mib"] > 50
    assert data["joint_average_precision"] > data["own_average_precision"]
    assert data["simulation"] == HONEST
    assert capfd.readouterr().out == ""  # progress is for stderr


def test_a_seed_fixes_contract_and_model_and_another_seed_changes_both() -> None:
    one, again, other = simulated(), simulated(), simulated(seed=2)
    fixed = ("contract", "joint_average_precision", "own_average_precision")
    assert [one[key] for key in fixed] == [again[key] for key in fixed]
    assert all(one[key] != other[key] for key in fixed)


@pytest.mark.parametrize("method", ["fedprox", "fedadam", "median", "trimmed-mean"])
def test_every_method_in_rounds_can_be_simulated(method: str) -> None:
    data = simulated(method=method, rounds=2)
    assert data["method"] == method
    assert len(data["round_seconds"]) == 2


def test_the_law_bears_as_many_parties_as_can_be_simulated() -> None:
    contract = Crowd(PARTIES_AT_MOST, 20, 1, MODEL, {"name": "fedavg", "rounds": 1}).contract()
    assert len(contract.training) == PARTIES_AT_MOST
    assert len(explain(contract).parties) == PARTIES_AT_MOST
    with pytest.raises(EscrowError, match="parties"):
        Crowd(PARTIES_AT_MOST + 1, 20, 1, MODEL, {"name": "fedavg", "rounds": 1}).contract()


def test_a_party_s_rows_do_not_depend_on_how_many_there_are() -> None:
    few, many = (Crowd(parties, 40, 1, MODEL, {"name": "fedavg", "rounds": 1}) for parties in (4, 400))
    assert (few.table(3, "train").features == many.table(3, "train").features).all()
    assert (few.table(3, "train").features != few.table(2, "train").features).any()


def test_memory_does_not_grow_with_the_parties_rows() -> None:
    """What does grow, such as the contract, is less than half of the rows of those who came."""
    rows, few, many = 500, 4, 40

    def train(parties: int) -> int:
        crowd = Crowd(parties, rows, 1, MODEL, {"name": "fedavg", "rounds": 1})
        train_locally(crowd, run_seed(crowd.contract(), 1), lambda words: None)
        return sum(column.nbytes for column in vars(crowd.table(0, "train")).values() if hasattr(column, "nbytes"))

    def peak(parties: int) -> int:
        tracemalloc.start()
        try:
            train(parties)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    table = train(2)  # and all that is imported late is there
    assert peak(many) - peak(few) < (many - few) * table / 2


def test_the_run_s_seed_is_the_contract_s_and_decides_the_model() -> None:
    crowd = Crowd(3, 40, 1, MODEL, {"name": "fedavg", "rounds": 2})
    test, seed = crowd.test().features, run_seed(crowd.contract(), 1)
    first, second, other = (
        train_locally(crowd, each, lambda words: None).scores(test) for each in (seed, seed, b"x" * 32)
    )
    assert (first == second).all()
    assert (first != other).any()


def test_more_supernodes_than_one_machine_bears_are_a_usage_error() -> None:
    with pytest.raises(EscrowError) as error:
        simulate(parties=100, rounds=1, engine="superlink", method="fedavg", rows=20, seed=1)
    assert error.value.code == "usage"


@pytest.mark.parametrize("engine", get_args(EngineName))
def test_every_engine_alone_is_good_usage(engine: EngineName) -> None:
    assert 2 <= PARTIES[engine] <= (SUPERNODES_AT_MOST if engine == "superlink" else PARTIES_AT_MOST)


def test_three_banks_can_trim() -> None:
    assert simulated(method="trimmed-mean", parties=3, rounds=1)["parties"] == 3


def test_the_help_names_the_extra_that_an_engine_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--help"]) == 0
    assert "pip install 'model-escrow[simulation]'" in " ".join(capsys.readouterr().out.split())
