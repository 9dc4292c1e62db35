"""A contract that could not be honoured, decided or understood is refused from its text alone."""

from copy import deepcopy
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from support import (
    CONTRIBUTORS,
    KEYS,
    OPENED,
    capsule_document,
    capsule_run,
    contract,
    contribution,
    document,
    gain,
    limits,
    moment,
    refused,
    sha,
    training,
)

from contracts.canonical import canonical, parse
from contracts.capabilities import Capabilities, require_supported, unsupported
from contracts.computation import TWO_WAY
from contracts.consequences import explain
from contracts.contract import Contract, drawn_up, validated

FEDAVG = {"name": "fedavg", "rounds": 2}
LEAKAGE = {"kind": "leakage", "tpr-at-1pct-fpr-at-most": 0.05}
ABLE = Capabilities(workers={"none": sha("worker")})


def wrong(document: dict[str, Any], *words: str) -> None:
    """The document is refused, and the sentence names what is wrong."""
    with refused("document-invalid") as caught:
        validated(document)
    for word in words:
        assert word in caught.value.message


def changed(path: str, value: object) -> dict[str, Any]:
    """The small contract with one key, at a dotted path, set."""
    whole = deepcopy(document())
    *way, last = path.split(".")
    at: Any = whole
    for step in way:
        at = at[int(step) if step.isdigit() else step]
    at[last] = value
    return whole


def test_the_canonical_bytes_of_a_contract_read_back_as_the_same_contract() -> None:
    drawn = contract()
    again = validated(parse(drawn.canonical()))
    assert again == drawn
    assert again.canonical() == drawn.canonical()
    assert again.digest() == drawn.digest()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("title", "Joint card-fraud model."),
        ("purpose", "Any use."),
        ("contributions.0.holdout.rows", 8001),
        ("computation.model", {"family": "logistic", "epochs": 13}),
        ("release.0.more-than", 0.01),
        ("release.1.confidence", 0.9),
        ("limits.expires", "2029-01-01T00:00:00Z"),
        ("recipients", [{"party": "north"}, {"party": "valley"}]),
        ("schema.split.train-days", 27),
    ],
)
def test_any_other_term_is_another_contract(path: str, value: object) -> None:
    assert validated(changed(path, value)).digest() != validated(document()).digest()


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        ("penalty", 1, "penalty"),
        ("computation.wroker", 1, "wroker"),
        ("computation.model.depth", 3, "depth"),
        ("computation.method.rounds", 3, "rounds"),  # pooled has no rounds
        ("limits.not_before", moment(OPENED), "not_before"),
        ("release.0.more_than", 0.1, "more_than"),
        ("release.0.min_positives", 1, "min_positives"),
        ("schema.label_delay_days", 1, "label_delay_days"),
        ("contributions.0.placment", "party", "placment"),
        ("release.0.kind", "trust-me", "kind"),
        ("computation.kind", "anything", "kind"),
        ("computation.model.family", "forest", "family"),
        ("computation.method.name", "krum", "name"),
        ("computation.sealing", "envelope", "sealing"),
        ("computation.seed", 7, "seed"),
        ("contract", 2, "contract"),
        ("release.0.metric", "accuracy", "metric"),
        ("release.0.at", 0.01, "at"),
        ("release.0.more-than", float("nan"), "more-than"),
        ("release.0.confidence", 0.2, "confidence"),
        ("parties", ["North Bank", "harbour", "valley"], "parties"),
        ("contributions.0.train.commitment", "sha256:" + "0" * 64, "commitment"),
        ("limits.expires", "2029-01-01T00:00:00", "expires"),  # no time zone
        ("limits.runs", 0, "runs"),
        ("limits.looks", 0, "looks"),
        ("data_schema", {}, "data_schema"),
        ("disclosure", {"withheld": ["verdict", "own-finding"]}, "withheld"),
        ("disclosure", {"withheld": []}, "withheld"),
        ("disclosure", {"withheld": ["own-finding"]}, "withheld"),
        ("disclosure", {"failed": []}, "failed"),
        ("disclosure", {"failed": ["error-code", "trace"]}, "failed"),
        ("disclosure", {"released": ["own-finding"]}, "verdict"),
        ("disclosure", {"released": ["verdict", "verdict"]}, "twice"),
        ("schema.columns.label", "t", "different"),
        ("schema.features", ["y"], "never be a feature"),
        ("schema.features", ["a", "a"], "twice"),
        ("schema.windows-days", [7, 1], "increasing"),
        ("computation.replicates", 1999, "2000"),
    ],
)
def test_what_the_language_does_not_know_is_refused_by_name(path: str, value: object, word: str) -> None:
    wrong(changed(path, value), word)


@pytest.mark.parametrize("term", sorted(document()))
def test_no_term_may_be_missing(term: str) -> None:
    wrong(document(**{term: None}), term)


def test_every_problem_is_told_at_once() -> None:
    wrong(document(title="", limits=limits(runs=0)), "title", "limits.runs")


def test_everyone_named_does_something_and_nobody_else_does_anything() -> None:
    wrong(document(recipients=[{"party": "north"}]), "valley", "neither")
    wrong(document(recipients=[{"party": "stranger"}]), "stranger")
    wrong(document(contributions=[contribution("stranger")]), "stranger")
    wrong(document(parties=["north", "harbour", "valley", "north"]), "north", "twice")
    wrong(document(recipients=[{"party": "north"}, {"party": "north"}, {"party": "valley"}]), "twice")
    wrong(document(parties=["north"], contributions=[contribution("north")], recipients=[{"party": "north"}]))


def test_one_file_is_never_put_in_twice() -> None:
    copied = contribution("harbour", train=contribution("north")["train"])
    wrong(document(contributions=[contribution("north"), copied]), "twice")


def test_a_clause_needs_a_holdout_to_be_measured_on() -> None:
    wrong(document(release=[gain("valley")]), "release[0]", "valley")
    wrong(document(release=[gain("north"), gain("stranger")]), "release[1]", "stranger")


def test_a_joint_training_without_a_condition_is_refused() -> None:
    wrong(document(release=[]), "at least one clause")


def test_the_same_clause_twice_is_refused() -> None:
    wrong(document(release=[gain(), gain("harbour"), gain(confidence=0.95)]), "release[2]", "twice")


def test_fewer_positives_than_the_clause_needs_are_refused() -> None:
    validated(document(release=[gain(**{"min-positives": 200})]))
    wrong(document(release=[gain(**{"min-positives": 201})]), "200 positives", "201", "release[0]")


def test_a_holdout_of_frauds_only_is_refused() -> None:
    part = contribution("north")
    part["holdout"]["rows"] = part["holdout"]["positives"]
    wrong(document(contributions=[part, contribution("harbour")]), "fewer than rows")


def test_a_test_too_fine_for_the_resamples_is_refused() -> None:
    validated(document(release=[gain(confidence=0.9975)]))
    wrong(document(release=[gain(confidence=0.998)]), "4.0 of 2000")
    validated(document(release=[gain(confidence=0.998)], computation=training(replicates=2500)))


def test_runs_share_the_level_of_a_test() -> None:
    once, thrice = contract(), contract(limits=limits(runs=3))
    clause = once.release[0]
    assert once.alpha(clause) == pytest.approx(0.05)  # type: ignore[arg-type]
    assert thrice.alpha(clause) == pytest.approx(0.05 / 3)  # type: ignore[arg-type]
    wrong(document(limits=limits(runs=20), release=[gain(confidence=0.96)]), "20 runs")


def test_an_incumbent_is_compared_with_only_if_it_was_committed() -> None:
    wrong(document(release=[gain(baseline="incumbent")]), "incumbent")


def test_the_choice_of_the_own_model_leaves_rows_to_train_on() -> None:
    two = [{"family": "boosted"}]
    validated(document(computation=training(baselines=two, **{"select-days": 27})))
    wrong(document(computation=training(baselines=two, **{"select-days": 28})), "select-days 28")


def test_trees_are_not_averaged() -> None:
    wrong(document(computation=training(model={"family": "boosted"}, method=FEDAVG)), "boosted", "fedavg")
    validated(document(computation=training(model={"family": "boosted"})))


@pytest.mark.parametrize("method", ["fedavg", "fedprox", "fedadam", "median", "trimmed-mean"])
def test_rounds_at_a_partys_own_premises_must_be_agreed_to(method: str) -> None:
    at_home = [contribution("north", placement="party"), contribution("harbour"), contribution("valley")]
    asked = {"name": method} | ({"trim": 0.34} if method == "trimmed-mean" else {})
    terms = {"contributions": at_home, "computation": training(method=asked)}
    wrong(document(**terms), "exposure: parties-see-rounds", "north")
    agreed = validated(document(**terms, exposure="parties-see-rounds"))
    assert agreed.see_rounds() == ["north"]


def test_a_one_way_method_shows_nothing_and_pooling_needs_the_rows() -> None:
    at_home = [contribution("north", placement="party"), contribution("harbour")]
    ensemble = document(contributions=at_home, computation=training(method={"name": "ensemble"}))
    assert validated(ensemble).see_rounds() == []
    wrong(document(contributions=at_home), "pooled")


def test_a_holdout_begins_when_the_labels_of_the_training_rows_are_known() -> None:
    schema = contract().data_schema
    assert schema.windows() == {
        "train": (datetime(2018, 4, 1), datetime(2018, 4, 29)),  # noqa: DTZ001 - the table's own clock
        "holdout": (datetime(2018, 5, 6), datetime(2018, 6, 3)),  # noqa: DTZ001 - the table's own clock
    }


def test_the_time_of_a_contract_runs_forward() -> None:
    wrong(document(limits=limits(**{"not-before": limits()["expires"]})), "not-before")


def test_the_candidates_always_include_the_joint_models_own_family() -> None:
    logistic, boosted = {"family": "logistic"}, {"family": "boosted"}
    families = [
        [spec.family for spec in contract(computation=training(baselines=given)).computation.candidates()]  # type: ignore[union-attr]
        for given in ([], [logistic], [boosted], [boosted, logistic])
    ]
    assert families == [["logistic"], ["logistic"], ["boosted", "logistic"], ["boosted", "logistic"]]


def test_drawing_up_fills_in_keys_and_never_replaces_one() -> None:
    draft = validated(document())
    assert all(party.key is None for party in draft.parties)
    drawn = drawn_up(draft, KEYS)
    assert [party.key for party in drawn.parties] == [KEYS[name] for name in draft.names()]
    assert drawn_up(drawn, KEYS) == drawn
    with refused("key-mismatch"):
        drawn_up(drawn, KEYS | {"north": KEYS["valley"]})
    with refused("party-unknown"):
        drawn_up(draft, {"north": KEYS["north"]})


VERIFY = {"schema": None, **capsule_document(computation=capsule_run(mode="verify"))}


@pytest.mark.parametrize(
    ("terms", "named"),
    [
        ({"release": [gain("north"), gain("harbour"), LEAKAGE]}, ["clause: leakage"]),
        (
            {"schema": None, **capsule_document(computation=capsule_run(mode="verify"))},
            ["sealing: container", "mode: verify"],
        ),
        ({"computation": training(sealing="container")}, ["sealing: container"]),
        ({"computation": training(sealing="gvisor")}, ["sealing: gvisor"]),
    ],
)
def test_what_is_not_supported_yet_parses_explains_and_is_refused_by_name(
    terms: dict[str, Any], named: list[str]
) -> None:
    asked = contract(**terms)
    assert explain(asked).digest == asked.digest()
    assert unsupported(asked, ABLE) == named
    with refused("not-supported") as caught:
        require_supported(asked, ABLE)
    for term in named:
        assert term in caught.value.message
    assert "yet" in caught.value.message


def test_every_method_and_placement_is_supported_unless_an_escrow_says_otherwise() -> None:
    at_home = [contribution(party, placement="party") for party in CONTRIBUTORS]
    assert {"pooled", *TWO_WAY, "ensemble"} == set(ABLE.methods)
    less = replace(ABLE, methods=("pooled",), placements=("escrow",))
    asked = contract(computation=training(method={"name": "ensemble"}), contributions=at_home)
    assert unsupported(asked, ABLE) == []
    assert unsupported(asked, less) == ["method: ensemble", "placement: party"]


def test_a_supported_contract_names_the_code_that_would_run() -> None:
    require_supported(contract(), ABLE)
    require_supported(contract(computation=training(method=FEDAVG)), ABLE)
    with refused("worker-unknown"):
        require_supported(contract(computation=training(worker=sha("other"))), ABLE)


def test_a_contract_is_frozen_and_its_words_are_kebab_case() -> None:
    drawn = contract()
    with pytest.raises(ValueError, match="frozen"):
        drawn.title = "another"  # type: ignore[misc]
    assert b"_" not in canonical(list(drawn.model_dump(mode="json", by_alias=True)))
    assert isinstance(drawn, Contract)
