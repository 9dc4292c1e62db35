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
from contracts.computation import (
    CapsuleRun,
    Computation,
    Ensemble,
    Federated,
    JointTraining,
    Pooled,
    Stage,
    unfit,
)
from contracts.contributions import AnyContribution, CapsuleContribution, Contribution, TableContribution
from contracts.errors import EscrowError
from contracts.schema import Schema
from contracts.signing import KeyId
from contracts.terms import Digest, Document, Name, Term, problems

Text = Annotated[str, Field(min_length=1, max_length=500)]
MIN_TAIL = 5  # replicates that must lie below a bound; fewer would make the bound a matter of luck


class PartyRef(Term):
    """A party and the key it signs with; a draft may leave the key to be filled in."""

    name: Name
    key: KeyId | None = None


class Recipient(Term):
    """Who receives what."""

    party: Name
    receives: Literal["model", "outputs"] = "model"  # the joint model, or a capsule's outputs


class Disclosure(Term):
    """What anyone may learn in each outcome; nothing else leaves."""

    released: tuple[Literal["verdict", "own-finding", "leakage-verdict"], ...] = ("verdict", "own-finding")
    withheld: tuple[Literal["verdict"]] = ("verdict",)
    failed: tuple[Literal["error-code"]] | tuple[Literal["error-code"], Literal["error-place"]] = ("error-code",)
    """`error-place`: of a capsule also the class of the exception and the line of its own code."""

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
    retries: Annotated[int, Field(ge=0, le=100)] = 0  # in one run: attempts after a party or a worker was lost
    looks: Annotated[int, Field(ge=1, le=1000)] | None = None  # runs over a holdout or table, of all contracts together

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
    parties: Annotated[tuple[PartyRef, ...], Field(min_length=2, max_length=1024)]
    contributions: Annotated[tuple[AnyContribution, ...], Field(min_length=1)]
    data_schema: Schema | None = Field(default=None, alias="schema")  # of rows to train on
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
    def _fits_what_runs(self) -> Self:
        if isinstance(self.computation, CapsuleRun):
            self._of_a_capsule()
            return self
        if len(self.training) < len(self.contributions):
            raise ValueError("contributions: a joint training takes rows to train on, neither tables nor capsules")
        if self.data_schema is None:
            raise ValueError("schema: rows to train on need one")
        if any(recipient.receives != "model" for recipient in self.recipients):
            raise ValueError("recipients: a joint training gives a model, no outputs")
        if "error-place" in self.disclosure.failed:
            raise ValueError("disclosure: only a capsule's failure has an error-place")
        return self

    def _of_a_capsule(self) -> None:
        """One capsule, at least one table, nothing to train on, and nothing that only a joint model has."""
        capsules = [c.party for c in self.contributions if isinstance(c, CapsuleContribution)]
        tables = [c.table.file for c in self.tables]
        if len(capsules) != 1 or not tables or self.training:
            raise ValueError("contributions: a capsule contract has one capsule and one or more tables")
        _unique("contributions: files", tables)
        if self.release:
            raise ValueError("release: a capsule's outputs leave by their vetting rules, not by clauses")
        if any(recipient.receives != "outputs" for recipient in self.recipients):
            raise ValueError("recipients: of a capsule they receive its outputs")
        if "error-place" in self.disclosure.failed and self.limits.runs > 1:
            raise ValueError("limits: with error-place disclosed a capsule runs once: each failure could tell more")
        if self.data_schema is not None or self.exposure is not None:
            raise ValueError("a capsule contract has neither a schema of training rows nor an exposure")

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
        computation = self.computation
        if not isinstance(computation, JointTraining):
            return self
        if len(computation.candidates()) == 1 and not isinstance(computation.method, Ensemble):
            return self
        train_days = self.schema_of_rows.split.train_days
        if computation.select_days >= train_days:
            raise ValueError(
                f"computation: select-days {computation.select_days} leaves nothing of {train_days} train-days to "
                "train on before"
            )
        return self

    @model_validator(mode="after")
    def _enough_to_trim(self) -> Self:
        if isinstance(self.computation, JointTraining) and (why := unfit(self.computation.method, len(self.training))):
            raise ValueError(f"computation: {why}")
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

    def contributed(self, party: str) -> AnyContribution | None:
        """What `party` contributes, if anything."""
        return next((c for c in self.contributions if c.party == party), None)

    def contribution(self, party: str) -> Contribution | None:
        """The rows that `party` contributes to a joint training, if any."""
        return self._rows_of.get(party)

    @cached_property
    def _rows_of(self) -> dict[str, Contribution]:
        return {c.party: c for c in self.training}

    @cached_property
    def training(self) -> tuple[Contribution, ...]:
        """The contributions of a joint training; none if a capsule runs."""
        return tuple(c for c in self.contributions if isinstance(c, Contribution))

    @property
    def tables(self) -> tuple[TableContribution, ...]:
        """The tables that a capsule runs on."""
        return tuple(c for c in self.contributions if isinstance(c, TableContribution))

    @property
    def author(self) -> CapsuleContribution | None:
        """Whose capsule runs, if one does."""
        return next((c for c in self.contributions if isinstance(c, CapsuleContribution)), None)

    @property
    def schema_of_rows(self) -> Schema:
        """The schema of the rows to train on; a ValueError where none are."""
        if self.data_schema is None:
            raise ValueError("a capsule contract has no schema of training rows")
        return self.data_schema

    def stages(self) -> tuple[Stage, ...]:
        """The stages of a run, in order."""
        return self.computation.stages()

    def commitments(self) -> list[str]:
        """Every committed file of the contract."""
        return [c for contribution in self.contributions for c in contribution.commitments()]

    def looked_at(self) -> list[str]:
        """The deposits over which runs are counted: each run over a holdout or a table may tell something of it."""
        return [c.holdout.commitment for c in self.training] + [c.table.commitment for c in self.tables]

    def at_home(self) -> list[str]:
        """The parties whose training rows stay with them, in the order of their names: each runs a node."""
        return sorted(c.party for c in self.training if c.placement == "party")

    def answering(self) -> list[str]:
        """The parties that are asked through a door while the joint model is trained, in the order of their names.

        Those whose rows stay with them always are; the others where training goes in rounds and is sealed, because
        then each party's worker sees that party's rows alone. Such a worker trains its party's own model as well.
        """
        if not isinstance(self.computation, JointTraining) or isinstance(self.computation.method, Pooled):
            return []
        if isinstance(self.computation.method, Federated) and (self.computation.sealing != "none" or self.at_home()):
            return sorted(c.party for c in self.training)
        return self.at_home()

    def see_rounds(self) -> list[str]:
        """The parties to whose premises every round of the training sends the joint model, whatever the verdict."""
        if not isinstance(self.computation, JointTraining) or not isinstance(self.computation.method, Federated):
            return []
        return [c.party for c in self.training if c.placement == "party"]

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
