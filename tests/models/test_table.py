"""Reading tables: every kind of bad cell gets its row and column; a prepared file is trusted in nothing."""

import io
from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import EscrowError
from contracts.schema import Columns, Schema, Split
from models.table import Prepared, Table, codes, read_prepared, read_table, write_prepared

SCHEMA = Schema(
    columns=Columns(time="when", label="fraud", group="card", amount="amount", terminal="shop"),
    features=("speed",),
    amount_at_most=1000,
    split=Split(train_from=date(2024, 1, 1), train_days=7, test_days=7),
)
GOOD: dict[str, list[Any]] = {
    "when": ["2024-01-01 10:00:00", "2024-01-02T11:30:15", "2024-01-03"],
    "fraud": [0, 1, 0],
    "card": ["007", "b", "007"],
    "amount": [1.5, 2, 1000],
    "shop": ["s1", "s2", "s1"],
    "speed": [-1.0, 0, 3e7],
    "free text": ["x", "", "ü"],
}


def csv_file(folder: Path, columns: dict[str, list[Any]]) -> Path:
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(columns), *(",".join("" if cell is None else str(cell) for cell in row) for row in rows)]
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def parquet_file(folder: Path, columns: dict[str, Any]) -> Path:
    path = folder / "table.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def refused(path: Path, schema: Schema = SCHEMA, **options: Any) -> EscrowError:
    with pytest.raises(EscrowError) as caught:
        read_table(path, schema, **options)
    return caught.value


def assert_good(table: Table) -> None:
    assert list(table.times.astype(str)) == ["2024-01-01T10:00:00", "2024-01-02T11:30:15", "2024-01-03T00:00:00"]
    assert list(table.labels) == [0, 1, 0]
    assert list(table.groups) == ["007", "b", "007"]
    assert list(table.terminals) == ["s1", "s2", "s1"]
    assert list(table.amounts) == [1.5, 2, 1000]
    assert table.extra.tolist() == [[-1], [0], [3e7]]
    kinds = (table.times, table.labels, table.amounts, table.extra)
    assert [array.dtype.str for array in kinds] == ["<M8[s]", "|i1", "<f4", "<f4"]
    assert len(table) == 3


@pytest.mark.parametrize("write", [csv_file, parquet_file])
def test_a_good_table_is_read(tmp_path: Path, write: Any) -> None:
    assert_good(read_table(write(tmp_path, GOOD), SCHEMA))


def test_spaces_around_numbers_and_times_mean_nothing(tmp_path: Path) -> None:
    spaced = {name: [f" {cell} " for cell in GOOD[name]] for name in ("when", "fraud", "amount", "speed")}
    assert_good(read_table(csv_file(tmp_path, GOOD | spaced), SCHEMA))


def test_a_csv_file_with_quotes_blank_lines_and_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = csv_file(tmp_path, GOOD)
    lines = path.read_text(encoding="utf-8").replace("007", '"007"').replace(",ü", ',"a\nb"').splitlines()
    path.write_text("\r\n\r\n".join(lines), encoding="utf-8-sig", newline="")
    path = path.rename(tmp_path / "TABLE.CSV")
    assert_good(read_table(path, SCHEMA))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_of_any_unit_lose_their_fractions(tmp_path: Path, unit: str) -> None:
    times = np.array(["2024-01-01T10:00:00", "1969-12-31T23:59:58", "2024-01-03"], dtype=f"M8[{unit}]")
    late = times if unit == "s" else times + np.array(900 if unit == "ms" else 1, dtype=f"m8[{unit}]")
    table = read_table(parquet_file(tmp_path, GOOD | {"when": pa.array(late, pa.timestamp(unit))}), SCHEMA)
    assert list(table.times) == list(times.astype("M8[s]"))


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_dates_are_midnights(tmp_path: Path, kind: Any) -> None:
    days = pa.array([date(2024, 1, 1), date(2024, 1, 2), date(2024, 1, 3)], kind)
    table = read_table(parquet_file(tmp_path, GOOD | {"when": days}), SCHEMA)
    assert list(table.times.astype(str)) == [f"2024-01-0{day}T00:00:00" for day in (1, 2, 3)]


@pytest.mark.parametrize("kind", [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint16(), pa.uint64()])
def test_whole_numbers_of_any_width_are_keys(tmp_path: Path, kind: Any) -> None:
    table = read_table(parquet_file(tmp_path, GOOD | {"card": pa.array([7, 0, 123], kind)}), SCHEMA)
    assert list(table.groups) == ["7", "0", "123"]


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_string(),
        pa.binary(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
)
def test_text_of_any_encoding_is_a_key(tmp_path: Path, kind: Any) -> None:
    cards = pa.array(["007", "b", "007"]).cast(kind)
    assert_good(read_table(parquet_file(tmp_path, GOOD | {"card": cards}), SCHEMA))


@pytest.mark.parametrize(
    "labels", [pa.array([False, True, False]), pa.array([0.0, 1.0, 0.0]), pa.array(["0", "1", "0"])]
)
def test_labels_may_be_whole_numbers_floats_booleans_or_text(tmp_path: Path, labels: Any) -> None:
    assert_good(read_table(parquet_file(tmp_path, GOOD | {"fraud": labels}), SCHEMA))


def test_a_decimal_is_a_number(tmp_path: Path) -> None:
    amounts = pa.array([Decimal("1.5"), Decimal(2), Decimal(1000)], pa.decimal128(10, 2))
    assert_good(read_table(parquet_file(tmp_path, GOOD | {"amount": amounts}), SCHEMA))


BAD_CELLS = [
    ("when", "", "is empty"),
    ("when", "yesterday", "is not an ISO 8601 time"),
    ("when", "2024-02-30", "is not an ISO 8601 time"),
    ("when", "2024-01-01T10:00:00Z", "has a time zone"),
    ("when", "2024-01-01 10:00:00+02:00", "has a time zone"),
    ("fraud", "", "is empty"),
    ("fraud", "2", "is not a label"),
    ("fraud", "-1", "is not a label"),
    ("fraud", "0.5", "is not a label"),
    ("fraud", "nan", "is not a label"),
    ("fraud", "yes", "is not a number"),
    ("card", "", "is empty"),
    ("card", "x" * 129, "longer than 128"),
    ("card", "a\0", "NUL"),
    ("shop", "", "is empty"),
    ("amount", "", "is empty"),
    ("amount", "-0.01", "is a negative amount"),
    ("amount", "1000.01", "is an amount above 1000"),
    ("amount", "nan", "is not a finite amount"),
    ("amount", "-inf", "is not a finite amount"),
    ("amount", "12 EUR", "is not a number"),
    ("speed", "", "is empty"),
    ("speed", "inf", "is not a finite number"),
    ("speed", "NaN", "is not a finite number"),
    ("speed", "1e39", "is not a finite number"),
    ("speed", "fast", "is not a number"),
]


@pytest.mark.parametrize(("column", "cell", "what"), BAD_CELLS)
def test_a_bad_cell_in_csv_is_named_by_row_line_and_column(tmp_path: Path, column: str, cell: str, what: str) -> None:
    columns = GOOD | {column: [GOOD[column][0], cell, GOOD[column][2]]}
    path = csv_file(tmp_path, columns)
    path.write_text("\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    error = refused(path)
    assert error.code == "table-invalid"
    assert f"Data row 2 (line 4), column {column!r}" in error.message
    assert what in error.message


@pytest.mark.parametrize(
    ("column", "cells", "row", "what"),
    [
        ("when", [1, 2, 3], 1, "is not a time"),
        ("when", pa.array([0, None, 0], pa.timestamp("us")), 2, "is empty"),
        ("when", pa.array([datetime(2024, 1, 1, tzinfo=UTC)] * 3, pa.timestamp("ms", "UTC")), 1, "has a time zone"),
        ("when", pa.array([0, 0, 2**60], pa.timestamp("ms")), 3, "is not a time of the years 1 to 9999"),
        ("fraud", [0, 1, None], 3, "is empty"),
        ("fraud", [0, 3, 1], 2, "is not a label (0 or 1): '3'"),
        ("fraud", [None] * 3, 1, "is empty"),
        ("card", [1.0, 2.0, 3.0], 1, "is neither text nor a whole number"),
        ("card", [b"a", b"\xff\xfe", b"c"], 2, r"is not UTF-8: '\\xff\\xfe'"),
        ("shop", [None, "a", "b"], 1, "is empty"),
        ("amount", [1, float("nan"), -2], 2, "is not a finite amount"),
        ("amount", [[1], [2], [3]], 1, "is not a number: of type list"),
        ("amount", [1, 2, 2**62], 3, "is an amount above 1000"),
        ("speed", [0.0, 1e300, 0.0], 2, "is not a finite number"),
    ],
)
def test_a_bad_cell_in_parquet_is_named_by_row_and_column(
    tmp_path: Path, column: str, cells: Any, row: int, what: str
) -> None:
    error = refused(parquet_file(tmp_path, GOOD | {column: cells}))
    assert error.code == "table-invalid"
    assert f"Data row {row}, column {column!r}" in error.message
    assert what in error.message


def test_a_shown_cell_is_shortened(tmp_path: Path) -> None:
    error = refused(csv_file(tmp_path, GOOD | {"amount": [1, 2, "9" * 41 + "X"]}))
    assert "9" * 40 + "…" in error.message
    assert "9" * 41 not in error.message


def test_the_row_of_a_bad_cell_is_found_in_a_long_column(tmp_path: Path) -> None:
    size = 5000
    long = {name: [cells[0]] * size for name, cells in GOOD.items()}
    for row in (0, 1234, size - 1):
        amounts = [1.0] * row + ["?"] + [1.0] * (size - row - 1)
        assert f"Data row {row + 1} (line {row + 2})" in refused(csv_file(tmp_path, long | {"amount": amounts})).message


def test_a_row_with_too_few_cells_is_named(tmp_path: Path) -> None:
    path = csv_file(tmp_path, GOOD)
    with path.open("a", encoding="utf-8") as file:
        file.write("2024-01-04,0,c\n")
    assert refused(path).message == "Data row 4 (line 5) has 3 cells where the header has 7."


@pytest.mark.parametrize("name", sorted(set(GOOD) - {"free text"}))
@pytest.mark.parametrize("write", [csv_file, parquet_file])
def test_a_missing_column_is_named_beside_those_that_exist(tmp_path: Path, write: Any, name: str) -> None:
    error = refused(write(tmp_path, {other: cells for other, cells in GOOD.items() if other != name}))
    assert error.code == "column-missing"
    assert repr(name) in error.message
    assert "free text" in error.message


def test_a_column_named_twice_is_refused(tmp_path: Path) -> None:
    names, cells = [*GOOD, "card"], [*(pa.array(values) for values in GOOD.values()), pa.array(["a", "b", "c"])]
    parquet = tmp_path / "twice.parquet"
    pq.write_table(pa.table(cells, names=names), parquet)
    csv = csv_file(tmp_path, GOOD)
    csv.write_text(csv.read_text(encoding="utf-8").replace("free text", "card"), encoding="utf-8")
    for path in (parquet, csv):
        error = refused(path)
        assert error.code == "table-invalid"
        assert "column 'card' more than once" in error.message


@pytest.mark.parametrize("kind", [["a", "b", "c"], [True, False, True], [None] * 3, [date(2024, 1, 1)] * 3, [[1]] * 3])
def test_a_feature_that_is_not_numeric_is_refused(tmp_path: Path, kind: list[Any]) -> None:
    error = refused(parquet_file(tmp_path, GOOD | {"speed": kind}))
    assert error.code == "feature-forbidden"
    assert "'speed'" in error.message


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    empty = pa.table(GOOD).slice(0, 0)
    pq.write_table(empty, tmp_path / "empty.parquet")
    (tmp_path / "header.csv").write_text(",".join(GOOD) + "\n", encoding="utf-8")
    (tmp_path / "nothing.csv").write_text("", encoding="utf-8")
    for name in ("empty.parquet", "header.csv", "nothing.csv"):
        assert refused(tmp_path / name).code == "table-empty"


def test_a_file_that_is_no_table_is_unreadable(tmp_path: Path) -> None:
    whole = parquet_file(tmp_path, GOOD).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-20])
    (tmp_path / "noise.parquet").write_bytes(bytes(range(256)))
    (tmp_path / "latin.csv").write_bytes(b"when,fraud,\xfc\n")
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "table.xlsx").write_bytes(b"PK")
    names = (
        "cut.parquet",
        "noise.parquet",
        "latin.csv",
        "folder.parquet",
        "folder.csv",
        "table.xlsx",
        "no.csv",
        "no.parquet",
    )
    for name in names:
        error = refused(tmp_path / name)
        assert error.code == "file-unreadable", name
        assert name in error.message


@pytest.mark.parametrize("write", [csv_file, parquet_file])
def test_for_scoring_labels_may_be_unknown(tmp_path: Path, write: Any) -> None:
    some = write(tmp_path, GOOD | {"fraud": [None, 1, None]})
    assert list(read_table(some, SCHEMA, labels="optional").labels) == [0, 1, 0]
    none = write(tmp_path, {name: cells for name, cells in GOOD.items() if name != "fraud"})
    assert list(read_table(none, SCHEMA, labels="optional").labels) == [0, 0, 0]
    wrong = write(tmp_path, GOOD | {"fraud": [None, None, 7]})
    assert "Data row 3" in refused(wrong, labels="optional").message


@pytest.mark.parametrize("labels", [pa.nulls(3), pa.array([None, False, None])])
def test_unknown_labels_may_have_any_type(tmp_path: Path, labels: Any) -> None:
    path = parquet_file(tmp_path, GOOD | {"fraud": labels})
    assert list(read_table(path, SCHEMA, labels="optional").labels) == [0, 0, 0]


# The prepared table


def prepared(rows: int = 5, seed: int = 0) -> Prepared:
    rng = np.random.default_rng(seed)
    return Prepared(
        names=("a", "x:b", "ü"),
        features=rng.normal(size=(rows, 3)).astype(np.float32),
        labels=(np.arange(rows) % 2).astype(np.int8),
        groups=np.array([f"c{i % 3}" for i in range(rows)], dtype=np.str_),
        terminals=np.array(["é", "t" * 128], dtype=np.str_)[np.arange(rows) % 2],
        amounts=rng.random(rows).astype(np.float32),
        times=np.datetime64("2024-01-01T00:00:01", "s") + np.arange(rows),
    )


def written(table: Prepared) -> bytes:
    file = io.BytesIO()
    write_prepared(file, table)
    return file.getvalue()


@settings(max_examples=25)
@given(rows=st.integers(0, 50), seed=st.integers(0, 2**32))
def test_a_prepared_table_survives_the_file_and_its_bytes_depend_on_nothing_else(rows: int, seed: int) -> None:
    before = prepared(rows, seed)
    after = read_prepared(io.BytesIO(written(before)))
    for field in fields(Prepared):
        a, b = getattr(before, field.name), getattr(after, field.name)
        assert np.array_equal(a, b), field.name
    assert after.features.flags.c_contiguous
    assert written(after) == written(before)


def test_a_prepared_table_goes_to_disk_and_back(tmp_path: Path) -> None:
    write_prepared(tmp_path / "p", prepared())
    assert read_prepared(tmp_path / "p").names == ("a", "x:b", "ü")
    with pytest.raises(EscrowError) as caught:
        read_prepared(tmp_path / "q")
    assert caught.value.code == "file-unreadable"


def test_rows_are_selected_by_mask_index_or_slice() -> None:
    table = prepared(6)
    by_mask = table.select(table.labels == 1)
    assert len(by_mask) == by_mask.positives == 3
    assert by_mask.features.flags.c_contiguous
    assert list(table.select(np.array([5, 0])).times) == [table.times[5], table.times[0]]
    assert np.array_equal(table.select(slice(2, 4)).features, table.features[2:4])
    assert len(table.select(slice(0, 0))) == 0


def test_arrays_of_a_wrong_shape_or_type_make_no_prepared_table() -> None:
    table = prepared()
    with pytest.raises(ValueError, match="features must be"):
        replace(table, names=("a",))
    with pytest.raises(ValueError, match="labels must be"):
        replace(table, labels=table.labels.astype(np.int64))
    with pytest.raises(ValueError, match="groups must be"):
        replace(table, groups=table.groups.astype(object))


@given(st.lists(st.text(alphabet="abc", min_size=1, max_size=2), min_size=1, max_size=20))
def test_codes_number_keys_in_order_of_appearance(keys: list[str]) -> None:
    seen = list(dict.fromkeys(keys))
    assert list(codes(np.array(keys))) == [seen.index(key) for key in keys]


def hostile(change: str, cells: Any) -> bytes:
    """A prepared file of three rows in which one column is something else."""
    table = pq.read_table(io.BytesIO(written(prepared(3))))
    table = table.set_column(table.schema.names.index(change), change, cells)
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


CARD = "4929-1234"
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "content",
    [
        hostile("time", pa.array([0, 1500, 0], pa.timestamp("ms"))),
        hostile("time", pa.array([0, 0, 2**60], pa.timestamp("ms"))),
        hostile("time", pa.array([0, None, 0], pa.timestamp("ms"))),
        hostile("time", pa.array([0, 1, 0], pa.timestamp("ms", "UTC"))),
        hostile("label", pa.array([0, 1, 2], pa.int8())),
        hostile("label", pa.array([0, 1, None], pa.int8())),
        hostile("label", pa.array([0, 1, 1], pa.int16())),
        hostile("group", pa.array(["a", CARD + "\0", "b"])),
        hostile("group", pa.array(["a", CARD * 20, "b"])),
        hostile("group", pa.array(["a", "", "b"])),
        hostile("group", pa.array([b"a", b"\xff" + CARD.encode(), b"b"])),
        hostile("terminal", pa.array([None, CARD, "b"])),
        hostile("terminal", pa.array([1, 2, 3])),
        hostile("amount", pa.array([1, -4929.1234, 1], pa.float32())),
        hostile("amount", pa.array([1, NAN, 1], pa.float32())),
        hostile("x:a", pa.array([1, INF, 1], pa.float32())),
        hostile("x:a", pa.array([1, None, 1], pa.float32())),
        hostile("x:a", pa.array([1, 2, 3], pa.float64())),
        hostile("x:a", pa.array([[1.0]] * 3, pa.list_(pa.float32()))),
        b"",
        b"PAR1" + CARD.encode() * 30 + b"PAR1",
        written(prepared())[:-9],
        written(prepared()).replace(b"x:a", b"y:a"),
        written(prepared()).replace(b"x:a", b"x:\xff"),
        written(prepared()).replace(b"label", b"lobel"),
    ],
)
def test_a_hostile_prepared_file_is_refused_without_a_word_of_what_it_holds(content: bytes) -> None:
    with pytest.raises(EscrowError) as caught:
        read_prepared(io.BytesIO(content))
    assert caught.value.code == "table-invalid"
    for told in ("4929", "1234", "nan", "inf", "lobel", "y:a"):
        assert told not in caught.value.diagnostics()


def test_columns_of_a_prepared_file_come_in_one_order_and_once() -> None:
    table = pq.read_table(io.BytesIO(written(prepared(3))))
    first, *others = range(table.num_columns)
    for order in ([*others, first], others, [first, *others, others[-1]]):
        file = io.BytesIO()
        pq.write_table(table.select(order), file)
        with pytest.raises(EscrowError, match="exactly the columns"):
            read_prepared(file)


def test_no_more_rows_are_read_than_allowed() -> None:
    content = written(prepared(10))
    assert len(read_prepared(io.BytesIO(content), rows_at_most=10)) == 10
    with pytest.raises(EscrowError, match="more rows"):
        read_prepared(io.BytesIO(content), rows_at_most=9)


@settings(max_examples=300)
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_flipped_byte_is_refused_or_harmless(place: float, byte: int) -> None:
    content = bytearray(written(prepared(20)))
    content[int(place * len(content))] = byte
    file = io.BytesIO(bytes(content))
    with suppress(EscrowError):
        table = read_prepared(file)
        assert np.isfinite(table.features).all()
        assert set(table.labels.tolist()) <= {0, 1}
