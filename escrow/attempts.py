"""One attempt with one bank's node: the stream that a training gets, and the frame that is on its way.

The training writes a question and reads the answer; a thread of the attempt does the other end, in strict alternation:
it takes one question, keeps it until the node's answer is there, gives that to the training, and only then takes the
next. Who brings the question to the node and the answer back, and over how many connections, is not known here.
"""

import socket
import threading
from contextlib import suppress
from typing import Final

from contracts.frames import HEADER, PAYLOAD_BYTES_AT_MOST

LOST: Final = "worker-lost"


class Attempt:
    """One attempt, from its making until it is over: ended, failed, or left by the training.

    Args:
        run: number of the run.
        number: of the attempt in the run.
        change: guards everything here, and is told of every change.

    Attributes:
        far: the training's end of the stream; whoever made the attempt closes it.
        asked: questions that the training has asked.
        answered: of those, how many the node has answered.
        question: the last one, until it is answered.
        over: whether nothing can be asked or answered any more.
        failure: the code with which the node failed it, if it did.
    """

    def __init__(self, run: int, number: int, change: threading.Condition) -> None:
        self.run, self.number = run, number
        self.asked = self.answered = 0
        self.question = b""
        self.over = False
        self.failure: str | None = None
        self._change = change
        self._answer: bytes | None = None
        self._near, self.far = socket.socketpair()
        self._thread = threading.Thread(target=self._carry, name="attempt", daemon=True)
        self._thread.start()

    @property
    def fresh(self) -> bool:
        """Whether a worker that knows nothing can still take part: nothing that it would lack was answered."""
        return not self.answered

    def answer(self, frame: bytes) -> None:
        """Take the node's answer to the question that is asked; called under `change`."""
        self._answer, self.question = frame, b""
        self.answered += 1
        self._change.notify_all()

    def fail(self, code: str) -> None:
        """End it because of the node; the first code is believed. Called under `change`, by any thread."""
        if not self.over:
            self.failure = code
            self._leave()

    def end(self) -> None:
        """End it, however it stands, and wait until its thread and its end of the stream are gone. Idempotent."""
        with self._change:
            self._leave()
        self._thread.join()

    def _leave(self) -> None:
        self.over, self.question = True, b""
        with suppress(OSError):  # its thread has closed it
            self._near.shutdown(socket.SHUT_RDWR)
        self._change.notify_all()

    def _carry(self) -> None:
        """Question, answer, question, until somebody ends it: each closes the stream, or its other end."""
        try:
            while (question := _frame(self._near)) is not None:
                answer = self._answered(question)
                if answer is None:
                    return
                self._near.sendall(answer)
        except OSError:  # the training has closed its end
            return
        finally:
            with self._change:
                self._leave()
                self._near.close()

    def _answered(self, question: bytes) -> bytes | None:
        """The answer to a question; None if it is over before."""
        with self._change:
            self.question = question
            self.asked += 1
            self._change.notify_all()
            self._change.wait_for(lambda: self.over or self._answer is not None)
            answer, self._answer = self._answer, None
            return None if self.over else answer


def _frame(stream: socket.socket) -> bytes | None:
    """The next whole frame; None at the stream's end."""
    frame = bytearray(HEADER.size)
    if not _filled(stream, memoryview(frame)):
        return None
    length = HEADER.unpack(frame)[2]
    if length > PAYLOAD_BYTES_AT_MOST:  # the relay lets none pass
        return None
    frame += bytes(length)
    return bytes(frame) if _filled(stream, memoryview(frame)[HEADER.size :]) else None


def _filled(stream: socket.socket, room: memoryview) -> bool:
    while room:
        count = stream.recv_into(room)
        if not count:
            return False
        room = room[count:]
    return True


__all__ = ["LOST", "Attempt"]
