"""The worker as the runtime meets it: a job and inputs go in, declared results or a code come out."""

import json
import os
import selectors
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.canonical import commitment, digest
from contracts.errors import CODES, EscrowError
from contracts.frames import KEEPER, FrameReader
from contracts.schema import Schema
from models import bundle, ensemble
from models.families.base import make
from models.features import feature_names, prepare
from models.jobs import Own
from models.roles.check import check_training, row_hashes
from models.roles.party import own_model
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
SECONDS = 180  # against hanging alone: to load a framework takes a busy machine a minute
HEAVY = ("torch", "sklearn", "flwr", "skl2onnx", "onnx", "onnxruntime")


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


def failure(place: Path, job: dict[str, Any] | str, party: str | None = None) -> str:
    """Run a job that must fail and blame `party`, or nobody; the code, which is all else that it leaves behind."""
    (place / "job.json").write_text(job if isinstance(job, str) else json.dumps(job))
    assert main([str(place)]) == 1
    assert list(outcome(place)) == ["failure.json"]
    told = outcome(place)["failure.json"]
    code: str = told["code"]
    assert told == {"code": code} | ({} if party is None else {"party": party})
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


def test_training_rows_that_stay_at_the_bank_are_not_looked_for(
    place: Path, world: dict[str, tuple[Prepared, Prepared]]
) -> None:
    job = check_job(world)
    for party, absent in (("north", {}), ("corner", {"train-rows": None})):
        (place / "inputs" / party / "train.parquet").unlink()
        counts = {key: value for key, value in job["parties"][party].items() if key != "train-rows"}
        job["parties"][party] = counts | absent
        assert work(place, job) == {"check.json": {"names": list(NAMES)}}
        (place / "results" / "check.json").unlink()


def test_a_holdout_is_checked_although_the_training_rows_are_at_the_bank(
    place: Path, world: dict[str, tuple[Prepared, Prepared]]
) -> None:
    """Its counts, features and window; and that no other bank, whose rows are here, trains on it."""
    _, holdout = world["north"]
    job = check_job(world)
    del job["parties"]["north"]["train-rows"]
    path = place / "inputs" / "north" / "holdout.parquet"
    for code, bad in {
        "counts-differ": holdout.select(slice(1, None)),
        "table-invalid": replace(holdout, names=("x", *NAMES[1:])),
        "holdout-too-early": replace(holdout, times=np.r_[TEST[0] - 1, holdout.times[1:]]),
    }.items():
        write_prepared(path, bad)
        assert failure(place, job, "north") == code
        (place / "results" / "failure.json").unlink()
    write_prepared(path, holdout)
    stealing = joined(world["corner"][0], moved(holdout.select(slice(0, 10)), MARCH_5))
    write_prepared(place / "inputs" / "corner" / "train.parquet", stealing)
    job["parties"]["corner"]["train-rows"] += 10
    assert failure(place, job) == "holdout-in-training"


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("counts-differ", lambda train: train.select(slice(1, None))),
        ("table-invalid", lambda train: replace(train, names=("x", *NAMES[1:]))),
        ("table-invalid", lambda train: replace(train, times=np.r_[TRAIN[0] - 1, train.times[1:]])),
        ("holdout-too-early", lambda train: replace(train, times=np.r_[train.times[1:], TEST[0]])),
        ("holdout-too-early", lambda train: replace(train, times=np.r_[train.times[1:], TRAIN[0] + 20 * 86_400])),
    ],
    ids=["a row less", "another feature", "before the window", "in the test window", "the moment after the window"],
)
def test_a_worker_at_the_bank_finds_what_the_check_would_find(
    world: dict[str, tuple[Prepared, Prepared]], code: str, change: Callable[[Prepared], Prepared]
) -> None:
    train, schema = world["north"][0], Schema.model_validate(SCHEMA)
    check_training(train, schema, len(train), "north")
    with pytest.raises(EscrowError) as refusal:
        check_training(change(train), schema, len(train), "north")
    assert (refusal.value.code, refusal.value.party) == (code, "north")


@pytest.mark.parametrize("key", ["train-rows", "holdout-rows", "positives"])
def test_counts_must_be_the_contracts(place: Path, world: dict[str, tuple[Prepared, Prepared]], key: str) -> None:
    job = check_job(world)
    job["parties"]["corner"][key] += 1
    assert failure(place, job, "corner") == "counts-differ"


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
    blamed = None if code == "holdout-in-training" else "north"  # in whose training, nobody looks
    assert failure(place, check_job(changed), blamed) == code


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


def own(place: Path, job: dict[str, Any]) -> Own:
    """What is said of north's own model."""
    work(place, job)
    return Own.model_validate_json((place / "results" / "north" / "baseline.json").read_bytes())


def taken(place: Path, job: dict[str, Any]) -> Any:
    """Which candidate north's own model became."""
    return own(place, job).spec


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
    assert own(place, party_job([first, LOGISTIC])) == Own(spec=first)


def test_an_own_model_says_how_its_candidate_did_on_the_last_days(place: Path) -> None:
    train = read_prepared(place / "inputs" / "north" / "train.parquet")
    late = train.times >= np.datetime64("2025-03-16")
    shown = own(place, party_job([{"family": "logistic", "epochs": 1}, LOGISTIC])).validation
    assert shown is not None
    assert (shown.rows, shown.positives) == (late.sum(), train.labels[late].sum())
    assert train.labels[late].mean() + 0.2 < shown.average_precision < 1
    again = Prepared(**{**vars(train), "labels": np.where(late, 1 - train.labels, train.labels).astype(np.int8)})
    write_prepared(place / "inputs" / "north" / "train.parquet", again)
    reversed_ = own(place, party_job([LOGISTIC], validated=True)).validation
    assert reversed_ is not None
    assert reversed_.slope == 0 < shown.slope


def own_files(place: Path, **changes: Any) -> dict[str, bytes]:
    train = read_prepared(place / "inputs" / "north" / "train.parquet")
    schema = Schema.model_validate(SCHEMA)
    given = {"party": "north", "train": train, "schema": schema, "models": [LOGISTIC], "select_days": 5}
    given |= {"seed": bytes.fromhex(SEED), "contract": CONTRACT, "tell": lambda _: None}
    return own_model(**{**given, "validate": False, **changes})


def test_an_own_model_is_the_same_wherever_it_is_trained(place: Path) -> None:
    idle = {"family": "logistic", "epochs": 1}
    for models in ([LOGISTIC], [idle, LOGISTIC]):
        work(place, party_job(models))
        written = {path.name: path.read_bytes() for path in (place / "results" / "north").iterdir()}
        assert own_files(place, models=models) == written


def test_a_candidate_without_rivals_is_trained_once_if_nobody_asks_what_it_shows(place: Path) -> None:
    told: list[str] = []
    quick = own_files(place, validate=False, tell=told.append)
    assert told == ["train logistic of north"]
    assert Own.model_validate_json(quick["baseline.json"]) == Own(spec=LOGISTIC)
    slow = own_files(place, validate=True)
    assert {**slow, "baseline.json": b""} == {**quick, "baseline.json": b""}
    assert Own.model_validate_json(slow["baseline.json"]).validation is not None


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


# pooled, federated


def joint_job(role: str, **changes: Any) -> dict[str, Any]:
    job = {"role": role, "parties": SIZES, "model": LOGISTIC, "schema": SCHEMA, "seed": SEED, "contract": CONTRACT}
    return {**job, **({"method": {"name": "fedavg", "rounds": 2}} if role == "federated" else {}), **changes}


@pytest.mark.parametrize("role", ["pooled", "federated"])
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
        work(place, joint_job("federated", seed=seed))
        models.append((place / "results" / "model" / "model.onnx").read_bytes())
    assert models[0] != models[1]


@pytest.mark.parametrize("role", ["pooled", "federated"])
@pytest.mark.parametrize(
    ("changes", "code", "party"),
    [
        ({"parties": {**SIZES, "corner": 161}}, "counts-differ", "corner"),
        ({"parties": {**SIZES, "stranger": 5}}, "file-unreadable", None),
        ({"model": {"family": "mystery"}}, "model-invalid", None),
        ({"seed": "5a"}, "document-invalid", None),
    ],
    ids=["false row count", "a party without data", "unknown family", "short seed"],
)
def test_a_joint_training_that_is_not_the_contracts_fails(
    place: Path, role: str, changes: dict[str, Any], code: str, party: str | None
) -> None:
    assert failure(place, joint_job(role, **changes), party) == code


# aggregate, client


@contextmanager
def doors(*places: Path) -> Iterator[list[socket.socket]]:
    """Doors that workers can dial; yields the listeners behind them."""
    with ExitStack() as stack:
        listeners = []
        for place in places:
            (place / "door").mkdir()
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            folder = os.open(place / "door", os.O_RDONLY)
            stack.callback(os.close, folder)
            listener.bind(f"/proc/self/fd/{folder}/socket")
            listener.listen(1)
            listener.settimeout(SECONDS)
            listeners.append(listener)
        yield listeners


def carry(asks: socket.socket, answers: list[socket.socket]) -> dict[int, bytes]:
    """Carry frames until the asker's stream ends, as a relay does; the checkpoints that were to be kept, by round."""
    kept: dict[int, bytes] = {}
    readers = {stream: FrameReader() for stream in (asks, *answers)}
    with selectors.DefaultSelector() as selector:
        for stream in readers:
            selector.register(stream, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select(60):
                stream = key.fileobj
                assert isinstance(stream, socket.socket)
                data = stream.recv(1 << 20)
                if not data and stream is asks:
                    return kept
                assert data, "a party's stream ended first"
                for frame in readers[stream].feed(data):
                    if frame.party == KEEPER:
                        kept[frame.round] = kept.get(frame.round, b"") + frame.payload
                    else:
                        (answers[frame.party] if stream is asks else asks).sendall(frame.encode())


def client_job(party: str = "north", **changes: Any) -> dict[str, Any]:
    job = {"role": "client", "party": party, "rows": SIZES[party], "model": LOGISTIC, "schema": SCHEMA}
    asked = {"method": {"name": "fedavg", "rounds": 2}, "models": [LOGISTIC], "select-days": 5}
    return {**job, **asked, "seed": SEED, "contract": CONTRACT, **changes}


def aggregate_job(**changes: Any) -> dict[str, Any]:
    return {**joint_job("federated"), "role": "aggregate", "own": [], **changes}


def gang(place: Path, job: dict[str, Any], *clients: dict[str, Any], ends: int = 0) -> tuple[Path, dict[int, bytes]]:
    """Run an aggregator, that `ends` so, and its clients, who must succeed; where it was, and what was kept."""
    asker = place / ("deep" * 30)
    (asker / "inputs").mkdir(parents=True, exist_ok=True)
    (asker / "inputs" / "check.json").write_text(json.dumps({"names": NAMES}))
    places = [asker, *(place / f"worker-{client['party']}" for client in clients)]
    for where, each in zip(places, (job, *clients), strict=True):
        (where / "results").mkdir(parents=True)
        (where / "job.json").write_text(json.dumps(each))
        if where != asker:
            (where / "inputs").symlink_to(place / "inputs")
    with doors(*places) as listeners, ThreadPoolExecutor(len(places)) as threads, ExitStack() as stack:
        workers = [threads.submit(main, [str(where)]) for where in places]
        asks, *answers = [stack.enter_context(listener.accept()[0]) for listener in listeners]
        kept = carry(asks, answers)
        stack.close()
        assert [worker.result(SECONDS) for worker in workers] == [ends] + [0] * len(clients)
    return asker, kept


def model_of(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(place.iterdir())}


PARTIES = sorted(SIZES)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "fedavg", "rounds": 2},
        {"name": "fedprox", "rounds": 2, "proximal": 0.1},
        {"name": "fedadam", "rounds": 2},
    ],
    ids=lambda method: method["name"],
)
def test_parties_behind_doors_train_the_same_models(place: Path, method: dict[str, Any]) -> None:
    work(place, joint_job("federated", method=method))
    joint = model_of(place / "results/model")
    work(place, party_job([LOGISTIC], parties=PARTIES))
    job = aggregate_job(method=method, own=PARTIES)
    asker, kept = gang(place, job, *(client_job(party, method=method) for party in PARTIES))
    assert model_of(asker / "results/model") == joint
    assert sorted(kept) == [1, 2]
    for party in PARTIES:
        own = model_of(asker / "results/own" / party)
        assert sorted(own) == ["baseline.json", "model.json", "model.onnx"]
        assert own["model.onnx"] == (place / "results" / party / "model.onnx").read_bytes()
        assert Own.model_validate_json(own["baseline.json"]).spec == LOGISTIC


def test_training_goes_on_from_what_was_kept(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asker, kept = gang(place, aggregate_job(), *(client_job(party) for party in PARTIES))
    expected = model_of(asker / "results/model")
    for number, (found, rounds) in enumerate([(kept[1], ["round 2 of 2"]), (kept[2], []), (b"?", None)]):
        again = place / f"again-{number}"
        again.mkdir()
        (again / "inputs").symlink_to(place / "inputs")
        (again / ("deep" * 30) / "inputs").mkdir(parents=True)
        (again / ("deep" * 30) / "inputs" / "checkpoint").write_bytes(found)
        capfd.readouterr()
        asker, _ = gang(again, aggregate_job(), *(client_job(party) for party in PARTIES))
        assert model_of(asker / "results/model") == expected
        told = [json.loads(line)["progress"] for line in capfd.readouterr().out.splitlines()]
        assert told == (["round 1 of 2", "round 2 of 2"] if rounds is None else rounds)


def test_an_attempt_that_goes_on_takes_no_other_own_models(place: Path) -> None:
    own = {"own": PARTIES}
    asker, kept = gang(place, aggregate_job(**own), *(client_job(party) for party in PARTIES))
    expected = model_of(asker / "results/model")
    other = {"models": [{**LOGISTIC, "epochs": 4}]}
    for number, (changes, ends) in enumerate([({}, 0), ({"north": other}, 1), ({"corner": other}, 1)]):
        again = place / f"again-{number}"
        again.mkdir()
        (again / "inputs").symlink_to(place / "inputs")
        (again / ("deep" * 30) / "inputs").mkdir(parents=True)
        (again / ("deep" * 30) / "inputs" / "checkpoint").write_bytes(kept[1])
        clients = [client_job(party, **changes.get(party, {})) for party in PARTIES]
        asker, went_on = gang(again, aggregate_job(**own), *clients, ends=ends)
        if ends:
            [party] = changes
            assert outcome(asker)["failure.json"] == {"code": "update-invalid", "party": party}
            assert not went_on
        else:
            assert sorted(went_on) == [2]
            assert went_on[2] == kept[2]
            assert model_of(asker / "results/model") == expected


def test_an_ensemble_is_combined_of_models_from_the_door_and_from_the_escrow(place: Path) -> None:
    work(place, party_job([LOGISTIC], validated=True))
    method = {"name": "ensemble"}
    here = place / ("deep" * 30) / "inputs" / "own" / "north"
    bundle.put(here, model_of(place / "results" / "north"))
    asker, kept = gang(place, aggregate_job(method=method, own=["corner"]), client_job("corner", method=method))
    assert not kept
    assert sorted(path.name for path in (asker / "results/own").iterdir()) == ["corner"]
    members = {"north": model_of(here), "corner": model_of(asker / "results/own/corner")}
    assert model_of(asker / "results/model") == combined(members)


def combined(members: dict[str, dict[str, bytes]], rows: dict[str, int] = SIZES) -> dict[str, bytes]:
    schema = Schema.model_validate(SCHEMA)
    return ensemble.combine(members, rows=rows, names=NAMES, schema=schema, contract=CONTRACT)


def committed(place: Path, party: str = "north") -> str:
    """The commitment of a party's training rows, whose salt is put beside them."""
    folder = place / "inputs" / party
    (folder / "train.salt").write_bytes(bytes(range(32)))
    return commitment(bytes(range(32)), digest((folder / "train.parquet").read_bytes()))


def test_a_bank_with_the_rows_it_committed_to_takes_part(place: Path) -> None:
    alone = {"parties": {"north": SIZES["north"]}}
    asker, _ = gang(place, aggregate_job(**alone), client_job(commitment=committed(place)))
    assert model_of(asker / "results/model")


def other_rows(place: Path, rows: Prepared) -> None:
    write_prepared(place / "inputs/north/train.parquet", rows.select(np.arange(len(rows))[::-1]))


def other_salt(place: Path, rows: Prepared) -> None:
    (place / "inputs/north/train.salt").write_bytes(bytes(32))


def no_salt(place: Path, rows: Prepared) -> None:
    (place / "inputs/north/train.salt").unlink()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (other_rows, "commitment-mismatch"),
        (other_salt, "commitment-mismatch"),
        (no_salt, "file-unreadable"),
    ],
)
def test_a_bank_with_other_rows_answers_nothing(
    place: Path,
    world: dict[str, tuple[Prepared, Prepared]],
    change: Callable[[Path, Prepared], None],
    code: str,
) -> None:
    job = client_job(commitment=committed(place))
    change(place, world["north"][0])
    assert refused_before_answering(place, job) == code


@pytest.mark.parametrize(("to", "code"), [(TEST[0], "holdout-too-early"), (TRAIN[0] - 86_400, "table-invalid")])
def test_a_bank_whose_committed_rows_lie_outside_the_window_answers_nothing(
    place: Path, world: dict[str, tuple[Prepared, Prepared]], to: np.datetime64, code: str
) -> None:
    write_prepared(place / "inputs/north/train.parquet", moved(world["north"][0], to))
    assert refused_before_answering(place, client_job(commitment=committed(place))) == code


def refused_before_answering(place: Path, job: dict[str, Any]) -> str:
    """The code with which north's client fails, having said nothing."""
    with doors(place) as (listener,), ThreadPoolExecutor(1) as threads:
        failed = threads.submit(failure, place, job, "north")
        with listener.accept()[0] as stream:
            code = failed.result(SECONDS)
            assert stream.recv(1) == b""
    return code


def test_a_worker_whose_door_does_not_open_fails(place: Path) -> None:
    assert failure(place, client_job()) == "roster-incomplete"


def test_an_aggregator_whose_stream_ends_fails(place: Path) -> None:
    (place / "inputs" / "check.json").write_text(json.dumps({"names": NAMES}))
    with doors(place) as (listener,), ThreadPoolExecutor(1) as threads:
        failed = threads.submit(failure, place, joint_job("federated") | {"role": "aggregate"})
        listener.accept()[0].close()
        assert failed.result(SECONDS) == "roster-incomplete"


def test_a_client_counts_its_rows_and_loads_only_what_it_trains_with(place: Path) -> None:
    with doors(place) as (listener,), ThreadPoolExecutor(1) as threads:
        failed = threads.submit(failure, place, client_job(rows=699), "north")
        with listener.accept()[0]:
            assert failed.result(SECONDS) == "counts-differ"
        (place / "results" / "failure.json").unlink()
        loaded = threads.submit(imported, place, client_job())
        listener.accept()[0].close()
        assert not {"onnxruntime", "sklearn", "skl2onnx"} & set(loaded.result(SECONDS))


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


def test_an_ensemble_is_measured_like_any_joint_model(
    judged: Path, world: dict[str, tuple[Prepared, Prepared]]
) -> None:
    members = {party: own_files(judged, party=party, train=train, validate=True) for party, (train, _) in world.items()}
    bundle.put(judged / "inputs" / "joint", combined(members))
    bundle.put(judged / "inputs" / "corner" / "baseline", members["corner"])
    evidence = work(judged, evaluate_job(measurement(0, party="corner")))["evidence.json"]["measurements"]["0"]
    assert evidence["gain"] > 0.02


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


def test_it_is_called_with_one_directory_or_two(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["one", "two", "three"]) == 4
    assert "JOBDIR [RESULTS]" in capfd.readouterr().err


def test_results_go_where_they_are_wanted(place: Path, world: dict[str, tuple[Prepared, Prepared]]) -> None:
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (place / "job.json").write_text(json.dumps(check_job(world)))
    assert main([str(place), str(elsewhere)]) == 0
    assert [path.name for path in elsewhere.iterdir()] == ["check.json"]
    (place / "job.json").write_text("{}")
    assert main([str(place), str(elsewhere)]) == 1
    assert [path.name for path in elsewhere.iterdir()] == ["failure.json"]
    assert list((place / "results").iterdir()) == []


def test_a_full_volume_is_told_if_it_can_be(place: Path, world: dict[str, tuple[Prepared, Prepared]]) -> None:
    (place / "results" / "check.json").symlink_to("/dev/full")
    assert failure(place, check_job(world)) == "limit-results"


def test_a_file_that_grows_too_large_is_told(place: Path) -> None:
    (place / "job.json").write_text(json.dumps(joint_job("pooled")))
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))"
    code = f"import resource; from models.worker import main; {limit}; assert main([{str(place)!r}]) == 1"
    program = [sys.executable, "-B", "-c", code]  # bytecode that it keeps would be cut off, too, and stay so
    subprocess.run(program, capture_output=True, check=True, timeout=SECONDS)
    assert outcome(place) == {"failure.json": {"code": "limit-results"}}


def imported(place: Path, job: dict[str, Any]) -> list[str]:
    """The heavy libraries that a worker process has imported after its job."""
    (place / "job.json").write_text(json.dumps(job))
    code = f"import sys; from models.worker import main; assert main([{str(place)!r}]) == 0; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=SECONDS)
    return [name for name in HEAVY if name in done.stdout.split()]


def test_only_what_trains_imports_what_trains(judged: Path, world: dict[str, tuple[Prepared, Prepared]]) -> None:
    assert imported(judged, check_job(world)) == []
    assert imported(judged, evaluate_job(measurement(0))) == ["onnxruntime"]
    assert "flwr" not in imported(judged, joint_job("pooled"))


def test_the_program_ends_with_its_code_and_one_thread(place: Path) -> None:
    (place / "job.json").write_text(json.dumps(joint_job("federated", threads=1)))
    command = [sys.executable, "-m", "models.worker", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line)["progress"] for line in done.stdout.splitlines()] == ["round 1 of 2", "round 2 of 2"]
