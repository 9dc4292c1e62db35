"""The program inside a sealed worker: `python -m models.worker JOBDIR`.

It reads `JOBDIR/job.json` and `JOBDIR/inputs/`, writes what the job's role declares under `JOBDIR/results/` (which the
runtime has made, empty) and ends with 0. Rules:

1. If it fails, `results/failure.json` holds a catalogued code and nothing else, and it ends with 1; what went wrong in
   words goes to standard error, which is for the operator of this machine alone.
2. Standard output holds progress, one JSON object a line, and nothing that depends on the data but the time it takes.
3. One thread unless the job says otherwise, so that the same job gives the same bytes.
4. Only the role's own module is imported: torch, scikit-learn and Flower take seconds.
"""

import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Final

from contracts.canonical import canonical
from contracts.errors import EscrowError, Exit
from models.jobs import Job, read_job

_ONE_PER_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main(arguments: list[str]) -> int:
    """Do the job in the directory that is the only argument; the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m models.worker JOBDIR\n")
        return Exit.USAGE
    directory = Path(arguments[0])
    try:
        job = read_job(directory / "job.json")
        _settle(job.threads)
        _perform(job, directory)
    except EscrowError as error:
        sys.stderr.write(error.diagnostics() + "\n")
        return _failed(directory, error.code)
    except Exception:  # noqa: BLE001 - whatever happens, only a code may leave the worker
        traceback.print_exc()
        return _failed(directory, "training-failed")
    return Exit.OK


def _failed(directory: Path, code: str) -> int:
    (directory / "results" / "failure.json").write_bytes(canonical({"code": code}))
    return Exit.REFUSED


def _settle(threads: int) -> None:
    """What the libraries read from the environment when they are imported."""
    os.environ.update(dict.fromkeys(_ONE_PER_THREAD, str(threads)))
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1")


def _perform(job: Job, directory: Path) -> None:
    role = import_module(f"models.roles.{job.role}")
    role.run(job, directory / "inputs", directory / "results", _tell)


def _tell(words: str) -> None:
    sys.stdout.write(canonical({"progress": words}).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
