"""A capsule at the escrow: opened only if it is the one that all approved, and silent about why it failed.

Rules:

1. What was deposited must be the capsule that the contract names: the same digest, outputs and limits.
2. It runs as its author ran it (`escrow.runtime.capsules`), on its own synthetic rows first.
3. However it fails, what is told is the code of a limit, a refused output, or `capsule-failed`; nothing that it wrote
   or printed chooses another. A failure of this machine is nobody's and spends no run. Where the capsule failed is told
   only if the contract discloses it.
"""

from contracts import capsule
from contracts.capsule import Capsule
from contracts.computation import CapsuleRun
from contracts.contract import Contract
from contracts.errors import EscrowError
from contracts.statements import ErrorPlace
from escrow.runtime.capsules import failure
from escrow.runtime.job import Job


class CapsuleFailedError(EscrowError):
    """A capsule failed, in its own code at `place` if that could be read."""

    def __init__(self, code: str, message: str, where: ErrorPlace | None) -> None:
        super().__init__(code, message)
        self.place = where


def opened(contract: Contract, packed: bytes) -> tuple[CapsuleRun, Capsule]:
    """What the contract says of its capsule, and the capsule as it was deposited.

    Raises:
        EscrowError: `capsule-changed` if it is not the one that the contract names, `capsule-invalid` if it breaks the
            rules of capsules.
    """
    try:
        found = capsule.unpack(packed)
    except EscrowError as error:
        raise EscrowError("capsule-invalid", "What was deposited is no capsule.") from error
    computation = contract.computation
    if not isinstance(computation, CapsuleRun):
        raise EscrowError("not-supported", "A joint training runs no capsule.")
    declared = (found.digest, found.declaration.outputs, found.declaration.limits)
    if declared != (computation.capsule, computation.outputs, computation.limits):
        raise EscrowError("capsule-changed", "The deposited capsule is not the one that the contract names.")
    tables = {c.table.file for c in contract.tables}
    if tables != set(found.declaration.data):
        raise EscrowError("capsule-changed", "The capsule reads other tables than the contract contributes.")
    return computation, found


def failed(job: Job, code: str | None, log: bytes) -> CapsuleFailedError:
    """What may be told of a capsule's job that failed with `code`, or wrote less than it declared."""
    told = failure(job, code, log)
    return CapsuleFailedError(told.code, f"Job {job.id} did not finish with every declared output.", told.place)


def disclosed(contract: Contract, error: EscrowError) -> ErrorPlace | None:
    """Where a capsule failed, if the contract discloses that."""
    if isinstance(error, CapsuleFailedError) and "error-place" in contract.disclosure.failed:
        return error.place
    return None
