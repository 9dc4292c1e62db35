"""Carries frames between the worker that asks and the parties' workers that answer, without knowing what is in them.

It fails closed. A frame is taken and given only whole, is refused by its header already, and:

1. The asker sends a party one frame and no other before it has taken that party's answer (`roster-incomplete`); a party
   answers once, when it has been asked, with its own number and the question's round, and never speaks unasked
   (`update-invalid`: what it says instead is a lie, not an absence).
2. The rounds of a party's questions never go back. None is larger than `Bounds.rounds`, a party is asked no more than
   `Bounds.parts` times in one round, and no payload is longer than its bound (`update-invalid`).
3. From when a question has arrived here whole until its answer has, the party's time runs: to be slow to take a
   question is to be slow to answer it. In one round it may come to `Bounds.answer_seconds` in all, or the relay fails
   (`roster-incomplete`). There is one deadline for all of it besides (`limit-time`, which names a party if that one
   alone is waited for).
4. What the asker sends `KEEPER` is a checkpoint of a round, in parts as `contracts.frames` says, of at most
   `Bounds.kept_bytes` together (`update-invalid`). It ends its round: all who were asked have answered, and no question
   of that round or an earlier one comes after it (`roster-incomplete`). It is kept and never answered.
5. It ends when the asker's stream does, between two frames (`roster-incomplete`); if a party's ends before, it fails.
6. Every error that is a party's doing names it (`EscrowError.party`); one without a name is the asker's doing, or the
   time's.
7. It closes every stream that it was given, however it ends, and leaves nothing behind. It holds no more than one
   question and one answer of each party at any time, however slow anybody is, and one checkpoint, once.

What passed is counted for each party and direction. Of what was said in a round two runs, or a party and the escrow,
can compare digests without keeping a message: for each party that was asked in it, the SHA-256 of the frames that it
was sent in that round, headers included, in their order and without anything between them, and the same of the frames
it answered; these pairs are the party's own to compute. `round_digest` makes one digest of all parties' pairs, once,
when the round is over: at its checkpoint or a later one's, or at the end. Only that is held from then on.
"""

import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from contracts.errors import EscrowError
from contracts.frames import HEADER, KEEPER
from contracts.terms import Digest
from escrow.exchange import Bounds, Keeper, Pair, Party, Passed, Rounds, Turn, askers, round_digest
from escrow.streams import FrameStream, scratch

Keep = Callable[[int, Sequence[bytes], Rounds], None]
"""Called with the number of a round that is over, its checkpoint in the parts that it came in, and what was said in
this conversation so far, that round included: nothing said later changes it."""


@dataclass(frozen=True)
class Traffic:
    """What passed.

    Attributes:
        questions: by party.
        answers: by party.
        rounds: the digest of every round in which anybody was asked.

    """

    questions: Mapping[str, Passed]
    answers: Mapping[str, Passed]
    rounds: Rounds


class GoneError(EscrowError):
    """A stream ended too early. Whoever stood behind it may say why; of no other error of a relay that is so."""

    def __init__(self, message: str, party: str | None = None) -> None:
        super().__init__("roster-incomplete", message, party=party)


def relay(
    asker: socket.socket,
    parties: Mapping[str, socket.socket],
    bounds: Bounds,
    *,
    keep: Keep,
    clock: Callable[[], float] = time.monotonic,
) -> Traffic:
    """Carry frames until the asker's stream ends; what passed.

    Args:
        asker: the stream of the worker that asks.
        parties: name → its stream; they are numbered in the order of the names.
        bounds: what may pass.
        keep: is given the checkpoints. The time that it takes is nobody's fault and counts for no answer.
        clock: seconds, monotonic.

    Raises:
        EscrowError: see the rules above.
    """
    with ExitStack() as streams:
        for stream in (asker, *parties.values()):
            streams.enter_context(stream)
            stream.setblocking(False)
        with selectors.DefaultSelector() as selector:
            return _Relay(asker, parties, bounds, keep=keep, selector=selector, clock=clock).carry()


class _Relay:
    """One conversation."""

    def __init__(
        self,
        asker: socket.socket,
        parties: Mapping[str, socket.socket],
        bounds: Bounds,
        *,
        keep: Keep,
        selector: selectors.BaseSelector,
        clock: Callable[[], float],
    ) -> None:
        self._bounds, self._keep, self._selector, self._clock = bounds, keep, selector, clock
        self._keeper = Keeper(bounds)
        self._parties = [Party(name, number, bounds) for number, name in enumerate(sorted(parties))]
        self._asker = FrameStream(asker, selector)
        self._links = {party: FrameStream(parties[party.name], selector) for party in self._parties}
        self._owners = {stream: party for party, stream in self._links.items()}
        self._due: dict[Party, float] = {}
        self._said: dict[int, Digest] = {}  # of the rounds that are over

    def carry(self) -> Traffic:
        """Carry until the asker's stream ends."""
        room = scratch()
        while True:
            next_due = min([self._bounds.until, *self._due.values()])
            for key, events in self._selector.select(max(0.0, next_due - self._clock())):
                stream: FrameStream = key.data
                if events & selectors.EVENT_WRITE:
                    stream.flush()
                if events & selectors.EVENT_READ and not self._take(stream, room):
                    return self._traffic()
            self._require_time()

    def _take(self, stream: FrameStream, room: memoryview) -> bool:
        """Take what has arrived, and pass on what is complete; False if the asker is done."""
        party = self._owners.get(stream)
        if party is None:
            goes_on = stream.receive(room, self._begin_question, self._question)
            if not goes_on and stream.amid:
                raise GoneError("The aggregator ended in the middle of a message.")
            return goes_on
        if not stream.receive(room, partial(self._begin_answer, party), partial(self._answer, party)):
            raise GoneError(f"Party {party.name} left before the training was done.", party.name)
        return True

    def _require_time(self) -> None:
        now = self._clock()
        if now >= self._bounds.until:
            waited = [party.name for party in self._due]
            message = f"The training took too long; {', '.join(waited) or 'the aggregator'} did not answer in time."
            raise EscrowError("limit-time", message, party=waited[0] if len(waited) == 1 else None)
        party = min(self._due, key=self._due.__getitem__, default=None)
        if party is not None and now >= self._due[party]:
            raise _late(party)

    def _begin_question(self, number: int, round_number: int, length: int) -> memoryview:
        if round_number > self._bounds.rounds:
            raise askers(f"Round {round_number} is none of the training's.", "update-invalid")
        if number == KEEPER:
            return self._keeper.part(round_number, length)
        if number >= len(self._parties):
            raise askers("A message is for somebody who is not a party.")
        if round_number <= self._keeper.over:
            raise askers(f"A question of round {round_number} came after the round was over.")
        if length > self._bounds.payload_bytes:
            raise askers(f"A message of {length} bytes is longer than it may be.", "update-invalid")
        return self._parties[number].question(round_number, length)

    def _question(self, frame: memoryview) -> None:
        number, _, _ = HEADER.unpack_from(frame)
        if number == KEEPER:
            self._part(frame)
            return
        party = self._parties[number]
        party.turn = Turn.ASKED
        self._due[party] = self._clock() + party.seconds
        self._links[party].send(frame)
        party.questions.count(frame)  # while it is on its way

    def _part(self, frame: memoryview) -> None:
        kept = self._keeper.add(frame)
        if kept is None:
            return
        number = self._keeper.over
        if any(party.round <= number for party in self._due):
            raise askers(f"Round {number} was kept before everybody had answered.")
        self._end_rounds(number)
        before = self._clock()
        self._keep(number, kept, dict(self._said))
        spent = self._clock() - before
        self._due = {party: due + spent for party, due in self._due.items()}

    def _begin_answer(self, party: Party, number: int, round_number: int, length: int) -> memoryview:
        if not self._links[party].all_sent:
            raise party.fault("answered before it had taken the question")
        return party.answer(number, round_number, length)

    def _answer(self, party: Party, frame: memoryview) -> None:
        party.turn = Turn.ANSWERED
        party.seconds = self._due.pop(party) - self._clock()
        if party.seconds <= 0:
            raise _late(party)
        self._asker.send(frame, party.free)
        party.answers.count(frame)

    def _end_rounds(self, last: int) -> None:
        """The rounds up to `last` are over."""
        ended: dict[int, dict[str, Pair]] = {}
        for party in self._parties:
            for number, pair in party.take(last).items():
                ended.setdefault(number, {})[party.name] = pair
        self._said |= {number: round_digest(ended[number]) for number in sorted(ended)}

    def _traffic(self) -> Traffic:
        self._end_rounds(self._bounds.rounds)
        return Traffic(
            {party.name: party.questions.passed for party in self._parties},
            {party.name: party.answers.passed for party in self._parties},
            self._said,
        )


def _late(party: Party) -> EscrowError:
    return party.fault("did not answer within its time", "roster-incomplete")


__all__ = ["Bounds", "GoneError", "Keep", "Pair", "Passed", "Rounds", "Traffic", "relay", "round_digest"]
