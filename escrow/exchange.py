"""What may be said between the worker that asks and one party's worker, and what is noted of it: pure decisions.

`escrow.relay` has the rules and the streams; here each header is judged before there is room for its frame. Whatever is
refused is raised, with the name of the party whose doing it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from hashlib import sha256

from contracts.canonical import canonical, digest
from contracts.errors import EscrowError
from contracts.frames import HEADER, PART_BYTES, PAYLOAD_BYTES_AT_MOST
from contracts.terms import Digest
from escrow.streams import Buffer

Pair = tuple[Digest, Digest]
"""Of one party in one round: the digest of the questions' frames, the digest of the answers' frames."""
Rounds = Mapping[int, Digest]
"""Round in which anybody was asked → its digest (`round_digest`)."""


@dataclass(frozen=True)
class Bounds:
    """What a relay lets pass.

    Attributes:
        rounds: the largest number that a round may have.
        parts: how many questions a party is asked in one round at most.
        answer_seconds: in which a party must have answered all that it is asked in one round: they are added up.
        until: when everything must be done, by the relay's clock.
        kept_bytes: of one checkpoint.
        payload_bytes: of one frame.

    """

    rounds: int
    parts: int
    answer_seconds: float
    until: float
    kept_bytes: int
    payload_bytes: int = PAYLOAD_BYTES_AT_MOST


@dataclass(frozen=True)
class Passed:
    """What went one way between the asker and one party: frames, and their bytes."""

    frames: int = 0
    bytes: int = 0


def round_digest(pairs: Mapping[str, Pair]) -> Digest:
    """The digest of one round: of the canonical JSON of name → [questions' digest, answers' digest], of all asked."""
    return digest(canonical({name: list(pair) for name, pair in pairs.items()}))


def askers(what: str, code: str = "roster-incomplete") -> EscrowError:
    """The asker's doing, which names no party."""
    return EscrowError(code, what)


class Way:
    """One way between the asker and a party: room for a frame, and what has passed."""

    def __init__(self) -> None:
        self.buffer, self.passed, self.digest = Buffer(), Passed(), sha256()

    def count(self, frame: memoryview) -> None:
        """Count a whole frame, and add it to its round's digest."""
        self.passed = Passed(self.passed.frames + 1, self.passed.bytes + len(frame))
        self.digest.update(frame)

    def end_round(self) -> Digest:
        """The digest of the round that ends; the next one's begins."""
        said, self.digest = self.digest.hexdigest(), sha256()
        return f"sha256:{said}"


class Turn(Enum):
    """Where the conversation with a party stands."""

    FREE = auto()  # it can be asked
    ASKING = auto()  # a question to it arrives
    ASKED = auto()
    ANSWERING = auto()  # its answer arrives
    ANSWERED = auto()  # the asker has not taken its answer yet


class Party:
    """One party: its turn, its rounds, and what it was asked and has answered.

    Attributes:
        seconds: that it has left to answer in this round, while no question is with it.
    """

    def __init__(self, name: str, number: int, bounds: Bounds) -> None:
        self.name, self._number, self._bounds = name, number, bounds
        self.turn = Turn.FREE
        self.round, self._asked = 0, 0
        self.seconds = bounds.answer_seconds
        self.questions, self.answers = Way(), Way()
        self._ended: dict[int, Pair] = {}

    def fault(self, what: str, code: str = "update-invalid") -> EscrowError:
        """Its doing: it has sent what may not be, unless the code says otherwise."""
        return EscrowError(code, f"Party {self.name} {what}.", party=self.name)

    def free(self) -> None:
        """Its answer was taken: it can be asked again."""
        self.turn = Turn.FREE

    def take(self, last: int) -> dict[int, Pair]:
        """Round → pair, of the rounds up to `last` in which it was asked: they are over, and forgotten here."""
        if self.round <= last:
            self._end_round()
        taken = {number: pair for number, pair in self._ended.items() if number <= last}
        self._ended = {number: pair for number, pair in self._ended.items() if number > last}
        return taken

    def _end_round(self) -> None:
        if self._asked:
            self._ended[self.round] = (self.questions.end_round(), self.answers.end_round())
            self._asked = 0

    def question(self, number: int, length: int) -> memoryview:
        """Room for the question that has begun to arrive."""
        if self.turn is not Turn.FREE:
            raise askers(f"Party {self.name} was asked again before its answer was taken.")
        if number < self.round:
            raise askers(f"Party {self.name} was asked in round {number} after round {self.round}.", "update-invalid")
        if number > self.round:
            self._end_round()
            self.round, self.seconds = number, self._bounds.answer_seconds
        if self._asked == self._bounds.parts:
            raise askers(f"Party {self.name} was asked too often in round {number}.", "update-invalid")
        self._asked += 1
        self.turn = Turn.ASKING
        return self.questions.buffer.of(length)

    def answer(self, party: int, number: int, length: int) -> memoryview:
        """Room for the answer that has begun to arrive."""
        if self.turn is not Turn.ASKED:
            raise self.fault("answered without being asked")
        if party != self._number:
            raise self.fault("answered as somebody else")
        if number != self.round:
            raise self.fault(f"answered of round {number} in round {self.round}")
        if length > self._bounds.payload_bytes:
            raise self.fault(f"sent a message of {length} bytes")
        self.turn = Turn.ANSWERING
        return self.answers.buffer.of(length)


class Keeper:
    """Collects the parts of checkpoints: what a checkpoint costs in memory is its size."""

    def __init__(self, bounds: Bounds) -> None:
        self._most = bounds.kept_bytes
        self._buffer = Buffer()
        self._parts: list[bytes] = []
        self._kept = 0
        self.round, self.over = 0, -1

    def part(self, number: int, length: int) -> memoryview:
        """Room for the part that has begun to arrive."""
        if number <= self.over or (self._parts and number != self.round):
            raise askers(f"A checkpoint of round {number} came out of turn.")
        if length > PART_BYTES or self._kept + length > self._most:
            raise askers("A checkpoint, or a part of one, is longer than it may be.", "update-invalid")
        self.round = number
        return self._buffer.of(length)

    def add(self, frame: memoryview) -> list[bytes] | None:
        """Take a part; the parts of the checkpoint if it was the last."""
        self._parts.append(bytes(frame[HEADER.size :]))
        self._kept += len(frame) - HEADER.size
        if len(frame) == HEADER.size + PART_BYTES:
            return None
        parts, self._parts, self._kept = self._parts, [], 0
        self.over = self.round
        return parts


__all__ = ["Bounds", "Keeper", "Pair", "Party", "Passed", "Rounds", "Turn", "askers", "round_digest"]
