"""What a bundle says of its model: the `model.json` beside the graph, by rules 1 and 5 of `models.bundle`."""

from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from contracts.canonical import canonical, digest, parse
from contracts.computation import ModelSpec
from contracts.errors import EscrowError
from contracts.schema import Schema
from contracts.terms import Column, Digest, Name, Term

MANIFEST: Final = "model.json"


class Member(Term):
    """A party's own model in an ensemble: what it is, and how its log-odds enter the sum (see `models.ensemble`)."""

    model: ModelSpec
    weight: Annotated[float, Field(ge=0, le=1)]
    slope: Annotated[float, Field(ge=0, le=100)]
    intercept: Annotated[float, Field(ge=-100, le=100)]


class Ensemble(Term):
    """What stands in a manifest for the model term of an ensemble: its members by party."""

    family: Literal["ensemble"] = "ensemble"
    members: Annotated[dict[Name, Member], Field(min_length=1)]


Described = Annotated[ModelSpec | Ensemble, Field(discriminator="family")]


class Manifest(Term):
    """What `model.json` holds, without its `digest`."""

    bundle: Literal[1] = 1
    model: Described
    features: Annotated[tuple[Column, ...], Field(min_length=1, max_length=4096)]
    table: Annotated[Schema, Field(alias="schema")]
    trained_for: Digest | None  # the contract
    onnx: Digest

    @model_validator(mode="after")
    def _features_differ(self) -> Self:
        if len(set(self.features)) != len(self.features):
            raise ValueError("features names a column twice")
        return self

    def body(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        return self.model_dump(mode="json", by_alias=True)

    @cached_property
    def digest(self) -> str:
        """The digest that names the bundle."""
        return digest(canonical(self.body()))

    def stated(self) -> bytes:
        """The file: canonical JSON, digest included."""
        return canonical({**self.body(), "digest": self.digest})

    @classmethod
    def of(cls, values: object) -> Self:
        """The manifest that these JSON values are.

        Raises:
            EscrowError: `bundle-invalid`, naming the first value that is wrong.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or MANIFEST
            raise EscrowError("bundle-invalid", f"The bundle's {place} is wrong: {first['msg']}.") from None

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The manifest in a file.

        Raises:
            EscrowError: `bundle-invalid` for any bytes but those that `stated` gives.
        """
        try:
            values = parse(data)
        except EscrowError as error:
            raise EscrowError("bundle-invalid", f"The bundle's {MANIFEST} is not canonical JSON.") from error
        if not isinstance(values, dict):
            raise EscrowError("bundle-invalid", f"The bundle's {MANIFEST} is not an object.")
        named = values.pop("digest", None)
        manifest = cls.of(values)
        if values != manifest.body() or named != manifest.digest:
            raise EscrowError(
                "bundle-invalid", f"The bundle's {MANIFEST} was changed: its digest is of other contents."
            )
        return manifest
