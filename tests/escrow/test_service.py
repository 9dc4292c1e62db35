"""The services over gRPC: what is told of calls, how errors travel, what a running server shows and how it stops."""

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from contracts.errors import EscrowError, Exit
from contracts.protocol import convert
from contracts.protocol import escrow_pb2 as pb
from escrow.authority import Authority
from escrow.front import Told
from escrow.server import SERVICE, Ports, Server
from escrow.session import Session
from parties.session import connect, renew
from scenarios import tiny
from scenarios.consortium import ORIGIN, Consortium, Wire
from tests import wire as line
from tests.wire import refusal_of, until


@pytest.fixture
def wire() -> Wire:
    return "grpc"


class Log(Told):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.bugs: list[tuple[str, BaseException]] = []

    def call(self, verb: str, party: str, code: str, seconds: float) -> None:
        assert seconds >= 0
        self.calls.append((verb, party, code))

    def bug(self, verb: str, error: BaseException) -> None:
        self.bugs.append((verb, error))


@pytest.fixture
def log(consortium: Consortium, runtime: Any) -> Log:
    log = Log()
    line.restart(consortium, runtime, told=log)
    return log


@pytest.fixture
def channel(consortium: Consortium) -> Iterator[grpc.Channel]:
    held = line.credentials(consortium.banks["north"], consortium.core.now())
    with line.channel(line.address(consortium), held) as channel:
        yield channel


def test_every_call_is_told_with_its_caller_and_outcome(consortium: Consortium, log: Log, refused: Any) -> None:
    north, harbour = consortium.banks.values()
    north.escrow.info()
    harbour.escrow.contracts()
    with refused("contract-unknown"):
        harbour.view("sha256:" + 64 * "0")
    until(lambda: len(log.calls) == 3)
    assert log.calls == [("info", "north", "ok"), ("list", "harbour", "ok"), ("view", "harbour", "contract-unknown")]
    assert log.bugs == []


def test_a_listener_that_leaves_ends_its_call(consortium: Consortium, log: Log) -> None:
    tiny.proposed(consortium)
    events = consortium.banks["north"].escrow.watch(0)
    next(events)
    events.close()  # type: ignore[attr-defined]
    until(lambda: bool({("watch", "north", "ok"), ("watch", "north", "cancelled")} & set(log.calls)))
    assert log.bugs == []


@pytest.mark.parametrize("verb", ["directory", "contracts"])
def test_a_bug_travels_as_a_code_and_its_trace_stays(
    consortium: Consortium, log: Log, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """In an answer, and in a stream."""
    inside = "what was in memory"

    def broken(self: Session) -> Any:
        raise KeyError(inside)

    monkeypatch.setattr(Session, verb, broken)
    north = consortium.banks["north"]
    method, request = {
        "directory": ("Directory", pb.DirectoryRequest()),
        "contracts": ("List", pb.ListRequest()),
    }[verb]
    stub = north.escrow.stub  # type: ignore[attr-defined]

    def call() -> object:
        found = getattr(stub, method)(request)
        return list(found) if verb == "contracts" else found

    with pytest.raises(grpc.RpcError) as caught:
        call()
    seen = f"{caught.value.details()} {caught.value.trailing_metadata()}"  # type: ignore[attr-defined]
    assert inside not in seen
    assert "Traceback" not in seen
    assert "KeyError" not in seen
    told = refusal_of(call)
    assert (told.code, told.exit) == ("bug", Exit.BUG)
    assert told.message
    assert told.hint
    assert [str(error) for _, error in log.bugs] == [f"'{inside}'"] * 2


def test_a_refusal_travels_whole_unless_it_is_too_long() -> None:
    short = EscrowError("document-invalid", "Three terms are wrong.", "Mend them.", ["one", "two", "three"])
    back = convert.from_problem(convert.to_problem(short))
    assert (back.code, back.message, back.hint, back.details) == (
        short.code,
        short.message,
        short.hint,
        short.details,
    )
    long = EscrowError("document-invalid", "é" * 100_000, "ß" * 100_000, ["ü" * 10_000] * 1_000)
    sent = convert.to_problem(long)
    assert len(sent) < 8 << 10
    cut = convert.from_problem(sent)
    assert cut.code == "document-invalid"
    assert cut.details[-1] == "and more"
    unknown = pb.Problem(code="of-tomorrow", message="New.", hint="Ask.").SerializeToString()
    assert "of-tomorrow" in convert.from_problem(unknown).message


def test_health_and_reflection_answer_as_their_standards_say(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", SERVICE):
        found = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=line.SECONDS)
        assert found.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="another"), timeout=line.SECONDS)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    [answer] = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
    assert SERVICE in {each.name for each in answer.list_services_response.service}


def test_two_escrows_cannot_listen_on_one_port(consortium: Consortium, tmp_path: Any, refused: Any) -> None:
    assert consortium.server is not None
    taken = consortium.server.ports
    with refused("port-taken"):
        Server.start(consortium.core, Ports(taken.host, taken.main, 0))


@pytest.mark.parametrize("host", ["::1", "[::1]", "localhost"])
def test_an_escrow_listens_on_ipv6_and_on_names(consortium: Consortium, runtime: Any, host: str) -> None:
    north = consortium.banks["north"]
    server = Server.start(consortium.core, Ports(host))
    try:
        assert server.ports.host == host.strip("[]")
        where = f"[::1]:{server.ports.main}" if "::" in host else f"{host}:{server.ports.main}"
        session = line.session(north, line.credentials(north, consortium.core.now()), where)
        assert session.info().ledger == ORIGIN
        session.close()
    finally:
        server.stop(0)


@pytest.mark.parametrize("host", ["", "no host", "::1::", "256.1.1.1", "unix:/tmp/escrow", "[", "a" * 300])
def test_a_host_that_is_none_is_wrong_usage(consortium: Consortium, refused: Any, host: str) -> None:
    with refused("usage"):
        Server.start(consortium.core, Ports(host))


def test_an_error_before_anybody_is_admitted_tells_nothing_of_the_escrow(consortium: Consortium, log: Log) -> None:
    with line.enrolment(consortium) as stub:
        stub.GetCard(pb.GetCardRequest())
        authorities = consortium.core.directory / "tls" / "authority.pem"
        kept = authorities.read_bytes()
        authorities.write_bytes(b"damaged")
        try:
            told = refusal_of(lambda: stub.GetCard(pb.GetCardRequest()))
        finally:
            authorities.write_bytes(kept)
    assert told.code == "bug"
    assert str(consortium.core.directory) not in told.diagnostics()
    assert [verb for verb, _ in log.bugs] == ["card"]


def test_a_new_authority_needs_no_restart(consortium: Consortium) -> None:
    """The escrow rotates, the bank renews, the old authority is dropped: the old certificate is locked out, no bank."""
    north = consortium.banks["north"]
    old = line.credentials(north, consortium.core.now())
    authority = Authority.open(consortium.core.directory)
    authority.rotate(consortium.core.now())
    renew(north.home, north.identity)
    assert len(line.credentials(north, consortium.core.now()).authorities_pem) > len(old.authorities_pem)
    authority.drop_old()
    fresh = connect(north.home, north.identity, consortium.core.now())
    assert fresh.info().ledger == ORIGIN
    fresh.close()
    stale = line.session(north, old, line.address(consortium))
    with pytest.raises(EscrowError) as caught:
        stale.info()
    assert caught.value.exit is Exit.CONNECTION
    stale.close()


def test_a_server_that_stops_lets_calls_end_and_sends_listeners_away(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call under way is answered; a listener, who would stay for ever, does not hold the stop up."""
    north, harbour = consortium.banks.values()
    tiny.proposed(consortium)
    listening = harbour.escrow.stub.Watch(pb.WatchRequest())  # type: ignore[attr-defined]
    next(listening)
    began, go_on, honest = threading.Event(), threading.Event(), Session.info

    def slowly(self: Session) -> Any:
        began.set()
        go_on.wait(line.SECONDS)
        return honest(self)

    monkeypatch.setattr(Session, "info", slowly)
    answered: list[str] = []
    calling = threading.Thread(target=lambda: answered.append(north.escrow.info().ledger))
    calling.start()
    assert began.wait(line.SECONDS)
    assert consortium.server is not None
    stopping = threading.Thread(target=consortium.server.stop, args=(100 * line.SECONDS,), daemon=True)
    stopping.start()
    list(listening)  # ends, with the head
    assert dict(listening.trailing_metadata())["head-bin"]
    go_on.set()
    for thread in (calling, stopping):
        thread.join(line.SECONDS)
        assert not thread.is_alive()
    assert answered == [ORIGIN]


def test_an_entry_of_a_megabyte_still_fits_into_an_answer(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    """Entries come in answers of bounded size, at least one in each."""
    monkeypatch.setattr("escrow.session.ANSWER_AT_MOST", 10)
    size = consortium.core.ledger.size()
    north, found = consortium.banks["north"], []
    while len(found) < size:
        some = north.escrow.entries(len(found), size)
        assert len(some) == 1
        found.extend(some)
    assert found == list(consortium.core.ledger.leaves())
    assert north.escrow.entries(size, size + 10) == ()
