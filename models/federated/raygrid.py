"""Joint training over Flower's simulation on Ray: the same ClientApp and round loop, many parties on one machine.

Rules:

1. Ray is an optional extra. Without it: `extra-missing`, before anything starts.
2. All of it runs in a process of its own, `python -m models.federated.raygrid DIRECTORY PRIVATE`, that is ended with
   everything it started; without telemetry and without a dashboard.
3. A virtual node plays the party that its number stands for in the order of the names. It learns which number that is
   from Flower's configuration of the node, and the loop from a query that is no part of the rounds.

Ray carries messages between its processes as pickles. That is why nothing but a simulation runs here.
"""

import importlib.util
import sys
import time
from pathlib import Path
from typing import Final, cast

from contracts.errors import EscrowError
from models.federated.hosted import (
    Journal,
    Started,
    Timing,
    begun,
    environment,
    finished,
    job_in,
    noted,
    quiet,
    watched,
)
from models.federated.superlink import private_directory
from models.jobs import Place, Tell

_INSTALL: Final = "Install it: pip install 'model-escrow[simulation]'."


def run_ray(directory: Path, *, tell: Tell = quiet, seconds: float = 3600.0) -> Timing:
    """Train the job of role `federated` in a directory on Ray; its results are that role's.

    Args:
        directory: `job.json` and `inputs/`, as `models.federated.hosted` says.
        tell: hears of each round.
        seconds: how long all of it may take.

    Raises:
        EscrowError: `extra-missing` without Ray; `file-unwritable` if the job has results; what ended the round loop;
            `worker-lost`; `limit-time`.
    """
    if importlib.util.find_spec("ray") is None:
        raise EscrowError("extra-missing", "The engine ray needs Ray, which is not installed.", _INSTALL)
    began = time.monotonic()
    directory = directory.resolve()
    job_in(directory)
    begun(Place.of(directory))
    with private_directory() as private:
        settings = environment(private) | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
        command = [sys.executable, "-m", __name__, str(directory), str(private)]
        process = Started(command, environment=settings, log=private / "ray.log")
        journal = Journal(private / "journal.jsonl")
        try:
            watched(process, [], journal, tell, until=began + seconds)
        finally:
            process.end()
        finished(Place.of(directory))
        rounds = journal.rounds()
    return Timing(time.monotonic() - began, rounds)


def main(directory: Path, private: Path) -> None:
    """Run the simulation in this process."""
    from flwr.app import ConfigRecord, Context, Message, RecordDict  # noqa: PLC0415 - Flower is for the child alone
    from flwr.clientapp import ClientApp  # noqa: PLC0415
    from flwr.serverapp import Grid, ServerApp  # noqa: PLC0415
    from flwr.simulation import run_simulation  # noqa: PLC0415

    from models.federated.hostgrid import DeferredApp, HostGrid, await_nodes  # noqa: PLC0415
    from models.federated.superlink_apps import app_of, run_rounds  # noqa: PLC0415

    job = job_in(directory)
    names = sorted(job.parties)

    def who() -> ClientApp:
        app = ClientApp()

        @app.query("who")
        def answer(message: Message, context: Context) -> Message:
            number = cast("int", context.node_config["partition-id"])
            return Message(RecordDict({"who": ConfigRecord({"number": number})}), reply_to=message)

        return app

    def made(message: Message, context: Context) -> ClientApp:
        if message.metadata.message_type == "query.who":
            return who()
        return app_of(directory, names[cast("int", context.node_config["partition-id"])])

    server = ServerApp()

    @server.main()
    def rounds(grid: Grid, context: Context) -> None:  # noqa: ARG001 - Flower's signature
        with noted(journal := Journal(private / "journal.jsonl")):
            asked = [Message(RecordDict(), node, "query.who") for node in await_nodes(grid, len(names))]
            numbers = {
                reply.metadata.src_node_id: cast("int", reply.content.config_records["who"]["number"])
                for reply in grid.send_and_receive(asked)
            }
            nodes = {node: names[number] for node, number in numbers.items()}
            run_rounds(job, directory, HostGrid(grid, nodes), journal)

    run_simulation(
        server,
        DeferredApp(made),
        len(names),
        backend_config={
            "client_resources": {"num_cpus": 1},
            "init_args": {"include_dashboard": False, "_temp_dir": str(private / "ray")},
        },
    )


if __name__ == "__main__":
    main(*(Path(each) for each in sys.argv[1:]))
