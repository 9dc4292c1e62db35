"""Which jobs a stage consists of: pure translation of a contract into what the worker is asked to do.

Inputs are named by what they are, not where they lie: a deposit of a party, or an output of an earlier stage.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contracts.canonical import derive
from contracts.computation import Federated, JointTraining
from contracts.contract import Contract, Contribution
from contracts.errors import EscrowError
from contracts.gate import measured_clauses
from contracts.terms import Term

MODEL_FILES = ("model.onnx", "model.json")


@dataclass(frozen=True)
class Deposited:
    """An input that is a party's deposit."""

    party: str
    commitment: str


@dataclass(frozen=True)
class Made:
    """An input that an earlier stage made."""

    stage: str
    name: str


@dataclass(frozen=True)
class StageJob:
    """One job of a stage.

    Attributes:
        name: unique in its stage.
        spec: what the worker is asked (see `models.jobs`).
        inputs: path → what it is.
        outputs: path of a declared output → name under which the stage keeps it.
    """

    name: str
    spec: Mapping[str, object]
    inputs: Mapping[str, Deposited | Made]
    outputs: Mapping[str, str]


def stage_jobs(contract: Contract, stage: str, run: int) -> tuple[StageJob, ...]:
    """The jobs of a stage of a joint training."""
    makers = {"prepare": _prepare, "baseline": _baseline, "train": _train, "evaluate": _evaluate}
    return makers[stage](contract, run)


def _plain(term: Term) -> dict[str, Any]:
    return term.model_dump(mode="json", by_alias=True, exclude_none=True)


def _common(contract: Contract, run: int) -> dict[str, object]:
    seed = derive("run seed", contract.digest().encode(), str(run).encode())
    return {"schema": _plain(contract.data_schema), "seed": seed.hex(), "contract": contract.digest()}


def _training(contract: Contract) -> JointTraining:
    if not isinstance(contract.computation, JointTraining):
        raise EscrowError("not-supported", "Capsules are not supported by this escrow yet.")
    return contract.computation


def _part(contribution: Contribution, part: str) -> Deposited:
    return Deposited(contribution.party, getattr(contribution, part).commitment)


def _prepare(contract: Contract, run: int) -> tuple[StageJob, ...]:  # noqa: ARG001 - one signature for all stages
    spec = {
        "role": "check",
        "schema": _plain(contract.data_schema),
        "parties": {
            c.party: {"train-rows": c.train.rows, "holdout-rows": c.holdout.rows, "positives": c.holdout.positives}
            for c in contract.contributions
        },
    }
    inputs = {
        f"{c.party}/{part}.parquet": _part(c, part) for c in contract.contributions for part in ("train", "holdout")
    }
    return (StageJob("check", spec, inputs, {"check.json": "check.json"}),)


def _baseline(contract: Contract, run: int) -> tuple[StageJob, ...]:
    computation = _training(contract)
    parties = sorted(c.party for c in contract.contributions)
    spec = _common(contract, run) | {
        "role": "party",
        "parties": parties,
        "models": [_plain(each) for each in computation.candidates()],
        "select-days": computation.select_days,
    }
    inputs = {f"{c.party}/train.parquet": _part(c, "train") for c in contract.contributions}
    names = [f"{party}/{name}" for party in parties for name in (*MODEL_FILES, "baseline.json")]
    return (StageJob("own", spec, inputs, {name: name for name in names}),)


def _train(contract: Contract, run: int) -> tuple[StageJob, ...]:
    computation = _training(contract)
    spec = _common(contract, run) | {
        "role": "pooled",
        "parties": {c.party: c.train.rows for c in contract.contributions},
        "model": _plain(computation.model),
    }
    if isinstance(computation.method, Federated):
        spec |= {"role": "aggregate", "method": _plain(computation.method)}
    inputs = {f"{c.party}/train.parquet": _part(c, "train") for c in contract.contributions}
    return (StageJob("joint", spec, inputs, {f"model/{name}": name for name in MODEL_FILES}),)


def _evaluate(contract: Contract, run: int) -> tuple[StageJob, ...]:
    computation = _training(contract)
    clauses = measured_clauses(contract)
    measurements = [
        {
            "id": number,
            "party": clause.party,
            "metric": clause.metric,
            "baseline": clause.baseline,
            "confidence": 1 - contract.alpha(clause),
            "bound": computation.bound,
        }
        | ({} if clause.at is None else {"at": clause.at})
        for number, clause in clauses.items()
    ]
    common = _common(contract, run)
    spec = {
        "role": "evaluate",
        "contract": common["contract"],
        "seed": common["seed"],
        "replicates": computation.replicates,
        "measurements": measurements,
    }
    inputs: dict[str, Deposited | Made] = {f"joint/{name}": Made("train", name) for name in MODEL_FILES}
    for party in sorted({clause.party for clause in clauses.values()}):
        contribution = contract.contribution(party)
        if contribution is None:
            raise EscrowError("evidence-mismatch", "A clause is about a party that contributes nothing.")
        inputs[f"{party}/holdout.parquet"] = _part(contribution, "holdout")
        for name in MODEL_FILES:
            inputs[f"{party}/baseline/{name}"] = Made("baseline", f"{party}/{name}")
        if contribution.incumbent is not None:
            inputs[f"{party}/incumbent.bundle"] = _part(contribution, "incumbent")
    return (StageJob("evaluate", spec, inputs, {"evidence.json": "evidence.json"}),)
