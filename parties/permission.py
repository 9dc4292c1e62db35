"""What a bank's node may do: what its own bank approved and nothing else, as the verified ledger shows it.

Rules:

1. The contract, where it stands and this bank's approval of it are read from the ledger, all of which is verified: its
   signatures, its rules, and that it continues what this bank saw before (`parties.ledger`).
2. Everyone has approved, the run is under way, and it is one that the contract allows: the law of the ledger sees to
   that, so the ledger's word is enough. The escrow's is not.
3. The rows are at home, and are this bank's contribution.
4. How often a run begins is bounded, over all restarts of a node.
5. What the bank has taken back it does not do, whether or not the ledger shows it (`parties.marks`).
"""

from pathlib import Path
from typing import Final

from contracts.contract import Contract
from contracts.errors import EscrowError
from contracts.lifecycle import State
from contracts.records import CaseRecord, Key
from contracts.terms import Digest
from parties.client import Client
from parties.ledger import Audit
from parties.marks import Marks
from parties.sealing import Deposit, saved

ATTEMPTS_BESIDES: Final = 20
"""Attempts of one run beyond those that the contract allows: each start of the escrow, or of a node, may begin one."""


def approved(client: Client, digest: Digest) -> CaseRecord:
    """A contract that this bank approved, and under which rows stay with it, as it stands on the verified ledger.

    Raises:
        EscrowError: `contract-unknown`, `node-refused` or `approval-missing`, or as `parties.ledger.Audit`.
    """
    audit = Audit(client.home, {}, lambda _: None, lambda *_: None)
    found = audit.of_escrow(client).records.get(Key("case", digest))
    if not isinstance(found, CaseRecord) or found.contract.digest() != digest:
        raise EscrowError("contract-unknown", "No contract of this digest stands on the ledger.")
    if client.name not in found.contract.at_home():
        raise EscrowError("node-refused", f"No training rows of {client.name} stay at home under this contract.")
    if client.name not in found.approvals:
        raise EscrowError(
            "approval-missing",
            f"{client.name}'s approval of this contract is not on the ledger: nothing of it runs here.",
            f"Read it, and approve it if it is right: party contract approve {digest.rpartition(':')[2][:8]}.",
        )
    return found


def require_under_way(case: CaseRecord, run: int) -> None:
    """Refuse a run that the ledger does not show as under way: `node-refused`."""
    if (case.state, case.run) != (State.RUNNING, run):
        raise EscrowError(
            "node-refused",
            f"The escrow asks for run {run}, and the ledger shows the contract {case.state} with {case.run} begun.",
            "Do not go on; ask the operator, and compare heads of the ledger with the other parties.",
        )


def count(client: Client, case: CaseRecord, run: int) -> None:
    """Count an attempt that is about to begin; `node-refused` if the contract does not explain so many."""
    marks = Marks(client.home)
    times = marks.began(case.digest, run)
    if times > case.contract.limits.retries + 1 + ATTEMPTS_BESIDES:
        raise EscrowError(
            "node-refused",
            f"Run {run} began {times} times: that is more than the contract's retries explain.",
            f"Ask the operator why; to count anew, remove {marks.counts(case.digest)}.",
        )


def taken_back(client: Client, digest: Digest, case: CaseRecord | None) -> Path | None:
    """The mark that the bank has taken back its part in a contract, or what it contributes to it, if it has."""
    ours = case.contract.contributed(client.name) if case is not None else None
    return Marks(client.home).taken_back((digest, *(ours.commitments() if ours is not None else ())))


def require_wanted(client: Client, digest: Digest, case: CaseRecord | None) -> None:
    """Refuse what the bank has taken back: `node-refused`."""
    if (mark := taken_back(client, digest, case)) is not None:
        raise EscrowError(
            "node-refused",
            "This bank has taken back its part in this contract: nothing of it runs here any more.",
            f"If that was a mistake, and the contract still stands, remove {mark}.",
        )


def rows(client: Client, contract: Contract) -> Deposit:
    """The training rows that this bank contributes, which are at home.

    Raises:
        EscrowError: `deposit-unknown`.
    """
    (commitment,) = (each.train.commitment for each in contract.training if each.party == client.name)
    deposit = saved(client.folder, (commitment,))[commitment]
    if not deposit.path.is_file():
        raise EscrowError(
            "deposit-unknown",
            f"The training rows {deposit.path} are not at home.",
            "Bring the file back from a backup: nothing else has these rows under this commitment.",
        )
    return deposit


__all__ = ["approved", "count", "require_under_way", "require_wanted", "rows", "taken_back"]
