"""A worker for the tests of gangs: one that asks, or one that answers, well or as badly as `job.json` names.

Without Flower and torch, so that a gang of real processes takes a blink. Called as `gang_worker.py JOBDIR`.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from contracts.frames import HEADER, KEEPER, PAYLOAD_BYTES_AT_MOST, Frame
from models.federated.door import Door

Spec = Mapping[str, Any]


def answer(spec: Spec, door: Door, change: Callable[[Frame], Frame] = lambda frame: frame) -> None:
    """Answer every question in the party's own words, until there are no more."""
    while (question := door.receive()) is not None:
        time.sleep(spec.get("delay", 0.0))
        words = question.payload + f" {spec['party']}".encode()
        door.send(change(Frame(question.party, words, question.round)))


def slow(spec: Spec, door: Door) -> None:
    answer({**spec, "delay": 0.05}, door)


def hang(spec: Spec, door: Door) -> None:
    door.receive()
    time.sleep(600)


def leave(spec: Spec, door: Door) -> None:
    door.receive()


def leave_and_live(spec: Spec, door: Door) -> None:
    door.receive()
    door.close()
    time.sleep(600)


def fail(spec: Spec, door: Door) -> None:
    door.receive()
    print("what went wrong here", flush=True)
    raise LookupError("counts-differ")


def fail_unasked(spec: Spec, door: Door) -> None:
    raise LookupError("counts-differ")


def twice(spec: Spec, door: Door) -> None:
    question = door.receive()
    assert question is not None
    door._stream.sendall(2 * Frame(question.party, b"answer", question.round).encode())
    time.sleep(600)


def as_another(spec: Spec, door: Door) -> None:
    answer(spec, door, lambda frame: Frame(frame.party + 1, frame.payload, frame.round))


def too_long(spec: Spec, door: Door) -> None:
    question = door.receive()
    assert question is not None
    door._stream.sendall(HEADER.pack(question.party, question.round, PAYLOAD_BYTES_AT_MOST + 1))
    time.sleep(600)


def ask(spec: Spec, door: Door, results: Path) -> None:
    """Ask every party so many questions, and write down what they said, in the parties' order."""
    said: list[list[str]] = []
    for round_number in range(spec["rounds"]):
        print(json.dumps({"progress": f"round {round_number + 1}"}), flush=True)
        for party in range(spec["parties"]):
            door.send(Frame(party, f"q{round_number}".encode(), round_number))
        heard = {}
        for _ in range(spec["parties"]):
            frame = door.receive()
            if frame is None:
                raise LookupError("roster-incomplete")
            heard[frame.party] = frame.payload.decode()
        said.append([heard[party] for party in sorted(heard)])
        door.send(Frame(KEEPER, json.dumps(said).encode(), round_number))
    (results / "said.json").write_text(json.dumps(said))


def ask_one(spec: Spec, door: Door, results: Path) -> None:
    door.send(Frame(0, b"q"))
    door.receive()


def die(spec: Spec, door: Door, results: Path) -> None:
    door.send(Frame(0, b"q"))
    os.abort()


def refuse(spec: Spec, door: Door, results: Path) -> None:
    door.send(Frame(0, b"q"))
    raise LookupError("update-invalid")


def idle(spec: Spec, door: Door, results: Path) -> None:
    time.sleep(600)


def ask_a_stranger(spec: Spec, door: Door, results: Path) -> None:
    door.send(Frame(spec["parties"], b"q"))
    time.sleep(600)


def ask_twice(spec: Spec, door: Door, results: Path) -> None:
    door._stream.sendall(2 * Frame(0, b"q").encode())  # at once, or there might be an answer in between
    time.sleep(600)


def never_dial(spec: Spec, directory: Path) -> None:
    time.sleep(600)


def end_before(spec: Spec, directory: Path) -> None:
    raise LookupError("file-unreadable")


def main(directory: Path) -> int:
    spec = json.loads((directory / "job.json").read_bytes())
    does = globals()[spec["do"]]
    try:
        if does in (never_dial, end_before):
            does(spec, directory)
        else:
            with Door.dial(directory / "door") as door:
                does(spec, door, *([directory / "results"] if "parties" in spec else []))
    except LookupError as error:  # carries a catalogued code
        (directory / "results" / "failure.json").write_text(json.dumps({"code": str(error)}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
