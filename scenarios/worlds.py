"""Worlds: simulated banks that face one question, whether a joint model helps each of them.

Rules:
1. Every card belongs to exactly one bank; terminals serve the cards of all banks.
2. A world is a country of `scenarios.generator` and a history that treats its banks differently; a name, a size and a
   seed give the same tables. What the banks may not know of each other stands in `why`, never in a table.
3. Fraud is 2 to 4 % of the rows of a demo world and 5 to 11 % of those of a small one, far above a real bank's 0.1 %,
   so that tests on few rows have power. A holdout's labels are always the truth.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from contracts.errors import EscrowError
from contracts.schema import Columns, Schema, Split
from models.table import Table, read_table
from scenarios import transactions
from scenarios.generator import Parameters, generate
from scenarios.histories import BANKS, WORLDS, Draft, Positions, Verdict

__all__ = ["BANKS", "SCHEMA", "SIZES", "WORLDS", "Size", "Verdict", "World", "build", "from_table"]

Size = Literal["demo", "small"]

SIZES: Final[Mapping[Size, Parameters]] = MappingProxyType(
    {
        "demo": Parameters(customers=18_000, terminals=1_750, districts=50),
        "small": Parameters(
            customers=1_700,
            payments_per_day=0.2,
            terminals=80,
            districts=6,
            stolen_numbers=0.018,
            terminal_frauds=0.045,
            takeovers=0.036,
        ),
    }
)
"""About 380,000 and 22,000 rows."""

SCHEMA: Final = Schema(
    columns=Columns(
        time=transactions.TIME,
        label=transactions.FRAUD,
        group=transactions.CARD,
        amount=transactions.AMOUNT,
        terminal=transactions.TERMINAL,
    ),
    never=(transactions.KIND,),
    split=Split(train_from=Parameters().start + timedelta(days=7), train_days=28, test_days=21),
)
"""A week to warm up, four weeks to train, a week of label delay, three weeks to test."""


@dataclass(frozen=True, eq=False)
class World:
    """Banks and their tables.

    Attributes:
        name: one of `scenarios.histories.WORLDS`, or the file's name for a user's own table.
        description: one sentence.
        schema: how to read the tables, and the training and test windows.
        tables: an Arrow table for each bank, in the order of the shares.
        expected: the verdict to expect; `open` where it depends on the model, the method or the seed.
        why: one sentence.
    """

    name: str
    description: str
    schema: Schema
    tables: Mapping[str, pa.Table]
    expected: Verdict
    why: str

    @property
    def banks(self) -> tuple[str, ...]:
        """The banks' names, in the order of the shares."""
        return tuple(self.tables)

    def write(self, directory: Path) -> dict[str, Path]:
        """Write `BANK.parquet` for each bank into a directory, which is made if need be; the paths by bank."""
        directory.mkdir(parents=True, exist_ok=True)
        paths = {bank: directory / f"{bank}.parquet" for bank in self.tables}
        for bank, path in paths.items():
            pq.write_table(self.tables[bank], path, compression="zstd")
        return paths


def build(name: str, *, seed: int, size: Size = "demo") -> World:
    """Make the four banks of a world.

    Raises:
        EscrowError: `usage` if there is no such world.
    """
    if name not in WORLDS:
        raise EscrowError("usage", f"There is no world {name!r}.", f"Choose one of: {', '.join(sorted(WORLDS))}.")
    recipe = WORLDS[name]
    parameters = recipe.country(SIZES[size])
    rows = generate(parameters, seed)
    rng = np.random.default_rng([seed, 1])
    bank = rng.permutation(_deal(parameters.customers, recipe.shares))
    draw = rng.random(parameters.customers)
    past = rows.time < np.datetime64(SCHEMA.split.train_until, "s")
    draft = recipe.history(Draft(rows, bank[rows.customer], draw[rows.customer], past))
    tables = {name: draft.rows.take(draft.at(name)).table() for name in BANKS}
    return World(name, recipe.description, SCHEMA, MappingProxyType(tables), recipe.expected, recipe.why)


def from_table(
    path: Path,
    *,
    columns: Columns,
    train_from: date,
    train_days: int,
    test_days: int,
    shares: Sequence[float],
    seed: int,
    label_delay_days: int = 7,
    never: Sequence[str] = (),
    features: Sequence[str] = (),
) -> World:
    """Split a user's own table over simulated banks.

    Each group goes to one bank by a hash of the group and the seed, so that the banks' shares of the groups are those
    asked for, to one group. The banks' tables keep the file's names for the columns that the schema uses and lack all
    other columns.

    Args:
        path: a `.parquet` or `.csv` file; every cell that is used is checked.
        columns: what the file calls its columns.
        train_from: first day of the training window.
        train_days: its length; the label delay follows.
        test_days: length of the test window, which follows the label delay.
        shares: percent of the groups for each bank, in sum 100.
        seed: another seed deals the groups anew.
        label_delay_days: days until a label is known.
        never: columns that may never be a feature.
        features: further numeric columns, used as they stand.

    Raises:
        EscrowError: `usage` for shares, names or windows that do not fit the file, and all that
            `models.table.read_table` raises.
    """
    _check_shares(shares)
    try:
        split = Split(train_from=train_from, train_days=train_days, test_days=test_days)
        schema = Schema(
            columns=columns,
            features=tuple(features),
            never=tuple(never),
            label_delay_days=label_delay_days,
            split=split,
        )
    except ValidationError as error:
        raise EscrowError("usage", _sentence(error)) from None
    table = read_table(path, schema)
    _check_never(path, never)
    _check_windows(path, table, schema)
    bank = _deal_groups(table.groups, shares, seed)
    names = [BANKS[i] if i < len(BANKS) else f"bank-{i + 1}" for i in range(len(shares))]
    whole = _arrow(table, schema)
    tables = {name: whole.filter(pa.array(bank == i)) for i, name in enumerate(names)}
    percent = ", ".join(f"{share:g}" for share in shares)
    description = f"{path.name}, its {columns.group} split over {len(shares)} simulated banks: {percent} %."
    return World(path.stem, description, schema, MappingProxyType(tables), "open", "The data decides.")


def _deal(count: int, shares: Sequence[float]) -> Positions:
    """Positions of banks for so many places, each bank's in one stretch; off its share by less than one place."""
    ends = np.round(np.cumsum(shares) * count / 100).astype(np.int64)
    return np.repeat(np.arange(len(shares)), np.diff(ends, prepend=0))


def _deal_groups(groups: npt.NDArray[np.str_], shares: Sequence[float], seed: int) -> Positions:
    distinct, group = np.unique(groups, return_inverse=True)
    dealt = _deal(len(distinct), shares)
    if len(np.unique(dealt)) < len(shares):
        raise EscrowError(
            "usage",
            f"{len(distinct)} groups are too few for {len(shares)} banks.",
            "Ask for fewer banks or more even shares.",
        )
    hashes = [sha256(f"{seed}:{name}".encode()).digest() for name in distinct]
    bank = np.empty(len(distinct), dtype=np.int64)
    bank[sorted(range(len(distinct)), key=hashes.__getitem__)] = dealt
    return bank[group]


def _check_shares(shares: Sequence[float]) -> None:
    if len(shares) < 2 or not all(share > 0 for share in shares) or abs(sum(shares) - 100) > 1e-6:
        given = ", ".join(f"{share:g}" for share in shares)
        raise EscrowError(
            "usage",
            f"The shares {given or '(none)'} are not two or more positive percentages that sum to 100.",
            "Write them like 50,30,15,5.",
        )


def _check_never(path: Path, never: Sequence[str]) -> None:
    """A misspelt column would not be kept from anything."""
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file))
    else:
        header = pq.read_schema(path).names
    for name in never:
        if name not in header:
            raise EscrowError(
                "column-missing", f"{path.name} has no column {name!r}; it has: {', '.join(header[:40])}."
            )


def _check_windows(path: Path, table: Table, schema: Schema) -> None:
    first, last = (day.astype("datetime64[D]").item() for day in (table.times.min(), table.times.max()))
    if schema.split.train_from < first or schema.test_until > last + timedelta(days=1):
        final = schema.test_until - timedelta(days=1)
        raise EscrowError(
            "usage",
            f"Training, label delay and test take the days {schema.split.train_from} to {final}, "
            f"but {path.name} covers {first} to {last}.",
            "Choose a first training day and numbers of days within these dates.",
        )


def _arrow(table: Table, schema: Schema) -> pa.Table:
    named = schema.columns
    used = {
        named.time: table.times,
        named.label: table.labels,
        named.group: table.groups,
        named.amount: table.amounts,
        named.terminal: table.terminals,
    }
    return pa.table(used | {name: table.extra[:, i] for i, name in enumerate(schema.features)})


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}." if place else f"{first['msg'].removeprefix('Value error, ')}."
