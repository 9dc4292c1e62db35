"""How good the models are on public data: federated beside pooled, and trees on the book's own split.

Needs the transactions of the Fraud Detection Handbook (Le Borgne, Siblini, Lebichot, Bontempi, ULB/Worldline, 2022),
one Parquet file that the environment variable `ESCROW_HANDBOOK` names; they carry no licence, so none are shipped.

- Four banks (50/30/15/5 % of the customers, windows computed by each bank alone; train 2018-07-04..31, test
  2018-08-08..09-04): `worst_gap_to_pooled` is the largest loss of average precision of the federated MLP (24 rounds of
  one epoch) to the pooled one (12 epochs) at any bank, each the mean of several trainings that differ in nothing but
  their seed: at a small bank one training's value moves by .03. `worst_gap_of_one` is the largest loss that a single
  pair of trainings showed.
- The split of the book (train 2018-07-25..31, test 2018-08-08..14, all customers in one table): the trees alone.
  Windows of 1, 7 and 21 days: with the label delay of 7 the longest one reaches back to the file's first day; the 30
  days of the book would be cut short in training but not in the test.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

from contracts.errors import EscrowError
from contracts.schema import Columns, Schema, Split
from models.families.base import make
from models.features import prepare
from models.table import read_table
from parties.deposit import read_and_prepare
from scenarios import direct
from scenarios.benchmarks.report import Figures, Target
from scenarios.consortium import MODELS
from scenarios.worlds import World, from_table

DATA = "ESCROW_HANDBOOK"
COLUMNS = Columns(time="TX_DATETIME", label="TX_FRAUD", group="CUSTOMER_ID", amount="TX_AMOUNT", terminal="TERMINAL_ID")
NEVER = ("TX_FRAUD_SCENARIO",)
SHARES = (50.0, 30.0, 15.0, 5.0)
TRAININGS = 5
ROUNDS = {"name": "fedavg", "rounds": 24}

Table = dict[str, tuple[float, float, float]]
"""Average precision by bank: its own model, the pooled one, the federated one."""


def run(progress: Callable[[str], None]) -> Figures:
    """Both comparisons."""
    path = data_file()
    world, banks = four_banks(path)
    found = []
    for seed in range(TRAININGS):
        progress(f"four banks, training {seed + 1} of {TRAININGS}")
        found.append(trained(banks, seed))
    values: dict[str, float] = {}
    for name in world.banks:
        for index, what in enumerate(("own", "pooled", "fedavg")):
            values[f"{name}_{what}"] = mean(each[name][index] for each in found)
    gaps = {name: values[f"{name}_pooled"] - values[f"{name}_fedavg"] for name in world.banks}
    values["worst_gap_to_pooled"] = max(gaps.values())
    values["worst_gap_of_one"] = max(pooled - averaged for each in found for _, pooled, averaged in each.values())
    progress("the book's split")
    values["book_average_precision"] = book(path)
    targets = (
        Target("worst_gap_to_pooled", "at_most", 0.02),
        Target("book_average_precision", "at_least", 0.64),
    )
    return Figures(values, targets)


def data_file() -> Path:
    """The handbook's transactions.

    Raises:
        EscrowError: `usage` if no file is named, `file-unreadable` if it is not there.
    """
    named = os.environ.get(DATA)
    if not named:
        raise EscrowError(
            "usage", "The benchmark needs the handbook's transactions.", f"Set {DATA} to the Parquet file."
        )
    if not Path(named).is_file():
        raise EscrowError("file-unreadable", f"{named} is not a file.")
    return Path(named)


def world_of(path: Path, shares: Sequence[float], *, never: Sequence[str] = (), features: Sequence[str] = ()) -> World:
    """The handbook's customers dealt to banks by these shares."""
    return from_table(
        path,
        columns=COLUMNS,
        train_from=date(2018, 7, 4),
        train_days=28,
        test_days=28,
        shares=shares,
        seed=1,
        never=never,
        features=features,
    )


def four_banks(path: Path) -> tuple[World, dict[str, direct.Bank]]:
    """The handbook's customers dealt to four banks, each with its tables prepared from its own rows."""
    world = world_of(path, SHARES, never=NEVER)
    with TemporaryDirectory(prefix="escrow-benchmark-") as folder:
        paths = world.write(Path(folder))
        return world, {name: direct.Bank(*read_and_prepare(table, world.schema)) for name, table in paths.items()}


def trained(banks: Mapping[str, direct.Bank], seed: int) -> Table:
    """One training of everything, scored on each bank's holdout."""
    spec = {"family": "mlp"}
    own = direct.own_models(banks, spec, seed)
    pooled = direct.pooled_model(banks, spec, seed)
    averaged = direct.averaged_model(banks, spec, ROUNDS, seed.to_bytes(32, "big"))
    return {
        name: (
            direct.average_precision(own[name], bank.holdout),
            direct.average_precision(pooled, bank.holdout),
            direct.average_precision(averaged, bank.holdout),
        )
        for name, bank in banks.items()
    }


def book(path: Path) -> float:
    """Average precision of boosted trees on the book's split."""
    schema = Schema(
        columns=COLUMNS,
        never=NEVER,
        windows_days=(1, 7, 21),
        split=Split(train_from=date(2018, 7, 25), train_days=7, test_days=7),
    )
    train, test = prepare(read_table(path, schema), schema)
    model = make(MODELS["boosted"]).fit(train.features, train.labels, seed=1)
    return direct.average_precision(model, test)
