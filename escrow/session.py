"""What one authenticated caller may do: the protocol of `contracts.api`, over a `Core` in the same process.

Who the caller is was settled when the session was made and is an attribute of that session alone. Every verb but the
public ones asks the ledger whether the caller is still admitted, so a revoked party's open session ends with it.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from contracts import statements as st
from contracts.api import CaseView, DepositView, EscrowView, Event, PartyView, Receipt, Upload
from contracts.capabilities import require_supported
from contracts.errors import EscrowError
from contracts.lifecycle import State
from contracts.nodes import Said, Told
from contracts.records import CaseRecord, DepositRecord, Key, PartyRecord, Record, case_record, party_record
from contracts.signing import Envelope
from contracts.statements import ByParty, read
from contracts.terms import Digest
from escrow import faults
from escrow.conversations import Still
from escrow.hub import Watching
from escrow.runs import UNDER_WAY
from escrow.vault import Vault

if TYPE_CHECKING:
    from escrow.core import Core

ENTRIES_AT_MOST: Final = 1000
ANSWER_AT_MOST: Final = 2 << 20  # bytes of entries in one answer
EVENTS_AT_ONCE: Final = 500
CHUNK: Final = 1 << 18
_TRAINED: Final = (State.APPROVED, *UNDER_WAY)
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


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
        self.admitted(reading=isinstance(statement, st.CertificateRevoked))  # an auditor may give up its own TLS key
        if not isinstance(statement, ByParty) or statement.party != self.caller:
            raise EscrowError("not-permitted", f"{self.caller} may submit its own statements only.")
        if isinstance(statement, st.DataDeposited | st.ContractProposed) and not self.core.ledger.has(signed):
            self._sound(statement)
        return self.core.accept(signed, statement)

    def admitted(self, *, reading: bool = False) -> None:
        """Refuse a caller whose admission was revoked, and one that only audits unless it is about `reading`."""
        record = party_record(self._records(), self.caller)
        if record.request.role == "auditor" and not reading:
            raise EscrowError("not-permitted", f"{self.caller} is an auditor: it reads the ledger, and nothing else.")

    def _records(self, *keys: Key) -> dict[Key, Record]:
        """The named records, for a caller that is still admitted."""
        own = Key("party", self.caller)
        records = self.core.ledger.records(own, *keys)
        party_record(records, self.caller)
        return records

    def _sound(self, statement: st.DataDeposited | st.ContractProposed) -> None:
        """Everything is refused now that would keep a contract from running later."""
        if isinstance(statement, st.ContractProposed):
            require_supported(statement.contract, self.core.runs.able)
        elif statement.blob is None:  # the rows stay with the party
            return
        elif not self._sent(statement.blob) or not self.core.vault.has(statement.blob):
            raise EscrowError("blob-missing", f"The encrypted file of the {statement.part} deposit has not arrived.")
        elif self.core.vault.size(statement.blob) != statement.size:
            raise EscrowError("blob-refused", "The encrypted file has another size than is stated.")
        else:
            stated = party_record(self._records(), self.caller).deposited
            self.core.uploads.admit_stated(self.caller, stated, statement.size)

    def _sent(self, blob: Digest) -> bool:
        """Whether the caller itself sent this file; whether anybody else did, it does not learn."""
        if self.core.uploads.sent(self.caller, blob):
            return True
        return any(each.stated.blob == blob for each in self.core.ledger.deposits(self.caller))

    def received(self, upload: str) -> int:
        """How many bytes of an upload have safely arrived."""
        self.admitted()
        return self.core.uploads.received(self.caller, upload)

    def receive(self, upload: str, offset: int, chunks: Iterator[bytes], digest: Callable[[], Digest]) -> Digest:
        """Take an upload's bytes from an offset on; `digest` is asked for when all of them are there."""
        self.admitted()
        return self.core.uploads.receive(self.caller, upload, offset, chunks, digest)

    def deposit(self, upload: Upload) -> Digest:
        """See `contracts.api.Escrow.deposit`."""
        offset = self.received(upload.token)
        return self.receive(upload.token, offset, upload.chunks(offset), upload.digest)

    def deposits(self) -> tuple[DepositView, ...]:
        """See `contracts.api.Escrow.deposits`."""
        self.admitted()
        return tuple(_deposit(record) for record in self.core.ledger.deposits(self.caller))

    def _case(self, contract: str) -> CaseRecord:
        self.admitted()
        if not _DIGEST.fullmatch(contract):
            raise EscrowError("contract-unknown", "This is no contract's digest.")
        case = case_record(self._records(Key("case", contract)), contract)
        if self.caller not in case.contract.names():
            raise EscrowError("contract-unknown", f"No contract has the digest {contract}.")
        return case

    def view(self, contract: str) -> CaseView:
        """See `contracts.api.Escrow.view`."""
        return self._view(self._case(contract))

    def _view(self, case: CaseRecord) -> CaseView:
        """What the record says, not validated again: that takes a while, and it was proposed under the same rules."""
        reason, turn = self.core.waits(case)
        fault = faults.last(self.core.runs.faults, case.digest)
        return CaseView.model_construct(
            digest=case.digest,
            contract=case.contract,
            proposer=case.proposer,
            state=case.state,
            reason=reason,
            turn=turn,
            run_recipient=case.run_recipient,
            approved=tuple(case.approvals),
            run=case.run,
            stages=tuple(stage for stage in case.contract.stages() if stage in case.stages),
            verdict=case.verdict,
            package=case.packages.get(self.caller),
            place=case.place.words() if case.place else None,
            fault=fault.words() if fault and fault.party == self.caller else None,
        )

    def contracts(self) -> tuple[CaseView, ...]:
        """See `contracts.api.Escrow.contracts`."""
        self.admitted()
        return tuple(self._view(case) for case in self.core.ledger.cases(self.caller))

    def collect(self, contract: str, offset: int = 0) -> Iterator[bytes]:
        """See `contracts.api.Escrow.collect`."""
        case = self._case(contract)
        if case.state is not State.RELEASED:
            raise EscrowError("not-released", f"The contract is {case.state}.")
        if self.caller not in case.packages:
            raise EscrowError("not-permitted", f"The contract has no release for {self.caller}.")
        return _chunks(self.core.vault, case.packages[self.caller], offset)

    def join(self, contract: str, said: Iterator[Said], admitted: Callable[[], object] | None = None) -> Iterator[Told]:
        """See `contracts.api.Escrow.join`. While it lasts, `admitted` refuses who may go on no longer."""
        case = self._case(contract)
        if self.caller not in case.contract.at_home():
            raise EscrowError("node-refused", f"Under this contract no training rows stay with {self.caller}.")
        if case.state not in _TRAINED:
            raise EscrowError("state-refused", f"The contract is {case.state}: nothing is trained under it.")
        return self.core.nodes.serve(contract, self.caller, said, self._still(contract, admitted or self.admitted))

    def _still(self, contract: str, admitted: Callable[[], object]) -> Still:
        def still() -> bool:
            admitted()
            return self.core.runs.case(contract).state in _TRAINED

        return still

    def watch(self, since: int, still: Callable[[], object] | None = None) -> Watching:
        """See `contracts.api.Escrow.watch`. Before each look at the ledger `still` refuses who may listen no longer."""
        self.admitted()
        return Watching(self.core.hub, self.caller, since, partial(self._happened, still or self.admitted))

    def _happened(self, still: Callable[[], object], since: int) -> list[Event]:
        still()
        found = self.core.ledger.events(self.caller, since, EVENTS_AT_ONCE)
        return [Event(index=each.index, time=each.time, kind=each.kind, contract=each.contract) for each in found]

    def head(self) -> str:
        """See `contracts.api.Escrow.head`."""
        return self.core.head()

    def entries(self, start: int, stop: int) -> tuple[bytes, ...]:
        """See `contracts.api.Escrow.entries`."""
        self.admitted(reading=True)
        found: list[bytes] = []
        room = ANSWER_AT_MOST
        for leaf in self.core.ledger.leaves(start, min(stop, start + ENTRIES_AT_MOST)):
            room -= len(leaf)
            if found and room < 0:
                break
            found.append(leaf)
        return tuple(found)

    def inclusion(self, index: int, size: int) -> tuple[str, ...]:
        """See `contracts.api.Escrow.inclusion`."""
        return tuple(each.hex() for each in self.core.ledger.inclusion(index, size))

    def consistency(self, old: int, new: int) -> tuple[str, ...]:
        """See `contracts.api.Escrow.consistency`."""
        return tuple(each.hex() for each in self.core.ledger.consistency(old, new))


def _chunks(vault: Vault, blob: str, offset: int) -> Iterator[bytes]:
    with vault.open(blob) as file:
        file.seek(min(offset, file.seek(0, os.SEEK_END)))
        while chunk := file.read(CHUNK):
            yield chunk


def _deposit(record: DepositRecord) -> DepositView:
    stated = record.stated
    return DepositView(
        party=stated.party,
        part=stated.part,
        commitment=stated.commitment,
        data_schema=stated.data_schema,
        rows=stated.rows,
        positives=stated.positives,
        revoked=record.revoked,
        looks=record.looks,
        kept=stated.blob is None,
    )
