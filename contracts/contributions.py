"""What one party puts into a contract: rows to train and test on, a table for somebody's capsule, or the capsule.

Each is a closed form of its own, told apart by the one key that only it has.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from contracts.terms import Commitment, Name, Term

Count = Annotated[int, Field(ge=1, le=2**40)]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""Name of a file that stands alone in a directory."""


class TrainPart(Term):
    """The committed training rows of a party."""

    commitment: Commitment
    rows: Count


class HoldoutPart(Term):
    """The committed rows a party's gain is measured on."""

    commitment: Commitment
    rows: Count
    positives: Count

    @model_validator(mode="after")
    def _some_genuine(self) -> Self:
        if self.positives >= self.rows:
            raise ValueError(f"positives ({self.positives}) must be fewer than rows ({self.rows})")
        return self


class IncumbentPart(Term):
    """A committed model of a party's own, to be beaten instead of a freshly trained one."""

    commitment: Commitment


class TablePart(Term):
    """A committed table; the capsule finds it under this name in `/data`, where synthetic rows stand meanwhile."""

    commitment: Commitment
    rows: Count
    file: FileName


class CapsulePart(Term):
    """The committed directory of a capsule: code, environment, declared outputs and synthetic rows."""

    commitment: Commitment


Part = TrainPart | HoldoutPart | IncumbentPart | TablePart | CapsulePart


class Contributed(Term):
    """What all contributions share."""

    party: Name
    placement: Literal["escrow", "party"] = "escrow"

    def parts(self) -> Mapping[str, Part]:
        """What is contributed, by the name of the part; only what is there."""
        found = {
            name: getattr(self, name)
            for name in ("train", "holdout", "incumbent", "table", "capsule")
            if name in type(self).model_fields
        }
        return {name: part for name, part in found.items() if part is not None}

    def commitments(self) -> tuple[str, ...]:
        """Everything this party has committed to."""
        return tuple(part.commitment for part in self.parts().values())

    def unlocked(self) -> tuple[str, ...]:
        """What the run decrypts at the escrow, and so what an approval seals the keys of."""
        return tuple(
            part.commitment for name, part in self.parts().items() if (name, self.placement) != ("train", "party")
        )


class Contribution(Contributed):
    """Rows to train on and rows to be measured on."""

    train: TrainPart
    holdout: HoldoutPart
    incumbent: IncumbentPart | None = None


class TableContribution(Contributed):
    """A table that a capsule runs on; it lies at the escrow."""

    table: TablePart
    placement: Literal["escrow"] = "escrow"


class CapsuleContribution(Contributed):
    """The capsule; it lies at the escrow, encrypted like everything else, until all have approved."""

    capsule: CapsulePart
    placement: Literal["escrow"] = "escrow"


_FORMS: Final[Mapping[str, type[Contributed]]] = {"table": TableContribution, "capsule": CapsuleContribution}


def _form(value: Any) -> str:
    """The key that tells which form a contribution has; rows for training where there is none."""
    if isinstance(value, Contributed):
        return next((key for key, form in _FORMS.items() if isinstance(value, form)), "train")
    keys = value if isinstance(value, Mapping) else ()
    return next((key for key in _FORMS if key in keys), "train")


AnyContribution = Annotated[
    Annotated[Contribution, Tag("train")]
    | Annotated[TableContribution, Tag("table")]
    | Annotated[CapsuleContribution, Tag("capsule")],
    Discriminator(_form),
]
