"""Training rows as the contract counts them, for every role that trains."""

from collections.abc import Mapping
from pathlib import Path

from contracts.errors import EscrowError
from models.table import Prepared, read_prepared


def read_rows(inputs: Path, party: str, rows: int) -> Prepared:
    """A party's training rows.

    Raises:
        EscrowError: `counts-differ` if there are not as many as the contract states.
    """
    table = read_prepared(inputs / party / "train.parquet")
    if len(table) != rows:
        message = "A party's table has not the rows that the contract states."
        raise EscrowError("counts-differ", message, party=party)
    return table


def read_tables(inputs: Path, rows: Mapping[str, int]) -> dict[str, Prepared]:
    """Every party's training rows, in the order of the parties' names.

    Raises:
        EscrowError: as `read_rows`; `table-invalid` if two tables differ in their features.
    """
    tables = {party: read_rows(inputs, party, rows[party]) for party in sorted(rows)}
    if len({table.names for table in tables.values()}) != 1:
        raise EscrowError("table-invalid", "The parties' tables have different features.")
    return tables
