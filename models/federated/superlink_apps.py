"""The Flower App that runs on a SuperLink: its ServerApp is our round loop, its ClientApp a party's side of it.

The ServerApp finds the job in the directory that its run's configuration names, and in `plan.json` which node is which
party: the ids that the SuperLink gave when the roster's keys were registered. It asks nobody before exactly those nodes
are there. A SuperNode's own configuration, not the SuperLink, says whose rows it holds and where they lie.
"""

import json
from pathlib import Path
from typing import Final

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from contracts.errors import EscrowError
from models.families.base import make_federated
from models.features import feature_names
from models.federated.client import party_app
from models.federated.hosted import Journal, job_in, noted
from models.federated.hostgrid import DeferredApp, HostGrid, await_nodes
from models.jobs import FederatedJob, Place
from models.roles.rounds import train_in_rounds
from models.roles.rows import read_rows

POLL_SECONDS: Final = 0.25
"""Between two looks for answers: each costs the SuperLink some milliseconds of a core that its nodes need."""

server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds and leave the bundle where the job's results go."""
    private, directory = (Path(str(context.run_config[key])) for key in ("private", "directory"))
    with noted(journal := Journal(private / "journal.jsonl")):
        nodes = {int(node): party for node, party in json.loads((private / "plan.json").read_text()).items()}
        if await_nodes(grid, len(nodes)) != set(nodes):
            raise EscrowError("roster-incomplete", "A node is there that is not on the contract's roster.")
        run_rounds(job_in(directory), directory, HostGrid(grid, nodes, poll=POLL_SECONDS), journal)


def run_rounds(job: FederatedJob, directory: Path, grid: HostGrid, journal: Journal) -> None:
    """The loop of the role `federated` over another grid."""
    journal.tell("begun")
    train_in_rounds(job, grid, feature_names(job.data_schema), Place.of(directory).results, journal.tell)


def app_of(directory: Path, party: str) -> ClientApp:
    """A party's ClientApp over its rows in a job's directory."""
    job = job_in(directory)
    table = read_rows(Place.of(directory).inputs, party, job.parties[party])
    family = make_federated(job.model)
    return party_app(family, table.features, table.labels, party=party, seed=job.seed_bytes, method=job.method)


def _own(message: Message, context: Context) -> ClientApp:  # noqa: ARG001 - as `DeferredApp` calls it
    return app_of(Path(str(context.node_config["directory"])), str(context.node_config["party"]))


client = DeferredApp(_own)
