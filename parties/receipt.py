"""The receipt of a release: the statements on the ledger that it rests on, each with its proof of standing there.

Gathered by the bank from the whole ledger, kept beside the release, and checked offline with the law itself.
"""

from collections.abc import Iterator
from typing import Annotated, Final

from pydantic import Field, StringConstraints

from contracts import statements as st
from contracts.canonical import decode_base64, encode_base64, parse
from contracts.contract import Contract
from contracts.entries import Leaf, checked, read_leaf
from contracts.errors import EscrowError
from contracts.notes import Checkpoint
from contracts.records import Key, Record, case_record
from contracts.statements import Statement, read
from contracts.terms import Term
from contracts.transparency import Tree, leaf_hash, verify_inclusion
from parties.client import Client
from parties.identity import Pinned, pinned

PAGE: Final = 1000

Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Proven(Term):
    """A ledger entry with the proof that it stands there."""

    index: int
    leaf: str  # base64
    proof: tuple[Hash, ...]


class LedgerReceipt(Term):
    """The statements a release rests on, proven in one head."""

    head: str
    entries: tuple[Proven, ...] = Field(min_length=1)


def gathered(client: Client, contract: str) -> LedgerReceipt:
    """Everything on the ledger that a release of `contract` rests on.

    The root is computed from every entry that was shown, so that none can be left out: not a halt, not a revocation.
    """
    head = client.head()
    now = pinned(client.home).checkpoint(head)
    wanted = client.escrow.view(contract).contract
    entries, tree = [], Tree()
    for start in range(0, now.size, PAGE):
        for data in client.escrow.entries(start, min(start + PAGE, now.size)):
            if _belongs(read(read_leaf(data).envelope.payload), wanted, contract):
                proof = client.escrow.inclusion(tree.size, now.size)
                entries.append(Proven(index=tree.size, leaf=encode_base64(data), proof=proof))
            tree, _ = tree.append(leaf_hash(data))
    if tree.root() != now.root:
        raise EscrowError("ledger-tampered", "The entries that the escrow shows are not those of the ledger's head.")
    return LedgerReceipt(head=head, entries=tuple(entries))


def _belongs(statement: Statement, contract: Contract, name: str) -> bool:
    match statement:
        case st.PartyAdmitted():
            found = statement.request.name in contract.names()
        case st.PartyRevoked():
            found = statement.name in contract.names()
        case st.RuleMade() | st.RuleRevoked():
            found = statement.party in contract.names()
        case st.DataDeposited() | st.DataRevoked():
            found = statement.commitment in contract.commitments()
        case st.ContractProposed():
            found = statement.contract.digest() == name
        case _:
            found = isinstance(statement, st.LedgerOpened) or getattr(statement, "contract", None) == name
    return found


def read_receipt(data: bytes) -> LedgerReceipt:
    """The receipt in a file; `release-invalid`, or `not-canonical`, if it is none."""
    try:
        return LedgerReceipt.model_validate(parse(data))
    except ValueError:
        raise EscrowError("release-invalid", "The receipt is malformed.") from None


def proven(receipt: LedgerReceipt, head: Checkpoint, escrow: Pinned) -> Iterator[tuple[Leaf, Statement]]:
    """The receipt's statements in the order of the ledger, each proven, its signature verified and the law applied.

    Raises:
        EscrowError: of the first statement that is not proven (`proof-invalid`), not signed (`signature-invalid`) or
            not lawful (the law's own code, `approval-missing` or `not-released`).
    """
    records: dict[Key, Record] = {}
    last = -1
    for entry in receipt.entries:
        if entry.index <= last:
            raise EscrowError("release-invalid", "The receipt's statements are not in the ledger's order.")
        last = entry.index
        data = decode_base64(entry.leaf)
        proof = [bytes.fromhex(each) for each in entry.proof]
        verify_inclusion(leaf_hash(data), entry.index, head.size, proof, head.root)
        leaf = read_leaf(data)
        statement = read(leaf.envelope.payload)
        if statement.ledger != escrow.ledger:
            raise EscrowError("release-invalid", "A statement of the receipt is meant for another ledger.")
        for record in _lawful(records, leaf, statement, entry.index, escrow):
            records[record.key()] = record
        yield leaf, statement


def _lawful(
    records: dict[Key, Record], leaf: Leaf, statement: Statement, index: int, escrow: Pinned
) -> tuple[Record, ...]:
    """What the statement changes; a run without approvals and a release without its verdict have their own codes."""
    if isinstance(statement, st.RunStarted) and (missing := case_record(records, statement.contract).missing()):
        raise EscrowError("approval-missing", f"The receipt holds no approval of {missing[0]}.")
    try:
        _, changed = checked(records, leaf.envelope, index=index, time=leaf.time, key=escrow.public_key)
    except EscrowError as error:
        if isinstance(statement, st.RunReleased) and error.code == "state-refused":
            raise EscrowError("not-released", "The ledger holds no verdict that the release follows.") from None
        raise
    return changed
