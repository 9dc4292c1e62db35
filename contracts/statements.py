"""Everything that can stand on the ledger: one model each, and by whom it must be signed.

A statement is the canonical JSON payload of one DSSE envelope. It names the ledger it is meant for (`ledger`, the
origin of its checkpoints), so that it means nothing on another. It carries no number that depends on data, other than
the row and positive counts which a party states of its own deposit and every contract shows to all its readers.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, get_args

from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError

from contracts.canonical import canonical, digest, parse
from contracts.computation import Stage
from contracts.contract import Contract
from contracts.contributions import Count
from contracts.errors import EscrowError
from contracts.signing import PublicKey
from contracts.terms import Commitment, Digest, Document, Name, Term, problems

Origin = Annotated[str, Field(pattern=r"^[a-z0-9.-]+(/[a-z0-9.-]+)*$", max_length=128)]
Recipient = Annotated[str, Field(pattern=r"^age1[0-9a-z]{10,200}$")]
Sealed = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]+={0,2}$", max_length=8192)]
Role = Literal["party", "auditor"]
Run = Annotated[int, Field(ge=1)]
ErrorCode = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,63}$")]


class Signer(StrEnum):
    """Whose key must have signed a statement."""

    ESCROW = "escrow"
    PARTY = "party"


class Statement(Document):
    """What all statements share."""

    ledger: Origin

    def payload(self) -> bytes:
        """The bytes to sign."""
        return self.form

    def digest(self) -> Digest:
        """The digest of the payload, by which later statements name a standing rule."""
        return digest(self.payload())


class ByEscrow(Statement):
    """Signed with the ledger's own key."""


class ByParty(Statement):
    """Signed with the key the named party was admitted with (or, under a standing rule, with the rule's key)."""

    party: Name


class LedgerOpened(ByEscrow):
    """The first statement: whose ledger this is."""

    kind: Literal["ledger-opened"] = "ledger-opened"
    public_key: PublicKey


class EnrolmentRequest(Document):
    """What a party signs to be admitted; stands inside `party-admitted`, never alone."""

    ledger: Origin
    name: Name
    role: Role
    public_key: PublicKey
    recipient: Recipient  # age: what is released to the party is encrypted to this

    def payload(self) -> bytes:
        """The bytes to sign."""
        return self.form


class PartyAdmitted(ByEscrow):
    """The operator compared the fingerprint and admits the party; its own signature proves that it holds the key."""

    kind: Literal["party-admitted"] = "party-admitted"
    request: EnrolmentRequest
    signature: Sealed  # base64, by the request's key over the request's envelope


class PartyRevoked(ByEscrow):
    """The party's key is no longer believed; what it signed before stands."""

    kind: Literal["party-revoked"] = "party-revoked"
    name: Name


class DataDeposited(ByParty):
    """A committed file, encrypted to a key that only the party holds; training rows may stay with the party."""

    kind: Literal["data-deposited"] = "data-deposited"
    part: Literal["train", "holdout", "incumbent", "table", "capsule"]
    commitment: Commitment
    data_schema: Digest | None = Field(default=None, alias="schema")  # of what a joint training uses
    rows: Count | None = None
    positives: Count | None = None
    blob: Digest | None = None  # of the ciphertext; none if it stays with the party
    size: Annotated[int, Field(ge=0, le=2**50)] = 0  # of the ciphertext, in bytes


class DataRevoked(ByParty):
    """The party takes a deposit back: every contract over it that has not released ends."""

    kind: Literal["data-revoked"] = "data-revoked"
    commitment: Commitment


class ContractProposed(ByParty):
    """A contract is put before its parties."""

    kind: Literal["contract-proposed"] = "contract-proposed"
    contract: Contract

    def payload(self) -> bytes:
        """The bytes to sign: the contract's own, which it keeps, and then the other keys in their order."""
        others = canonical({"kind": self.kind, "ledger": self.ledger, "party": self.party})
        return b'{"contract":' + self.contract.canonical() + b"," + others[1:]


class RunKeyOpened(ByEscrow):
    """The escrow opens the key to which approvals seal data keys."""

    kind: Literal["run-key-opened"] = "run-key-opened"
    contract: Digest
    recipient: Recipient


class ContractApproved(ByParty):
    """Yes to these exact bytes, with the data keys sealed to the run key."""

    kind: Literal["contract-approved"] = "contract-approved"
    contract: Digest
    keys: dict[Commitment, Sealed] = Field(default_factory=dict)  # base64 of the age file with each deposit's key
    rule: Digest | None = None  # digest of the standing rule this was said under


class ContractRejected(ByParty):
    """No, and final."""

    kind: Literal["contract-rejected"] = "contract-rejected"
    contract: Digest
    rule: Digest | None = None


class ContractWithdrawn(ByParty):
    """The proposer takes the proposal back before everyone approved."""

    kind: Literal["contract-withdrawn"] = "contract-withdrawn"
    contract: Digest


class ContractHalted(ByParty):
    """Any party stops it, at any time before release."""

    kind: Literal["contract-halted"] = "contract-halted"
    contract: Digest


class RuleMade(ByParty):
    """A standing rule: a second key may approve or reject what matches exactly, so often, until then."""

    kind: Literal["rule-made"] = "rule-made"
    effect: Literal["approve", "reject"]
    key: PublicKey  # what the party's automation signs with
    function: Digest  # digest of the contract's computation
    commitments: Annotated[tuple[Commitment, ...], Field(min_length=1)]  # the party's deposits it is about
    recipients: tuple[Name, ...]  # nobody else may receive anything
    clauses: tuple[Digest, ...]  # digests of clauses that the contract must contain
    expires: AwareDatetime
    uses: Annotated[int, Field(ge=1, le=1000)]


class RuleRevoked(ByParty):
    """The party ends a standing rule."""

    kind: Literal["rule-revoked"] = "rule-revoked"
    rule: Digest


class CertificateRevoked(ByParty):
    """A TLS key of the party's is no longer its own: sessions under it end, and it is never certified again."""

    kind: Literal["certificate-revoked"] = "certificate-revoked"
    key: Digest  # of the DER SubjectPublicKeyInfo


class RunStarted(ByEscrow):
    """A run begins; its budget is counted here."""

    kind: Literal["run-started"] = "run-started"
    contract: Digest
    run: Run


class StageCompleted(ByEscrow):
    """A stage's outputs, as one salted commitment to their names and contents.

    `rounds`: of what workers said to each other, one digest a round, that before the first included. Each is the digest
    of the digests of every party's questions and answers (`escrow.relay`), so it holds no data and can be guessed by
    nobody who has not the messages. If training went on at a checkpoint, the rounds up to there have the digests of the
    attempt that kept them, the one before the first included: what a later attempt asks again before it goes on has
    none. Later rounds have those of the attempt that went through them last.
    """

    kind: Literal["stage-completed"] = "stage-completed"
    contract: Digest
    run: Run
    stage: Stage
    outputs: Commitment
    rounds: Annotated[tuple[Digest, ...], Field(max_length=1001)] = ()


class RunDecided(ByEscrow):
    """The verdict, and each contributor's findings as a salted commitment, opened to nobody but that party.

    `held`: a capsule has run, and its outputs wait to be vetted.
    """

    kind: Literal["run-decided"] = "run-decided"
    contract: Digest
    run: Run
    verdict: Literal["released", "withheld", "undecided", "held"]
    findings: dict[Name, Commitment]


class RunReleased(ByEscrow):
    """What each party may collect, by digest of its ciphertext; `product` binds what all recipients get.

    That is the joint model, by its manifest, or a capsule's outputs, by theirs.
    """

    kind: Literal["run-released"] = "run-released"
    contract: Digest
    run: Run
    product: Commitment
    packages: dict[Name, Digest]


class ErrorPlace(Term):
    """Where a capsule's code failed: the class of the exception, and the line of its own code."""

    exception: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z]{0,39}$")]
    file: Annotated[str, Field(pattern=r"^code/[A-Za-z0-9._/-]{1,95}$")]
    line: Annotated[int, Field(ge=1, le=100_000)]

    def words(self) -> str:
        """For people."""
        return f"{self.exception} in {self.file}, line {self.line}"


class RunFailed(ByEscrow):
    """The run ended without a verdict; a catalogued code is all that is said, and a capsule's place if all agreed."""

    kind: Literal["run-failed"] = "run-failed"
    contract: Digest
    run: Run
    code: ErrorCode
    place: ErrorPlace | None = None


class ContractExpired(ByEscrow):
    """Its time ran out before a release."""

    kind: Literal["contract-expired"] = "contract-expired"
    contract: Digest


class KeyErased(ByEscrow):
    """The run key is gone, with every intermediate result: the deposits are opaque again."""

    kind: Literal["key-erased"] = "key-erased"
    contract: Digest


AnyStatement = Annotated[
    LedgerOpened
    | PartyAdmitted
    | PartyRevoked
    | DataDeposited
    | DataRevoked
    | ContractProposed
    | RunKeyOpened
    | ContractApproved
    | ContractRejected
    | ContractWithdrawn
    | ContractHalted
    | RuleMade
    | RuleRevoked
    | CertificateRevoked
    | RunStarted
    | StageCompleted
    | RunDecided
    | RunReleased
    | RunFailed
    | ContractExpired
    | KeyErased,
    Field(discriminator="kind"),
]
KINDS: tuple[type[Statement], ...] = get_args(get_args(AnyStatement)[0])
_ADAPTER: TypeAdapter[Any] = TypeAdapter(AnyStatement)


def read(payload: bytes) -> Statement:
    """The statement a payload holds.

    Raises:
        EscrowError: `not-canonical` if the bytes are not in canonical form or a default is left out, so that one
            statement has one spelling; `document-invalid` with every other problem.
    """
    document = parse(payload)
    try:
        statement: Statement = _ADAPTER.validate_python(document, by_alias=True, by_name=False)
    except ValidationError as error:
        raise EscrowError(
            "document-invalid", "The statement is not valid: " + "; ".join(problems(error)) + "."
        ) from None
    if statement.payload() != payload:
        raise EscrowError("not-canonical", "The statement is not in its complete canonical form.")
    return statement
