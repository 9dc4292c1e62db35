"""A bank's own veto: each term alone allows and vetoes, a further term never allows more, and mistakes are named."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as some
from support import (
    EXPIRES,
    OPENED,
    capsule_document,
    committed,
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

from contracts.computation import TWO_WAY, Ensemble, ModelSpec, Pooled
from contracts.contract import Contract, Disclosure
from contracts.document import read_mapping
from contracts.errors import EscrowError
from parties import policy as policies
from parties.demands import CHECKS
from parties.policy import FILE, Policy, default_text, load, policy_from

HOLDOUT = committed("north/holdout")
LOOKS = {HOLDOUT: 2}
FLOOR = {"kind": "floor", "party": "north", "metric": "roc-auc", "at-least": 0.9}
LEAKAGE = {"kind": "leakage", "tpr-at-1pct-fpr-at-most": 0.05}
PURPOSE = document()["purpose"]
CAPSULE = {**capsule_document(), "schema": None}
THERE = {"placement": "party"}
MIXED = training(method={"name": "ensemble"}, baselines=[{"family": "boosted"}])
ROUNDS = {"computation": training(method={"name": "fedavg"}), "exposure": "parties-see-rounds"}
SHOWN = {**ROUNDS, "contributions": [contribution("north", **THERE), contribution("harbour")]}
SHOWN_TO_HARBOUR = {**ROUNDS, "contributions": [contribution("north"), contribution("harbour", **THERE)]}

ALLOWS: dict[str, list[tuple[Mapping[str, Any], dict[str, Any]]]] = {
    "own-condition": [({}, {}), ({"own-condition": "optional"}, {"release": [gain("harbour")]})],
    "minimum-gain": [
        ({"minimum-gain": {"average-precision": 0.01}}, {"release": [gain("north", **{"more-than": 0.01})]}),
        ({"minimum-gain": {"average-precision": 0}}, {}),
    ],
    "minimum-confidence": [({"minimum-confidence": 0.95}, {})],
    "minimum-positives": [({"minimum-positives": 50}, {})],
    "metrics": [({"metrics": ["average-precision"]}, {}), ({"metrics": ["roc-auc"]}, {"release": [FLOOR]})],
    "leakage": [({"leakage": "required"}, {"release": [gain(), LEAKAGE]}), ({"leakage": "optional"}, {})],
    "tpr-at-1pct-fpr-at-most": [
        ({"leakage": "required", "tpr-at-1pct-fpr-at-most": 0.05}, {"release": [gain(), LEAKAGE]})
    ],
    "families": [
        ({"families": ["logistic"]}, {"computation": training(baselines=[{"family": "boosted"}])}),
        ({"families": ["logistic", "boosted"]}, {"computation": MIXED}),
    ],
    "methods": [({"methods": ["pooled", "fedavg"]}, {})],
    "capsules": [({}, {}), ({"capsules": [sha("capsule")]}, CAPSULE)],
    "sealings": [({"sealings": ["none"]}, {})],
    "placements": [({"placements": ["escrow"]}, {})],
    "exposure": [({"exposure": []}, {}), ({}, SHOWN), ({"exposure": ["parties-see-rounds"]}, SHOWN)],
    "partners": [({"partners": ["valley", "harbour", "corner"]}, {})],
    "recipients": [
        ({"recipients": ["valley", "harbour"]}, {}),
        ({"recipients": []}, {"recipients": [{"party": "north"}], "parties": ["north", "harbour"]}),
        ({"recipients": ["valley"]}, {**SHOWN, "recipients": [{"party": "valley"}]}),
    ],
    "purpose": [({"purpose": ["Another.", PURPOSE]}, {})],
    "disclosure": [
        ({"disclosure": {"released": ["verdict", "own-finding"]}}, {}),
        ({"disclosure": {"released": ["verdict"]}}, {"disclosure": {"released": ["verdict"]}}),
    ],
    "runs-at-most": [({"runs-at-most": 2}, {"limits": limits(runs=2)})],
    "retries-at-most": [({"retries-at-most": 0}, {}), ({"retries-at-most": 2}, {"limits": limits(retries=2)})],
    "looks-at-most": [({"looks-at-most": 3}, {}), ({"looks-at-most": 5}, {"limits": limits(runs=3)})],
    "expiry-at-most": [({"expiry-at-most": "30d"}, {})],
}
VETOES: dict[str, list[tuple[Mapping[str, Any], dict[str, Any], str]]] = {
    "own-condition": [({}, {"release": [gain("harbour"), LEAKAGE]}, "No clause is measured on north's holdout.")],
    "minimum-gain": [
        (
            {"minimum-gain": {"average-precision": 0.01}},
            {},
            "No gain clause asks for more than 0.01 in average-precision on north's holdout.",
        ),
        (
            {"minimum-gain": {"roc-auc": 0}},
            {"release": [FLOOR]},
            "No gain clause asks for more than 0 in roc-auc on north's holdout.",
        ),
        (
            {"minimum-gain": {"average-precision": 0.01}},
            {"release": [gain(), gain("harbour", **{"more-than": 0.2})]},
            "No gain clause",
        ),
    ],
    "minimum-confidence": [
        ({"minimum-confidence": 0.99}, {}, "release[0] asks for 95.00% confidence; at least 99.00% is demanded."),
        (
            {"minimum-confidence": 0.95},
            {"release": [gain(), {**LEAKAGE, "confidence": 0.9}]},
            "release[1] asks for 90.00%",
        ),
    ],
    "minimum-positives": [
        ({"minimum-positives": 51}, {}, "release[0] is decided on 50 positives; at least 51 are demanded.")
    ],
    "metrics": [({"metrics": []}, {}, "The metric of release[0] is average-precision; allowed: none.")],
    "leakage": [({"leakage": "required"}, {}, "No leakage clause")],
    "tpr-at-1pct-fpr-at-most": [
        (
            {"leakage": "required", "tpr-at-1pct-fpr-at-most": 0.04},
            {"release": [gain(), LEAKAGE]},
            "No leakage clause keeps the attack's true-positive rate at 0.04 or below.",
        )
    ],
    "families": [
        ({"families": ["mlp", "boosted"]}, {}, "The joint model's family is logistic; allowed: mlp, boosted."),
        (
            {"families": ["logistic"]},
            {"computation": MIXED},
            "The family of a model that may be in the ensemble is boosted; allowed: logistic.",
        ),
    ],
    "exposure": [({"exposure": []}, SHOWN, "The exposure is parties-see-rounds; allowed: none.")],
    "retries-at-most": [
        (
            {"retries-at-most": 1},
            {"limits": limits(retries=2)},
            "One run may go on 2 times after a loss; at most 1 is allowed.",
        )
    ],
    "methods": [
        ({"methods": ["fedavg"]}, {}, "The method is pooled; allowed: fedavg."),
    ],
    "capsules": [
        ({}, CAPSULE, "would run on north's table and is none of the allowed capsules."),
        ({"capsules": [sha("another")]}, CAPSULE, "none of the allowed capsules."),
    ],
    "sealings": [({"sealings": ["container", "gvisor"]}, {}, "The sealing is none; allowed: container, gvisor.")],
    "placements": [({"placements": ["party"]}, {}, "The placement of north's rows is escrow; allowed: party.")],
    "partners": [({"partners": ["harbour"]}, {}, "Another party is valley; allowed: harbour.")],
    "recipients": [
        ({"recipients": ["harbour"]}, {}, "A recipient of the model is valley; allowed: harbour."),
        (
            {"recipients": ["valley"]},
            {**SHOWN_TO_HARBOUR, "recipients": [{"party": "valley"}]},
            "A party that is shown the model in rounds is harbour; allowed: valley.",
        ),
    ],
    "purpose": [({"purpose": [PURPOSE + " "]}, {}, "The purpose is none of the allowed texts, word for word.")],
    "disclosure": [
        (
            {"disclosure": {"released": ["verdict"]}},
            {},
            "What is disclosed when released is own-finding; allowed: verdict.",
        )
    ],
    "runs-at-most": [
        ({"runs-at-most": 1}, {"limits": limits(runs=2)}, "The contract may run 2 times; at most 1 is allowed.")
    ],
    "looks-at-most": [
        (
            {"looks-at-most": 4},
            {"limits": limits(runs=3)},
            "north's holdout was run over 2 times and would be 3 times more; at most 4 in all is allowed.",
        )
    ],
    "expiry-at-most": [
        ({"expiry-at-most": "30d"}, {"limits": {"expires": moment(EXPIRES + 1)}}, "more than 30 days from now.")
    ],
}


def policy(**terms: Any) -> Policy:
    return policy_from({"policy": 1, **{key.replace("_", "-"): value for key, value in terms.items()}})


def vetoed(terms: Mapping[str, Any], contract_: Contract, party: str = "north") -> dict[str, str]:
    found = policy(**terms).check(contract_, party=party, looks=LOOKS, now=OPENED)
    return {each.term: each.sentence for each in found}


@pytest.mark.parametrize(
    ("term", "terms", "of"), [(term, *each) for term, several in ALLOWS.items() for each in several]
)
def test_each_term_alone_allows(term: str, terms: Mapping[str, Any], of: dict[str, Any]) -> None:
    assert vetoed(terms, contract(**of)) == {}


@pytest.mark.parametrize(
    ("term", "terms", "of", "told"), [(term, *each) for term, several in VETOES.items() for each in several]
)
def test_each_term_alone_vetoes_and_says_why(
    term: str, terms: Mapping[str, Any], of: dict[str, Any], told: str
) -> None:
    found = vetoed(terms, contract(**of))
    assert list(found) == [term]
    assert told in found[term]
    assert found[term].endswith(".")


def test_every_term_is_tried_above_and_has_its_check() -> None:
    terms = {name.replace("_", "-") for name in Policy.model_fields} - {"policy"}
    assert set(CHECKS) == set(ALLOWS) == set(VETOES) == terms


def test_a_bank_that_contributes_nothing_needs_no_clause_of_its_own() -> None:
    every = {"minimum-gain": {"roc-auc": 0.5}, "leakage": "required", "placements": [], "looks-at-most": 1}
    assert vetoed({}, contract(), "valley") == vetoed(every, contract(), "valley") == {}
    assert set(vetoed({"partners": ["north"]}, contract(), "valley")) == {"partners"}


def test_training_at_home_can_be_demanded_of_oneself_alone() -> None:
    mixed = contract(
        contributions=[contribution("north", **THERE), contribution("harbour")],
        computation=training(method={"name": "ensemble"}),
    )
    assert vetoed({"placements": ["party"]}, mixed) == {}
    assert set(vetoed({"placements": ["party"]}, mixed, "harbour")) == {"placements"}


def test_a_holdout_whose_looks_nobody_knows_is_not_taken_for_a_fresh_one() -> None:
    [found] = policy(looks_at_most=9).check(contract(), party="north", looks={}, now=OPENED)
    assert found.term == "looks-at-most"
    assert "not known" in found.sentence


def test_all_violations_are_told_at_once_and_refuse_the_approval() -> None:
    strict = policy(families=["mlp"], runs_at_most=1, purpose=[])
    with refused("policy-refused") as caught:
        strict.require(contract(), party="north", looks=LOOKS, now=OPENED)
    assert [line.partition(":")[0] for line in caught.value.details] == ["families", "purpose"]
    policy(families=["logistic"]).require(contract(), party="north", looks=LOOKS, now=OPENED)


# the property

VALUES: dict[str, list[Any]] = {
    "minimum-gain": [{"average-precision": 0.0}, {"average-precision": 0.02}, {"roc-auc": 0.1}],
    "minimum-confidence": [0.5, 0.95, 0.99],
    "minimum-positives": [1, 60],
    "metrics": [[], ["average-precision"], ["roc-auc"]],
    "leakage": ["required"],
    "families": [[], ["logistic"], ["mlp", "boosted"]],
    "methods": [["pooled"], ["fedavg"]],
    "sealings": [["none"], ["gvisor"]],
    "placements": [["escrow"], ["party"]],
    "exposure": [[], ["parties-see-rounds"]],
    "partners": [[], ["harbour"], ["harbour", "valley"]],
    "recipients": [[], ["harbour", "valley"]],
    "purpose": [[], [PURPOSE]],
    "disclosure": [{"released": ["verdict"]}, {}],
    "runs-at-most": [1, 3],
    "retries-at-most": [0, 2],
    "looks-at-most": [2, 3, 9],
    "expiry-at-most": ["1d", "31d"],
}
CONTRACTS = [
    contract(),
    contract(**CAPSULE),
    contract(**SHOWN_TO_HARBOUR, limits=limits(retries=1)),
    contract(computation=MIXED),
    contract(release=[gain("harbour"), LEAKAGE], limits=limits(runs=3)),
    contract(release=[gain("north", **{"more-than": 0.02, "confidence": 0.99}), FLOOR]),
    contract(disclosure={"released": ["verdict"]}, purpose="Another."),
]


@given(
    terms=some.lists(some.sampled_from(sorted(VALUES)), unique=True).flatmap(
        lambda names: some.fixed_dictionaries({name: some.sampled_from(VALUES[name]) for name in names})
    ),
    data=some.data(),
    of=some.sampled_from(CONTRACTS),
    party=some.sampled_from(["north", "harbour", "valley"]),
)
def test_a_further_term_never_allows_more(
    terms: dict[str, Any], data: some.DataObject, of: Contract, party: str
) -> None:
    further = data.draw(some.sampled_from(sorted(set(VALUES) - set(terms)) or ["leakage"]))
    narrower = {**terms, further: terms.get(further) or data.draw(some.sampled_from(VALUES[further]))}
    if narrower.get("leakage") and data.draw(some.booleans()):
        narrower["tpr-at-1pct-fpr-at-most"] = 0.01
    before = policy(**terms).check(of, party=party, looks=LOOKS, now=OPENED)
    assert set(before) <= set(policy(**narrower).check(of, party=party, looks=LOOKS, now=OPENED))


# the file


def test_without_a_file_the_default_demands_a_condition_of_ones_own(tmp_path: Path) -> None:
    assert load(tmp_path) == Policy(policy=1)
    default = [("own-condition", "required"), ("capsules", [])]
    assert [(each.term, each.value) for each in load(tmp_path).demands()] == default
    assert load(tmp_path).demands()[0].sentence == "Some clause is measured on this bank's own holdout."


def test_the_file_that_party_init_writes_is_the_default_and_shows_every_term(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(default_text())
    assert load(tmp_path) == Policy(policy=1)
    assert "Rounds show the joint model and everybody's sums" in default_text()
    for term in CHECKS:
        assert f"\n{term}: " in default_text() or f"\n# {term}: " in default_text()


def test_every_example_of_that_file_is_valid_when_its_mark_is_removed(tmp_path: Path) -> None:
    lines = [
        line.removeprefix("# ") if line[2:].split(":")[0] in CHECKS else line for line in default_text().split("\n")
    ]
    (tmp_path / FILE).write_text("\n".join(lines))
    assert [demand.term for demand in load(tmp_path).demands()] == list(CHECKS)


def test_a_file_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / FILE).symlink_to(tmp_path / "gone.yml")
    with refused("file-unreadable"):
        load(tmp_path)
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    with refused("file-unreadable"):
        load(tmp_path)
    with refused("file-unreadable"):
        load(tmp_path / FILE / ("x" * 300))


@pytest.mark.parametrize("text", ["", "- a\n", "policy: 1\npolicy: 1\n", "policy: &a 1\n", "policy: 1_0\n"])
def test_what_is_no_document_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with refused("document-invalid") as caught:
        load(tmp_path)
    assert FILE in caught.value.message


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("families: [mlp]", {"policy"}),
        ("policy: 2", {"policy"}),
        ("policy: 1\nfamilys: [mlp]\nminimum-positives: 0", {"familys", "minimum-positives"}),
        ("policy: 1\npartners:", {"partners"}),
        ("policy: 1\nown-condition:", {"own-condition"}),
        ("policy: 1\nown-condition: no-thanks", {"own-condition"}),
        ("policy: 1\nfamilies: [mlp, forest]\nmetrics: [accuracy]", {"families.1", "metrics.0"}),
        ("policy: 1\nminimum-gain: {average-precision: 1.5}", {"minimum-gain.average-precision"}),
        ("policy: 1\nminimum-gain: {}", {"minimum-gain"}),
        ("policy: 1\nexpiry-at-most: 30", {"expiry-at-most"}),
        ("policy: 1\nexpiry-at-most: 2w", {"expiry-at-most"}),
        ("policy: 1\ndisclosure: {released: [model]}", {"disclosure.released.0"}),
        ("policy: 1\nminimum_gain: {average-precision: 0.1}", {"minimum_gain"}),
    ],
)
def test_every_problem_is_named_with_its_place(tmp_path: Path, text: str, places: set[str]) -> None:
    (tmp_path / FILE).write_text(text)
    with refused("policy-invalid") as caught:
        load(tmp_path)
    assert {line.partition(": ")[0] for line in caught.value.details} == places


def test_a_bound_on_leakage_that_nothing_demands_is_refused() -> None:
    with pytest.raises(EscrowError) as caught:
        policy(tpr_at_1pct_fpr_at_most=0.01)
    assert caught.value.details == ("tpr-at-1pct-fpr-at-most needs `leakage: required`",)


def test_the_vocabulary_is_that_of_contracts() -> None:
    families = {spec.model_fields["family"].default for spec in get_args(get_args(ModelSpec)[0])}
    assert set(get_args(policies.Family)) == families
    one_way = {get_args(each.model_fields["name"].annotation)[0] for each in (Pooled, Ensemble)}
    assert set(get_args(policies.MethodName)) == {*TWO_WAY, *one_way}
    assert Policy.model_fields["disclosure"].annotation == Disclosure | None
    assert read_mapping(default_text().encode(), FILE, what="policy", begin="") == {
        "policy": 1,
        "own-condition": "required",
        "capsules": [],
    }
