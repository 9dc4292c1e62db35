"""What comes of a joint training of which one bank lies, and no check can see it: from rows to the verdict.

All of it happens in this process, in a second: the ClientApps, the round loop, the methods, the measurement and the
gate are the product's own; one bank's app is made to lie as `scenarios.lies` says, or its rows are (`mislabelled`).
That escrow, nodes and workers lead to the same ends is for whole runs to show. The banks are `tiny.versed`: if all are
honest each gains some .07 of average precision over some .88.
"""

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final

import numpy as np

from contracts.contract import Contract, validated
from contracts.gain import compare
from contracts.gate import Decision, Evidence, decide, measured_clauses
from contracts.metrics import Metric, Rows
from models.families.base import Model, make_federated
from models.federated.client import party_app
from models.federated.grid import LocalGrid
from models.federated.rounds import fit_federated
from models.table import Prepared
from scenarios import direct, tiny
from scenarios.direct import Bank
from scenarios.lies import LIES, lying

LIAR: Final = "harbour"
BANKS: Final = ("north", LIAR, "valley", "corner")
MODEL: Final[Mapping[str, Any]] = {"family": "logistic", "epochs": 100}
ROUNDS: Final = 20
EPOCHS: Final = 20
SEED: Final = bytes(32)
PRECISION: Final = Metric("average-precision")


def honest() -> dict[str, Bank]:
    """Four banks, each with its own rows."""
    return {name: Bank(*tiny.versed(position, name)) for position, name in enumerate(BANKS)}


def flipped(banks: Mapping[str, Bank]) -> dict[str, Bank]:
    """The liar, now with three times the frauds, says fraud of all that is genuine, and the reverse."""
    train = _rows_of_the_liar(90)
    return {**banks, LIAR: Bank(replace(train, labels=(1 - train.labels).astype(np.int8)), banks[LIAR].holdout)}


def mislabelled(banks: Mapping[str, Bank]) -> dict[str, Bank]:
    """The liar, now with seven times the frauds, files two of the three kinds that it has met as genuine."""
    train = _rows_of_the_liar(200)
    labels = train.labels.copy()
    for kind in tiny.FOUR_KINDS[::2]:
        labels[train.features[:, kind] > tiny.SHIFT] = 0
    return {**banks, LIAR: Bank(replace(train, labels=labels), banks[LIAR].holdout)}


def decided(banks: Mapping[str, Bank], method: str, *, lie: str | None = None) -> Decision:
    """The gate's decision on the model that the banks train together.

    Args:
        banks: whose rows.
        method: name of a method in rounds.
        lie: what the liar does in every round, one of `LIES` about updates or moments; None if it trains honestly.

    Raises:
        EscrowError: a check saw the lie.
    """
    term = {"name": method, "rounds": ROUNDS, "local-epochs": EPOCHS}
    contract, family = _contract(banks, term), make_federated(MODEL)
    apps = {
        name: party_app(
            lying(family, LIES[lie]) if lie and name == LIAR else family,
            bank.train.features,
            bank.train.labels,
            party=name,
            seed=SEED,
            method=term,
        )
        for name, bank in banks.items()
    }
    rows = {name: len(bank.train) for name, bank in banks.items()}
    features = len(banks[LIAR].train.names)
    joint = fit_federated(LocalGrid(apps), family, term, rows, features=features, seed=SEED)
    return decide(contract, _evidence(contract, banks, joint), run=1)


def _rows_of_the_liar(frauds: int) -> Prepared:
    position = BANKS.index(LIAR)
    met = {kind: frauds for place, kind in enumerate(tiny.FOUR_KINDS) if place != position}
    return tiny.versed(position, LIAR, train=met)[0]


def _evidence(contract: Contract, banks: Mapping[str, Bank], joint: Model) -> Evidence:
    """Each bank's joint and own model on its holdout, as the escrow measures them."""
    own = direct.own_models(banks, MODEL, seed=1)
    found = {}
    for number, clause in measured_clauses(contract).items():
        holdout = banks[clause.party].holdout
        rows = Rows.of(holdout.labels, holdout.groups, holdout.amounts, holdout.times)
        scores = (model.scores(holdout.features) for model in (own[clause.party], joint))
        compared = compare([PRECISION], rows, *scores, replicates=2000, seed=SEED)
        found[number] = compared[PRECISION].measurement(clause.confidence)
    return Evidence(contract=contract.digest(), run=1, measurements=found)


def _contract(banks: Mapping[str, Bank], method: Mapping[str, Any]) -> Contract:
    """A contract between the banks, all of whom must gain; its commitments are of nothing."""

    def committed(name: str, part: str) -> str:
        return f"sha256-salted:{sha256(f'{name} {part}'.encode()).hexdigest()}"

    def counts(name: str, bank: Bank) -> dict[str, Any]:
        return {
            "party": name,
            "placement": "party",
            "train": {"commitment": committed(name, "train"), "rows": len(bank.train)},
            "holdout": {
                "commitment": committed(name, "holdout"),
                "rows": len(bank.holdout),
                "positives": bank.holdout.positives,
            },
        }

    return validated(
        {
            "contract": 1,
            "title": "Joint card-fraud model",
            "purpose": "Train and score card-fraud models. No other use.",
            "parties": list(banks),
            "contributions": [counts(name, bank) for name, bank in banks.items()],
            "schema": tiny.SCHEMA.model_dump(mode="json", by_alias=True),
            "computation": {
                "kind": "joint-training",
                "worker": f"sha256:{'0' * 64}",
                "model": dict(MODEL),
                "method": dict(method),
                "sealing": "none",
            },
            "recipients": [{"party": name} for name in banks],
            "release": [
                {"kind": "gain", "party": name, "metric": "average-precision", "more-than": 0.0, "min-positives": 30}
                for name in banks
            ],
            "exposure": "parties-see-rounds",
            "limits": {"expires": "2036-01-01T00:00:00Z"},
        }
    )
