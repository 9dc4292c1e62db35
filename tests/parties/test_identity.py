"""A bank's keys: made at home, once, readable by their owner alone; and the escrow it has pinned."""

import json
import stat
from pathlib import Path
from typing import Any

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


def test_missing_and_broken_homes_are_told_apart(tmp_path: Path, refused: Any) -> None:
    with refused("home-missing"):
        Identity.open(tmp_path / "nothing")
    home = tmp_path / "north"
    Identity.create(home, "north")
    (home / "signing.pem").write_bytes(b"not a key")
    with refused("key-invalid"):
        Identity.open(home)
    (home / "signing.pem").unlink()
    with refused("home-missing"):
        Identity.open(home)


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
