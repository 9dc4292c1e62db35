"""Who may state what, and when: the whole law that needs the ledger, as one pure function.

`apply(records, entry)` either refuses a statement with an `EscrowError` or returns the records it changes. The escrow
runs it before it appends; replay and every auditor run the same function. Deny by default: a statement that no rule
permits is refused. The rules on ledger, parties, deposits and standing rules stand here; those on a contract's course
in `contracts.proceedings`, those on its runs in `contracts.running`.

 1. The first statement opens the ledger, and only the first does.
 2. Every statement names this ledger and is signed by the key its signer was admitted with (`authority`).
 3. A party is admitted once under a name, on its own signature; revoked, its unfinished contracts are halted.
 4. A deposit is stated by its owner, once; revoked, every unfinished contract that uses it is halted. The bytes of a
    party's deposits are counted and bounded; so is a capsule, which the escrow opens in memory.
 5. A standing rule is made, once, and revoked by the party that it binds.
 6. Whoever was admitted revokes TLS keys of its own: each once, and a bounded number.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from contracts import proceedings, running
from contracts import statements as st
from contracts.canonical import decode_base64
from contracts.capsule import PACKED_BYTES_AT_MOST
from contracts.contract import Contract
from contracts.lifecycle import Event
from contracts.proceedings import moved, refused
from contracts.records import (
    CaseRecord,
    DepositRecord,
    Entry,
    Key,
    LedgerRecord,
    PartyRecord,
    Record,
    Records,
    RuleRecord,
    case_record,
    deposit_record,
    ledger_record,
    party_record,
    rule_record,
)
from contracts.signing import PAYLOAD_TYPE, pae, verify_bytes
from contracts.statements import Statement

REVOKED_KEYS_AT_MOST: Final = 256  # of one party
DEPOSITED_AT_MOST: Final = 1 << 50  # bytes of one party; an escrow has room for less and refuses sooner

Changed = Iterator[Record]


def apply(records: Records, entry: Entry) -> tuple[Record, ...]:
    """The records that `entry` changes.

    `records` must hold everything that `wanted` names. The entry's signature must have been verified against
    `authority`.

    Raises:
        EscrowError: the statement is refused; nothing changes.
    """
    statement = entry.statement
    if not isinstance(statement, st.LedgerOpened) and statement.ledger != ledger_record(records).origin:
        raise refused(f"The statement is meant for another ledger, {statement.ledger}.")
    return tuple(_RULES[type(statement)](records, statement, entry))


def authority(records: Records, statement: Statement) -> str:
    """The public key that must have signed `statement`."""
    if isinstance(statement, st.LedgerOpened):
        return statement.public_key
    if isinstance(statement, st.ByParty):
        own = party_record(records, statement.party).request.public_key
        if isinstance(statement, st.ContractApproved | st.ContractRejected) and statement.rule is not None:
            return rule_record(records, statement.rule).stated.key
        return own
    return ledger_record(records).public_key


_NEEDS_CASE_ONLY: Final = (st.ContractApproved, st.StageCompleted, st.RunKeyOpened, st.KeyErased)


def wanted(statement: Statement, records: Records) -> set[Key]:
    """The records that `authority` and `apply` will ask for, as far as `records` tells.

    Asked again with what was found until nothing is new, which is at the fourth time at the latest.
    """
    keys = {Key("ledger", "ledger")}
    if isinstance(statement, st.ByParty):
        keys.add(Key("party", statement.party))
    match statement:
        case st.PartyAdmitted():
            keys.add(Key("party", statement.request.name))
        case st.PartyRevoked():
            keys.add(Key("party", statement.name))
        case st.DataDeposited() | st.DataRevoked():
            keys.add(Key("deposit", statement.commitment))
        case st.RuleMade():
            keys.add(Key("rule", statement.digest()))
        case st.ContractProposed():
            keys |= {Key("case", statement.contract.digest()), *_parts(statement.contract)}
        case _:
            keys |= _cited(statement)
    return keys | _behind(statement, records)


def _cited(statement: Statement) -> set[Key]:
    """The contract, and the standing rule if any, that a statement names by digest."""
    found = {("case", getattr(statement, "contract", None)), ("rule", getattr(statement, "rule", None))}
    return {Key(kind, name) for kind, name in found if isinstance(name, str)}  # type: ignore[arg-type]


def _parts(contract: Contract) -> set[Key]:
    parties = {Key("party", name) for name in contract.names()}
    return parties | {Key("deposit", commitment) for commitment in contract.commitments()}


def _behind(statement: Statement, records: Records) -> set[Key]:
    """What named records lead to: contracts of a revoked thing, parties and deposits of a contract that may end."""
    keys: set[Key] = set()
    if (gone := _revoked(statement, records)) is not None:
        keys |= {Key("case", name) for name in gone.contracts}
    if not isinstance(statement, _NEEDS_CASE_ONLY):
        for record in records.values():
            if isinstance(record, CaseRecord):
                keys |= _parts(record.contract)
    return keys


def _revoked(statement: Statement, records: Records) -> PartyRecord | DepositRecord | None:
    """What the statement revokes: its contracts end, not those of others that share a contract with it."""
    found: Record | None = None
    if isinstance(statement, st.PartyRevoked):
        found = records.get(Key("party", statement.name))
    if isinstance(statement, st.DataRevoked):
        found = records.get(Key("deposit", statement.commitment))
    return found if isinstance(found, PartyRecord | DepositRecord) else None


def _ledger_opened(records: Records, statement: st.LedgerOpened, entry: Entry) -> Changed:
    if entry.index != 0 or Key("ledger", "ledger") in records:
        raise refused("The ledger is already open.")
    yield LedgerRecord(origin=statement.ledger, public_key=statement.public_key)


def _party_admitted(records: Records, statement: st.PartyAdmitted, entry: Entry) -> Changed:  # noqa: ARG001
    request = statement.request
    if Key("party", request.name) in records:
        raise refused(f"{request.name} was admitted before.", "party-exists")
    if request.ledger != statement.ledger:
        raise refused(f"{request.name} asked to be admitted to another ledger, {request.ledger}.")
    verify_bytes(pae(PAYLOAD_TYPE, request.payload()), decode_base64(statement.signature), request.public_key)
    yield PartyRecord(request=request)


def _party_revoked(records: Records, statement: st.PartyRevoked, entry: Entry) -> Changed:  # noqa: ARG001
    record = party_record(records, statement.name)
    yield from _gone(records, record.contracts, "party-revoked", record.model_copy(update={"revoked": True}))


def _data_deposited(records: Records, statement: st.DataDeposited, entry: Entry) -> Changed:  # noqa: ARG001
    if Key("deposit", statement.commitment) in records:
        raise refused("This commitment was deposited before.", "deposit-exists")
    party = party_record(records, statement.party)
    if party.request.role != "party":
        raise refused(f"{statement.party} was not admitted as a party: it deposits nothing.")
    if (statement.rows is None) != (statement.part in {"incumbent", "capsule"}):
        raise refused("A deposit of rows states how many; an incumbent model and a capsule have none.")
    if (statement.positives is None) != (statement.part != "holdout"):
        raise refused("A holdout deposit states its positives, and no other does.")
    if (statement.data_schema is None) != (statement.part in {"table", "capsule"}):
        raise refused("What a joint training uses states its schema; a table and a capsule have none.")
    if (statement.blob is None) != (statement.size == 0) or (statement.blob is None and statement.part != "train"):
        raise refused("A deposit is an encrypted file of at least one byte; training rows alone may stay at the bank.")
    if statement.part == "capsule" and statement.size > PACKED_BYTES_AT_MOST:
        raise refused(f"A capsule has at most {PACKED_BYTES_AT_MOST >> 20} MiB.", "quota-exceeded")
    deposited = party.deposited + statement.size
    if deposited > DEPOSITED_AT_MOST:
        raise refused(f"{statement.party}'s deposits have at most {DEPOSITED_AT_MOST} bytes.", "quota-exceeded")
    yield DepositRecord(stated=statement)
    yield party.model_copy(update={"deposited": deposited})


def _data_revoked(records: Records, statement: st.DataRevoked, entry: Entry) -> Changed:  # noqa: ARG001
    record = deposit_record(records, statement.commitment)
    if record.stated.party != statement.party:
        raise refused(f"The deposit is not {statement.party}'s.")
    party = party_record(records, statement.party)
    less = party.model_copy(update={"deposited": party.deposited - record.stated.size})
    yield from _gone(records, record.contracts, "data-revoked", record.model_copy(update={"revoked": True}), less)


def _gone(records: Records, contracts: Sequence[str], reason: str, *changed: Record) -> Changed:
    """What `changed`, and every unfinished contract it ends, halted one after another, for they may share records."""
    now = {**records, **{record.key(): record for record in changed}}
    touched = {record.key() for record in changed}
    for name in contracts:
        for record in moved(now, case_record(now, name), Event.HALTED, reason=reason):
            now[record.key()] = record
            touched.add(record.key())
    yield from (now[key] for key in sorted(touched))


def _rule_made(records: Records, statement: st.RuleMade, entry: Entry) -> Changed:
    if entry.time >= statement.expires.timestamp():
        raise refused("The standing rule has expired before it was made.", "rule-refused")
    if Key("rule", statement.digest()) in records:
        raise refused("This very standing rule was made before.", "rule-refused")
    yield RuleRecord(digest=statement.digest(), stated=statement)


def _rule_revoked(records: Records, statement: st.RuleRevoked, entry: Entry) -> Changed:  # noqa: ARG001
    record = rule_record(records, statement.rule)
    if record.stated.party != statement.party:
        raise refused(f"The standing rule is not {statement.party}'s.")
    yield record.model_copy(update={"revoked": True})


def _certificate_revoked(records: Records, statement: st.CertificateRevoked, entry: Entry) -> Changed:  # noqa: ARG001
    record = party_record(records, statement.party)
    if statement.key in record.revoked_keys:
        raise refused("This TLS key was revoked before.")
    if len(record.revoked_keys) >= REVOKED_KEYS_AT_MOST:
        raise refused(f"A party revokes at most {REVOKED_KEYS_AT_MOST} TLS keys.")
    yield record.model_copy(update={"revoked_keys": (*record.revoked_keys, statement.key)})


_RULES: Final[Mapping[type[Statement], Callable[[Records, Any, Entry], Changed]]] = MappingProxyType(
    {
        st.LedgerOpened: _ledger_opened,
        st.PartyAdmitted: _party_admitted,
        st.PartyRevoked: _party_revoked,
        st.DataDeposited: _data_deposited,
        st.DataRevoked: _data_revoked,
        st.RuleMade: _rule_made,
        st.RuleRevoked: _rule_revoked,
        st.CertificateRevoked: _certificate_revoked,
        **proceedings.RULES,
        **running.RULES,
    }
)
