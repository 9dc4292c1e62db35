"""The directory of an escrow: where its data lie, and who may read of it."""

import json
import stat
from pathlib import Path
from typing import Any

from escrow import home

DATABASE, BLOBS = "postgresql+psycopg://escrow:secret@db.example/ledger", "s3://bucket/blobs"


def test_data_lie_in_the_directory_unless_said_otherwise(tmp_path: Path) -> None:
    home.make(tmp_path / "plain", "escrow.example/ledger")
    home.make(tmp_path / "apart", "escrow.example/ledger", DATABASE, BLOBS)
    assert home.database_url(tmp_path / "plain") == f"sqlite:///{tmp_path}/plain/ledger.db"
    assert home.blobs_url(tmp_path / "plain") is None
    assert (home.database_url(tmp_path / "apart"), home.blobs_url(tmp_path / "apart")) == (DATABASE, BLOBS)
    signer, origin = home.open_key(tmp_path / "apart")
    assert home.about(tmp_path / "apart") == (origin, signer.public)


def test_only_the_owner_reads_what_may_hold_a_password(tmp_path: Path) -> None:
    folder = tmp_path / "escrow"
    folder.mkdir()
    loose = folder / "escrow.json.partial"  # left by a start that was cut short, readable by all
    loose.touch(mode=0o644)
    home.make(folder, "escrow.example/ledger", DATABASE)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        "escrow.json": 0o600,
        "key.pem": 0o600,
    }


def test_a_directory_that_says_too_little_holds_no_escrow(tmp_path: Path, refused: Any) -> None:
    for text in ("", "[]", "{}", json.dumps({"origin": "escrow.example/ledger"})):
        (tmp_path / "escrow.json").write_text(text)
        for ask in (home.about, home.database_url, home.blobs_url, home.open_key):
            with refused("escrow-missing"):
                ask(tmp_path)


def test_a_second_escrow_is_not_made_over_the_first(tmp_path: Path, refused: Any) -> None:
    home.make(tmp_path / "escrow", "escrow.example/ledger")
    with refused("escrow-exists"):
        home.make(tmp_path / "escrow", "escrow.example/ledger")
