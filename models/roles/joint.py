"""What the roles that train the joint model share: everyone's rows as the contract counts them, and the bundle."""

from collections.abc import Mapping
from pathlib import Path

from contracts.errors import EscrowError
from models import bundle
from models.families.base import Model
from models.jobs import AggregateJob, PooledJob
from models.table import Prepared, read_prepared


def read_tables(inputs: Path, rows: Mapping[str, int]) -> dict[str, Prepared]:
    """Every party's training rows, in the order of the parties' names.

    Raises:
        EscrowError: `counts-differ` if a table has not the rows that the contract states, `table-invalid` if two
            tables differ in their features.
    """
    tables = {party: read_prepared(inputs / party / "train.parquet") for party in sorted(rows)}
    for party, table in tables.items():
        if len(table) != rows[party]:
            raise EscrowError("counts-differ", f"Party {party}'s table has not the rows that the contract states.")
    if len({table.names for table in tables.values()}) != 1:
        raise EscrowError("table-invalid", "The parties' tables have different features.")
    return tables


def write_model(job: PooledJob | AggregateJob, model: Model, names: tuple[str, ...], results: Path) -> None:
    """Write the joint model's bundle."""
    bundle.write(
        results / "model",
        model,
        names=names,
        schema=job.data_schema,
        spec=job.model,
        contract=job.contract,
    )
