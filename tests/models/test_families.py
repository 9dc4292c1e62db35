"""The families: what they refuse, that they learn, that their bytes repeat, and that ONNX scores as they do."""

import subprocess
import sys
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score

from contracts.errors import EscrowError
from models.families.base import Family, Model, Moments, make, make_federated, parse

SPECS: dict[str, dict[str, Any]] = {
    "logistic": {"family": "logistic", "epochs": 6, "batch": 256},
    "mlp": {"family": "mlp", "hidden": [16, 8], "epochs": 8, "batch": 256},
    "boosted": {"family": "boosted", "iterations": 40, "leaves": 8},
}
EXTREMES = np.array(
    [[0.0] * 4, [-0.0] * 4, [3.4e38] * 4, [-3.4e38] * 4, [1e-45] * 4, [1e9, -1e9, 1e-9, -1e-9], [12_345.67, 0, 1, -1]],
    np.float32,
)


def rows(n: int, seed: int, *, interaction: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Skewed amounts and rare positives: log-linear in two features, or decided by the sign of a product of two."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 4))
    risk = 3 * np.sign(z[:, 0] * z[:, 1]) - 5 if interaction else 2 * z[:, 0] - z[:, 1] - 5
    y = (rng.random(n) < 1 / (1 + np.exp(-risk))).astype(np.int64)
    return np.exp(2 * z).astype(np.float32), y


@pytest.fixture(scope="module", params=sorted(SPECS))
def trained(request: pytest.FixtureRequest) -> tuple[str, Model]:
    return request.param, make(SPECS[request.param]).fit(*rows(8000, 0), seed=7)


def onnx_scores(model: Model, X: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(model.to_onnx()).run(["score"], {"features": X})[0]


def test_onnx_scores_like_the_training_framework(trained: tuple[str, Model]) -> None:
    _, model = trained
    for X in (rows(5000, 1)[0], EXTREMES, -rows(500, 2)[0], np.empty((0, 4), np.float32)):
        ours, theirs = model.scores(X), onnx_scores(model, X)
        assert ours.dtype == theirs.dtype == np.float32
        assert ours.shape == theirs.shape == (len(X),)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [-np.inf, np.inf])
def test_a_row_next_to_a_threshold_takes_the_same_branch_in_onnx(side: float) -> None:
    """Feature values that are neighbours in float32: the midpoint between them is no float32."""
    rng = np.random.default_rng(3)
    ladder = np.float32(1) + np.arange(256, dtype=np.float32) * np.finfo(np.float32).eps
    X = rng.choice(ladder, size=(6000, 3)).astype(np.float32)
    y = (rng.random(6000) < np.where(X[:, 0] > ladder[100], 0.5, 0.02)).astype(np.int64)
    model = make(SPECS["boosted"]).fit(X, y, seed=1)
    for rows_ in (X, np.nextafter(X, np.float32(side))):
        np.testing.assert_allclose(model.scores(rows_), onnx_scores(model, rows_), rtol=0, atol=1e-5)


def test_each_family_learns_what_a_line_can_tell(trained: tuple[str, Model]) -> None:
    _, model = trained
    X, y = rows(8000, 4)
    assert average_precision_score(y, model.scores(X)) > 5 * y.mean()


def test_trees_and_perceptron_learn_an_interaction_that_logistic_cannot() -> None:
    X, y = rows(12_000, 5, interaction=True)
    tested, labels = rows(8000, 6, interaction=True)
    precision = {
        name: average_precision_score(labels, make(spec).fit(X, y, seed=1).scores(tested))
        for name, spec in SPECS.items()
    }
    assert precision["logistic"] < 1.2 * labels.mean()
    assert precision["boosted"] > 1.7 * labels.mean()
    assert precision["mlp"] > 1.7 * labels.mean()


def test_another_seed_gives_another_net_and_the_same_seed_the_same() -> None:
    X, y = rows(2000, 0)
    family = make(SPECS["mlp"])
    assert family.fit(X, y, seed=1).to_onnx() == family.fit(X, y, seed=1).to_onnx()
    assert family.fit(X, y, seed=1).to_onnx() != family.fit(X, y, seed=2).to_onnx()


FRESH = """
import hashlib, sys
import numpy as np
from models.families.base import make
rng = np.random.default_rng(0)
X = np.exp(rng.normal(size=(3000, 5))).astype(np.float32)
y = (X[:, 0] * X[:, 1] > 4).astype(int)
for spec in ({"family": "logistic"}, {"family": "mlp"}, {"family": "boosted", "iterations": 20}):
    print(hashlib.sha256(make(spec).fit(X, y, seed=3).to_onnx()).hexdigest())
"""


def test_fresh_processes_with_other_thread_settings_give_identical_bytes() -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", FRESH],
            env={"OMP_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
            stdout=subprocess.PIPE,
            text=True,
        )
        for threads in ("1", "2")
    ]
    said = [process.communicate()[0] for process in running]
    assert len(said[0].split()) == 3
    assert said[0] == said[1]


LOADED = """
import sys
from models.families.base import make
family = make({"family": sys.argv[1]})
if sys.argv[2:] == ["fit"]:
    import numpy as np

    family.fit(np.eye(8, 2, dtype=np.float32), np.arange(8) % 2, seed=1)
print(*sorted({"torch", "sklearn", "skl2onnx", "flwr"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("asked", "loaded"), [(["mlp"], ""), (["mlp", "fit"], "torch"), (["boosted"], "skl2onnx sklearn")]
)
def test_a_family_loads_its_own_framework_only_and_a_net_only_to_train(asked: list[str], loaded: str) -> None:
    ended = subprocess.run([sys.executable, "-c", LOADED, *asked], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == loaded


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({}, "family"),
        ({"family": "forest"}, "family"),
        ({"family": ["mlp"]}, "family"),
        ({"family": "mlp", "hiden": [8]}, "hiden"),
        ({"family": "mlp", "hidden": []}, "hidden"),
        ({"family": "mlp", "hidden": [8, 0]}, "hidden.1"),
        ({"family": "mlp", "hidden": [8.5]}, "hidden.0"),
        ({"family": "mlp", "hidden": [8] * 5}, "hidden"),
        ({"family": "logistic", "hidden": [8]}, "hidden"),
        ({"family": "mlp", "epochs": True}, "epochs"),
        ({"family": "mlp", "epochs": "12"}, "epochs"),
        ({"family": "mlp", "epochs": 0}, "epochs"),
        ({"family": "mlp", "learning-rate": float("nan")}, "learning-rate"),
        ({"family": "mlp", "learning-rate": 0}, "learning-rate"),
        ({"family": "boosted", "iterations": 10**9}, "iterations"),
        ({"family": "boosted", "l2": -1.0}, "l2"),
    ],
)
def test_a_spec_outside_the_vocabulary_is_refused_by_the_name_of_its_key(spec: dict[str, Any], named: str) -> None:
    with pytest.raises(EscrowError, match=f"'{named}'") as refusal:
        make(spec)
    assert refusal.value.code == "model-invalid"


def test_a_spec_keeps_what_is_given_and_fills_in_the_rest() -> None:
    spec = parse({"family": "mlp", "hidden": [8], "learning-rate": 0.5})
    assert spec.model_dump(mode="json", by_alias=True).items() >= {"hidden": [8], "learning-rate": 0.5}.items()
    assert parse(spec.model_dump(mode="json", by_alias=True)) == spec


@pytest.mark.parametrize("name", sorted(SPECS))
@pytest.mark.parametrize(
    ("X", "y"),
    [
        (rows(50, 0)[0], np.zeros(50)),
        (rows(50, 0)[0], np.ones(50, int)),
        (rows(50, 0)[0], np.arange(50)),
        (rows(50, 0)[0], np.arange(49) % 2),
        (rows(50, 0)[0], (np.arange(50) % 2)[:, None]),
        (np.full((50, 4), np.nan, np.float32), np.arange(50) % 2),
        (np.full((50, 4), 1e39), np.arange(50) % 2),
        (np.empty((0, 4), np.float32), np.empty(0)),
        (np.arange(50, dtype=np.float32), np.arange(50) % 2),
    ],
    ids=["no-fraud", "all-fraud", "labels", "short", "column", "nan", "overflow", "empty", "vector"],
)
def test_rows_that_cannot_train_a_model_are_refused(name: str, X: np.ndarray, y: np.ndarray) -> None:
    with pytest.raises(EscrowError) as refusal:
        make(SPECS[name]).fit(X, y, seed=1)
    assert refusal.value.code == "training-failed"


@pytest.mark.parametrize("name", sorted(SPECS))
def test_progress_rises_to_one(name: str) -> None:
    told: list[float] = []
    make(SPECS[name]).fit(*rows(500, 0), seed=1, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


# --- parameters ---------------------------------------------------------------------------------------------------


def test_rounds_of_local_training_learn_and_leave_their_arguments_alone() -> None:
    family = make_federated(SPECS["mlp"])
    banks = [rows(3000, 10), rows(3000, 11)]
    moments = Moments.joint([family.moments(X, y) for X, y in banks])
    parameters = family.initial(4, moments, seed=5)
    for turn in range(8):
        before = [array.copy() for array in parameters]
        updates = [family.local_fit(parameters, moments, X, y, epochs=1, seed=turn) for X, y in banks]
        assert all(np.array_equal(*pair) for pair in zip(before, parameters, strict=True))
        parameters = [
            np.mean(arrays, axis=0, dtype=np.float64).astype(np.float32) for arrays in zip(*updates, strict=True)
        ]
    X, y = rows(6000, 12)
    model = family.from_parameters(parameters, moments)
    assert average_precision_score(y, model.scores(X)) > 5 * y.mean()


def test_fit_is_one_local_fit_from_the_initial_parameters() -> None:
    X, y = rows(1000, 0)
    alone: Family = make(SPECS["mlp"])
    family = make_federated(SPECS["mlp"])
    moments = family.moments(X, y)
    start = family.initial(4, moments, seed=3)
    fitted = family.local_fit(start, moments, X, y, epochs=SPECS["mlp"]["epochs"], seed=3)
    assert family.from_parameters(fitted, moments).to_onnx() == alone.fit(X, y, seed=3).to_onnx()


def test_a_party_without_frauds_can_still_take_part() -> None:
    X, _ = rows(300, 0)
    family = make_federated(SPECS["logistic"])
    moments = family.moments(X, np.zeros(300))
    update = family.local_fit(family.initial(4, moments, seed=1), moments, X, np.zeros(300), epochs=1, seed=1)
    assert all(np.isfinite(array).all() for array in update)


def test_trees_cannot_be_averaged() -> None:
    with pytest.raises(EscrowError, match="exchanging parameters"):
        make_federated(SPECS["boosted"])


def test_parameters_of_another_model_or_with_nan_make_no_model() -> None:
    family = make_federated(SPECS["mlp"])
    moments = family.moments(*rows(100, 0))
    good = family.initial(4, moments, seed=1)
    for bad in ([], good[:-1], [*good, good[-1]], [good[0].T, *good[1:]], [*good[:-1], np.array([np.nan], np.float32)]):
        with pytest.raises(EscrowError) as refusal:
            family.from_parameters(bad, moments)
        assert refusal.value.code == "update-invalid"


@st.composite
def two_tables(draw: st.DrawFn) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows and labels of two parties, of whatever finite numbers."""
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    X = draw(hnp.arrays(np.float32, st.tuples(st.integers(2, 12), st.just(3)), elements=finite))
    y = draw(hnp.arrays(np.int64, len(X), elements=st.integers(0, 1)))
    cut = draw(st.integers(1, len(X) - 1))
    return [(X[:cut], y[:cut]), (X[cut:], y[cut:])]


@settings(max_examples=60)
@given(two_tables())
def test_middle_moments_are_always_possible_ones(tables: list[tuple[np.ndarray, np.ndarray]]) -> None:
    family = make_federated(SPECS["logistic"])
    X, y = (np.concatenate(each) for each in zip(*tables, strict=True))
    parts = [family.moments(*part) for part in (*tables, (X, y), (X[:1], y[:1]))]
    for some in (parts, parts[:3]):
        assert Moments.middle(some).rows == sum(part.rows for part in some)


def test_liars_who_are_fewer_cannot_bend_middle_moments_nor_make_a_spread_vanish() -> None:
    rng = np.random.default_rng(3)
    honest = []
    for mean, spread in ((-2.0, 1.0), (0.0, 2.0), (2.0, 1.0)):
        values = rng.normal(mean, spread, size=(4000, 1))
        honest.append(Moments(4000, values.sum(axis=0), np.square(values).sum(axis=0), 40))
    for mean, square in ((88.0, 89.0**2), (-88.0, 89.0**2), (2.0, 4.0), (0.0, 0.0), (1.0, 89.0**2)):
        liar = Moments(10**9, np.array([mean * 1e9]), np.array([square * 1e9]), 10**9)
        joint = Moments.middle([honest[0], liar, honest[1], liar, honest[2]])
        found = joint.sums[0] / joint.rows
        spread = np.sqrt(joint.squares[0] / joint.rows - found**2)
        assert -2.1 < found < 2.1
        assert 0.9 < spread < 5
        assert joint.positives / joint.rows == pytest.approx(0.01)


@settings(max_examples=60)
@given(two_tables())
def test_joint_moments_are_those_of_all_rows_together(tables: list[tuple[np.ndarray, np.ndarray]]) -> None:
    family = make_federated(SPECS["logistic"])
    X, y = (np.concatenate(each) for each in zip(*tables, strict=True))
    joint = Moments.joint([family.moments(*part) for part in tables])
    whole = family.moments(X, y)
    assert (joint.rows, joint.positives) == (whole.rows, whole.positives) == (len(X), y.sum())
    np.testing.assert_allclose(joint.sums, whole.sums, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(joint.squares, whole.squares, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(
    ("count", "sums", "squares", "positives"),
    [
        (0, [0.0], [0.0], 0),
        (5, [0.0, 0.0], [0.0], 1),
        (5, [np.nan], [1.0], 1),
        (5, [1.0], [np.inf], 1),
        (5, [1.0], [-1.0], 1),
        (5, [10.0], [1.0], 1),
        (5, [0.0], [1e6], 1),
        (5, [1.0], [1.0], -1),
        (5, [1.0], [1.0], 6),
    ],
    ids=["no-rows", "widths", "nan", "infinite", "negative", "cauchy-schwarz", "too-large", "owed", "all-and-more"],
)
def test_moments_that_no_table_has_are_refused(
    count: int, sums: list[float], squares: list[float], positives: int
) -> None:
    with pytest.raises(EscrowError) as refusal:
        Moments(count, np.array(sums), np.array(squares), positives)
    assert refusal.value.code == "update-invalid"


@pytest.mark.parametrize(
    ("positives", "rate"), [(0, 1.2e-4), (1, 1.2e-4), (300, 0.003), (40_000, 0.4), (90_000, 0.5), (100_000, 0.5)]
)
def test_training_begins_at_the_joint_rate_of_fraud_within_bounds(positives: int, rate: float) -> None:
    """The scores of a row that has nothing unusual, before any training."""
    family = make_federated(SPECS["mlp"])
    moments = Moments(100_000, np.zeros(4), np.full(4, 1e5), positives)
    model = family.from_parameters(family.initial(4, moments, seed=1), moments)
    assert model.scores(np.zeros((1, 4), np.float32))[0] == pytest.approx(rate, rel=0.05)


@pytest.mark.parametrize("proximal", [0.0, 0.7])
def test_a_proximal_descent_is_the_one_that_its_formula_gives(proximal: float) -> None:
    """Three steps of AdamW on all rows of a logistic regression, by hand in double precision."""
    X, y = rows(64, 3)
    spec = {"family": "logistic", "batch": 65536, "learning-rate": 0.05, "weight-decay": 0.01}
    family = make_federated(spec)
    moments = family.moments(X, y)
    start = family.initial(4, moments, seed=2)
    fitted = family.local_fit(start, moments, X, y, epochs=3, seed=9, proximal=proximal)

    tamed = np.sign(X) * np.log1p(np.abs(X.astype(np.float64)))
    inputs = np.c_[np.clip((tamed - tamed.mean(0)) / tamed.std(0), -10, 10), np.ones(64)]
    origin = np.r_[start[0][0], start[1]].astype(np.float64)
    weights, first, second = origin.copy(), np.zeros(5), np.zeros(5)
    for step in (1, 2, 3):
        gradient = inputs.T @ (1 / (1 + np.exp(-inputs @ weights)) - y) / 64 + proximal * (weights - origin)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        weights *= 1 - 0.05 * 0.01
        weights -= 0.05 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(np.r_[fitted[0][0], fitted[1]], weights, rtol=0, atol=2e-6)


def test_a_party_that_pays_for_moving_moves_less() -> None:
    X, y = rows(2000, 4)
    family = make_federated(SPECS["mlp"])
    moments = family.moments(X, y)
    start = family.initial(4, moments, seed=2)
    moved = []
    for proximal in (0.0, 0.1, 10.0):
        fitted = family.local_fit(start, moments, X, y, epochs=3, seed=1, proximal=proximal)
        moved.append(sum(float(np.sum((a - b) ** 2)) for a, b in zip(fitted, start, strict=True)))
    assert moved[0] > moved[1] > 2 * moved[2]


def test_a_constant_feature_and_one_never_seen_before_keep_scores_finite() -> None:
    X, y = rows(2000, 0)
    X[:, 2] = 7.0
    for name in ("logistic", "mlp"):
        model = make(SPECS[name]).fit(X, y, seed=1)
        moved = X.copy()
        moved[:, 2] = 1e30
        assert np.isfinite(model.scores(moved)).all()
        np.testing.assert_allclose(model.scores(moved), onnx_scores(model, moved), rtol=0, atol=1e-5)
