"""A crowd of made-up banks: any number of parties with few rows each, their contract, and its training in rounds.

Nothing here is an escrow: no party signs, nothing is sealed, nobody's gain is tested, no model is released. What is
real is the contract, the seed that follows from its digest, the party's side, the loop and its checks.

Rows are drawn anew, from the seed and the party's number, whenever its side is asked: memory does not grow with the
parties. A fraud of kind *k* stands out in one feature; each bank has met mostly one kind and is tested on all of them.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np

from contracts.canonical import commitment, derive, digest
from contracts.contract import Contract, validated
from contracts.schema import Columns, Schema, Split
from models import bundle
from models.families.base import Float32Matrix, Float32Vector, Labels, make, make_federated
from models.features import feature_names
from models.federated.client import party_app
from models.federated.grid import LocalGrid
from models.federated.hosted import Timing
from models.federated.hostgrid import DeferredApp
from models.federated.rounds import fit_federated
from models.jobs import Tell
from models.seeds import part_number
from models.table import Prepared
from scenarios.direct import average_precision, write_job

SCHEMA: Final = Schema(
    columns=Columns(time="time", label="fraud", group="card", amount="amount", terminal="terminal"),
    windows_days=(1, 7, 30),
    split=Split(train_from=date(2026, 1, 1), train_days=28, test_days=28),
)
KINDS: Final = 4
"""Kinds of fraud; kind k stands out in feature 3 + k."""
SHIFT: Final = 3.0
"""How far a fraud stands out, in standard deviations of its feature."""
FRAUDS: Final = 0.1
"""Share of the rows that are fraud."""
OWN_KIND: Final = 0.7
"""Share of a bank's training frauds that are of its own kind."""
TEST_ROWS: Final = 8000
COMPARED: Final = 15
"""How many parties' own models the joint one is compared with."""


@dataclass(frozen=True)
class Crowd:
    """So many made-up banks.

    Attributes:
        parties: how many.
        rows: training rows of each; its holdout has as many.
        seed: other seeds give other rows.
        model: the contract's model term.
        method: the contract's method term.
    """

    parties: int
    rows: int
    seed: int
    model: Mapping[str, Any]
    method: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """The parties, in the order of their names."""
        return tuple(f"bank-{number:04d}" for number in range(self.parties))

    def table(self, number: int, part: str) -> Prepared:
        """The rows of one party: `train` or `holdout`."""
        return _table((self.seed, number, len(part)), self.rows, part, kind=number % KINDS)

    def test(self) -> Prepared:
        """What every model is tested on: rows of nobody, all kinds of fraud alike."""
        return _table((self.seed,), TEST_ROWS, "holdout", kind=None)

    def contract(self) -> Contract:
        """The contract that all of them could sign: every row committed to, a gain for each of them asked for.

        Raises:
            EscrowError: `document-invalid` for terms that no contract may have.
        """
        return validated(
            {
                "contract": 1,
                "title": f"Simulated card-fraud model of {self.parties} banks",
                "purpose": "A simulation with made-up rows. No other use.",
                "parties": list(self.names),
                "contributions": [self._contribution(number, name) for number, name in enumerate(self.names)],
                "schema": SCHEMA.model_dump(mode="json", by_alias=True),
                "computation": {
                    "kind": "joint-training",
                    "worker": digest(b"simulation"),
                    "model": dict(self.model),
                    "method": dict(self.method),
                    "sealing": "none",
                },
                "recipients": [{"party": name} for name in self.names],
                "release": [
                    {"kind": "gain", "party": name, "metric": "average-precision", "min-positives": 1}
                    for name in self.names
                ],
                "limits": {"expires": "2100-01-01T00:00:00Z"},
            }
        )

    def write_job(self, contract: Contract, directory: Path) -> None:
        """The contract's training and everybody's rows, where engines of others look for them."""
        write_job(directory, contract, ((name, self.table(i, "train")) for i, name in enumerate(self.names)))

    def _contribution(self, number: int, name: str) -> dict[str, Any]:
        train, holdout = self.table(number, "train"), self.table(number, "holdout")
        return {
            "party": name,
            "train": {"commitment": self._commitment(number, train, "train"), "rows": len(train)},
            "holdout": {
                "commitment": self._commitment(number, holdout, "holdout"),
                "rows": len(holdout),
                "positives": int(holdout.labels.sum()),
            },
        }

    def _commitment(self, number: int, table: Prepared, part: str) -> str:
        salt = derive("simulated salt", str(self.seed).encode(), str(number).encode(), part.encode())
        return commitment(salt, digest(table.features.tobytes() + table.labels.tobytes()))


@dataclass(frozen=True)
class Trained:
    """What a training of the crowd gave: something that scores rows, and how long it took."""

    scores: Callable[[Float32Matrix], Float32Vector]
    timing: Timing


def train_locally(crowd: Crowd, seed: bytes, tell: Tell) -> Trained:
    """All rounds in this process, one party after the other."""
    family, began = make_federated(crowd.model), time.monotonic()
    moments: list[float] = []

    def side(number: int, name: str) -> DeferredApp:
        def fresh() -> tuple[Float32Matrix, Labels]:
            table = crowd.table(number, "train")
            return table.features, table.labels

        return DeferredApp(lambda *_: party_app(family, *fresh(), party=name, seed=seed, method=crowd.method))

    def progress(done: int, total: int) -> None:
        moments.append(time.monotonic())
        tell(f"round {done} of {total}")

    grid = LocalGrid({name: side(number, name) for number, name in enumerate(crowd.names)})
    rows = dict.fromkeys(crowd.names, crowd.rows)
    features = len(feature_names(SCHEMA))
    model = fit_federated(grid, family, crowd.method, rows, features=features, seed=seed, progress=progress)
    ends = [began, *moments]
    rounds = tuple(end - start for start, end in zip(ends, moments, strict=False))
    return Trained(model.scores, Timing(time.monotonic() - began, rounds))


def train_elsewhere(
    crowd: Crowd, contract: Contract, engine: Callable[..., Timing], directory: Path, tell: Tell
) -> Trained:
    """All rounds on an engine of others (`run_ray`, `run_superlink`), in an empty directory."""
    crowd.write_job(contract, directory)
    timing = engine(directory, tell=tell)
    return Trained(bundle.load(directory / "results" / "model").scores, timing)


def own_precision(crowd: Crowd, seed: bytes, test: Prepared) -> float:
    """The median average precision of parties' own models on the common test, of at most `COMPARED` of them."""
    numbers = np.unique(np.linspace(0, crowd.parties - 1, min(COMPARED, crowd.parties)).round().astype(int))
    family = make(crowd.model)
    found = []
    for number in map(int, numbers):
        table = crowd.table(number, "train")
        model = family.fit(table.features, table.labels, seed=part_number(seed, "own", number))
        found.append(average_precision(model, test))
    return statistics.median(found)


def _table(seed: tuple[int, ...], rows: int, part: str, *, kind: int | None) -> Prepared:
    rng = np.random.default_rng(seed)
    names = feature_names(SCHEMA)
    labels = np.zeros(rows, np.int8)
    labels[: max(1, round(FRAUDS * rows))] = 1
    labels = rng.permutation(labels)
    kinds = rng.integers(0, KINDS, rows)
    if kind is not None:
        kinds = np.where(rng.random(rows) < OWN_KIND, kind, kinds)
    features = np.abs(rng.normal(size=(rows, len(names))))
    features[np.arange(rows), 3 + kinds] += SHIFT * labels
    start, until = (np.datetime64(moment, "s") for moment in SCHEMA.windows()[part])
    times = np.sort(rng.integers(0, int((until - start).astype(int)), rows))
    return Prepared(
        names=names,
        features=features.astype(np.float32),
        labels=labels,
        groups=np.array([f"card-{row}" for row in range(rows)]),
        terminals=np.full(rows, "terminal"),
        amounts=features[:, 0].astype(np.float32),
        times=start + times.astype("timedelta64[s]"),
    )
