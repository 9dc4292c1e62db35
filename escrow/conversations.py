"""What is said over one connection of a bank's node, by the rules of `contracts.nodes`.

Two threads have it: one hears what the node says and blocks on nothing else, so that it notices the connection's end;
the other speaks, and waits for something to say. A `Seat` is what they, and the trainings, share.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from contracts.errors import EscrowError
from contracts.nodes import Begin, Failed, Here, Over, Piece, Pieces, Said, Told, pieces
from contracts.terms import Name
from escrow.attempts import LOST, Attempt

LOOK_SECONDS: Final = 30.0

Still = Callable[[], bool]
"""Whether a contract may still be trained under; refuses, by raising, a party that may go on no longer."""


@dataclass(eq=False)
class Seat:
    """One party's place under one contract.

    Attributes:
        party: whose.
        change: guards everything here and in what is here, and is told of every change.
        connection: the newest one, if it has not ended.
        run: the run that was last linked.
        attempt: the last one.
        ends: how often attempts were ended, whether or not one had begun.
    """

    party: Name
    change: threading.Condition = field(default_factory=threading.Condition)
    connection: "Connection | None" = None
    run: int = 0
    attempt: Attempt | None = None
    ends: int = 0

    @property
    def there(self) -> bool:
        """Whether a node is connected, and not still ending the worker of an attempt that is over."""
        return self.connection is not None and self.connection.place in {_Place.WAITS, _Place.BEGUN}

    @property
    def ready(self) -> bool:
        """Whether a node is connected that has no worker and waits for an attempt to begin."""
        connection = self.connection
        return connection is not None and connection.place is _Place.WAITS and connection.here == Here()

    def begin(self, run: int, number: int, seconds: float) -> Attempt | None:
        """Wait for a node so long, and begin an attempt; None if none was there, or `end` was called meanwhile."""
        self.end()
        with self.change:
            self.run, ends = run, self.ends
            self.change.wait_for(lambda: self.ends != ends or self.ready, seconds)
            if self.ends != ends or not self.ready:
                return None
            self.attempt = Attempt(run, number, self.change)
            self.change.notify_all()
            return self.attempt

    def end(self) -> None:
        """End the attempt that is under way, or that somebody waits to begin. Idempotent."""
        with self.change:
            self.ends += 1
            self.change.notify_all()
            attempt = self.attempt
        if attempt is not None:
            attempt.end()


class _Place(Enum):
    """Where a conversation is."""

    NEW = "nothing was said yet"
    WAITS = "the node has said where it stands, and waits"
    BEGUN = "an attempt is under way"
    OVER = "the node was told that it is over, and ends its worker"


class Connection:
    """One connection.

    Args:
        seat: the place that it takes.
        joined: called when a node is there that was not.

    Attributes:
        place: where the conversation is.
        here: where the node last said that it stands.
        ended: whether nothing can be said any more.
        look: whether to ask again, at once, if the party may go on.
    """

    def __init__(self, seat: Seat, joined: Callable[[], object]) -> None:
        self.place, self.here = _Place.NEW, Here()
        self.ended = self.look = False
        self._seat, self._joined, self._change = seat, joined, seat.change
        self._attempt: Attempt | None = None  # that the node was told of
        self._sent = 0  # questions of it that the node has or is being told
        self._due = False  # whether an answer to the last of them may come
        self._pieces = Pieces()
        self._error: Exception | None = None

    def replace(self) -> None:
        """A newer connection takes its place. Called under `change`."""
        self._end(EscrowError("node-refused", f"Another connection of {self._seat.party}'s node has joined since."))

    def hang_up(self) -> None:
        """Nothing more is said. Called under `change`."""
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if not self.ended:
            self.ended, self._error = True, error
        self._change.notify_all()

    # what the node says

    def listen(self, said: Iterator[Said]) -> None:
        """Hear what the node says until that ends, or breaks a rule."""
        try:
            for each in said:
                with self._change:
                    if self.ended:
                        return
                    self._hear(each)
                if isinstance(each, Here):
                    self._joined()
        except Exception as error:  # noqa: BLE001 - whoever speaks raises it
            with self._change:
                self._refuse(error)
        else:
            with self._change:
                self._end(None)

    def _refuse(self, error: Exception) -> None:
        if self.ended:
            return
        if isinstance(error, EscrowError):
            error = EscrowError(error.code, error.message, error.hint, error.details, party=self._seat.party)
            if self._seat.attempt is not None:
                self._seat.attempt.fail(error.code)
        self._end(error)

    def _hear(self, said: Said) -> None:
        match said:
            case Here() if self.place in {_Place.NEW, _Place.OVER}:
                self.place, self.here = _Place.WAITS, said
                self._attempt, self._due, self._pieces = None, False, Pieces()
                self._change.notify_all()
            case Failed() if self._attempt is not None:
                self._attempt.fail(said.meant())
            case Piece() if self._attempt is not None and self._due:
                self._take(said, self._attempt)
            case Piece():
                raise EscrowError("update-invalid", f"{self._seat.party} answered without being asked.")
            case _:
                raise EscrowError("message-refused", f"A node said {type(said).__name__} when it was not due.")

    def _take(self, piece: Piece, attempt: Attempt) -> None:
        answer = self._pieces.add(piece)
        if answer is not None:
            self._due = False
            if not attempt.over:
                attempt.answer(answer)

    # what the escrow says

    def speak(self, still: Still) -> Iterator[Told]:
        """Say what is to be said until the connection ends, or the contract."""
        while not self.ended:
            if not still():
                if self.place is _Place.BEGUN:
                    yield Over()
                return
            until = time.monotonic() + LOOK_SECONDS
            while words := self._next(until):
                yield from words
        if self._error is not None:
            raise self._error

    def _next(self, until: float) -> Iterable[Told]:
        """What to say next, once there is something; nothing when it is time to look, or the connection has ended."""
        with self._change:
            while not (self.ended or self.look) and (left := until - time.monotonic()) > 0:
                if words := self._words():
                    return words
                self._change.wait(left)
            self.look = False
            return ()

    def _words(self) -> Iterable[Told]:
        if self.place is _Place.WAITS:
            return self._beginning()
        attempt = self._attempt
        if self.place is not _Place.BEGUN or attempt is None:
            return ()
        if attempt.over:
            return self._over()
        if attempt.asked > self._sent:
            self._sent, self._due = attempt.asked, True
            return pieces(attempt.question)
        return ()

    def _over(self) -> Iterable[Told]:
        self.place = _Place.OVER
        return (Over(),)

    def _beginning(self) -> Iterable[Told]:
        attempt, here = self._seat.attempt, self.here
        if attempt is None or attempt.over:
            return () if here == Here() else self._over()
        if (here.run, here.attempt) == (attempt.run, attempt.number):
            if not attempt.answered <= here.questions <= attempt.asked:
                self._refuse(EscrowError("roster-incomplete", f"{self._seat.party} was not asked what it says."))
                return ()
            self._sent, self._due = here.questions, here.questions > attempt.answered
        elif attempt.fresh:
            self._sent, self._due = 0, False
        else:
            attempt.fail(LOST)
            return self._beginning()
        self.place, self._attempt = _Place.BEGUN, attempt
        return (Begin(run=attempt.run, attempt=attempt.number, answers=attempt.answered),)


__all__ = ["LOOK_SECONDS", "Connection", "Seat", "Still"]
