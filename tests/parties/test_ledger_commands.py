"""Verifying the ledger by command: one that was rolled back, forked or rewritten is refused, and the evidence kept."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts import ledgerfile
from contracts.canonical import digest
from escrow.core import Core, clock
from escrow.runtime.process import ProcessRuntime, memory_root
from escrow.server import Server
from parties.identity import pinned
from parties.witness import Witness
from scenarios import tiny
from scenarios.consortium import Consortium

Call = Callable[..., tuple[int, str, str]]
Ask = Callable[..., dict[str, Any]]
Refuses = Callable[..., str]


def home_of(consortium: Consortium, name: str) -> tuple[str, Path]:
    return ("--home", consortium.banks[name].home)


def evidence(consortium: Consortium, name: str) -> list[Path]:
    return sorted((consortium.banks[name].home / "evidence").glob("*.json"))


def exported(consortium: Consortium, path: Path, *, note: str | None = None) -> Path:
    with path.open("wb") as file:
        ledger = consortium.core.ledger
        ledgerfile.write(file, ledger.leaves(0, ledger.size()), note or consortium.core.head())
    return path


def put_back(consortium: Consortium, copy: Path) -> None:
    """The operator stops the escrow, puts an older copy of its directory in its place, and starts it again."""
    assert consortium.server
    home, ports = consortium.core.directory, consortium.server.ports
    consortium.close()
    shutil.rmtree(home)
    shutil.copytree(copy, home)
    consortium.core = Core.open(home, ProcessRuntime(memory_root(home)), now=clock)
    consortium.server = Server.start(consortium.core, ports)


def copied(consortium: Consortium, to: Path) -> Path:
    """A copy of the escrow's directory, taken while it does not serve."""
    consortium.reopen()
    shutil.copytree(consortium.core.directory, to)
    return to


def test_the_whole_ledger_is_verified_in_numbered_steps(call: Call, ask: Ask, town: Consortium) -> None:
    home = home_of(town, "north")
    code, out, err = call("ledger", "verify", *home)
    assert (code, "is intact" in out) == (0, True)
    assert [line.partition(".")[0] for line in err.splitlines()] == ["1", "2", "3", "4"]
    assert "No other party's head was compared" in out
    tiny.proposed(town, title="one more")
    found = ask("ledger", "verify", *home)["data"]
    assert found["size"] == town.core.ledger.size()
    assert [step["step"] for step in found["steps"]] == [1, 2, 3, 4, 5]  # the copy from before has a head of its own


def test_what_is_kept_at_home_is_not_believed(ask: Ask, town: Consortium) -> None:
    home = home_of(town, "north")
    ask("ledger", "verify", *home)
    kept = town.banks["north"].home / "ledger.jsonl"
    whole = kept.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole.replace(b"north", b"nobody", 1), b"", b"{}\n"):
        kept.write_bytes(damaged)
        assert ask("ledger", "verify", *home)["data"]["size"] == town.core.ledger.size()
        assert kept.read_bytes() == whole
    assert not evidence(town, "north")


def test_a_ledger_that_does_not_continue_the_copy_at_home_is_refused_and_both_are_kept(
    *, ask: Ask, refuses: Refuses, founded: Callable[..., Consortium], tmp_path: Path
) -> None:
    """Also where the head that the bank remembered is gone: the escrow signed the copy's."""
    consortium = founded("north", "harbour")
    home, folder = home_of(consortium, "north"), consortium.banks["north"].home
    copy = copied(consortium, tmp_path / "copy")
    tiny.proposed(consortium)
    ask("ledger", "verify", *home)
    kept = (folder / "ledger.jsonl").read_bytes()
    put_back(consortium, copy)
    (folder / "head.note").unlink()
    told = refuses("ledger", "verify", *home, exit_code=1, code="ledger-tampered")
    assert "it was rolled back" in told
    assert (folder / "ledger.jsonl").read_bytes() == kept
    [path] = evidence(consortium, "north")
    assert json.loads(path.read_text())["kept"] == json.loads(kept.splitlines()[0])["head"]
    assert path.with_suffix(".jsonl").exists()


def test_a_head_is_a_note_that_others_can_compare(call: Call, ask: Ask, town: Consortium, tmp_path: Path) -> None:
    note = tmp_path / "north.note"
    code, out, _ = call("ledger", "head", "--out", note, *home_of(town, "north"))
    assert (code, out) == (0, note.read_text())
    assert [line.split(" ")[1] for line in out.splitlines()[-2:]] == [town.core.origin, "north"]
    steps = ask("ledger", "verify", "--head", note, *home_of(town, "harbour"))["data"]["steps"]
    assert "cosigned by north" in steps[-1]["passed"]


def test_a_note_that_the_pinned_escrow_did_not_sign_proves_nothing(
    refuses: Refuses, call: Call, town: Consortium, tmp_path: Path
) -> None:
    note, home = tmp_path / "north.note", home_of(town, "harbour")
    call("ledger", "head", "--out", note, *home_of(town, "north"))
    text = note.read_text()
    note.write_text(text.replace("\n", "\n1", 1))
    assert "north.note" in refuses("ledger", "verify", "--head", note, *home, exit_code=1, code="signature-invalid")
    note.write_text("hello")
    refuses("ledger", "verify", "--head", note, *home, exit_code=1, code="checkpoint-invalid")
    refuses("ledger", "verify", "--head", tmp_path / "none", *home, exit_code=4, code="file-unreadable")
    forged = text[:-8] + ("AAAA" if text[-8:-4] != "AAAA" else "BBBB") + text[-4:]
    note.write_text(forged)
    refuses("ledger", "verify", "--head", note, *home, exit_code=1, code="signature-invalid")


def test_an_exported_ledger_is_verified_offline(
    *, ask: Ask, refuses: Refuses, founded: Callable[..., Consortium], tmp_path: Path
) -> None:
    consortium = founded("north", "harbour")
    tiny.proposed(consortium)
    home, older = home_of(consortium, "north"), exported(consortium, tmp_path / "older.jsonl")
    consortium.banks["north"].head()
    assert consortium.server
    size = consortium.core.ledger.size()
    consortium.server.stop(grace_seconds=0)
    assert ask("ledger", "verify", older, *home)["data"]["size"] == size

    lines = older.read_bytes().splitlines(keepends=True)
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(b"".join(lines)[:-10])
    refuses("ledger", "verify", cut, *home, exit_code=1, code="export-invalid")
    refuses("ledger", "verify", tmp_path / "none", *home, exit_code=4, code="file-unreadable")
    for changed in (lines[:-1], [lines[0], *lines[2:]], [*lines[:3], lines[4], lines[3], *lines[5:]]):
        cut.write_bytes(b"".join(changed))
        refuses("ledger", "verify", cut, *home, exit_code=1, code="ledger-tampered")
    assert len(evidence(consortium, "north")) == 3
    for path in evidence(consortium, "north"):
        found, kept = json.loads(path.read_text()), path.with_suffix(".jsonl")
        assert found["public-key"] == pinned(consortium.banks["north"].home).public_key
        assert found["entries"] == digest(kept.read_bytes())
    assert cut.read_bytes() in {path.with_suffix(".jsonl").read_bytes() for path in evidence(consortium, "north")}


def test_an_export_older_than_what_is_known_is_not_enough(
    *, refuses: Refuses, founded: Callable[..., Consortium], tmp_path: Path
) -> None:
    consortium = founded("north", "harbour")
    older = exported(consortium, tmp_path / "older.jsonl")
    tiny.proposed(consortium)
    told = refuses("ledger", "verify", older, *home_of(consortium, "north"), exit_code=1, code="export-invalid")
    assert "it cannot be compared" in told


@pytest.mark.parametrize("command", [("ledger", "verify"), ("ledger", "head"), ("contract", "list")])
def test_a_ledger_that_was_rolled_back_is_refused_by_every_command(
    *, refuses: Refuses, founded: Callable[..., Consortium], tmp_path: Path, command: tuple[str, ...]
) -> None:
    consortium = founded("north", "harbour")
    copy = copied(consortium, tmp_path / "copy")
    tiny.proposed(consortium)
    seen = Witness(consortium.banks["north"].home).seen()
    put_back(consortium, copy)
    assert consortium.core.ledger.size() < seen
    refuses(*command, *home_of(consortium, "north"), exit_code=1, code="ledger-tampered")
    assert evidence(consortium, "north")
    assert Witness(consortium.banks["north"].home).seen() == seen


def test_two_ledgers_shown_to_two_banks_are_found_when_heads_are_compared(
    *, call: Call, refuses: Refuses, founded: Callable[..., Consortium], tmp_path: Path
) -> None:
    consortium = founded("north", "harbour")
    north, harbour = home_of(consortium, "north"), home_of(consortium, "harbour")
    copy = copied(consortium, tmp_path / "copy")
    one, other = (consortium.deposits[name][0].commitment for name in ("north", "harbour"))
    assert call("dataset", "revoke", "--yes", one, *north)[0] == 0
    assert call("ledger", "head", "--out", tmp_path / "north.note", *north)[0] == 0
    put_back(consortium, copy)
    compare = ("ledger", "verify", "--head", tmp_path / "north.note", *harbour)
    assert "it was rolled back" in refuses(*compare, exit_code=1, code="ledger-tampered")
    assert call("dataset", "revoke", "--yes", other, *harbour)[0] == 0
    assert call("ledger", "verify", *harbour)[0] == 0  # by itself either ledger is sound
    assert "forked or rewritten" in refuses(*compare, exit_code=1, code="ledger-tampered")
    kept = evidence(consortium, "harbour")
    assert len(kept) == 2
    for path in kept:
        assert list(json.loads(path.read_text())["heads"].values()) == [(tmp_path / "north.note").read_text()]
