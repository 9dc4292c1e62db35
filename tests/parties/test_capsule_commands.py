"""Capsules by command: from an empty directory to a contract, with every mistake named on the way."""

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from contracts.capsule import unpack
from contracts.contract import validated
from contracts.document import read_mapping
from escrow.runtime.images import find
from escrow.runtime.images.engine import base_tag
from parties.cli import main
from parties.sealing import saved
from scenarios.consortium import Consortium
from tests import engine as engines

Call = Callable[..., tuple[int, str, str]]
Ask = Callable[..., dict[str, Any]]
Refuses = Callable[..., str]

IMAGE = f"sha256:{'1' * 64}"


@pytest.fixture
def folder(tmp_path: Path, ask: Ask) -> Path:
    """A capsule that a command wrote."""
    ask("capsule", "new", tmp_path / "capsule")
    return tmp_path / "capsule"


@pytest.fixture(scope="module")
def north(town: Consortium) -> tuple[str, Path]:
    return ("--home", town.banks["north"].home)


def test_a_new_capsule_runs_and_is_checked(call: Call, ask: Ask, tmp_path: Path) -> None:
    folder = tmp_path / "capsule"
    code, out, _ = call("capsule", "new", folder, "--template", "python")
    assert (code, f"party capsule run {folder}" in out) == (0, True)
    assert "It has not run here yet" in call("capsule", "check", folder)[1]
    code, out, err = call("capsule", "run", folder, "--sealing", "none")
    assert (code, "It ran to its end" in out, "not sealed" in err) == (0, True, True)
    assert (folder / "results" / "by_hour.csv").read_text().startswith("from_hour,transactions,frauds")
    checked = ask("capsule", "check", folder)["data"]
    assert checked["warnings"] == []
    assert checked["digest"] in call("capsule", "check", folder)[1]
    assert call("capsule", "digest", folder)[1] == checked["digest"] + "\n"
    assert [each["path"] for each in checked["outputs"]] == ["by_hour.csv", "summary.json"]


def test_the_digest_is_the_same_wherever_it_lies(call: Call, tmp_path: Path) -> None:
    digests = set()
    for name in ("a", "b"):
        main(["capsule", "new", str(tmp_path / name)])
        (tmp_path / name / "data" / "transactions.csv").write_text(f"time\n{name}\n")
        digests.add(call("capsule", "digest", tmp_path / name)[1].splitlines()[-1])
    assert len(digests) == 1


def test_every_broken_rule_is_named(ask: Ask, refuses: Refuses, folder: Path) -> None:
    (folder / "notes.txt").touch()
    (folder / "metadata" / "metadata.yml").unlink()
    (folder / "code" / "blob").write_bytes(b"\0")
    assert "breaks 3 rules" in refuses("capsule", "check", folder, exit_code=1, code="capsule-invalid")
    details = ask("capsule", "digest", folder)["data"]["details"]
    assert sorted(each.split()[0] for each in details) == ["'notes.txt'", "code/blob", "metadata/metadata.yml"]
    refuses("capsule", "run", folder, exit_code=1, code="capsule-invalid")
    refuses("capsule", "check", folder / "absent", exit_code=4, code="file-unreadable")


def test_a_failure_tells_the_author_more_than_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "code" / "analysis.py").write_text('card = "c4711"\nraise KeyError(card)\n')
    words = ["capsule", "run", str(folder), "--sealing", "none"]
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert "| KeyError: 'c4711'" in err
    told = out[out.index("What the escrow would tell others") :]
    assert "capsule-failed" in told
    assert "KeyError in code/analysis.py, line 2; only if the contract discloses error-place" in told
    assert "c4711" not in out
    assert main([*words, "--format", "json"]) == 1
    data = json.loads(capsys.readouterr().out)["data"]
    place = {"exception": "KeyError", "file": "code/analysis.py", "line": 2}
    assert data["failed"] == {"code": "capsule-failed", "place": place}


def test_what_it_prints_moves_no_cursor_and_is_bounded(call: Call, folder: Path) -> None:
    (folder / "code" / "analysis.py").write_text('print("\\x1b[2J\\u202e")\nfor k in range(999): print("row", k)\n')
    _, _, err = call("capsule", "run", folder, "--sealing", "none")
    assert "\x1b" not in err
    assert ("| row 998" in err, "| row 1\n" in err, "… 800 lines before these" in err) == (True, False, True)


def test_a_directory_s_files_stand_for_confidential_rows(
    ask: Ask, refuses: Refuses, folder: Path, tmp_path: Path
) -> None:
    (folder / "code" / "config-confidential.json").write_text('{"where": "here"}')
    (folder / "code" / "analysis.py").write_text(
        "import os, pathlib\n"
        "own = pathlib.Path('config-confidential.json').exists()\n"
        "rows = pathlib.Path('../data/transactions.csv').read_text()\n"
        "for name in ('by_hour.csv', 'summary.json'):\n"
        "    pathlib.Path('../results', name).write_text(f\"{os.environ['CONFIDENTIAL']} {own} {len(rows)}\")\n"
    )
    rows = tmp_path / "rows"
    rows.mkdir()
    refuses("capsule", "run", folder, "--data", rows, "--sealing", "none", exit_code=1, code="tables-differ")
    (rows / "transactions.csv").write_text("12345")
    found = ask("capsule", "run", folder, "--data", rows, "--sealing", "none", "--out", tmp_path / "out")["data"]
    assert (found["confidential"], found["failed"]) == (True, None)
    assert (tmp_path / "out" / "by_hour.csv").read_text() == "yes True 5"
    ask("capsule", "run", folder, "--sealing", "none", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "by_hour.csv").read_text().startswith("no False")
    assert not (folder / "results").exists()


def test_wrong_words_are_usage_errors(refuses: Refuses, folder: Path) -> None:
    refuses("capsule", "run", folder, "--sealing", "vault", exit_code=4, code="usage")
    refuses("capsule", "new", folder.parent / "other", "--template", "julia", exit_code=4, code="usage")
    refuses("capsule", "new", folder, exit_code=4, code="file-unwritable")
    refuses("capsule", "contract", folder, exit_code=4, code="usage")


def test_without_an_engine_it_says_so_and_runs_all_the_same(
    *, call: Call, refuses: Refuses, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/absent.sock")
    code, _, err = call("capsule", "run", folder)
    assert code == 0
    assert "No container engine answers" in err
    assert "It runs as a plain process, not sealed" in err
    refuses("capsule", "run", folder, "--sealing", "container", exit_code=2, code="engine-missing")
    refuses("capsule", "build", folder, exit_code=2, code="engine-missing")


# at the escrow


def test_a_capsule_and_a_table_are_deposited_and_a_contract_drawn_up(
    *,
    ask: Ask,
    call: Call,
    refuses: Refuses,
    town: Consortium,
    north: tuple[str, Path],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harbour = ("--home", town.banks["harbour"].home)
    out = tmp_path / "contract.yaml"
    draw = ("capsule", "contract", folder, "--owner", "harbour", "--image", IMAGE, "--out", out, *north)
    refuses(*draw, exit_code=1, code="deposit-unknown")
    first = ask("capsule", "deposit", folder, *north)["data"]
    again = ask("capsule", "deposit", folder, *north)["data"]
    assert [each["deposits"][0]["how"] for each in (first, again)] == ["new", "known"]
    own = first["deposits"][0]["commitment"]
    refuses(*draw, exit_code=1, code="deposit-unknown")  # no table yet
    (tmp_path / "cards.csv").write_text("card,amount\n1,2.5\n2,3.5\n")
    add = ("dataset", "add", tmp_path / "cards.csv", "--as", "table", *harbour)
    added = [ask(*add)["data"]["deposits"][0] for _ in range(2)]
    assert [(each["part"], each["rows"], each["how"]) for each in added] == [("table", 2, "new"), ("table", 2, "known")]
    assert "table" in call("dataset", "list", *harbour)[1]
    assert "capsule" in call("dataset", "list", *north)[1]

    refuses(*draw, "--sealing", "none", exit_code=1, code="not-supported")
    monkeypatch.setattr(town.core.runtime, "sealing", "container")  # what it offers; nothing runs here
    code, shown, _ = call(*draw, "--error-place")
    assert (code, f"party contract propose {out}" in " ".join(shown.split())) == (0, True)
    contract = validated(read_mapping(out.read_bytes(), out.name, what="contract", begin=""))
    assert contract.commitments() == [own, added[0]["commitment"]]
    assert contract.disclosure.failed == ("error-code", "error-place")
    assert ask("contract", "validate", out)["data"]["valid"]
    refuses(*draw, exit_code=4, code="file-unwritable")

    (folder / "code" / "run").write_text("#!/bin/sh\n# changed\n")
    out.unlink()
    refuses(*draw, exit_code=1, code="deposit-unknown")


def test_the_deposit_holds_the_capsule_and_nothing_else(
    ask: Ask, town: Consortium, north: tuple[str, Path], folder: Path
) -> None:
    (folder / ".secret").write_text("mine")
    (folder / "README.md").write_text("# Another one\n")
    commitment = ask("capsule", "deposit", folder, *north)["data"]["deposits"][0]["commitment"]
    deposit = saved(town.banks["north"].folder, (commitment,))[commitment]
    import pyrage  # noqa: PLC0415 - here only

    opened = pyrage.decrypt(deposit.path.read_bytes(), [pyrage.x25519.Identity.from_str(deposit.identity)])
    capsule = unpack(opened)
    assert capsule.files["README.md"] == b"# Another one\n"
    assert not [path for path in capsule.files if "secret" in path or path.startswith("results")]
    assert (
        json.loads(json.dumps(deposit.statement("escrow.example/ledger", "north").model_dump(mode="json")))["rows"]
        is None
    )


def test_a_table_for_training_still_needs_its_schema(refuses: Refuses, north: tuple[str, Path], tmp_path: Path) -> None:
    (tmp_path / "cards.csv").write_text("a\n1\n")
    words = ("dataset", "add", tmp_path / "cards.csv", *north)
    refuses(*words, exit_code=4, code="usage")
    refuses(*words, "--as", "model", exit_code=4, code="usage")
    refuses(*words, "--as", "table", "--schema", tmp_path / "cards.csv", exit_code=4, code="usage")
    refuses(*words, "--as", "table", "--rows", "2", exit_code=1, code="counts-differ")


# in containers

engine = engines.engine


@pytest.fixture
def built(engine: docker.DockerClient, ask: Ask, folder: Path) -> Iterator[dict[str, Any]]:
    """The capsule's image, of an environment that nobody else has."""
    if not engine.images.list(base_tag("python")):
        engines.missing("the engine has no base image (`escrow image base`)")
    with (folder / "environment" / "requirements.txt").open("a") as file:
        file.write(f"# {uuid.uuid4()}\n")
    found = ask("capsule", "build", folder)["data"]
    yield found
    for tag in find(engine, found["image"]).tags:
        engine.images.remove(tag)


@pytest.mark.engine
def test_a_built_capsule_runs_sealed(
    *, ask: Ask, call: Call, engine: docker.DockerClient, built: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    assert built["differences"] == []
    assert find(engine, built["tag"]).id == built["image"]
    (folder / "code" / "analysis.py").write_text(
        "import os, pathlib\n"
        "rows = pathlib.Path('/confidential/data/transactions.csv' if os.environ['CONFIDENTIAL'] == 'yes'\n"
        "                    else '/data/transactions.csv').read_text()\n"
        "for name in ('by_hour.csv', 'summary.json'):\n"
        "    pathlib.Path('/results', name).write_text(f'{len(rows)} {os.getcwd()}')\n"
    )
    found = ask("capsule", "run", folder)["data"]
    assert (found["sealing"], found["image"], found["failed"]) == ("container", built["image"], None)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "transactions.csv").write_text("12345")
    code, _, err = call("capsule", "run", folder, "--data", tmp_path / "rows")
    assert (code, f"in a container of image {built['image']}" in err) == (0, True)
    assert (folder / "results" / "by_hour.csv").read_text() == "5 /code"


@pytest.mark.engine
def test_another_environment_has_no_image(
    *, call: Call, refuses: Refuses, engine: docker.DockerClient, folder: Path
) -> None:
    with (folder / "environment" / "requirements.txt").open("a") as file:
        file.write(f"# {uuid.uuid4()}\n")
    refuses("capsule", "run", folder, "--sealing", "container", exit_code=1, code="image-missing")
    refuses("capsule", "run", folder, "--image", "absent:latest", exit_code=1, code="image-missing")
    code, _, err = call("capsule", "run", folder)
    assert (code, "No image was built here" in err, "plain process" in err) == (0, True, True)
