"""Depositing tables by command: nothing twice, nothing lost when it was cut off, and taken back only on purpose."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from contracts.schema import Schema
from parties.deposit import read_and_prepare, sealing_of
from parties.draft import to_yaml
from scenarios import tiny
from scenarios.consortium import Consortium

Call = Callable[..., tuple[int, str, str]]
Ask = Callable[..., dict[str, Any]]
Refuses = Callable[..., str]
Types = Callable[[str], None]


@pytest.fixture
def add(tmp_path: Path, drawn: Callable[[int], pa.Table], schema: Schema, town: Consortium) -> tuple[object, ...]:
    """The words that add a table of north's."""
    pyarrow.parquet.write_table(drawn(5), tmp_path / "table.parquet")
    (tmp_path / "schema.yaml").write_text(to_yaml(schema.model_dump(mode="json", by_alias=True)))
    home = town.banks["north"].home
    return ("dataset", "add", tmp_path / "table.parquet", "--schema", tmp_path / "schema.yaml", "--home", home)


def test_a_table_is_deposited_once(ask: Ask, town: Consortium, add: tuple[object, ...]) -> None:
    first = ask(*add)["data"]["deposits"]
    again = ask(*add)["data"]["deposits"]
    assert [each["how"] for each in again] == ["known", "known"]
    assert [each["commitment"] for each in again] == [each["commitment"] for each in first]
    listed = ask("dataset", "list", *add[-2:])["data"]["deposits"]
    assert {each["commitment"] for each in first} <= {each["commitment"] for each in listed}
    holdout = next(each for each in listed if each["commitment"] == first[1]["commitment"])
    assert (holdout["part"], holdout["positives"] > 0, holdout["looks"], holdout["secrets"]) == (
        "holdout",
        True,
        0,
        True,
    )
    ask("dataset", "revoke", "--yes", first[0]["commitment"], *add[-2:])
    renewed = ask(*add)["data"]["deposits"]
    assert [each["how"] for each in renewed] == ["new", "known"]


def test_a_sending_that_was_cut_off_goes_on(
    *, ask: Ask, town: Consortium, add: tuple[object, ...], schema: Schema, drawn: Callable[[int], pa.Table]
) -> None:
    bank, table = town.banks["north"], Path(str(add[2]))
    pyarrow.parquet.write_table(drawn(6), table)
    train, _ = read_and_prepare(table, schema)
    left = sealing_of(train, "train", schema, bank.folder).finish()  # encrypted, then killed before it was sent
    (bank.folder / "0123.partial").write_bytes(b"killed while it was encrypted")
    found = ask(*add)["data"]["deposits"]
    assert [(each["part"], each["how"]) for each in found] == [("train", "resumed"), ("holdout", "new")]
    assert found[0]["commitment"] == left.commitment
    assert not list(bank.folder.glob("*.partial"))


def test_a_table_that_does_not_fit_is_refused_before_anything_is_sent(
    *, call: Call, refuses: Refuses, town: Consortium, add: tuple[object, ...], drawn: Callable[[int], pa.Table]
) -> None:
    table, before = Path(str(add[2])), town.core.ledger.size()
    pyarrow.parquet.write_table(drawn(7).drop_columns(["shop"]), table)
    refuses(*add, exit_code=1, code="column-missing")
    table.unlink()
    refuses(*add, exit_code=4, code="file-unreadable")
    Path(str(add[4])).write_text("columns: {time: when}\n")
    refuses(*add, exit_code=1, code="document-invalid")
    refuses("dataset", "add", table, *add[-2:], exit_code=4, code="usage")
    assert town.core.ledger.size() == before


def test_a_deposit_is_taken_back_only_when_it_was_typed(
    *, call: Call, refuses: Refuses, types: Types, founded: Callable[..., Consortium]
) -> None:
    consortium = founded("north", "harbour")
    contract = tiny.proposed(consortium)
    train, holdout = (each.commitment for each in consortium.deposits["north"])
    home = ("--home", consortium.banks["north"].home)
    prefix = train.removeprefix("sha256-salted:")[:8]
    refuses("dataset", "revoke", *home, exit_code=4, code="usage")
    refuses("dataset", "revoke", "00000000", *home, exit_code=1, code="deposit-unknown")
    types("no\n")
    refuses("dataset", "revoke", prefix, *home, exit_code=4, code="confirmation-missing")
    refuses("dataset", "revoke", prefix, "--yes", holdout, *home, exit_code=1, code="digest-mismatch")
    assert str(consortium.core.runs.case(contract).state) == "open"
    types(f"{prefix}\n")
    code, out, err = call("dataset", "revoke", prefix, *home)
    assert (code, "Halted: 1 contract." in out) == (0, True)
    assert f"This halts {contract[7:15]}" in err
    assert str(consortium.core.runs.case(contract).state) == "halted"
    refuses("dataset", "revoke", prefix, *home, exit_code=1, code="deposit-unknown")
    assert "revoked" in call("dataset", "list", *home)[1]
    (consortium.banks["north"].folder / f"{holdout.removeprefix('sha256-salted:')}.json").unlink()
    assert "its key is not in this home" in call("dataset", "list", *home)[1]


def test_training_rows_may_stay_and_the_draft_says_what_that_means(
    *,
    call: Call,
    ask: Ask,
    refuses: Refuses,
    founded: Callable[..., Consortium],
    add: tuple[object, ...],
    tmp_path: Path,
    drawn: Callable[[int], pa.Table],
) -> None:
    consortium = founded()
    for name in ("north", "harbour"):
        consortium.join(name)
    home = ("--home", consortium.banks["north"].home)
    words = (*add[:-2], *home)
    first = ask(*words)["data"]["deposits"][0]
    kept, holdout = ask(*words, "--keep-training")["data"]["deposits"]
    assert (kept["how"], kept["kept"], holdout["how"], holdout["kept"]) == ("new", True, "known", False)
    assert kept["commitment"] != first["commitment"]
    assert ask(*words, "--keep-training")["data"]["deposits"][0]["how"] == "known"
    folder = consortium.banks["north"].folder
    content = (folder / f"{kept['commitment'].removeprefix('sha256-salted:')}.age").read_bytes()
    assert content not in [path.read_bytes() for path in consortium.core.directory.rglob("*") if path.is_file()]
    listed = {each["commitment"]: each["kept"] for each in ask("dataset", "list", *home)["data"]["deposits"]}
    assert (listed[kept["commitment"]], listed[first["commitment"]]) == (True, False)
    assert "stays here" in call("dataset", "list", *home)[1]
    assert "1 of which stays here" in call("status", *home)[1]
    refuses("dataset", "add", add[2], "--as", "table", "--keep-training", *home, exit_code=4, code="usage")

    other = tmp_path / "other.parquet"
    pyarrow.parquet.write_table(drawn(9), other)
    ask("dataset", "add", other, *add[3:5], "--home", consortium.banks["harbour"].home)
    draft = ("contract", "init", "--partner", "harbour", *home)
    made = ask(*draft, "--out", tmp_path / "one.yaml")["data"]
    assert made["contract"]["contributions"][0]["placement"] == "party"
    assert made["contract"]["limits"]["retries"] == 3
    assert "exposure" not in made["contract"]
    assert "every round sends the joint model there" in made["warnings"][0]
    refuses("contract", "propose", tmp_path / "one.yaml", *home, exit_code=1, code="document-invalid")
    made = ask(*draft, "--out", tmp_path / "two.yaml", "--exposure", "parties-see-rounds")["data"]
    assert (made["contract"]["exposure"], made["warnings"]) == ("parties-see-rounds", [])
    assert ask("contract", "propose", tmp_path / "two.yaml", *home)["data"]["state"] == "open"
    made = ask(*draft, "--out", tmp_path / "three.yaml", "--method", "ensemble")["data"]
    assert made["warnings"] == []
    refuses(*draft, "--out", tmp_path / "four.yaml", "--exposure", "all", exit_code=4, code="usage")


def test_rows_that_were_kept_are_not_sent_by_a_slip(
    *, ask: Ask, refuses: Refuses, founded: Callable[..., Consortium], add: tuple[object, ...], schema: Schema
) -> None:
    consortium = founded()
    north = consortium.join("north")
    words = (*add[:-1], north.home)
    ask(*words, "--keep-training")
    size = consortium.core.ledger.size()
    refuses(*words, exit_code=1, code="deposit-kept")
    later = schema.model_copy(update={"label_delay_days": schema.label_delay_days, "never": ("id",)})
    Path(str(add[4])).write_text(to_yaml(later.model_dump(mode="json", by_alias=True)))
    refuses(*words, exit_code=1, code="deposit-kept")  # the same rows by another schema
    assert consortium.core.ledger.size() == size
    refuses(*words, "--keep-training", "--send-training", exit_code=4, code="usage")
    train, _ = ask(*words, "--send-training")["data"]["deposits"]
    assert (train["how"], train["kept"]) == ("new", False)


def test_a_policy_under_which_rows_stay_here_keeps_them_here(
    *, ask: Ask, refuses: Refuses, founded: Callable[..., Consortium], add: tuple[object, ...]
) -> None:
    consortium = founded()
    north = consortium.join("north")
    words = (*add[:-1], north.home)
    (north.home / "policy.yml").write_text("policy: 1\nplacements: [party]\n")
    size = consortium.core.ledger.size()
    refuses(*words, exit_code=1, code="deposit-kept")
    assert consortium.core.ledger.size() == size
    assert [each["kept"] for each in ask(*words, "--keep-training")["data"]["deposits"]] == [True, False]
