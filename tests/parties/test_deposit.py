"""A deposit: committed, encrypted to a key that only the bank holds, and opened by nobody else."""

from pathlib import Path
from typing import Any

import pyrage
import pytest
from pyrage import x25519

from contracts.canonical import commitment, decode_base64, digest, parse
from models.table import read_prepared
from parties.deposit import Deposit, prepare_deposits, saved, seal_incumbent, seal_table
from scenarios import tiny
from scenarios.worlds import build


@pytest.fixture
def deposit(tmp_path: Path) -> Deposit:
    return seal_table(tiny.tables(0, "north", banks=2)[1], "holdout", tiny.SCHEMA, tmp_path / "deposits")


def test_a_table_is_split_by_the_schema_and_counted(tmp_path: Path) -> None:
    world = build("quantity-skew", seed=1, size="small")
    paths = world.write(tmp_path / "tables")
    train, holdout = prepare_deposits(paths["valley"], world.schema, tmp_path / "deposits")
    assert (train.part, holdout.part) == ("train", "holdout")
    assert train.positives is None
    for each in (train, holdout):
        opened = pyrage.decrypt(each.path.read_bytes(), [x25519.Identity.from_str(each.identity)])
        (tmp_path / "opened.parquet").write_bytes(opened)
        table = read_prepared(tmp_path / "opened.parquet")
        assert len(table) == each.rows
        if each is holdout:
            assert table.positives == each.positives
        assert commitment(bytes.fromhex(each.salt), digest(opened)) == each.commitment


def test_a_bad_table_leaves_nothing_behind(tmp_path: Path, refused: Any) -> None:
    (tmp_path / "table.csv").write_text("time,card\n")
    with refused("column-missing"):
        prepare_deposits(tmp_path / "table.csv", tiny.SCHEMA, tmp_path / "deposits")
    assert not (tmp_path / "deposits").exists()


def test_two_deposits_of_one_table_have_nothing_in_common(tmp_path: Path) -> None:
    table = tiny.tables(0, "north", banks=2)[0]
    first, second = (seal_table(table, "train", tiny.SCHEMA, tmp_path) for _ in range(2))
    for name in ("commitment", "blob", "identity", "salt"):
        assert getattr(first, name) != getattr(second, name)


def test_only_the_run_key_opens_a_sealed_key(deposit: Deposit) -> None:
    run, other = x25519.Identity.generate(), x25519.Identity.generate()
    sealed = decode_base64(deposit.sealed_key(str(run.to_public())))
    assert parse(pyrage.decrypt(sealed, [run])) == {"identity": deposit.identity, "salt": deposit.salt}
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(sealed, [other])


def test_secrets_come_back_from_the_disk_and_show_nowhere(deposit: Deposit) -> None:
    found = saved(deposit.path.parent, (deposit.commitment,))
    assert found == {deposit.commitment: deposit}
    assert b"".join(deposit.chunks()) == deposit.path.read_bytes()
    assert deposit.identity not in repr(deposit)
    assert deposit.salt not in repr(deposit)


def test_an_unknown_deposit_is_told(deposit: Deposit, refused: Any) -> None:
    with refused("deposit-unknown"):
        saved(deposit.path.parent, ("sha256-salted:" + 64 * "0",))


def test_a_statement_tells_counts_and_digests_and_no_secret(deposit: Deposit) -> None:
    payload = deposit.statement("escrow.example/ledger", "north").payload()
    assert deposit.identity.encode() not in payload
    assert deposit.salt.encode() not in payload
    assert f'"rows":{deposit.rows}'.encode() in payload


def test_an_incumbent_has_no_rows(tmp_path: Path) -> None:
    incumbent = seal_incumbent(b"packed", tiny.SCHEMA, tmp_path)
    assert (incumbent.part, incumbent.rows, incumbent.positives) == ("incumbent", None, None)
    assert incumbent.blob == digest(incumbent.path.read_bytes())
