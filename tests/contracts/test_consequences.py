"""What a party reads before it signs: what leaves, who learns what, what the operator sees, what the test can show."""

from support import CONTRIBUTORS, POSITIVES, ROWS, contract, contribution, gain, limits, sha, training

from contracts.consequences import ForParty, card, explain
from contracts.contract import Contract
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


def test_a_model_shown_every_round_is_told_to_all() -> None:
    asked = contract(contributions=[contribution("north", placement="party"), contribution("harbour")], **AT_HOME)
    own = text("north", asked)
    assert f"north's {ROWS['train']} training rows stay there" in own
    assert "Every round sends the joint model to north's premises" in own
    for other in ("harbour", "valley"):
        assert "Every round shows the joint model to north, who can keep it whatever the verdict" in text(other, asked)
    assert "Every round" not in text("north") + text("valley")


def test_a_one_way_method_shows_no_rounds() -> None:
    parts = [contribution(party, placement="party") for party in CONTRIBUTORS]
    asked = contract(contributions=parts, computation=training(method={"name": "ensemble"}))
    assert "stay there" in text("north", asked)
    assert "Every round" not in text("north", asked)


def test_a_capsule_is_explained_too() -> None:
    capsule = {"kind": "capsule", "capsule": sha("capsule"), "image": sha("image"), "mode": "verify"}
    found = explain(contract(computation=capsule, release=[]))
    assert sha("capsule") in found.computation
    assert "verify" in found.computation


def test_the_model_card_names_purpose_conditions_and_contract() -> None:
    asked = contract()
    shown = card(asked)
    assert shown.startswith(f"# {asked.title}\n")
    assert asked.purpose in shown
    assert asked.digest() in shown
    for clause in asked.release:
        assert clause.describe() in shown
    assert shown == card(asked)
