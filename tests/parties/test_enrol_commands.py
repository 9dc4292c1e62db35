"""Keys, admission, certificates and what a bank knows of itself, as its people meet them."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import EscrowError
from parties.identity import Identity
from scenarios.consortium import Consortium

PARTY = Path(sys.executable).with_name("party")
Call = Callable[..., tuple[int, str, str]]
Ask = Callable[..., dict[str, Any]]
Refuses = Callable[..., str]


def door(consortium: Consortium) -> tuple[str, str, str]:
    """The words that enrol at an escrow."""
    assert consortium.server
    port = consortium.server.ports.enrolment
    return (f"127.0.0.1:{port}", "--fingerprint", consortium.core.signer.key_id)


def home_of(consortium: Consortium, name: str) -> tuple[str, Path]:
    return ("--home", consortium.banks[name].home)


def test_keys_are_made_once(call: Call, refuses: Refuses, tmp_path: Path) -> None:
    home = ("--home", tmp_path / "north")
    assert "cannot be a party's name" in refuses("init", "North Bank", *home, exit_code=1, code="document-invalid")
    assert not (tmp_path / "north").exists()
    assert call("init", "north", *home)[0] == 0
    before = (tmp_path / "north" / "age.key").read_bytes()
    refuses("init", "north", *home, exit_code=4, code="home-exists")
    assert (tmp_path / "north" / "age.key").read_bytes() == before
    refuses("init", "north", "--role", "king", *home, exit_code=4, code="usage")
    assert refuses("init", "north", exit_code=4, code="home-missing") == "Nothing says which party this is."
    refuses("init", "north", "--home", exit_code=4, code="usage")


def test_locked_keys_need_their_passphrase(
    *, call: Call, refuses: Refuses, types: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = ("--home", tmp_path / "north")
    refuses("init", "north", "--passphrase", *home, exit_code=4, code="passphrase-missing")
    (tmp_path / "right").write_text("correct horse\n")
    (tmp_path / "wrong").write_text("battery staple\n")
    monkeypatch.setenv("PARTY_PASSPHRASE_FILE", str(tmp_path / "right"))
    assert call("init", "north", "--passphrase", *home)[0] == 0
    monkeypatch.setenv("PARTY_PASSPHRASE_FILE", str(tmp_path / "wrong"))
    refuses("status", *home, exit_code=1, code="key-invalid")
    monkeypatch.setenv("PARTY_PASSPHRASE_FILE", str(tmp_path / "none"))
    refuses("status", *home, exit_code=4, code="file-unreadable")
    monkeypatch.delenv("PARTY_PASSPHRASE_FILE")
    refuses("status", *home, exit_code=4, code="passphrase-missing")


def test_a_passphrase_is_typed_twice_and_not_shown(tmp_path: Path) -> None:
    terminal, other_end = os.openpty()
    argv: list[str | Path] = [PARTY, "init", "north", "--passphrase", "--home", tmp_path / "north"]
    with subprocess.Popen(
        argv, stdin=other_end, stderr=other_end, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        os.close(other_end)
        shown = b""
        for question in (b"Passphrase: ", b"Once more: "):
            while question not in shown:
                shown += os.read(terminal, 1000)
            os.write(terminal, b"correct horse\n")
        assert process.wait() == 0
    os.close(terminal)
    assert b"horse" not in shown
    with pytest.raises(EscrowError, match="locked with a passphrase"):
        Identity.open(tmp_path / "north")
    assert Identity.open(tmp_path / "north", lambda: "correct horse").name == "north"


def test_keys_that_others_may_read_are_not_used(call: Call, refuses: Refuses, tmp_path: Path) -> None:
    home = ("--home", tmp_path / "north")
    call("init", "north", *home)
    (tmp_path / "north" / "age.key").chmod(0o644)
    refuses("status", *home, exit_code=4, code="key-exposed")


def test_another_escrow_than_the_one_that_was_compared_is_not_believed(
    call: Call, refuses: Refuses, town: Consortium, tmp_path: Path
) -> None:
    home = ("--home", tmp_path / "valley")
    call("init", "valley", *home)
    where, option, pin = door(town)
    assert refuses("enrol", *home, exit_code=4, code="usage") == "This party knows no escrow yet."
    refuses("enrol", where, option, "sha256:12", *home, exit_code=4, code="usage")
    refuses("enrol", where, option, f"ed25519:{'0' * 64}", *home, exit_code=2, code="escrow-pinned")
    refuses("enrol", "nowhere", option, pin, *home, exit_code=4, code="usage")
    refuses("enrol", "127.0.0.1:1", option, pin, *home, exit_code=2, code="escrow-unreachable")
    assert not (tmp_path / "valley" / "escrow.json").exists()


def test_a_home_that_does_not_know_where_its_escrow_is_is_told_to_name_it(
    *, call: Call, refuses: Refuses, town: Consortium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = ("--home", tmp_path / "shore")
    call("init", "shore", *home)
    call("enrol", *door(town), *home)
    (tmp_path / "shore" / "connection.json").unlink()
    code, _, err = call("enrol", *home)
    assert (code, "party enrol HOST:PORT" in err) == (4, True)
    where, *_ = door(town)
    assert call("enrol", where, *home)[0] == 0
    for path in ("connection.json", "escrow.json"):
        (tmp_path / "shore" / path).unlink()

    def killed(*_: object) -> None:
        assert (tmp_path / "shore" / "connection.json").exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("parties.enrol.pin", killed)
        refuses("enrol", *door(town), *home, exit_code=1, code="interrupted")
    assert call("enrol", *door(town), *home)[0] == 0


def test_waiting_ends_with_the_admission_or_with_patience(
    *, call: Call, ask: Ask, refuses: Refuses, town: Consortium, tmp_path: Path
) -> None:
    home = ("--home", tmp_path / "coast")
    fingerprint = ask("init", "coast", *home)["data"]["fingerprint"]
    wait = ("--wait", "--wait-at-most")
    told = refuses("enrol", *door(town), *wait, 0.6, *home, exit_code=3, code="admission-pending")
    assert told == "The operator has not admitted coast within 1 s."
    refuses("contract", "list", *home, exit_code=4, code="certificate-missing")
    assert town.server
    operator = threading.Timer(0.3, town.server.requests.admit, ("coast", fingerprint))
    operator.start()
    found = ask("enrol", *wait, 30, *home)
    operator.join()
    assert (found["data"]["admitted"], found["data"]["until"] > town.core.now()) == (True, True)
    assert ask("contract", "list", *home)["data"] == {"contracts": []}


def test_a_name_that_belongs_to_another_key_is_refused(
    call: Call, refuses: Refuses, town: Consortium, tmp_path: Path
) -> None:
    home = ("--home", tmp_path / "impostor")
    call("init", "north", *home)
    refuses("enrol", *door(town), *home, exit_code=1, code="party-exists")


def test_status_shows_what_it_can(call: Call, ask: Ask, founded: Callable[..., Consortium], tmp_path: Path) -> None:
    fresh = ("--home", tmp_path / "fresh")
    call("init", "fresh", *fresh)
    assert "none yet: party enrol" in call("status", *fresh)[1]
    consortium = founded("north", "harbour")
    north = home_of(consortium, "north")
    found = ask("status", *north)["data"]
    assert (found["reached"], found["deposits"], found["waiting"]) == (True, 2, [])
    assert consortium.server
    consortium.server.stop(grace_seconds=0)
    offline = ask("status", *north)["data"]
    same = ("name", "fingerprint", "escrow", "certificate", "head")
    assert [offline[key] for key in same] == [found[key] for key in same]
    assert offline["not-asked"]["code"] == "escrow-unreachable"


def test_a_revoked_tls_key_connects_no_more_and_its_party_is_not_locked_out(
    *, call: Call, ask: Ask, refuses: Refuses, founded: Callable[..., Consortium], tmp_path: Path
) -> None:
    consortium = founded("north", "harbour")
    home = home_of(consortium, "north")
    key = ask("certificate", "show", *home)["data"]["key"]
    stolen = tmp_path / "stolen"
    shutil.copytree(consortium.banks["north"].home, stolen)
    renewed = ask("certificate", "renew", *home)["data"]
    assert (renewed["before"], renewed["key"] != key) == (key, True)
    assert call("dataset", "list", "--home", stolen)[0] == 0
    entry = ask("certificate", "revoke", key, *home)["data"]["entry"]
    assert ask("certificate", "show", *home)["data"]["key"] == renewed["key"]
    refuses("dataset", "list", "--home", stolen, exit_code=2, code="certificate-revoked")

    found = ask("certificate", "revoke", *home)["data"]
    assert (found["revoked"], found["key"] != renewed["key"]) == (renewed["key"], True)
    assert call("dataset", "list", *home)[0] == 0
    refuses("certificate", "revoke", "abc", *home, exit_code=4, code="usage")
    assert ask("certificate", "revoke", key, *home)["data"]["entry"] == entry


def test_an_auditor_reads_the_ledger_and_nothing_else(
    *, call: Call, ask: Ask, refuses: Refuses, town: Consortium, tmp_path: Path
) -> None:
    home = ("--home", tmp_path / "watchdog")
    fingerprint = ask("init", "watchdog", "--role", "auditor", *home)["data"]["fingerprint"]
    call("enrol", *door(town), *home)
    assert town.server
    town.server.requests.admit("watchdog", fingerprint)
    assert "party ledger verify" in call("enrol", *home)[1]
    assert ask("status", *home)["data"]["reached"] is True
    assert ask("ledger", "verify", *home)["data"]["size"] == town.core.ledger.size()
    refuses("contract", "list", *home, exit_code=1, code="not-permitted")
    refuses("dataset", "list", *home, exit_code=1, code="not-permitted")
