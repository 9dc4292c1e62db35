"""`python -m scenarios.benchmarks NAME`: one envelope for programs, a table for people, 1 if a target is missed."""

import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from scenarios.benchmarks.__main__ import BENCHMARKS, main
from scenarios.benchmarks.report import Figures, Target

TARGETS = (Target("seconds", "at_most", 0.6), Target("speedup", "at_least", 200))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts figures in the place of those of the benchmark `gate`."""

    def put(**values: float) -> None:
        module: Any = ModuleType("scenarios.benchmarks.gate")

        def run(progress: Callable[[str], None]) -> Figures:
            progress("pair 1 of 5")
            return Figures(values, TARGETS)

        module.run = run
        monkeypatch.setitem(sys.modules, "scenarios.benchmarks.gate", module)

    return put


def ask(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[dict[str, Any], str]:
    code = main([*argv, "--format", "json"])
    out, err = capsys.readouterr()
    envelope = json.loads(out, parse_constant=pytest.fail)
    assert envelope["exit_code"] == code
    return envelope, err


def test_the_envelope_holds_figures_targets_and_the_machine(
    capsys: pytest.CaptureFixture[str], gate: Callable[..., None]
) -> None:
    gate(seconds=0.4, speedup=500.0, max_difference=1e-12)
    envelope, err = ask(capsys, "gate")
    assert (envelope["status"], envelope["exit_code"]) == ("ok", 0)
    data = envelope["data"]
    assert list(data) == ["benchmark", "machine", "figures", "targets"]
    assert data["benchmark"] == "gate"
    assert data["figures"] == {"seconds": 0.4, "speedup": 500.0, "max_difference": 1e-12}
    assert data["targets"] == [
        {"figure": "seconds", "at_most": 0.6, "value": 0.4, "met": True},
        {"figure": "speedup", "at_least": 200, "value": 500.0, "met": True},
    ]
    assert err == "gate: pair 1 of 5\n"


def test_the_machine_is_described_without_its_name_or_paths(
    capsys: pytest.CaptureFixture[str], gate: Callable[..., None]
) -> None:
    gate(seconds=0.4, speedup=500.0)
    machine = ask(capsys, "gate")[0]["data"]["machine"]
    assert set(machine) == {"cpu", "cores", "memory_mib", "python", "platform"}
    assert machine["cores"] >= 1
    assert machine["memory_mib"] > 100
    assert platform.node() not in json.dumps(machine).split('"')
    assert str(Path.cwd()) not in json.dumps(machine)


def test_a_missed_target_ends_with_1_and_status_ok(
    capsys: pytest.CaptureFixture[str], gate: Callable[..., None]
) -> None:
    gate(seconds=0.9, speedup=float("nan"))
    envelope, _ = ask(capsys, "gate")
    assert (envelope["status"], envelope["exit_code"]) == ("ok", 1)
    assert envelope["data"]["figures"] == {"seconds": 0.9, "speedup": None}
    assert [target["met"] for target in envelope["data"]["targets"]] == [False, False]


def test_people_get_a_table(
    capsys: pytest.CaptureFixture[str], gate: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    gate(seconds=0.9, speedup=500.0, max_difference=1e-12)
    assert main(["gate"]) == 1
    out = capsys.readouterr().out
    for words in ("seconds", "0.9", "≤ 0.6", "no", "≥ 200", "yes", "max_difference", "1e-12"):
        assert words in out


def test_the_list_names_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(ask(capsys, "list")[0]["data"]["benchmarks"]) == set(BENCHMARKS)
    assert main(["list"]) == main([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in BENCHMARKS)


@pytest.mark.parametrize("argv", [["nothing"], ["report"], ["../gate"], ["gate", "more"], ["--wrong"]])
def test_wrong_usage_runs_nothing(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    envelope, err = ask(capsys, *argv)
    assert (envelope["exit_code"], envelope["data"]["code"]) == (4, "usage")
    assert not err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "Example: python -m scenarios.benchmarks gate --format json" in out
    assert "Exit codes" in out
