"""A standing rule answers for a party exactly what it names: function, data, recipients, clauses, time and number."""

from typing import Any

import pytest
from support import (
    EXPIRES,
    LEDGER,
    OPENED,
    World,
    committed,
    contract,
    contribution,
    document,
    expired,
    gain,
    limits,
    party_revoked,
    refused,
    rejected,
    signer,
    training,
)

from contracts import statements as st
from contracts.canonical import digest
from contracts.contract import Contract, drawn_up, validated
from contracts.proceedings import term_digest

ROBOT = signer("north's automation")


def rule(effect: str = "approve", agreed: Contract | None = None, **terms: Any) -> st.RuleMade:
    """North's rule for the small contract, with some terms replaced."""
    agreed = agreed or contract()
    return st.RuleMade.model_validate(
        {
            "ledger": LEDGER,
            "party": "north",
            "effect": effect,
            "key": ROBOT.public,
            "function": term_digest(agreed.computation),
            "commitments": agreed.contribution("north").commitments(),  # type: ignore[union-attr]
            "recipients": [recipient.party for recipient in agreed.recipients],
            "clauses": [term_digest(agreed.release[0])],
            "expires": "2024-01-01T00:00:00Z",
            "uses": 1,
            **terms,
        }
    )


def by_rule(world: World, name: str, made: st.RuleMade) -> st.ContractApproved:
    return world.approval(name, "north", rule=made.digest())


def covered(proposal: Contract, made: st.RuleMade) -> None:
    """The rule approves the proposal."""
    world = World.founded(*proposal.at_home())
    world.submit(made)
    name = world.propose(proposal, by="harbour")
    world.submit(by_rule(world, name, made), ROBOT)
    assert list(world.case(name).approvals) == ["north"]


def uncovered(proposal: Contract, made: st.RuleMade, *, world: World | None = None) -> None:
    """The rule does not approve the proposal, but its party may still do so itself."""
    world = world or World.founded(*proposal.at_home())
    world.submit(made)
    name = world.propose(proposal, by="harbour")
    world.refuses("rule-refused", by_rule(world, name, made), ROBOT)
    world.approve(name, "north")


def test_a_rule_approves_what_it_names_and_is_used_up() -> None:
    world = World.founded()
    made = rule()
    world.submit(made)
    first, second = (world.propose(contract(title=title), by="harbour") for title in ("first", "second"))
    world.submit(by_rule(world, first, made), ROBOT)
    world.refuses("rule-refused", by_rule(world, second, made), ROBOT)
    world.approve(first, "harbour", "valley")
    assert world.state(first) == "approved"
    assert world.replayed() == world.documents


def test_a_rule_is_used_as_often_as_it_says() -> None:
    world = World.founded()
    made = rule(uses=3)
    world.submit(made)
    names = [world.propose(contract(title=f"number {number}"), by="harbour") for number in range(4)]
    for name in names[:3]:
        world.submit(by_rule(world, name, made), ROBOT)
    world.refuses("rule-refused", by_rule(world, names[3], made), ROBOT)


@pytest.mark.parametrize(
    "terms",
    [
        {"computation": training(model={"family": "logistic", "epochs": 13})},
        {"computation": training(method={"name": "fedavg"})},
        {"computation": training(replicates=2001)},
        {"release": [gain("north", **{"more-than": 0.01}), gain("harbour")]},
        {"release": [gain("north", confidence=0.9), gain("harbour")]},
        {"release": [gain("harbour")]},
    ],
)
def test_another_function_or_a_missing_clause_is_not_covered(terms: dict[str, Any]) -> None:
    uncovered(contract(**terms), rule())


def test_further_clauses_and_fewer_recipients_are_covered() -> None:
    covered(contract(release=[gain("harbour"), gain("north"), gain("harbour", confidence=0.9)]), rule())
    covered(contract(recipients=[{"party": "valley"}]), rule())


def test_another_recipient_is_not_covered() -> None:
    uncovered(contract(), rule(recipients=["north", "harbour"]))
    uncovered(contract(), rule(recipients=[]))


def test_who_sees_the_rounds_receives_the_model_whatever_the_verdict() -> None:
    at_home = [contribution("north"), contribution("harbour", placement="party")]
    shown = contract(
        contributions=at_home,
        computation=training(method={"name": "fedavg"}),
        exposure="parties-see-rounds",
        recipients=[{"party": "north"}, {"party": "valley"}],
    )
    uncovered(shown, rule(agreed=shown))
    covered(shown, rule(agreed=shown, recipients=["north", "valley", "harbour"]))


def test_another_data_set_is_not_covered() -> None:
    train, holdout = contribution("north")["train"]["commitment"], contribution("north")["holdout"]["commitment"]
    uncovered(contract(), rule(commitments=[train]))
    uncovered(contract(), rule(commitments=[holdout]))
    covered(contract(), rule(commitments=[holdout, train]))
    fresh = contribution("north")
    fresh["train"]["commitment"] = committed("north/train-2")
    world = World.founded()
    world.deposit("north", suffix="-2")
    uncovered(contract(contributions=[fresh, contribution("harbour")]), rule(), world=world)


def test_a_party_without_data_cannot_be_bound_by_a_rule_about_data() -> None:
    world = World.founded()
    robot = signer("valley's automation")
    made = rule(party="valley", key=robot.public)
    world.submit(made)
    name = world.propose()
    world.refuses("rule-refused", world.approval(name, "valley", rule=made.digest()), robot)


def test_a_rule_ends_at_its_expiry() -> None:
    world = World.founded()
    made = rule(expires="2023-11-15T00:00:00Z")
    world.submit(made)
    name = world.propose(by="harbour")
    world.now = int(made.expires.timestamp())
    world.refuses("rule-refused", by_rule(world, name, made), ROBOT)
    world.now -= 1
    world.submit(by_rule(world, name, made), ROBOT)


def test_a_rule_that_has_expired_is_not_made() -> None:
    World.founded().refuses("rule-refused", rule(expires="2023-11-14T22:13:20Z"))
    assert OPENED == 1_700_000_000


def test_a_revoked_rule_says_nothing_and_cannot_be_renewed_by_repetition() -> None:
    world = World.founded()
    made = rule()
    world.submit(made)
    name = world.propose(by="harbour")
    revocation = st.RuleRevoked(ledger=LEDGER, party="north", rule=made.digest())
    world.refuses("statement-refused", revocation.model_copy(update={"party": "harbour"}))
    world.submit(revocation)
    world.refuses("rule-refused", by_rule(world, name, made), ROBOT)
    world.refuses("rule-refused", revocation)
    world.refuses("rule-refused", made)  # the operator repeats the party's old statement
    world.refuses("rule-unknown", st.RuleRevoked(ledger=LEDGER, party="north", rule=digest(b"none")))


def test_a_used_up_rule_cannot_be_renewed_by_repetition() -> None:
    world = World.founded()
    made = rule()
    world.submit(made)
    world.submit(by_rule(world, world.propose(by="harbour"), made), ROBOT)
    world.refuses("rule-refused", made)
    world.submit(rule(uses=2))  # another rule, which the party itself signs


def test_only_the_rules_own_key_speaks_for_it() -> None:
    world = World.founded()
    made = rule()
    world.submit(made)
    name = world.propose(by="harbour")
    for who in ("north", "harbour", "escrow", "stranger"):
        world.refuses("signature-invalid", by_rule(world, name, made), signer(who))
    world.refuses("signature-invalid", world.approval(name, "north"), ROBOT)  # without naming the rule
    world.refuses("rule-unknown", world.approval(name, "north", rule=digest(b"none")), ROBOT)


def test_the_rules_key_makes_no_other_statement() -> None:
    world = World.founded()
    made = rule()
    world.submit(made)
    name = world.propose(by="harbour")
    halt = st.ContractHalted(ledger=LEDGER, party="north", contract=name)
    for said in (halt, rule(uses=9), st.DataRevoked(ledger=LEDGER, party="north", commitment=made.commitments[0])):
        world.refuses("signature-invalid", said, ROBOT)


def test_a_rule_binds_the_party_that_made_it_and_no_other() -> None:
    world = World.founded()
    both = [each for party in ("north", "harbour") for each in contract().contribution(party).commitments()]  # type: ignore[union-attr]
    made = rule(commitments=both)
    world.submit(made)
    name = world.propose()
    world.refuses("rule-refused", world.approval(name, "harbour", rule=made.digest()), ROBOT)
    world.refuses("rule-refused", rejected(name, "harbour", rule=made.digest()), ROBOT)
    world.refuses("signature-invalid", world.approval(name, "harbour", rule=made.digest()))


@pytest.mark.parametrize("effect", ["approve", "reject"])
def test_a_rule_says_yes_or_no_never_both(effect: str) -> None:
    world = World.founded()
    made = rule(effect)
    world.submit(made)
    name = world.propose(by="harbour")
    yes, no = by_rule(world, name, made), rejected(name, "north", rule=made.digest())
    world.refuses("rule-refused", no if effect == "approve" else yes, ROBOT)
    world.submit(yes if effect == "approve" else no, ROBOT)
    assert world.state(name) == ("open" if effect == "approve" else "rejected")


def test_a_rejecting_rule_stays_with_its_function_and_data_set() -> None:
    world = World.founded()
    other = contract(computation=training(model={"family": "mlp"}))
    made = rule("reject")
    world.submit(made)
    name = world.propose(other)
    world.refuses("rule-refused", rejected(name, "north", rule=made.digest()), ROBOT)


def test_a_revoked_partys_rule_falls_with_it() -> None:
    world = World.founded()
    made = rule()
    world.submit(made)
    name = world.propose(by="harbour")
    said = by_rule(world, name, made)
    world.submit(party_revoked("north"))
    world.refuses("party-revoked", said, ROBOT)


def test_a_rule_does_not_outlive_the_contracts_own_limits() -> None:
    world = World.founded()
    made = rule(expires="2030-01-01T00:00:00Z")
    world.submit(made)
    name = world.propose(by="harbour")
    world.now = EXPIRES
    world.refuses("contract-expired", by_rule(world, name, made), ROBOT)
    world.submit(expired(name))


def test_a_rule_for_another_ledger_is_no_rule_here() -> None:
    World.founded().refuses("statement-refused", rule(ledger="other.example"))


def test_the_rule_travels_with_the_contract_that_it_was_made_from() -> None:
    drawn = drawn_up(
        validated(document(limits=limits())), {party: signer(party).key_id for party in document()["parties"]}
    )
    assert rule(agreed=drawn).digest() == rule().digest()
    with refused("document-invalid"):
        st.read(rule().payload().replace(b'"uses":1', b'"uses":1001'))
