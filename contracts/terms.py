"""What every term of a contract has in common: frozen, kebab-case, and no key that the language does not know."""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from contracts.canonical import canonical


def kebab(name: str) -> str:
    """`more_than` → `more-than`: the one spelling in YAML, JSON and on the ledger."""
    return name.replace("_", "-")


class Term(BaseModel):
    """A frozen piece of a contract or statement; unknown keys are refused.

    A draft may spell a value loosely (`"12"` for `12`); what is signed has one spelling (`contracts.statements.read`).
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=kebab, populate_by_name=True, allow_inf_nan=False, strict=False
    )


class Document(Term):
    """A term whose canonical bytes are computed once for each object."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """See `pydantic.BaseModel.model_copy`; what was computed of this document does not hold for the copy."""
        copied = super().model_copy(update=update, deep=deep)
        for computed in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[computed]
        return copied

    @cached_property
    def form(self) -> bytes:
        """Canonical JSON, without what is left out."""
        return canonical(self.model_dump(mode="json", by_alias=True, exclude_none=True))


Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
"""A party's or thing's short name."""

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
"""`sha256:` and 64 lower-case hex digits."""

Commitment = Annotated[str, StringConstraints(pattern=r"^sha256-salted:[0-9a-f]{64}$")]
"""Salted SHA-256 of a file; tells nothing about it without the salt."""

Column = Annotated[str, StringConstraints(min_length=1, max_length=128)]
"""A column name of a table."""


def problems(error: ValidationError) -> list[str]:
    """A validation error as one line a problem: where it is and what is wrong, without echoing long input."""
    lines = []
    for item in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in item["loc"])
        what = item["msg"].removeprefix("Value error, ")
        lines.append(f"{where}: {what}" if where else what)
    return lines
