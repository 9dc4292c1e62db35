"""The demo over the network when something goes wrong: it ends with a sentence, and nothing is left running.

What it shows when all goes well stands in `test_demo.py`, for every way in which banks reach an escrow.
"""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from contracts.errors import EscrowError
from escrow.runtime.process import memory_root
from scenarios import mainjob, worlds
from scenarios.programs import Processes, Terminal
from scenarios.served import Served
from scenarios.worlds import World

CHOICE = mainjob.chosen("boosted", None, 1)


@pytest.fixture(scope="module")
def two_banks() -> World:
    world = worlds.build(mainjob.RELEASED_WORLD, seed=1, size="small")
    return replace(world, tables={name: world.tables[name] for name in world.banks[:2]})


def running(directory: Path) -> list[str]:
    """The processes that have anything to do with a demo's directory, or with the jobs of its escrow."""
    found, names = [], [os.fsencode(directory), os.fsencode(memory_root(directory / "escrow"))]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            about = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended meanwhile, or is somebody else's
        if any(name in about for name in names):
            found.append(about.split(b"\0")[0].decode())
    return found


def test_an_escrow_that_is_killed_ends_the_demo_and_leaves_nothing_running(tmp_path: Path, two_banks: World) -> None:
    at_the_kill: list[str] = []

    def tell(stage: str, words: str) -> None:
        if (stage, words) == ("train", "started"):
            at_the_kill.extend(running(tmp_path))
            os.kill(json.loads((tmp_path / "escrow" / "serving.json").read_text())["pid"], signal.SIGKILL)

    with pytest.raises(EscrowError) as refused:
        mainjob.run(CHOICE, tmp_path, [two_banks], tell=tell, wire="network")
    assert refused.value.code == "escrow-unreachable"
    assert refused.value.message == "The escrow was ended by SIGKILL before the demo was over."
    assert "logs" in refused.value.hint
    assert len(at_the_kill) >= 2  # the escrow and a bank that watches
    assert running(tmp_path) == []
    assert not memory_root(tmp_path / "escrow").exists()


def test_sigterm_ends_the_demo_and_leaves_nothing_running(tmp_path: Path, two_banks: World) -> None:
    def tell(stage: str, words: str) -> None:
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        mainjob.run(CHOICE, tmp_path, [two_banks], tell=tell, wire="network")
    assert running(tmp_path) == []
    assert not memory_root(tmp_path / "escrow").exists()


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
    escrow = Served(tmp_path / "escrow", tmp_path / "seen", tmp_path / "escrow.log", lambda: None)
    try:
        with pytest.raises(EscrowError) as refused:
            escrow.address()
    finally:
        escrow.stop()
    assert refused.value.code == "escrow-missing"
    assert running(tmp_path) == []
