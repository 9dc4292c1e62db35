"""The command `party`, called as a bank's engineers call it, on a release that two small banks really made."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from contracts.schema import Schema
from models.bundle import load
from models.features import features_for_scoring
from models.table import read_table
from parties.cli import NOUNS, VERBS
from parties.release import fetch
from scenarios.consortium import Consortium
from tests.helppages import WIDTH, broken_early, pages

PARTY = Path(sys.executable).with_name("party")
Call = Callable[..., tuple[int, str, str]]
Ask = Callable[..., dict[str, Any]]
Refuses = Callable[..., str]
Drawn = Callable[[int], pa.Table]


@dataclass(frozen=True)
class Released:
    """A release of two banks, of which `corner` receives no model."""

    home: Path
    folder: Path
    table: Path
    corner: Path
    corner_folder: Path


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, schema: Schema, drawn: Drawn) -> Released:
    directory = tmp_path_factory.mktemp("consortium") / "kept"
    directory.mkdir()
    consortium = Consortium.create(directory, schema)
    for seed, name in enumerate(("north", "corner")):
        consortium.join(name)
        pyarrow.parquet.write_table(drawn(seed), directory / f"{name}.parquet")
        consortium.deposit(name, directory / f"{name}.parquet")
    no_harm = {"kind": "no-harm", "metric": "average-precision", "margin": 1.0, "min-positives": 5}
    document = consortium.draft(
        model={"family": "logistic", "epochs": 1},
        method={"name": "pooled"},
        recipients=[{"party": "north"}],
        release=[{**no_harm, "party": name} for name in consortium.banks],
    )
    digest = consortium.propose(consortium.contract(document))
    consortium.approve(digest)
    assert consortium.core.run(digest).state == "released"
    folders = {name: fetch(bank, digest, bank.home / "release") for name, bank in consortium.banks.items()}
    homes = {name: bank.home for name, bank in consortium.banks.items()}
    consortium.core.close()
    return Released(homes["north"], folders["north"], directory / "north.parquet", homes["corner"], folders["corner"])


def test_verify_prints_its_steps_and_the_partys_own_findings(call: Call, ask: Ask, released: Released) -> None:
    code, out, err = call("release", "verify", released.folder, "--home", released.home)
    assert code == 0
    assert [line.partition(".")[0] for line in err.splitlines()] == [str(step) for step in range(1, 9)]
    assert "approved by north, corner" in err
    for words in ("no-harm", "average-precision", "lower", "bound", "positives", "Model sha256:"):
        assert words in out
    data = ask("release", "verify", released.folder, "--home", released.home)["data"]
    assert data["verdict"] == "released"
    assert data["model"] == load(released.folder).digest
    assert [step["step"] for step in data["steps"]] == list(range(1, 9))
    [finding] = data["findings"]
    assert (finding["party"], finding["outcome"]) == ("north", "holds")


def test_the_home_may_come_from_the_environment(
    call: Call, refuses: Refuses, released: Released, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ("release", "verify", released.folder)
    assert refuses(*argv, exit_code=4, code="home-missing") == "Nothing says which party this is."
    monkeypatch.setenv("PARTY_HOME", str(released.home))
    assert call(*argv)[0] == 0


def test_a_party_that_receives_no_model_can_verify_but_not_score(
    call: Call, refuses: Refuses, released: Released, tmp_path: Path
) -> None:
    home = ("--home", released.corner)
    code, out, err = call("release", "verify", released.corner_folder, *home)
    assert code == 0
    assert "8. no model for this party" in err
    assert "Model" not in out
    scores = tmp_path / "scores.csv"
    argv = ("release", "score", released.corner_folder, released.table, "--out", scores, *home)
    assert "receives no model" in refuses(*argv, exit_code=1, code="not-permitted")
    assert not scores.exists()


def test_anothers_release_is_refused(refuses: Refuses, released: Released) -> None:
    argv = ("release", "verify", released.folder, "--home", released.corner)
    refuses(*argv, exit_code=1, code="release-invalid")


@pytest.mark.parametrize(
    "name", ["receipt.json", "package.age", "contract.json", "opening.json", "model.onnx", "model.json"]
)
def test_a_changed_file_is_refused_before_anything_is_scored(
    ask: Ask, released: Released, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "copy"
    copytree(released.folder, folder)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    scores = tmp_path / "scores.csv"
    argv = ("release", "score", folder, released.table, "--out", scores, "--home", released.home)
    found = ask(*argv)
    assert (found["exit_code"], found["status"]) == (1, "error")
    assert found["data"]["code"] != "bug"
    assert not scores.exists()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_scores_stand_beside_the_rows_in_the_tables_own_order(
    *, call: Call, ask: Ask, released: Released, schema: Schema, drawn: Drawn, tmp_path: Path, ending: str
) -> None:
    rng = np.random.default_rng(7)
    shuffled = drawn(0).take(rng.permutation(1500)).drop_columns(["fraud"])
    table, scores = tmp_path / "new.parquet", tmp_path / f"scores.{ending}"
    pyarrow.parquet.write_table(shuffled, table)
    argv = ("release", "score", released.folder, table, "--out", scores, "--home", released.home)
    code, out, err = call(*argv)
    assert code == 0
    assert "1500 rows scored" in out
    assert err.splitlines()[-1].startswith("8. model sha256")
    found = pyarrow.csv.read_csv(scores) if ending == "csv" else pyarrow.parquet.read_table(scores)
    assert found.column_names == ["when", "card", "shop", "eur", "score"]
    assert found["card"].to_pylist() == shuffled["card"].to_pylist()
    bundle = load(released.folder)
    rows = features_for_scoring(read_table(table, schema, labels="optional"), schema)
    np.testing.assert_allclose(np.asarray(found["score"]), bundle.scores(rows.features), atol=1e-7)
    assert ask(*argv)["data"]["rows"] == 1500
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([table.name, scores.name])


def test_where_scores_cannot_go_is_said_before_the_work(refuses: Refuses, released: Released, tmp_path: Path) -> None:
    score = ("release", "score", released.folder, released.table, "--home", released.home, "--out")
    for out in (tmp_path / "scores.txt", tmp_path / "no" / "scores.csv", released.table):
        refuses(*score, out, exit_code=4, code="file-unwritable")
    assert pyarrow.parquet.read_table(released.table).num_rows == 1500
    assert "--out" in refuses(*score[:-1], exit_code=4, code="usage")


def test_a_table_without_a_column_is_refused(refuses: Refuses, released: Released, tmp_path: Path) -> None:
    table, out = tmp_path / "t.csv", tmp_path / "scores.csv"
    table.write_text("when,card,shop\n2018-05-01,a,b\n")
    argv = ("release", "score", released.folder, table, "--out", out, "--home", released.home)
    assert "'eur'" in refuses(*argv, exit_code=1, code="column-missing")
    argv = ("release", "score", released.folder, tmp_path / "no.csv", "--out", out, "--home", released.home)
    refuses(*argv, exit_code=4, code="file-unreadable")
    assert not out.exists()


def test_a_folder_or_home_that_holds_nothing_is_refused(refuses: Refuses, released: Released, tmp_path: Path) -> None:
    refuses("release", "verify", tmp_path, "--home", released.home, exit_code=4, code="file-unreadable")
    refuses("release", "verify", released.folder, "--home", tmp_path, exit_code=4, code="home-missing")


@pytest.mark.parametrize("argv", [["release"], ["release", "verify"], ["release", "wrong"], ["wrong"], ["--wrong"]])
def test_wrong_usage_is_exit_4_with_one_envelope(refuses: Refuses, ask: Ask, argv: list[str]) -> None:
    refuses(*argv, exit_code=4, code="usage")
    assert ask(*argv)["data"]["code"] == "usage"


def test_help_teaches(call: Call) -> None:
    assert call() == call("--help")
    commands: list[list[str]] = [[], *([verb] for verb in VERBS), *([noun] for noun in NOUNS)]
    for noun in NOUNS:
        listed = re.findall(r"^│ ([a-z]+) ", call(noun, "--help")[1], flags=re.MULTILINE)
        assert listed, noun
        commands += [[noun, command] for command in listed]
    for argv in commands:
        code, out, err = call(*argv, "--help")
        assert (code, err) == (0, "")
        example = " ".join(["Example: party", *argv])
        assert example in out or (argv in ([], *([noun] for noun in NOUNS)) and "Example: party " in out), argv
        assert "Exit codes: 0 ok" in out
        assert "PARTY_HOME" in out


def test_help_is_filled_to_the_width_of_the_screen(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    found = pages(call)
    assert {("start",), ("dataset", "add"), *((noun,) for noun in NOUNS)} < set(found)
    assert {argv: early for argv, page in found.items() if (early := broken_early(page))} == {}
    assert "`placements: [party]`" in found["dataset", "add"]


def test_the_installed_program_keeps_stdout_for_its_envelope(released: Released) -> None:
    argv: list[str | Path] = [PARTY, "release", "verify", released.folder, "--home", released.home, "--format=json"]
    found = subprocess.run(argv, capture_output=True, check=False)
    assert found.returncode == 0
    assert json.loads(found.stdout)["data"]["verdict"] == "released"
    assert found.stderr.startswith(b"1. checkpoint of ")
