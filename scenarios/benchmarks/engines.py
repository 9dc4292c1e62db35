"""The same job on the engines of others: Flower's simulation on Ray, and its SuperLink with SuperNodes and TLS.

They get the rows, the model, the method and the seed of the sealed run's contract. What they have not to do is less:
no container, no ledger, no own model of each bank to compare with.
"""

from math import nan
from pathlib import Path
from statistics import median

from contracts.contract import Contract
from contracts.errors import EscrowError
from models.federated.hosted import Timing
from scenarios.benchmarks.rounds import Timed, tables
from scenarios.direct import write_job


def job_directory(directory: Path, contract: Contract) -> Path:
    """The training of a contract of the three banks as one job, with its rows; the directory."""
    write_job(directory, contract, ((name, train) for name, (train, _) in tables().items()))
    return directory


def on_ray(directory: Path) -> Timed | None:
    """The job on Ray; None if this machine has no Ray."""
    from models.federated.raygrid import run_ray  # noqa: PLC0415 - an extra, and slow to import

    try:
        return _timed(run_ray(directory))
    except EscrowError as error:
        if error.code == "extra-missing":
            return None
        raise


def on_superlink(directory: Path) -> Timed:
    """The job over SuperLink."""
    from models.federated.superlink import run_superlink  # noqa: PLC0415 - slow to import

    return _timed(run_superlink(directory))


def round_seconds(timed: Timed | None) -> float:
    """The median round; not a number where there was none."""
    return median(timed.rounds) if timed is not None else nan


def _timed(timing: Timing) -> Timed:
    return Timed(timing.rounds[1:], timing.seconds)
