"""Which jobs the stages of a capsule consist of: the same capsule twice, and only its rows differ."""

from collections.abc import Mapping

from contracts.computation import CapsuleRun
from contracts.contract import Contract
from contracts.errors import EscrowError
from escrow.stagejobs import Deposited, Gang, StageJob


def synthetic(contract: Contract, run: int) -> tuple[Gang, ...]:  # noqa: ARG001 - one signature for all stages
    """The capsule on its own synthetic rows, which must be green first."""
    return (Gang(_capsule(contract, {}, None)),)


def confidential(contract: Contract, run: int) -> tuple[Gang, ...]:  # noqa: ARG001 - one signature for all stages
    """The capsule on the tables that were deposited for it."""
    tables = {c.table.file: Deposited(c.party, c.table.commitment) for c in contract.tables}
    owners = [c.party for c in contract.tables]
    return (Gang(_capsule(contract, tables, owners[0] if len(owners) == 1 else None)),)


def _capsule(contract: Contract, tables: Mapping[str, Deposited], party: str | None) -> StageJob:
    """The capsule, on its own synthetic rows or on the tables; the same in all else."""
    computation, author = contract.computation, contract.author
    if not isinstance(computation, CapsuleRun) or author is None:
        raise EscrowError("not-supported", "A joint training has no stage of a capsule.")
    outputs = {declared.path: declared.path for declared in computation.outputs}
    code = Deposited(author.party, author.capsule.commitment)
    return StageJob("capsule", {}, dict(tables), outputs, party, capsule=code, sizes=computation.outputs)
