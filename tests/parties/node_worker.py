"""The worker at a bank of these tests: the quick one for jobs that talk, which checks the rows' commitment as the real
one does before it answers anything: `node_worker.py GATES JOB`.

Before it answers in a round it waits at that round's gate, if there is one: a named pipe, until somebody opens it.
"""

import json
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "escrow"))

from contracts.errors import EscrowError
from contracts.frames import Frame
from models.federated.door import Door
from models.roles.client import check_commitment


def wait_at(gates: Path) -> None:
    honest = Door.send

    def send(door: Door, frame: Frame) -> None:
        if (gate := gates / str(frame.round)).exists():
            gate.read_bytes()
        honest(door, frame)

    Door.send = send  # type: ignore[method-assign,assignment]


def main(gates: str, place: str) -> int:
    directory = Path(place)
    job = json.loads((directory / "job.json").read_bytes())
    try:
        check_commitment(directory / "inputs" / job["party"], job["commitment"], job["party"])
    except EscrowError as error:
        (directory / "results/failure.json").write_text(json.dumps({"code": error.code}))
        return 1
    wait_at(Path(gates))
    return int(import_module("sealed_worker").main([place]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
