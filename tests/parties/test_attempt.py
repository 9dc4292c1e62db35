"""What an escrow may ask of a bank's worker, and what it hears when it asks for more or the worker fails."""

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

import docker
import pytest

from contracts.frames import KEEPER, Frame, FrameReader
from contracts.nodes import PIECE_BYTES, Failed, Piece, Pieces, Said
from escrow.runtime.docker import ContainerRuntime
from escrow.runtime.job import Job
from escrow.runtime.process import ProcessRuntime, package_folders
from parties.attempt import Attempt
from parties.questions import Bounds
from tests.engine import leftovers
from tests.wire import until

WORKER = Path(__file__).parents[1] / "escrow" / "gang_worker.py"
SECONDS = 60.0  # that nothing should need
NUMBER, ROUNDS = 1, 2
BOUNDS = Bounds(NUMBER, ROUNDS, questions=2, first=3)


class Line:
    """What the escrow hears over one connection."""

    def __init__(self) -> None:
        self._heard: SimpleQueue[Said] = SimpleQueue()
        self.say = self._heard.put

    def answer(self) -> Frame:
        whole = Pieces()
        while True:
            piece = self._heard.get(timeout=SECONDS)
            assert isinstance(piece, Piece), piece
            if (frame := whole.add(piece)) is not None:
                return decoded(frame)

    def failure(self) -> str:
        while not isinstance(said := self._heard.get(timeout=SECONDS), Failed):
            pass
        return said.code

    def silent(self) -> bool:
        return self._heard.empty()


def decoded(data: bytes) -> Frame:
    (frame,) = FrameReader().feed(data)
    return frame


def question(words: bytes = b"q", *, party: int = NUMBER, number: int = 0) -> bytes:
    return Frame(party, words, number).encode()


Begun = Callable[..., Attempt]


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Begun]:
    """Begins an attempt whose worker does as it is told; afterwards nothing of it is left."""
    threads, made = set(threading.enumerate()), list[Attempt]()
    root = tmp_path / "jobs"
    packages = package_folders("models", "contracts")
    with ProcessRuntime(root, command=(sys.executable, str(WORKER)), packages=packages) as runtime:

        def begin(does: str) -> Attempt:
            job = Job(f"node-{len(made)}", {"do": does, "party": "north"}, {"rows": b"plaintext"}, door=True)
            made.append(Attempt(runtime, job, BOUNDS))
            made[-1].start()
            return made[-1]

        yield begin
        for attempt in made:
            attempt.end()
            attempt.end()
        assert list(root.iterdir()) == []
    until(lambda: set(threading.enumerate()) <= threads)


def test_an_answer_is_kept_until_the_escrow_has_it(begun: Begun) -> None:
    attempt, first, second, third = begun("answer"), Line(), Line(), Line()
    attempt.resume(0, first.say)
    attempt.ask(question(bytes(2 * PIECE_BYTES)))
    answer = first.answer()
    assert (answer.party, answer.payload) == (NUMBER, bytes(2 * PIECE_BYTES) + b" north")
    attempt.leave()
    attempt.resume(0, second.say)  # the connection broke before all of it was there
    assert second.answer() == answer
    attempt.leave()
    attempt.resume(1, third.say)
    attempt.ask(question(number=1))
    assert third.answer().round == 1
    assert attempt.questions == 2


def test_an_answer_that_comes_while_nobody_is_connected_waits(begun: Begun) -> None:
    attempt, line = begun("answer"), Line()
    attempt.resume(0, line.say)
    attempt.leave()
    attempt.ask(question())
    until(lambda: attempt._answers == 1, seconds=SECONDS)
    assert line.silent()
    attempt.resume(0, line.say)
    assert line.answer().payload == b"q north"


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ([question(party=0)], "training-failed"),
        ([question(party=KEEPER)], "training-failed"),
        ([question(number=ROUNDS + 1)], "update-invalid"),
        ([question() + b"more"], "update-invalid"),
        ([question()[:-1]], "update-invalid"),
    ],
)
def test_what_is_not_a_question_for_this_worker_ends_it(begun: Begun, asked: list[bytes], code: str) -> None:
    attempt, line = begun("answer"), Line()
    attempt.resume(0, line.say)
    for each in asked:
        attempt.ask(each)
    assert line.failure() == code
    later = Line()
    attempt.resume(0, later.say)
    assert later.failure() == code


@pytest.mark.parametrize(("number", "questions"), [(0, BOUNDS.first), (1, BOUNDS.questions)])
def test_an_escrow_cannot_ask_for_ever(begun: Begun, number: int, questions: int) -> None:
    attempt, line = begun("answer"), Line()
    attempt.resume(0, line.say)
    for _ in range(questions):
        attempt.ask(question(number=number))
        line.answer()
    attempt.ask(question(number=number))
    assert line.failure() == "update-invalid"


def test_a_round_that_is_over_is_not_asked_for_again(begun: Begun) -> None:
    attempt, line = begun("answer"), Line()
    attempt.resume(0, line.say)
    for number in (0, 1, 2):
        attempt.ask(question(number=number))
        assert line.answer().round == number
    attempt.ask(question(number=1))
    assert line.failure() == "update-invalid"


def test_nothing_is_asked_before_the_last_was_answered(begun: Begun) -> None:
    attempt, line = begun("hang"), Line()
    attempt.resume(0, line.say)
    attempt.ask(question())
    attempt.ask(question())
    assert line.failure() == "training-failed"
    assert attempt.failure == "roster-incomplete"


@pytest.mark.parametrize(
    ("does", "code"),
    [
        ("fail", "counts-differ"),
        ("leave", "worker-lost"),
        ("leave_and_live", "worker-lost"),
        ("end_before", "training-failed"),
        ("as_another", "training-failed"),
        ("too_long", "update-invalid"),
    ],
)
def test_a_worker_that_fails_says_why_by_a_code_alone(begun: Begun, does: str, code: str) -> None:
    attempt, line = begun(does), Line()
    attempt.resume(0, line.say)
    attempt.ask(question())
    assert line.failure() == code
    assert line.silent()


def test_another_process_of_the_node_had_the_answers(begun: Begun) -> None:
    attempt, line = begun("answer"), Line()
    attempt.resume(7, line.say)
    assert line.failure() == "worker-lost"


def test_an_attempt_can_be_ended_before_its_worker_dials(tmp_path: Path) -> None:
    with ProcessRuntime(tmp_path / "jobs", command=(sys.executable, str(WORKER)), packages=()) as runtime:
        attempt = Attempt(runtime, Job("node-1", {"do": "answer", "party": "north"}, door=True), BOUNDS)
        attempt.start()
        attempt.ask(question())
        attempt.end()
        assert attempt.failure is None
        assert list((tmp_path / "jobs").iterdir()) == []


SEALED_WORKER = """
import hashlib, socket, struct
from pathlib import Path

stream = socket.socket(socket.AF_UNIX)
stream.connect("/job/door/socket")
rows = Path("/job/inputs/north/train.parquet").read_bytes()
while header := stream.recv(12, socket.MSG_WAITALL):
    party, number, length = struct.unpack(">III", header)
    stream.recv(length, socket.MSG_WAITALL)
    answer = hashlib.sha256(rows).digest()
    stream.sendall(struct.pack(">III", party, number, len(answer)) + answer)
"""


@pytest.mark.engine
def test_a_sealed_worker_answers_about_the_rows_and_nothing_of_it_stays(
    engine: docker.DockerClient, image: str, sealing: Literal["container", "gvisor"], memory: Path
) -> None:
    root = memory / "jobs"
    rows = b"plaintext rows" * 1000
    with ContainerRuntime(root, image=image, sealing=sealing, command=("python3", "-c", SEALED_WORKER)) as runtime:
        job = Job("node-1", {}, {"north/train.parquet": rows}, party="north", door=True)
        attempt, line = Attempt(runtime, job, BOUNDS), Line()
        attempt.start()
        attempt.resume(0, line.say)
        for number in range(ROUNDS + 1):
            attempt.ask(question(number=number))
            assert line.answer() == Frame(NUMBER, hashlib.sha256(rows).digest(), number)
        attempt.end()
        assert list(root.iterdir()) == []
    assert leftovers(engine, root) == []
