"""One attempt of a training at a bank: the worker beside the rows, and the talk with it. One object for each attempt.

The attempt outlives connections: what it has answered last is kept until the escrow says that it has it. Rules:

1. The worker is given the rows, the salt of their commitment and what the contract asks of it, and nothing else. It
   finds them in memory, and nothing of them is left when the attempt ends, however it ends.
2. Only whole questions for this party go in, one at a time, of the contract's rounds, which do not go back, and no more
   of each than the contract's training can need (`parties.questions`); only answers to them come out. What breaks this
   ends the attempt: an escrow that lies can neither ask for ever nor ask anew.
3. A worker that fails says why with a code that `contracts.nodes` lists. Nothing else of it leaves.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Final

from contracts.errors import EscrowError
from contracts.frames import Frame, FrameReader, whose
from contracts.nodes import Failed, Said, pieces
from escrow.runtime.base import DIAL_SECONDS, LAST_WORD_SECONDS, Runtime
from escrow.runtime.job import Job
from parties.questions import Bounds

_CHUNK: Final = 1 << 18
_OF_THE_MACHINE: Final = frozenset({"engine-missing", "image-missing", "runtime-unfit"})

Line = Callable[[Said], object]
"""Says something to the escrow, without waiting until it is heard."""


class Saying:
    """What this node says over one connection, in order."""

    def __init__(self) -> None:
        self._said: SimpleQueue[Said | None] = SimpleQueue()

    def say(self, said: Said) -> None:
        """Say this next."""
        self._said.put(said)

    def end(self) -> None:
        """Say nothing more."""
        self._said.put(None)

    def said(self) -> Iterator[Said]:
        """What is said, until the end."""
        while (said := self._said.get()) is not None:
            yield said


class Attempt:
    """A worker and the conversation with it.

    Args:
        runtime: runs the worker.
        job: what it is asked, with a door.
        bounds: what may be asked of it.

    Attributes:
        rounds: how many there are at most.
        questions: how many have arrived whole.
        failure: the code with which it ended, if it failed: for this bank, which may know more than the escrow.
    """

    def __init__(self, runtime: Runtime, job: Job, bounds: Bounds) -> None:
        self._runtime, self._job, self._bounds = runtime, job, bounds
        self._change = threading.RLock()
        self._starting = threading.Lock()
        self._asked: SimpleQueue[bytes | None] = SimpleQueue()
        self._round = self._of_round = 0  # the last question's round, and how many that round had
        self._answers, self._last = 0, b""
        self._line: Line | None = None
        self._over = False
        self._done: Future[None] = Future()
        self.rounds, self.questions = bounds.rounds, 0
        self.failure: str | None = None

    def start(self) -> None:
        """Start the worker, in a thread of its own."""
        threading.Thread(target=self._run, name=self._job.id).start()

    def resume(self, answers: int, line: Line) -> None:
        """Speak over a new connection: say what the escrow lacks, which has so many answers."""
        with self._change:
            self._line = line
            if self.failure is None and answers not in {self._answers, self._answers - 1}:
                self.failure = "worker-lost"  # it was another process of this node that gave them
            if self.failure is not None:
                line(_told(self.failure))
            elif answers < self._answers:
                self._say(self._last)

    def leave(self) -> None:
        """The connection is lost; the worker goes on."""
        with self._change:
            self._line = None

    def ask(self, question: bytes) -> int:
        """Take a question, a whole frame, for the worker; the round that it says it is of."""
        try:
            number = self._permitted(question)
        except EscrowError as error:
            self.refuse(error.code)
            return 0
        with self._change:
            self.questions += 1
        self._asked.put(question)
        return number

    def refuse(self, code: str) -> None:
        """What was asked cannot be meant: the worker ends, and the escrow hears why."""
        self._fail(code)
        self._stop()

    def end(self) -> None:
        """End the worker and wait until nothing of the attempt is left. Idempotent."""
        self._stop()
        self._done.result()

    def _permitted(self, question: bytes) -> int:
        """The round of a question that may be asked."""
        bounds = self._bounds
        party, number = whose(question)
        if party != bounds.party:
            raise EscrowError("roster-incomplete", "A question is for another party.")
        if self.questions > self._answers:
            raise EscrowError("roster-incomplete", "A question came before the last one was answered.")
        if not self._round <= number <= bounds.rounds:
            raise EscrowError("update-invalid", "A round is asked for that is over, or that the contract has not.")
        self._of_round = 1 + (self._of_round if number == self._round else 0)
        self._round = number
        if self._of_round > bounds.of(number):
            raise EscrowError("update-invalid", "More is asked than the contract's rounds can need.")
        return number

    def _stop(self) -> None:
        self._over = True
        self._asked.put(None)
        with self._starting:
            self._runtime.destroy(self._job.id)

    def _run(self) -> None:
        try:
            self._worked()
        except BaseException as error:  # noqa: BLE001 - whoever ends the attempt gets it
            self._fail("bug")
            self._done.set_exception(error)
        else:
            self._done.set_result(None)

    def _worked(self) -> None:
        try:
            if self._started():
                with self._runtime.link(self._job.id, seconds=DIAL_SECONDS) as stream:
                    for question in iter(self._asked.get, None):
                        self._answered(_answer(stream, question))
        except EscrowError as error:
            self._fail(self._reason(error.code))
        except OSError:  # nobody takes the question
            self._fail(self._reason("worker-lost"))
        except ValueError:  # it was ended after its start, and its door is gone
            if not self._over:
                raise
        finally:
            self._runtime.destroy(self._job.id)

    def _started(self) -> bool:
        with self._starting:
            if self._over:
                return False
            self._runtime.prepare(self._job)
            self._runtime.start(self._job)
            return True

    def _reason(self, noticed: str) -> str:
        """Why the worker does not talk: its own code if it has failed, else what was noticed."""
        if self._over:
            return noticed
        self._runtime.wait([self._job.id], seconds=LAST_WORD_SECONDS)
        return self._runtime.status(self._job.id).code or noticed

    def _answered(self, answer: bytes) -> None:
        with self._change:
            self._answers += 1
            self._last = answer
            self._say(answer)

    def _say(self, answer: bytes) -> None:
        if self._line is not None:
            for piece in pieces(answer):
                self._line(piece)

    def _fail(self, code: str) -> None:
        with self._change:
            if self.failure is None and not self._over:
                self.failure = code
                if self._line is not None:
                    self._line(_told(code))


def _told(code: str) -> Failed:
    """What the escrow is told of a failure."""
    return Failed(code="worker-lost" if code in _OF_THE_MACHINE else Failed(code=code).meant())


def _answer(stream: socket.socket, question: bytes) -> bytes:
    """What the worker answers, a whole frame.

    Raises:
        EscrowError: `worker-lost` if its stream ends before, `roster-incomplete` if it answers something else.
    """
    stream.sendall(question)
    reader, frames = FrameReader(), list[Frame]()
    while not frames:
        data = stream.recv(_CHUNK)
        if not data:
            raise EscrowError("worker-lost", "The worker left before it had answered.")
        frames = reader.feed(data)
    answer = frames[0]
    if len(frames) > 1 or reader.amid or (answer.party, answer.round) != whose(question):
        raise EscrowError("roster-incomplete", "The worker answered as somebody else, or more than once.")
    return answer.encode()


__all__ = ["Attempt", "Line", "Saying"]
