"""Drawing a contract up: from what stands on the ledger, without anybody typing a digest."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as some
from support import (
    CONTRIBUTORS,
    KEYS,
    LEDGER,
    OPENED,
    SCHEMA,
    World,
    committed,
    contract,
    data_revoked,
    deposited,
    party_revoked,
    refused,
    sha,
)

from contracts.api import EscrowView, PartyView
from contracts.computation import TrimmedMean
from contracts.contract import drawn_up, validated
from contracts.document import read_mapping
from contracts.errors import EscrowError
from contracts.notes import Checkpoint
from contracts.records import PartyRecord
from contracts.schema import Schema
from contracts.transparency import Tree, leaf_hash
from parties.client import Client, directory_keys
from parties.draft import Draft, draft, read_schema, to_yaml, trimming
from parties.identity import pinned
from parties.offers import Offer, leaves, offers
from parties.policy import Policy, policy_from
from scenarios import tiny
from scenarios.consortium import Consortium

SCHEMA_READ = Schema.model_validate(SCHEMA)
OTHER = sha("another schema")
INFO = EscrowView(
    ledger=LEDGER,
    public_key="",
    workers={"none": sha("process"), "container": sha("image")},
    methods=("pooled", "fedavg"),
    sealings=("none", "container"),
)


def offered(world: World) -> dict[str, tuple[Offer, ...]]:
    return offers(world.leaves, key=world.escrow.public, head=head(world.leaves))


def head(entries: list[bytes]) -> Checkpoint:
    tree = Tree()
    for each in entries:
        tree, _ = tree.append(leaf_hash(each))
    return Checkpoint(LEDGER, tree.size, tree.root())


def drawn(world: World, info: EscrowView = INFO, **terms: Any) -> Draft:
    views = [
        PartyView(request=each.request, revoked=each.revoked)
        for each in world.records.values()
        if isinstance(each, PartyRecord)
    ]
    plain: dict[str, Any] = {"me": "north", "partners": ["harbour"], "schema": SCHEMA_READ, "now": OPENED}
    return draft(info, views, offered(world), **{**plain, **terms})


@pytest.fixture
def world() -> World:
    return World.founded()


def holdout(found: Draft, party: str) -> str:
    made = validated(found.document).contribution(party)
    assert made
    return made.holdout.commitment


# what others have deposited


def test_everybody_s_deposits_are_read_from_the_ledger(world: World) -> None:
    found = offered(world)
    assert set(found) == set(CONTRIBUTORS)
    train, held = found["harbour"]
    assert (train.part, train.commitment, train.rows, train.positives) == (
        "train",
        committed("harbour/train"),
        10_000,
        None,
    )
    assert (held.part, held.positives, held.looks, held.entry) == ("holdout", 200, 0, train.entry + 1)


def test_what_was_revoked_is_not_on_offer(world: World) -> None:
    world.submit(data_revoked("north", "holdout"))
    assert [offer.part for offer in offered(world)["north"]] == ["train"]
    world.submit(party_revoked("north"))
    assert set(offered(world)) == {"harbour"}


def test_looks_at_a_holdout_are_counted(world: World) -> None:
    world.brought_to("running")
    assert [(offer.part, offer.looks) for offer in offered(world)["north"]] == [("train", 0), ("holdout", 1)]


def test_a_ledger_that_leaves_a_deposit_out_is_refused(world: World) -> None:
    with refused("ledger-tampered"):
        offers(world.leaves[:-1], key=world.escrow.public, head=head(world.leaves))
    with refused("ledger-tampered"):
        offers(world.leaves[:5] + world.leaves[6:], key=world.escrow.public, head=head(world.leaves))
    with refused("ledger-tampered"):
        offers(world.leaves, key=KEYS["north"], head=head(world.leaves))


# the draft


def test_a_draft_by_default_is_a_contract_but_for_the_keys(world: World) -> None:
    found = drawn(world)
    made = drawn_up(validated(found.document), KEYS)
    assert (found.chosen, found.warnings) == ((), ())
    assert made.names() == ["north", "harbour"] == [each.party for each in made.recipients]
    assert [(each.party, each.metric, each.confidence, each.min_positives) for each in made.release] == [  # type: ignore[union-attr]
        ("north", "average-precision", 0.95, 30),
        ("harbour", "average-precision", 0.95, 30),
    ]
    assert (made.computation.model.family, made.computation.method.name) == ("mlp", "fedavg")  # type: ignore[union-attr]
    assert (made.computation.sealing, made.computation.worker) == ("container", sha("image"))  # type: ignore[union-attr]
    assert made.limits.expires.timestamp() == OPENED + 30 * 86400
    assert world.propose(made) == made.digest()


def test_a_draft_says_what_it_is_told_to(world: World) -> None:
    found = drawn(
        world,
        partners=["harbour", "valley"],
        contributors=["north", "harbour"],
        recipients=["valley"],
        sealing="none",
        model={"family": "boosted"},
        method={"name": "pooled"},
        condition={"kind": "no-harm", "metric": "recall-at-fpr", "at": 0.005, "margin": 0.01},
        release=[{"kind": "floor", "party": "north", "metric": "roc-auc", "at-least": 0.9}],
        days=7,
        limits={"runs": 2, "looks": 5},
        terms={"disclosure": {"released": ["verdict"]}},
        title="Another",
        purpose="Another.",
    )
    made = drawn_up(validated(found.document), KEYS)
    assert [each.party for each in made.recipients] == ["valley"]
    assert [each.party for each in made.contributions] == ["north", "harbour"]
    assert [each.kind for each in made.release] == ["no-harm", "no-harm", "floor"]
    assert (made.limits.runs, made.limits.looks, made.computation.sealing) == (2, 5, "none")
    assert made.disclosure.released == ("verdict",)
    world.propose(made)


def test_of_several_deposits_the_latest_is_taken_and_named(world: World) -> None:
    world.deposit("harbour", suffix="/new")
    world.submit(deposited("north", "train", suffix="/elsewhere", schema=OTHER))
    found = drawn(world)
    assert holdout(found, "harbour") == committed("harbour/holdout/new")
    assert holdout(found, "north") == committed("north/holdout")
    assert [line.partition(" by this schema")[0] for line in found.chosen] == [
        "harbour has 2 deposits for train",
        "harbour has 2 deposits for holdout",
    ]
    assert f"{committed('harbour/train/new')} (ledger entry {len(world.leaves) - 3}, 10000 rows)." in found.chosen[0]
    world.submit(data_revoked("harbour", "holdout", suffix="/new"))
    assert holdout(drawn(world), "harbour") == committed("harbour/holdout")


def test_rows_that_stay_with_their_party_are_placed_there(world: World) -> None:
    world.submit(deposited("harbour", "train", suffix="/kept", blob=None, size=0))
    found = drawn(world)
    assert {each["party"]: each.get("placement") for each in found.document["contributions"]} == {
        "north": None,
        "harbour": "party",
    }
    assert found.document["limits"]["retries"] == 3
    with pytest.raises(EscrowError, match="shows the joint model to harbour every round"):
        validated(found.document)
    (sentence,) = found.missing
    assert "training rows of harbour stay there" in sentence
    accepted = drawn(world, terms={"exposure": "parties-see-rounds"})
    assert accepted.missing == ()
    assert validated(accepted.document).at_home() == ["harbour"]
    assert (
        drawn(world, limits={"retries": 0}, terms={"exposure": "parties-see-rounds"}).document["limits"]["retries"] == 0
    )
    with pytest.raises(EscrowError, match="pooled training needs placement escrow"):
        drawn(world, method={"name": "pooled"})


@pytest.mark.parametrize(("parties", "trim"), [(3, 0.334), (4, 0.25), (9, 0.25)])
def test_a_trimmed_mean_is_drawn_up_so_that_somebody_is_left_out(parties: int, trim: float) -> None:
    term = trimming({"name": "trimmed-mean"}, parties)
    assert term == {"name": "trimmed-mean", "trim": trim}
    assert TrimmedMean.model_validate(term).trimmed(parties) >= 1
    assert trimming({"name": "trimmed-mean", "trim": 0.4}, parties)["trim"] == 0.4
    assert trimming({"name": "fedavg"}, parties) == {"name": "fedavg"}


def test_three_parties_draw_up_a_trimmed_mean(world: World) -> None:
    world.deposit("valley")
    able = INFO.model_copy(update={"methods": ("trimmed-mean",)})
    found = drawn(world, info=able, partners=["harbour", "valley"], method={"name": "trimmed-mean"})
    assert validated(found.document).computation.method == TrimmedMean(name="trimmed-mean", trim=0.334)  # type: ignore[union-attr]


def test_an_incumbent_model_goes_along(world: World) -> None:
    model = {"part": "incumbent", "commitment": committed("north/incumbent"), "rows": None, "positives": None}
    world.submit(deposited("north", "holdout").model_copy(update=model))
    made = validated(drawn(world).document)
    assert [each.incumbent.commitment if each.incumbent else None for each in made.contributions] == [
        committed("north/incumbent"),
        None,
    ]
    condition = {"kind": "gain", "metric": "average-precision", "baseline": "incumbent"}
    with pytest.raises(EscrowError, match="harbour has committed no incumbent model"):
        drawn(world, condition=condition)


def test_whose_deposit_is_missing_is_said(world: World) -> None:
    world.submit(data_revoked("harbour", "holdout"))
    with refused("deposit-unknown") as caught:
        drawn(world, partners=["harbour", "valley"])
    assert "harbour (holdout), valley (train), valley (holdout)." in caught.value.message
    with refused("deposit-unknown"):
        drawn(world, schema=SCHEMA_READ.model_copy(update={"label_delay_days": 8}))


@pytest.mark.parametrize(
    ("terms", "code", "told"),
    [
        ({"partners": ["corner"]}, "party-unknown", "Not admitted as a party: corner."),
        ({"partners": ["auditor"]}, "party-unknown", "Not admitted as a party: auditor."),
        ({"method": {"name": "median"}}, "not-supported", "The escrow has no method median; it has pooled, fedavg."),
        ({"sealing": "gvisor"}, "not-supported", "The escrow cannot seal by gvisor; it offers none, container."),
        ({"partners": ["harbour", "harbour"]}, "document-invalid", "harbour stands there twice"),
        ({"partners": []}, "document-invalid", "parties"),
        ({"model": {"family": "boosted"}}, "document-invalid", "method fedavg cannot train it"),
        ({"condition": {"kind": "gain", "metric": "luck"}}, "document-invalid", "release.0.gain.metric"),
        ({"days": 0, "limits": {"runs": 0}}, "document-invalid", "limits.runs"),
    ],
)
def test_what_cannot_be_drawn_up_is_refused(world: World, terms: dict[str, Any], code: str, told: str) -> None:
    with pytest.raises(EscrowError) as caught:
        drawn(world, **terms)
    assert caught.value.code == code
    assert told in caught.value.message


def test_too_few_frauds_for_a_condition_are_noticed_at_once(world: World) -> None:
    world.submit(deposited("harbour", "holdout", suffix="/small", positives=12))
    with pytest.raises(EscrowError, match="harbour's holdout has 12 positives, fewer than min-positives 30"):
        drawn(world)


def test_a_revoked_party_is_not_drawn_up_with(world: World) -> None:
    world.submit(party_revoked("harbour"))
    with refused("party-revoked"):
        drawn(world)


def test_what_the_proposer_s_own_policy_would_veto_comes_as_warnings(world: World) -> None:
    world.brought_to("running")
    strict = policy_from({"policy": 1, "families": ["logistic"], "looks-at-most": 1, "partners": ["harbour"]})
    found = drawn(world, policy=strict)
    assert [each.term for each in found.warnings] == ["families", "looks-at-most"]
    assert drawn(world, policy=strict, model={"family": "logistic"}, now=OPENED).warnings[0].term == "looks-at-most"
    assert drawn(world, policy=Policy(policy=1)).warnings == ()


# the text


def test_the_text_of_a_draft_is_the_draft(world: World) -> None:
    found = drawn(world)
    text = to_yaml(found.document)
    assert read_mapping(text.encode(), "contract.yaml", what="contract", begin="") == found.document
    lines = text.splitlines()
    assert lines[:4] == [
        "contract: 1",
        "title: Joint card-fraud model",
        "purpose: Train and score card-fraud models. No other use.",
        "parties: [north, harbour]",
    ]
    assert f'    train: {{commitment: "{committed("north/train")}", rows: 10000}}' in lines
    assert "  method: {name: fedavg, rounds: 32}" in lines
    assert "&" not in text


def test_a_whole_contract_survives_its_text() -> None:
    whole = contract().model_dump(mode="json", by_alias=True, exclude_none=True)
    assert validated(read_mapping(to_yaml(whole).encode(), "c.yaml", what="contract", begin="")) == contract()


TEXTS = some.text(some.characters(exclude_categories=["Cs"]), max_size=200)
NUMBERS = some.integers(-(2**60), 2**60) | some.floats(allow_nan=False, allow_infinity=False)
VALUES = some.recursive(
    some.none() | some.booleans() | NUMBERS | TEXTS,
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(some.dictionaries(TEXTS, VALUES, max_size=4))
@example({"parties": ["no", "on", "~", "null", "12", "1e3", "0x1f", "1:30", "2018-07-04", "- a", "# b", "", " c "]})
@example({"title": "a: b, [c] {d} 'e' \"f\" \\ & * ! | > % @ `\n\tg\u0085\u2028\ufeff\x07"})
@example({"yes": [1.0, 1e-07, 1e22, -0.0, 10**15, [], {}, [[]]]})
@example({"=": "=", "<<": "<<"})
def test_what_is_written_is_read_back(values: dict[str, Any]) -> None:
    read = read_mapping(to_yaml(values).encode(), "contract.yaml", what="contract", begin="")
    assert repr(read) == repr(values)


# the schema's file


def test_a_schema_comes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text(to_yaml(SCHEMA))
    assert read_schema(path) == SCHEMA_READ
    path.write_text(to_yaml({**SCHEMA, "windows-days": [0], "colour": "red"}))
    with refused("document-invalid") as caught:
        read_schema(path)
    assert [line.partition(":")[0] for line in caught.value.details] == ["windows-days.0", "colour"]
    path.write_text("columns")
    with refused("document-invalid"):
        read_schema(path)


# with a real escrow


class Short:
    """An escrow that shows fewer entries than its head stands for."""

    def entries(self, start: int, stop: int) -> tuple[bytes, ...]:
        return ()


def test_an_escrow_that_stops_short_is_noticed() -> None:
    with refused("ledger-tampered"):
        list(leaves(Short(), 3))  # type: ignore[arg-type]


def test_a_bank_draws_up_a_contract_that_its_partners_approve(consortium: Consortium) -> None:
    north = consortium.banks["north"]
    found = drawn_for(north, ["harbour"], consortium.core.now())
    made = drawn_up(validated(found.document), directory_keys(north.escrow))
    digest = north.propose(made)
    consortium.approve(digest)
    assert north.view(digest).state == "approved"


def drawn_for(bank: Client, partners: list[str], now: int) -> Draft:
    pin = pinned(bank.home)
    top = pin.checkpoint(bank.head())
    found = offers(leaves(bank.escrow, top.size), key=pin.public_key, head=top)
    return draft(
        bank.escrow.info(),
        bank.escrow.directory(),
        found,
        me=bank.name,
        partners=partners,
        schema=tiny.SCHEMA,
        now=now,
        policy=Policy(policy=1),
    )
