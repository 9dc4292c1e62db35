"""Which jobs a stage consists of: pure translation of a contract into what the worker is asked to do.

Sealed, one party's rows meet another's in two jobs only: in `prepare`, which compares them, and where the method pools
them. Unsealed jobs are plain processes with nothing between them, so one does for all parties: loading torch takes
longer than training. Rows that stay with their party are no input of any job here.

A party's own model is trained where its rows are. Who is asked through a door (`Contract.answering`) trains it there,
so stage `train` keeps it, as `own/PARTY/…`; the others' own models are what stage `baseline` makes, as `PARTY/…`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from contracts.canonical import canonical, parse
from contracts.computation import Ensemble, JointTraining, Pooled
from contracts.contract import Contract
from contracts.contributions import Contribution
from contracts.errors import EscrowError
from contracts.gate import measured_clauses
from contracts.work import TRAIN, client_spec, common, joint_spec, plain
from escrow.capsulejobs import confidential, synthetic
from escrow.stagejobs import Deposited, Gang, Made, StageJob

MODEL_FILES: Final = ("model.onnx", "model.json")
OWN_FILES: Final = (*MODEL_FILES, "baseline.json")
CHECK: Final = "check.json"
EVIDENCE: Final = "evidence.json"


def stage_gangs(contract: Contract, stage: str, run: int) -> tuple[Gang, ...]:
    """The jobs of a stage."""
    makers = {
        "prepare": _prepare,
        "baseline": _baseline,
        "train": _train,
        "evaluate": _evaluate,
        "synthetic": synthetic,
        "confidential": confidential,
    }
    return makers[stage](contract, run)


def assembled(contract: Contract, stage: str, outputs: Mapping[str, bytes]) -> dict[str, bytes]:
    """What a stage keeps of the outputs of its jobs: what several measured becomes one document.

    Raises:
        EscrowError: `evidence-mismatch` if a job measured something else than it was asked.
    """
    if stage != "evaluate":
        return dict(outputs)
    found: dict[str, object] = {}
    for parties in _groups(contract, _measured(contract)):
        found |= _measurements(outputs[f"{_name('evaluate', parties)}.json"], contract, parties)
    return {EVIDENCE: canonical({"contract": contract.digest(), "measurements": found})}


def _measurements(evidence: bytes, contract: Contract, parties: Sequence[str]) -> dict[str, object]:
    """What one job measured: of the parties whose holdouts it saw, and of nobody else."""
    asked = {number for number, clause in measured_clauses(contract).items() if clause.party in parties}
    try:
        document = parse(evidence)
    except EscrowError:
        document = None
    if isinstance(document, dict) and set(document) == {"contract", "measurements"}:
        found = document["measurements"]
        if document["contract"] == contract.digest() and isinstance(found, dict) and set(found) == asked:
            return found
    raise EscrowError("evidence-mismatch", "A worker measured something else than it was asked.")


def _training(contract: Contract) -> JointTraining:
    if not isinstance(contract.computation, JointTraining):
        raise EscrowError("not-supported", "A capsule has no stage of a joint training.")
    return contract.computation


def _part(contribution: Contribution, part: str) -> Deposited:
    return Deposited(contribution.party, getattr(contribution, part).commitment)


def _contribution(contract: Contract, party: str) -> Contribution:
    found = contract.contribution(party)
    if found is None:
        raise EscrowError("evidence-mismatch", f"{party} contributes no rows to this contract.")
    return found


def _rows(contract: Contract, parties: Collection[str], *parts: str) -> dict[str, Deposited | Made]:
    """The tables of some parties, as inputs."""
    return {
        f"{c.party}/{part}.parquet": _part(c, part) for c in contract.training if c.party in parties for part in parts
    }


def _groups(contract: Contract, parties: Sequence[str]) -> list[tuple[str, ...]]:
    """Whose rows one job sees, where no job needs to see everyone's."""
    together = contract.computation.sealing == "none" and parties
    return [tuple(parties)] if together else [(party,) for party in parties]


def _name(purpose: str, parties: Sequence[str]) -> str:
    return f"{purpose}-{parties[0]}" if len(parties) == 1 else purpose


def _alone(parties: Sequence[str]) -> str | None:
    return parties[0] if len(parties) == 1 else None


def _prepare(contract: Contract, run: int) -> tuple[Gang, ...]:  # noqa: ARG001 - one signature for all stages
    at_home = contract.at_home()
    spec = {
        "role": "check",
        "schema": plain(contract.schema_of_rows),
        "parties": {c.party: _counts(c, with_train=c.party not in at_home) for c in contract.training},
    }
    everyone = [c.party for c in contract.training]
    inputs = _rows(contract, everyone, "holdout") | _rows(contract, set(everyone).difference(at_home), "train")
    return (Gang(StageJob("check", spec, inputs, {CHECK: CHECK})),)


def _counts(contribution: Contribution, *, with_train: bool) -> dict[str, int]:
    holdout = {"holdout-rows": contribution.holdout.rows, "positives": contribution.holdout.positives}
    return {"train-rows": contribution.train.rows, **holdout} if with_train else holdout


def _baseline(contract: Contract, run: int) -> tuple[Gang, ...]:
    asked = contract.answering()
    parties = sorted(c.party for c in contract.training if c.party not in asked)
    return tuple(Gang(_own(contract, run, group)) for group in _groups(contract, parties))


def _own(contract: Contract, run: int, parties: Sequence[str]) -> StageJob:
    """The own models of some parties."""
    computation = _training(contract)
    spec = common(contract, run) | {
        "role": "party",
        "parties": list(parties),
        "models": [plain(each) for each in computation.candidates()],
        "select-days": computation.select_days,
        "validated": isinstance(computation.method, Ensemble),
    }
    outputs = [f"{party}/{name}" for party in parties for name in OWN_FILES]
    inputs = _rows(contract, parties, "train")
    return StageJob(_name("own", parties), spec, inputs, {name: name for name in outputs}, _alone(parties))


def _train(contract: Contract, run: int) -> tuple[Gang, ...]:
    computation, asked = _training(contract), contract.answering()
    everyone = [c.party for c in contract.training]
    made = {f"model/{name}": name for name in MODEL_FILES}
    if isinstance(computation.method, Pooled) or not (asked or isinstance(computation.method, Ensemble)):
        role = "pooled" if isinstance(computation.method, Pooled) else "federated"
        spec = joint_spec(contract, run, role)
        return (Gang(StageJob("joint", spec, _rows(contract, everyone, "train"), made)),)
    spec = joint_spec(contract, run, "aggregate") | {"own": asked}
    inputs: dict[str, Deposited | Made] = {CHECK: Made("prepare", CHECK)}
    if isinstance(computation.method, Ensemble):
        for party in sorted(set(everyone).difference(asked)):
            inputs |= {f"own/{party}/{name}": Made("baseline", f"{party}/{name}") for name in OWN_FILES}
    names = {f"own/{party}/{name}": f"own/{party}/{name}" for party in asked for name in OWN_FILES}
    lead = StageJob("joint", spec, inputs, made | names, door=bool(asked))
    at_home = contract.at_home()
    others = tuple(_client(contract, run, party) for party in asked if party not in at_home)
    return (Gang(lead, others, tuple(at_home), round_seconds=computation.method.round_seconds),)


def _client(contract: Contract, run: int, party: str) -> StageJob:
    """One party's side of the training, where its rows lie here."""
    inputs = {TRAIN.format(party=party): _part(_contribution(contract, party), "train")}
    return StageJob(f"client-{party}", client_spec(contract, run, party), inputs, party=party, door=True)


def _measured(contract: Contract) -> list[str]:
    """The parties that a clause measures."""
    return sorted({clause.party for clause in measured_clauses(contract).values()})


def _evaluate(contract: Contract, run: int) -> tuple[Gang, ...]:
    groups = _groups(contract, _measured(contract))
    return tuple(Gang(_comparison(contract, run, parties)) for parties in groups)


def _comparison(contract: Contract, run: int, parties: Sequence[str]) -> StageJob:
    """The joint model against the own models of some parties, on their holdouts."""
    computation, told = _training(contract), common(contract, run)
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
        for number, clause in measured_clauses(contract).items()
        if clause.party in parties
    ]
    spec = {
        "role": "evaluate",
        "contract": told["contract"],
        "seed": told["seed"],
        "replicates": computation.replicates,
        "measurements": measurements,
    }
    inputs: dict[str, Deposited | Made] = {f"joint/{name}": Made("train", name) for name in MODEL_FILES}
    asked = contract.answering()
    for party in parties:
        contribution = _contribution(contract, party)
        inputs[f"{party}/holdout.parquet"] = _part(contribution, "holdout")
        stage, folder = ("train", f"own/{party}") if party in asked else ("baseline", party)
        for name in MODEL_FILES:
            inputs[f"{party}/baseline/{name}"] = Made(stage, f"{folder}/{name}")
        if contribution.incumbent is not None:
            inputs[f"{party}/incumbent.bundle"] = _part(contribution, "incumbent")
    name = _name("evaluate", parties)
    return StageJob(name, spec, inputs, {EVIDENCE: f"{name}.json"}, _alone(parties))
