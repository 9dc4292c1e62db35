"""A capsule as a job: the same on its author's machine and at the escrow, so that green there means green here.

Rules:

1. `/code` is the capsule's, `/data` holds exactly the files that it declares: its own synthetic ones, or the tables,
   which must be those files, no more and no less.
2. `CONFIDENTIAL` is `no` or `yes`. With `yes`, and only then, the rows also stand in `/confidential/data`, and the
   configuration that a capsule keeps for that case stands beside its code.
3. Only declared outputs are collected, each within its own declared size.
4. Of a failure nothing is told but the code that the runtime saw for itself, else `capsule-failed`, and only with that
   a place in its own code.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from contracts.capsule import RUN, Capsule, DeclaredOutput
from contracts.errorplace import place
from contracts.errors import EscrowError
from contracts.statements import ErrorPlace
from contracts.terms import Digest, Name
from escrow.runtime.base import Output
from escrow.runtime.job import Job, Limits, Program, Source

UNDECLARED_MIB: Final = 16
"""Room in `/results` besides the declared outputs, for what a capsule writes there and nobody collects."""


def capsule_job(
    job_id: str, capsule: Capsule, *, image: Digest, tables: Mapping[str, Source] | None, party: Name | None
) -> Job:
    """The job that runs a capsule.

    Args:
        job_id: as `base.Job` wants it.
        capsule: what runs.
        image: what it runs in; a plain process ignores it.
        tables: file of `/data` → confidential rows; None runs it on its own synthetic rows.
        party: whose rows these are, if one party's alone.

    Raises:
        EscrowError: `tables-differ` unless the tables are the files that the capsule declares.
    """
    confidential = tables is not None
    if tables is not None and set(tables) != set(capsule.declaration.data):
        raise EscrowError(
            "tables-differ",
            f"The capsule reads {', '.join(sorted(capsule.declaration.data))}; "
            f"it would be given {', '.join(sorted(tables)) or 'nothing'}.",
        )
    rows = capsule.synthetic() if tables is None else {f"data/{name}": source for name, source in tables.items()}
    return Job(
        id=job_id,
        spec={"role": "capsule", "capsule": capsule.digest, "confidential": confidential},
        inputs={**capsule.code(confidential=confidential), **rows},
        outputs=tuple(output.path for output in capsule.declaration.outputs),
        limits=_limits(capsule),
        party=party,
        program=Program(
            image=image,
            command=(RUN,),
            environment={"CONFIDENTIAL": "yes" if confidential else "no"},
            mounts={"data": "/confidential/data"} if confidential else {},
        ),
    )


def _limits(capsule: Capsule) -> Limits:
    declared = capsule.declaration
    outputs_mib = -(-sum(output.size_kib for output in declared.outputs) // 1024)
    return Limits(
        seconds=declared.limits.seconds,
        memory_mib=declared.limits.memory_mib,
        results_mib=outputs_mib + UNDECLARED_MIB,
    )


def within_sizes(declared: Iterable[DeclaredOutput], collected: Mapping[str, Output]) -> None:
    """Refuse what a job collected, unread, if an output is larger than what is declared of it.

    Raises:
        EscrowError: `output-refused`, without a size, which could depend on the rows.
    """
    for output in declared:
        if output.path in collected and collected[output.path].size > output.size_kib << 10:
            raise EscrowError("output-refused", f"The output {output.path} is larger than its declared size.")


_OF_THE_RUNTIME: Final = frozenset({"output-refused", "engine-missing", "storage-full", "runtime-unfit"})


def capsule_code(code: str | None) -> str:
    """What may be told of a capsule's job that failed: what the runtime saw for itself, else only that it failed."""
    told = code is not None and (code.startswith("limit-") or code in _OF_THE_RUNTIME)
    return code if told and code is not None else "capsule-failed"


class Failure(NamedTuple):
    """What may be told of a capsule's job that failed."""

    code: str
    place: ErrorPlace | None


def failure(job: Job, code: str | None, log: bytes) -> Failure:
    """What may be told of a capsule's job.

    Args:
        job: that failed, or wrote less than it declared.
        code: the runtime's word for it.
        log: what it printed.
    """
    told = capsule_code(code)
    if told != "capsule-failed":
        return Failure(told, None)
    code_files = {path: content for path, content in job.inputs.items() if isinstance(content, bytes)}
    return Failure(told, place(log, code_files))
