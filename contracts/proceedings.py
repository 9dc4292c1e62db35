"""The rules on a contract's course, from proposal to the erasure of its key; those on its runs in `contracts.running`.

1. A proposal names admitted parties with their keys, and deposits that exist, are their owner's, agree in part, rows,
   positives and schema, and were not revoked. A party has a bounded number of proposals that have not ended.
2. Only parties of the contract approve, once each, with the keys of exactly their own deposits. No implied yes.
3. One rejection is final; the proposer may withdraw before everyone approved; any party halts before release.
4. A standing rule covers its own function, deposits, recipients and clauses, so often, until it expires.
5. Terminal is terminal: then the run key is erased, once, and nothing else happens.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from contracts import statements as st
from contracts.canonical import canonical, digest
from contracts.computation import JointTraining
from contracts.contract import Contract
from contracts.contributions import Contributed
from contracts.errors import EscrowError
from contracts.lifecycle import TERMINAL, Event, State, after
from contracts.records import (
    CaseRecord,
    DepositRecord,
    Entry,
    Key,
    PartyRecord,
    Record,
    Records,
    RuleRecord,
    case_record,
    deposit_record,
    party_record,
    rule_record,
)
from contracts.signing import key_id, public_bytes
from contracts.statements import Statement
from contracts.terms import Term

PROPOSALS_AT_MOST: Final = 100  # of one party, unfinished

Changed = Iterator[Record]


def refused(sentence: str, code: str = "statement-refused", hint: str | None = None) -> EscrowError:
    """A refusal by a rule."""
    return EscrowError(code, sentence, hint)


def term_digest(term: Term) -> str:
    """The digest of a part of a contract, as standing rules and deposits name it."""
    return digest(canonical(term.model_dump(mode="json", by_alias=True, exclude_none=True)))


def moved(records: Records, case: CaseRecord, event: Event, **changes: object) -> Changed:
    """`case` after `event`; ended, it is taken off the lists of its parties and deposits.

    Raises:
        EscrowError: the table of transitions has none from this state.
    """
    state = after(case.state, event)
    if state is None:
        raise refused(f"The contract is {case.state}: {event} is not possible.", "state-refused")
    yield case.model_copy(update={"state": state, **changes})
    if state in TERMINAL:
        for key in (
            *(Key("party", name) for name in case.contract.names()),
            *(Key("deposit", commitment) for commitment in case.contract.commitments()),
        ):
            record = records[key]
            if isinstance(record, PartyRecord | DepositRecord):
                left: dict[str, object] = {"contracts": tuple(each for each in record.contracts if each != case.digest)}
                if isinstance(record, PartyRecord) and record.request.name == case.proposer:
                    left["proposals"] = record.proposals - 1
                yield record.model_copy(update=left)


def _proposed(records: Records, statement: st.ContractProposed, entry: Entry) -> Changed:
    contract = statement.contract
    name = contract.digest()
    if Key("case", name) in records:
        raise refused("This very contract was proposed before.", "contract-exists")
    if statement.party not in contract.names():
        raise refused(f"{statement.party} is not a party of the contract it proposes.")
    if entry.time >= contract.limits.expires.timestamp():
        raise refused("The contract expires before it is proposed.", "contract-expired")
    for party in contract.parties:
        record = party_record(records, party.name)
        if record.request.role != "party":
            raise refused(f"{party.name} was admitted as {record.request.role}, not as a party.")
        if party.key != key_id(public_bytes(record.request.public_key)):
            raise refused(f"The contract names another key for {party.name} than it was admitted with.", "key-mismatch")
        proposals = record.proposals + (party.name == statement.party)
        if proposals > PROPOSALS_AT_MOST:
            raise refused(
                f"{party.name} has proposed {PROPOSALS_AT_MOST} contracts that have not ended.",
                "quota-exceeded",
                "Withdraw one of them, or wait until one has ended.",
            )
        yield record.model_copy(update={"contracts": (*record.contracts, name), "proposals": proposals})
    schema = None if contract.data_schema is None else term_digest(contract.data_schema)
    for contribution in contract.contributions:
        for deposit in _agreed(records, contribution, schema):
            looks_left(contract, deposit)
            yield deposit.model_copy(update={"contracts": (*deposit.contracts, name)})
    yield CaseRecord(digest=name, contract=contract, proposer=statement.party)


def _agreed(records: Records, contribution: Contributed, schema: str | None) -> Iterator[DepositRecord]:
    """The deposits that a contribution names, if they are what it says they are."""
    for part, claimed in contribution.parts().items():
        deposit = deposit_record(records, claimed.commitment)
        stated = deposit.stated
        theirs = (stated.party, stated.part, stated.rows, stated.positives, stated.data_schema)
        ours = (contribution.party, part, getattr(claimed, "rows", None), getattr(claimed, "positives", None), schema)
        if theirs != ours:
            raise refused(
                f"{contribution.party}'s {part} in the contract is not what was deposited: owner, part, rows, "
                "positives and schema must agree.",
                "deposit-mismatch",
            )
        if (part, contribution.placement) == ("train", "party") and stated.blob is not None:
            raise refused(
                f"{contribution.party}'s training rows lie at the escrow; with placement party they stay at the bank.",
                "deposit-mismatch",
                "Name placement escrow, or state the rows anew with `party dataset add --keep-training`.",
            )
        if stated.blob is None and contribution.placement == "escrow":
            raise refused(
                f"{contribution.party}'s {part} stays at the bank: its placement is party, not escrow.",
                "deposit-mismatch",
                "Name placement party for this contribution.",
            )
        yield deposit


def looks_left(contract: Contract, deposit: DepositRecord) -> None:
    """Refuse with `looks-exhausted` what would be one look too many at a deposit, by this contract's count."""
    most = contract.limits.looks
    stated = deposit.stated
    if most is not None and stated.commitment in contract.looked_at() and deposit.looks >= most:
        raise refused(
            f"{stated.party}'s {stated.part} has been run over {deposit.looks} times; the contract allows {most}.",
            "looks-exhausted",
        )


def _run_key_opened(records: Records, statement: st.RunKeyOpened, entry: Entry) -> Changed:  # noqa: ARG001
    case = case_record(records, statement.contract)
    yield from moved(records, case, Event.RUN_KEY_OPENED, run_recipient=statement.recipient, reason="approvals")


def in_time(case: CaseRecord, entry: Entry) -> None:
    """Refuse with `contract-expired` what comes after the contract's time."""
    if entry.time >= case.contract.limits.expires.timestamp():
        raise refused("The contract has expired.", "contract-expired")


def _own_case(records: Records, statement: st.ByParty, contract: str) -> CaseRecord:
    case = case_record(records, contract)
    if statement.party not in case.contract.names():
        raise refused(f"{statement.party} is not a party of this contract.")
    return case


def _approved(records: Records, statement: st.ContractApproved, entry: Entry) -> Changed:
    case = _own_case(records, statement, statement.contract)
    in_time(case, entry)
    if case.state is not State.OPEN:
        raise refused(f"The contract is {case.state}: it cannot be approved.", "state-refused")
    if statement.party in case.approvals:
        raise refused(f"{statement.party} has approved this contract before.")
    contribution = case.contract.contributed(statement.party)
    due = contribution.unlocked() if contribution else ()
    if set(statement.keys) != set(due):
        raise refused("An approval seals the keys of exactly the party's own deposits.", "keys-mismatch")
    if statement.rule is not None:
        yield _used(rule_record(records, statement.rule), statement, "approve", case.contract, entry)
    approvals = {**case.approvals, statement.party: entry.index}
    if len(approvals) < len(case.contract.parties):
        yield case.model_copy(update={"approvals": approvals})
    else:
        yield from moved(records, case, Event.LAST_APPROVAL, approvals=approvals, reason="start")


def _rejected(records: Records, statement: st.ContractRejected, entry: Entry) -> Changed:
    case = _own_case(records, statement, statement.contract)
    if statement.rule is not None:
        yield _used(rule_record(records, statement.rule), statement, "reject", case.contract, entry)
    yield from moved(records, case, Event.REJECTED, reason="rejected")


def _used(rule: RuleRecord, statement: st.ByParty, effect: str, contract: Contract, entry: Entry) -> RuleRecord:
    """The standing rule with one use less, if it covers what was done in its name, all of it."""
    stated = rule.stated
    contribution = contract.contributed(statement.party)
    data = set(contribution.commitments()) if contribution else set()
    covers = {
        "party": stated.party == statement.party,
        "effect": stated.effect == effect,
        "function": stated.function == term_digest(contract.computation),
        "data set": bool(data) and data <= set(stated.commitments),
        "time": entry.time < stated.expires.timestamp(),
        "use count": rule.uses < stated.uses,
    }
    if effect == "approve":
        covers["kind"] = isinstance(contract.computation, JointTraining)  # what a capsule tells depends on more
        shown = {recipient.party for recipient in contract.recipients} | set(contract.see_rounds())
        covers["recipients"] = shown <= set(stated.recipients)
        covers["clauses"] = set(stated.clauses) <= {term_digest(clause) for clause in contract.release}
    for what, matches in covers.items():
        if not matches:
            raise refused(f"The standing rule does not cover this: its {what} does not match.", "rule-refused")
    return rule.model_copy(update={"uses": rule.uses + 1})


def _withdrawn(records: Records, statement: st.ContractWithdrawn, entry: Entry) -> Changed:  # noqa: ARG001
    case = _own_case(records, statement, statement.contract)
    if statement.party != case.proposer:
        raise refused(f"Only {case.proposer}, who proposed the contract, can withdraw it.")
    yield from moved(records, case, Event.WITHDRAWN, reason="withdrawn")


def _halted(records: Records, statement: st.ContractHalted, entry: Entry) -> Changed:  # noqa: ARG001
    case = _own_case(records, statement, statement.contract)
    yield from moved(records, case, Event.HALTED, reason="halted")


def _expired(records: Records, statement: st.ContractExpired, entry: Entry) -> Changed:
    case = case_record(records, statement.contract)
    if entry.time < case.contract.limits.expires.timestamp():
        raise refused("The contract has not expired yet.")
    yield from moved(records, case, Event.EXPIRED, reason="expired")


def _key_erased(records: Records, statement: st.KeyErased, entry: Entry) -> Changed:  # noqa: ARG001
    case = case_record(records, statement.contract)
    if not case.ended or case.key_erased:
        raise refused("The run key is erased once, when the contract has ended.", "state-refused")
    yield case.model_copy(update={"key_erased": True})


RULES: Final[Mapping[type[Statement], Callable[[Records, Any, Entry], Changed]]] = MappingProxyType(
    {
        st.ContractProposed: _proposed,
        st.RunKeyOpened: _run_key_opened,
        st.ContractApproved: _approved,
        st.ContractRejected: _rejected,
        st.ContractWithdrawn: _withdrawn,
        st.ContractHalted: _halted,
        st.ContractExpired: _expired,
        st.KeyErased: _key_erased,
    }
)
