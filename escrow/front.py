"""What all verbs over gRPC share: who calls, what is answered, what is told.

1. Who calls is the party that the certificate of this very connection names; it is settled for each call anew, with
   the certificate's end, its revocation and the party's admission, and kept in no shared state.
2. A statement is accepted only if that party signed it (`Session.submit`).
3. Every answer carries the ledger's head and the proof that it continues what the caller has seen.
4. A refusal travels as code, sentence and hint. An error that nobody foresaw travels as the code `bug`, without a
   trace; the trace is in the log, which holds names, codes and times, never what was sent.
5. Nothing a caller sends is unbounded: messages, streams, simultaneous calls, uploads, listeners and nodes have limits;
   an upload that stalls, and a stream of answers that its reader does not take, are cut off (`Patience`). A node may
   wait as long as its connection lasts: with 16 joins a party leaves itself 48 of its 64 calls (`escrow.nodes`).
6. All this begins once a call's message has arrived. Until then it has a thread and no name: what bounds it stands in
   `escrow.server`, and is the connection's age.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NoReturn, Self, TypeVar

import grpc

from contracts.errors import EscrowError, Exit
from contracts.protocol import convert
from contracts.records import Key, PartyRecord
from escrow.authority import peer
from escrow.core import Core
from escrow.session import Session

Answer = TypeVar("Answer")
Message = TypeVar("Message")
Context = grpc.ServicerContext
CALLS_AT_MOST: Final = 64  # of one party at once

_STATUS: Final = {
    Exit.REFUSED: grpc.StatusCode.FAILED_PRECONDITION,
    Exit.CONNECTION: grpc.StatusCode.PERMISSION_DENIED,
    Exit.TIMEOUT: grpc.StatusCode.ABORTED,
    Exit.USAGE: grpc.StatusCode.INVALID_ARGUMENT,
    Exit.BUG: grpc.StatusCode.INTERNAL,
}


class Told:
    """Who hears of calls: the log and the metrics. This one keeps silent."""

    def call(self, verb: str, party: str, code: str, seconds: float) -> None:
        """A call ended; `code` is `ok` or that of the refusal."""

    def bug(self, verb: str, error: BaseException) -> None:
        """Something failed in a way nobody foresaw."""


class Places:
    """How many calls of one party may be under way at once, so that none takes every thread from the others."""

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self._change = threading.Lock()
        self._calls = Counter[str]()

    @contextmanager
    def taken(self, party: str) -> Iterator[None]:
        """A place for one call.

        Raises:
            EscrowError: `quota-exceeded` if the party has none left.
        """
        with self._change:
            if self._calls[party] >= self._at_most:
                raise EscrowError("quota-exceeded", f"{party} has {self._at_most} calls under way already.")
            self._calls[party] += 1
        try:
            yield
        finally:
            with self._change:
                self._calls[party] -= 1


@dataclass
class _Call:
    """What is known of a call so far."""

    session: Session | None = None
    code: str = "ok"


@dataclass(frozen=True)
class Front:
    """What all verbs share: who calls, what is answered, what is told."""

    core: Core
    told: Told = field(default_factory=Told)
    places: Places = field(default_factory=lambda: Places(CALLS_AT_MOST))

    def answer(self, verb: str, context: Context, call: Callable[[Session], Answer]) -> Answer:
        """The answer of one verb, with the head and its proof."""
        with self._telling(verb, context) as telling:
            seen = _seen(context)
            session = telling.session = self.session(context)
            with self.places.taken(session.caller):
                answer = call(session)
            self._witnessed(context, seen)
            return answer

    def stream(self, verb: str, context: Context, call: Callable[[Session], Iterator[Answer]]) -> Iterator[Answer]:
        """The answers of one verb, one after the other, and the head at their end."""
        with self._telling(verb, context) as telling:
            seen = _seen(context)
            session = telling.session = self.session(context)
            with self.places.taken(session.caller):
                yield from call(session)
            self._witnessed(context, seen)

    def public(self, verb: str, context: Context, call: Callable[[], Answer]) -> Answer:
        """The answer of a verb that needs no certificate.

        What is wrong with the escrow's own files has codes for the operator's commands, and sentences that name paths:
        to a stranger it is a bug.
        """
        with self._telling(verb, context):
            try:
                return call()
            except EscrowError as error:
                if error.exit is Exit.USAGE:
                    raise RuntimeError(error.code) from error
                raise

    @contextmanager
    def _telling(self, verb: str, context: Context) -> Iterator["_Call"]:
        """Every ending of a call is told; an error ends it with a problem."""
        begin, telling = time.perf_counter(), _Call()
        try:
            yield telling
        except EscrowError as error:
            telling.code = error.code
            refuse(context, error)
        except GeneratorExit:
            telling.code = "cancelled"
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a code and the log the rest
            telling.code = "bug" if context.is_active() else "cancelled"
            if telling.code == "bug":
                self.told.bug(verb, error)
            refuse(context, EscrowError("bug", "The escrow failed in a way nobody foresaw.", "Tell its operator when."))
        finally:
            party = telling.session.caller if telling.session else ""
            self.told.call(verb, party, telling.code, time.perf_counter() - begin)

    def session(self, context: Context) -> Session:
        """The session of the party whose certificate this connection showed.

        Raises:
            EscrowError: `certificate-refused`, `certificate-expired`, `certificate-revoked`, `party-unknown` or
                `party-revoked`.
        """
        [pem] = context.auth_context().get("x509_pem_cert", [b""])
        shown = peer(bytes(pem), self.core.now())
        session = Session(self.core, shown.name)
        session.admitted(reading=True)
        party = self.core.ledger.records(Key("party", shown.name))[Key("party", shown.name)]
        if isinstance(party, PartyRecord) and shown.key in party.revoked_keys:
            raise EscrowError("certificate-revoked", f"{shown.name} revoked the TLS key of this certificate.")
        return session

    def _witnessed(self, context: Context, seen: int) -> None:
        """The head and its proof, for what the caller said it has seen."""
        head = self.core.head()
        size = int(head.split("\n", 2)[1])
        proof = self.core.ledger.consistency(seen, size) if 0 < seen < size else ()
        context.set_trailing_metadata((("head-bin", head.encode()), ("consistency-bin", b"".join(proof))))


def _seen(context: Context) -> int:
    sent = dict(context.invocation_metadata()).get("seen-size", "0")
    if not isinstance(sent, str) or not sent.isascii() or not sent.isdecimal() or len(sent) > 15:
        raise EscrowError("message-refused", "seen-size is not a number of entries.")
    return int(sent)


def refuse(context: Context, error: EscrowError) -> NoReturn:
    """End the call with a problem."""
    context.set_trailing_metadata((("problem-bin", convert.to_problem(error)),))
    context.abort(_STATUS[error.exit], error.code)


class Patience:
    """Cuts a stream off whose other side is silent for too long: it sends no request, or does not take the next answer.

    What the escrow itself does meanwhile does not count. An answer is taken when the connection has room for it; a
    reader that takes one a little within the time is served for as long as its connection lasts.
    """

    def __init__(self, context: Context, seconds: float) -> None:
        self._context, self._seconds = context, seconds
        self._change = threading.Condition()
        self._waiting_since: float | None = None
        self._over = False
        self._thread = threading.Thread(target=self._guard, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._change:
            self._over = True
            self._change.notify()
        self._thread.join()

    def each(self, requests: Iterator[Message]) -> Iterator[Message]:
        """The requests, each of which shows that the sender is alive."""
        while True:
            self._waiting_since = time.monotonic()
            request = next(requests, None)
            self._waiting_since = None
            if request is None:
                return
            yield request

    def taken(self, answers: Iterator[Answer]) -> Iterator[Answer]:
        """The answers, whose next one is asked for when the last is taken."""
        for answer in answers:
            self._waiting_since = time.monotonic()
            yield answer
            self._waiting_since = None

    def _guard(self) -> None:
        left = self._seconds
        with self._change:
            while not self._change.wait_for(lambda: self._over, left):
                since = self._waiting_since
                left = self._seconds if since is None else since + self._seconds - time.monotonic()
                if left <= 0:
                    self._context.cancel()
                    return
