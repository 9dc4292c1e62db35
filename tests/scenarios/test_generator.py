"""The simulated country: what its rows promise, whatever the seed."""

from dataclasses import fields, replace
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios.generator import Parameters, generate
from scenarios.transactions import Kind, Transactions, write_parquet

TOWN = Parameters(customers=600, terminals=60, districts=5)


@pytest.fixture(scope="module")
def country() -> Transactions:
    return generate(Parameters(), seed=7)


def shown(rows: Transactions, kind: Kind) -> Transactions:
    return rows.take(rows.kind == kind)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), days=st.integers(1, 80), fraud=st.floats(0, 0.2))
def test_whatever_the_seed_rows_are_sorted_and_labels_say_what_the_kind_says(
    seed: int, days: int, fraud: float
) -> None:
    parameters = replace(TOWN, days=days, customers=100, stolen_numbers=fraud, terminal_frauds=fraud, takeovers=fraud)
    rows = generate(parameters, seed)
    start = np.datetime64(parameters.start, "s")
    assert (np.diff(rows.time) >= np.timedelta64(0)).all()
    assert ((rows.time >= start) & (rows.time < start + np.timedelta64(days, "D"))).all()
    assert ((rows.fraud == 1) == (rows.kind != Kind.GENUINE)).all()
    assert (rows.amount > 0).all()
    assert np.isfinite(rows.amount).all()
    assert ((rows.customer >= 0) & (rows.customer < parameters.customers)).all()
    assert ((rows.terminal >= 0) & (rows.terminal < parameters.terminals)).all()
    assert (np.isnat(rows.reported) == (rows.fraud == 0)).all()


def test_types_are_narrow(country: Transactions) -> None:
    types = {field.name: getattr(country, field.name).dtype for field in fields(country)}
    assert types == {
        "time": np.dtype("datetime64[s]"),
        "customer": np.int32,
        "terminal": np.int32,
        "amount": np.float32,
        "fraud": np.int8,
        "kind": np.int8,
        "reported": np.dtype("datetime64[s]"),
    }


def test_a_seed_gives_the_same_rows_and_another_seed_others() -> None:
    one, same, other = generate(TOWN, 1), generate(TOWN, 1), generate(TOWN, 2)
    for field in fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(same, field.name))
    assert len(one) != len(other) or (one.amount != other.amount).any()


def test_each_kind_of_fraud_has_its_share(country: Transactions) -> None:
    parameters = Parameters()
    counts = np.bincount(country.kind, minlength=4)
    everyday = parameters.customers * parameters.payments_per_day * parameters.days
    assert counts.sum() == pytest.approx(everyday, rel=0.05)
    assert counts[Kind.STOLEN_NUMBER] / everyday == pytest.approx(parameters.stolen_numbers, rel=0.2)
    assert counts[Kind.TERMINAL] / everyday == pytest.approx(parameters.terminal_frauds, rel=0.3)
    assert counts[Kind.TAKEOVER] / everyday == pytest.approx(parameters.takeovers, rel=0.2)


def test_no_fraud_where_none_is_asked_for() -> None:
    rows = generate(replace(TOWN, stolen_numbers=0, terminal_frauds=0, takeovers=0), seed=3)
    assert len(rows) > 0
    assert not rows.fraud.any()


def test_stolen_numbers_show_in_the_amount(country: Transactions) -> None:
    genuine = country.amount[country.kind == Kind.GENUINE]
    assert np.median(shown(country, Kind.STOLEN_NUMBER).amount) > np.percentile(genuine, 99)


def test_takeovers_show_in_the_number_of_payments_not_in_the_amount(country: Transactions) -> None:
    takeovers = shown(country, Kind.TAKEOVER)
    assert np.median(takeovers.amount) < np.median(country.amount)
    fraud_days = set(zip(takeovers.customer, takeovers.time.astype("datetime64[D]").astype(int), strict=True))
    card_days = zip(country.customer, country.time.astype("datetime64[D]").astype(int), strict=True)
    per_day: dict[tuple[int, int], int] = {}
    for card_day in card_days:
        per_day[card_day] = per_day.get(card_day, 0) + 1
    assert np.mean([per_day[key] for key in fraud_days]) > 2 * np.mean(list(per_day.values()))


def test_a_compromised_terminal_is_one_for_weeks_and_among_honest_ones(country: Transactions) -> None:
    frauds = shown(country, Kind.TERMINAL)
    hit = np.unique(frauds.terminal)
    assert 5 < len(hit) < Parameters().terminals / 2
    spans = [np.ptp(frauds.time[frauds.terminal == terminal].astype(np.int64)) / 86_400 for terminal in hit]
    assert np.median(spans) > 14
    genuine = country.amount[country.kind == Kind.GENUINE]
    assert np.median(frauds.amount) == pytest.approx(float(np.median(genuine)), rel=0.2)


def test_fraud_grows_thieves_grow_careful_and_terminals_open() -> None:
    drifting = replace(TOWN, customers=4_000, stolen_numbers=0.02, fraud_growth=1.0, caution=-0.3)
    rows = generate(drifting, seed=5)
    middle = np.datetime64(drifting.start + timedelta(days=31), "s")
    stolen = shown(rows, Kind.STOLEN_NUMBER)
    early, late = stolen.take(stolen.time < middle), stolen.take(stolen.time >= middle)
    assert len(late) > 1.3 * len(early)
    assert np.median(late.amount) < 0.9 * np.median(early.amount)
    first_seen = [rows.time[rows.terminal == terminal].min() for terminal in np.unique(rows.terminal)]
    opened = np.mean(np.array(first_seen) > np.datetime64(drifting.start + timedelta(days=10), "s"))
    assert 0.02 < opened < 0.3


def test_labels_arrive_late_but_within_the_delay(country: Transactions) -> None:
    parameters = Parameters()
    end = datetime.combine(parameters.start + timedelta(days=parameters.days), datetime.min.time())
    known = country.labels_at(end)
    week_ago = np.datetime64(end - timedelta(days=parameters.label_delay_days), "s")
    assert (known <= country.fraud).all()
    assert known.sum() < country.fraud.sum()
    np.testing.assert_array_equal(known[country.time < week_ago], country.fraud[country.time < week_ago])
    later = end + timedelta(days=parameters.label_delay_days)
    np.testing.assert_array_equal(country.labels_at(later), country.fraud)


def test_the_file_has_the_columns_of_a_bank(tmp_path: Path) -> None:
    rows = generate(TOWN, 1)
    write_parquet(tmp_path / "rows.parquet", rows)
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table.column_names == ["TIME", "CARD", "TERMINAL", "AMOUNT", "FRAUD", "KIND"]
    np.testing.assert_array_equal(table["TIME"].to_numpy().astype("datetime64[s]"), rows.time)
    np.testing.assert_array_equal(table["AMOUNT"].to_numpy(), rows.amount)


@pytest.mark.parametrize(
    "wrong",
    [
        {"takeovers": -0.1},
        {"days": 0},
        {"terminals": 5, "districts": 5},
        {"at_home": 0.9, "online": 0.2},
        {"terminal_share": 1.5},
    ],
)
def test_a_country_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must|exceed"):
        Parameters(start=date(2025, 1, 6), **wrong)  # type: ignore[arg-type]
