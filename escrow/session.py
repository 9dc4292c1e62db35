"""What one authenticated caller may do: the protocol of `contracts.api`, over a `Core` in the same process.

Who the caller is was settled when the session was made and is an attribute of that session alone. Every verb but the
public ones asks the ledger whether the caller is still admitted, so a revoked party's open session ends with it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from contracts import statements as st
from contracts.api import CaseView, DepositView, EscrowView, PartyView, Receipt
from contracts.capabilities import require_supported
from contracts.errors import EscrowError
from contracts.lifecycle import State
from contracts.records import (
    CaseRecord,
    DepositRecord,
    Key,
    PartyRecord,
    Record,
    case_record,
    deposit_record,
    party_record,
)
from contracts.signing import Envelope
from contracts.statements import ByParty, read
from contracts.status import turn
from escrow.vault import Vault

if TYPE_CHECKING:
    from escrow.core import Core

ENTRIES_AT_MOST: Final = 1000
CHUNK: Final = 1 << 18


@dataclass(frozen=True)
class Session:
    """One caller's verbs; implements `contracts.api.Escrow`."""

    core: "Core"
    caller: str

    def info(self) -> EscrowView:
        """See `contracts.api.Escrow.info`."""
        able = self.core.runs.able
        return EscrowView(
            ledger=self.core.origin,
            public_key=self.core.signer.public,
            workers=able.workers,
            methods=able.methods,
            sealings=tuple(able.workers),
        )

    def directory(self) -> tuple[PartyView, ...]:
        """See `contracts.api.Escrow.directory`."""
        found = self.core.ledger.all("party")
        return tuple(PartyView(request=r.request, revoked=r.revoked) for r in found if isinstance(r, PartyRecord))

    def submit(self, envelope: bytes) -> Receipt:
        """See `contracts.api.Escrow.submit`."""
        signed = Envelope.from_bytes(envelope)
        statement = read(signed.payload)
        if not isinstance(statement, ByParty) or statement.party != self.caller:
            raise EscrowError("not-permitted", f"{self.caller} may submit its own statements only.")
        if isinstance(statement, st.DataDeposited) and statement.size > self.core.deposit_at_most:
            raise EscrowError("blob-refused", f"A deposit has at most {self.core.deposit_at_most} bytes.")
        if isinstance(statement, st.ContractProposed) and not self.core.ledger.has(signed):
            self._proposable(statement)
        return self.core.accept(signed)

    def _records(self, *keys: Key) -> dict[Key, Record]:
        """The named records, for a caller that is still admitted."""
        own = Key("party", self.caller)
        records = self.core.ledger.records(own, *keys)
        party_record(records, self.caller)
        return records

    def _proposable(self, statement: st.ContractProposed) -> None:
        """Everything is refused now that would keep the contract from running later."""
        contract = statement.contract
        require_supported(contract, self.core.runs.able)
        records = self.core.ledger.records(*(Key("deposit", commitment) for commitment in contract.commitments()))
        for commitment in contract.commitments():
            stated = deposit_record(records, commitment).stated
            if not self.core.vault.has(stated.blob):
                raise EscrowError(
                    "blob-missing", f"The encrypted file of {stated.party}'s {stated.part} has not arrived."
                )

    def deposit(self, commitment: str, chunks: Iterable[bytes]) -> None:
        """See `contracts.api.Escrow.deposit`."""
        stated = deposit_record(self._records(Key("deposit", commitment)), commitment).stated
        if stated.party != self.caller:
            raise EscrowError("not-permitted", f"The deposit is not {self.caller}'s.")
        if not self.core.vault.has(stated.blob):
            self.core.vault.put(chunks, expected=stated.blob, limit=stated.size)

    def deposits(self) -> tuple[DepositView, ...]:
        """See `contracts.api.Escrow.deposits`."""
        self._records()
        views = []
        for record in self.core.ledger.all("deposit"):
            if isinstance(record, DepositRecord) and record.stated.party == self.caller:
                stated = record.stated
                views.append(
                    DepositView(
                        party=stated.party,
                        part=stated.part,
                        commitment=stated.commitment,
                        rows=stated.rows,
                        positives=stated.positives,
                        revoked=record.revoked,
                        looks=record.looks,
                        stored=self.core.vault.has(stated.blob),
                    )
                )
        return tuple(views)

    def _case(self, contract: str) -> CaseRecord:
        case = case_record(self._records(Key("case", contract)), contract)
        if self.caller not in case.contract.names():
            raise EscrowError("contract-unknown", f"No contract has the digest {contract}.")
        return case

    def view(self, contract: str) -> CaseView:
        """See `contracts.api.Escrow.view`."""
        return _view(self._case(contract))

    def contracts(self) -> tuple[CaseView, ...]:
        """See `contracts.api.Escrow.contracts`."""
        self._records()
        cases = (case for case in self.core.ledger.all("case") if isinstance(case, CaseRecord))
        return tuple(_view(case) for case in cases if self.caller in case.contract.names())

    def collect(self, contract: str) -> Iterator[bytes]:
        """See `contracts.api.Escrow.collect`."""
        case = self._case(contract)
        if case.state is not State.RELEASED:
            raise EscrowError("not-released", f"The contract is {case.state}.")
        return _chunks(self.core.vault, case.packages[self.caller])

    def head(self) -> str:
        """See `contracts.api.Escrow.head`."""
        return self.core.head()

    def entries(self, start: int, stop: int) -> tuple[bytes, ...]:
        """See `contracts.api.Escrow.entries`."""
        self._records()
        return tuple(self.core.ledger.leaves(max(start, 0), min(stop, start + ENTRIES_AT_MOST)))

    def inclusion(self, index: int, size: int) -> tuple[str, ...]:
        """See `contracts.api.Escrow.inclusion`."""
        return tuple(each.hex() for each in self.core.ledger.inclusion(index, size))

    def consistency(self, old: int, new: int) -> tuple[str, ...]:
        """See `contracts.api.Escrow.consistency`."""
        return tuple(each.hex() for each in self.core.ledger.consistency(old, new))


def _chunks(vault: Vault, blob: str) -> Iterator[bytes]:
    with vault.open(blob) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _view(case: CaseRecord) -> CaseView:
    return CaseView(
        digest=case.digest,
        contract=case.contract,
        proposer=case.proposer,
        state=case.state,
        reason=case.reason,
        turn=turn(case),
        run_recipient=case.run_recipient,
        approved=tuple(case.approvals),
        run=case.run,
        stages=tuple(case.stages),
        verdict=case.verdict,
    )
