"""Worlds hold what their descriptions promise, and a user's own table is split as asked or refused with a reason."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest

from contracts.errors import EscrowError
from contracts.schema import Columns
from models.features import prepare
from models.table import Prepared, read_table
from scenarios.histories import BANKS, WORLDS
from scenarios.transactions import Kind
from scenarios.worlds import SCHEMA, World, build, from_table

OWN = Columns(time="WHEN", label="BAD", group="WHO", amount="EUR", terminal="WHERE")
TRAIN_UNTIL = np.datetime64(SCHEMA.split.train_until, "s")
Worlds = Callable[[str], World]
Split = Callable[..., World]


@pytest.fixture(scope="module")
def worlds() -> Worlds:
    made: dict[str, World] = {}

    def get(name: str) -> World:
        if name not in made:
            made[name] = build(name, seed=1, size="small")
        return made[name]

    return get


def column(world: World, bank: str, name: str) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = world.tables[bank][name].to_numpy()
    return values


def kinds(world: World, bank: str, *, past: bool) -> npt.NDArray[np.int64]:
    """How many rows of each kind a bank has, before or since the end of training."""
    rows = (column(world, bank, "TIME") < TRAIN_UNTIL) == past
    return np.bincount(column(world, bank, "KIND")[rows], minlength=4)


@pytest.mark.parametrize("name", WORLDS)
def test_every_world_has_four_banks_and_each_card_at_one(worlds: Worlds, name: str) -> None:
    world = worlds(name)
    assert world.banks == BANKS
    cards = [set(column(world, bank, "CARD").tolist()) for bank in BANKS]
    assert sum(map(len, cards)) == len(set.union(*cards))
    for part, share in zip(cards, WORLDS[name].shares, strict=True):
        assert 100 * len(part) / sum(map(len, cards)) == pytest.approx(share, abs=1)
    for bank in BANKS:
        assert (np.diff(column(world, bank, "TIME")) >= np.timedelta64(0)).all()
        assert (column(world, bank, "AMOUNT") > 0).all()
        assert set(np.unique(column(world, bank, "FRAUD"))) == {0, 1}


@pytest.mark.parametrize("name", WORLDS)
def test_terminals_serve_the_cards_of_all_banks(worlds: Worlds, name: str) -> None:
    world = worlds(name)
    terminals = [set(column(world, bank, "TERMINAL").tolist()) for bank in BANKS]
    assert len(set.intersection(*terminals)) > len(set.union(*terminals)) / 2


def test_a_seed_gives_the_same_world_and_another_seed_another() -> None:
    one, same, other = (build("bad-labels", seed=seed, size="small") for seed in (4, 4, 5))
    assert all(one.tables[bank].equals(same.tables[bank]) for bank in BANKS)
    assert not one.tables["north"].equals(other.tables["north"])


def test_an_unknown_world_is_refused_with_the_names_of_those_there_are() -> None:
    with pytest.raises(EscrowError, match="atlantis") as refused:
        build("atlantis", seed=1)
    assert refused.value.code == "usage"
    assert "fraud-type-skew" in refused.value.hint


def test_the_kind_of_a_fraud_can_never_be_a_feature() -> None:
    assert "KIND" in SCHEMA.never


@pytest.mark.parametrize("name", WORLDS)
def test_every_bank_of_every_world_has_frauds_to_train_and_test_on(worlds: Worlds, name: str, tmp_path: Path) -> None:
    world = worlds(name)
    for bank, (train, holdout) in prepared(world, tmp_path).items():
        assert train.positives >= 10, bank
        assert holdout.positives >= (50 if name == "fraud-type-skew" else 10), bank
        assert holdout.times.min() >= train.times.max() + np.timedelta64(7, "D")


def test_a_bank_of_the_demo_has_frauds_enough_for_a_test_with_power(tmp_path: Path) -> None:
    world = build("fraud-type-skew", seed=1)
    assert sum(map(len, world.tables.values())) > 100_000
    assert min(holdout.positives for _, holdout in prepared(world, tmp_path).values()) >= 150


def test_fraud_type_skew_shows_each_bank_mostly_one_kind_and_then_all(worlds: Worlds) -> None:
    world = worlds("fraud-type-skew")
    mostly = []
    for bank in BANKS:
        met = kinds(world, bank, past=True)[1:]
        assert met.max() > 0.6 * met.sum(), bank
        assert kinds(world, bank, past=False)[1:].min() >= 10, bank
        mostly.append(Kind(1 + int(met.argmax())))
    assert set(mostly) == set(Kind) - {Kind.GENUINE}


def test_quantity_skew_differs_in_size_only(worlds: Worlds) -> None:
    world = worlds("quantity-skew")
    rows = np.array([len(world.tables[bank]) for bank in BANKS])
    assert 100 * rows / rows.sum() == pytest.approx([50, 30, 15, 5], abs=2)
    north, harbour = (column(world, bank, "AMOUNT") for bank in BANKS[:2])
    assert np.median(north) == pytest.approx(np.median(harbour), rel=0.1)


def test_feature_shift_has_other_amounts_and_hours_at_each_bank(worlds: Worlds) -> None:
    world = worlds("feature-shift")
    medians = [float(np.median(column(world, bank, "AMOUNT"))) for bank in BANKS]
    assert all(max(a, b) > 3 * min(a, b) for i, a in enumerate(medians) for b in medians[:i])
    nights = []
    for bank in BANKS:
        times = column(world, bank, "TIME").astype("datetime64[h]").astype(np.int64) % 24
        nights.append(np.mean(times <= 6))
    assert max(nights) > 2 * min(nights)


def test_bad_labels_are_harbours_and_end_with_the_training_window(worlds: Worlds) -> None:
    world = worlds("bad-labels")
    for bank in BANKS:
        missed = (column(world, bank, "KIND") != Kind.GENUINE) & (column(world, bank, "FRAUD") == 0)
        past = column(world, bank, "TIME") < TRAIN_UNTIL
        frauds = (column(world, bank, "KIND") != Kind.GENUINE) & past
        if bank == "harbour":
            assert missed.sum() >= 0.4 * frauds.sum()
            assert not (missed & ~past).any()
        else:
            assert not missed.any()


def test_no_gain_has_a_bank_where_only_terminals_go_wrong(worlds: Worlds) -> None:
    world = worlds("no-gain")
    corner = kinds(world, "corner", past=True) + kinds(world, "corner", past=False)
    assert corner[Kind.TERMINAL] > 0
    assert corner[Kind.STOLEN_NUMBER] == corner[Kind.TAKEOVER] == 0
    for bank in BANKS[:3]:
        assert np.count_nonzero(kinds(world, bank, past=True)[1:]) == 2
        assert np.count_nonzero(kinds(world, bank, past=False)[1:]) == 3


def prepared(world: World, directory: Path) -> dict[str, tuple[Prepared, Prepared]]:
    paths = world.write(directory)
    return {bank: prepare(read_table(path, world.schema), world.schema) for bank, path in paths.items()}


# A user's own table


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """120 cards, five payments each, over 30 days; `SCORE` may never be a feature."""
    rng = np.random.default_rng(1)
    card = np.repeat(np.arange(120), 5)
    seconds = np.sort(rng.integers(0, 30 * 86_400, size=len(card)))
    seconds[0], seconds[-1] = 0, 30 * 86_400 - 1
    table = pa.table(
        {
            "WHEN": np.datetime64("2024-01-01", "s") + seconds.astype("timedelta64[s]"),
            "WHO": [f"{number:03d}" for number in rng.permutation(card)],
            "WHERE": rng.integers(0, 9, size=len(card)),
            "EUR": rng.uniform(1, 99, size=len(card)),
            "BAD": (rng.random(len(card)) < 0.1).astype(np.int64),
            "AGE": rng.integers(18, 90, size=len(card)),
            "SCORE": rng.random(len(card)),
        }
    )
    pq.write_table(table, tmp_path / "own.parquet")
    pcsv.write_csv(table, tmp_path / "own.csv")
    return tmp_path / "own.parquet"


@pytest.fixture
def split(own: Path) -> Split:
    def call(path: Path = own, **changes: Any) -> World:
        asked: dict[str, Any] = {
            "columns": OWN,
            "train_from": date(2024, 1, 2),
            "train_days": 14,
            "test_days": 7,
            "shares": (50, 30, 15, 5),
            "seed": 1,
        }
        return from_table(path, **(asked | changes))

    return call


def test_a_users_table_is_split_by_card_with_the_shares_asked_for(split: Split, own: Path) -> None:
    world = split()
    whole = pq.read_table(own)
    cards = {bank: set(table["WHO"].to_pylist()) for bank, table in world.tables.items()}
    assert {bank: len(part) for bank, part in cards.items()} == {"north": 60, "harbour": 36, "valley": 18, "corner": 6}
    assert set.union(*cards.values()) == set(whole["WHO"].to_pylist())
    assert sum(map(len, world.tables.values())) == len(whole)
    assert sum(float(table["EUR"].to_numpy().sum()) for table in world.tables.values()) == pytest.approx(
        float(whole["EUR"].to_numpy().sum()), rel=1e-6
    )


def test_the_banks_tables_keep_the_users_names_and_can_be_read(split: Split, tmp_path: Path) -> None:
    world = split(features=("AGE",), never=("SCORE",))
    for path in world.write(tmp_path / "banks").values():
        table = read_table(path, world.schema)
        assert pq.read_schema(path).names == ["WHEN", "BAD", "WHO", "EUR", "WHERE", "AGE"]
        assert table.extra.min() >= 18


def test_the_split_depends_on_the_seed_alone_and_csv_equals_parquet(split: Split, own: Path) -> None:
    world, same, other, text = split(), split(), split(seed=2), split(own.with_suffix(".csv"))
    assert world.tables["north"].equals(same.tables["north"])
    assert world.tables["north"].equals(text.tables["north"])
    assert set(world.tables["corner"]["WHO"].to_pylist()) != set(other.tables["corner"]["WHO"].to_pylist())


def test_more_than_four_banks_are_numbered(split: Split) -> None:
    assert split(shares=(20, 20, 20, 20, 10, 10)).banks == (*BANKS, "bank-5", "bank-6")


@pytest.mark.parametrize("shares", [(), (100,), (50, 30), (50, 50, 0), (120, -20), (float("nan"), 50), (50, 30, 15, 6)])
def test_bad_shares_are_refused(split: Split, shares: tuple[float, ...]) -> None:
    with pytest.raises(EscrowError, match="shares") as refused:
        split(shares=shares)
    assert refused.value.code == "usage"


def test_a_share_too_small_for_one_card_is_refused(split: Split) -> None:
    with pytest.raises(EscrowError, match="120 groups are too few for 2 banks") as refused:
        split(shares=(99.9, 0.1))
    assert refused.value.code == "usage"


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"columns": OWN.model_copy(update={"amount": "USD"})}, "column-missing", "USD"),
        ({"never": ("SCOER",)}, "column-missing", "SCOER"),
        ({"features": ("HEIGHT",)}, "column-missing", "HEIGHT"),
        ({"columns": OWN.model_copy(update={"label": "WHO"})}, "usage", "five different columns"),
        ({"features": ("SCORE",), "never": ("SCORE",)}, "usage", "'SCORE' may never be a feature"),
        ({"train_days": 0}, "usage", "train_days"),
        ({"train_from": date(2023, 12, 31)}, "usage", "covers 2024-01-01 to 2024-01-30"),
        ({"test_days": 14}, "usage", "covers 2024-01-01 to 2024-01-30"),
    ],
)
def test_what_does_not_fit_the_table_is_refused_by_name(
    split: Split, own: Path, changes: dict[str, Any], code: str, says: str
) -> None:
    for path in (own, own.with_suffix(".csv")):
        with pytest.raises(EscrowError) as refused:
            split(path, **changes)
        assert refused.value.code == code
        assert says in refused.value.message


def test_windows_that_fill_the_table_to_its_last_day_are_accepted(split: Split) -> None:
    world = split(train_from=date(2024, 1, 1), train_days=16, test_days=7)
    assert world.schema.test_until == date(2024, 1, 31)


def test_a_file_that_is_no_table_is_refused(split: Split, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for path in (tmp_path / "notes.txt", tmp_path / "missing.parquet"):
        with pytest.raises(EscrowError) as refused:
            split(path)
        assert refused.value.code == "file-unreadable"
