"""What the roles that train the joint model share: its bundle."""

from collections.abc import Sequence
from pathlib import Path

from models import bundle
from models.families.base import Model
from models.jobs import AggregateJob, FederatedJob, PooledJob


def write_model(
    job: PooledJob | FederatedJob | AggregateJob, model: Model, names: Sequence[str], results: Path
) -> None:
    """Write the joint model's bundle."""
    bundle.write(
        results / "model",
        model,
        names=names,
        schema=job.data_schema,
        spec=job.model,
        contract=job.contract,
    )
