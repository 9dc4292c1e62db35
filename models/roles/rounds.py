"""What the roles `federated` and `aggregate` share: the rounds over a grid, wherever its parties are."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from models.families.base import make_federated
from models.federated.grid import PartyGrid
from models.federated.rounds import Keep, fit_federated
from models.jobs import AggregateJob, FederatedJob, Tell
from models.roles.joint import write_model


def train_in_rounds(
    job: FederatedJob | AggregateJob,
    grid: PartyGrid,
    names: Sequence[str],
    results: Path,
    tell: Tell,
    *,
    keep: Keep | None = None,
    start: BinaryIO | None = None,
) -> None:
    """Run every round, or those that a checkpoint `start` leaves; write the bundle."""
    model = fit_federated(
        grid,
        make_federated(job.model),
        job.method,
        job.parties,
        features=len(names),
        seed=job.seed_bytes,
        progress=lambda done, total: tell(f"round {done} of {total}"),
        keep=keep,
        start=start,
    )
    write_model(job, model, names, results)
