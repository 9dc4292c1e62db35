"""The demo over the network when something goes wrong: it ends with a sentence, and nothing is left running.

What it shows when all goes well stands in `test_demo.py`, for every way in which banks reach an escrow.
"""

import json
import os
import signal
from pathlib import Path

import pytest

from contracts.errors import EscrowError
from escrow.sealing import UNSEALED
from scenarios import mainjob
from scenarios.programs import Processes, Terminal
from scenarios.served import Served
from tests.scenarios.contrasts import jobs_left, running, story

CHOICE = mainjob.chosen(None, None, 1, placement="party")


def test_an_escrow_that_is_killed_ends_the_demo_and_leaves_nothing_running(tmp_path: Path) -> None:
    at_the_kill: list[str] = []

    def tell(stage: str, words: str) -> None:
        if (stage, words) == ("train", "started"):
            at_the_kill.extend(running(tmp_path))
            os.kill(json.loads((tmp_path / "escrow" / "serving.json").read_text())["pid"], signal.SIGKILL)

    with pytest.raises(EscrowError) as refused:
        mainjob.run(CHOICE, tmp_path, story()[:1], tell=tell, wire="network")
    assert refused.value.code == "escrow-unreachable"
    assert refused.value.message == "The escrow was ended by SIGKILL before the demo was over."
    assert "logs" in refused.value.hint
    assert len(at_the_kill) >= 4  # the escrow, both nodes and a bank that watches
    assert running(tmp_path) == []
    assert jobs_left(tmp_path) == []


def test_sigterm_ends_the_demo_and_leaves_nothing_running(tmp_path: Path) -> None:
    def tell(stage: str, words: str) -> None:
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        mainjob.run(CHOICE, tmp_path, story()[:1], tell=tell, wire="network")
    assert running(tmp_path) == []
    assert jobs_left(tmp_path) == []


def bank(folder: Path, processes: Processes) -> Terminal:
    return Terminal("north", "party", folder / "north", folder / "north.log", processes)


def test_what_fails_at_a_bank_is_told_in_that_banks_words(tmp_path: Path) -> None:
    terminal = bank(tmp_path, Processes())
    with pytest.raises(EscrowError) as refused:
        terminal.run("dataset", "add", "nowhere.parquet", "--schema", tmp_path / "nowhere.yaml")
    assert refused.value.code == "file-unreadable"
    assert refused.value.message.startswith("north: ")
    assert "nowhere.yaml" in refused.value.message
    assert "$ party dataset add nowhere.parquet" in terminal.log.read_text()


def test_commands_end_with_the_scenario_and_none_begins_afterwards(tmp_path: Path) -> None:
    processes = Processes()
    with processes.started(["/bin/cat", "/dev/zero"], tmp_path / "log", {}) as process:
        processes.end()
        assert process.wait() == -signal.SIGKILL
    with pytest.raises(EscrowError) as refused:
        bank(tmp_path, processes).run("status")
    assert refused.value.code == "interrupted"


def test_an_escrow_that_cannot_serve_says_why(tmp_path: Path) -> None:
    (tmp_path / "escrow").mkdir()
    escrow = Served(tmp_path / "escrow", tmp_path / "seen", UNSEALED, tmp_path / "escrow.log", lambda: None)
    try:
        with pytest.raises(EscrowError) as refused:
            escrow.address()
    finally:
        escrow.stop()
    assert refused.value.code == "escrow-missing"
    assert running(tmp_path) == []
