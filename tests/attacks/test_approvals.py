"""A party acts for another, again, differently, or under a rule that says less than it would need."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from contracts import statements as st
from contracts.canonical import canonical, parse
from contracts.proceedings import term_digest
from contracts.signing import Ed25519Signer, Envelope, sign
from scenarios import hostile, tiny
from scenarios.consortium import ORIGIN, Consortium

pytestmark = pytest.mark.wires


@pytest.fixture
def robot() -> Ed25519Signer:
    """The key of a bank's automation."""
    return Ed25519Signer.from_seed(bytes(range(32)))


def rule(consortium: Consortium, digest: str, robot: Ed25519Signer, **changes: Any) -> st.RuleMade:
    """North's standing rule that covers exactly one contract's function, data, recipients and clauses, once."""
    contract = consortium.banks["north"].view(digest).contract
    own = contract.contribution("north")
    assert own is not None
    covering: dict[str, Any] = {
        "ledger": ORIGIN,
        "party": "north",
        "effect": "approve",
        "key": robot.public,
        "function": term_digest(contract.computation),
        "commitments": own.commitments(),
        "recipients": tuple(each.party for each in contract.recipients),
        "clauses": tuple(term_digest(clause) for clause in contract.release),
        "expires": datetime.fromtimestamp(consortium.core.now() + 1000, UTC),
        "uses": 1,
    }
    return st.RuleMade(**{**covering, **changes})


def by_rule(consortium: Consortium, digest: str, made: st.RuleMade) -> st.ContractApproved:
    return hostile.approval(consortium.banks["north"], digest).model_copy(update={"rule": made.digest()})


def test_nobody_submits_what_another_signed(consortium: Consortium, refused: Any) -> None:
    digest = tiny.proposed(consortium)
    north, harbour = consortium.banks.values()
    before = consortium.core.ledger.size()
    with refused("not-permitted"):
        hostile.submit(north.escrow, hostile.approval(harbour, digest), harbour.identity.signer)
    assert consortium.core.ledger.size() == before
    assert north.view(digest).approved == ()


def test_nobody_signs_in_anothers_name(consortium: Consortium, refused: Any) -> None:
    digest = tiny.proposed(consortium)
    north, harbour = consortium.banks.values()
    forged = hostile.approval(harbour, digest)
    with refused("not-permitted"):
        hostile.submit(north.escrow, forged, north.identity.signer)
    with refused("signature-invalid"):
        hostile.submit(harbour.escrow, forged, north.identity.signer)
    assert harbour.view(digest).approved == ()


def test_the_operator_cannot_approve(consortium: Consortium, refused: Any) -> None:
    digest = tiny.proposed(consortium)
    harbour = consortium.banks["harbour"]
    with refused("signature-invalid"):
        statement = hostile.approval(harbour, digest)
        consortium.core.accept(sign(statement.payload(), consortium.core.signer), statement)


def test_an_altered_approval_is_refused(consortium: Consortium, refused: Any) -> None:
    first, second = tiny.proposed(consortium), tiny.proposed(consortium, title="Another contract")
    north = consortium.banks["north"]
    signed = sign(hostile.approval(north, first).payload(), north.identity.signer)
    document = parse(signed.payload)
    assert isinstance(document, dict)
    altered = replace(signed, payload=canonical({**document, "contract": second}))
    with refused("signature-invalid"):
        north.escrow.submit(altered.to_bytes())
    assert north.view(second).approved == ()


def test_a_replayed_approval_changes_nothing(consortium: Consortium) -> None:
    digest = tiny.proposed(consortium)
    north = consortium.banks["north"]
    signed = sign(hostile.approval(north, digest).payload(), north.identity.signer).to_bytes()
    first = north.escrow.submit(signed)
    size = consortium.core.ledger.size()
    second = north.escrow.submit(signed)
    assert (first.index, first.time, first.envelope) == (second.index, second.time, second.envelope)
    assert consortium.core.ledger.size() == size
    assert north.view(digest).approved == ("north",)


def test_a_second_approval_does_not_count_for_another_party(consortium: Consortium, refused: Any) -> None:
    digest = tiny.proposed(consortium)
    consortium.approve(digest, "north")
    with refused("statement-refused"):
        consortium.approve(digest, "north")
    with refused("state-refused"):
        consortium.core.run(digest)
    assert consortium.banks["north"].view(digest).turn == ("harbour",)


def test_an_approval_for_another_ledger_means_nothing_here(consortium: Consortium, refused: Any) -> None:
    digest = tiny.proposed(consortium)
    north = consortium.banks["north"]
    elsewhere = hostile.approval(north, digest, ledger="other.example/ledger")
    with refused("statement-refused"):
        hostile.submit(north.escrow, elsewhere, north.identity.signer)


def test_a_rejection_stands_whatever_the_others_say(consortium: Consortium, refused: Any) -> None:
    digest = tiny.proposed(consortium)
    consortium.approve(digest, "north")
    consortium.banks["harbour"].reject(digest)
    for name in consortium.banks:
        with refused("state-refused"):
            consortium.approve(digest, name)
    with refused("state-refused"):
        consortium.core.run(digest)
    view = consortium.banks["north"].view(digest)
    assert (view.state, view.turn) == ("rejected", ())


def test_an_approval_seals_the_keys_of_exactly_the_own_deposits(consortium: Consortium, refused: Any) -> None:
    digest = tiny.proposed(consortium)
    north, harbour = consortium.banks.values()
    own, other = (hostile.approval(bank, digest) for bank in (north, harbour))
    for keys in ({}, other.keys, own.keys | other.keys, dict(list(own.keys.items())[:1])):
        with refused("keys-mismatch"):
            hostile.submit(north.escrow, own.model_copy(update={"keys": keys}), north.identity.signer)
    assert north.view(digest).approved == ()


def test_sessions_of_two_banks_at_once_never_act_for_each_other(consortium: Consortium) -> None:
    digests = [tiny.proposed(consortium, title=f"Contract {number}") for number in range(6)]
    start = threading.Barrier(2)

    def answer(name: str) -> None:
        start.wait()
        for number, digest in enumerate(digests):
            if name == "north" or number % 2:
                consortium.banks[name].approve(digest)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(answer, consortium.banks))
    for number, digest in enumerate(digests):
        assert set(consortium.banks["north"].view(digest).approved) == (
            {"north", "harbour"} if number % 2 else {"north"}
        )


def test_a_standing_rule_approves_what_it_covers(consortium: Consortium, robot: Ed25519Signer) -> None:
    digest = tiny.proposed(consortium)
    north = consortium.banks["north"]
    made = rule(consortium, digest, robot)
    north.submit(made)
    hostile.submit(north.escrow, by_rule(consortium, digest, made), robot)
    consortium.approve(digest, "harbour")
    assert north.view(digest).state == "approved"


@pytest.mark.parametrize(
    "narrower",
    [
        {"function": "sha256:" + 64 * "0"},
        {"commitments": ("sha256-salted:" + 64 * "0",)},
        {"recipients": ("north",)},
        {"clauses": ("sha256:" + 64 * "0",)},
        {"effect": "reject"},
    ],
    ids=["function", "data set", "recipient", "clause", "effect"],
)
def test_a_standing_rule_covers_nothing_more(
    consortium: Consortium, robot: Ed25519Signer, narrower: dict[str, Any], refused: Any
) -> None:
    digest = tiny.proposed(consortium)
    north = consortium.banks["north"]
    made = rule(consortium, digest, robot, **narrower)
    north.submit(made)
    with refused("rule-refused"):
        hostile.submit(north.escrow, by_rule(consortium, digest, made), robot)
    assert north.view(digest).approved == ()


def test_a_standing_rule_ends_with_its_uses_its_time_and_its_revocation(
    consortium: Consortium, robot: Ed25519Signer, clock: tiny.Clock, refused: Any
) -> None:
    digests = [tiny.proposed(consortium, title=f"Contract {number}") for number in range(3)]
    north = consortium.banks["north"]
    once = rule(consortium, digests[0], robot)
    north.submit(once)
    hostile.submit(north.escrow, by_rule(consortium, digests[0], once), robot)
    with refused("rule-refused"):
        hostile.submit(north.escrow, by_rule(consortium, digests[1], once), robot)
    twice = rule(consortium, digests[1], robot, uses=2)
    north.submit(twice)
    clock.time += 1000
    with refused("rule-refused"):
        hostile.submit(north.escrow, by_rule(consortium, digests[1], twice), robot)
    later = rule(consortium, digests[2], robot, expires=datetime.fromtimestamp(clock.time + 1000, UTC))
    north.submit(later)
    north.submit(st.RuleRevoked(ledger=ORIGIN, party="north", rule=later.digest()))
    with refused("rule-refused"):
        hostile.submit(north.escrow, by_rule(consortium, digests[2], later), robot)


def test_a_bank_cannot_approve_under_its_own_rule_for_another(
    consortium: Consortium, robot: Ed25519Signer, refused: Any
) -> None:
    digest = tiny.proposed(consortium)
    north, harbour = consortium.banks.values()
    made = rule(consortium, digest, robot)
    north.submit(made)
    forged = hostile.approval(harbour, digest).model_copy(update={"rule": made.digest()})
    with refused("rule-refused"):
        hostile.submit(harbour.escrow, forged, robot)


def test_a_rules_key_signs_nothing_else(consortium: Consortium, robot: Ed25519Signer, refused: Any) -> None:
    digest = tiny.proposed(consortium)
    north = consortium.banks["north"]
    north.submit(rule(consortium, digest, robot))
    with refused("signature-invalid"):
        hostile.submit(north.escrow, hostile.approval(north, digest), robot)
    with refused("signature-invalid"):
        hostile.submit(north.escrow, st.ContractHalted(ledger=ORIGIN, party="north", contract=digest), robot)


def test_a_stranger_sees_and_does_nothing(consortium: Consortium, refused: Any) -> None:
    digest = tiny.proposed(consortium)
    stranger = consortium.join("stranger")
    with refused("contract-unknown"):
        stranger.view(digest)
    with refused("contract-unknown"):
        list(stranger.escrow.collect(digest))
    with refused("statement-refused"):
        stranger.halt(digest)
    assert stranger.escrow.contracts() == () == stranger.escrow.deposits()
    with refused("party-unknown"):
        consortium.core.session("nobody")


def test_a_revoked_bank_is_out_and_its_contracts_halt(consortium: Consortium, refused: Any) -> None:
    digest = tiny.approved(consortium)
    consortium.core.revoke("harbour")
    view = consortium.banks["north"].view(digest)
    assert (view.state, view.reason) == ("halted", "party-revoked")
    with refused("party-revoked"):
        consortium.core.session("harbour")
    with refused("party-revoked"):
        consortium.banks["harbour"].halt(digest)


def test_two_signatures_or_none_are_no_statement(consortium: Consortium, refused: Any) -> None:
    digest = tiny.proposed(consortium)
    north = consortium.banks["north"]
    signed = sign(hostile.approval(north, digest).payload(), north.identity.signer)
    for signatures in ((), signed.signatures * 2):
        with refused("document-invalid"):
            north.escrow.submit(Envelope(signed.payload, signed.payload_type, signatures).to_bytes())
