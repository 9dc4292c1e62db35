"""The benchmarks of joint training with tiny numbers: unsealed workers, real escrows, nodes, relay and simulation."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from escrow.sealing import UNSEALED
from scenarios.benchmarks import federated, federated_accuracy, growth
from scenarios.benchmarks.accuracy import COLUMNS, DATA
from scenarios.benchmarks.federated import Size

TINY = Size(
    seal=UNSEALED,
    rounds=3,
    repeated=1,
    uncounted=0,
    ray=False,
    superlink=0,
    mb=9,
    mb_rounds=3,
    mb_large=12,
    parties=(2, 3),
    words="quick",
)


def test_every_figure_is_measured_and_one_that_cannot_be_is_missing() -> None:
    told: list[str] = []
    figures = federated.run(told.append, TINY)
    values = figures.values
    assert {"training 1 of 1: rows at the escrow", "training 1 of 1: rows at the banks", "3 parties in simulation"} <= {
        *told
    }
    assert values["node_extra_ms"] == pytest.approx(values["node_round_ms"] - values["round_ms"])
    assert values["training_ms"] > 0
    assert values["job_seconds"] > 3 * values["round_ms"] / 1000 > 0
    assert values["mb_per_second"] > 0
    assert {"peak_mib_aggregate", "peak_mib_relay", "peak_mib_north"} < set(values)
    assert values["peak_mib_large"] > 12e6 / 2**20
    assert "weights of 12 MB" in told
    assert values["growth_per_party"] == values["memory_growth"] == 1
    assert values["distinct_models"] == 1
    missing = {"job_speedup_over_ray", "round_speedup_over_superlink"}
    assert {target.figure for target in figures.targets if not target.met(values)} >= missing
    assert all(np.isnan(values[name]) for name in missing)


def test_what_grows_in_the_middle_is_growth() -> None:
    values = {"peak_mib_4": 90.0, "peak_mib_16": 100.0, "peak_mib_64": 150.0, "peak_mib_1000": 110.0}
    assert growth.worst(values, "peak_mib", (16, 64, 1000)) == 1.5
    assert growth.worst(values, "peak_mib", (16, 1000)) == 1.1


def handbook(path: Path) -> Path:
    """A table with the handbook's columns and few rows: customers, terminals, and three kinds of fraud."""
    rng = np.random.default_rng(1)
    rows, start = 12_000, np.datetime64("2018-06-27", "s")
    kinds = np.where(rng.random(rows) < 0.15, rng.integers(1, 4, rows), 0).astype(np.int8)
    columns = {
        COLUMNS.time: start + np.sort(rng.integers(0, 70 * 86_400, rows)).astype("timedelta64[s]"),
        COLUMNS.label: (kinds > 0).astype(np.int8),
        COLUMNS.group: rng.integers(0, 400, rows).astype(np.int16),
        COLUMNS.amount: (rng.gamma(2.0, 20.0, rows) * np.where(kinds > 0, 5, 1)).astype(np.float32),
        COLUMNS.terminal: rng.integers(0, 300, rows).astype(np.int16),
        federated_accuracy.KIND: kinds,
    }
    pq.write_table(pa.table(columns), path)
    return path


def test_every_way_to_train_is_compared_at_every_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA, str(handbook(tmp_path / "handbook.parquet")))
    told: list[str] = []
    values = federated_accuracy.run(told.append, trainings=1, rounds=2).values
    for world in ("shares", "skew"):
        table = [line for line in told if line.startswith(("north", "harbour", "valley", "corner", world))]
        assert len(table) >= 5
        for bank in ("north", "harbour", "valley", "corner"):
            for way in federated_accuracy.COLUMNS_OF_TABLE:
                assert 0 < values[f"{world}_{bank}_{way}"] <= 1
        assert 0 <= values[f"{world}_gains_ensemble"] <= 4


def test_a_skewed_bank_has_met_mostly_one_kind_of_fraud_and_is_tested_on_all(tmp_path: Path) -> None:
    path = handbook(tmp_path / "handbook.parquet")
    even, skewed = federated_accuracy.shares(path), federated_accuracy.skew(path)
    assert skewed.banks["north"].train.names == even.banks["north"].train.names
    share = {
        name: [table.positives / len(table) for table in (bank.train, bank.holdout)]
        for name, bank in skewed.banks.items()
    }
    assert all(trained < 0.6 * tested for trained, tested in share.values()), share
