"""A bank's client: signs statements, seals keys, and talks to an escrow through `contracts.api.Escrow` alone.

The same client serves in process and over the network: only the `escrow` object differs. It remembers the last head
it saw, and refuses a head that does not continue it and a receipt whose proof does not hold; the evidence is kept.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from contracts import statements as st
from contracts.api import CaseView, Escrow, Receipt, Upload
from contracts.contract import Contract
from contracts.contributions import Contribution, HoldoutPart, IncumbentPart, TrainPart
from contracts.entries import leaf
from contracts.errors import EscrowError
from contracts.signing import Envelope, key_id, public_bytes, sign
from contracts.statements import ByParty
from contracts.terms import Digest
from contracts.transparency import leaf_hash, verify_inclusion
from parties.identity import Identity, Pinned, pin, pinned
from parties.marks import Marks
from parties.sealing import Deposit, Sealing, saved
from parties.witness import Witness, refused_receipt

Told = Callable[[int], object]
"""Hears how many bytes were handed over so far."""


def unheard(_: int) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class _Heard:
    """An upload that tells how far it was read."""

    upload: Upload
    told: Told

    @property
    def token(self) -> str:
        return self.upload.token

    def chunks(self, offset: int) -> Iterator[bytes]:
        for chunk in self.upload.chunks(offset):
            yield chunk
            offset += len(chunk)
            self.told(offset)

    def digest(self) -> Digest:
        return self.upload.digest()


@dataclass(frozen=True)
class Client:
    """One bank: its home directory, its identity, and a session with the escrow."""

    home: Path
    identity: Identity
    escrow: Escrow

    @property
    def name(self) -> str:
        """The bank's name."""
        return self.identity.name

    @property
    def folder(self) -> Path:
        """Where the bank keeps its deposits' ciphertexts and secrets."""
        return self.home / "deposits"

    def pin(self) -> Pinned:
        """Pin the escrow the first time; afterwards it must be the same."""
        info = self.escrow.info()
        pin(self.home, Pinned(info.ledger, info.public_key))
        return pinned(self.home)

    def submit(self, statement: ByParty) -> Receipt:
        """Sign a statement, submit it, and check the receipt against what this bank saw before."""
        envelope = sign(statement.payload(), self.identity.signer)
        receipt = self.escrow.submit(envelope.to_bytes())
        self._witness(receipt, envelope)
        return receipt

    def _witness(self, receipt: Receipt, envelope: Envelope) -> None:
        try:
            now = pinned(self.home).checkpoint(receipt.head)
            proof = [_hash(each) for each in receipt.proof]
            verify_inclusion(leaf_hash(leaf(envelope, receipt.time)), receipt.index, now.size, proof, now.root)
        except EscrowError as error:
            raise refused_receipt(self.home, error, envelope, receipt) from error
        self._remember(receipt.head)

    def head(self) -> str:
        """The ledger's head as a signed note; refused unless it continues the one this bank saw last."""
        note = self.escrow.head()
        self._remember(note)
        return note

    def _remember(self, note: str) -> None:
        witness = Witness(self.home)
        witness.saw(note, lambda old, new: [bytes.fromhex(each) for each in self.escrow.consistency(old, new)])

    def deposit(self, deposits: Iterable[Deposit], told: Told = unheard) -> None:
        """Send encrypted files, but for those that stay here, and state them.

        `told` hears how many bytes of the file under way are on their way.
        """
        for each in deposits:
            if not each.kept:
                self.escrow.deposit(_Heard(each, told))
            self.submit(each.statement(pinned(self.home).ledger, self.name))

    def send(self, sealing: Sealing, told: Told = unheard) -> Deposit:
        """Encrypt a file and send it at the same time, then state it; `told` as for `deposit`.

        What stays here is encrypted and stated only.
        """
        if sealing.kept:
            deposit = sealing.finish()
            self.deposit([deposit])
            return deposit
        try:
            sent = self.escrow.deposit(_Heard(sealing.start(), told))
        except EscrowError as error:
            raise sealing.failed() or error from None
        deposit = sealing.finish()
        if sent != deposit.blob:
            raise EscrowError("blob-refused", "The escrow holds another file than was sent.")
        self.submit(deposit.statement(pinned(self.home).ledger, self.name))
        return deposit

    def propose(self, contract: Contract) -> str:
        """Put a contract before its parties; its digest."""
        self.submit(st.ContractProposed(ledger=pinned(self.home).ledger, party=self.name, contract=contract))
        return contract.digest()

    def approve(self, contract: str) -> Receipt:
        """Sign the contract's digest and seal the keys of this bank's deposits to its run key, in one statement.

        What is approved is what was read: the digest is computed again from the contract that the escrow shows.

        Raises:
            EscrowError: `digest-mismatch` if the escrow shows another contract under that digest, `deposit-mismatch`
                if the contract would have the key of rows that were kept here.
        """
        view = self.escrow.view(contract)
        if view.contract.digest() != contract:
            raise EscrowError("digest-mismatch", "The escrow shows another contract under this digest.")
        contribution = view.contract.contributed(self.name)
        keys: dict[str, str] = {}
        if contribution is not None:
            if view.run_recipient is None:
                raise EscrowError("state-refused", "The contract has no run key yet.")
            held = saved(self.folder, contribution.unlocked())
            if any(deposit.kept for deposit in held.values()):
                raise EscrowError(
                    "deposit-mismatch",
                    "The contract would have the key of rows that were kept here, which never leave.",
                    "Do not approve it; have it drawn up again with these rows at placement `party`.",
                )
            keys = {each: deposit.sealed_key(view.run_recipient) for each, deposit in held.items()}
        ledger = pinned(self.home).ledger
        return self.submit(st.ContractApproved(ledger=ledger, party=self.name, contract=contract, keys=keys))

    # Whatever the escrow answers to one of these, this bank's own node goes no further (`parties.marks`).

    def reject(self, contract: str) -> Receipt:
        """Say no, for good."""
        Marks(self.home).take_back(contract)
        return self.submit(st.ContractRejected(ledger=pinned(self.home).ledger, party=self.name, contract=contract))

    def withdraw(self, contract: str) -> Receipt:
        """Take back a proposal of one's own."""
        Marks(self.home).take_back(contract)
        return self.submit(st.ContractWithdrawn(ledger=pinned(self.home).ledger, party=self.name, contract=contract))

    def halt(self, contract: str) -> Receipt:
        """Stop a contract at any time before its release."""
        Marks(self.home).take_back(contract)
        return self.submit(st.ContractHalted(ledger=pinned(self.home).ledger, party=self.name, contract=contract))

    def revoke(self, commitment: str) -> Receipt:
        """Take a deposit back."""
        Marks(self.home).take_back(commitment)
        return self.submit(st.DataRevoked(ledger=pinned(self.home).ledger, party=self.name, commitment=commitment))

    def view(self, contract: str) -> CaseView:
        """One contract and where it stands."""
        return self.escrow.view(contract)


def _hash(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise EscrowError("proof-invalid", "The proof holds something else than hashes.") from None


def contribution(party: str, deposits: Iterable[Deposit]) -> Contribution:
    """What a contract says of a party's deposits."""
    by_part = {each.part: each for each in deposits}
    train, holdout, incumbent = by_part["train"], by_part["holdout"], by_part.get("incumbent")
    return Contribution(
        party=party,
        placement="party" if train.kept else "escrow",
        train=TrainPart.model_validate({"commitment": train.commitment, "rows": train.rows}),
        holdout=HoldoutPart.model_validate(
            {"commitment": holdout.commitment, "rows": holdout.rows, "positives": holdout.positives}
        ),
        incumbent=IncumbentPart(commitment=incumbent.commitment) if incumbent else None,
    )


def directory_keys(escrow: Escrow) -> dict[str, str]:
    """Key ids of all admitted parties by name, for drawing up a contract."""
    found = (view for view in escrow.directory() if not view.revoked)
    return {view.request.name: key_id(public_bytes(view.request.public_key)) for view in found}
