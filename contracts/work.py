"""What workers of a training are asked, as the contract has it: pure translation.

Both sides use it: the escrow for rows that lie with it, the bank's node for rows that stay there. So a node asks its
worker what the contract says and not what the escrow says.
"""

from typing import Any, Final

from contracts.canonical import derive
from contracts.computation import JointTraining
from contracts.contract import Contract
from contracts.errors import EscrowError
from contracts.terms import Term

TRAIN: Final = "{party}/train.parquet"
"""Input of every client: the party's training rows."""
SALT: Final = "{party}/train.salt"
"""Input where they stay with the party: the salt of their commitment, which the worker checks itself."""


def plain(term: Term) -> dict[str, Any]:
    """A term as plain values, as a job states it."""
    return term.model_dump(mode="json", by_alias=True, exclude_none=True)


def run_seed(contract: Contract, run: int) -> bytes:
    """What everything that is drawn in a run is drawn from: 32 bytes that follow from the contract."""
    return derive("run seed", contract.digest().encode(), str(run).encode())


def common(contract: Contract, run: int) -> dict[str, object]:
    """What every job of a training is told: the schema, the run's seed, and the contract's digest."""
    seed = run_seed(contract, run).hex()
    return {"schema": plain(contract.schema_of_rows), "seed": seed, "contract": contract.digest()}


def joint_spec(contract: Contract, run: int, role: str) -> dict[str, object]:
    """What the job that makes the joint model is told, in whichever role (`models.jobs`); `pooled` has no method.

    Raises:
        ValueError: the contract is about no joint training.
    """
    computation = contract.computation
    if not isinstance(computation, JointTraining):
        raise ValueError("a capsule trains no joint model")  # noqa: TRY004 - it is the contract's value
    spec = common(contract, run) | {
        "role": role,
        "parties": {each.party: each.train.rows for each in contract.training},
        "model": plain(computation.model),
    }
    return spec if role == "pooled" else spec | {"method": plain(computation.method)}


def client_spec(contract: Contract, run: int, party: str) -> dict[str, object]:
    """What the worker beside a party's rows is asked (`models.jobs.ClientJob`).

    Raises:
        EscrowError: `node-refused` if the party is not asked anything while the joint model is trained.
    """
    computation = contract.computation
    if not isinstance(computation, JointTraining) or party not in contract.answering():
        raise EscrowError("node-refused", f"Training under this contract asks nothing of a worker of {party}'s own.")
    (contribution,) = (c for c in contract.training if c.party == party)
    spec = common(contract, run) | {
        "role": "client",
        "party": party,
        "rows": contribution.train.rows,
        "model": plain(computation.model),
        "method": plain(computation.method),
        "models": [plain(each) for each in computation.candidates()],
        "select-days": computation.select_days,
    }
    return spec | ({"commitment": contribution.train.commitment} if contribution.placement == "party" else {})
