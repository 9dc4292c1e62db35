"""A bank's keys: made at home, once, readable by their owner alone; and the escrow it has pinned."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from contracts.signing import verify
from contracts.statements import EnrolmentRequest
from parties.identity import Identity, Pinned, pin, pinned

LEDGER = "escrow.example/ledger"


def test_keys_are_made_once_and_opened_again(tmp_path: Path, refused: Any) -> None:
    home = tmp_path / "north"
    made = Identity.create(home, "north")
    opened = Identity.open(home)
    assert (opened.name, opened.signer.public, str(opened.age)) == ("north", made.signer.public, str(made.age))
    with refused("home-exists"):
        Identity.create(home, "north")
    assert Identity.open(home).signer.public == made.signer.public


def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    home = tmp_path / "north"
    Identity.create(home, "north")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()} == {0o600}


def test_no_secret_is_shown(tmp_path: Path) -> None:
    made = Identity.create(tmp_path / "north", "north")
    assert str(made.age) not in repr(made)
    assert "AGE-SECRET-KEY" not in repr(made)


def test_a_name_that_no_ledger_takes_is_refused_before_keys_are_made(tmp_path: Path, refused: Any) -> None:
    for name in ("", "North", "north bank", "1st", "n" * 33):
        with refused("document-invalid"):
            Identity.create(tmp_path / "home", name)
    assert not (tmp_path / "home").exists()


def test_a_request_is_signed_and_names_one_ledger(tmp_path: Path) -> None:
    made = Identity.create(tmp_path / "north", "north")
    request = made.request(LEDGER)
    verify(request, made.signer.public)
    asked = EnrolmentRequest.model_validate_json(request.payload)
    assert (asked.ledger, asked.name, asked.role) == (LEDGER, "north", "party")
    assert asked.recipient == str(made.age.to_public())


def test_the_role_is_chosen_once_and_asked_for(tmp_path: Path) -> None:
    Identity.create(tmp_path / "reader", "reader", role="auditor")
    opened = Identity.open(tmp_path / "reader")
    assert opened.role == EnrolmentRequest.model_validate_json(opened.request(LEDGER).payload).role == "auditor"


def test_missing_and_broken_homes_are_told_apart(tmp_path: Path, refused: Any) -> None:
    with refused("home-missing"):
        Identity.open(tmp_path / "nothing")
    home = tmp_path / "north"
    Identity.create(home, "north")
    for name in ("signing.pem", "age.key"):
        kept = (home / name).read_bytes()
        for damaged in (b"not a key", b"\xff" * 40, b"", kept[:-20]):
            (home / name).write_bytes(damaged)
            with refused("key-invalid"):
                Identity.open(home)
        (home / name).unlink()
        with refused("home-missing"):
            Identity.open(home)
        (home / name).touch(mode=0o600)
        (home / name).write_bytes(kept)
    assert Identity.open(home).name == "north"
    (home / "party.json").write_text('{"name":"north","signer":"file:signing.pem"}')
    with refused("home-missing"):
        Identity.open(home)


def test_the_signing_key_of_another_home_is_refused(tmp_path: Path, refused: Any) -> None:
    for name in ("north", "harbour"):
        Identity.create(tmp_path / name, name)
    (tmp_path / "harbour/signing.pem").rename(tmp_path / "north/signing.pem")
    with refused("key-invalid"):
        Identity.open(tmp_path / "north")


@pytest.mark.parametrize("name", ["signing.pem", "age.key"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644, 0o610])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, refused: Any, name: str, mode: int) -> None:
    home = tmp_path / "north"
    Identity.create(home, "north")
    (home / name).chmod(mode)
    with refused("key-exposed"):
        Identity.open(home)
    (home / name).chmod(0o400)
    assert Identity.open(home).name == "north"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("locked") / "north"
    Identity.create(home, "north", "three small words")
    return home


def test_a_passphrase_is_asked_for_once_and_only_if_there_is_one(locked: Path, tmp_path: Path) -> None:
    asked = []

    def ask() -> str:
        asked.append(1)
        return "three small words"

    opened = Identity.open(locked, ask)
    assert (opened.name, len(asked)) == ("north", 1)
    verify(opened.request(LEDGER), opened.signer.public)
    Identity.create(tmp_path / "open", "open")
    Identity.open(tmp_path / "open", ask)
    assert len(asked) == 1


def test_without_the_passphrase_the_keys_are_of_no_use(locked: Path, tmp_path: Path, refused: Any) -> None:
    with refused("passphrase-missing"):
        Identity.open(locked)
    with refused("passphrase-missing"):
        Identity.open(locked, lambda: "")
    with refused("key-invalid"):
        Identity.open(locked, lambda: "three small word")
    for path in locked.iterdir():
        assert b"PRIVATE KEY" not in path.read_bytes()
        assert b"AGE-SECRET-KEY" not in path.read_bytes()
    (locked / "party.json").rename(tmp_path / "party.json")  # who edits the file gains nothing
    about = json.loads((tmp_path / "party.json").read_text())
    (locked / "party.json").write_text(json.dumps({**about, "passphrase": False}))
    with refused("key-invalid"):
        Identity.open(locked)
    (tmp_path / "party.json").rename(locked / "party.json")


def test_a_passphrase_that_cannot_be_read_is_not_called_a_missing_home(locked: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Identity.open(locked, (tmp_path / "passphrase").read_text)


def test_an_empty_passphrase_does_not_leave_keys_unlocked(tmp_path: Path, refused: Any) -> None:
    with refused("passphrase-missing"):
        Identity.create(tmp_path / "north", "north", "")
    assert not (tmp_path / "north").exists()


def test_a_pinned_escrow_is_not_silently_exchanged(tmp_path: Path, refused: Any) -> None:
    home = tmp_path / "north"
    Identity.create(home, "north")
    with refused("home-missing"):
        pinned(home)
    first = Pinned(LEDGER, "ed25519-pub:" + 64 * "a")
    pin(home, first)
    pin(home, first)
    with refused("escrow-pinned"):
        pin(home, Pinned(LEDGER, "ed25519-pub:" + 64 * "b"))
    assert pinned(home) == first
    (home / "escrow.json").write_text(json.dumps({"ledger": LEDGER}))
    with refused("home-missing"):
        pinned(home)
