"""What a sealed worker can be asked to do: one model a role, no key that it does not know, nothing from the data.

A job stands in `JOBDIR/job.json`. Its inputs lie under `JOBDIR/inputs/` at the places that each role names, its results
go where `Place.results` says. A run's seed is 32 bytes in hex; a role draws from the part of it that is its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, JsonValue, StringConstraints, TypeAdapter, ValidationError, model_validator

from contracts.errors import EscrowError
from contracts.schema import Schema
from contracts.terms import Column, Commitment, Digest, Name, Term

Rows = Annotated[int, Field(strict=True, ge=1)]
Seed = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Spec = dict[str, JsonValue]
"""A model or method term as the contract states it; `models.families` and `models.federated` check it."""
Tell = Callable[[str], None]
"""How a role says where it is: a few words such as `round 3 of 12`, never anything from the data."""


@dataclass(frozen=True)
class Place:
    """Where a worker finds its inputs, puts its results, and dials others if its role does (see `models.federated`)."""

    inputs: Path
    results: Path
    door: Path

    @classmethod
    def of(cls, directory: Path, results: Path | None = None) -> Self:
        """The place of the job in a directory; its results stand there too, unless they are to go elsewhere."""
        return cls(directory / "inputs", directory / "results" if results is None else results, directory / "door")


class _Job(Term):
    threads: Annotated[int, Field(strict=True, ge=1, le=256)] = 1  # more than one may change a model's last digits


class _Training(_Job):
    data_schema: Schema = Field(alias="schema")
    seed: Seed
    contract: Digest | None = None  # noted in the bundle

    @property
    def seed_bytes(self) -> bytes:
        """The run's seed, 32 bytes."""
        return bytes.fromhex(self.seed)


class Counts(Term):
    """What a party's contribution says of itself in the contract; no training rows if they stay at its bank."""

    train_rows: Rows | None = None
    holdout_rows: Rows
    positives: Annotated[int, Field(strict=True, ge=0)]  # frauds of the holdout


class Checked(Term):
    """What `check` found."""

    names: Annotated[tuple[Column, ...], Field(min_length=1, max_length=4096)]  # of the features of every table


class Validation(Term):
    """What an own model showed on the last days of its party's training window, having been trained on those before.

    `slope` and `intercept` calibrate its log-odds there (Platt scaling); they and the rest say what weight it deserves.
    """

    rows: Rows
    positives: Annotated[int, Field(strict=True, ge=1)]
    average_precision: Annotated[float, Field(ge=0, le=1)]
    slope: Annotated[float, Field(ge=0, le=100)]
    intercept: Annotated[float, Field(ge=-100, le=100)]


class Own(Term):
    """Which candidate a party's own model is, and what it showed; nothing where the last days could not tell."""

    spec: Spec
    validation: Validation | None = None


class CheckJob(_Job):
    """Are the contributions what the contract says, and is the test honest?

    Inputs: `PARTY/train.parquet` unless the rows stay at the bank, `PARTY/holdout.parquet`. Result: `check.json`
    (`Checked`).
    """

    role: Literal["check"]
    data_schema: Schema = Field(alias="schema")
    parties: Annotated[dict[Name, Counts], Field(min_length=1)]


class PartyJob(_Training):
    """Each party's best own model, from its rows alone; sealed, a worker sees the rows of one party only.

    Inputs: `PARTY/train.parquet`. Results: `PARTY/`, a bundle, and in it `baseline.json` (`Own`).
    """

    role: Literal["party"]
    parties: Annotated[tuple[Name, ...], Field(min_length=1)]
    models: Annotated[tuple[Spec, ...], Field(min_length=1)]
    select_days: Annotated[int, Field(strict=True, ge=1, le=366)]
    validated: bool = False  # whether a single candidate, too, shows what it can on the last days


class PooledJob(_Training):
    """One model on everyone's rows. Inputs: `PARTY/train.parquet`. Result: `model/`, a bundle."""

    role: Literal["pooled"]
    parties: Annotated[dict[Name, Rows], Field(min_length=1)]
    model: Spec


class _Rounds(_Training):
    parties: Annotated[dict[Name, Rows], Field(min_length=1)]
    model: Spec
    method: Spec


class FederatedJob(_Rounds):
    """One model by rounds of local training, every party in this process. Inputs and result as for `pooled`."""

    role: Literal["federated"]


class AggregateJob(_Rounds):
    """The joint model by asking the parties' workers through the door, where they are.

    `own`: the parties whose own models come through the door, too; of the others they are inputs where the method needs
    them (ensemble). Inputs: `check.json`; `checkpoint` if an attempt before this one got so far; `own/PARTY/`, bundles
    with `baseline.json`. Results: `model/`, a bundle, and the `own/PARTY/` that came through the door.
    """

    role: Literal["aggregate"]
    own: tuple[Name, ...] = ()


class ClientJob(_Training):
    """The side of one party, through the door: its own model, and its part in rounds of training.

    Input: `PARTY/train.parquet`, and `PARTY/train.salt` if the rows lie at the bank: then `commitment` is stated, and
    the worker itself checks rows and commitment before it answers anything. No result.
    """

    role: Literal["client"]
    party: Name
    rows: Rows
    model: Spec
    method: Spec
    models: Annotated[tuple[Spec, ...], Field(min_length=1)]
    select_days: Annotated[int, Field(strict=True, ge=1, le=366)]
    commitment: Commitment | None = None


class Measure(Term):
    """One comparison that a clause needs; several may share a party, a baseline or all."""

    id: str
    party: Name
    metric: str
    at: float | int | None = None
    baseline: Literal["best-own", "incumbent"]
    confidence: Annotated[float, Field(ge=0.5, lt=1)]
    bound: Literal["percentile", "bca"] = "percentile"


class EvaluateJob(_Job):
    """The joint model against each party's own on that party's holdout.

    Inputs: `joint/`, and for each party that is measured `PARTY/holdout.parquet` and `PARTY/baseline/` or
    `PARTY/incumbent.bundle`: bundles, the incumbent packed as its party committed it. Result: `evidence.json`.
    """

    role: Literal["evaluate"]
    contract: Digest
    seed: Seed
    replicates: Annotated[int, Field(strict=True, ge=1, le=20000)]
    measurements: Annotated[tuple[Measure, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        if len({measure.id for measure in self.measurements}) != len(self.measurements):
            raise ValueError("two measurements have the same id")
        return self


Job = CheckJob | PartyJob | PooledJob | FederatedJob | AggregateJob | ClientJob | EvaluateJob
_JOB: Final[TypeAdapter[Job]] = TypeAdapter(Annotated[Job, Field(discriminator="role")])


def read_job(path: Path) -> Job:
    """The job in a file.

    Raises:
        EscrowError: `document-invalid`, naming the first key that is wrong; `file-unreadable`.
    """
    try:
        return _JOB.validate_json(path.read_bytes())
    except OSError:
        raise EscrowError("file-unreadable", "The job cannot be read.") from None
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise EscrowError("document-invalid", f"The job is wrong at {place or 'its start'}.") from None
