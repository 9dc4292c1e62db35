"""Crowds: calls that send their headers and nothing more, idle connections, readers that take nothing. Whoever
comes after them is served.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest

from contracts.api import Event
from contracts.canonical import digest
from contracts.protocol import escrow_pb2 as pb
from contracts.protocol.escrow_pb2_grpc import EnrolmentStub, EscrowStub
from escrow.front import Told
from escrow.hub import Watching
from escrow.server import PARTIES, STRANGERS, Door
from escrow.session import Session
from parties.certificates import Credentials
from parties.channel import failure
from parties.client import Client
from scenarios import tiny
from scenarios.consortium import ORIGIN, Consortium, Wire
from tests import wire as line
from tests.wire import until

CONTRACT = "sha256:" + 64 * "0"
AGE, GRACE = 1.0, 0.5
SHORT = replace(PARTIES, age_seconds=AGE, grace_seconds=GRACE)
SMALL = Door(8, 4 << 20, idle_seconds=5.0, age_seconds=5.0, grace_seconds=1.0)
PROMPT = 2.0  # seconds in which whoever is not stalled takes the next thing, on a busy machine too


@pytest.fixture
def wire() -> Wire:
    return "grpc"


class Log(Told):
    """Keeps how calls ended."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str]] = []
        self.bugs: list[BaseException] = []

    def call(self, verb: str, party: str, code: str, seconds: float) -> None:
        self.ended.append((verb, code))

    def bug(self, verb: str, error: BaseException) -> None:
        self.bugs.append(error)


def mute(channel: grpc.Channel, method: str, go_on: threading.Event) -> Any:
    """A call whose headers are sent, and whose message never is."""

    def nothing() -> Iterator[bytes]:
        go_on.wait()
        yield from ()

    return channel.stream_unary(f"/model_escrow.v1.{method}").future(nothing())  # type: ignore[arg-type]


@contextmanager
def crowd(line_to: Callable[[], grpc.Channel], method: str, calls: int) -> Iterator[list[Any]]:
    """So many calls on one connection that hold a thread each."""
    go_on = threading.Event()
    with line_to() as channel:
        held = [mute(channel, method, go_on) for _ in range(calls)]
        try:
            yield held
        finally:
            go_on.set()
            for each in held:
                each.cancel()


def strangers_line(consortium: Consortium) -> grpc.Channel:
    assert consortium.server is not None
    trusted = "".join(consortium.server.requests.authority.authorities()).encode()
    where = f"{consortium.server.ports.host}:{consortium.server.ports.enrolment}"
    return line.channel(where, Credentials(b"", b"", trusted, 0, ""))


def party_line(consortium: Consortium, bank: Client) -> grpc.Channel:
    return line.channel(line.address(consortium), line.credentials(bank, consortium.core.now()))


def answer(call: Callable[[], object]) -> str:
    """The code that a call is refused with, or `ok`."""
    try:
        call()
    except grpc.RpcError as error:
        return failure(error).code
    return "ok"


def done(held: list[Any]) -> int:
    return sum(each.done() for each in held)


def seen_once(look: Callable[[], bool]) -> None:
    """A crowd lasts as long as a connection may: who looked too late for it looks at another one."""
    assert any(look() for _ in range(5)), "never in time"


# headers only


def test_strangers_who_send_only_headers_are_ended_and_others_served(consortium: Consortium, runtime: Any) -> None:
    line.restart(consortium, runtime, strangers=SMALL)

    def crowded() -> bool:
        with (
            crowd(lambda: strangers_line(consortium), "Enrolment/GetCard", SMALL.calls + 1) as held,
            line.enrolment(consortium) as stub,
        ):
            until(lambda: done(held) >= 1)  # refused: the others have every place
            found = answer(lambda: stub.GetCard(pb.GetCardRequest()))
            assert found in {"escrow-crowded", "ok"}
            in_time = found == "escrow-crowded" and done(held) == 1
            assert consortium.banks["north"].escrow.info().ledger == ORIGIN  # the other port is another crowd's
            until(lambda: done(held) == len(held))
            until(lambda: answer(lambda: stub.GetCard(pb.GetCardRequest())) == "ok")
            return in_time

    seen_once(crowded)


def test_a_revoked_party_that_sends_only_headers_is_ended_and_others_served(
    consortium: Consortium, runtime: Any
) -> None:
    north, harbour = consortium.banks.values()
    line.restart(consortium, runtime, parties=SMALL)
    consortium.core.revoke("north")
    half = SMALL.calls // 2
    stub = harbour.escrow.stub  # type: ignore[attr-defined]

    def crowded() -> bool:
        with (
            crowd(lambda: party_line(consortium, north), "Escrow/Info", half) as some,
            crowd(lambda: party_line(consortium, north), "Escrow/Submit", half + 1) as others,
        ):
            until(lambda: done(some + others) >= 1)
            found = answer(lambda: stub.Info(pb.InfoRequest()))
            assert found in {"escrow-crowded", "ok"}
            in_time = found == "escrow-crowded" and done(some + others) == 1
            until(lambda: done(some + others) == SMALL.calls + 1)
            until(lambda: answer(lambda: stub.Info(pb.InfoRequest())) == "ok")
            return in_time

    seen_once(crowded)


# connections that end by age


class Slowly:
    """A file that is sent in pieces, with a pause before each; notes from where it was asked for."""

    def __init__(self, content: bytes, pieces: int, pause: float) -> None:
        self.content, self.token, self.offsets = content, 32 * "a", list[int]()
        self._size, self._pause, self._tick = len(content) // pieces, pause, threading.Event()

    def chunks(self, offset: int) -> Iterator[bytes]:
        self.offsets.append(offset)
        for start in range(offset, len(self.content), self._size):
            self._tick.wait(self._pause)
            yield self.content[start : start + self._size]

    def digest(self) -> str:
        return digest(self.content)


def test_an_upload_and_a_listener_outlive_their_connections(consortium: Consortium, runtime: Any) -> None:
    line.restart(consortium, runtime, parties=SHORT)
    north, harbour = consortium.banks.values()
    heard: list[int] = []

    def listen() -> None:
        for event in harbour.escrow.watch(0):
            heard.append(event.index)  # noqa: PERF401 - it is looked at while it grows

    listening = threading.Thread(target=listen)
    listening.start()
    upload = Slowly(bytes(range(256)) * 4096, 20, 0.2)  # four seconds: several connections
    sending = threading.Thread(target=north.escrow.deposit, args=(upload,))
    begin = time.monotonic()
    sending.start()
    number = 0
    while sending.is_alive():
        tiny.proposed(consortium, title=f"Contract {number}")
        number += 1
        sending.join(0.3)
    assert time.monotonic() - begin > 2.5 * (AGE + GRACE)
    assert consortium.core.vault.read(upload.digest()) == upload.content
    assert len(upload.offsets) >= 3
    assert upload.offsets == sorted(upload.offsets)
    told = [each.index for each in consortium.core.ledger.events("harbour", 0, 1000)]
    until(lambda: len(heard) >= len(told))
    harbour.escrow.close()  # type: ignore[attr-defined]
    listening.join(line.SECONDS)
    assert heard == told


def test_an_idle_connection_is_closed(consortium: Consortium, runtime: Any) -> None:
    line.restart(consortium, runtime, strangers=replace(STRANGERS, idle_seconds=0.5, age_seconds=3600))
    with strangers_line(consortium) as channel:
        EnrolmentStub(channel).GetCard(pb.GetCardRequest())  # over a connection that may be gone by the next line
        states: list[grpc.ChannelConnectivity] = []
        channel.subscribe(states.append)
        until(lambda: states[-1:] == [grpc.ChannelConnectivity.IDLE])
        channel.unsubscribe(states.append)


# readers


def endless(self: Session, contract: str, offset: int = 0) -> Iterator[bytes]:
    while True:
        yield bytes(1 << 16)


def chatty(self: Session, since: int, still: Callable[[], object]) -> Watching:
    def look(index: int) -> list[Event]:
        return [Event(index=each, time=0, kind="x" * 4000, contract=CONTRACT) for each in range(index, index + 99)]

    return Watching(self.core.hub, self.caller, since, look)


@pytest.mark.parametrize("verb", ["collect", "watch"])
def test_a_reader_that_takes_nothing_is_cut_off(
    consortium: Consortium, runtime: Any, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    log = Log()
    line.restart(consortium, runtime, stalled_seconds=0.3, told=log)
    monkeypatch.setattr(Session, "collect", endless)
    monkeypatch.setattr(Session, "watch", chatty)
    with party_line(consortium, consortium.banks["north"]) as channel:
        stub = EscrowStub(channel)
        answers = stub.Collect(pb.CollectRequest()) if verb == "collect" else stub.Watch(pb.WatchRequest())
        until(lambda: (verb, "cancelled") in log.ended)
        with pytest.raises(grpc.RpcError) as caught:
            list(answers)
        assert caught.value.code() is grpc.StatusCode.CANCELLED
    assert log.bugs == []
    assert not consortium.core.hub._ears.get("north")


def test_a_listener_to_whom_nothing_happens_is_not_cut_off(consortium: Consortium, runtime: Any) -> None:
    log = Log()
    line.restart(consortium, runtime, stalled_seconds=PROMPT, told=log)
    tiny.proposed(consortium)
    events = consortium.banks["north"].escrow.watch(0)
    first = next(events)
    threading.Event().wait(1.5 * PROMPT)
    tiny.proposed(consortium, title="Another")
    assert next(events).index > first.index
    assert not [each for each in log.ended if each[0] == "watch"]
    events.close()  # type: ignore[attr-defined]
