"""Everyone whose data is used, and everyone who receives, says yes to the exact bytes; one no is final."""

import json
from typing import Any

import pytest
from support import (
    CONTRIBUTORS,
    EXPIRES,
    LEDGER,
    OPENED,
    PARTIES,
    World,
    contract,
    contribution,
    data_revoked,
    decided,
    document,
    erased,
    expired,
    failed,
    halted,
    limits,
    moment,
    party_revoked,
    refused,
    rejected,
    released,
    run_key,
    signer,
    stage_done,
    started,
    training,
    withdrawn,
)

from contracts import statements as st
from contracts.canonical import canonical
from contracts.contract import drawn_up, validated
from contracts.signing import sign
from contracts.status import turn


def proposal(terms: dict[str, Any] | None = None, by: str = "north") -> st.ContractProposed:
    return st.ContractProposed(ledger=LEDGER, party=by, contract=contract(**(terms or {})))


# what is approved


def test_all_three_approve_the_proposer_and_the_mere_recipient_too() -> None:
    world = World.founded()
    name = world.propose(by="north")
    for number, party in enumerate(PARTIES):
        assert world.state(name) == "open"
        assert turn(world.case(name)) == PARTIES[number:]
        world.approve(name, party)
    assert world.state(name) == "approved"
    assert turn(world.case(name)) == ("escrow",)


@pytest.mark.parametrize("silent", PARTIES)
def test_no_run_while_one_party_is_silent(silent: str) -> None:
    world = World.founded()
    name = world.propose()
    world.approve(name, *(party for party in PARTIES if party != silent))
    assert turn(world.case(name)) == (silent,)
    world.refuses("state-refused", started(name))


def test_an_approval_of_other_bytes_is_an_approval_of_another_contract() -> None:
    world = World.founded()
    name = world.propose()
    altered = contract(title="Joint card-fraud modem").digest()
    assert altered != name
    other = world.approval(name, "harbour").model_copy(update={"contract": altered})
    world.refuses("contract-unknown", other)
    twin = world.propose(contract(title="Joint card-fraud modem"))
    world.submit(other)
    assert list(world.case(twin).approvals) == ["harbour"]
    assert not world.case(name).approvals


def test_an_approval_copied_to_another_contract_does_not_verify() -> None:
    world = World.founded()
    first, second = world.propose(), world.propose(contract(title="another"))
    given = world.signed(world.approval(first, "harbour"))
    moved = world.approval(second, "harbour").payload()
    forged = type(given)(moved, given.payload_type, given.signatures)
    with refused("signature-invalid"):
        world.append(forged)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: json.dumps(whole).encode(),  # white space
        lambda whole: canonical({key: value for key, value in whole.items() if key != "keys"}),  # a default left out
        lambda whole: canonical({**whole, "rule": None}),  # a default written out
        lambda whole: json.dumps(dict(reversed(whole.items())), separators=(",", ":")).encode(),
    ],
)
def test_a_statement_has_one_spelling(spoil: Any) -> None:
    world = World.founded()
    name = world.propose()
    whole = json.loads(world.approval(name, "valley").payload())
    with refused("not-canonical"):
        world.append(sign(spoil(whole), signer("valley")))
    assert not world.case(name).approvals


@pytest.mark.parametrize(
    "spoil",
    [
        {"title": ""},
        {"limits": {**limits(), "grace": 1}},
        {"release": [{"kind": "whatever"}]},
        {"data_schema": {}},
    ],
)
def test_a_malformed_contract_cannot_be_proposed(spoil: dict[str, Any]) -> None:
    world = World.founded()
    whole = json.loads(proposal().payload())
    whole["contract"] |= spoil
    with refused("document-invalid"):
        world.append(sign(canonical(whole), signer("north")))


@pytest.mark.parametrize(
    "loosely",
    [
        lambda text: text.replace('"parties":[{"key"', '"exposure":null,"parties":[{"key"'),
        lambda text: text.replace('"rows":10000', '"rows":"10000"'),
        lambda text: text.replace('"receives":"model"', '"receives":"model" '),
        lambda text: text.replace('"runs":1', '"runs":true'),
        lambda text: text.replace('"receives":"model",', "", 1).replace(',"receives":"model"', "", 1),
        lambda text: text.replace("00:00Z", "00:00+00:00").replace("20Z", "20+00:00"),
    ],
)
def test_a_loosely_spelt_contract_is_not_the_contract(loosely: Any) -> None:
    world = World.founded()
    strict = proposal().payload().decode()
    spelt = loosely(strict)
    assert spelt != strict
    with refused("not-canonical"):
        world.append(sign(spelt.encode(), signer("north")))


def test_unknown_statements_and_keys_are_refused() -> None:
    world = World.founded()
    name = world.propose()
    whole = json.loads(rejected(name, "valley").payload())
    for spoilt in ({**whole, "kind": "contract-forced"}, {**whole, "because": "no"}, [whole], {}):
        with refused("document-invalid"):
            world.append(sign(canonical(spoilt), signer("valley")))


# who approves


def test_nobody_approves_for_another() -> None:
    world = World.founded()
    name = world.propose()
    for who in ("valley", "north", "auditor", "escrow", "stranger"):
        world.refuses("signature-invalid", world.approval(name, "harbour"), signer(who))
        world.refuses("signature-invalid", rejected(name, "harbour"), signer(who))
        world.refuses("signature-invalid", halted(name, "harbour"), signer(who))


def test_a_stranger_or_an_auditor_is_no_party_of_the_contract() -> None:
    world = World.founded()
    name = world.propose()
    for verb in (rejected, halted, withdrawn):
        world.refuses("statement-refused", verb(name, "auditor"))
        world.refuses("party-unknown", verb(name, "stranger"))
    approval = world.approval(name, "valley")
    world.refuses("statement-refused", approval.model_copy(update={"party": "auditor"}))


def test_no_party_says_what_the_escrow_must_say_and_the_escrow_nothing_for_a_party() -> None:
    world = World.founded()
    name = world.propose(key=False)
    for said in (run_key(name), started(name), failed(name), expired(name), erased(name), party_revoked("valley")):
        world.refuses("signature-invalid", said, signer("north"))
    world.submit(run_key(name))
    world.refuses("signature-invalid", world.approval(name, "north"), world.escrow)


def test_once_is_enough() -> None:
    world = World.founded()
    name = world.propose()
    world.approve(name, "valley")
    world.refuses("statement-refused", world.approval(name, "valley"))


@pytest.mark.parametrize("party", CONTRIBUTORS)
def test_an_approval_seals_the_keys_of_exactly_the_partys_own_deposits(party: str) -> None:
    world = World.founded()
    name = world.propose()
    right = world.approval(name, party)
    other = next(iter(world.approval(name, next(each for each in CONTRIBUTORS if each != party)).keys))
    one = next(iter(right.keys))
    for keys in ({}, {one: right.keys[one]}, {**right.keys, other: "c2VhbGVk"}, {other: "c2VhbGVk"}):
        world.refuses("keys-mismatch", right.model_copy(update={"keys": keys}))
    world.submit(right)


def test_a_mere_recipient_seals_nothing() -> None:
    world = World.founded()
    name = world.propose()
    stolen = world.approval(name, "north").keys
    world.refuses("keys-mismatch", world.approval(name, "valley").model_copy(update={"keys": stolen}))


def test_training_rows_that_stay_at_home_are_never_unlocked_but_the_holdout_is() -> None:
    world = World.founded(*CONTRIBUTORS)
    at_home = [contribution(party, placement="party") for party in CONTRIBUTORS]
    name = world.propose(contract(contributions=at_home, computation=training(method={"name": "ensemble"})))
    right = world.approval(name, "north")
    assert list(right.keys) == [at_home[0]["holdout"]["commitment"]]
    world.refuses("keys-mismatch", right.model_copy(update={"keys": {}}))
    world.submit(right)


# no


@pytest.mark.parametrize("no", PARTIES)
def test_one_rejection_is_final_whoever_else_approves(no: str) -> None:
    world = World.founded()
    name = world.propose()
    others = [party for party in PARTIES if party != no]
    world.approve(name, others[0])
    world.submit(rejected(name, no))
    assert world.state(name) == "rejected"
    assert world.case(name).reason == "rejected"
    for party in (others[1], no):
        world.refuses("state-refused", world.approval(name, party))
    world.refuses("state-refused", started(name))
    world.refuses("contract-exists", proposal())  # nor does the same contract come back


def test_a_party_that_approved_may_still_reject_until_everyone_has() -> None:
    world = World.founded()
    name = world.propose()
    world.approve(name, "north", "harbour")
    world.submit(rejected(name, "north"))
    world.refuses("state-refused", world.approval(name, "valley"))
    assert world.state(name) == "rejected"


def test_a_proposal_can_be_rejected_before_its_run_key_is_open() -> None:
    world = World.founded()
    name = world.propose(key=False)
    world.refuses("state-refused", world.approval(name, "valley"))
    world.submit(rejected(name, "harbour"))
    world.refuses("state-refused", run_key(name))


def test_only_the_proposer_withdraws_and_only_before_everyone_approved() -> None:
    world = World.founded()
    name = world.propose(by="harbour")
    world.refuses("statement-refused", withdrawn(name, "north"))
    with world.aside() as other:
        other.submit(withdrawn(name, "harbour"))
        assert other.state(name) == "withdrawn"
    world.approve(name)
    world.refuses("state-refused", withdrawn(name, "harbour"))
    world.refuses("state-refused", rejected(name, "harbour"))  # by now only a halt stops it
    world.submit(halted(name, "harbour"))


@pytest.mark.parametrize("state", ["proposed", "open", "approved", "running", "releasing"])
@pytest.mark.parametrize("party", ["harbour", "valley"])
def test_any_party_halts_at_any_time_before_the_release(state: str, party: str) -> None:
    world = World.founded()
    name = world.brought_to(state)
    world.submit(halted(name, party))
    case = world.case(name)
    assert case.state == "halted"
    assert turn(case) == ("escrow",)  # who owes the erasure of the key
    for said in (started(name, 1), stage_done(name, "prepare"), decided(case), released(case), failed(name)):
        world.refuses(said_too_late(said, case.run), said)
    world.submit(erased(name))
    assert turn(world.case(name)) == ()


def said_too_late(said: st.Statement, run: int) -> str:
    return "runs-exhausted" if isinstance(said, st.RunStarted) and run else "state-refused"


def test_what_is_released_is_not_halted() -> None:
    world = World.founded()
    name = world.brought_to("released")
    for said in (halted(name, "north"), rejected(name, "north"), withdrawn(name, "north")):
        world.refuses("state-refused", said)


# what is revoked


@pytest.mark.parametrize("state", ["proposed", "open", "approved", "running", "releasing"])
@pytest.mark.parametrize("said", [data_revoked("harbour", "train"), data_revoked("harbour", "holdout")])
def test_a_revoked_deposit_ends_what_has_not_released(state: str, said: st.DataRevoked) -> None:
    world = World.founded()
    name = world.brought_to(state)
    world.submit(said)
    assert (world.state(name), world.case(name).reason) == ("halted", "data-revoked")


def test_a_revocation_ends_every_unfinished_contract_over_the_thing_and_no_other() -> None:
    world = World.founded()
    world.deposit("north", suffix="-2")
    fresh = contribution("north")
    for part in ("train", "holdout"):
        fresh[part]["commitment"] = world.held(st_commitment("north", part, "-2")).stated.commitment
    shared = [world.propose(contract(title=f"shared {number}")) for number in range(3)]
    apart = world.propose(contract(contributions=[fresh, contribution("harbour")]))
    done = world.brought_to("released", contract(title="done"))
    world.approve(shared[1])
    changed = world.submit(data_revoked("north", "train"))
    assert {record.key().name for record in changed if record.key().kind == "case"} == set(shared)
    assert [world.state(name) for name in (*shared, apart, done)] == ["halted"] * 3 + ["open", "released"]
    for party in PARTIES:
        assert world.party(party).contracts == (apart,)
    assert world.held(st_commitment("harbour", "train")).contracts == (apart,)
    world.submit(party_revoked("harbour"))
    assert (world.state(apart), world.case(apart).reason) == ("halted", "party-revoked")
    assert world.replayed() == world.documents


def st_commitment(party: str, part: str, suffix: str = "") -> str:
    return data_revoked(party, part, suffix=suffix).commitment


def test_a_revoked_deposit_is_never_proposed_or_revoked_again() -> None:
    world = World.founded()
    world.submit(data_revoked("north", "holdout"))
    world.refuses("deposit-revoked", proposal())
    world.refuses("deposit-revoked", data_revoked("north", "holdout"))


def test_only_its_owner_takes_a_deposit_back() -> None:
    world = World.founded()
    theirs = data_revoked("north", "train").model_copy(update={"party": "harbour"})
    world.refuses("statement-refused", theirs)
    world.refuses("deposit-unknown", data_revoked("north", "train", suffix="-none"))


def test_a_revoked_partys_signature_counts_for_nothing_new() -> None:
    world = World.founded()
    name = world.propose()
    world.approve(name, "valley")
    world.submit(party_revoked("valley"))
    assert world.state(name) == "halted"
    world.refuses("party-revoked", halted(name, "valley"))
    world.refuses("party-revoked", proposal({"title": "again"}))
    world.refuses("party-revoked", party_revoked("valley"))
    world.refuses("party-exists", world.admission("valley"))


# what is proposed


def test_a_proposal_is_checked_against_what_stands_on_the_ledger() -> None:
    world = World.founded()
    world.refuses("statement-refused", proposal(by="auditor"))
    other = contribution("north")
    other["train"]["rows"] += 1
    world.refuses("deposit-mismatch", proposal({"contributions": [other, contribution("harbour")]}))
    swapped = contribution("north")
    swapped["train"]["commitment"], swapped["holdout"]["commitment"] = (
        swapped["holdout"]["commitment"],
        swapped["train"]["commitment"],
    )
    world.refuses("deposit-mismatch", proposal({"contributions": [swapped, contribution("harbour")]}))
    theirs = [contribution("north"), contribution("harbour")]
    theirs[0]["party"], theirs[1]["party"] = "harbour", "north"
    world.refuses("deposit-mismatch", proposal({"contributions": theirs}))
    schema = {**document()["schema"], "label-delay-days": 8}
    world.refuses("deposit-mismatch", proposal({"schema": schema}))
    unknown = contribution("north")
    unknown["train"]["commitment"] = "sha256-salted:" + "0" * 64
    world.refuses("deposit-unknown", proposal({"contributions": [unknown, contribution("harbour")]}))


def test_a_proposal_names_the_keys_the_parties_were_admitted_with() -> None:
    world = World.founded()
    keys = {party: signer(party).key_id for party in PARTIES} | {"valley": signer("stranger").key_id}
    other = drawn_up(validated(document()), keys)
    world.refuses("key-mismatch", st.ContractProposed(ledger=LEDGER, party="north", contract=other))
    draft = validated(document())
    world.refuses("key-mismatch", st.ContractProposed(ledger=LEDGER, party="north", contract=draft))


def test_an_auditor_is_no_party_of_a_contract() -> None:
    world = World.founded()
    names = ["north", "harbour", "auditor"]
    drawn = drawn_up(
        validated(document(parties=names, recipients=[{"party": name} for name in names])),
        {name: signer(name).key_id for name in names},
    )
    world.refuses("statement-refused", st.ContractProposed(ledger=LEDGER, party="north", contract=drawn))


def test_who_is_not_admitted_is_no_party_of_a_contract() -> None:
    world = World.founded()
    names = ["north", "harbour", "stranger"]
    drawn = drawn_up(
        validated(document(parties=names, recipients=[{"party": name} for name in names])),
        {name: signer(name).key_id for name in names},
    )
    world.refuses("party-unknown", st.ContractProposed(ledger=LEDGER, party="north", contract=drawn))


def test_a_proposal_after_its_own_expiry_is_refused() -> None:
    world = World.founded()
    world.now = EXPIRES
    world.refuses("contract-expired", proposal())
    world.now = EXPIRES - 1
    world.submit(proposal())


# expiry


def test_an_expired_contract_is_neither_approved_nor_run_nor_released() -> None:
    world = World.founded()
    open_, approved, releasing = (
        world.brought_to(state, contract(title=state)) for state in ("open", "approved", "releasing")
    )
    late = world.approval(open_, "valley")
    for name in (open_, approved, releasing):
        world.refuses("statement-refused", expired(name))  # not yet
    world.now = EXPIRES
    world.refuses("contract-expired", late)
    world.refuses("contract-expired", started(approved))
    world.refuses("contract-expired", released(world.case(releasing)))
    for name in (open_, approved, releasing):
        world.submit(expired(name))
        assert (world.state(name), world.case(name).reason) == ("expired", "expired")


def test_a_contract_waits_for_its_not_before() -> None:
    world = World.founded()
    soon = OPENED + 3600
    name = world.brought_to("approved", contract(limits=limits(**{"not-before": moment(soon)})))
    world.now = soon - 1
    world.refuses("contract-early", started(name))
    world.now = soon
    world.submit(started(name))
