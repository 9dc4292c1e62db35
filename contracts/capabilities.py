"""What an escrow can do at present; what it cannot is refused when a contract is proposed, not when it should run."""

from dataclasses import dataclass

from contracts.clauses import Leakage
from contracts.computation import JointTraining
from contracts.contract import Contract
from contracts.errors import EscrowError
from contracts.terms import Digest


@dataclass(frozen=True)
class Capabilities:
    """What this escrow supports.

    Attributes:
        workers: sealing → digest of the code or image that would run.
        methods: names of training methods.
        kinds: kinds of computation.
        placements: where training rows may be.
        leakage: whether leakage clauses can be evaluated.
    """

    workers: dict[str, Digest]
    methods: tuple[str, ...] = ("pooled", "fedavg")
    kinds: tuple[str, ...] = ("joint-training",)
    placements: tuple[str, ...] = ("escrow",)
    leakage: bool = False


def unsupported(contract: Contract, able: Capabilities) -> list[str]:
    """The contract's terms that this escrow cannot honour, each as it stands in the contract."""
    computation = contract.computation
    missing = []
    if computation.kind not in able.kinds:
        missing.append(f"computation: {computation.kind}")
    if computation.sealing not in able.workers:
        missing.append(f"sealing: {computation.sealing}")
    if isinstance(computation, JointTraining) and computation.method.name not in able.methods:
        missing.append(f"method: {computation.method.name}")
    missing += [
        f"placement: {place}" for place in sorted({c.placement for c in contract.contributions} - set(able.placements))
    ]
    if not able.leakage and any(isinstance(clause, Leakage) for clause in contract.release):
        missing.append("clause: leakage")
    return missing


def require_supported(contract: Contract, able: Capabilities) -> None:
    """Refuse what this escrow cannot honour.

    Raises:
        EscrowError: `not-supported` naming every such term; `worker-unknown` if other code is to run than would.
    """
    missing = unsupported(contract, able)
    if missing:
        raise EscrowError("not-supported", f"Not supported by this escrow yet: {', '.join(missing)}.")
    computation = contract.computation
    if isinstance(computation, JointTraining) and computation.worker != able.workers[computation.sealing]:
        raise EscrowError(
            "worker-unknown",
            f"The contract names the worker {computation.worker}, "
            f"this escrow runs {able.workers[computation.sealing]}.",
        )
