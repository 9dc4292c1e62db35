"""Role `aggregate`: the joint model, trained in rounds over parties that all run in this process."""

from pathlib import Path

from models.families.base import make_federated
from models.federated.client import party_app
from models.federated.grid import LocalGrid
from models.federated.rounds import fit_federated
from models.jobs import AggregateJob, Tell
from models.roles.joint import read_tables, write_model


def run(job: AggregateJob, inputs: Path, results: Path, tell: Tell) -> None:
    """Run every round; write the bundle."""
    tables = read_tables(inputs, job.parties)
    family = make_federated(job.model)
    apps = {
        party: party_app(family, table.features, table.labels, party=party, seed=job.seed_bytes)
        for party, table in tables.items()
    }
    names = next(iter(tables.values())).names
    model = fit_federated(
        LocalGrid(apps),
        family,
        job.method,
        job.parties,
        features=len(names),
        seed=job.seed_bytes,
        progress=lambda done, total: tell(f"round {done} of {total}"),
    )
    write_model(job, model, names, results)
