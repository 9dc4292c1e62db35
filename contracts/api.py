"""The escrow's verbs as one protocol, over bytes and views.

`escrow.core` implements it for callers in its own process, the gRPC client implements it over the network, and
`parties` uses nothing else. An object of this protocol belongs to one authenticated caller: who that is was settled
when it was made and is no argument of any verb, so no verb can act for somebody else by mistake.
"""

from collections.abc import Iterator
from typing import Protocol

from contracts.contract import Contract
from contracts.nodes import Said, Told
from contracts.statements import EnrolmentRequest
from contracts.terms import Commitment, Digest, Name, Term


class EscrowView(Term):
    """What every caller may know of the escrow."""

    ledger: str  # the origin of its checkpoints
    public_key: str
    workers: dict[str, Digest]  # sealing -> digest of the code or image that would run
    methods: tuple[str, ...]
    sealings: tuple[str, ...]


class PartyView(Term):
    """An entry of the directory."""

    request: EnrolmentRequest
    revoked: bool


class DepositView(Term):
    """A deposit as its owner and the parties of its contracts see it."""

    party: Name
    part: str
    commitment: Commitment
    data_schema: Digest | None
    rows: int | None
    positives: int | None
    revoked: bool
    looks: int
    kept: bool = False  # the rows stay at the bank


class Receipt(Term):
    """That a statement stands on the ledger, and the proof of it."""

    index: int
    time: int
    envelope: Digest
    head: str  # checkpoint as a signed note
    proof: tuple[str, ...]  # inclusion proof at that head, hashes in hex


class CaseView(Term):
    """A contract and where it stands. `reason` says why it waits or ended, `turn` who has to act."""

    digest: Digest
    contract: Contract
    proposer: Name
    state: str
    reason: str
    turn: tuple[Name, ...]
    run_recipient: str | None
    approved: tuple[Name, ...]
    run: int
    stages: tuple[str, ...]
    verdict: str | None
    package: Digest | None = None  # of the ciphertext that the caller may collect
    place: str | None = None  # where a capsule's code failed, in words, if that is disclosed
    fault: str | None = None  # in words, if the last run failed because of the caller; the others never see it


class Event(Term):
    """A ledger entry that concerns a contract of the caller's."""

    index: int
    time: int
    kind: str  # of the statement
    contract: Digest


class Upload(Protocol):
    """An encrypted file on its way to the escrow; it may still be growing while it is read."""

    @property
    def token(self) -> str:
        """The name under which it is resumed: 32 hexadecimal digits that the caller chose."""
        ...

    def chunks(self, offset: int) -> Iterator[bytes]:
        """The bytes from an offset to the end."""
        ...

    def digest(self) -> Digest:
        """Of the whole file; known when all chunks were given."""
        ...


class Escrow(Protocol):
    """The verbs. Every refusal is an `EscrowError`; a refused call stores nothing."""

    @property
    def caller(self) -> str:
        """The party this session belongs to."""
        ...

    def info(self) -> EscrowView:
        """Who the escrow is and what it can run."""
        ...

    def directory(self) -> tuple[PartyView, ...]:
        """Everyone who was ever admitted."""
        ...

    def submit(self, envelope: bytes) -> Receipt:
        """Put a signed statement on the ledger. Idempotent: the same envelope has one index and time."""
        ...

    def deposit(self, upload: Upload) -> Digest:
        """Send an encrypted file, before it is stated; its digest. Goes on where an earlier call was cut off."""
        ...

    def deposits(self) -> tuple[DepositView, ...]:
        """The caller's own deposits."""
        ...

    def view(self, contract: Digest) -> CaseView:
        """One contract of the caller's."""
        ...

    def contracts(self) -> tuple[CaseView, ...]:
        """All contracts of the caller's."""
        ...

    def collect(self, contract: Digest, offset: int = 0) -> Iterator[bytes]:
        """The caller's package of a released contract, encrypted to the caller, from an offset on."""
        ...

    def join(self, contract: Digest, said: Iterator[Said]) -> Iterator[Told]:
        """Take part in the training under a contract as the caller's node; see `contracts.nodes`.

        Ends when the contract does, or when the connection must be made anew. `node-refused` if the caller's rows do
        not stay with it, `state-refused` if the contract is neither approved nor under way.
        """
        ...

    def watch(self, since: int) -> Iterator[Event]:
        """What happens to the caller's contracts, from a ledger index on; waits for more, and ends with the session.

        An entry that changes several contracts, as a revocation does, is as many events with its index.
        """
        ...

    def head(self) -> str:
        """The ledger's current checkpoint, as a signed note."""
        ...

    def entries(self, start: int, stop: int) -> tuple[bytes, ...]:
        """Ledger entries `start` to `stop`, exclusive, as the leaves' bytes; at most 1,000 a call."""
        ...

    def inclusion(self, index: int, size: int) -> tuple[str, ...]:
        """Inclusion proof of an entry in the tree of `size` entries, hashes in hex."""
        ...

    def consistency(self, old: int, new: int) -> tuple[str, ...]:
        """Proof that the tree of `new` entries extends the tree of `old`, hashes in hex."""
        ...
