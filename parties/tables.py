"""A table for capsules, which is deposited as it is: only its rows are counted, for the contract states them."""

import csv
from pathlib import Path

from contracts.errors import EscrowError
from parties.sending import Content


def table_content(file: Path, rows: int | None = None) -> Content:
    """A file as a table to be deposited.

    Args:
        file: the table; of `.csv` and `.parquet` the rows are counted.
        rows: how many it has, if it is another kind of file.

    Raises:
        EscrowError: `file-unreadable`; `table-invalid` if its rows cannot be counted; `table-empty`; `counts-differ` if
            it has another number of `rows`; `usage` if its rows cannot be counted and are not given.
    """
    if not file.is_file():
        raise EscrowError("file-unreadable", f"{file} is not a regular file that can be read.")
    counted = _counted(file)
    if counted is None and rows is None:
        raise EscrowError("usage", f"The rows of {file.name} cannot be counted.", "Say how many there are with --rows.")
    if counted is not None and rows not in {None, counted}:
        raise EscrowError("counts-differ", f"{file.name} has {counted} rows, not {rows}.", "Leave --rows out.")
    if counted == 0:
        raise EscrowError("table-empty", f"{file.name} has no rows.")
    return Content("table", lambda: file.open("rb"), rows=rows if counted is None else counted)


def _counted(file: Path) -> int | None:
    """Its rows; None for a kind of file that nothing here reads."""
    match file.suffix.lower():
        case ".csv":
            return _csv_rows(file)
        case ".parquet":
            return _parquet_rows(file)
        case _:
            return None


def _csv_rows(file: Path) -> int:
    """Records below the header; a line break inside quotes ends none, and an empty line is none."""
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return max(sum(1 for record in csv.reader(lines) if record) - 1, 0)
    except OSError as error:
        raise EscrowError("file-unreadable", f"{file} cannot be read: {error.strerror}.") from None
    except (csv.Error, UnicodeDecodeError):
        raise EscrowError("table-invalid", f"{file.name} is not CSV in UTF-8.") from None


def _parquet_rows(file: Path) -> int:
    import pyarrow as pa  # noqa: PLC0415 - slow to import, and a CSV needs none of it
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        return int(pq.read_metadata(file).num_rows)
    except OSError as error:
        raise EscrowError("file-unreadable", f"{file} cannot be read: {error}.") from None
    except pa.ArrowInvalid:
        raise EscrowError("table-invalid", f"{file.name} is not Parquet.") from None
