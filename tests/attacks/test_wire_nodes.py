"""Nodes over the real wire: lines that are cut, connections that are not one's own, too much, too slow, too often."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from contracts import statements as st
from contracts.errors import EscrowError
from contracts.nodes import FRAME_BYTES_AT_MOST, PIECE_BYTES, Begin, Here, Over, Piece, Pieces, Said, Told
from contracts.protocol import convert
from contracts.protocol import escrow_pb2 as pb
from contracts.protocol import escrow_pb2_grpc as stubs
from escrow.nodes import JOINS_AT_MOST
from escrow.server import PARTIES
from parties.client import Client
from scenarios.consortium import ORIGIN, Consortium, Wire
from tests import wire as network
from tests.nodes import SECONDS, Asker, Join, Line, approved_at_home, frame, refusal_to
from tests.wire import CutLine, refusal_of, until

PROMPT = 2.0  # seconds in which whoever is not stalled takes or says the next thing, on a busy machine too
BIG = bytes(range(256)) * (2 * PIECE_BYTES // 256 + 1)


@pytest.fixture
def wire() -> Wire:
    return "grpc"


@pytest.fixture
def contract(consortium: Consortium) -> str:
    """Approved by both, with the training rows of harbour at home."""
    return approved_at_home(consortium, "harbour")


def joining(bank: Client, contract: str) -> Join:
    def join(said: Iterator[Said]) -> Iterator[Told]:
        return bank.escrow.join(contract, said)

    return join


def linked(consortium: Consortium, contract: str, *, attempt: int = 1) -> Asker:
    return Asker(consortium.core.nodes.link(contract, 1, attempt, "harbour", seconds=SECONDS))


@pytest.fixture
def begun(consortium: Consortium, contract: str) -> Iterator[tuple[Asker, Line]]:
    """An attempt with harbour's node."""
    with Line(joining(consortium.banks["harbour"], contract)) as line:
        line.say(Here())
        asker = linked(consortium, contract)
        assert line.told() == Begin(run=1, attempt=1, answers=0)
        yield asker, line
        asker.stream.close()


@dataclass
class Resuming:
    """A node that keeps its last answer and goes on over new connections; answers a question with its reverse.

    Attributes:
        asked: what it was asked, in order.
        connections: how many it has made.
    """

    bank: Client
    contract: str
    where: str
    asked: list[bytes] = field(default_factory=list)
    connections: int = 0
    _last: bytes = b""
    _begun: Begin | None = None

    def serve(self, stopped: threading.Event) -> None:
        while not stopped.is_set():
            held = network.credentials(self.bank, int(time.time()))
            session = network.session(self.bank, held, self.where)
            self.connections += 1
            try:
                self._converse(session.join)
            except EscrowError as error:
                if error.code != "escrow-unreachable":
                    raise
            finally:
                session.close()

    def _converse(self, join: Callable[[str, Iterator[Said]], Iterator[Told]]) -> None:
        def connect(said: Iterator[Said]) -> Iterator[Told]:
            return join(self.contract, said)

        with Line(connect) as line:
            begun = self._begun
            line.say(Here(run=1, attempt=1, questions=len(self.asked)) if begun else Here())
            whole = Pieces()
            while True:
                told = line.told()
                match told:
                    case Begin(answers=answers):
                        self._begun = told
                        if answers < len(self.asked):
                            line.answer(self._last)
                    case Piece():
                        if (question := whole.add(told)) is not None:
                            self.asked.append(question)
                            self._last = frame(question[12:][::-1])
                            line.answer(self._last)
                    case Over():
                        self._begun, self.asked = None, []
                        line.say(Here())


@pytest.mark.parametrize("back", [False, True], ids=["answers", "questions"])
def test_a_line_that_is_cut_anywhere_loses_and_doubles_nothing(
    consortium: Consortium, contract: str, back: bool
) -> None:
    """Each connection lets a little more through than the one before, from less than a handshake to whole frames."""
    small = [b"a question", b"", b"x" * 900, b"another question"] * 3
    rooms = [1_000, *range(3_500, 9_500, 250)] + [9_000 + PIECE_BYTES // 3 * each for each in range(1, 9)]
    stopped = threading.Event()
    with CutLine(network.address(consortium), rooms, back=back) as cut:
        node = Resuming(consortium.banks["harbour"], contract, cut.address)
        serving = threading.Thread(target=node.serve, args=(stopped,))
        serving.start()
        asker = linked(consortium, contract)
        questions = [*small, BIG, b"one more", BIG, b"the last"]
        for payload in questions:
            asker.ask(payload)
            assert asker.answer() == payload[::-1]
        assert node.asked == [frame(payload) for payload in questions]
        assert node.connections > 10
        stopped.set()
        asker.stream.close()
        cut.cut()
        serving.join(SECONDS)
        assert not serving.is_alive()


def test_a_whole_training_passes_over_one_line(begun: tuple[Asker, Line]) -> None:
    asker, line = begun
    for payload in (b"small", bytes(FRAME_BYTES_AT_MOST - 12), BIG):
        sending = threading.Thread(target=asker.ask, args=(payload,))
        sending.start()
        question = line.question()
        sending.join()
        assert question == frame(payload)
        line.answer(question)
        assert asker.answer() == payload


def test_an_older_connection_is_replaced(consortium: Consortium, contract: str, begun: tuple[Asker, Line]) -> None:
    asker, first = begun
    question = asker.ask(b"one")
    assert first.question() == question
    with Line(joining(consortium.banks["harbour"], contract)) as second:
        second.begin(Here(run=1, attempt=1, questions=1))
        assert first.end() == "node-refused"
        second.answer(frame(b"new"))
        assert asker.answer() == b"new"


def test_a_line_that_died_unnoticed_does_not_lock_the_node_out(consortium: Consortium, contract: str) -> None:
    harbour = consortium.banks["harbour"]
    with CutLine(network.address(consortium), ()) as quiet, network.over(quiet, harbour) as there:
        with Line(joining(there, contract)) as dead:
            dead.say(Here())
            asker = linked(consortium, contract)
            dead.told()
            with Line(joining(harbour, contract)) as line:
                line.begin(Here(run=1, attempt=1))
                question = asker.ask(b"one")
                assert line.question() == question
        asker.stream.close()


# not one's own


def test_nobody_joins_for_another(found: Callable[..., Consortium], refused: Any) -> None:
    consortium = found(banks=("north", "harbour", "valley"))
    valley = consortium.banks.pop("valley")
    contract = approved_at_home(consortium, "harbour")
    north = consortium.banks["north"]
    assert refusal_to(joining(north, contract)) == "node-refused"
    assert refusal_to(joining(valley, contract)) == "contract-unknown"
    assert refusal_to(joining(north, "sha256:" + 64 * "0")) == "contract-unknown"
    assert refusal_to(joining(north, "no digest")) == "contract-unknown"
    with refused("node-missing"):
        consortium.core.nodes.link(contract, 1, 1, "harbour", seconds=0.05)
    consortium.banks["valley"] = valley


def test_a_connection_speaks_of_one_contract(consortium: Consortium, contract: str) -> None:
    other = approved_at_home(consortium, "harbour", title="Another contract")
    harbour = consortium.banks["harbour"]
    with raw(consortium, harbour) as (say, call):
        say(Here(), contract)
        with linked(consortium, contract).stream:
            assert next(call).WhichOneof("told") == "begin"
        assert next(call).WhichOneof("told") == "over"
        say(Here(), other)
        assert refusal_of(lambda: next(call)).code == "message-refused"
    assert consortium.core.nodes.missing(consortium.core.runs.case(other).contract) == ["harbour"]


@contextmanager
def raw(
    consortium: Consortium, bank: Client
) -> Iterator[tuple[Callable[[Said | pb.JoinRequest, str], None], Iterator[pb.JoinResponse]]]:
    """A bank's connection, message by message."""
    messages: SimpleQueue[pb.JoinRequest | None] = SimpleQueue()

    def say(said: Said | pb.JoinRequest, contract: str = "") -> None:
        messages.put(said if isinstance(said, pb.JoinRequest) else convert.to_said(said, contract))

    held = network.credentials(bank, consortium.core.now())
    with network.channel(network.address(consortium), held) as channel:
        call = stubs.EscrowStub(channel).Join(iter(messages.get, None), timeout=SECONDS)
        try:
            yield say, call
        finally:
            messages.put(None)
            call.cancel()


@pytest.mark.parametrize(
    "first",
    [
        pb.JoinRequest(),
        pb.JoinRequest(failed="limit-time"),
        pb.JoinRequest(piece=pb.Piece(data=b"x", last=True)),
    ],
    ids=["nothing", "failed", "piece"],
)
def test_a_node_first_says_where_it_stands(consortium: Consortium, first: pb.JoinRequest) -> None:
    with raw(consortium, consortium.banks["harbour"]) as (say, call):
        say(first, "")
        assert refusal_of(lambda: next(call)).code == "message-refused"


def test_numbers_beyond_all_bounds_are_refused(consortium: Consortium, contract: str) -> None:
    with raw(consortium, consortium.banks["harbour"]) as (say, call):
        say(pb.JoinRequest(here=pb.JoinHere(contract=contract, run=2**64 - 1)), "")
        assert refusal_of(lambda: next(call)).code == "message-refused"


def test_a_revoked_certificate_ends_the_connection(
    consortium: Consortium, contract: str, begun: tuple[Asker, Line]
) -> None:
    asker, line = begun
    harbour = consortium.banks["harbour"]
    held = network.credentials(harbour, consortium.core.now())
    harbour.submit(st.CertificateRevoked(ledger=ORIGIN, party="harbour", key=held.key_digest))
    assert line.end() == "certificate-revoked"
    asker.ask(b"one")  # the attempt waits for a node with another certificate
    assert consortium.core.nodes.failure(contract, 1, "harbour") is None
    assert refusal_to(joining(harbour, contract)) == "certificate-revoked"


def test_a_revoked_party_is_let_go(consortium: Consortium, contract: str, begun: tuple[Asker, Line]) -> None:
    asker, line = begun
    consortium.core.revoke("harbour")
    assert line.end() == "party-revoked"
    assert asker.ended()
    assert consortium.core.runs.case(contract).state == "halted"


# too much, too slow, too often


def test_a_message_beyond_all_bounds_ends_the_connection_and_nothing_else(
    consortium: Consortium, contract: str
) -> None:
    with raw(consortium, consortium.banks["harbour"]) as (say, call):
        say(Here(), contract)
        asker = linked(consortium, contract)
        next(call)
        asker.ask(b"one")
        next(call)
        say(Piece(bytes(5 << 20), last=True), "")
        assert refusal_of(lambda: next(call)).code in {"message-refused", "escrow-unreachable"}
    with Line(joining(consortium.banks["harbour"], contract)) as line:
        line.begin(Here(run=1, attempt=1, questions=1))
        line.answer(frame(b"yes"))
        assert asker.answer() == b"yes"
    asker.stream.close()


@pytest.mark.parametrize("asked", [False, True])
def test_a_flood_is_refused_before_it_fills_anything(
    consortium: Consortium, contract: str, begun: tuple[Asker, Line], asked: bool
) -> None:
    """Unasked, at its first piece; asked, at the first piece beyond a frame."""
    asker, line = begun
    if asked:
        asker.ask(b"one")
        line.question()
    for _ in range(64):
        line.say(Piece(bytes(PIECE_BYTES), last=False))
    assert line.end() == "update-invalid"
    assert asker.ended()
    assert consortium.core.nodes.failure(contract, 1, "harbour") == "update-invalid"


def test_a_node_that_waits_is_not_cut_off_and_one_that_does_not_read_is(
    consortium: Consortium, contract: str, runtime: Any
) -> None:
    network.restart(consortium, runtime, stalled_seconds=PROMPT)
    harbour = consortium.banks["harbour"]
    with raw(consortium, harbour) as (say, call):
        say(Here(), contract)
        until(lambda: consortium.core.nodes.connected == 1)
        pause = threading.Event()
        pause.wait(1.5 * PROMPT)
        assert consortium.core.nodes.connected == 1
        asker = linked(consortium, contract)
        assert next(call).WhichOneof("told") == "begin"
        pause.wait(1.5 * PROMPT)
        assert consortium.core.nodes.connected == 1
        sending = threading.Thread(target=asker.ask, args=(bytes(FRAME_BYTES_AT_MOST - 12),))
        sending.start()
        until(lambda: consortium.core.nodes.connected == 0)  # it reads none of it
    with Line(joining(harbour, contract)) as line:
        line.begin(Here(run=1, attempt=1))
        assert len(line.question()) == FRAME_BYTES_AT_MOST
    sending.join()
    asker.stream.close()


def test_who_says_nothing_is_cut_off(consortium: Consortium, runtime: Any) -> None:
    network.restart(consortium, runtime, stalled_seconds=0.3)
    with raw(consortium, consortium.banks["harbour"]) as (_, call), pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.CANCELLED  # type: ignore[attr-defined]


def test_a_node_that_is_gone_is_missed_by_the_deadline_of_whoever_asks(
    consortium: Consortium, contract: str, begun: tuple[Asker, Line]
) -> None:
    asker, line = begun
    asker.ask(b"one")
    line.question()
    line.close()
    asker.stream.settimeout(0.2)
    with pytest.raises(TimeoutError):
        asker.answer()
    consortium.core.nodes.end(contract, 1)
    assert asker.ended()
    until(lambda: not [each for each in threading.enumerate() if each.name == "attempt"])


def test_a_party_joins_no_more_contracts_than_allowed_and_keeps_its_other_calls(consortium: Consortium) -> None:
    harbour = consortium.banks["harbour"]
    contracts = [approved_at_home(consortium, "harbour", title=f"Contract {each}") for each in range(JOINS_AT_MOST + 1)]
    with ExitStack() as stack:
        lines = [stack.enter_context(Line(joining(harbour, each))) for each in contracts[:-1]]
        for line in lines:
            line.say(Here())
        until(lambda: consortium.core.nodes.connected == JOINS_AT_MOST)
        assert refusal_to(joining(harbour, contracts[-1])) == "quota-exceeded"
        assert harbour.escrow.info().ledger == ORIGIN
        lines[0].close()
        until(lambda: consortium.core.nodes.connected == JOINS_AT_MOST - 1)
        last = stack.enter_context(Line(joining(harbour, contracts[-1])))
        last.say(Here())
        until(lambda: consortium.core.nodes.connected == JOINS_AT_MOST)


def test_an_escrow_that_stops_leaves_nobody_waiting_and_no_thread(consortium: Consortium, contract: str) -> None:
    assert consortium.server is not None
    line = Line(joining(consortium.banks["harbour"], contract))
    line.say(Here())
    asker = linked(consortium, contract)
    line.told()
    begin = time.monotonic()
    consortium.server.stop(grace_seconds=SECONDS)
    assert time.monotonic() - begin < SECONDS / 2
    assert line.end() == "closed"
    line.close()
    consortium.core.nodes.close()
    assert asker.ended()
    asker.stream.close()
    until(lambda: not [each for each in threading.enumerate() if each.name in {"attempt", "node-harbour"}])


def test_a_connection_that_ends_by_its_age_is_made_again(consortium: Consortium, contract: str, runtime: Any) -> None:
    """As every connection does, after some minutes: nothing is lost, and no attempt fails."""
    network.restart(consortium, runtime, parties=replace(PARTIES, age_seconds=0.5, grace_seconds=0.2))
    stopped = threading.Event()
    node = Resuming(consortium.banks["harbour"], contract, network.address(consortium))
    serving = threading.Thread(target=node.serve, args=(stopped,))
    serving.start()
    asker = linked(consortium, contract)

    def renewed() -> bool:
        asker.ask(b"how are you")
        assert asker.answer() == b"uoy era woh"
        return node.connections > 3

    until(renewed)
    stopped.set()
    asker.stream.close()
    serving.join(SECONDS)
    assert not serving.is_alive()
