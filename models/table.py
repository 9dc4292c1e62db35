"""Tables: a bank's own card transactions as they are read, and the prepared table that a model trains on.

A prepared table crosses from a bank into a sealed run, so the file that holds one is read as if an enemy wrote it:

1. the columns, their order and their types are exactly those that `write_prepared` writes;
2. no cell is null, labels are 0 or 1, amounts and features are finite, groups and terminals are short and not empty;
3. there are no more rows than the reader allows, checked before they are read;
4. no error tells a value, a row or a name that the file holds.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import EscrowError
from contracts.schema import Schema
from models import cells
from models.cells import KEY_LENGTH, Cells, bad_keys, key_array

FEATURES_AT_MOST: Final = 4096
"""Features that a prepared table may have at most."""

_FIXED: Final = (
    ("time", pa.timestamp("ms")),  # Parquet has no seconds; a fraction of one is refused
    ("label", pa.int8()),
    ("group", pa.string()),
    ("terminal", pa.string()),
    ("amount", pa.float32()),
)
_FEATURE: Final = "x:"


@dataclass(frozen=True, eq=False)
class Table:
    """A bank's own card transactions as they are, checked; `n` rows in the file's order, `e` extra columns.

    Attributes:
        times: datetime64[s] `(n,)`, the table's own clock.
        labels: int8 `(n,)`, 1 = fraud; where labels are optional, 0 also means unknown.
        groups: str `(n,)`, the card or customer.
        terminals: str `(n,)`.
        amounts: float32 `(n,)`, not negative.
        extra: float32 `(n, e)`, the columns `schema.features` in that order.
    """

    times: npt.NDArray[np.datetime64]
    labels: npt.NDArray[np.int8]
    groups: npt.NDArray[np.str_]
    terminals: npt.NDArray[np.str_]
    amounts: npt.NDArray[np.float32]
    extra: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.times)


def read_table(path: Path, schema: Schema, *, labels: Literal["required", "optional"] = "required") -> Table:
    """Read a bank's table from `.parquet` or `.csv` (UTF-8, commas, a header line) and check every cell that is used.

    Args:
        path: the file.
        schema: names the columns; the file's other columns are not read.
        labels: `optional` for scoring: a missing label column or an empty label means unknown and becomes 0.

    Raises:
        EscrowError: `file-unreadable`, `column-missing`, `feature-forbidden`, `table-empty`, or `table-invalid` with
            the first bad cell of a column: its 1-based data row, in a CSV file also its line, and the column.
    """
    wanted = [*schema.columns.names(), *(name for name in schema.features if name != schema.columns.amount)]
    raw = cells.read_columns(path, wanted, may_miss=schema.columns.label if labels == "optional" else None)
    rows = len(raw[schema.columns.time].values)
    if not rows:
        raise EscrowError("table-empty", f"{path.name} has no rows.")
    return Table(
        times=cells.times(raw[schema.columns.time]),
        labels=_labels(raw.get(schema.columns.label), rows, labels),
        groups=cells.keys(raw[schema.columns.group]),
        terminals=cells.keys(raw[schema.columns.terminal]),
        amounts=cells.amounts(raw[schema.columns.amount], at_most=schema.amount_at_most),
        extra=_extra([raw[name] for name in schema.features], rows),
    )


@dataclass(frozen=True, eq=False)
class Prepared:
    """Rows that a model can train on or be tested on; `n` rows, `d` features, in one order throughout.

    Attributes:
        names: `(d,)` the features' names.
        features: float32 `(n, d)`, C-contiguous, finite.
        labels: int8 `(n,)`, 1 = fraud.
        groups: str `(n,)`, the card: the unit that is resampled.
        terminals: str `(n,)`.
        amounts: float32 `(n,)`, in the table's own currency.
        times: datetime64[s] `(n,)`, the table's own clock.
    """

    names: tuple[str, ...]
    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int8]
    groups: npt.NDArray[np.str_]
    terminals: npt.NDArray[np.str_]
    amounts: npt.NDArray[np.float32]
    times: npt.NDArray[np.datetime64]

    def __post_init__(self) -> None:
        n = len(self.labels)
        kinds = {
            "features": ("f4", (n, len(self.names))),
            "labels": ("i1", (n,)),
            "groups": ("U", (n,)),
            "terminals": ("U", (n,)),
            "amounts": ("f4", (n,)),
            "times": ("M8[s]", (n,)),
        }
        for name, (kind, shape) in kinds.items():
            array = getattr(self, name)
            same = array.dtype.kind == "U" if kind == "U" else array.dtype == np.dtype(kind)
            if not same or array.shape != shape:
                raise ValueError(f"{name} must be {kind} of shape {shape}, not {array.dtype} of shape {array.shape}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def positives(self) -> int:
        """The number of rows labelled 1."""
        return int(np.count_nonzero(self.labels))

    def select(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp] | slice) -> "Prepared":
        """The rows of a mask, of indices or of a slice, in that order."""
        picked = {field.name: getattr(self, field.name)[rows] for field in fields(self) if field.name != "names"}
        picked["features"] = np.ascontiguousarray(picked["features"])
        return Prepared(names=self.names, **picked)


def codes(keys: npt.NDArray[np.str_]) -> npt.NDArray[np.int32]:
    """Number the distinct keys 0, 1, ... in order of first appearance; int32 `(n,)`, faster than sorting strings."""
    encoded = pa.array(keys, type=pa.string()).dictionary_encode()
    return np.asarray(encoded.indices, dtype=np.int32)


def write_prepared(path: Path | BinaryIO, prepared: Prepared) -> None:
    """Write a prepared table as Parquet; the same rows give the same bytes with the same pyarrow.

    Columns: `time` timestamp[ms] of whole seconds, `label` int8, `group` string, `terminal` string, `amount` float32,
    then one float32 column `x:NAME` for each feature, in order.
    """
    values = (prepared.times, prepared.labels, prepared.groups, prepared.terminals, prepared.amounts)
    columns = [pa.array(value).cast(kind) for value, (_, kind) in zip(values, _FIXED, strict=True)]
    columns += [pa.array(prepared.features[:, j], type=pa.float32()) for j in range(len(prepared.names))]
    schema = pa.schema([*_FIXED, *((_FEATURE + name, pa.float32()) for name in prepared.names)])
    pq.write_table(
        pa.table(columns, schema=schema), path, compression="zstd", row_group_size=1 << 20, store_schema=False
    )


def read_prepared(path: Path | BinaryIO, *, rows_at_most: int = 50_000_000) -> Prepared:
    """Read what `write_prepared` wrote, trusting nothing in the file.

    Raises:
        EscrowError: `file-unreadable` if there is no such file, else `table-invalid`; no text tells what is in it.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = _feature_names(file, rows_at_most)
            table = file.read(use_threads=False)
        table = table.set_column(0, "time", table["time"].cast(pa.timestamp("s")))
        table.validate(full=True)
    except FileNotFoundError:
        raise EscrowError("file-unreadable", "The prepared table is not there.") from None
    except (OSError, ValueError, TypeError, pa.ArrowException):
        raise _refuse("is not a readable Parquet file") from None
    columns = [column.combine_chunks() for column in table.columns]
    if any(column.null_count for column in columns):
        raise _refuse("has a null cell")
    times, labels, groups, terminals, amounts, *features = columns
    prepared = Prepared(
        names=names,
        features=_matrix(features, table.num_rows),
        labels=np.array(labels),
        groups=_checked_keys(groups, "group"),
        terminals=_checked_keys(terminals, "terminal"),
        amounts=np.array(amounts),
        times=np.array(times),
    )
    if not np.isin(prepared.labels, (0, 1)).all():
        raise _refuse("has a label other than 0 and 1")
    if not (np.isfinite(prepared.amounts) & (prepared.amounts >= 0)).all():
        raise _refuse("has an amount that is negative or not finite")
    if not cells.plausible(prepared.times).all():
        raise _refuse("has a time outside the years 1 to 9999")
    if not np.isfinite(prepared.features).all():
        raise _refuse("has a feature that is not finite")
    return prepared


def _refuse(what: str) -> EscrowError:
    return EscrowError("table-invalid", f"The prepared table {what}.", "Prepare the deposit again.")


def _feature_names(file: Any, rows_at_most: int) -> tuple[str, ...]:
    """Check the file's footer before any row is read; the names of its features."""
    if file.metadata.num_rows > rows_at_most:
        raise _refuse("has more rows than the reader allows")
    found = [(field.name, field.type) for field in file.schema_arrow]
    names = tuple(name.removeprefix(_FEATURE) for name, _ in found[len(_FIXED) :])
    expected = [*_FIXED, *((_FEATURE + name, pa.float32()) for name in names)]
    if found != expected or len(set(names)) != len(names) or len(names) > FEATURES_AT_MOST:
        raise _refuse("does not have exactly the columns that a prepared table has")
    return names


def _matrix(columns: list[Any], rows: int) -> npt.NDArray[np.float32]:
    matrix = np.empty((rows, len(columns)), dtype=np.float32)
    for j, column in enumerate(columns):
        matrix[:, j] = column.to_numpy()
    return matrix


def _checked_keys(column: Any, role: str) -> npt.NDArray[np.str_]:
    encoded = column.dictionary_encode()
    if bad_keys(encoded.dictionary).any():
        raise _refuse(f"has a {role} that is empty, longer than {KEY_LENGTH} characters or holds a NUL")
    return key_array(encoded)


def _labels(column: Cells | None, rows: int, labels: Literal["required", "optional"]) -> npt.NDArray[np.int8]:
    if column is None:
        return np.zeros(rows, dtype=np.int8)
    return cells.labels(column, optional=labels == "optional")


def _extra(columns: list[Cells], rows: int) -> npt.NDArray[np.float32]:
    matrix = np.empty((rows, len(columns)), dtype=np.float32)
    for j, column in enumerate(columns):
        if not (cells.is_number(column.values.type) or column.line):
            raise EscrowError("feature-forbidden", f"Column {column.name!r} holds {column.values.type}, not numbers.")
        matrix[:, j] = cells.finite(column)
    return matrix
