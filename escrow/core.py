"""The escrow's verbs: admit, submit, deposit, view, run, collect.

`Core` is the coordinator; `Core.session(name)` is what one authenticated caller may do, as `contracts.api` has it. Who
a caller is was settled before a session is made (by the host program here, by mutual TLS over a network), it is an
attribute of that session alone, and every statement must be signed by that party besides.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self

from pydantic import ValidationError

from contracts import statements as st
from contracts.api import Receipt
from contracts.canonical import encode_base64, parse
from contracts.errors import EscrowError
from contracts.lifecycle import TERMINAL, State
from contracts.records import CaseRecord, Key, PartyRecord, Record, party_record
from contracts.signing import Envelope, Signer, sign, verify
from contracts.statements import ByEscrow, EnrolmentRequest, Statement
from contracts.status import waits
from contracts.terms import problems
from escrow import home
from escrow.age import recipient_of
from escrow.authority import Authority
from escrow.blobs import blobs_at
from escrow.disk import full_disk_refused
from escrow.hub import Hub
from escrow.ledger import Appended, Ledger
from escrow.nodes import Nodes
from escrow.runs import Runs, key_name, silent
from escrow.runtime.base import Runtime
from escrow.runtime.job import Limits
from escrow.session import Session
from escrow.stages import Progress
from escrow.turns import Turns
from escrow.uploads import UploadLimits, Uploads
from escrow.vault import Vault

_LOG: Final = logging.getLogger(__name__)


def clock() -> int:
    """Whole seconds since 1970."""
    return int(time.time())


@dataclass(frozen=True)
class Core:
    """One escrow in one directory."""

    directory: Path
    origin: str
    signer: Signer
    ledger: Ledger
    vault: Vault
    uploads: Uploads
    runtime: Runtime
    lock: home.Lock
    now: Callable[[], int] = clock
    limits: Limits = field(default_factory=Limits)
    turns: Turns = field(default_factory=Turns)
    hub: Hub = field(default_factory=Hub)
    nodes: Nodes = field(default_factory=Nodes)  # knows the hub and the ledger (`open`)
    owing: threading.Event = field(default_factory=threading.Event)  # something failed that `settle` makes up for

    @classmethod
    def create(
        cls,
        directory: Path,
        origin: str,
        runtime: Runtime,
        *,
        database: str | None = None,
        blobs: str | None = None,
        now: Callable[[], int] = clock,
    ) -> Self:
        """A new escrow: its key, its certificate authority, its ledger and the first statement on it.

        Args:
            directory: where it lives.
            origin: of its ledger's checkpoints.
            runtime: what runs its jobs.
            database: SQLAlchemy URL of the ledger; a file in the directory if None.
            blobs: URL of S3-compatible storage for encrypted files; a folder in the directory if None.
            now: the clock.

        Raises:
            EscrowError: `escrow-exists` if the directory holds one.
        """
        home.make(directory, origin, database, blobs)
        return cls.open(directory, runtime, now=now)

    @classmethod
    def open(cls, directory: Path, runtime: Runtime, *, now: Callable[[], int] = clock) -> Self:
        """The escrow of a directory, with what a crash left cleaned up and the ledger's first statement made sure.

        Raises:
            EscrowError: `escrow-missing` if the directory holds none, `escrow-busy` if another process serves it.
        """
        signer, origin = home.open_key(directory)
        lock = home.lock(directory)
        try:
            ledger = Ledger(home.database_url(directory))
            vault = Vault(directory / "vault", blobs_at(home.blobs_url(directory), directory / "vault" / "blobs"))
            uploads = Uploads(directory / "uploads", vault, UploadLimits())
            hub = Hub()
            nodes = Nodes(lambda: hub.tell(()), lambda contract: ledger.case(contract).ended)
            core = cls(directory, origin, signer, ledger, vault, uploads, runtime, lock, now, hub=hub, nodes=nodes)
            core.recover()
        except BaseException:
            lock.release()
            raise
        return core

    @property
    def runs(self) -> Runs:
        """The runs of this escrow."""
        return Runs(
            ledger=self.ledger,
            vault=self.vault,
            runtime=self.runtime,
            folder=self.directory / "runs",
            origin=self.origin,
            state=self.state,
            turns=self.turns,
            nodes=self.nodes,
            limits=self.limits,
        )

    def close(self) -> None:
        """End what runs, leave no plaintext of it, and give everything back."""
        self.let_go()
        self.nodes.close()
        self.runtime.close()
        self.runtime.sweep()
        self.ledger.close()
        self.lock.release()

    def let_go(self) -> None:
        """End every listener and every connection of a node, also of who comes later; runs go on."""
        self.hub.close()
        self.nodes.hang_up()

    def recover(self) -> None:
        """After a start: finish whatever the ledger says was begun. Idempotent."""
        if not Authority.exists(self.directory):
            Authority.create(self.directory, self.origin, self.now())
        self.vault.sweep()
        self.runtime.sweep()
        self.state(st.LedgerOpened(ledger=self.origin, public_key=self.signer.public))
        for case in self.ledger.unsettled():
            self._settle(case)
            if case.state is State.APPROVED and case.run:
                self.runs.discard(case)
        self.expire()

    def state(self, statement: ByEscrow | Statement) -> Appended:
        """Sign a statement of the escrow and put it on the ledger."""
        return self._append(sign(statement.payload(), self.signer), statement)

    def _append(self, envelope: Envelope, statement: Statement) -> Appended:
        """Append, and wake whom it concerns, with the records that changed: as they are now if it stood there before.

        Whoever sends a statement again may not know whether it was stored, and neither may the others have heard of it.
        """
        appended = self.ledger.append(envelope, self.now(), statement)
        if not appended.changed:
            appended = replace(appended, changed=tuple(self._touched(statement)))
        if concerned := {name for record in appended.changed for name in _concerned(record)}:
            self.hub.tell(concerned)
            self.nodes.look(concerned)
        for record in appended.changed:
            if isinstance(record, CaseRecord) and record.ended:
                self.nodes.forget(record.digest)
        return appended

    def _touched(self, statement: Statement) -> Iterable[Record]:
        """What a statement that stands on the ledger says something of, as far as somebody listens for it."""
        match statement:
            case st.DataRevoked(party=party, commitment=commitment):
                return [case for case in self.ledger.cases(party) if commitment in case.contract.commitments()]
            case st.PartyRevoked(name=name):
                return [*self.ledger.records(Key("party", name)).values(), *self.ledger.cases(name)]
            case st.CertificateRevoked(party=party):
                return self.ledger.records(Key("party", party)).values()
            case st.ContractProposed(contract=terms):
                return [self.runs.case(terms.digest())]
        contract = getattr(statement, "contract", None)
        return [] if contract is None else [self.runs.case(contract)]

    def admit(self, request: Envelope, fingerprint: str) -> Receipt:
        """Admit a party whose enrolment request was signed with the key of this fingerprint (a key id).

        The operator compared the fingerprint with the party's over another channel.

        Raises:
            EscrowError: `key-mismatch` if the request was signed with another key, `vault-sealed` if nothing can be
                encrypted to the party.
        """
        asked = signed_request(request, "document-invalid")
        if request.key_id != fingerprint:
            raise EscrowError("key-mismatch", "The request was signed with another key than the one you compared.")
        recipient_of(asked.recipient)
        signature = encode_base64(request.signatures[0].sig)
        return self._receipt(
            self.state(st.PartyAdmitted(ledger=self.origin, request=asked, signature=signature)), request
        )

    def revoke(self, name: str) -> None:
        """Revoke a party's admission; its unfinished contracts are halted."""
        self._after(self.state(st.PartyRevoked(ledger=self.origin, name=name)))

    def session(self, caller: str) -> Session:
        """What the party `caller` may do, for a host program that knows who is calling.

        Raises:
            EscrowError: `party-unknown` or `party-revoked`.
        """
        party_record(self.ledger.records(Key("party", caller)), caller)
        return Session(self, caller)

    def run(self, contract: str, progress: Progress = silent) -> CaseRecord:
        """Start the contract's next run, or resume the one under way, and bring it to its end."""
        return self.runs.run(contract, progress)

    def expire(self) -> None:
        """State the expiry of every unfinished contract whose time has run out."""
        for case in self.unfinished():
            if self.now() >= case.contract.limits.expires.timestamp():
                self._after(self.state(st.ContractExpired(ledger=self.origin, contract=case.digest)))

    def unfinished(self) -> list[CaseRecord]:
        """The contracts that have not ended, by digest."""
        states = [state for state in State if state not in TERMINAL]
        return [case for case in self.ledger.all("case", states=states) if isinstance(case, CaseRecord)]

    def waits(self, case: CaseRecord) -> tuple[str, tuple[str, ...]]:
        """Why a contract waits or how it ended, and whose turn it is, nodes that are not connected included."""
        return waits(case, self.nodes.missing(case.contract))

    def head(self) -> str:
        """The ledger's head as a signed note."""
        return self.ledger.head(self.origin, self.signer)

    def accept(self, envelope: Envelope, statement: Statement) -> Receipt:
        """Put a party's statement, which was read from the envelope, on the ledger and do what follows from it.

        What follows may fail, for want of room say: the statement stands all the same, and the scheduler tries again.
        """
        appended = self._append(envelope, statement)
        self._after(appended)
        return self._receipt(appended, envelope)

    def settle(self) -> bool:
        """Do what the escrow owes contracts and has not done yet; whether nothing is left."""
        return self._settled(self.ledger.unsettled())

    def _after(self, appended: Appended) -> None:
        """Do what follows from a statement, or leave it to the scheduler, which is woken."""
        if not self._settled(each for each in appended.changed if isinstance(each, CaseRecord)):
            self.owing.set()
            self.hub.tell(())

    def _settled(self, cases: Iterable[CaseRecord]) -> bool:
        """Whether all are settled now; one that fails holds up no other."""
        failed = 0
        for case in cases:
            try:
                self._settle(case)
            except Exception as error:  # noqa: BLE001 - statements stand, whatever happens to what follows from them
                code, trace = (error.code, None) if isinstance(error, EscrowError) else ("bug", error)
                words = "What the escrow owes %s, which is %s, failed and is tried again: %s"
                _LOG.error(words, case.digest, case.state, code, exc_info=trace)
                failed += 1
        return not failed

    def _settle(self, case: CaseRecord) -> None:
        """What the escrow owes a contract by itself: a run key when proposed, destruction when ended."""
        if case.state is State.PROPOSED:
            self._open(case.digest)
        elif case.ended and not case.key_erased:
            self.runs.clean(case)

    def _open(self, contract: str) -> None:
        """Open the contract's run key, unless somebody ended the contract meanwhile."""
        with self.turns.guard(contract):
            if self.runs.case(contract).state is not State.PROPOSED:
                return
            with full_disk_refused():
                recipient = self.vault.open_run_key(key_name(contract))
            try:
                self.state(st.RunKeyOpened(ledger=self.origin, contract=contract, recipient=recipient))
            except EscrowError as error:
                if error.code != "state-refused":  # ended meanwhile: the key goes with the contract's other things
                    raise

    def _receipt(self, appended: Appended, envelope: Envelope) -> Receipt:
        head = self.head()
        size = int(head.split("\n", 2)[1])
        proof = tuple(each.hex() for each in self.ledger.inclusion(appended.index, size))
        return Receipt(index=appended.index, time=appended.time, envelope=envelope.digest, head=head, proof=proof)


def signed_request(envelope: Envelope, code: str) -> EnrolmentRequest:
    """The request to be admitted in an envelope that its own key signed.

    Raises:
        EscrowError: with this code if the envelope holds no request; or as `verify`.
    """
    try:
        asked = EnrolmentRequest.model_validate(parse(envelope.payload))
    except ValidationError as error:
        wrong = "; ".join(problems(error))
        raise EscrowError(code, f"The request is not valid: {wrong}.") from None
    verify(envelope, asked.public_key)
    return asked


def _concerned(record: Record) -> Iterable[str]:
    """Who listens for a change of this record: a contract's parties, or whose admission or TLS key was revoked."""
    if isinstance(record, CaseRecord):
        return record.contract.names()
    return (record.request.name,) if isinstance(record, PartyRecord) else ()
