"""The same training without an escrow: what somebody who was given everyone's tables would run.

The yardstick of `overhead` and `accuracy`: the same functions as the workers use, called directly in one process, with
the same seeds' roles: each bank's own model for comparison, the joint model, and their scores on each holdout. Engines
of others (`models.federated.hosted`) get a contract's training as one job in a directory.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from contracts.canonical import canonical
from contracts.contract import Contract
from contracts.metrics import Metric, Rows, measure
from contracts.work import TRAIN, joint_spec
from models.families.base import Float32Matrix, Float32Vector, Model, make, make_federated
from models.table import Prepared, write_prepared

AP = Metric("average-precision")


@dataclass(frozen=True)
class Bank:
    """A bank's prepared tables."""

    train: Prepared
    holdout: Prepared


class Scorer(Protocol):
    """What scores rows: every model."""

    def scores(self, X: Float32Matrix, /) -> Float32Vector:
        """See `models.families.base.Model`."""


def average_precision(model: Scorer, holdout: Prepared) -> float:
    """The average precision of a model's scores."""
    rows = Rows.of(holdout.labels, holdout.groups, holdout.amounts, holdout.times)
    return measure(AP, rows, model.scores(holdout.features))


def own_models(banks: Mapping[str, Bank], spec: Mapping[str, Any], seed: int) -> dict[str, Model]:
    """Each bank's model of its own rows."""
    family = make(spec)
    return {name: family.fit(bank.train.features, bank.train.labels, seed=seed) for name, bank in banks.items()}


def pooled_model(banks: Mapping[str, Bank], spec: Mapping[str, Any], seed: int) -> Model:
    """One model of all rows, the banks in the order of their names."""
    tables = [banks[name].train for name in sorted(banks)]
    X = np.concatenate([table.features for table in tables])
    y = np.concatenate([table.labels for table in tables])
    return make(spec).fit(X, y, seed=seed)


def averaged_model(banks: Mapping[str, Bank], spec: Mapping[str, Any], method: Mapping[str, Any], seed: bytes) -> Model:
    """One model by federated averaging over Flower's messages, all banks in this process."""
    from models.federated.client import party_app  # noqa: PLC0415 - Flower is slow to import
    from models.federated.grid import LocalGrid  # noqa: PLC0415
    from models.federated.rounds import fit_federated  # noqa: PLC0415

    family = make_federated(spec)
    apps = {
        name: party_app(family, bank.train.features, bank.train.labels, party=name, seed=seed, method=method)
        for name, bank in sorted(banks.items())
    }
    rows = {name: len(bank.train) for name, bank in banks.items()}
    width = next(iter(banks.values())).train.features.shape[1]
    return fit_federated(LocalGrid(apps), family, method, rows, features=width, seed=seed)


def write_job(directory: Path, contract: Contract, tables: Iterable[tuple[str, Prepared]]) -> None:
    """The training of a contract's first run as one job of role `federated`, with everyone's rows.

    Args:
        directory: empty or not there yet.
        contract: a joint training in rounds.
        tables: each party and its training rows, held one at a time.
    """
    for party, table in tables:
        path = directory / "inputs" / TRAIN.format(party=party)
        path.parent.mkdir(parents=True)
        write_prepared(path, table)
    (directory / "results").mkdir()
    (directory / "job.json").write_bytes(canonical(joint_spec(contract, 1, "federated")))
