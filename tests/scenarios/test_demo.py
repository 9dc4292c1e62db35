"""The demo as a user meets it: what it answers, what it leaves behind, and what it says of wrong options."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import docker
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

import escrow.cli
import parties.cli
from contracts.errors import EscrowError
from escrow.sealing import UNSEALED, Seal
from parties.sealing import Deposit
from scenarios import mainjob, screen, worlds
from scenarios.play import quiet
from scenarios.worlds import World
from tests.scenarios.contrasts import containers_left, jobs_left, running, story

FIGURES = {"own", "joint", "gain", "lower_bound", "positives", "clause", "finding", "holds"}
COLUMNS = ("--time", "When", "--label", "Bad", "--group", "Card", "--amount", "Sum", "--terminal", "Shop")
DATES = ("--train-from", "2025-03-10", "--train-days", "28", "--delay-days", "7", "--test-days", "21")


def told(argv: Sequence[str], capsys: pytest.CaptureFixture[str], program: Any = escrow.cli) -> dict[str, Any]:
    """The one envelope that a command prints."""
    code = program.main([*argv, "--format", "json"])
    envelope: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert envelope["exit_code"] == code
    return envelope


def test_the_story_of_four_banks_and_trees_over_grpc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = mainjob.story(mainjob.RELEASED_WORLD, seed=1, size="small")
    the_story_is_played("grpc", mainjob.chosen("boosted", None, 1), tmp_path, capsys, made)


@pytest.mark.parametrize(("wire", "placement"), [("process", "escrow"), ("network", "party")])
def test_the_default_story_wherever_rows_are_and_however_banks_reach_the_escrow(
    wire: mainjob.Reach, placement: mainjob.Placement, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = mainjob.chosen(None, None, 1, placement=placement)
    assert (choice.model, choice.method, choice.seal) == ("mlp", "fedavg", UNSEALED)
    the_story_is_played(wire, choice, tmp_path, capsys)


@pytest.mark.engine
@pytest.mark.parametrize("wire", ["process", "network"])
def test_the_story_is_the_same_sealed(
    wire: mainjob.Reach,
    engine: docker.DockerClient,
    worker_image: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In process trees of deposited rows, else a net of rows that stay with banks, each of which has its containers."""
    seal = Seal("container", worker_image)
    trees, net = mainjob.chosen("boosted", None, 1, seal), mainjob.chosen(None, None, 1, seal, "party")
    kept = the_story_is_played(wire, trees if wire == "process" else net, tmp_path, capsys)
    assert [containers_left(engine, each["contract"]) for each in kept["contracts"]] == [[], []]


def test_trees_of_rows_that_stay_with_their_banks_are_combined(tmp_path: Path) -> None:
    choice = mainjob.chosen("boosted", None, 1, UNSEALED, "party")
    made = story()[:1]
    kept = mainjob.run(choice, tmp_path, made, tell=quiet)
    [contract] = kept["contracts"]
    assert (choice.method, contract["verdict"], contract["verified"]) == ("ensemble", "released", True)
    rows_are_where_they_should_be(kept, made)


@pytest.mark.parametrize(("model", "method"), [("mlp", "pooled"), ("boosted", "fedavg")])
def test_what_rows_at_the_banks_cannot_do_is_wrong_usage(model: str, method: str) -> None:
    with pytest.raises(EscrowError, match=r"pooled|average") as refused:
        mainjob.chosen(model, method, 1, UNSEALED, "party")
    assert refused.value.code == "usage"


def the_story_is_played(
    wire: mainjob.Reach,
    choice: mainjob.Choice,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    made: Sequence[World] | None = None,
) -> dict[str, Any]:
    made = story() if made is None else made
    kept = mainjob.run(choice, folder, made, tell=quiet, wire=wire)
    assert (kept["model"], kept["method"], kept["placement"]) == (choice.model, choice.method, choice.placement)
    assert (kept["network"], kept["sealing"]) == (wire == "network", choice.seal.sealing)
    assert running(folder) == []
    assert jobs_left(folder) == []
    released_and_verified_then_withheld(kept, made[0].banks)
    rows_are_where_they_should_be(kept, made)
    people_see_a_line_for_each_bank_and_what_banks_are_told(kept, made[0].banks)
    what_is_kept_can_be_verified_offline(kept, capsys)
    return kept


def rows_are_where_they_should_be(kept: dict[str, Any], made: Sequence[World]) -> None:
    """With the banks, whose nodes have trained on them, or at the escrow."""
    folder, at_home = Path(kept["directory"]), kept["placement"] == "party"
    for name in made[0].banks:
        train = [each for each in deposits_of(folder, name) if each.part == "train"]
        blobs = [folder / "escrow" / "vault" / "blobs" / each.blob.removeprefix("sha256:") for each in train]
        assert [each.kept for each in train] == [at_home] * len(made)
        assert [blob.exists() for blob in blobs] == [not at_home] * len(made)
        if at_home and kept["network"]:
            log = (folder / "logs" / f"{name}.log").read_text()
            assert log.count('"round": 32,') == len(made)


def deposits_of(directory: Path, name: str) -> list[Deposit]:
    return [Deposit.load(path) for path in (directory / "banks" / name / "deposits").glob("*.json")]


def released_and_verified_then_withheld(kept: dict[str, Any], banks: Sequence[str]) -> None:
    first, second = kept["contracts"]
    assert (first["verdict"], first["verified"], second["verdict"], second["bundle"]) == (
        "released",
        True,
        "withheld",
        None,
    )
    for contract in (first, second):
        assert tuple(contract["parties"]) == banks
        for row in contract["parties"].values():
            assert set(row) == FIGURES
            assert row["gain"] == pytest.approx(row["joint"] - row["own"])
            assert row["holds"] == (row["lower_bound"] > 0)
    assert all(row["holds"] for row in first["parties"].values())
    assert not all(row["holds"] for row in second["parties"].values())
    assert set(first["stages"]) == set(mainjob.STAGES)
    assert Path(kept["plot"]).read_bytes().startswith(b"\x89PNG")


def what_is_kept_can_be_verified_offline(kept: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert told(["ledger", "verify", kept["directory"]], capsys)["status"] == "ok"
    bundle = Path(kept["contracts"][0]["bundle"])
    home = ["--home", str(bundle.parent.parent)]
    verified = told(["release", "verify", str(bundle), *home], capsys, parties.cli)
    development = kept["sealing"] == "none"
    assert (verified["status"], verified["data"]["standing"]) == ("ok", "development" if development else "sealed")
    assert parties.cli.main(["release", "verify", str(bundle), *home]) == 0
    assert ("DEVELOPMENT: this run was not sealed." in capsys.readouterr().out) == development
    assert (
        (bundle / "card.md").read_text().startswith("**DEVELOPMENT: this run was not sealed." if development else "#")
    )
    (bundle / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes() + b"\0")
    refused = told(["release", "verify", str(bundle), *home], capsys, parties.cli)
    assert (refused["status"], refused["exit_code"]) == ("error", 1)


def people_see_a_line_for_each_bank_and_what_banks_are_told(kept: dict[str, Any], banks: Sequence[str]) -> None:
    console = Console(record=True, width=100, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    with console.file:
        console.print(screen.answer(kept).people)
        text = console.export_text()
    assert ("NOT SEALED" in text) == (kept["sealing"] == "none")
    assert ("not the operator from the memory" in text) == (kept["sealing"] != "none")
    for bank in banks:
        assert sum(line.strip().startswith(f"{bank} ") for line in text.splitlines()) == 2
    assert "Every bank was told: withheld. Nothing else" in text


def own_file(path: Path) -> Path:
    """A table with a user's own names and a column that would give the label away."""
    world = worlds.build("quantity-skew", seed=3, size="small")
    whole = pa.concat_tables(list(world.tables.values())).sort_by(world.schema.columns.time)
    names = world.schema.columns
    table = pa.table(
        {
            "When": whole[names.time],
            "Bad": whole[names.label],
            "Card": whole[names.group],
            "Sum": whole[names.amount],
            "Shop": whole[names.terminal],
            "Scheme": np.asarray(whole[names.label]) * 3,
        }
    )
    pq.write_table(table, path)
    return path


def test_a_users_own_table_is_split_and_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = own_file(tmp_path / "tx.parquet")
    options = ["--data", str(file), *COLUMNS, *DATES, "--shares", "60,40", "--never", "Scheme", "--model", "boosted"]
    envelope = told(["demo", *options, "--keep", str(tmp_path / "kept")], capsys)
    [contract] = envelope["data"]["contracts"]
    assert contract["world"] == "tx"
    assert list(contract["parties"]) == ["north", "harbour"]
    assert contract["verdict"] in ("released", "withheld")
    assert (contract["bundle"] is not None) == contract["verified"] == (contract["verdict"] == "released")


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--model", "forest"], "usage", "forest"),
        (["--model", "boosted", "--method", "fedavg"], "usage", "average"),
        (["--world", "atlantis"], "usage", "atlantis"),
        (["--network", "--world", "atlantis"], "usage", "atlantis"),
        (["--seed", "-1"], "usage", "seed"),
        (["--time", "When"], "usage", "--data"),
        (["--data", "{file}", "--time", "When"], "usage", "--label"),
        (["--data", "{file}", *COLUMNS, *DATES, "--shares", "50,60"], "usage", "100"),
        (["--data", "{file}", *COLUMNS, *DATES, "--shares", "half"], "usage", "half"),
        (["--data", "{file}", *COLUMNS, *DATES[2:], "--train-from", "10.3.2025"], "usage", "10.3.2025"),
        (["--data", "{file}", *COLUMNS, *DATES[2:], "--train-from", "2031-01-01"], "usage", "covers"),
        (["--data", "{file}", *COLUMNS, *DATES, "--never", "Scheem"], "column-missing", "Scheem"),
        (["--data", "{file}", *COLUMNS, *DATES, "--never", "Scheme", "--feature", "Scheme"], "usage", "Scheme"),
        (["--data", "{file}", *COLUMNS[:-1], "Market", *DATES], "column-missing", "Market"),
        (["--data", "nowhere.parquet", *COLUMNS, *DATES], "file-unreadable", "nowhere"),
    ],
)
def test_wrong_options_get_one_sentence_and_leave_nothing(
    options: list[str], code: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = own_file(tmp_path / "tx.parquet") if "{file}" in options else None
    argv = ["demo", *(str(file) if word == "{file}" else word for word in options), "--keep", str(tmp_path / "kept")]
    envelope = told(argv, capsys)
    assert envelope["data"]["code"] == code
    assert says in envelope["data"]["message"] + envelope["data"]["hint"]
    assert envelope["data"]["hint"]
    assert not (tmp_path / "kept").exists()


def test_an_engine_that_is_missing_is_told_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    envelope = told(["demo", "--sealing", "container", "--keep", str(tmp_path / "kept")], capsys)
    assert envelope["data"]["code"] == "engine-missing"
    assert "--sealing none" in envelope["data"]["hint"]
    assert list((tmp_path / "kept").iterdir()) == []
    assert not Seal().jobs(tmp_path / "kept" / "escrow").exists()


@pytest.mark.parametrize("asked_for", [True, False])
def test_a_demo_that_fails_leaves_only_the_directory_that_was_asked_for(tmp_path: Path, asked_for: bool) -> None:
    made: list[Path] = []

    def fail() -> None:
        with mainjob.new_directory(tmp_path if asked_for else None) as directory:
            (directory / "key.pem").write_text("a bank's")
            made.append(directory)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert made[0].exists() == asked_for


def test_a_directory_with_something_in_it_is_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    assert told(["demo", "--keep", str(tmp_path)], capsys)["data"]["code"] == "usage"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
