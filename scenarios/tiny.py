"""A consortium of which a whole contract takes seconds: prepared tables of a few hundred rows, a clock set by hand.

A fraud of kind *k* stands out in feature *k* alone. By default each bank has met one kind and is then tested on all of
them, so that every bank gains from a joint model and none can do without the others.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np

from contracts.schema import Columns, Schema, Split
from escrow.core import Core
from escrow.runtime.base import Runtime
from models.features import feature_names
from models.table import Prepared
from parties.client import Client
from parties.identity import Identity
from scenarios.consortium import Consortium

SCHEMA: Final = Schema(
    columns=Columns(time="time", label="fraud", group="card", amount="amount", terminal="terminal"),
    windows_days=(1,),
    split=Split(train_from=date(2026, 1, 1), train_days=14, test_days=14),
)
BANKS: Final = ("north", "harbour", "valley")
START: Final = 1_800_000_000
SHIFT: Final = 4.0
"""How far a fraud stands out, in standard deviations of its feature."""

FOUR_KINDS: Final = (3, 4, 5, 6)
"""The features in which frauds stand out where banks know nearly all of them (`versed`)."""


@dataclass
class Clock:
    """A clock that goes when it is told to, whole seconds since 1970."""

    time: int = START

    def __call__(self) -> int:
        """Tell the time."""
        return self.time


def kind(position: int) -> int:
    """The feature by which the frauds of the bank at this position stand out."""
    return 3 + position % 3


def table(
    bank: str,
    part: str,
    frauds: Mapping[int, int],
    *,
    genuine: int = 160,
    shift: float = SHIFT,
    seed: int = 0,
    schema: Schema = SCHEMA,
) -> Prepared:
    """A prepared table of one bank.

    Args:
        bank: whose cards and terminals; two banks share none.
        part: `train` or `holdout`, the window of the schema in which all rows lie.
        frauds: feature → how many frauds stand out in it.
        genuine: how many rows are no fraud.
        shift: how far a fraud stands out.
        seed: other seeds give other rows.
        schema: by which it is made; further features are noise.
    """
    kinds = np.repeat([0, *frauds], [genuine, *frauds.values()])
    rng = np.random.default_rng([seed, *bank.encode(), len(part)])
    kinds = rng.permutation(kinds)
    names = feature_names(schema)
    features = rng.normal(size=(len(kinds), len(names)))
    features[np.arange(len(kinds)), kinds] += np.where(kinds > 0, shift, 0.0)
    start, until = (np.datetime64(moment, "s") for moment in schema.windows()[part])
    seconds = np.sort(rng.integers(0, int((until - start).astype(int)), len(kinds)))
    return Prepared(
        names=names,
        features=features.astype(np.float32),
        labels=(kinds > 0).astype(np.int8),
        groups=np.array([f"{bank}-{part}-{card}" for card in rng.integers(0, len(kinds), len(kinds))]),
        terminals=np.array([f"{bank}-{terminal}" for terminal in rng.integers(0, 20, len(kinds))]),
        amounts=np.abs(features[:, 0]).astype(np.float32),
        times=start + seconds.astype("timedelta64[s]"),
    )


def tables(position: int, bank: str, *, banks: int, schema: Schema = SCHEMA) -> tuple[Prepared, Prepared]:
    """A bank's train and holdout tables: it has met its own kind of fraud, and is tested on everybody's."""
    every = {kind(each): 30 for each in range(min(banks, 3))}
    train = table(bank, "train", {kind(position): 60}, schema=schema)
    return train, table(bank, "holdout", every, schema=schema)


def versed(position: int, bank: str, *, train: Mapping[int, int] | None = None) -> tuple[Prepared, Prepared]:
    """Train and holdout tables of one of four banks, each of which has met three of four kinds of fraud.

    So each gains from the others, and what one bank knows at least two others know as well: of such banks a median
    loses little, and one that lies is outvoted. `train` replaces how many frauds of each kind the bank has met.
    """
    every = dict.fromkeys(FOUR_KINDS, 40)
    met = {each: 30 for place, each in enumerate(FOUR_KINDS) if place != position} if train is None else train
    far = 5 * SHIFT
    return table(bank, "train", met, shift=far), table(bank, "holdout", every, genuine=200, shift=far)


def founded(
    directory: Path,
    runtime: Runtime,
    clock: Clock,
    *,
    banks: Sequence[str] = BANKS,
    exchanged: Mapping[str, tuple[Prepared, Prepared]] | None = None,
    at_home: Collection[str] = (),
    schema: Schema = SCHEMA,
    **how: Any,
) -> Consortium:
    """A consortium whose banks have joined and deposited.

    Args:
        directory: for everything that is made.
        runtime: the escrow's.
        clock: everybody's.
        banks: their names.
        exchanged: tables that some have instead of their own.
        at_home: the banks whose training rows stay with them.
        schema: by which all deposit.
        how: what `Consortium.create` takes besides: the wire, the database, the storage.
    """
    consortium = Consortium.create(directory, schema, runtime=runtime, now=clock, **how)
    for position, name in enumerate(banks):
        consortium.join(name)
        train, holdout = (exchanged or {}).get(name) or tables(position, name, banks=len(banks), schema=schema)
        consortium.deposit_prepared(name, train, holdout, at_home=name in at_home)
    return consortium


def reopened(directory: Path, runtime: Runtime, clock: Clock) -> Consortium:
    """A consortium from what lies in its directory."""
    consortium = Consortium(directory, Core.open(directory / "escrow", runtime, now=clock), SCHEMA)
    for home in sorted((directory / "banks").iterdir()):
        identity = Identity.open(home)
        consortium.banks[identity.name] = Client(home, identity, consortium.core.session(identity.name))
    return consortium


def approved(consortium: Consortium, **terms: Any) -> str:
    """A contract about a pooled model over everyone's deposits, proposed and approved by all; its digest."""
    digest = proposed(consortium, **terms)
    consortium.approve(digest)
    return digest


def proposed(consortium: Consortium, **terms: Any) -> str:
    """The same, not yet approved; `terms` replaces whole terms."""
    document = consortium.draft(model={"family": "logistic"}, method={"name": "pooled"}, **terms)
    return consortium.propose(consortium.contract(document))
