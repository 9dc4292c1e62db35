"""Cells: each column of a bank's file becomes one checked array, or one error that names the first bad cell.

Text is parsed whatever file it came from; every other type must already be right. Rules:

1. no null, unless a label may be unknown;
2. a time is ISO 8601 or a date or timestamp, without zone; fractions of a second are dropped;
3. a label is 0 or 1, an amount lies in its range, a feature is finite, each also as float32;
4. a group or terminal is whole number or text, neither empty nor longer than `KEY_LENGTH`, and without NUL.
"""

import csv as text
import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from contracts.errors import EscrowError

KEY_LENGTH: Final = 128
"""Characters that a group or terminal may have at most."""

SHOWN: Final = 40
"""Characters of a cell that an error shows at most."""

_ZONE: Final = re.compile(r"\d\d:\d\d.*(Z|[+-]\d\d(:?\d\d)?)$")


@dataclass(frozen=True, eq=False)
class Cells:
    """One raw column.

    Attributes:
        name: the column's name in the file.
        values: an Arrow array `(n,)`.
        line: finds the line of the file that holds the row of an index; None where a file has no lines.
    """

    name: str
    values: Any
    line: Callable[[int], int | None] | None = None

    def refuse(self, row: int, what: str) -> EscrowError:
        """Make the error for the cell in the row of this index (0-based; people are told the 1-based data row)."""
        held = _shown(self.values.slice(row, 1))
        number = self.line(row) if self.line else None
        line = "" if number is None else f" (line {number})"
        return EscrowError("table-invalid", f"Data row {row + 1}{line}, column {self.name!r}: the cell {what}{held}.")

    def refuse_where(self, bad: Any, what: str) -> None:
        """Refuse the first cell that the mask `(n,)` marks, if there is one."""
        marked = np.asarray(bad, dtype=bool)
        if marked.any():
            raise self.refuse(int(marked.argmax()), what)

    def convert(self, values: Any, kind: Any, what: Callable[[int], str]) -> Any:
        """Cast safely; if a cell does not fit, refuse the first such cell."""

        def fails(count: int) -> bool:
            try:
                values[:count].cast(kind)
            except pa.ArrowException:
                return True
            return False

        try:
            return values.cast(kind)
        except pa.ArrowException:
            row = bisect_left(range(1, len(values) + 1), True, key=fails)
            raise self.refuse(row, what(row)) from None

    def decoded(self) -> "Cells":
        """The same column with bytes decoded as UTF-8; columns of other types as they are."""
        if not pa.types.is_binary(self.values.type):
            return self
        decoded = self.convert(self.values, pa.string(), lambda _: "is not UTF-8")
        return Cells(self.name, decoded, self.line)


def _shown(cell: Any) -> str:
    """Show the one cell of an array in an error: shortened, or its type where it has no text."""
    if cell.null_count:
        return ""
    if pa.types.is_binary(cell.type):
        value = cell[0].as_py().decode(errors="backslashreplace")
    else:
        try:
            value = cell.cast(pa.string())[0].as_py()
        except pa.ArrowException:
            return f": of type {cell.type}"
    return f": {value if len(value) <= SHOWN else value[:SHOWN] + '…'!r}"


def read_columns(path: Path, wanted: list[str], *, may_miss: str | None = None) -> dict[str, Cells]:
    """Read the wanted columns of a `.parquet` or `.csv` file; `may_miss` may be absent.

    Raises:
        EscrowError: `file-unreadable`, `column-missing`, `table-empty` (a CSV file without header) or `table-invalid`.
    """
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise EscrowError("file-unreadable", f"{path.name} is neither a .parquet nor a .csv file.")
    try:
        return readers[path.suffix.lower()](path, wanted, may_miss)
    except (OSError, UnicodeDecodeError, text.Error, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        raise EscrowError("file-unreadable", f"{path.name} cannot be read: {reason}.") from None


def times(cells: Cells) -> npt.NDArray[np.datetime64]:
    """datetime64[s] `(n,)` on the table's own clock."""
    kind = cells.values.type
    cells.refuse_where(cells.values.is_null(), "is empty")
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        raise cells.refuse(0, "has a time zone; write the table's own clock, without zone")
    values = cells.values
    if pa.types.is_string(kind):
        trimmed = pc.utf8_trim_whitespace(values)
        values = cells.convert(trimmed, pa.timestamp("ns"), lambda row: _not_a_time(trimmed[row].as_py()))
    elif not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise cells.refuse(0, "is not a time (ISO 8601 text, a date or a timestamp)")
    ticks: npt.NDArray[np.datetime64] = values.to_numpy(zero_copy_only=False)
    seconds = ticks.astype("datetime64[s]")
    cells.refuse_where(~plausible(seconds), "is not a time of the years 1 to 9999")
    return seconds


def plausible(seconds: npt.NDArray[np.datetime64]) -> npt.NDArray[np.bool_]:
    """Which times lie in the years 1 to 9999, so that no sum of seconds overflows."""
    return (seconds >= np.datetime64("0001-01-01", "s")) & (seconds < np.datetime64("10000-01-01", "s"))


def _not_a_time(cell: str) -> str:
    if _ZONE.search(cell):
        return "has a time zone; write the table's own clock, without zone"
    return "is not an ISO 8601 time such as 2018-07-25 13:45:00"


def labels(cells: Cells, *, optional: bool) -> npt.NDArray[np.int8]:
    """int8 `(n,)`, 0 or 1; where labels are optional an empty cell is 0."""
    if optional:
        raw = cells.values.cast(pa.int8()) if pa.types.is_null(cells.values.type) else cells.values
        unknown = "0" if pa.types.is_string(raw.type) else pa.scalar(0).cast(raw.type)
        cells = Cells(cells.name, raw.fill_null(unknown), cells.line)
    values = _numbers(cells)
    cells.refuse_where(~np.isin(values, (0, 1)), "is not a label (0 or 1)")
    return values.astype(np.int8)


def amounts(cells: Cells, *, at_most: float) -> npt.NDArray[np.float32]:
    """float32 `(n,)`, finite and from 0 to `at_most`."""
    values = _numbers(cells)
    cells.refuse_where(~np.isfinite(values), "is not a finite amount")
    cells.refuse_where(values < 0, "is a negative amount")
    cells.refuse_where(values > at_most, f"is an amount above {at_most:g}")
    return finite(cells)


def finite(cells: Cells) -> npt.NDArray[np.float32]:
    """float32 `(n,)`, finite."""
    with np.errstate(over="ignore"):
        values = _numbers(cells).astype(np.float32)
    cells.refuse_where(~np.isfinite(values), "is not a finite number (float32)")
    return values


def keys(cells: Cells) -> npt.NDArray[np.str_]:
    """Strings `(n,)`; whole numbers become their decimal text."""
    cells.refuse_where(cells.values.is_null(), "is empty")
    if not (pa.types.is_string(cells.values.type) or pa.types.is_integer(cells.values.type)):
        raise cells.refuse(0, "is neither text nor a whole number")
    encoded = cells.values.cast(pa.string()).dictionary_encode()
    bad = bad_keys(encoded.dictionary)
    cells.refuse_where(bad[encoded.indices.to_numpy()], f"is empty, longer than {KEY_LENGTH} characters or holds a NUL")
    return key_array(encoded)


def is_number(kind: Any) -> bool:
    """Whether an Arrow type is an integer, a float or a decimal."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def bad_keys(distinct: Any) -> npt.NDArray[np.bool_]:
    """Which strings cannot be a group or terminal; numpy drops trailing NULs, which would make two cards one."""
    length: npt.NDArray[np.int32] = np.asarray(pc.utf8_length(distinct))
    with_nul: npt.NDArray[np.bool_] = np.asarray(pc.match_substring(distinct, "\0"), dtype=bool)
    bad: npt.NDArray[np.bool_] = (length == 0) | (length > KEY_LENGTH) | with_nul
    return bad


def key_array(encoded: Any) -> npt.NDArray[np.str_]:
    """Turn a dictionary-encoded string column into a numpy array, converting each distinct string once."""
    distinct = np.array(encoded.dictionary.to_pylist(), dtype=np.str_)
    indices: npt.NDArray[np.int32] = encoded.indices.to_numpy()
    return distinct[indices]


def _numbers(cells: Cells) -> npt.NDArray[np.float64]:
    kind = cells.values.type
    cells.refuse_where(cells.values.is_null(), "is empty")
    if not (is_number(kind) or pa.types.is_string(kind) or pa.types.is_boolean(kind)):
        raise cells.refuse(0, "is not a number")
    if pa.types.is_string(kind):
        parsed = cells.convert(pc.utf8_trim_whitespace(cells.values), pa.float64(), lambda _: "is not a number")
    else:
        parsed = cells.values.cast(pa.float64(), safe=False)
    numbers: npt.NDArray[np.float64] = parsed.to_numpy()
    return numbers


def _found(path: Path, header: list[str], wanted: list[str], may_miss: str | None) -> list[str]:
    """The wanted columns that the file has, once each."""
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise EscrowError("table-invalid", f"{path.name} names the column {twice[0]!r} more than once.")
    missing = [name for name in wanted if name not in header and name != may_miss]
    if missing:
        has = ", ".join(header)[:400]
        raise EscrowError("column-missing", f"{path.name} has no column {missing[0]!r}; it has: {has}.")
    return [name for name in wanted if name in header]


def _read_parquet(path: Path, wanted: list[str], may_miss: str | None) -> dict[str, Cells]:
    with pq.ParquetFile(path) as file:
        names = _found(path, file.schema_arrow.names, wanted, may_miss)
        table = file.read(columns=names)
    return {name: Cells(name, _plain(table[name])).decoded() for name in names}


def _plain(column: Any) -> Any:
    """One array without dictionary; text as bytes, which are decoded where a wrong one can be named."""
    array = column.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_large_binary)
    return array.cast(pa.binary()) if any(is_text(array.type) for is_text in texts) else array


def _read_csv(path: Path, wanted: list[str], may_miss: str | None) -> dict[str, Cells]:
    """Every cell as text: nothing is guessed, so that a card `007` stays `007`."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next((record for record in text.reader(file) if record), None)
    if header is None:
        raise EscrowError("table-empty", f"{path.name} has no rows.")
    names = _found(path, header, wanted, may_miss)
    ragged: list[Any] = []

    def stop(row: Any) -> str:
        ragged.append(row)
        return "error"

    try:
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(use_threads=False),  # threads would lose the row's number
            parse_options=csv.ParseOptions(newlines_in_values=True, invalid_row_handler=stop),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.binary()),
                include_columns=names,
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid:
        if not ragged:
            raise
        row = ragged[0]
        where = f"Data row {row.number - 1} (line {_line(path, row.number - 1)})"
        what = f"has {row.actual_columns} cells where the header has {row.expected_columns}"
        raise EscrowError("table-invalid", f"{where} {what}.") from None
    return {
        name: Cells(name, table[name].combine_chunks(), lambda row: _line(path, row + 1)).decoded() for name in names
    }


def _line(path: Path, record: int) -> int | None:
    """Find the line on which a record of a CSV file ends; the header is record 0, empty lines are none."""
    seen = -1
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        reader = text.reader(file)
        try:
            for cells in reader:
                seen += bool(cells)
                if seen == record:
                    return reader.line_num
        except text.Error:
            return None  # a cell longer than this reader takes: the data row has to do
    return None
