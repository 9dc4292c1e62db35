"""Weights as large as one likes, through a relay: `python -m scenarios.benchmarks.bulk JOBDIR` is a worker of that.

The model is one vector of float32 to which each party adds 1 in each round; so whoever asks can tell at the end that
everything arrived, and hardly any time goes into anything but moving numbers. All else is the product's: the round
loop, the checks of every part, Flower's average, doors, frames and the relay with its digests. Nobody is sealed: the
workers are plain processes, the relay is in the process that measures.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contracts.frames import KEEPER
from models.families.base import Float32Matrix, Labels, Moments, Parameters
from models.federated.door import Door
from scenarios.benchmarks.child import usage

FEATURES = 1
ROWS = 4


@dataclass(frozen=True)
class Sum:
    """The model: numbers that should all be the same."""

    value: float
    family: str = "sum"


@dataclass(frozen=True)
class Bulk:
    """A family (`models.families.base.Federated`) of `count` parameters that learns to count the rounds."""

    count: int
    name: str = "bulk"

    def moments(self, X: Float32Matrix, y: Labels) -> Moments:
        """Those of rows of zeros, none of them a fraud."""
        return Moments(len(y), np.zeros(X.shape[1]), np.zeros(X.shape[1]), 0)

    def initial(self, d: int, moments: Moments, *, seed: int) -> Parameters:  # noqa: ARG002 - nothing is drawn
        """Zeros."""
        return [np.zeros(self.count, np.float32)]

    def local_fit(self, parameters: Parameters, *_: object, **__: object) -> Parameters:
        """One more."""
        return [array + np.float32(1) for array in parameters]

    def from_parameters(self, parameters: Parameters, moments: Moments) -> Any:  # noqa: ARG002 - as above
        """What all of them are; not a number if they are not the same."""
        (array,) = parameters
        return Sum(float(array[0]) if (array == array[0]).all() else float("nan"))


def ask(job: Mapping[str, Any], door: Door) -> dict[str, Any]:
    """The side that asks."""
    from models.federated.checkpoint import in_parts  # noqa: PLC0415 - Flower is slow to import
    from models.federated.rounds import fit_federated  # noqa: PLC0415
    from models.federated.socketgrid import SocketGrid  # noqa: PLC0415
    from models.federated.vectors import keep_freed  # noqa: PLC0415

    keep_freed()

    def keep(number: int, pieces: Any) -> None:
        for part in in_parts(pieces):
            door.send_pieces(KEEPER, number, part)

    model: Any = fit_federated(
        SocketGrid(job["parties"], door),
        Bulk(job["count"]),
        job["method"],
        dict.fromkeys(job["parties"], ROWS),
        features=FEATURES,
        seed=bytes(32),
        progress=lambda done, of: tell(f"round {done} of {of}"),
        keep=keep if job["kept"] else None,
    )
    return {"value": model.value}


def answer(job: Mapping[str, Any], door: Door) -> dict[str, Any]:
    """A party's side."""
    from models.federated.client import party_app, serve  # noqa: PLC0415 - Flower is slow to import

    X, y = np.zeros((ROWS, FEATURES), np.float32), np.zeros(ROWS, np.int8)
    serve(party_app(Bulk(job["count"]), X, y, party=job["party"], seed=bytes(32), method=job["method"]), door)
    return {}


def tell(words: str) -> None:
    """A line of progress, as a worker says it."""
    sys.stdout.write(json.dumps({"progress": words}) + "\n")
    sys.stdout.flush()


def main(directory: Path) -> None:
    """Do the job in a directory; its result says how much memory that took."""
    job = json.loads((directory / "job.json").read_bytes())
    with Door.dial(directory / "door") as door:
        found = (ask if job["role"] == "aggregate" else answer)(job, door)
    (directory / "results" / "found.json").write_text(json.dumps(found | usage()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
