"""Window features: equal to a naive reference, blind to the future, and split by the schema's rule."""

from dataclasses import dataclass, fields, replace
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from contracts.errors import EscrowError
from contracts.schema import Columns, Schema, Split
from models.features import features_for_scoring, prepare
from models.table import Prepared, Table

DAY = 86_400
HALF = DAY // 2
START = int(np.datetime64("2024-01-01", "s").astype(np.int64))  # a Monday


def schema(*, delay: int = 2, windows: tuple[int, ...] = (1, 3), features: tuple[str, ...] = ()) -> Schema:
    return Schema(
        columns=Columns(time="when", label="fraud", group="card", amount="paid", terminal="shop"),
        features=features,
        windows_days=windows,
        label_delay_days=delay,
        split=Split(train_from=date(2024, 1, 3), train_days=3, test_days=4),
    )


@dataclass(frozen=True)
class Row:
    """One transaction; seconds count from midnight of Monday 2024-01-01."""

    second: int
    card: str = "c"
    shop: str = "s"
    paid: float = 1.0
    fraud: int = 0


def table_of(rows: list[Row], extra: npt.NDArray[np.float32] | None = None) -> Table:
    return Table(
        times=np.array([START + row.second for row in rows], dtype=np.int64).astype("M8[s]"),
        labels=np.array([row.fraud for row in rows], dtype=np.int8),
        groups=np.array([row.card for row in rows], dtype=np.str_),
        terminals=np.array([row.shop for row in rows], dtype=np.str_),
        amounts=np.array([row.paid for row in rows], dtype=np.float32),
        extra=np.zeros((len(rows), 0), dtype=np.float32) if extra is None else extra,
    )


def naive(rows: list[Row], windows: tuple[int, ...], delay: int) -> dict[str, list[float]]:
    """The definitions, word for word, row by row."""
    columns: dict[str, list[float]] = {}

    def put(name: str, value: float) -> None:
        columns.setdefault(name, []).append(value)

    for row in rows:
        t = row.second
        put("amount", row.paid)
        put("weekend", float(t // DAY % 7 in (5, 6)))
        put("night", float(t % DAY // 3600 <= 6))
        for n in windows:
            own = [r.paid for r in rows if r.card == row.card and t - n * DAY < r.second <= t]
            put(f"customer-count-{n}d", len(own))
            put(f"customer-mean-amount-{n}d", sum(own) / len(own))
            end = t - delay * DAY if delay else t - 1
            there = [r.fraud for r in rows if r.shop == row.shop and t - (delay + n) * DAY < r.second <= end]
            put(f"terminal-count-{n}d", len(there))
            put(f"terminal-risk-{n}d", sum(there) / len(there) if there else 0.0)
    return columns


def by_name(prepared: Prepared) -> dict[str, npt.NDArray[np.float32]]:
    return {name: prepared.features[:, j] for j, name in enumerate(prepared.names)}


# Moments lie on few half days, a second before or after them too, so that ties and window edges are met all the time.
moments = st.builds(lambda half, off: half * HALF + off, st.integers(0, 24), st.sampled_from([-1, 0, 0, 0, 1]))
rows_of = st.builds(
    Row,
    second=moments,
    card=st.sampled_from(["c", "d", "7"]),
    shop=st.sampled_from(["s", "t"]),
    paid=st.floats(0, 1e6, width=32),
    fraud=st.integers(0, 1),
)
histories = st.lists(rows_of, min_size=1, max_size=25)
delays = st.integers(0, 3)


@settings(max_examples=150)
@given(rows=histories, delay=delays, windows=st.sampled_from([(1,), (1, 3), (2, 5, 7)]))
def test_features_equal_the_definitions_row_by_row(rows: list[Row], delay: int, windows: tuple[int, ...]) -> None:
    found = by_name(features_for_scoring(table_of(rows), schema(delay=delay, windows=windows)))
    expected = naive(rows, windows, delay)
    assert sorted(found) == sorted(expected)
    for name, column in expected.items():
        assert found[name] == pytest.approx(np.array(column), rel=1e-6, abs=1e-9), name


@settings(max_examples=50)
@given(rows=histories, delay=delays, data=st.data())
def test_the_order_of_the_table_changes_no_feature(rows: list[Row], delay: int, data: Any) -> None:
    order = data.draw(st.permutations(range(len(rows))))
    before = features_for_scoring(table_of(rows), schema(delay=delay)).features
    after = features_for_scoring(table_of([rows[i] for i in order]), schema(delay=delay)).features
    assert np.array_equal(after, before[order])


# No look-ahead


@settings(max_examples=150)
@given(past=histories, future=st.lists(rows_of, max_size=10), now=moments, delay=delays)
def test_no_later_row_changes_a_feature(past: list[Row], future: list[Row], now: int, delay: int) -> None:
    """Any later rows against none covers every change of amount, label, card, shop or number of later rows."""
    past = [row for row in past if row.second <= now]
    future = [row for row in future if row.second > now]
    assume(past)
    alone = features_for_scoring(table_of(past), schema(delay=delay)).features
    among = features_for_scoring(table_of(future + past), schema(delay=delay)).features[len(future) :]
    assert np.array_equal(alone, among)


@settings(max_examples=150)
@given(rows=histories, now=moments, delay=delays, data=st.data())
def test_no_label_younger_than_the_delay_changes_a_feature(rows: list[Row], now: int, delay: int, data: Any) -> None:
    others = data.draw(st.lists(st.integers(0, 1), min_size=len(rows), max_size=len(rows)))

    def unknown(row: Row) -> bool:
        return row.second > now - delay * DAY or (delay == 0 and row.second == now)

    changed = [replace(row, fraud=y) if unknown(row) else row for row, y in zip(rows, others, strict=True)]
    seen = np.array([row.second <= now for row in rows])
    before = features_for_scoring(table_of(rows), schema(delay=delay)).features[seen]
    after = features_for_scoring(table_of(changed), schema(delay=delay)).features[seen]
    assert np.array_equal(before, after)


def test_no_row_sees_its_own_label_even_without_delay() -> None:
    rows = [Row(0, fraud=1), Row(0, fraud=0), Row(1)]
    risk = by_name(features_for_scoring(table_of(rows), schema(delay=0)))["terminal-risk-1d"]
    assert list(risk) == [0, 0, 0.5]


def test_another_card_s_amounts_never_leak_by_rounding() -> None:
    small = [Row(i * 60, card="small", paid=0.1) for i in range(50)]
    alone = features_for_scoring(table_of(small), schema()).features
    huge = [Row(0, card="a huge one", paid=1e9) for _ in range(50)]
    among = features_for_scoring(table_of(huge + small), schema()).features[50:]
    terminals = [
        j for j, name in enumerate(features_for_scoring(table_of(small), schema()).names) if "terminal" in name
    ]
    assert np.array_equal(np.delete(alone, terminals, axis=1), np.delete(among, terminals, axis=1))


# Conventions


def test_window_edges_are_half_open() -> None:
    rows = [Row(0, fraud=1), Row(DAY - 1), Row(DAY), Row(3 * DAY - 1), Row(3 * DAY)]
    found = by_name(features_for_scoring(table_of(rows), schema(delay=2, windows=(1,))))
    assert list(found["customer-count-1d"]) == [1, 2, 2, 1, 2]  # the row one whole day ago is outside
    assert list(found["terminal-count-1d"]) == [0, 0, 0, 2, 2]  # the row exactly as old as the delay is inside
    assert list(found["terminal-risk-1d"]) == [0, 0, 0, 0.5, 0]


def test_days_and_nights_before_and_after_1970() -> None:
    moments = ["1969-12-27T06:59:59", "1970-01-01T07:00", "2024-01-05T23:59", "2024-01-06T00:00", "2024-01-07T12:00"]
    rows = table_of([Row(0)] * 5)
    found = by_name(features_for_scoring(replace(rows, times=np.array(moments, dtype="M8[s]")), schema()))
    assert list(found["weekend"]) == [1, 0, 0, 1, 1]
    assert list(found["night"]) == [1, 0, 0, 1, 0]


def test_the_schema_s_own_features_come_last_as_they_stand() -> None:
    extra = np.array([[5, -1], [6, -2]], dtype=np.float32)
    prepared = features_for_scoring(table_of([Row(9), Row(5)], extra), schema(features=("speed", "age")))
    assert prepared.names == (
        "amount",
        "weekend",
        "night",
        "customer-count-1d",
        "customer-mean-amount-1d",
        "customer-count-3d",
        "customer-mean-amount-3d",
        "terminal-count-1d",
        "terminal-risk-1d",
        "terminal-count-3d",
        "terminal-risk-3d",
        "speed",
        "age",
    )
    assert prepared.features[:, -2:].tolist() == extra.tolist()


@pytest.mark.parametrize("name", ["paid", "amount", "night", "terminal-risk-3d"])
def test_a_column_with_the_name_of_a_window_feature_is_refused(name: str) -> None:
    table = table_of([Row(0)], np.zeros((1, 1), dtype=np.float32))
    with pytest.raises(EscrowError, match=name) as caught:
        features_for_scoring(table, schema(features=(name,)))
    assert caught.value.code == "feature-forbidden"


def test_amounts_too_large_to_be_summed_are_refused() -> None:
    with pytest.raises(EscrowError, match="larger unit"):
        features_for_scoring(table_of([Row(0, paid=3e38), Row(1, paid=3e38)]), schema())


def test_a_table_that_spans_all_years_is_no_problem() -> None:
    times = np.array(["0001-01-01", "9999-12-31", "9999-12-31"], dtype="M8[s]")
    found = by_name(features_for_scoring(replace(table_of([Row(0)] * 3), times=times), schema()))
    assert list(found["customer-count-1d"]) == [1, 2, 2]


# Split: training 2024-01-03 to 05, delay 2 days, holdout 2024-01-08 to 11


def row_on(day: int, hour: float = 12, **values: Any) -> Row:
    """A row in January 2024."""
    return Row(int((day - 1) * DAY + hour * 3600), **values)


FILLER = [row_on(4, card="x", fraud=1), row_on(8, card="y", fraud=1)]  # so that no window is empty


def test_rows_fall_into_half_open_windows_in_order_of_time() -> None:
    days = [(2, 23.99), (3, 0), (5, 23.99), (6, 0), (7, 23.99), (8, 0), (11, 23.99), (12, 0)]
    rows = [row_on(day, hour, card=f"c{i}", paid=i) for i, (day, hour) in enumerate(days)]
    train, holdout = prepare(table_of(rows[::-1] + FILLER), schema())
    assert list(train.groups) == ["c1", "x", "c2"]
    assert list(holdout.groups) == ["c5", "y", "c6"]
    for part in (train, holdout):
        assert (np.diff(part.times.astype(np.int64)) >= 0).all()


def test_rows_of_one_second_keep_the_table_s_order() -> None:
    rows = [row_on(4, card=card) for card in ("q", "a", "m")]
    train, _ = prepare(table_of([*rows, *FILLER]), schema())
    assert list(train.groups) == ["q", "a", "m", "x"]


@pytest.mark.parametrize(
    ("fraud_day", "kept"),
    [
        (2, [8, 9, 10, 11]),  # before the first day of training: not counted
        (3, []),
        (5, []),
        (6, [8]),  # on day t the frauds up to day t - 3 are known
        (7, [8, 9]),
        (8, [8, 8, 9, 10]),
    ],
)
def test_cards_known_as_compromised_leave_the_holdout(fraud_day: int, kept: list[int]) -> None:
    tests = [row_on(day, card="c") for day in (8, 9, 10, 11)]
    rows = [*tests, row_on(fraud_day, 23, card="c", fraud=1), *FILLER]
    train, holdout = prepare(table_of(rows), schema())
    days = (holdout.times[holdout.groups == "c"].astype("M8[D]").astype(np.int64) - START // DAY + 1).tolist()
    assert days == kept
    assert ("c" in train.groups) == (fraud_day in (3, 4, 5))


def test_prepared_rows_carry_features_of_the_whole_history() -> None:
    rows = [row_on(1, 13, shop="s", fraud=1), *(replace(row, shop="s") for row in FILLER)]
    train, _ = prepare(table_of(rows), schema(windows=(1,)))
    assert by_name(train)["terminal-risk-1d"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([row_on(8, fraud=1)], "train window from 2024-01-03 to before 2024-01-06 has no rows"),
        ([row_on(3), row_on(8, fraud=1)], "train window from 2024-01-03 to before 2024-01-06 has no frauds"),
        ([row_on(3, fraud=1)], "holdout window from 2024-01-08 to before 2024-01-12 has no rows"),
        (
            [row_on(3, fraud=1), row_on(8, card="d")],
            "holdout window from 2024-01-08 to before 2024-01-12 has no frauds",
        ),
        ([row_on(3, fraud=1), row_on(8, fraud=1)], "holdout window from 2024-01-08 to before 2024-01-12 has no rows"),
    ],
)
def test_a_window_without_rows_or_frauds_is_refused(rows: list[Row], what: str) -> None:
    with pytest.raises(EscrowError, match=what) as caught:
        prepare(table_of(rows), schema())
    assert caught.value.code == "window-empty"


def test_the_same_table_prepares_to_the_same_rows() -> None:
    table = table_of([row_on(3, fraud=1), row_on(3, 13, card="d"), row_on(9, card="e", fraud=1)])
    for first, second in zip(prepare(table, schema()), prepare(table, schema()), strict=True):
        for field in fields(Prepared):
            assert np.array_equal(getattr(first, field.name), getattr(second, field.name))
