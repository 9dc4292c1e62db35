"""The quick worker for jobs that talk: least squares over several workers, from sums that each party sends.

Round 0 asks for moments, which nobody needs, and for each party's own model, which its worker fits besides. Then every
round asks for the sums, and each ends with a checkpoint. Who goes on at one asks no round again that it knows, but for
the own models, in round 0, as the product does. A party's wish (see `quick_worker`)
is done by its own worker: `hang-…` never answers; `slow-…` takes some time for each answer; `wait-…` answers in a round
when the test lets it (see `pretended.Pretended.answer`); `nan-…` sends sums that are none; `fail-…` refuses its rows.
"""

import json
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

import quick_worker

from contracts.errors import EscrowError
from contracts.frames import KEEPER, Frame
from models.federated.door import Door

Job = Mapping[str, Any]
SLOW_SECONDS, LOOK_SECONDS = 0.3, 0.01


def refused(code: str, party: str | None = None) -> EscrowError:
    return EscrowError(code, "The job fails.", party=party)


def client(job: Job, directory: Path, door: Door) -> None:
    from models.table import read_prepared  # noqa: PLC0415 - only what a role needs is imported

    table = read_prepared(directory / "inputs" / job["party"] / "train.parquet")
    wish = str(table.terminals[0]).partition("-")[0]
    if wish == "fail":
        raise refused("counts-differ")
    own = None if wish == "hang" else quick_worker.fit([table], "logistic")
    design = np.column_stack([table.features, np.ones(len(table))]).astype(np.float64)
    sums = np.column_stack([design.T @ design, design.T @ (2.0 * table.labels - 1)])
    if wish == "nan":
        sums[:] = np.nan
    while (question := door.receive()) is not None:
        if own is None:
            quick_worker.fit([table], "logistic")  # does not return
            return
        if wish == "slow":
            time.sleep(SLOW_SECONDS)
        if wish == "wait":
            wait(directory / "tmp", question.round)
        answer = {b"moments": b"some", b"own": own.weights.tobytes(), b"sums": sums.tobytes()}[question.payload]
        door.send(Frame(question.party, answer, question.round))


def wait(folder: Path, number: int) -> None:
    """Tell the test that a question of this round has come, and wait until it may be answered."""
    (folder / f"asked-{number}").touch()
    while not (folder / f"answer-{number}").exists():
        time.sleep(LOOK_SECONDS)


def asked(door: Door, words: bytes, number: int, parties: list[str]) -> dict[str, bytes]:
    """What each of the parties answers."""
    for party in range(len(parties)):
        door.send(Frame(party, words, number))
    answers: dict[str, bytes] = {}
    while len(answers) < len(parties):
        answer = door.receive()
        if answer is None:
            raise refused("roster-incomplete")
        answers[parties[answer.party]] = answer.payload
    return answers


def aggregate(job: Job, directory: Path, door: Door) -> None:
    names = json.loads((directory / "inputs" / "check.json").read_bytes())["names"]
    d, rounds, parties = len(names) + 1, job["method"]["rounds"], sorted(job["own"])
    checkpoint = directory / "inputs" / "checkpoint"
    quick_worker.say("own models")
    owns = asked(door, b"own", 0, parties)
    if checkpoint.exists():
        state = json.loads(checkpoint.read_bytes())
        quick_worker.say(f"goes on after round {state['round']}")
        sums = np.array(state["sums"])
    else:
        state, sums = {"round": 0}, np.zeros((d, d + 1))
        asked(door, b"moments", 0, parties)
    for number in range(state["round"] + 1, rounds + 1):
        quick_worker.say(f"round {number} of {rounds}")
        answers = asked(door, b"sums", number, parties)
        for party in parties:
            theirs = np.frombuffer(answers[party]).reshape(d, d + 1)
            if not np.isfinite(theirs).all():
                raise refused("update-invalid", party)
            sums = sums + theirs
        kept = {"round": number, "sums": sums.tolist()}
        door.send(Frame(KEEPER, json.dumps(kept).encode(), number))
    weights = np.linalg.solve(sums[:, :d] + np.diag([1e-3] * (d - 1) + [0.0]), sums[:, d])
    write(job, directory / "results/model", names, weights.astype(np.float32))
    for party, own in owns.items():
        folder = directory / "results/own" / party
        write(job, folder, names, np.frombuffer(own, np.float32))
        (folder / "baseline.json").write_text(json.dumps({"spec": job["model"]}))


def write(job: Job, folder: Path, names: Iterable[str], weights: NDArray[np.float32]) -> None:
    from models import bundle  # noqa: PLC0415 - only what a role needs is imported

    model = quick_worker.Linear(weights, str(job["model"]["family"]))
    spec, contract = job["model"], job["contract"]
    bundle.write(folder, model, names=names, schema=job["schema"], spec=spec, contract=contract)


def main(arguments: list[str]) -> int:
    directory = Path(arguments[0])
    job = json.loads((directory / "job.json").read_bytes())
    role = {"client": client, "aggregate": aggregate}.get(job["role"])
    if role is None:
        return quick_worker.main(arguments)
    try:
        with Door.dial(directory / "door") as door:
            role(job, directory, door)
    except EscrowError as error:
        told = {"code": error.code} | ({"party": error.party} if error.party else {})
        (directory / "results/failure.json").write_text(json.dumps(told))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
