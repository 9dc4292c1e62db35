"""Role `federated`: the joint model, trained in rounds over parties that all run in this process."""

from models.families.base import make_federated
from models.federated.client import party_app
from models.federated.grid import LocalGrid
from models.jobs import FederatedJob, Place, Tell
from models.roles.rounds import train_in_rounds
from models.roles.rows import read_tables


def run(job: FederatedJob, place: Place, tell: Tell) -> None:
    """Train on everyone's rows, each party's apart."""
    tables = read_tables(place.inputs, job.parties)
    family = make_federated(job.model)
    apps = {
        party: party_app(family, table.features, table.labels, party=party, seed=job.seed_bytes, method=job.method)
        for party, table in tables.items()
    }
    train_in_rounds(job, LocalGrid(apps), next(iter(tables.values())).names, place.results, tell)
