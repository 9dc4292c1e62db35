"""What an escrow can do at present; what it cannot is refused when a contract is proposed, not when it should run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from contracts.capsule import CapsuleLimits
from contracts.clauses import Leakage
from contracts.computation import TWO_WAY, CapsuleRun, Ensemble, Federated, JointTraining
from contracts.contract import Contract
from contracts.errors import EscrowError
from contracts.terms import Digest

CAPSULES_AT_MOST: Final = CapsuleLimits(seconds=3600, memory_mib=4096)
ANSWERING_AT_MOST: Final = 64


@dataclass(frozen=True)
class Capabilities:
    """What this escrow supports.

    Attributes:
        workers: sealing → digest of the code or image that would run.
        methods: names of training methods.
        kinds: kinds of computation.
        modes: what capsules may answer.
        capsule_limits: the most that one run of a capsule may use.
        seconds: that a job of a joint training has; a party's time for one round is less.
        answering: how many parties may be asked while training: each has a worker, and all of them run at once.
        placements: where training rows may be.
        leakage: whether leakage clauses can be evaluated.
        images: tells the images that capsules can run in; None if any will do, since they run in none.
    """

    workers: dict[str, Digest]
    methods: tuple[str, ...] = ("pooled", *TWO_WAY, "ensemble")
    kinds: tuple[str, ...] = ("joint-training", "capsule")
    modes: tuple[str, ...] = ("validate",)
    capsule_limits: CapsuleLimits = CAPSULES_AT_MOST
    seconds: int = 3600
    answering: int = ANSWERING_AT_MOST
    placements: tuple[str, ...] = ("escrow", "party")
    leakage: bool = False
    images: Callable[[], frozenset[Digest] | None] = lambda: None


def unsupported(contract: Contract, able: Capabilities) -> list[str]:
    """The contract's terms that this escrow cannot honour, each as it stands in the contract."""
    computation = contract.computation
    missing = []
    if computation.kind not in able.kinds:
        missing.append(f"computation: {computation.kind}")
    if computation.sealing not in able.workers:
        missing.append(f"sealing: {computation.sealing}")
    missing += _untrainable(contract, able)
    if isinstance(computation, CapsuleRun) and computation.mode not in able.modes:
        missing.append(f"mode: {computation.mode}")
    if isinstance(computation, CapsuleRun):
        asked, most = computation.limits, able.capsule_limits
        if asked.seconds > most.seconds:
            missing.append(f"limits: seconds above {most.seconds}")
        if asked.memory_mib > most.memory_mib:
            missing.append(f"limits: memory-mib above {most.memory_mib}")
    missing += [
        f"placement: {place}" for place in sorted({c.placement for c in contract.contributions} - set(able.placements))
    ]
    if not able.leakage and any(isinstance(clause, Leakage) for clause in contract.release):
        missing.append("clause: leakage")
    return missing


def _untrainable(contract: Contract, able: Capabilities) -> list[str]:
    """The terms of a joint training that this escrow cannot honour."""
    missing = []
    if isinstance(contract.computation, JointTraining) and contract.computation.method.name not in able.methods:
        missing.append(f"method: {contract.computation.method.name}")
    if _round_seconds(contract) >= able.seconds:
        missing.append(f"method: round-seconds not below {able.seconds}")
    if len(contract.answering()) > able.answering:
        missing.append(f"parties: above {able.answering} that are asked while training")
    return missing


def _round_seconds(contract: Contract) -> int:
    """How long a party may take to answer in a round; 0 where none is asked."""
    computation = contract.computation
    if not isinstance(computation, JointTraining) or not isinstance(computation.method, Federated | Ensemble):
        return 0
    return computation.method.round_seconds if contract.answering() else 0


def require_supported(contract: Contract, able: Capabilities) -> None:
    """Refuse what this escrow cannot honour.

    Raises:
        EscrowError: `not-supported` naming every such term; `worker-unknown` if other code is to run than would;
            `image-missing` if the image that a capsule is to run in is not here.
    """
    missing = unsupported(contract, able)
    if missing:
        raise EscrowError("not-supported", f"Not supported by this escrow yet: {', '.join(missing)}.")
    computation = contract.computation
    if isinstance(computation, CapsuleRun):
        images = able.images()
        if images is not None and computation.image not in images:
            hint = "Let the operator make it with `escrow image capsule`, and name the digest that this prints."
            raise EscrowError("image-missing", f"This escrow has no image {computation.image} of a capsule.", hint)
    if isinstance(computation, JointTraining) and computation.worker != able.workers[computation.sealing]:
        raise EscrowError(
            "worker-unknown",
            f"The contract names the worker {computation.worker}, "
            f"this escrow runs {able.workers[computation.sealing]}.",
        )
