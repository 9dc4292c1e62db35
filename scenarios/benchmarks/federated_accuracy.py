"""How good each way to train together is, for each bank: beside pooled rows, and beside the bank's own model.

The Fraud Detection Handbook's transactions, as for `accuracy`, in two worlds of four banks that compute their windows
alone (train 2018-07-04..31, test 2018-08-08..09-04):

- `shares`: the customers are dealt 50/30/15/5 %.
- `skew`: about even, and in its training window each bank has met mostly one of the three kinds of fraud (of the
  others, the frauds of one customer in eight); all three come to every bank in the test.

An MLP each time: own and pooled 12 epochs, methods in rounds 24 rounds of one epoch with the contract's defaults, the
ensemble out of own models. Every value is average precision on the bank's holdout, the mean of `TRAININGS` trainings
that differ in nothing but their seed. Everything is trained by the functions that the workers call, in one process and
on one thread: a training of everything in both worlds takes some minutes.

There are no targets: which method is best is for the banks' data to say. `WORLD_worst_gap_METHOD` is the largest loss
to the pooled model at any bank, `WORLD_gains_METHOD` the number of banks that gain over their own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.computation import TWO_WAY
from contracts.schema import Schema
from models import bundle, ensemble
from models.roles.party import own_model
from parties.deposit import read_and_prepare
from scenarios import direct
from scenarios.benchmarks.accuracy import COLUMNS, NEVER, SHARES, data_file, world_of
from scenarios.benchmarks.report import Figures
from scenarios.direct import Bank
from scenarios.worlds import World

TRAININGS: Final = 3
ROUNDS: Final = 24
MODEL: Final[Mapping[str, Any]] = {"family": "mlp"}
COLUMNS_OF_TABLE: Final = ("own", "pooled", *TWO_WAY, "ensemble")
KIND: Final = NEVER[0]
SKEWED_SHARES: Final = (26.0, 30.0, 22.0, 22.0)
FAMILIAR: Final = (2, 1, 3, 3)
"""The kind of fraud, by the handbook's numbers, that each bank has met."""
UNFAMILIAR: Final = 0.125
"""Share of the customers of whom a bank knows the other kinds of fraud, too."""


@dataclass(frozen=True)
class Setting:
    """Banks of one world.

    Attributes:
        schema: of their tables.
        banks: by name, in the order of the shares.
    """

    schema: Schema
    banks: Mapping[str, Bank]


def run(progress: Callable[[str], None], *, trainings: int = TRAININGS, rounds: int = ROUNDS) -> Figures:
    """Both worlds."""
    path = data_file()
    values: dict[str, float] = {"trainings": trainings}
    for name, make in (("shares", shares), ("skew", skew)):
        setting = make(path)
        found = []
        for seed in range(trainings):
            progress(f"{name}, training {seed + 1} of {trainings}")
            found.append(trained(setting, seed, rounds=rounds))
        table = {bank: {what: mean(each[bank][what] for each in found) for what in found[0][bank]} for bank in found[0]}
        for line in lines(name, table):
            progress(line)
        values |= {f"{name}_{bank}_{what}": value for bank, row in table.items() for what, value in row.items()}
        values |= _summed_up(name, table)
    return Figures(values, ())


def trained(setting: Setting, seed: int, *, rounds: int) -> dict[str, dict[str, float]]:
    """One training of everything: average precision by bank and way."""
    run_seed = seed.to_bytes(32, "big")
    own = direct.own_models(setting.banks, MODEL, seed)
    joint: dict[str, Any] = {"pooled": direct.pooled_model(setting.banks, MODEL, seed)}
    for method in TWO_WAY:
        term = {"name": method, "rounds": rounds}
        joint[method] = direct.averaged_model(setting.banks, MODEL, term, run_seed)
    joint["ensemble"] = together(setting, run_seed)
    return {
        name: {"own": direct.average_precision(own[name], bank.holdout)}
        | {what: direct.average_precision(model, bank.holdout) for what, model in joint.items()}
        for name, bank in setting.banks.items()
    }


def together(setting: Setting, seed: bytes) -> bundle.Bundle:
    """The ensemble of the banks' own models."""
    members = {
        name: own_model(
            party=name,
            train=bank.train,
            schema=setting.schema,
            models=[dict(MODEL)],
            select_days=7,
            seed=seed,
            contract=None,
            tell=lambda _: None,
            validate=True,
        )
        for name, bank in setting.banks.items()
    }
    names = next(iter(setting.banks.values())).train.names
    rows = {name: len(bank.train) for name, bank in setting.banks.items()}
    return bundle.read(ensemble.combine(members, rows=rows, names=names, schema=setting.schema, contract=None))


def shares(path: Path) -> Setting:
    """The world of uneven shares."""
    return _prepared(world_of(path, SHARES, never=NEVER))


def skew(path: Path) -> Setting:
    """The world in which each bank knows mostly one kind of fraud."""
    world = world_of(path, SKEWED_SHARES, features=(KIND,))
    until = pa.scalar(np.datetime64(world.schema.split.train_until, "s"))
    tables = {
        name: _familiar(table, kind, until) for (name, table), kind in zip(world.tables.items(), FAMILIAR, strict=True)
    }
    schema = world.schema.model_copy(update={"features": (), "never": ()})
    return _prepared(World(world.name, world.description, schema, tables, world.expected, world.why))


def _familiar(table: pa.Table, kind: int, until: pa.Scalar) -> pa.Table:
    """A bank's rows without most of the early frauds of other kinds, and without the column of the kinds."""
    known = pa.array([_draw(customer) < UNFAMILIAR for customer in table[COLUMNS.group].to_pylist()])
    kinds = table[KIND]
    foreign = pc.and_(pc.not_equal(kinds, 0), pc.not_equal(kinds, kind))
    early = pc.less(table[COLUMNS.time], until)
    kept = pc.invert(pc.and_(pc.and_(foreign, early), pc.invert(known)))
    return table.filter(kept).drop_columns([KIND])


def _draw(customer: object) -> float:
    """The same number in [0, 1) for a customer every time."""
    return int.from_bytes(sha256(f"kinds {customer}".encode()).digest()[:8], "big") / 2**64


def _prepared(world: World) -> Setting:
    with TemporaryDirectory(prefix="escrow-benchmark-") as folder:
        paths = world.write(Path(folder))
        banks = {name: Bank(*read_and_prepare(table, world.schema)) for name, table in paths.items()}
    return Setting(world.schema, banks)


def lines(world: str, table: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The table for people: a line for each bank, a column for each way to train."""
    heads = "".join(f"{what:>13}" for what in COLUMNS_OF_TABLE)
    rows = [f"{bank:10}" + "".join(f"{row[what]:13.3f}" for what in COLUMNS_OF_TABLE) for bank, row in table.items()]
    return [f"{world:10}{heads}", *rows]


def _summed_up(world: str, table: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for method in (*TWO_WAY, "ensemble"):
        found[f"{world}_worst_gap_{method}"] = max(row["pooled"] - row[method] for row in table.values())
        found[f"{world}_gains_{method}"] = sum(row[method] > row["own"] for row in table.values())
    return found
