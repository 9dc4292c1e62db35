"""Ensembles: one graph that scores as its members' calibrated log-odds say, and nothing of a hostile member gets in."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from sklearn.metrics import average_precision_score

from contracts.canonical import canonical, digest
from contracts.errors import EscrowError
from contracts.schema import Schema
from models import bundle, onnx_guard
from models.ensemble import combine, log_odds, platt, weights
from models.families.base import make
from models.jobs import Own, Validation
from models.manifest import Ensemble

NAMES = ("amount", "customer-7d", "terminal-risk-7d")
SCHEMA = Schema.model_validate(
    {
        "columns": {"time": "t", "label": "fraud", "group": "card", "amount": "amount", "terminal": "terminal"},
        "split": {"train-from": "2018-07-01", "train-days": 28, "test-days": 28},
    }
)
CONTRACT = "sha256:" + "ab" * 32
SPECS: dict[str, dict[str, Any]] = {
    "north": {"family": "mlp", "hidden": [8], "epochs": 2},
    "harbour": {"family": "boosted", "iterations": 10, "leaves": 8},
    "valley": {"family": "logistic", "epochs": 2},
}
SHOWN = {
    "north": {"rows": 500, "positives": 10, "average-precision": 0.6, "slope": 1.3, "intercept": -0.5},
    "harbour": {"rows": 200, "positives": 6, "average-precision": 0.3, "slope": 0.4, "intercept": -2.0},
    "valley": {"rows": 90, "positives": 4, "average-precision": 0.1, "slope": 0.0, "intercept": -3.0},
}
ROWS = {"north": 1500, "harbour": 1500, "valley": 90}
EXTREMES = np.array([[0, 0, 0], [3.4e38, -3.4e38, 1e-45], [-1e9, 1e9, 0], [1, -1, 1]], np.float32)

Files = dict[str, bytes]
Members = dict[str, Files]


def rows(n: int, seed: int) -> np.ndarray:
    return np.exp(2 * np.random.default_rng(seed).normal(size=(n, 3))).astype(np.float32)


def stated(spec: Mapping[str, Any], shown: Mapping[str, Any] | None) -> bytes:
    return canonical({"spec": spec, "validation": shown})


@pytest.fixture(scope="module")
def members() -> Members:
    """Own models of three families, each trained on rows in which another feature tells frauds."""
    found = {}
    for position, (party, spec) in enumerate(SPECS.items()):
        X = rows(1500, position)
        model = make(spec).fit(X, X[:, position] > 8, seed=1)
        files = bundle.files(model, names=NAMES, schema=SCHEMA, spec=spec, contract=CONTRACT)
        found[party] = {**files, "baseline.json": stated(spec, SHOWN[party])}
    return found


def combined(members: Mapping[str, Files]) -> Files:
    return combine(members, rows=ROWS, names=NAMES, schema=SCHEMA, contract=CONTRACT)


def by_hand(members: Mapping[str, Files], X: np.ndarray) -> np.ndarray:
    """The formula, in double precision, on what onnxruntime gives for each member."""
    total = np.zeros(len(X))
    shown = {party: json.loads(files["baseline.json"])["validation"] for party, files in members.items()}
    frauds = sum(each["positives"] for each in shown.values())
    for party, files in members.items():
        scores = np.clip(bundle.read(files).scores(X).astype(np.float64), 2**-20, 1 - 2**-20)
        odds = np.log(scores / (1 - scores))
        total += shown[party]["positives"] / frauds * (shown[party]["slope"] * odds + shown[party]["intercept"])
    return 1 / (1 + np.exp(-total))


def refused(members: Mapping[str, Files]) -> EscrowError:
    with pytest.raises(EscrowError) as refusal:
        combined(members)
    assert refusal.value.code == "update-invalid"
    return refusal.value


# --- the graph ----------------------------------------------------------------------------------------------------


def test_the_joint_score_is_the_pool_of_the_members_calibrated_log_odds(members: Members) -> None:
    joint = bundle.read(combined(members))
    for X in (rows(3000, 7), EXTREMES, -rows(100, 8)):
        np.testing.assert_allclose(joint.scores(X), by_hand(members, X), rtol=0, atol=1e-6)
    assert joint.scores(np.empty((0, 3))).shape == (0,)
    for chosen in ({"north", "harbour"}, {"valley"}):
        some = {party: members[party] for party in chosen}
        np.testing.assert_allclose(
            bundle.read(combined(some)).scores(rows(500, 9)), by_hand(some, rows(500, 9)), rtol=0, atol=1e-6
        )


def test_an_ensemble_knows_what_each_of_its_members_knows(members: Members) -> None:
    """Each member met frauds of one kind; the holdout has them all."""
    even = {
        party: {
            **files,
            "baseline.json": stated(SPECS[party], {**SHOWN["north"], "rows": 90, "slope": 1.0, "intercept": 0.0}),
        }
        for party, files in members.items()
    }
    X = rows(4000, 10)
    y = (X > 8).any(axis=1)
    reached = average_precision_score(y, bundle.read(combined(even)).scores(X))
    alone = [average_precision_score(y, bundle.read(files).scores(X)) for files in members.values()]
    assert reached > max(alone) + 0.05


def test_equal_members_give_equal_bytes_in_whatever_order_they_came(members: Members) -> None:
    assert combined(members) == combined(dict(reversed(members.items())))


def test_a_bundle_says_whose_models_it_holds_and_what_they_weigh(members: Members, tmp_path: Path) -> None:
    bundle.put(tmp_path, combined(members))
    loaded = bundle.load(tmp_path)
    assert loaded.manifest.trained_for == CONTRACT
    assert loaded.manifest.features == NAMES
    described = loaded.manifest.model
    assert isinstance(described, Ensemble)
    assert {party: each.model.family for party, each in described.members.items()} == {
        party: spec["family"] for party, spec in SPECS.items()
    }
    assert {party: (each.weight, each.slope, each.intercept) for party, each in described.members.items()} == {
        "north": (0.5, 1.3, -0.5),
        "harbour": (0.3, 0.4, -2.0),
        "valley": (0.2, 0.0, -3.0),
    }
    assert bundle.read(bundle_unpacked(bundle.pack(tmp_path), tmp_path / "again")).digest == loaded.digest


def bundle_unpacked(data: bytes, directory: Path) -> Files:
    bundle.unpack(data, directory)
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_combining_needs_no_training_framework(members: Members, tmp_path: Path) -> None:
    for party, files in members.items():
        bundle.put(tmp_path / party, files)
    program = """
import sys
from pathlib import Path
for name in ("torch", "sklearn", "skl2onnx", "flwr"):
    sys.modules[name] = None  # importing it now fails
from contracts.schema import Schema
from models.ensemble import combine
parties = Path(sys.argv[1]).iterdir()
members = {party.name: {path.name: path.read_bytes() for path in party.iterdir()} for party in parties}
schema = Schema.model_validate_json(sys.argv[2])
rows = dict.fromkeys(members, 1500)
files = combine(members, rows=rows, names=sys.argv[3].split(), schema=schema, contract=sys.argv[4])
sys.stdout.buffer.write(files["model.onnx"])
"""
    arguments = [str(tmp_path), SCHEMA.model_dump_json(by_alias=True), " ".join(NAMES), CONTRACT]
    ended = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, check=True)
    assert ended.stdout == combined(members)["model.onnx"]


# --- weights and calibration --------------------------------------------------------------------------------------


def validation(**changes: Any) -> Validation:
    return Validation.model_validate({**SHOWN["north"], **changes})


def test_members_weigh_by_the_frauds_they_were_validated_on() -> None:
    found = weights({"a": validation(positives=5), "b": validation(positives=2), "c": validation(positives=3)})
    assert found == {"a": 0.5, "b": 0.2, "c": 0.3}
    assert weights({"a": validation(positives=7), "b": validation(positives=7), "c": None}) == {
        "a": 0.5,
        "b": 0.5,
        "c": 0,
    }
    assert weights({"a": None, "b": None}) == {"a": 0.5, "b": 0.5}
    assert weights({"a": None}) == weights({"a": validation()}) == {"a": 1.0}


@pytest.mark.parametrize(
    ("frauds", "expected"),
    [
        ((10**9, 30, 10), (0.5, 0.375, 0.125)),
        ((10**9, None, None), (0.5, 0.25, 0.25)),
        ((10**9, 30, None), (0.5, 0.5, 0)),
        ((10**9, 5, 5, 5, 5, 5), (0.5, 0.1, 0.1, 0.1, 0.1, 0.1)),
        ((10**9, 30), (2 / 3, 1 / 3)),
        ((30, None), (2 / 3, 1 / 3)),
        ((3, 2), (0.6, 0.4)),
    ],
)
def test_no_banks_word_takes_the_ensemble_over(frauds: tuple[int | None, ...], expected: tuple[float, ...]) -> None:
    stated = [None if count is None else validation(positives=count) for count in frauds]
    found = weights({str(number): each for number, each in enumerate(stated)})
    assert list(found.values()) == pytest.approx(expected)


def test_a_member_that_was_not_validated_is_left_out_of_the_graph(members: Members) -> None:
    even = stated(SPECS["harbour"], {**SHOWN["harbour"], "positives": SHOWN["valley"]["positives"]})
    members = {**members, "harbour": {**members["harbour"], "baseline.json": even}}
    silent = {**members, "north": {**members["north"], "baseline.json": stated(SPECS["north"], None)}}
    files = combined(silent)
    assert b"north/" not in files["model.onnx"]
    assert b"harbour/" in files["model.onnx"]
    X = rows(200, 3)
    others = {party: members[party] for party in ("harbour", "valley")}
    np.testing.assert_array_equal(bundle.read(files).scores(X), bundle.read(combined(others)).scores(X))


def test_members_of_whom_none_was_validated_count_as_calibrated(members: Members) -> None:
    silent = {party: {**members[party], "baseline.json": stated(SPECS[party], None)} for party in ("north", "valley")}
    X = rows(500, 3)
    odds = [log_odds(bundle.read(files).scores(X)) for files in silent.values()]
    expected = 1 / (1 + np.exp(-np.mean(odds, axis=0)))
    np.testing.assert_allclose(bundle.read(combined(silent)).scores(X), expected, rtol=0, atol=1e-6)


def test_calibration_finds_the_slope_and_intercept_that_made_the_labels() -> None:
    rng = np.random.default_rng(1)
    odds = rng.normal(-3, 2, 40_000)
    labels = rng.random(40_000) < 1 / (1 + np.exp(-(0.6 * odds - 0.8)))
    slope, intercept = platt(odds, labels)
    assert slope == pytest.approx(0.6, abs=0.04)
    assert intercept == pytest.approx(-0.8, abs=0.08)
    rates = 1 / (1 + np.exp(-(slope * odds + intercept)))
    assert rates.mean() == pytest.approx(labels.mean(), rel=0.01)


def test_scores_that_point_the_wrong_way_get_no_slope_and_the_rate_of_fraud() -> None:
    rng = np.random.default_rng(2)
    odds = rng.normal(size=5000)
    labels = rng.random(5000) < 1 / (1 + np.exp(odds + 3))
    slope, intercept = platt(odds, labels)
    assert slope == 0
    assert 1 / (1 + np.exp(-intercept)) == pytest.approx(labels.mean(), rel=0.05)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.floats(-13.9, 13.9), st.booleans()), min_size=2, max_size=60).filter(
        lambda pairs: len({label for _, label in pairs}) == 2
    ),
    st.integers(1, 2000),
)
def test_calibration_is_sane_and_best_on_whatever_rows(pairs: list[tuple[float, bool]], repeated: int) -> None:
    """Few frauds, frauds that the scores separate perfectly, many equal rows: finite, bounded, and at the optimum."""
    odds = np.array([value for value, _ in pairs]).repeat(repeated)
    labels = np.array([label for _, label in pairs]).repeat(repeated)
    slope, intercept = platt(odds, labels)
    assert 0 <= slope <= 100
    assert -100 <= intercept <= 100

    def loss(a: float, b: float) -> float:
        values = a * odds + b
        return float(np.sum(np.logaddexp(0, values) - labels * values) + (a - 1) ** 2 / 2 + b**2 / 8)

    for a, b in ((slope + 1e-3, intercept), (slope, intercept + 1e-3), (slope, intercept - 1e-3)):
        assert loss(slope, intercept) <= loss(a, b) + 1e-9 * len(odds)
    if slope >= 1e-3:
        assert loss(slope, intercept) <= loss(slope - 1e-3, intercept) + 1e-9 * len(odds)


# --- hostile members ----------------------------------------------------------------------------------------------


def with_figures(**changes: Any) -> Callable[[Files], Files]:
    return lambda files: {**files, "baseline.json": json.dumps({"spec": SPECS["valley"], **changes}).encode()}


def shown(**changes: Any) -> dict[str, Any]:
    return {"validation": {**SHOWN["valley"], **changes}}


def remade(**changes: Any) -> Callable[[Files], Files]:
    """A sound bundle around the same graph that says other things of itself."""

    def remake(files: Files) -> Files:
        terms = {"names": NAMES, "schema": SCHEMA, "contract": CONTRACT, **changes}
        described = bundle.read(files).manifest.model
        return {**files, **bundle.made(files["model.onnx"], described, **terms)}

    return remake


def lacking(name: str) -> Callable[[Files], Files]:
    return lambda files: {other: data for other, data in files.items() if other != name}


def spoilt(name: str) -> Callable[[Files], Files]:
    return lambda files: {**files, name: files[name][:-1]}


FEATURES = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 3])
SCORE = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows"])


def planted(
    nodes: list[onnx.NodeProto], opset: int = 17, shadow: str | None = None, **constants: np.ndarray
) -> Callable[[Files], Files]:
    """A member around another graph, whose manifest and digests fit it."""
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    if shadow is not None:
        tensors.append(onnx.numpy_helper.from_array(np.zeros((1, 3), np.float32), shadow))
    graph = helper.make_graph(nodes, "score", [FEATURES], [SCORE], tensors)
    data = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)]).SerializeToString()

    def plant(files: Files) -> Files:
        values = json.loads(files["model.json"]) | {"onnx": digest(data)}
        del values["digest"]
        manifest = canonical({**values, "digest": digest(canonical(values))})
        return {**files, "model.onnx": data, "model.json": manifest}

    return plant


def squeezed(*names: str) -> list[onnx.NodeProto]:
    """The first feature through an operator, as the score."""
    return [
        helper.make_node("Gather", ["features", "first"], ["x"], axis=1),
        helper.make_node(names[0], ["x", *names[1:]], ["score"]),
    ]


FIRST = {"first": np.array(0, np.int64)}
HOSTILE: dict[str, Callable[[Files], Files]] = {
    "no graph": lacking("model.onnx"),
    "no manifest": lacking("model.json"),
    "no figures": lacking("baseline.json"),
    "a graph cut short": spoilt("model.onnx"),
    "a manifest cut short": spoilt("model.json"),
    "figures cut short": spoilt("baseline.json"),
    "figures without end": lambda files: {**files, "baseline.json": files["baseline.json"] + b" " * (1 << 16)},
    "figures nested deeply": lambda files: {**files, "baseline.json": b'{"spec":' + b"[" * 30_000},
    "an unknown figure": with_figures(rows=5),
    "another candidate": with_figures(spec={"family": "logistic", "epochs": 3}),
    "no candidate": with_figures(spec={"family": "forest"}),
    "frauds alone": with_figures(**shown(positives=90)),
    "more rows than it trains on": with_figures(**shown(rows=91)),
    "no fraud": with_figures(**shown(positives=0)),
    "a precision above 1": with_figures(**shown(**{"average-precision": 1.5})),
    "a slope that turns scores around": with_figures(**shown(slope=-1.0)),
    "a slope of nan": with_figures(**shown(slope=float("nan"))),
    "an endless intercept": with_figures(**shown(intercept=float("inf"))),
    "other features": remade(names=("a", "b", "c")),
    "features in another order": remade(names=NAMES[::-1]),
    "another schema": remade(schema=SCHEMA.model_copy(update={"label_delay_days": 3})),
    "another contract": remade(contract="sha256:" + "cd" * 32),
    "no contract": remade(contract=None),
    "an operator that no family has": planted(squeezed("Tanh"), **FIRST),
    "another version of the operators": planted(squeezed("Sigmoid"), opset=16, **FIRST),
    "scores that are no probabilities": planted(squeezed("Add", "five"), five=np.float32([5]), **FIRST),
    "an input that is hidden by a constant": planted(squeezed("Sigmoid"), shadow="features", **FIRST),
    "a graph that nothing defines": planted(squeezed("Add", "nowhere"), **FIRST),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_member_is_refused_and_its_party_named(members: Members, change: Callable[[Files], Files]) -> None:
    assert refused({**members, "valley": change(members["valley"])}).party == "valley"


def test_an_ensemble_is_no_member(members: Members) -> None:
    inner = {**combined({"north": members["north"]}), "baseline.json": members["north"]["baseline.json"]}
    assert refused({**members, "north": inner}).party == "north"


def test_a_plain_stranger_is_combined(members: Members) -> None:
    """So the refusals above are about what was changed."""
    stranger = planted(squeezed("Sigmoid"), **FIRST)(members["valley"])
    others = {**members, "valley": stranger}
    X = rows(300, 4)
    np.testing.assert_allclose(bundle.read(combined(others)).scores(X), by_hand(others, X), rtol=0, atol=1e-6)


def test_a_member_cannot_stand_for_anothers_tensors_or_those_of_the_sum(members: Members) -> None:
    """It calls its own tensors what the joint graph calls its own, and another member's."""
    nodes = [
        helper.make_node("Gather", ["features", "offset"], ["north/score"], axis=1),
        helper.make_node("Sigmoid", ["north/score"], ["north:part"]),
        helper.make_node("Mul", ["north:part", "one"], ["score"]),
    ]
    names = {
        "offset": np.array(0, np.int64),
        "one": np.float32([0.5]),
        "low": np.float32([0.9]),
        "high": np.float32([2]),
    }
    thief = {**members, "valley": planted(nodes, **names)(with_figures(**shown(slope=1.0))(members["valley"]))}
    X = rows(300, 4)
    np.testing.assert_allclose(bundle.read(combined(thief)).scores(X), by_hand(thief, X), rtol=0, atol=1e-6)


def test_scores_of_exactly_0_and_1_stay_finite(members: Members) -> None:
    """A member that is always sure has much to say, but not everything."""
    nodes = [
        helper.make_node("Gather", ["features", "first"], ["x"], axis=1),
        helper.make_node("Clip", ["x", "zero", "one"], ["score"]),
    ]
    sure = planted(nodes, zero=np.array(0, np.float32), one=np.array(1, np.float32), **FIRST)
    others = {**members, "valley": sure(with_figures(**shown(slope=1.0))(members["valley"]))}
    X = np.array([[-5, 1, 1], [0, 1, 1], [0.5, 1, 1], [1, 1, 1], [99, 1, 1]], np.float32)
    scores = bundle.read(combined(others)).scores(X)
    np.testing.assert_allclose(scores, by_hand(others, X), rtol=0, atol=1e-6)
    assert ((scores > 0) & (scores < 1)).all()


def test_a_member_without_a_score_for_some_rows_says_nothing_of_them(members: Members) -> None:
    """sigmoid(log(50 − amount)) is no number for larger amounts, which nobody tries before; nor at once for all rows
    (`Clip` of many numbers is other machine code than of a few)."""
    nodes = [
        helper.make_node("Gemm", ["features", "minus", "fifty"], ["rest"]),
        helper.make_node("Log", ["rest"], ["log"]),
        helper.make_node("Sigmoid", ["log"], ["sure"]),
        helper.make_node("Squeeze", ["sure", "axis"], ["score"]),
    ]
    constants = {"minus": np.float32([[-1], [0], [0]]), "fifty": np.float32([50]), "axis": np.array([1], np.int64)}
    loud = with_figures(**shown(rows=90, positives=89, slope=100.0, intercept=0.0))
    hostile = {**members, "valley": planted(nodes, **constants)(loud(members["valley"]))}
    joint = bundle.read(combined(hostile))

    assert isinstance(joint.manifest.model, Ensemble)
    said = {party: each for party, each in joint.manifest.model.members.items() if party != "valley"}
    X = rows(500, 4)
    X[:, 0] = 60
    expected = np.zeros(len(X))
    for party, each in said.items():
        odds = log_odds(bundle.read(members[party]).scores(X))
        expected += each.weight * (each.slope * odds + each.intercept)
    for count in (len(X), 7, 1):
        scores = joint.scores(X[:count])
        np.testing.assert_allclose(scores, 1 / (1 + np.exp(-expected[:count])), rtol=0, atol=1e-6)
    X[::2, 0] = 1
    assert np.isfinite(joint.scores(X)).all()


def test_an_ensemble_of_nobody_and_one_larger_than_a_bundle_are_refused(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EscrowError) as refusal:
        combined({})
    assert refusal.value.code == "roster-incomplete"
    largest = max(len(files["model.onnx"]) for files in members.values())
    monkeypatch.setattr(bundle, "LIMITS", {**bundle.LIMITS, "model.onnx": largest})
    with pytest.raises(EscrowError, match="more than") as refusal:
        combined(members)
    assert refusal.value.code == "bundle-invalid"


def test_what_is_read_and_what_is_combined_pass_the_same_guard(members: Members) -> None:
    onnx_guard.check(combined(members)["model.onnx"])
    assert Own.model_validate_json(members["north"]["baseline.json"]).validation == validation()
