"""The command `escrow`, called as its users call it."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from contracts.schema import Schema
from escrow.cli import NOUNS, PLUGGED_IN, main
from scenarios.consortium import Consortium
from tests.helppages import WIDTH, broken_early, pages

ESCROW = Path(sys.executable).with_name("escrow")
CONTRACT = """\
contract: 1
title: Joint card-fraud model
purpose: Train and score card-fraud models. No other use.
parties: [north, corner]
contributions:
  - party: north
    train: {commitment: "sha256-salted:%(a)s", rows: 133481}
    holdout: {commitment: "sha256-salted:%(b)s", rows: 86119, positives: 509}
  - party: corner
    train: {commitment: "sha256-salted:%(c)s", rows: 13000}
    holdout: {commitment: "sha256-salted:%(d)s", rows: 8600, positives: 57}
schema:
  columns: {time: TX_DATETIME, label: TX_FRAUD, group: CUSTOMER_ID, amount: TX_AMOUNT, terminal: TERMINAL_ID}
  never: [TX_FRAUD_SCENARIO]
  split: {train-from: 2018-07-04, train-days: 28, test-days: 28}
computation:
  kind: joint-training
  worker: "sha256:%(e)s"
  model: {family: mlp, hidden: [64, 32]}
  method: {name: fedavg, rounds: 12}
  sealing: none
recipients: [{party: north}, {party: corner}]
release:
  - {kind: gain, party: north, metric: average-precision, more-than: 0.0, min-positives: 100}
  - {kind: gain, party: corner, metric: average-precision, more-than: 0.05}
limits: {expires: 2027-01-01T00:00:00Z}
""" % {letter: letter * 64 for letter in "abcde"}

Call = Callable[..., tuple[int, str, str]]
Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls the command; its exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def called(*argv: object) -> tuple[int, str, str]:
        code = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return called


@pytest.fixture
def ask(call: Call) -> Ask:
    """Calls the command with `--format json`; its one envelope."""

    def asked(*argv: object) -> dict[str, Any]:
        code, out, _ = call(*argv, "--format", "json")
        envelope = json.loads(out)
        assert out.count("\n") == 1
        assert envelope["exit_code"] == code
        assert envelope["status"] == ("ok" if code == 0 else "error")
        return envelope  # type: ignore[no-any-return]

    return asked


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "contract.yaml"
    path.write_text(CONTRACT)
    return path


def drawn_up(text: str = CONTRACT) -> str:
    """The contract with keys filled in."""
    keys = ", ".join(
        f'{{name: {name}, key: "ed25519:{str(digit) * 64}"}}' for name, digit in (("north", 1), ("corner", 2))
    )
    return text.replace("parties: [north, corner]", f"parties: [{keys}]")


def refusal(call: Call, *argv: object, exit_code: int, code: str) -> str:
    """What a person reads when the command is refused: one sentence, the code, the next step; nothing on stdout."""
    found, out, err = call(*argv)
    first, *details, last = err.strip().splitlines()
    assert (found, out) == (exit_code, "")
    assert first.endswith(f" [{code}]")
    assert last.startswith("  Next: ")
    assert all(line.startswith("  - ") for line in details)
    return first.removesuffix(f" [{code}]")


# contract validate


def test_the_contract_in_the_readme_is_one(ask: Ask, tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    text = readme.partition("```yaml\n")[2].partition("```")[0]
    hashes = iter(f"{number:064x}" for number in range(99))
    (tmp_path / "readme.yaml").write_text(re.sub("…", lambda _: next(hashes), text))
    data = ask("contract", "validate", tmp_path / "readme.yaml")["data"]
    assert (data["valid"], data["unsupported"]) == (True, [])


def test_a_valid_draft_is_said_to_be_one(call: Call, ask: Ask, file: Path) -> None:
    code, out, err = call("contract", "validate", file)
    assert (code, err) == (0, "")
    assert "contract.yaml is a valid contract: Joint card-fraud model" in out
    assert "2 parties, 2 clauses" in out
    assert "this is a draft" in out
    data = ask("contract", "validate", file)["data"]
    assert data == {
        "valid": True,
        "title": "Joint card-fraud model",
        "digest": None,
        "parties": 2,
        "clauses": 2,
        "unsupported": [],
    }


def test_a_contract_with_keys_has_the_digest_that_is_signed(ask: Ask, file: Path, tmp_path: Path) -> None:
    file.write_text(drawn_up())
    digest = ask("contract", "validate", file)["data"]["digest"]
    assert digest.startswith("sha256:")
    from escrow.cli.contract import read_contract  # noqa: PLC0415 - main imports it on demand, as users do

    signed = tmp_path / "contract.json"
    signed.write_bytes(read_contract(file).canonical())
    assert ask("contract", "validate", signed)["data"]["digest"] == digest
    assert ask("contract", "explain", signed)["data"]["digest"] == digest


def test_valid_terms_that_this_escrow_cannot_honour_are_noted(call: Call, ask: Ask, file: Path) -> None:
    text = CONTRACT.replace("sealing: none", "sealing: container")
    file.write_text(text.replace("release:", "release:\n  - {kind: leakage, tpr-at-1pct-fpr-at-most: 0.05}"))
    code, out, _ = call("contract", "validate", file)
    assert code == 0
    assert out.count("Not supported by this escrow yet") == 1  # it seals in containers now
    missing = ["clause: leakage"]
    assert ask("contract", "validate", file)["data"]["unsupported"] == missing


def test_every_problem_is_named_on_a_line_of_its_own(call: Call, ask: Ask, file: Path) -> None:
    file.write_text(CONTRACT.replace("rounds: 12", "rounds: 0").replace("title:", "titel:"))
    assert refusal(call, "contract", "validate", file, exit_code=1, code="document-invalid").endswith("3 problems.")
    _, _, err = call("contract", "validate", file)
    assert "\n  - title: Field required\n" in err
    assert "\n  - titel: Extra inputs are not permitted\n" in err
    assert "rounds: Input should be greater than or equal to 1" in err
    assert len(ask("contract", "validate", file)["data"]["details"]) == 3


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("title: Joint", "title: x\ntitle: Joint", "contract.yaml has the key 'title' twice (line 3)."),
        ("rows: 133481", "rows: 133_481", "contract.yaml has '133_481', which JSON cannot say; write a plain number"),
        ("rows: 133481", "rows: 0x209", "contract.yaml has '0x209', which JSON cannot say"),
        ("more-than: 0.05", "more-than: .nan", "contract.yaml has '.nan', which JSON cannot say"),
        ("more-than: 0.05", "more-than: 1:30.5", "contract.yaml has '1:30.5', which JSON cannot say"),
        ("[north, corner]", "[no, corner]", "contract.yaml has 'no', which YAML takes for a truth value"),
        ("title: Joint", "1: Joint", "contract.yaml has a key that is not text"),
        ("title: Joint", "title: !!python/name:os.system Joint", "contract.yaml has 'Joint card-fraud model', which"),
        ("title: Joint", "title: !!binary Sm9pbnQ=\n#", "contract.yaml has 'Sm9pbnQ=', which JSON cannot say"),
        ("title: Joint", "title: &t Joint", "contract.yaml has an anchor or alias"),
        ("limits: {", "limits: {<<: {runs: 1}, ", "contract.yaml has a key that is not text"),
        ("parties: [north", "parties: [north: {", "contract.yaml is not YAML: line"),
        ("title: Joint", "title: \x07 Joint", "contract.yaml is not YAML"),
        ("title: Joint", "---\ntitle: Joint", "contract.yaml is not YAML: line"),
        ("title: Joint", f"title: {'[' * 100}{']' * 100}\n#", "contract.yaml is nested more than 64 levels deep."),
        (CONTRACT, "", "contract.yaml holds nothing, not the keys and values of a contract."),
        (CONTRACT, "- a\n- b\n", "contract.yaml holds a list"),
        (CONTRACT, "hello\n", "contract.yaml holds a text"),
        (CONTRACT, "x" * (1 << 20) + "x", "contract.yaml is larger than 1048576 bytes."),
    ],
)
def test_bad_yaml_is_one_sentence(call: Call, file: Path, old: str, new: str, told: str) -> None:
    assert old in CONTRACT
    file.write_text(CONTRACT.replace(old, new, 1))
    assert told in refusal(call, "contract", "validate", file, exit_code=1, code="document-invalid")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"contract": 1, "contract": 1}', "contract.json has the key 'contract' twice."),
        ('{"contract": NaN}', "contract.json holds NaN, which is not a number."),
        ('{"contract": ' + "1" * 5000 + "}", "contract.json holds a number that is too long."),
        ('{"contract": }', "contract.json is not JSON: line 1, column 14: Expecting value."),
        ("[" * 200_000, "contract.json is nested too deeply."),
        ("[]", "contract.json holds a list, not the keys and values of a contract."),
    ],
)
def test_bad_json_is_one_sentence(call: Call, tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "contract.json"
    path.write_text(text)
    assert refusal(call, "contract", "explain", path, exit_code=1, code="document-invalid") == told


def test_what_is_no_text_file_is_one_sentence(call: Call, tmp_path: Path) -> None:
    missing, latin, pipe = tmp_path / "no.yaml", tmp_path / "latin.yaml", tmp_path / "pipe"
    latin.write_bytes(b"title: caf\xe9")
    os.mkfifo(pipe)
    told = refusal(call, "contract", "validate", missing, exit_code=4, code="file-unreadable")
    assert told == f"{missing} cannot be read: No such file or directory."
    told = refusal(call, "contract", "validate", tmp_path, exit_code=4, code="file-unreadable")
    assert told == f"{tmp_path} is a directory, not a contract's file."
    refusal(call, "contract", "validate", pipe, exit_code=4, code="file-unreadable")
    told = refusal(call, "contract", "validate", latin, exit_code=1, code="document-invalid")
    assert told == "latin.yaml is not UTF-8: byte 10 is not."


# contract explain


def test_explain_tells_each_party_what_follows(call: Call, file: Path) -> None:
    code, out, err = call("contract", "explain", file)
    assert (code, err) == (0, "")
    for words in (
        "Purpose: Train and score card-fraud models. No other use.",
        "NOT SEALED: for development only",
        "1. north: average-precision of the joint model exceeds",
        "For north",
        "For corner",
        "! 57 frauds can hardly decide",
        "released",
        "withheld",
    ):
        assert words in out


def test_explain_can_speak_to_one_party(call: Call, ask: Ask, file: Path) -> None:
    _, out, _ = call("contract", "explain", file, "--party", "corner")
    assert "For corner" in out
    assert "For north" not in out
    data = ask("contract", "explain", file, "--party", "corner")["data"]
    assert [each["party"] for each in data["parties"]] == ["corner"]
    assert set(data["outcomes"]) == {"released", "withheld", "failed"}
    assert data["purpose"].startswith("Train and score")
    told = refusal(call, "contract", "explain", file, "--party", "bank", exit_code=1, code="party-unknown")
    assert told == "bank is not one of the parties."


def test_a_contract_cannot_rewrite_what_is_read_before_signing(call: Call, file: Path) -> None:
    file.write_text(CONTRACT.replace("title: Joint", 'title: "\\e[2J\\u202e[red]Joint[/red]"\n#'))
    for command in ("explain", "validate"):
        _, out, _ = call("contract", command, file)
        assert "\\x1b[2J\\u202e[red]Joint[/red]" in out
        assert "\x1b" not in out


# usage and help


@pytest.mark.parametrize(
    "argv",
    [
        ["contract"],
        ["contract", "validate"],
        ["contract", "validate", "a", "b"],
        ["contract", "validate", "a", "--wrong"],
        ["contract", "wrong"],
        ["wrong"],
        ["--wrong"],
        ["ledger", "verify", "--head"],
        ["init"],
        ["init", "escrow"],
        ["serve"],
        ["serve", "--home", "escrow", "--port", "70000"],
        ["serve", "--home", "escrow", "--runs", "0"],
        ["party"],
        ["party", "admit", "north", "--home", "escrow"],
        ["run", "abort", "--home", "escrow"],
        ["backup", "--home", "escrow"],
        ["restore", "archive"],
    ],
)
def test_wrong_usage_is_exit_4_with_one_envelope(call: Call, ask: Ask, argv: list[str]) -> None:
    refusal(call, *argv, exit_code=4, code="usage")
    assert ask(*argv)["data"]["hint"].rstrip("`.").endswith("--help")


def test_help_teaches(call: Call) -> None:
    assert call() == call("--help")
    nouns = {
        "party": ("list", "admit", "reject", "revoke"),
        "contract": ("validate", "explain", "list", "show"),
        "run": ("list", "show", "abort"),
        "ledger": ("verify", "export"),
        "certificate": ("show", "rotate", "drop-old"),
    }
    pages = [[], *([noun] for noun in NOUNS), *([noun, verb] for noun, verbs in nouns.items() for verb in verbs)]
    for argv in pages:
        code, out, err = call(*argv, "--help")
        assert (code, err) == (0, "")
        assert "Example: escrow " in out
        assert "Exit codes: 0 ok · 1 refused or failed · 2 connection" in out
        assert "--format json" in out


def test_help_is_filled_to_the_width_of_the_screen(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    found = pages(call)
    assert {("demo",), ("simulate",), ("image", "build"), *((noun,) for noun in NOUNS)} < set(found)
    assert {argv: early for argv, page in found.items() if (early := broken_early(page))} == {}


def test_help_shows_brackets_as_they_are_written(call: Call) -> None:
    assert "(pip install 'model-escrow[simulation]')" in call("simulate", "--help")[1]


def test_doctors_help_names_what_it_checks(call: Call, ask: Ask, world: Path) -> None:
    checks = [each["name"] for each in ask("doctor", "--home", world / "escrow")["data"]["checks"]]
    assert len(checks) >= 15
    text = call("doctor", "--help")[1].partition("╭")[0]  # without the options
    assert [name for name in checks if not re.search(rf"\b{name}\b", text)] == []


def test_help_lists_every_noun_with_its_purpose(call: Call) -> None:
    _, out, _ = call("--help")
    for noun in NOUNS:
        assert noun in out
    assert "Not installed" not in out


def test_a_command_whose_package_is_missing_says_what_to_install(
    call: Call, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("play", "nowhere.to.be.found:play", PLUGGED_IN)
    monkeypatch.setattr("escrow.cli.entry_points", lambda group: [point] if group == PLUGGED_IN else [])
    _, out, _ = call("--help")
    assert re.search(r"play +Not installed\.", out)
    assert refusal(call, "play", "--world", "x", exit_code=4, code="extra-missing").startswith("This needs nowhere")
    assert "pip install" in ask("play")["data"]["hint"]


def test_a_bug_is_told_as_one(call: Call, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call("contract", "validate", file)  # imports what is broken next
    monkeypatch.setattr("escrow.cli.contract.read_document", lambda _: 1 / 0)
    told = refusal(call, "contract", "validate", file, exit_code=5, code="bug")
    assert told == "The program failed in a way nobody foresaw (ZeroDivisionError)."


def test_the_installed_program_keeps_stdout_for_its_envelope(file: Path, tmp_path: Path) -> None:
    good = subprocess.run([ESCROW, "--format", "json", "contract", "explain", file], capture_output=True, check=False)
    assert (good.returncode, good.stderr) == (0, b"")
    assert json.loads(good.stdout)["status"] == "ok"
    bad = subprocess.run([ESCROW, "contract", "explain", tmp_path, "--format=json"], capture_output=True, check=False)
    assert (bad.returncode, bad.stderr) == (4, b"")
    assert json.loads(bad.stdout)["data"]["code"] == "file-unreadable"


# ledger verify


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a demo leaves: an escrow, and two banks of which each remembers a head."""
    directory = tmp_path_factory.mktemp("kept") / "world"
    directory.mkdir()
    schema = Schema.model_validate(
        {
            "columns": {"time": "t", "label": "y", "group": "card", "amount": "eur", "terminal": "terminal"},
            "split": {"train-from": "2018-04-01", "train-days": 28, "test-days": 28},
        }
    )
    consortium = Consortium.create(directory, schema)
    for name in ("north", "corner"):
        consortium.join(name)
        (directory / "banks" / name / "head.note").write_text(consortium.core.head())
    consortium.core.close()
    return directory


def test_a_whole_ledger_is_proven_step_by_step(call: Call, ask: Ask, world: Path) -> None:
    code, out, err = call("ledger", "verify", world)
    assert code == 0
    assert [line.partition(".")[0] for line in err.splitlines()] == ["1", "2", "3", "4"]
    assert "is intact" in out
    assert "2 remembered heads" in out
    data = ask("ledger", "verify", world)["data"]
    assert [step["step"] for step in data["steps"]] == [1, 2, 3, 4]
    assert len(data["heads"]) == 2


def test_without_a_head_it_says_what_was_not_proven(call: Call, world: Path) -> None:
    _, out, _ = call("ledger", "verify", world / "escrow")
    assert "No remembered head was compared" in out
    _, out, _ = call("ledger", "verify", world / "escrow", "--head", world / "banks" / "north" / "head.note")
    assert "1 remembered heads" in out


def test_a_shortened_ledger_is_refused(call: Call, ask: Ask, world: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(world, copy, symlinks=True)
    database = sqlite3.connect(copy / "escrow" / "ledger.db")
    with database:
        database.execute("DELETE FROM entries WHERE position = 1")
    database.close()
    code, out, err = call("ledger", "verify", copy)
    assert (code, out) == (1, "")
    assert "[ledger-tampered]" in err
    assert ask("ledger", "verify", copy)["data"]["code"] == "ledger-tampered"


def test_a_directory_without_escrow_and_a_missing_head(call: Call, world: Path, tmp_path: Path) -> None:
    refusal(call, "ledger", "verify", tmp_path, exit_code=4, code="escrow-missing")
    refusal(call, "ledger", "verify", tmp_path / "no", exit_code=4, code="escrow-missing")
    refusal(call, "ledger", "verify", world, "--head", tmp_path / "no", exit_code=4, code="file-unreadable")
