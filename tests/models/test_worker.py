"""The worker as the runtime meets it: a job and inputs go in, declared results or a code come out."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.errors import CODES
from contracts.schema import Schema
from models import bundle
from models.families.base import make
from models.features import feature_names, prepare
from models.roles.check import row_hashes
from models.table import Prepared, Table, read_prepared, write_prepared
from models.worker import main

SCHEMA: dict[str, Any] = {
    "columns": {"time": "t", "label": "fraud", "group": "card", "amount": "amount", "terminal": "terminal"},
    "windows-days": [1, 7],
    "label-delay-days": 7,
    "split": {"train-from": "2025-03-01", "train-days": 20, "test-days": 10},
}
NAMES = feature_names(Schema.model_validate(SCHEMA))
TRAIN = (np.datetime64("2025-03-01", "s"), 20)
TEST = (np.datetime64("2025-03-28", "s"), 10)
SEED = "5a" * 32
CONTRACT = "sha256:" + "c0" * 32
LOGISTIC = {"family": "logistic", "epochs": 3, "batch": 32, "learning-rate": 0.05}
SIZES = {"north": 700, "corner": 160}
HEAVY = ("torch", "sklearn", "flwr", "skl2onnx")


@pytest.fixture(autouse=True)
def _environment_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())


def table(party: str, n: int, window: tuple[np.datetime64, int], seed: int) -> Prepared:
    """Rows of one window, in order of time, whose first feature tells fraud from the rest rather well."""
    rng = np.random.default_rng([seed, len(party)])
    features = rng.lognormal(size=(n, len(NAMES))).astype(np.float32)
    labels = (np.log(features[:, 0]) + rng.normal(scale=0.4, size=n) > 1.3).astype(np.int8)
    start, days = window
    return Prepared(
        names=NAMES,
        features=features,
        labels=labels,
        groups=np.array([f"{party}-{number}" for number in rng.integers(0, max(2, n // 8), n)]),
        terminals=np.array([f"t{number}" for number in rng.integers(0, 40, n)]),
        amounts=features[:, 0].copy(),
        times=np.sort(start + rng.integers(0, days * 86_400, n)),
    )


@pytest.fixture(scope="module")
def world() -> dict[str, tuple[Prepared, Prepared]]:
    return {party: (table(party, n, TRAIN, 1), table(party, n // 2, TEST, 2)) for party, n in SIZES.items()}


@pytest.fixture
def place(tmp_path: Path, world: dict[str, tuple[Prepared, Prepared]]) -> Path:
    """A job directory with every party's tables; the job is written by `work`."""
    (tmp_path / "results").mkdir()
    for party, tables in world.items():
        (tmp_path / "inputs" / party).mkdir(parents=True)
        for part, rows in zip(("train", "holdout"), tables, strict=True):
            write_prepared(tmp_path / "inputs" / party / f"{part}.parquet", rows)
    return tmp_path


def work(place: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Run a job that must succeed; its JSON results by name, directories by their files."""
    (place / "job.json").write_text(json.dumps(job))
    assert main([str(place)]) == 0
    return outcome(place)


def outcome(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted((place / "results").iterdir()):
        found[path.name] = sorted(p.name for p in path.iterdir()) if path.is_dir() else json.loads(path.read_bytes())
    return found


def failure(place: Path, job: dict[str, Any] | str) -> str:
    """Run a job that must fail; the code, which is all that it leaves behind."""
    (place / "job.json").write_text(job if isinstance(job, str) else json.dumps(job))
    assert main([str(place)]) == 1
    assert list(outcome(place)) == ["failure.json"]
    assert list(outcome(place)["failure.json"]) == ["code"]
    code: str = outcome(place)["failure.json"]["code"]
    assert code in CODES
    return code


# check


def check_job(world: dict[str, tuple[Prepared, Prepared]]) -> dict[str, Any]:
    return {
        "role": "check",
        "schema": SCHEMA,
        "parties": {
            party: {"train-rows": len(train), "holdout-rows": len(holdout), "positives": holdout.positives}
            for party, (train, holdout) in world.items()
        },
    }


def test_honest_contributions_pass(place: Path, world: dict[str, tuple[Prepared, Prepared]]) -> None:
    assert work(place, check_job(world)) == {"check.json": {"names": list(NAMES)}}


def test_the_names_are_those_that_a_banks_own_preparation_gives() -> None:
    days = np.arange(60).repeat(4)
    rows = Table(
        times=np.datetime64("2025-02-20", "s") + days * 86_400,
        labels=(np.arange(240) % 9 == 0).astype(np.int8),
        groups=np.array([f"c{n}" for n in range(240)]),
        terminals=np.array([f"t{n % 7}" for n in range(240)]),
        amounts=np.ones(240, np.float32),
        extra=np.zeros((240, 1), np.float32),
    )
    schema = Schema.model_validate({**SCHEMA, "features": ["age"], "windows-days": [1, 7, 30]})
    assert prepare(rows, schema)[0].names == feature_names(schema)


@pytest.mark.parametrize("key", ["train-rows", "holdout-rows", "positives"])
def test_counts_must_be_the_contracts(place: Path, world: dict[str, tuple[Prepared, Prepared]], key: str) -> None:
    job = check_job(world)
    job["parties"]["corner"][key] += 1
    assert failure(place, job) == "counts-differ"


Change = Callable[[Prepared, Prepared], tuple[Prepared, Prepared]]


def joined(one: Prepared, other: Prepared) -> Prepared:
    arrays = ("features", "labels", "groups", "terminals", "amounts", "times")
    return Prepared(names=one.names, **{a: np.concatenate([getattr(one, a), getattr(other, a)]) for a in arrays})


def moved(rows: Prepared, to: np.datetime64) -> Prepared:
    return replace(rows, times=np.full(len(rows), to))


def relabelled(rows: Prepared) -> Prepared:
    return replace(rows, labels=(1 - rows.labels).astype(np.int8))


MARCH_5 = np.datetime64("2025-03-05T10:00:00")
DISHONEST: dict[str, tuple[str, Change]] = {
    "another feature": (
        "table-invalid",
        lambda train, holdout: (replace(train, names=("x", *NAMES[1:])), replace(holdout, names=("x", *NAMES[1:]))),
    ),
    "other features in the holdout": (
        "table-invalid",
        lambda train, holdout: (train, replace(holdout, names=(*NAMES[:-1], "x"))),
    ),
    "training in the label delay": (
        "holdout-too-early",
        lambda train, holdout: (replace(train, times=train.times + 2 * 86_400), holdout),
    ),
    "a holdout row in the label delay": (
        "holdout-too-early",
        lambda train, holdout: (train, replace(holdout, times=np.r_[TEST[0] - 1, holdout.times[1:]])),
    ),
    "a training row before the window": (
        "table-invalid",
        lambda train, holdout: (replace(train, times=np.r_[TRAIN[0] - 1, train.times[1:]]), holdout),
    ),
    "a holdout row after the window": (
        "table-invalid",
        lambda train, holdout: (train, replace(holdout, times=np.r_[holdout.times[1:], TEST[0] + 10 * 86_400])),
    ),
    "one holdout row trained on as it is": (
        "holdout-in-training",
        lambda train, holdout: (joined(train, holdout.select(slice(0, 1))), holdout),
    ),
    "holdout rows trained on under another time": (
        "holdout-in-training",
        lambda train, holdout: (joined(train, moved(holdout.select(slice(0, 5)), MARCH_5)), holdout),
    ),
    "holdout rows trained on under another time and label": (
        "holdout-in-training",
        lambda train, holdout: (joined(train, moved(relabelled(holdout), MARCH_5)), holdout),
    ),
}


@pytest.mark.parametrize(("code", "change"), DISHONEST.values(), ids=DISHONEST.keys())
def test_a_dishonest_test_is_refused(
    place: Path, world: dict[str, tuple[Prepared, Prepared]], code: str, change: Change
) -> None:
    changed = {**world, "north": change(*world["north"])}
    for part, rows in zip(("train", "holdout"), changed["north"], strict=True):
        write_prepared(place / "inputs" / "north" / f"{part}.parquet", rows)
    assert failure(place, check_job(changed)) == code


def test_one_partys_holdout_in_anothers_training_is_refused(
    place: Path, world: dict[str, tuple[Prepared, Prepared]]
) -> None:
    stolen = moved(world["corner"][1].select(slice(0, 10)), MARCH_5)
    changed = {**world, "north": (joined(world["north"][0], stolen), world["north"][1])}
    write_prepared(place / "inputs" / "north" / "train.parquet", changed["north"][0])
    assert failure(place, check_job(changed)) == "holdout-in-training"


def test_a_standing_payment_at_another_time_is_no_offence(
    place: Path, world: dict[str, tuple[Prepared, Prepared]]
) -> None:
    """3 of 350 rows, .9 %."""
    recurring = moved(world["north"][1].select(slice(0, 3)), MARCH_5)
    changed = {**world, "north": (joined(world["north"][0], recurring), world["north"][1])}
    write_prepared(place / "inputs" / "north" / "train.parquet", changed["north"][0])
    assert "check.json" in work(place, check_job(changed))


def test_frauds_of_a_holdout_that_were_trained_on_are_counted_apart(
    place: Path, world: dict[str, tuple[Prepared, Prepared]]
) -> None:
    """3 of 350 rows, but all of them frauds: a model that learnt them by heart would look better than it is."""
    train, holdout = world["north"]
    frauds = moved(holdout.select(np.flatnonzero(holdout.labels == 1)[:3]), MARCH_5)
    changed = {**world, "north": (joined(train, frauds), holdout)}
    write_prepared(place / "inputs" / "north" / "train.parquet", changed["north"][0])
    assert failure(place, check_job(changed)) == "holdout-in-training"


def test_a_row_is_known_by_every_column_but_time_and_label() -> None:
    rows = table("north", 50, TRAIN, 3)
    same = replace(moved(relabelled(rows), MARCH_5), groups=rows.groups.astype("U64"))
    np.testing.assert_array_equal(row_hashes(same), row_hashes(rows))
    assert len(np.unique(row_hashes(rows))) == 50
    other_feature = rows.features.copy()
    other_feature[:, 3] = np.nextafter(other_feature[:, 3], np.float32(np.inf))
    swapped = replace(rows, groups=rows.terminals, terminals=rows.groups)
    for other in (
        replace(rows, features=other_feature),
        replace(rows, amounts=rows.amounts + np.float32(0.01)),
        replace(rows, groups=np.char.add(rows.groups, "x")),
        replace(rows, terminals=np.char.add("x", rows.terminals)),
        swapped,
    ):
        assert not np.isin(row_hashes(other), row_hashes(rows)).any()


def test_zero_and_minus_zero_are_the_same_amount() -> None:
    rows = table("north", 5, TRAIN, 3)
    plus, minus = (replace(rows, amounts=np.full(5, zero, np.float32)) for zero in (0.0, -0.0))
    np.testing.assert_array_equal(row_hashes(plus), row_hashes(minus))


# party


def party_job(models: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    job = {"role": "party", "parties": ["north"], "models": models, "select-days": 5, "schema": SCHEMA}
    return {**job, "seed": SEED, "contract": CONTRACT, **changes}


def taken(place: Path, job: dict[str, Any]) -> Any:
    """Which candidate north's own model became."""
    work(place, job)
    return json.loads((place / "results" / "north" / "baseline.json").read_bytes())


def test_the_better_candidate_becomes_the_baseline_and_learns_from_all_rows(place: Path) -> None:
    idle = {"family": "logistic", "epochs": 1, "batch": 65536, "learning-rate": 0.00001}
    assert taken(place, party_job([idle, LOGISTIC])) == LOGISTIC
    chosen = bundle.load(place / "results" / "north")
    assert chosen.manifest.trained_for == CONTRACT
    assert taken(place, party_job([LOGISTIC])) == LOGISTIC
    train = read_prepared(place / "inputs" / "north" / "train.parquet")
    again = bundle.load(place / "results" / "north")
    np.testing.assert_array_equal(again.scores(train.features), chosen.scores(train.features))


@pytest.mark.parametrize("part", ["last days", "days before", "all fraud in the last days"])
def test_without_frauds_to_compare_by_the_first_candidate_is_taken(place: Path, part: str) -> None:
    path = place / "inputs" / "north" / "train.parquet"
    rows = read_prepared(path)
    late = rows.times >= np.datetime64("2025-03-16")
    labels = rows.labels.copy()
    labels[~late if part == "days before" else late] = part == "all fraud in the last days"
    write_prepared(path, replace(rows, labels=labels))
    first = {"family": "logistic", "epochs": 1}
    assert taken(place, party_job([first, LOGISTIC])) == first


def test_each_party_learns_from_its_own_rows_alone(place: Path) -> None:
    work(place, party_job([LOGISTIC], parties=["north", "corner"]))
    together = {party: (place / "results" / party / "model.onnx").read_bytes() for party in ("north", "corner")}
    for party, graph in together.items():
        work(place, party_job([LOGISTIC], parties=[party]))
        assert (place / "results" / party / "model.onnx").read_bytes() == graph


def test_a_party_without_any_fraud_cannot_train(place: Path) -> None:
    path = place / "inputs" / "north" / "train.parquet"
    rows = read_prepared(path)
    write_prepared(path, replace(rows, labels=np.zeros_like(rows.labels)))
    assert failure(place, party_job([LOGISTIC])) == "training-failed"


# pooled, aggregate


def joint_job(role: str, **changes: Any) -> dict[str, Any]:
    job = {"role": role, "parties": SIZES, "model": LOGISTIC, "schema": SCHEMA, "seed": SEED, "contract": CONTRACT}
    return {**job, **({"method": {"name": "fedavg", "rounds": 2}} if role == "aggregate" else {}), **changes}


@pytest.mark.parametrize("role", ["pooled", "aggregate"])
def test_a_joint_model_repeats_to_the_byte_and_ranks_well(
    place: Path, world: dict[str, tuple[Prepared, Prepared]], role: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert work(place, joint_job(role)) == {"model": ["model.json", "model.onnx"]}
    first = bundle.pack(place / "results" / "model")
    lines = capfd.readouterr().out.splitlines()
    assert lines
    assert all(list(json.loads(line)) == ["progress"] for line in lines)
    reordered = joint_job(role, parties=dict(reversed(SIZES.items())))
    work(place, reordered)
    assert bundle.pack(place / "results" / "model") == first
    holdout = world["north"][1]
    scores = bundle.load(place / "results" / "model").scores(holdout.features)
    assert scores[holdout.labels == 1].mean() > 2 * scores[holdout.labels == 0].mean()


def test_the_seed_of_the_contract_decides(place: Path) -> None:
    models = []
    for seed in (SEED, "00" * 32):
        work(place, joint_job("aggregate", seed=seed))
        models.append((place / "results" / "model" / "model.onnx").read_bytes())
    assert models[0] != models[1]


@pytest.mark.parametrize("role", ["pooled", "aggregate"])
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"parties": {**SIZES, "corner": 161}}, "counts-differ"),
        ({"parties": {**SIZES, "stranger": 5}}, "file-unreadable"),
        ({"model": {"family": "mystery"}}, "model-invalid"),
        ({"seed": "5a"}, "document-invalid"),
    ],
    ids=["false row count", "a party without data", "unknown family", "short seed"],
)
def test_a_joint_training_that_is_not_the_contracts_fails(
    place: Path, role: str, changes: dict[str, Any], code: str
) -> None:
    assert failure(place, joint_job(role, **changes)) == code


def test_parties_with_different_features_cannot_be_joined(
    place: Path, world: dict[str, tuple[Prepared, Prepared]]
) -> None:
    other = replace(world["corner"][0], names=("x", *NAMES[1:]))
    write_prepared(place / "inputs" / "corner" / "train.parquet", other)
    assert failure(place, joint_job("pooled")) == "table-invalid"


# evaluate


def measurement(number: int, **changes: Any) -> dict[str, Any]:
    asked = {"id": str(number), "party": "north", "metric": "average-precision", "at": None, "baseline": "best-own"}
    return {**asked, "confidence": 0.95, "bound": "percentile", **changes}


def evaluate_job(*measurements: dict[str, Any], **changes: Any) -> dict[str, Any]:
    job = {"role": "evaluate", "contract": CONTRACT, "seed": SEED, "replicates": 300, "measurements": measurements}
    return {**job, **changes}


class Constant:
    """A model that gives every row the same score."""

    family = "logistic"

    def __init__(self, d: int) -> None:
        trained = make({**LOGISTIC, "epochs": 1}).fit(np.eye(2, d, dtype=np.float32), np.array([0, 1]), seed=1)
        trained.parameters[0][:] = 0.0  # type: ignore[attr-defined]
        self.to_onnx = trained.to_onnx


def write_bundle(directory: Path, model: Any, names: tuple[str, ...] = NAMES) -> None:
    bundle.write(directory, model, names=names, schema=SCHEMA, spec=LOGISTIC, contract=None)


@pytest.fixture
def judged(place: Path, world: dict[str, tuple[Prepared, Prepared]]) -> Path:
    """A joint model of all rows against baselines of few."""
    everyone = joined(world["north"][0], world["corner"][0])
    write_bundle(place / "inputs" / "joint", make(LOGISTIC).fit(everyone.features, everyone.labels, seed=1))
    for party, (train, _) in world.items():
        own = make({**LOGISTIC, "epochs": 1}).fit(train.features[:60], train.labels[:60], seed=1)
        write_bundle(place / "inputs" / party / "baseline", own)
    return place


def test_every_measurement_is_answered_by_its_id(judged: Path, world: dict[str, tuple[Prepared, Prepared]]) -> None:
    found = work(
        judged,
        evaluate_job(
            measurement(0),
            measurement(1, confidence=0.8),
            measurement(2, metric="recall-at-fpr", at=0.05),
            measurement(3, party="corner", metric="card-precision-at-k", at=3),
            measurement(4, bound="bca"),
        ),
    )["evidence.json"]
    assert found["contract"] == CONTRACT
    evidence = found["measurements"]
    assert list(evidence) == ["0", "1", "2", "3", "4"]
    assert evidence["0"]["rows"] == len(world["north"][1])
    assert evidence["0"]["positives"] == world["north"][1].positives
    assert evidence["3"]["rows"] == len(world["corner"][1])
    assert evidence["0"]["gain"] == evidence["1"]["gain"] == evidence["4"]["gain"] > 0
    assert evidence["0"]["gain-lower"] < evidence["1"]["gain-lower"] < evidence["0"]["gain"]
    assert evidence["0"]["replicates"] == 300


def test_a_clause_is_measured_the_same_alone_and_among_others(judged: Path) -> None:
    alone = work(judged, evaluate_job(measurement(0)))["evidence.json"]["measurements"]["0"]
    among = work(
        judged,
        evaluate_job(
            measurement(7, party="corner"),
            measurement(5, metric="roc-auc"),
            measurement(0),
            measurement(1, bound="bca"),
        ),
    )["evidence.json"]["measurements"]["0"]
    assert alone == among


def test_the_incumbent_is_read_only_when_it_is_asked_for(
    judged: Path, world: dict[str, tuple[Prepared, Prepared]]
) -> None:
    asked = evaluate_job(measurement(0), measurement(1, baseline="incumbent"))
    assert failure(judged, asked) == "bundle-invalid"
    (judged / "results" / "failure.json").unlink()
    joint = judged / "inputs" / "joint"
    (judged / "inputs" / "north" / "incumbent.bundle").write_bytes(bundle.pack(joint))
    evidence = work(judged, asked)["evidence.json"]["measurements"]
    assert evidence["1"]["gain"] == 0 == evidence["1"]["gain-lower"]
    assert evidence["0"]["gain"] > 0


def test_a_model_that_never_flags_anything_is_measured_as_what_it_is(
    judged: Path, world: dict[str, tuple[Prepared, Prepared]]
) -> None:
    write_bundle(judged / "inputs" / "joint", Constant(len(NAMES)))
    evidence = work(judged, evaluate_job(measurement(0)))["evidence.json"]["measurements"]["0"]
    assert evidence["joint"] == pytest.approx(world["north"][1].labels.mean())
    assert evidence["gain-upper"] < 0


def test_a_holdout_without_a_fraud_gives_numbers_to_nobody(
    judged: Path, world: dict[str, tuple[Prepared, Prepared]]
) -> None:
    holdout = world["north"][1]
    write_prepared(
        judged / "inputs" / "north" / "holdout.parquet", replace(holdout, labels=np.zeros_like(holdout.labels))
    )
    evidence = work(judged, evaluate_job(measurement(0)))["evidence.json"]["measurements"]["0"]
    assert evidence["positives"] == 0
    assert evidence["gain"] is evidence["gain-lower"] is evidence["joint-lower"] is None


def test_a_model_of_other_features_is_refused(judged: Path) -> None:
    write_bundle(judged / "inputs" / "joint", Constant(len(NAMES)), ("x", *NAMES[1:]))
    assert failure(judged, evaluate_job(measurement(0))) == "bundle-invalid"


def test_a_changed_model_is_refused(judged: Path) -> None:
    graph = judged / "inputs" / "joint" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    assert failure(judged, evaluate_job(measurement(0))) == "bundle-invalid"


@pytest.mark.parametrize("change", [{"metric": "accuracy"}, {"metric": "recall-at-fpr"}, {"at": 0.5}])
def test_a_metric_that_does_not_exist_is_refused(judged: Path, change: dict[str, Any]) -> None:
    assert failure(judged, evaluate_job(measurement(0, **change))) == "document-invalid"


# the program


@pytest.mark.parametrize(
    "job",
    [
        "",
        "{",
        "[]",
        "{}",
        {"role": "mine"},
        {**party_job([LOGISTIC]), "comment": "an unknown key"},
        {**party_job([])},
        {**party_job([LOGISTIC]), "threads": 0},
        {**party_job([LOGISTIC]), "parties": ["../north"]},
        joint_job("pooled", parties={"../north": 700}),
        joint_job("pooled", parties={"north": "700"}),
        joint_job("pooled", method={"name": "fedavg"}),
        evaluate_job(),
        evaluate_job(measurement(0), measurement(0, confidence=0.9)),
        evaluate_job(measurement(0, confidence=1.0)),
    ],
)
def test_a_job_outside_the_vocabulary_is_refused(place: Path, job: dict[str, Any] | str) -> None:
    assert failure(place, job) == "document-invalid"


def test_a_job_that_is_not_there_is_refused(place: Path) -> None:
    assert main([str(place)]) == 1
    assert outcome(place) == {"failure.json": {"code": "file-unreadable"}}


def test_what_goes_wrong_leaves_a_code_and_no_words(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever an exception's text holds reaches the operator's standard error and no result."""
    (place / "inputs" / "north" / "train.parquet").write_bytes(b"PAR1 card 4711 has 3 frauds PAR1")
    assert failure(place, joint_job("pooled")) == "table-invalid"
    (place / "results" / "failure.json").unlink()
    (place / "results" / "model").write_text("in the way")
    (place / "job.json").write_text(json.dumps(joint_job("pooled", parties={"corner": SIZES["corner"]})))
    assert main([str(place)]) == 1
    assert json.loads((place / "results" / "failure.json").read_bytes()) == {"code": "training-failed"}
    printed = capfd.readouterr()
    assert "4711" not in printed.out
    assert "Traceback" in printed.err


def test_it_is_called_with_one_directory(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["one", "two"]) == 4
    assert "JOBDIR" in capfd.readouterr().err


def imported(place: Path, job: dict[str, Any]) -> list[str]:
    """The heavy libraries that a worker process has imported after its job."""
    (place / "job.json").write_text(json.dumps(job))
    code = f"import sys; from models.worker import main; assert main([{str(place)!r}]) == 0; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return [name for name in HEAVY if name in done.stdout.split()]


def test_only_what_trains_imports_what_trains(judged: Path, world: dict[str, tuple[Prepared, Prepared]]) -> None:
    assert imported(judged, check_job(world)) == []
    assert imported(judged, evaluate_job(measurement(0))) == []


def test_the_program_ends_with_its_code_and_one_thread(place: Path) -> None:
    (place / "job.json").write_text(json.dumps(joint_job("aggregate", threads=1)))
    command = [sys.executable, "-m", "models.worker", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line)["progress"] for line in done.stdout.splitlines()] == ["round 1 of 2", "round 2 of 2"]
