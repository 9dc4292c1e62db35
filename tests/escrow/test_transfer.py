"""A ledger as one file and back: whole and verified, or refused and nothing stored."""

import io
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from support import LEDGER, World

from contracts import ledgerfile
from contracts.entries import read_leaf
from contracts.signing import Ed25519Signer
from escrow.ledger import Ledger
from escrow.transfer import backup, export, restore
from tests import ledgers


@pytest.fixture(scope="module")
def world() -> World:
    return ledgers.busy()


@pytest.fixture(scope="module")
def exported(world: World, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    ledger = Ledger(f"sqlite:///{tmp_path_factory.mktemp('exported') / 'ledger.db'}")
    ledgers.fill(ledger, world)
    file = io.BytesIO()
    export(ledger, file, LEDGER, world.escrow)
    ledger.close()
    return file.getvalue()


def tables(ledger: Ledger) -> list[Any]:
    parties = [*ledgers.banks(3)]
    return [
        list(ledger.leaves()),
        ledger.documents(),
        ledger.checkpoint(LEDGER),
        [(ledger.events(name, 0, 1000), ledger.cases(name), ledger.deposits(name)) for name in parties],
        [ledger.inclusion(index, ledger.size()) for index in range(ledger.size())],
    ]


def test_what_was_exported_is_restored(exported: bytes, world: World, database_url: str, tmp_path: Path) -> None:
    head = restore(database_url, io.BytesIO(exported), LEDGER, world.escrow.public)
    first, second = Ledger(f"sqlite:///{tmp_path / 'first.db'}"), Ledger(database_url)
    ledgers.fill(first, world)
    assert tables(first) == tables(second)
    assert head == second.checkpoint(LEDGER)
    for ledger in (first, second):
        again = io.BytesIO()
        export(ledger, again, LEDGER, world.escrow)
        assert again.getvalue() == exported
        ledger.close()


def test_a_backup_while_serving_is_whole(database_url: str, tmp_path: Path, world: World) -> None:
    ledger = Ledger(database_url)
    ledger.append(*read_leaf(world.leaves[0]))
    writer = threading.Thread(target=ledgers.fill, args=(ledger, world))
    writer.start()
    path, sizes = tmp_path / "ledger.backup", []
    while writer.is_alive() or not sizes:
        backup(ledger, path, LEDGER, world.escrow)
        with path.open("rb") as file:
            head, replayed = ledgerfile.verified(file, LEDGER, world.escrow.public)
        assert replayed.tree.size == head.size
        sizes.append(head.size)
    writer.join()
    assert sizes == sorted(sizes)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir() if "backup" in each.name] == ["ledger.backup"]
    ledger.close()


def test_a_backup_that_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path, world: World, refused: Any) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    (tmp_path / "taken").mkdir()
    for path in (tmp_path / "nowhere" / "ledger.backup", tmp_path / "taken"):
        with refused("file-unwritable"):
            backup(ledger, path, LEDGER, world.escrow)
    assert not list(tmp_path.glob("*.partial"))
    ledger.close()


def test_a_file_that_is_not_the_whole_ledger_is_not_restored(
    exported: bytes, world: World, database_url: str, refused: Any
) -> None:
    lines = exported.splitlines(keepends=True)
    other = Ed25519Signer.from_seed(bytes(32))
    cases = {
        "ledger-tampered": [lines[:-1], [*lines[:5], *lines[6:]], [*lines, lines[-1]], lines[:1]],
        "export-invalid": [[*lines[:-1], lines[-1][:-1]], lines[1:], [], [b"\n", *lines]],
    }
    for code, files in cases.items():
        for each in files:
            with refused(code):
                restore(database_url, io.BytesIO(b"".join(each)), LEDGER, world.escrow.public)
    with refused("signature-invalid"):
        restore(database_url, io.BytesIO(exported), LEDGER, other.public)
    with refused("signature-invalid"):
        restore(database_url, io.BytesIO(exported), "another.example/ledger", world.escrow.public)
    ledger = Ledger(database_url)
    assert (ledger.size(), ledger.documents()) == (0, {})
    ledger.close()


def test_a_database_that_holds_a_ledger_is_not_restored_over(
    exported: bytes, world: World, database_url: str, refused: Any
) -> None:
    restore(database_url, io.BytesIO(exported), LEDGER, world.escrow.public)
    with refused("database-in-use"):
        restore(database_url, io.BytesIO(exported), LEDGER, world.escrow.public)
