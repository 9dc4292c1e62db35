"""What every term of a contract has in common: frozen, kebab-case, and no key that the language does not know."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints


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


Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
"""A party's or thing's short name."""

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
"""`sha256:` and 64 lower-case hex digits."""

Commitment = Annotated[str, StringConstraints(pattern=r"^sha256-salted:[0-9a-f]{64}$")]
"""Salted SHA-256 of a file; tells nothing about it without the salt."""

Column = Annotated[str, StringConstraints(min_length=1, max_length=128)]
"""A column name of a table."""
