"""The program inside a sealed worker: `python -m models.worker JOBDIR [RESULTS]`.

It reads `JOBDIR/job.json` and `JOBDIR/inputs/`, writes what the job's role declares under `RESULTS` (which the runtime
has made, empty; `JOBDIR/results` if it is not named) and ends with 0. Rules:

1. If it fails, `failure.json` among the results holds a catalogued code, the name of the party that is to blame if one
   is, and nothing else, and it ends with 1; what went wrong in words goes to standard error, which is for the operator
   of this machine alone.
2. Standard output holds progress, one JSON object a line, and nothing that depends on the data but the time it takes.
3. One thread unless the job says otherwise, so that the same job gives the same bytes.
4. Only the role's own module is imported: torch, scikit-learn and Flower take seconds.
"""

import errno
import gc
import os
import shutil
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Final

from contracts.canonical import canonical
from contracts.errors import EscrowError, Exit
from models.jobs import Job, Place, read_job

_ONE_PER_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(arguments: list[str]) -> int:
    """Do the job in the directory that is the first argument; the exit code."""
    if len(arguments) not in (1, 2):
        sys.stderr.write("usage: python -m models.worker JOBDIR [RESULTS]\n")
        return Exit.USAGE
    directory, *elsewhere = map(Path, arguments)
    place = Place.of(directory, *elsewhere)
    try:
        job = read_job(directory / "job.json")
        _settle(job.threads)
        _perform(job, place)
    except EscrowError as error:
        sys.stderr.write(error.diagnostics() + "\n")
        return _failed(place, error.code, error.party)
    except Exception as error:  # noqa: BLE001 - whatever happens, only a code may leave the worker
        traceback.print_exc()
        full = isinstance(error, OSError) and error.errno in _NO_ROOM
        return _failed(place, "limit-results" if full else "training-failed")
    return Exit.OK


def _failed(place: Place, code: str, party: str | None = None) -> int:
    """Leave this and nothing else: half a result is of no use, and the code may need its room."""
    for path in place.results.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (place.results / "failure.json").write_bytes(canonical({"code": code} | ({"party": party} if party else {})))
    return Exit.REFUSED


def _settle(threads: int) -> None:
    """What the libraries read from the environment when they are imported."""
    os.environ.update(dict.fromkeys(_ONE_PER_THREAD, str(threads)))
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1")


def _perform(job: Job, place: Place) -> None:
    role = import_module(f"models.roles.{job.role}")
    role.run(job, place, _tell)


def _tell(words: str) -> None:
    sys.stdout.write(canonical({"progress": words}).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    gc.set_threshold(20_000)  # loading a framework makes 300,000 objects and no garbage; to look for it takes .3 s
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # what is left is to tear the framework down, which takes .3 s too
