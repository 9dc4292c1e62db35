"""The contract: who contributes which data, what runs on it, who receives what, under which conditions.

People write YAML; what is signed is the canonical JSON of a complete `Contract`. Rules enforced here need the text
alone: unknown keys and clause kinds, parties that neither contribute nor receive, clauses about holdouts that do not
exist, too few positives, tests too fine for the bootstrap, disclosures wider than a verdict when withheld, and models
shown to parties in rounds without their saying so. Rules that need the ledger stand in `contracts.rules`.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, Field, ValidationError, field_validator, model_validator

from contracts.canonical import digest
from contracts.clauses import Clause, Measured
from contracts.computation import TWO_WAY, Computation, JointTraining
from contracts.errors import EscrowError
from contracts.schema import Schema
from contracts.signing import KeyId
from contracts.terms import Commitment, Digest, Document, Name, Term

Text = Annotated[str, Field(min_length=1, max_length=500)]
Count = Annotated[int, Field(ge=1, le=2**40)]
MIN_TAIL = 5  # replicates that must lie below a bound; fewer would make the bound a matter of luck


class PartyRef(Term):
    """A party and the key it signs with; a draft may leave the key to be filled in."""

    name: Name
    key: KeyId | None = None


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


class Contribution(Term):
    """What one party puts in."""

    party: Name
    train: TrainPart
    holdout: HoldoutPart
    incumbent: IncumbentPart | None = None
    placement: Literal["escrow", "party"] = "escrow"

    def commitments(self) -> tuple[str, ...]:
        """Everything this party has committed to."""
        incumbent = (self.incumbent.commitment,) if self.incumbent else ()
        return (self.train.commitment, self.holdout.commitment, *incumbent)

    def unlocked(self) -> tuple[str, ...]:
        """What the run decrypts at the escrow, and so what an approval seals the keys of."""
        return self.commitments() if self.placement == "escrow" else self.commitments()[1:]


class Recipient(Term):
    """Who receives what."""

    party: Name
    receives: Literal["model"] = "model"


class Disclosure(Term):
    """What anyone may learn in each outcome; nothing else leaves."""

    released: tuple[Literal["verdict", "own-finding", "leakage-verdict"], ...] = ("verdict", "own-finding")
    withheld: tuple[Literal["verdict"]] = ("verdict",)
    failed: tuple[Literal["error-code"]] = ("error-code",)

    @field_validator("released")
    @classmethod
    def _verdict_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("names something twice")
        if "verdict" not in value:
            raise ValueError("must contain verdict: the ledger shows it to every party")
        return value


class Limits(Term):
    """When a contract may run, how often, and how often a holdout may have been looked at."""

    not_before: AwareDatetime | None = None
    expires: AwareDatetime
    runs: Annotated[int, Field(ge=1, le=20)] = 1
    looks: Annotated[int, Field(ge=1, le=1000)] | None = None  # runs over a holdout, of all contracts together

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.not_before and self.not_before >= self.expires:
            raise ValueError("not-before must be earlier than expires")
        return self


class Contract(Document):
    """A whole contract, version 1."""

    contract: Literal[1]
    title: Text
    purpose: Text
    parties: Annotated[tuple[PartyRef, ...], Field(min_length=2, max_length=64)]
    contributions: Annotated[tuple[Contribution, ...], Field(min_length=1)]
    data_schema: Schema = Field(alias="schema")
    computation: Computation
    recipients: Annotated[tuple[Recipient, ...], Field(min_length=1)]
    release: tuple[Clause, ...]
    disclosure: Disclosure = Disclosure()
    exposure: Literal["parties-see-rounds"] | None = None
    limits: Limits

    @field_validator("parties", mode="before")
    @classmethod
    def _bare_names(cls, value: Any) -> Any:
        return (
            [{"name": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else value
        )

    @model_validator(mode="after")
    def _people(self) -> Self:
        names = self.names()
        contributors, recipients = [c.party for c in self.contributions], [r.party for r in self.recipients]
        _unique("parties", names)
        _unique("contributions", contributors)
        _unique("recipients", recipients)
        for role, listed in (("contributions", contributors), ("recipients", recipients)):
            for name in listed:
                if name not in names:
                    raise ValueError(f"{role}: {name} is not one of the parties")
        for name in names:
            if name not in contributors and name not in recipients:
                raise ValueError(f"parties: {name} neither contributes nor receives anything")
        _unique("contributions: commitments", [c for part in self.contributions for c in part.commitments()])
        return self

    @model_validator(mode="after")
    def _conditions(self) -> Self:
        if isinstance(self.computation, JointTraining) and not self.release:
            raise ValueError("release: a joint training needs at least one clause")
        seen: set[Clause] = set()
        for number, clause in enumerate(self.release):
            if clause in seen:
                raise ValueError(f"release[{number}]: the clause stands there twice")
            seen.add(clause)
            if isinstance(clause, Measured):
                self._clause_can_be_decided(number, clause)
        return self

    def _clause_can_be_decided(self, number: int, clause: Measured) -> None:
        contribution = self.contribution(clause.party)
        if contribution is None:
            raise ValueError(f"release[{number}]: {clause.party} contributes no holdout to measure on")
        if contribution.holdout.positives < clause.min_positives:
            raise ValueError(
                f"release[{number}]: {clause.party}'s holdout has {contribution.holdout.positives} positives, fewer "
                f"than min-positives {clause.min_positives}: the clause could never be decided"
            )
        if clause.baseline == "incumbent" and contribution.incumbent is None:
            raise ValueError(f"release[{number}]: {clause.party} has committed no incumbent model")
        if isinstance(self.computation, JointTraining):
            tail = round(self.alpha(clause) * self.computation.replicates, 6)  # 1 − .9975 is a little below .0025
            if tail < MIN_TAIL:
                raise ValueError(
                    f"release[{number}]: confidence {clause.confidence:g} over {self.limits.runs} runs leaves "
                    f"{tail:.1f} of {self.computation.replicates} replicates below the bound; at least {MIN_TAIL} are "
                    "needed"
                )

    @model_validator(mode="after")
    def _own_model_can_be_chosen(self) -> Self:
        computation, train_days = self.computation, self.data_schema.split.train_days
        if not isinstance(computation, JointTraining) or len(computation.candidates()) == 1:
            return self
        if computation.select_days >= train_days:
            raise ValueError(
                f"computation: select-days {computation.select_days} leaves nothing of {train_days} train-days to "
                "train the candidates on"
            )
        return self

    @model_validator(mode="after")
    def _sealed_means_sealed(self) -> Self:
        if not isinstance(self.computation, JointTraining):
            return self
        method = self.computation.method.name
        if method == "pooled" and any(c.placement == "party" for c in self.contributions):
            raise ValueError("contributions: pooled training needs placement escrow, not party")
        if self.see_rounds() and self.exposure is None:
            raise ValueError(
                f"contributions: with placement party, {method} shows the joint model to "
                f"{', '.join(self.see_rounds())} every round; add `exposure: parties-see-rounds` if all accept that"
            )
        return self

    def names(self) -> list[str]:
        """The parties, in the contract's order."""
        return [party.name for party in self.parties]

    def contribution(self, party: str) -> Contribution | None:
        """What `party` contributes, if anything."""
        return next((c for c in self.contributions if c.party == party), None)

    def commitments(self) -> list[str]:
        """Every committed file of the contract."""
        return [c for contribution in self.contributions for c in contribution.commitments()]

    def see_rounds(self) -> list[str]:
        """The parties to whose premises every round of the training sends the joint model, whatever the verdict."""
        if not isinstance(self.computation, JointTraining) or self.computation.method.name not in TWO_WAY:
            return []
        return [c.party for c in self.contributions if c.placement == "party"]

    def alpha(self, clause: Measured) -> float:
        """The level of one test: runs share it, since each run is another try (Bonferroni)."""
        return (1 - clause.confidence) / self.limits.runs

    def canonical(self) -> bytes:
        """The bytes that are signed."""
        return self.form

    def digest(self) -> Digest:
        """What an approval names."""
        return self._digest

    @cached_property
    def _digest(self) -> Digest:
        return digest(self.form)


def _unique(what: str, items: Iterable[str]) -> None:
    seen: set[str] = set()
    for item in items:
        if item in seen:
            raise ValueError(f"{what}: {item} stands there twice")
        seen.add(item)


def problems(error: ValidationError) -> list[str]:
    """A validation error as one line a problem: where it is and what is wrong, without echoing long input."""
    lines = []
    for item in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in item["loc"])
        what = item["msg"].removeprefix("Value error, ")
        lines.append(f"{where}: {what}" if where else what)
    return lines


def validated(document: object) -> Contract:
    """`document` (from YAML or JSON) as a contract, which may still be a draft without keys.

    Raises:
        EscrowError: `document-invalid` with every problem that was found.
    """
    try:
        return Contract.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        found = problems(error)
        raise EscrowError("document-invalid", "The contract is not valid: " + "; ".join(found) + ".") from None


def drawn_up(contract: Contract, keys: dict[str, str]) -> Contract:
    """The contract with every party's key filled in from the directory of admitted parties.

    Raises:
        EscrowError: `party-unknown` for a party that is not in `keys`, `key-mismatch` if the draft names another key.
    """
    for party in contract.parties:
        if party.name not in keys:
            raise EscrowError("party-unknown", f"{party.name} is not an admitted party.")
        if party.key not in {None, keys[party.name]}:
            raise EscrowError("key-mismatch", f"The draft names another key for {party.name} than the directory.")
    refs = tuple(PartyRef(name=name, key=keys[name]) for name in contract.names())
    return contract.model_copy(update={"parties": refs})
