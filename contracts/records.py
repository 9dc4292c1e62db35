"""What replaying the ledger yields: one frozen record for each ledger, party, deposit, standing rule and contract.

The escrow's read tables hold exactly these records, as canonical JSON, and a test proves that replay gives the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pydantic import Field

from contracts.canonical import canonical
from contracts.contract import Contract
from contracts.errors import EscrowError
from contracts.lifecycle import TERMINAL, State
from contracts.statements import DataDeposited, EnrolmentRequest, ErrorPlace, RuleMade, Statement
from contracts.terms import Commitment, Digest, Document, Name, Term

Kind = Literal["ledger", "party", "deposit", "rule", "case"]


class Key(NamedTuple):
    """Where a record stands."""

    kind: Kind
    name: str


class Record(Term):
    """What all records share."""

    def key(self) -> Key:
        """Its place among the records."""
        raise TypeError(type(self).__name__)

    def document(self) -> bytes:
        """The record as the read tables hold it, canonical; signed documents in it are not written again."""
        signed = {name: value.form for name, value in self if isinstance(value, Document)}
        own = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=set(signed))
        parts = {name: canonical(value) for name, value in own.items()} | signed
        return b"{" + b",".join(canonical(name) + b":" + parts[name] for name in sorted(parts)) + b"}"


class LedgerRecord(Record):
    """The ledger itself: its origin and key."""

    origin: str
    public_key: str

    def key(self) -> Key:
        """There is one."""
        return Key("ledger", "ledger")


class PartyRecord(Record):
    """An admitted party."""

    request: EnrolmentRequest
    revoked: bool = False
    contracts: tuple[Digest, ...] = ()  # the unfinished ones it is a party of
    proposals: int = 0  # unfinished contracts that it proposed
    deposited: int = 0  # bytes of its deposits that were not revoked
    revoked_keys: tuple[Digest, ...] = ()  # of its TLS keys

    def key(self) -> Key:
        """By name: a name is never given twice."""
        return Key("party", self.request.name)


class DepositRecord(Record):
    """A committed file."""

    stated: DataDeposited
    revoked: bool = False
    contracts: tuple[Digest, ...] = ()  # the unfinished ones that use it
    looks: int = 0  # runs started over it as a holdout or a table: each may tell something of it

    def key(self) -> Key:
        """By commitment."""
        return Key("deposit", self.stated.commitment)


class RuleRecord(Record):
    """A standing rule and what is left of it."""

    digest: Digest
    stated: RuleMade
    uses: int = 0
    revoked: bool = False

    def key(self) -> Key:
        """By the digest of its statement, so that repeating the statement cannot renew the rule."""
        return Key("rule", self.digest)


class CaseRecord(Record):
    """A contract and how far it has come."""

    digest: Digest
    contract: Contract
    proposer: Name
    state: State = State.PROPOSED
    reason: str = "run-key"  # why it waits or how it ended, a closed vocabulary (see contracts.proceedings and running)
    run_recipient: str | None = None
    approvals: dict[Name, int] = Field(default_factory=dict)  # party -> index of its approval on the ledger
    run: int = 0  # runs started
    stages: dict[str, Commitment] = Field(default_factory=dict)  # completed in the current run, and their outputs
    verdict: str | None = None  # of the current run
    place: ErrorPlace | None = None  # where a capsule's code failed in the current run, if that is disclosed
    packages: dict[Name, Digest] = Field(default_factory=dict)
    key_erased: bool = False

    def key(self) -> Key:
        """By the contract's digest."""
        return Key("case", self.digest)

    @property
    def ended(self) -> bool:
        """Whether nothing but the erasure of its key can still happen."""
        return self.state in TERMINAL

    def missing(self) -> list[str]:
        """The parties that have yet to approve."""
        return [name for name in self.contract.names() if name not in self.approvals]


RECORDS: Mapping[Kind, type[Record]] = {
    "ledger": LedgerRecord,
    "party": PartyRecord,
    "deposit": DepositRecord,
    "rule": RuleRecord,
    "case": CaseRecord,
}

Records = Mapping[Key, Record]


@dataclass(frozen=True)
class Entry:
    """A ledger entry as the rules see it: a statement whose signature was verified, its place and its time."""

    index: int
    time: int  # the escrow's clock, whole seconds since 1970
    statement: Statement


def ledger_record(records: Records) -> LedgerRecord:
    """The ledger's own record."""
    found = records.get(Key("ledger", "ledger"))
    if not isinstance(found, LedgerRecord):
        raise EscrowError("ledger-unopened", "The ledger has no first statement.")
    return found


def party_record(records: Records, name: Name) -> PartyRecord:
    """An admitted party that was not revoked."""
    found = records.get(Key("party", name))
    if not isinstance(found, PartyRecord):
        raise EscrowError("party-unknown", f"{name} is not an admitted party.")
    if found.revoked:
        raise EscrowError("party-revoked", f"{name}'s admission was revoked.")
    return found


def deposit_record(records: Records, commitment: Commitment) -> DepositRecord:
    """A deposit that was not revoked."""
    found = records.get(Key("deposit", commitment))
    if not isinstance(found, DepositRecord):
        raise EscrowError("deposit-unknown", f"No deposit has the commitment {commitment}.")
    if found.revoked:
        raise EscrowError("deposit-revoked", f"The deposit {commitment} was revoked.")
    return found


def case_record(records: Records, digest: Digest) -> CaseRecord:
    """A proposed contract."""
    found = records.get(Key("case", digest))
    if not isinstance(found, CaseRecord):
        raise EscrowError("contract-unknown", f"No contract has the digest {digest}.")
    return found


def rule_record(records: Records, digest: Digest) -> RuleRecord:
    """A standing rule that was not revoked."""
    found = records.get(Key("rule", digest))
    if not isinstance(found, RuleRecord):
        raise EscrowError("rule-unknown", f"No standing rule has the digest {digest}.")
    if found.revoked:
        raise EscrowError("rule-refused", "The standing rule was revoked.")
    return found
