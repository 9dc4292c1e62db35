"""A bank's own veto: what it never approves, whatever a contract offers; `policy.yml` in its home.

Rules:

1. A policy only ever narrows: it is a list of demands, each checked alone, and a contract that violates one is not
   approved. Nothing in it can allow what the contract language or the ledger refuses.
2. A term that is left out demands nothing, except `own-condition`, which must be spelled `optional` to be given up,
   and `capsules`, without which none runs on a table of this bank. A term without a value, an unknown term or an
   unknown word is refused, never passed over.
3. There is no flag that overrides it: an approval against the policy needs an edited policy.
4. Without a file the default holds: a clause must be measured on this bank's own holdout.
5. The terms on clauses (`own-condition` to `tpr-at-1pct-fpr-at-most`) are about contracts to which the bank contributes
   data: without a holdout of its own, nothing can be measured for it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self, TypedDict

from pydantic import Field, ValidationError, field_validator, model_validator

from contracts.clauses import Share
from contracts.computation import Sealing
from contracts.contract import Contract, Disclosure, Text
from contracts.errors import EscrowError
from contracts.metrics import MetricName
from contracts.terms import Commitment, Digest, Name, Term, problems
from parties.demands import CHECKS, Case
from parties.files import read_document

FILE: Final = "policy.yml"
OFF: Final = "optional"

Family = Literal["logistic", "mlp", "boosted"]
MethodName = Literal["pooled", "fedavg", "fedprox", "fedadam", "median", "trimmed-mean", "ensemble"]
Exposure = Literal["parties-see-rounds"]
Demanded = Literal["required", "optional"]
Whole = Annotated[int, Field(strict=True, ge=1)]
Days = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,3}d$")]


class Violation(NamedTuple):
    """A demand that a contract does not meet."""

    term: str  # as the policy spells it
    sentence: str


class Demand(NamedTuple):
    """A demand that a policy makes."""

    term: str
    value: object  # plain, as in YAML
    sentence: str


class _Shown(TypedDict):
    description: str
    examples: list[str]


def _shown(demands: str, example: str) -> _Shown:
    return {"description": demands, "examples": [example]}


class Policy(Term):
    """A whole policy, version 1. Each term's description is what it demands, its example what `party init` writes."""

    policy: Literal[1]
    own_condition: Demanded = Field(
        "required", **_shown("Some clause is measured on this bank's own holdout.", "required")
    )
    minimum_gain: Annotated[dict[MetricName, Share], Field(min_length=1)] | None = Field(
        None,
        **_shown(
            "For each metric named, a gain clause of this bank asks for more than this, or than something larger.",
            "{average-precision: 0.01}",
        ),
    )
    minimum_confidence: Annotated[float, Field(strict=True, ge=0.5, lt=1)] | None = Field(
        None, **_shown("Every clause that protects this bank asks for at least this confidence.", "0.95")
    )
    minimum_positives: Whole | None = Field(
        None, **_shown("Every clause on this bank's holdout is decided on at least so many frauds.", "50")
    )
    metrics: tuple[MetricName, ...] | None = Field(
        None,
        **_shown("Clauses on this bank's holdout measure nothing but these.", "[average-precision, recall-at-fpr]"),
    )
    leakage: Demanded = Field(
        "optional", **_shown("Some clause limits what the model gives away about single rows.", "required")
    )
    tpr_at_1pct_fpr_at_most: Share | None = Field(
        None, **_shown("Such a clause is at most this; needs `leakage: required`.", "0.05")
    )
    families: tuple[Family, ...] | None = Field(
        None,
        **_shown("The joint model is of one of these families, of an ensemble every candidate.", "[logistic, mlp]"),
    )
    methods: tuple[MethodName, ...] | None = Field(
        None, **_shown("The joint model is trained by one of these methods.", "[pooled, fedavg]")
    )
    capsules: tuple[Digest, ...] = Field(
        (), **_shown("A capsule that runs on a table of this bank is one of these: whose code it has read.", "[]")
    )
    sealings: tuple[Sealing, ...] | None = Field(
        None, **_shown("The run is sealed in one of these ways.", "[container, gvisor]")
    )
    placements: tuple[Literal["escrow", "party"], ...] | None = Field(
        None, **_shown("This bank's training rows are in one of these places.", "[party]")
    )
    exposure: tuple[Exposure, ...] | None = Field(
        None,
        **_shown(
            "Rounds show the joint model and everybody's sums to banks whose rows stay with them only if this names it:"
            " [parties-see-rounds]; [] refuses it.",
            "[]",
        ),
    )
    partners: tuple[Name, ...] | None = Field(
        None, **_shown("Nobody else is a party of the contract.", "[north, harbour]")
    )
    recipients: tuple[Name, ...] | None = Field(
        None, **_shown("Nobody else but this bank itself receives the model or is shown it in rounds.", "[north]")
    )
    purpose: tuple[Text, ...] | None = Field(
        None,
        **_shown(
            "The purpose is one of these texts, word for word.", '["Train and score card-fraud models. No other use."]'
        ),
    )
    disclosure: Disclosure | None = Field(
        None, **_shown("Nothing else is disclosed in each outcome.", "{released: [verdict, own-finding]}")
    )
    runs_at_most: Whole | None = Field(None, **_shown("The contract may run at most so often.", "1"))
    retries_at_most: Annotated[int, Field(strict=True, ge=0)] | None = Field(
        None,
        **_shown("One run goes on at most so often after a loss; each time all are asked again.", "3"),
    )
    looks_at_most: Whole | None = Field(
        None, **_shown("This bank's holdout is run over at most so often, this contract's runs included.", "5")
    )
    expiry_at_most: Days | None = Field(None, **_shown("The contract expires at most so many days from now.", "30d"))

    @field_validator("*", mode="before")
    @classmethod
    def _has_a_value(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("has no value; write [] for none at all, or remove the line")
        return value

    @model_validator(mode="after")
    def _bound_is_demanded(self) -> Self:
        if self.tpr_at_1pct_fpr_at_most is not None and self.leakage != "required":
            raise ValueError("tpr-at-1pct-fpr-at-most needs `leakage: required`")
        return self

    def demands(self) -> tuple[Demand, ...]:
        """What the policy demands, in the order of its terms."""
        plain = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return tuple(Demand(term, plain[term], _says(term)) for term in CHECKS if plain.get(term, OFF) != OFF)

    def check(
        self, contract: Contract, *, party: Name, looks: Mapping[Commitment, int], now: int
    ) -> tuple[Violation, ...]:
        """The demands that a contract does not meet; nothing if `party` may approve it.

        Args:
            contract: what is to be approved; a draft without keys will do.
            party: whose policy this is.
            looks: runs started so far over each of the party's holdouts, as the escrow states them. Contracts that
                were approved and have not run are not among them; `limits: looks` in the contract caps those too.
            now: whole seconds since 1970.
        """
        case = Case(contract, party, looks, now)
        return tuple(
            Violation(demand.term, sentence)
            for demand in self.demands()
            for sentence in CHECKS[demand.term](getattr(self, _field(demand.term)), case)
        )

    def require(self, contract: Contract, *, party: Name, looks: Mapping[Commitment, int], now: int) -> None:
        """Refuse what `check` finds.

        Raises:
            EscrowError: `policy-refused` with every violation.
        """
        found = self.check(contract, party=party, looks=looks, now=now)
        if found:
            details = [f"{each.term}: {each.sentence}" for each in found]
            raise EscrowError("policy-refused", f"{party}'s policy does not allow this contract.", details=details)


def _field(term: str) -> str:
    return term.replace("-", "_")


def _says(term: str) -> str:
    return str(Policy.model_fields[_field(term)].description)


def policy_from(document: Mapping[str, Any], name: str = FILE) -> Policy:
    """A policy from plain values.

    Raises:
        EscrowError: `policy-invalid` with every problem and its place.
    """
    try:
        return Policy.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        raise EscrowError("policy-invalid", f"{name} is not a valid policy.", details=problems(error)) from None


def load(home: Path) -> Policy:
    """The policy of the bank at `home`, or the default if it has no `policy.yml` (rule 4).

    Raises:
        EscrowError: `file-unreadable`, `document-invalid` or `policy-invalid`; a file that cannot be read is never
            taken for one that is not there.
    """
    path = home / FILE
    if _absent(path):
        return Policy(policy=1)
    begin = "Begin with `policy: 1`; `party init` writes a policy that shows every term."
    return policy_from(read_document(path, what="policy", begin=begin))


def _absent(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False  # reading it says what is wrong
    return False


def default_text() -> str:
    """The `policy.yml` that `party init` writes: every term with what it demands; only the defaults are in force."""
    active = {demand.term for demand in Policy(policy=1).demands()}
    lines = [
        "# What this bank never approves, whatever a contract offers; checked before every approval.",
        "# A term that is commented out demands nothing. To approve against this policy, edit it first.",
        "policy: 1",
    ]
    for term in CHECKS:
        example = (Policy.model_fields[_field(term)].examples or [""])[0]
        lines += ["", f"# {_says(term)}", f"{'' if term in active else '# '}{term}: {example}"]
    return "\n".join(lines) + "\n"
