"""How training in rounds is agreed on: methods that a roster allows, rows that stay at home, what is asked there."""

import pytest
from support import (
    CONTRIBUTORS,
    KEPT,
    World,
    committed,
    contract,
    contribution,
    deposited,
    document,
    limits,
    refused,
    sha,
    stage_done,
    training,
)

from contracts import statements as st
from contracts.canonical import derive
from contracts.consequences import explain
from contracts.contract import Contract, validated
from contracts.work import client_spec

MANY = ("north", "harbour", "valley")


def joint(
    method: str, *at_home: str, parties: tuple[str, ...] = MANY, sealing: str = "none", **about: object
) -> Contract:
    """A contract to train by `method`, with the rows of some staying at home."""
    two_way = method not in {"pooled", "ensemble"}
    return contract(
        contributions=[contribution(each, placement="party" if each in at_home else "escrow") for each in parties],
        computation=training(method={"name": method, **about}, sealing=sealing),
        exposure="parties-see-rounds" if at_home and two_way else None,
    )


@pytest.mark.parametrize(("parties", "trim"), [(4, 0.24), (3, 0.333), (2, 0.49)])
def test_a_trimmed_mean_that_trims_nobody_is_refused(parties: int, trim: float) -> None:
    names = ("north", "harbour", "valley", "corner")[:parties]
    terms = {"contributions": [contribution(each) for each in names]}
    asked = document(**terms, parties=[*names, *({"valley"} - set(names))])
    method = {"name": "trimmed-mean", "trim": trim}
    with refused("document-invalid"):
        validated({**asked, "computation": training(method=method)})


@pytest.mark.parametrize(("parties", "trim", "left_out"), [(3, 0.334, 1), (4, 0.25, 1), (10, 0.3, 3), (100, 0.29, 29)])
def test_what_the_refusal_says_is_enough_does_trim(parties: int, trim: float, left_out: int) -> None:
    names = [f"bank-{number}" for number in range(parties)]
    asked = document(
        parties=names,
        contributions=[contribution(each) for each in names],
        recipients=[{"party": names[0]}],
        release=[{"kind": "gain", "party": names[0], "metric": "average-precision"}],
        computation=training(method={"name": "trimmed-mean", "trim": trim}),
    )
    found = validated(asked).computation.method  # type: ignore[union-attr]
    assert found.trimmed(parties) == left_out  # type: ignore[union-attr]


def test_of_two_parties_nobody_is_in_the_middle() -> None:
    with refused("document-invalid"):
        joint("median", parties=CONTRIBUTORS)
    assert joint("median").computation.method.name == "median"  # type: ignore[union-attr]


def test_the_parameters_of_one_method_are_none_of_another() -> None:
    assert joint("fedprox", proximal=0.1).computation.method.proximal == 0.1  # type: ignore[union-attr]
    for method, about in (("fedavg", {"proximal": 0.1}), ("fedprox", {"server-rate": 0.1}), ("median", {"trim": 0.4})):
        with refused("document-invalid"):
            joint(method, **about)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "at_home", "sealing", "answering"),
    [
        ("fedavg", (), "none", []),
        ("fedavg", (), "container", ["harbour", "north", "valley"]),
        ("fedavg", ("valley",), "none", ["harbour", "north", "valley"]),
        ("ensemble", (), "container", []),
        ("ensemble", ("valley", "north"), "container", ["north", "valley"]),
        ("pooled", (), "container", []),
    ],
)
def test_who_is_asked_while_the_joint_model_is_trained(
    method: str, at_home: tuple[str, ...], sealing: str, answering: list[str]
) -> None:
    asked = joint(method, *at_home, sealing=sealing)
    assert asked.answering() == answering
    assert asked.at_home() == sorted(at_home)
    for party in MANY:
        if party not in answering:
            with refused("node-refused"):
                client_spec(asked, 1, party)


def test_what_a_worker_is_asked_follows_from_contract_run_and_party_alone() -> None:
    asked = joint("fedprox", "valley", proximal=0.5)
    spec = client_spec(asked, 2, "valley")
    assert (spec["role"], spec["party"], spec["rows"]) == ("client", "valley", 10_000)
    assert spec["commitment"] == committed("valley/train")
    assert spec["method"] == {
        "name": "fedprox",
        "rounds": 12,
        "local-epochs": 1,
        "round-seconds": 1800,
        "proximal": 0.5,
    }
    assert spec["seed"] == derive("run seed", asked.digest().encode(), b"2").hex()
    assert spec["seed"] != client_spec(asked, 1, "valley")["seed"]
    assert "commitment" not in client_spec(asked, 2, "north")  # the escrow itself checks what lies with it


# rows that stay at home


def test_training_rows_may_be_stated_without_being_sent_and_nothing_else_may() -> None:
    world = World.founded()
    world.submit(deposited("north", "train", suffix="-2", **KEPT))
    world.refuses("statement-refused", deposited("north", "holdout", suffix="-2", **KEPT))
    world.refuses("statement-refused", deposited("north", "train", suffix="-3", blob=None))
    world.refuses("statement-refused", deposited("north", "train", suffix="-3", size=0))


def test_the_placement_says_where_the_rows_are() -> None:
    at_home = [contribution("north", placement="party"), contribution("harbour")]
    ensemble = training(method={"name": "ensemble"})
    elsewhere, there = contract(contributions=at_home, computation=ensemble), contract(computation=ensemble)
    with pytest.raises(Exception, match="lie at the escrow"):
        World.founded().propose(elsewhere)
    with pytest.raises(Exception, match="stays at the bank"):
        World.founded("north").propose(there)
    assert World.founded("north").propose(elsewhere)


# what stands on the ledger


def test_a_training_binds_what_was_said_in_each_round() -> None:
    world = World.founded()
    name = world.propose(contract(computation=training(method={"name": "fedavg", "rounds": 2}, sealing="container")))
    world.approve(name)
    world.start(name)
    rounds = tuple(sha(str(number)) for number in range(3))
    for stage in ("prepare", "baseline"):
        world.submit(stage_done(name, stage, 1))
    done = stage_done(name, "train", 1).model_copy(update={"rounds": rounds})
    assert st.read(done.payload()) == done
    world.submit(done)
    assert world.replayed()


def test_retries_are_the_contracts_own_and_warned_of_where_there_are_none() -> None:
    def warned(asked: Contract) -> bool:
        return any("retries is 0" in each for each in explain(asked).parties[0].warnings)

    sealed = training(method={"name": "fedavg"}, sealing="container")
    assert warned(contract(computation=sealed))
    assert not warned(contract(computation=sealed, limits=limits(retries=3)))
    assert not warned(contract())


# what people read


def said(asked: Contract, party: str) -> str:
    return "\n".join(next(each for each in explain(asked).parties if each.party == party).consequences)


def test_every_exchange_is_read_before_it_is_agreed_to() -> None:
    north = said(joint("fedavg", "north"), "north")
    assert "once, the sum and the sum of squares of each feature (of logarithms) and the number of frauds" in north
    assert "every round, its parameters" in north
    assert "is sent, every round, the joint parameters, and with them those sums" in north
    assert "sent nothing but the question" in said(joint("ensemble", "north"), "north")
    assert "can take the other out of it" in said(joint("ensemble"), "north")
    for method in ("pooled", "ensemble"):
        assert "sends" not in said(joint(method), "north")


def test_rows_at_home_are_checked_where_nobody_else_can_see() -> None:
    asked = joint("fedavg", "north")
    assert "runs a node" in said(asked, "north")
    assert "it can keep the joint parameters of every round" in said(asked, "north")
    assert "who can keep them whatever the verdict" in said(asked, "harbour")
    assert "runs a node" not in said(asked, "harbour")
