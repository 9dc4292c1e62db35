"""Scoring a bank's own transactions with a verified release.

Features are computed at the bank from its own table, as they were for the contract; a table without labels counts every
past payment as genuine.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from contracts.errors import EscrowError
from contracts.schema import Schema
from models.bundle import CHUNK, Bundle
from models.families.base import Float32Vector
from models.features import features_for_scoring
from models.table import Prepared, read_table
from parties.release import Verified

SCORE: Final = "score"


def score(verified: Verified, table: Path, scored: Callable[[int, int], object] = lambda done, total: None) -> Any:  # noqa: ARG005
    """Each transaction's probability of fraud.

    Args:
        verified: a release that was verified, with its model.
        table: raw transactions, .parquet or .csv, with the columns of the contract's schema; labels may be missing.
        scored: told how many rows of how many are done.

    Returns:
        An Arrow table in the order of the rows: time, group, terminal and amount under their own names, and `score`.

    Raises:
        EscrowError: `not-permitted` if the party received no model, and all that `models.table.read_table` raises.
    """
    bundle = verified.bundle
    if bundle is None:
        raise EscrowError("not-permitted", "This party receives no model under the contract.")
    schema = verified.contract.schema_of_rows
    rows = features_for_scoring(read_table(table, schema, labels="optional"), schema)
    return _columns(rows, _scores(bundle, rows, scored), schema)


def _scores(bundle: Bundle, rows: Prepared, scored: Callable[[int, int], object]) -> Float32Vector:
    if rows.names != bundle.manifest.features:
        raise EscrowError("bundle-invalid", "The model's features are not those of the contract's schema.")
    parts = []
    for start in range(0, len(rows), CHUNK):
        parts.append(bundle.scores(rows.features[start : start + CHUNK]))
        scored(start + len(parts[-1]), len(rows))
    return np.concatenate(parts)


def _columns(rows: Prepared, scores: Float32Vector, schema: Schema) -> Any:
    """The Arrow table that is written."""
    names = schema.columns
    found: dict[str, Any] = {
        names.time: rows.times,
        names.group: rows.groups,
        names.terminal: rows.terminals,
        names.amount: rows.amounts,
    }
    if SCORE in found:
        raise EscrowError("table-invalid", f"A column of the schema is called {SCORE!r}, as the result must be.")
    return pa.table({**found, SCORE: scores})


def check_writable(out: Path, table: Path) -> None:
    """Refuse now what would fail after minutes of work."""
    if out.suffix.lower() not in {".parquet", ".csv"}:
        raise EscrowError("file-unwritable", f"{out.name} ends neither in .parquet nor in .csv.")
    if out.is_dir() or not out.parent.is_dir():
        raise EscrowError("file-unwritable", f"{out} cannot be written: no such directory, or it is one.")
    if out.exists() and table.exists() and out.samefile(table):
        raise EscrowError("file-unwritable", f"{out} is the table itself.", "Name another file for the scores.")


def write(out: Path, table: Any) -> None:
    """All or nothing: a reader never sees half a file."""
    partial = out.with_name(f".{out.name}.partial")
    try:
        if out.suffix.lower() == ".csv":
            csv.write_csv(table, partial)
        else:
            pq.write_table(table, partial, compression="zstd")
        partial.replace(out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise EscrowError("file-unwritable", f"{out} cannot be written: {error.strerror or error}.") from None
