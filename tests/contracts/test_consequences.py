"""What a party reads before it signs: what leaves, who learns what, what the operator sees, what the test can show."""

from typing import Any

import pytest
from support import (
    CONTRIBUTORS,
    KEYS,
    OUTPUTS,
    PARTIES,
    POSITIVES,
    ROWS,
    capsule_document,
    capsule_run,
    contract,
    contribution,
    document,
    gain,
    limits,
    sha,
    training,
)

from contracts.consequences import DEVELOPMENT, ForParty, card, explain
from contracts.contract import Contract, drawn_up, validated
from contracts.facts import listed
from contracts.gain import detectable_gain

AT_HOME = {"computation": training(method={"name": "fedavg"}), "exposure": "parties-see-rounds"}


def read_by(name: str, asked: Contract | None = None) -> ForParty:
    [found] = [each for each in explain(asked or contract()).parties if each.party == name]
    return found


def text(name: str, asked: Contract | None = None) -> str:
    return "\n".join(read_by(name, asked).consequences)


def test_every_party_reads_something_and_all_of_it_is_sentences() -> None:
    found = explain(contract())
    assert [each.party for each in found.parties] == contract().names()
    sentences = [*found.conditions, *found.outcomes.values(), *found.operator]
    for each in found.parties:
        sentences += [*each.consequences, *each.warnings]
    assert all(sentence.endswith(".") and sentence[0] != " " for sentence in sentences)
    assert found.digest == contract().digest()


def test_a_contributor_learns_what_leaves_and_who_could_use_it() -> None:
    said = text("north")
    assert f"{ROWS['train']} training rows and {ROWS['holdout']} holdout rows lie encrypted at the escrow" in said
    assert "approving seals their keys" in said
    assert "Every reader of the ledger learns these counts" in said
    assert f"{POSITIVES} frauds" in said
    assert "north receives the model" in said
    assert "harbour, valley hold a model trained on north's rows" in said
    assert "can halt" in said


def test_a_mere_recipient_and_a_mere_contributor_read_their_own_part() -> None:
    asked = contract(recipients=[{"party": "valley"}])
    assert "valley contributes no data" in text("valley", asked)
    assert "valley receives the model" in text("valley", asked)
    assert "ledger learns" not in text("valley", asked)
    assert "north receives no model in any outcome" in text("north", asked)
    assert "valley holds a model trained on north's rows" in text("north", asked)


def test_every_outcome_is_told() -> None:
    outcomes = explain(contract()).outcomes
    assert set(outcomes) == {"released", "withheld", "failed"}
    assert "north, harbour, valley receive the model" in outcomes["released"]
    assert "own figures" in outcomes["released"]
    assert "undecided" in outcomes["withheld"]
    assert "nothing else" in outcomes["withheld"]
    assert "destroyed" in outcomes["withheld"]
    assert "error code" in outcomes["failed"]
    quiet = explain(contract(disclosure={"released": ["verdict"]})).outcomes
    assert "figures" not in quiet["released"]


def test_what_the_operator_could_see_is_said_plainly() -> None:
    open_ = explain(contract())
    assert "NOT SEALED" in open_.computation
    assert "nothing seals the workers: whoever controls the machine can read data and models" in " ".join(
        open_.operator
    )
    for sealing in ("container", "gvisor"):
        sealed = explain(contract(computation=training(sealing=sealing)))
        assert "NOT SEALED" not in sealed.computation
        assert "trusted execution environment" in " ".join(sealed.operator)
    assert "cannot approve for a party" in " ".join(open_.operator)
    assert "Until a party approves, the operator holds ciphertext" in " ".join(open_.operator)


def test_the_gain_that_the_holdout_can_show_is_told() -> None:
    low, high = detectable_gain(POSITIVES, confidence=0.95)
    assert f"about {low:.3f} (alike models) to {high:.3f} (unlike ones)" in text("north")
    twice = contract(limits=limits(runs=2))
    low, high = detectable_gain(POSITIVES, confidence=0.975)
    assert f"about {low:.3f} (alike models) to {high:.3f} (unlike ones)" in text("north", twice)
    more = contract(release=[gain("north", **{"more-than": 0.02}), gain("harbour")])
    low, high = detectable_gain(POSITIVES, confidence=0.95)
    assert f"about {low + 0.02:.3f} (alike models) to {high + 0.02:.3f}" in text("north", more)


def test_a_floor_is_no_gain() -> None:
    floor = {"kind": "floor", "party": "north", "metric": "average-precision", "at-least": 0.3}
    asked = contract(release=[floor])
    assert "more than 0.3" in text("north", asked)
    assert "true gain" not in text("north", asked)
    assert not any("hardly" in warning for warning in read_by("north", asked).warnings)


def test_a_party_that_no_condition_protects_is_warned() -> None:
    asked = contract(release=[gain("north")])
    assert any("No condition protects harbour" in warning for warning in read_by("harbour", asked).warnings)
    for protected in ("north", "valley"):
        assert not any("protects" in warning for warning in read_by(protected, asked).warnings)


def test_a_condition_that_the_frauds_can_hardly_decide_is_a_warning() -> None:
    few = contribution("north")
    few["holdout"]["positives"] = 12
    asked = contract(contributions=[few, contribution("harbour")], release=[gain(**{"min-positives": 10})])
    [warning] = [each for each in read_by("north", asked).warnings if "hardly" in each]
    assert warning.startswith("12 frauds can hardly decide the average-precision condition")
    assert not any("hardly" in each for each in read_by("north").warnings)


def test_rows_without_a_leakage_condition_are_a_warning() -> None:
    leakage = {"kind": "leakage", "tpr-at-1pct-fpr-at-most": 0.05}
    careful = contract(release=[gain("north"), gain("harbour"), leakage])
    for party in CONTRIBUTORS:
        assert any("single rows" in each for each in read_by(party).warnings)
        assert not any("single rows" in each for each in read_by(party, careful).warnings)
    assert any("membership attack" in each for each in explain(careful).conditions)


def test_an_unsealed_run_and_several_runs_are_warnings() -> None:
    asked = contract(limits=limits(runs=3))
    assert any("Nothing seals this run" in each for each in read_by("valley", asked).warnings)
    assert "Up to 3 runs: each test is at 1/3 of its level." in read_by("valley", asked).warnings
    sealed = contract(computation=training(sealing="container"))
    assert not any("seals this run" in each for each in read_by("valley", sealed).warnings)


def at_home(*names: str, of: tuple[str, ...] = CONTRIBUTORS, **terms: Any) -> Contract:
    """A contract of `of`, in which the training rows of `names` stay with them."""
    parts = [contribution(name, **({"placement": "party"} if name in names else {})) for name in of]
    return contract(**{"contributions": parts, **AT_HOME, **terms})


def test_a_model_shown_every_round_is_told_to_all() -> None:
    asked = at_home("north")
    own = text("north", asked)
    assert f"north's {ROWS['train']} training rows stay there" in own
    assert "it can keep the joint parameters of every round, and what comes with them, whatever the verdict" in own
    for other in ("harbour", "valley"):
        assert "Every round shows the joint parameters" in text(other, asked)
        assert "to north, who can keep them whatever the verdict" in text(other, asked)
    assert "Every round shows" not in own + text("north") + text("valley")


EXACTLY = "learns harbour's exactly: each feature's sum and sum of squares, and how many frauds harbour trains on"


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("fedavg", "harbour's parameters after every round but the last"),
        ("fedprox", "and harbour's parameters after every round but the last"),
        ("fedadam", "much of harbour's parameters after every round but the last"),
    ],
)
def test_of_two_contributors_one_that_is_shown_rounds_learns_the_other_s_sums(method: str, parameters: str) -> None:
    asked = at_home("north", computation=training(method={"name": method}))
    for name in CONTRIBUTORS:
        assert f"By taking its own away north {EXACTLY}" in text(name, asked)
        assert parameters in text(name, asked)
    assert "learns" not in text("valley", asked)
    assert "harbour itself is shown none of this" in text("harbour", asked)
    both = at_home(*CONTRIBUTORS)
    assert f"north {EXACTLY}" in text("north", both)
    assert f"north {EXACTLY}" in text("harbour", both)
    assert f"harbour {EXACTLY.replace('harbour', 'north')}" in text("harbour", both)


def test_of_more_contributors_one_learns_the_others_together() -> None:
    asked = at_home("north", of=PARTIES, release=[gain("north")])
    for name in PARTIES:
        assert "what those of the other 2 contributors are together, and the average of their param" in text(
            name, asked
        )
        assert "all contributors but one, if they join theirs, learn that one's" in text(name, asked)


@pytest.mark.parametrize("method", [{"name": "median"}, {"name": "trimmed-mean", "trim": 0.34}])
def test_methods_that_do_not_weigh_show_medians_and_no_sums(method: dict[str, Any]) -> None:
    asked = at_home("north", of=PARTIES, computation=training(method=method), release=[gain("north")])
    assert "median of the contributors' means and spreads" in explain(asked).outcomes["released"]
    assert "the medians over the contributors" in text("north", asked)
    for name in PARTIES:
        assert "one contributor's own figure, or midway between two" in text(name, asked)
        assert "taking its own away" not in text(name, asked)


def test_what_the_rounds_have_shown_stays_whatever_becomes_of_the_contract() -> None:
    kept = "What north was shown in the rounds stays with it: nothing here destroys that."
    for outcome in explain(at_home("north")).outcomes.values():
        assert outcome.endswith(kept)
    several = explain(at_home(*CONTRIBUTORS)).outcomes["withheld"]
    assert "What north, harbour were shown in the rounds stays with them" in several
    assert "and, besides what the rounds have shown, nothing else" in several
    for asked in (contract(), contract(computation=training(method={"name": "fedavg"}, sealing="container"))):
        assert not any("rounds" in words for words in explain(asked).outcomes.values())


def test_a_failure_is_laid_at_a_party_s_door_before_that_party_and_the_operator_alone() -> None:
    for asked in (contract(), at_home("north")):
        failed = explain(asked).outcomes["failed"]
        assert "because of one party, that party and the operator are told so, and nobody else" in failed


def test_who_receives_no_release_may_still_see_the_model() -> None:
    asked = at_home("north", recipients=[{"party": "valley"}])
    assert "north receives no model" not in text("north", asked)
    assert "north receives no release in any outcome; what the rounds show it of the joint model" in text(
        "north", asked
    )
    assert "harbour receives no model in any outcome" in text("harbour", asked)


@pytest.mark.parametrize("homes", [(), ("north",)])
def test_where_parties_are_asked_deadlines_and_retries_are_explained(homes: tuple[str, ...]) -> None:
    method = {"name": "fedavg", "round-seconds": 29}
    asked = at_home(
        *homes,
        computation=training(method=method, sealing="container"),
        limits=limits(retries=2),
        exposure="parties-see-rounds" if homes else None,
    )
    assert "within 29 seconds in all (round-seconds), and so is what comes before the first" in text("harbour", asked)
    assert "goes on after the last whole round, in one run up to 2 times (retries)" in text("harbour", asked)
    assert "for their own models too" in text("harbour", asked)
    assert any("round-seconds 29 is short" in each for each in read_by("harbour", asked).warnings)
    alone = contract(computation=training(method=method))
    assert "round-seconds" not in text("harbour", alone)
    assert "plays each of them in turn" in text("harbour", alone)
    assert not any("round-seconds" in each for each in read_by("harbour", alone).warnings)


def test_an_ensemble_is_made_of_own_models_and_shows_no_rounds() -> None:
    method = {"name": "ensemble"}
    asked = at_home("north", computation=training(method=method, baselines=[{"family": "boosted"}]), exposure=None)
    found = explain(asked)
    assert "One logistic model" not in found.computation
    assert "own model (boosted or logistic)" in found.computation
    assert "weighs as its contributor had frauds in the last 7 days" in found.computation
    assert "holds the own model of every contributor whole" in found.outcomes["released"]
    assert "north" in text("north", asked)
    assert "stay there" in text("north", asked)
    assert "the figures that decide what its model weighs are its own word" in text("north", asked)
    assert "north measures its own model itself" in text("harbour", asked)
    for name in CONTRIBUTORS:
        assert f"holds {name}'s own model whole" in text(name, asked)
        assert "who knows one number of frauds can work out others" in text(name, asked)
        assert "round shows" not in text(name, asked)
        assert "joint parameters" not in text(name, asked)
    assert "by, with its weight" in card(asked)


def test_rows_at_home_are_in_what_the_operator_could_see() -> None:
    for method, sent in (
        ("fedavg", "its holdout and own model, sums and parameters do"),
        ("ensemble", "its holdout and own model do"),
    ):
        terms: dict[str, Any] = {} if method == "fedavg" else {"exposure": None}
        found = explain(at_home("north", computation=training(method={"name": method}), **terms))
        told = " ".join(found.operator)
        assert f"The training rows of north never come to the escrow; {sent}" in told
        assert "nobody else can know" in told
        assert "north does its part on its own premises; nobody else can know" in found.computation
    assert "never come" not in " ".join(explain(contract()).operator)


def test_a_model_of_everyone_s_rows_holds_their_means() -> None:
    assert "mean and the spread of each feature" in explain(contract()).outcomes["released"]
    boosted = contract(computation=training(model={"family": "boosted"}))
    assert "mean" not in explain(boosted).outcomes["released"]
    assert "one worker at the escrow sees north's rows and those of every other" in text("north")


def test_many_names_are_counted_and_a_thousand_parties_explained_soon() -> None:
    assert listed(dict.fromkeys("abcdefgh").keys()) == "a, b, c, d, e, f, g, h"
    assert listed(dict.fromkeys("abcdefghi").keys()) == "a, b, c and 6 others"
    assert listed(dict.fromkeys("abcdefghi").keys(), but="b") == "a, c, d, e, f, g, h, i"
    names = [f"bank-{number:04d}" for number in range(1000)]
    asked = validated(
        document(
            parties=names,
            contributions=[contribution(name, placement="party") for name in names],
            recipients=[{"party": name} for name in names],
            release=[gain(name) for name in names],
            **AT_HOME,
        )
    )
    found = explain(asked)
    assert "bank-0000, bank-0001, bank-0002 and 997 others receive the model" in found.outcomes["released"]
    assert "to bank-0001, bank-0002, bank-0003 and 996 others, who can keep" in "\n".join(found.parties[0].consequences)
    assert max(len("".join(each.consequences)) for each in found.parties) < 8000


def test_a_capsule_is_explained_too() -> None:
    held = {"path": "model.onnx", "kind": "model", "size-kib": 64, "vetting": "disclosure-control"}
    asked = drawn_up(validated(capsule_document(computation=capsule_run(outputs=[*OUTPUTS, held]))), KEYS)
    found = explain(asked)
    assert sha("capsule") in found.computation
    assert sha("image") in found.computation
    assert [words.split(" ")[0] for words in found.conditions] == ["table.csv", "model.onnx"]
    assert list(found.outcomes) == ["held", "failed"]
    assert all("held" in words for words in found.conditions)
    author, owner = found.parties[1], found.parties[0]
    assert (owner.party, author.party) == ("north", "valley")
    assert any("read its code" in each for each in owner.warnings)
    assert any("table.csv" in each for each in owner.warnings)
    assert any("as north states" in each for each in owner.consequences)
    assert not any("read its code" in each for each in author.warnings)
    assert any("5000 rows" in each for each in owner.consequences)
    assert any("receives the declared outputs" in each for each in author.consequences)


def test_what_a_failure_gives_away_is_said_before_anyone_signs() -> None:
    told = {"failed": ["error-code", "error-place"]}
    quiet, open_ = (
        explain(drawn_up(validated(capsule_document(**terms)), KEYS)).outcomes["failed"]
        for terms in ({}, {"disclosure": told})
    )
    assert "line" not in quiet
    assert "a file and a line" in open_


def test_the_model_card_names_purpose_conditions_and_contract() -> None:
    asked = contract()
    shown = card(asked)
    assert shown.startswith(f"**{DEVELOPMENT}**\n\n# {asked.title}\n")
    assert card(contract(computation=training(sealing="container"))).startswith(f"# {asked.title}\n")
    assert asked.purpose in shown
    assert asked.digest() in shown
    for clause in asked.release:
        assert clause.describe() in shown
    assert shown == card(asked)
