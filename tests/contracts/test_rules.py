"""The ledger, its parties and their deposits: who may state what, and what is refused by default."""

from typing import Any

import pytest
from support import (
    AGE,
    LEDGER,
    World,
    committed,
    contract,
    data_revoked,
    deposited,
    halted,
    party_revoked,
    refused,
    run_key,
    sha,
    signer,
    withdrawn,
)

from contracts import statements as st
from contracts.canonical import encode_base64
from contracts.proceedings import PROPOSALS_AT_MOST
from contracts.records import Entry, Key
from contracts.rules import apply, wanted
from contracts.signing import sign

OPENING = st.LedgerOpened(ledger=LEDGER, public_key=signer("escrow").public)


def test_the_first_statement_opens_the_ledger_and_only_the_first_does() -> None:
    world = World()
    world.refuses("ledger-unopened", world.admission("north"))
    world.refuses("ledger-unopened", party_revoked("north"))
    world.refuses("party-unknown", deposited("north", "train"))
    world.submit(OPENING)
    world.refuses("statement-refused", OPENING)
    other = st.LedgerOpened(ledger="other.example", public_key=signer("stranger").public)
    world.refuses("statement-refused", other, signer("stranger"))


def test_the_ledger_is_opened_by_the_key_it_names() -> None:
    World().refuses("signature-invalid", OPENING, signer("stranger"))


@pytest.mark.parametrize(
    "said",
    [
        deposited("north", "train", suffix="-2"),
        data_revoked("north", "train"),
        party_revoked("north"),
        halted(sha("any"), "north"),
        run_key(sha("any")),
    ],
)
def test_a_statement_for_another_ledger_means_nothing_here(said: st.Statement) -> None:
    World.founded().refuses("statement-refused", said.model_copy(update={"ledger": "other.example/ledger"}))


def test_a_name_is_given_once_and_never_again() -> None:
    world = World.founded()
    world.refuses("party-exists", world.admission("north"))
    world.refuses("party-exists", world.admission("north", key=signer("another key")))
    world.submit(party_revoked("north"))
    world.refuses("party-exists", world.admission("north", key=signer("another key")))


def test_a_party_is_admitted_on_its_own_signature() -> None:
    world = World.founded()
    right = world.admission("corner")
    with_stolen_key = right.request.model_copy(update={"public_key": signer("north").public})
    for request in (with_stolen_key, right.request.model_copy(update={"name": "valley-two"})):
        world.refuses("signature-invalid", right.model_copy(update={"request": request}))
    world.refuses("not-canonical", right.model_copy(update={"signature": "AAAA="}))
    world.refuses("signature-invalid", right.model_copy(update={"signature": encode_base64(b"\0" * 64)}))
    world.refuses("signature-invalid", right, signer("north"))  # the operator alone admits
    world.submit(right)


def test_a_request_for_another_ledger_admits_nobody_here() -> None:
    world = World.founded()
    own = signer("corner")
    request = st.EnrolmentRequest(
        ledger="other.example", name="corner", role="party", public_key=own.public, recipient=AGE
    )
    [signature] = sign(request.payload(), own).signatures
    said = st.PartyAdmitted(ledger=LEDGER, request=request, signature=encode_base64(signature.sig))
    world.refuses("statement-refused", said)


def test_a_request_alone_is_no_statement() -> None:
    world = World.founded()
    with refused("document-invalid"):
        world.append(sign(world.admission("corner").request.payload(), signer("corner")))


def test_only_who_was_admitted_is_revoked() -> None:
    world = World.founded()
    world.refuses("party-unknown", party_revoked("corner"))
    world.refuses("signature-invalid", party_revoked("north"), signer("harbour"))


def test_a_deposit_is_stated_once_by_an_admitted_party() -> None:
    world = World.founded()
    world.refuses("deposit-exists", deposited("north", "train"))
    world.refuses("deposit-exists", deposited("harbour", "train", commitment=committed("north/train")))
    world.refuses("party-unknown", deposited("corner", "train"))
    world.refuses("statement-refused", deposited("auditor", "train"))
    world.refuses("signature-invalid", deposited("north", "train", suffix="-2"), signer("harbour"))
    world.refuses("signature-invalid", deposited("north", "train", suffix="-2"), world.escrow)
    world.submit(data_revoked("north", "train"))
    world.refuses("deposit-exists", deposited("north", "train"))


@pytest.mark.parametrize(
    ("part", "terms"),
    [
        ("train", {"rows": None}),
        ("train", {"positives": 3}),
        ("holdout", {"rows": None}),
        ("holdout", {"positives": None}),
    ],
)
def test_a_deposit_states_its_own_counts_and_no_others(part: str, terms: dict[str, Any]) -> None:
    World.founded().refuses("statement-refused", deposited("north", part, suffix="-2", **terms))


def test_an_incumbent_model_has_no_rows() -> None:
    world = World.founded()
    with_rows = deposited("north", "train", suffix="-2").model_copy(update={"part": "incumbent"})
    world.refuses("statement-refused", with_rows)
    world.submit(with_rows.model_copy(update={"rows": None}))


def test_the_bytes_of_a_partys_deposits_are_counted_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World.founded()
    before = world.party("north").deposited
    world.submit(deposited("north", "train", suffix="-2", size=1000))
    assert world.party("north").deposited == before + 1000
    with monkeypatch.context() as less:
        less.setattr("contracts.rules.DEPOSITED_AT_MOST", before + 1999)
        world.refuses("quota-exceeded", deposited("north", "train", suffix="-3", size=1000))
    world.propose()
    world.submit(data_revoked("north", "train"))  # ends a contract of the party, too
    world.submit(data_revoked("north", "train", suffix="-2"))
    assert world.party("north").deposited == before - deposited("north", "train").size
    assert world.replayed() == world.documents


def test_a_party_has_a_bounded_number_of_proposals_that_have_not_ended() -> None:
    world = World.founded()
    names = [world.propose(contract(title=f"Contract {number}")) for number in range(PROPOSALS_AT_MOST)]
    one_more = st.ContractProposed(ledger=LEDGER, party="north", contract=contract(title="One more"))
    world.refuses("quota-exceeded", one_more)
    world.propose(contract(title="Another's"), by="harbour")
    world.submit(withdrawn(names[0], "north"))
    world.submit(one_more)
    assert world.party("north").proposals == PROPOSALS_AT_MOST
    assert world.party("harbour").proposals == 1
    assert world.replayed() == world.documents


def test_a_refused_statement_changes_nothing_even_half_way() -> None:
    """A revocation that fails late (its contract's record is missing) yields no record at all."""
    world = World.founded()
    world.propose()
    without = {key: record for key, record in world.records.items() if key.kind != "case"}
    said = data_revoked("north", "train")
    with refused("contract-unknown"):
        apply(without, Entry(index=9, time=world.now, statement=said))


def test_what_is_read_does_not_grow_with_other_peoples_contracts() -> None:
    """A revocation reads the contracts of the revoked thing, not those of everybody they have to do with."""
    world = World.founded()
    world.deposit("valley")
    name = world.propose()
    shown = {key.name for key in world.prefetched(data_revoked("valley", "train")) if key.kind == "case"}
    assert shown == set()
    shown = {key.name for key in world.prefetched(data_revoked("north", "train")) if key.kind == "case"}
    assert shown == {name}


def test_wanted_names_a_party_and_the_ledger_whatever_is_said() -> None:
    for said in (deposited("north", "train"), data_revoked("north", "train"), halted(sha("x"), "north")):
        assert {Key("ledger", "ledger"), Key("party", "north")} <= wanted(said, {})
