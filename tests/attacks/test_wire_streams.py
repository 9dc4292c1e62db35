"""Streams that are cut, stall, never end, come too many at once, or come in the wrong order."""

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from contracts.api import Event
from contracts.canonical import digest
from contracts.errors import EscrowError
from contracts.protocol import escrow_pb2 as pb
from contracts.protocol import escrow_pb2_grpc as stubs
from escrow.front import CALLS_AT_MOST
from escrow.hub import LISTENERS_AT_MOST
from escrow.server import STREAMS_AT_MOST
from escrow.session import Session
from escrow.uploads import UploadLimits
from parties.client import Client
from parties.identity import pinned
from parties.patience import Patience
from parties.release import fetch, verify_release
from scenarios import tiny
from scenarios.consortium import ORIGIN, Consortium, Wire
from tests import wire as line
from tests.wire import CutLine, refusal_of, until

CHUNK = 1 << 16
PROMPT = 2.0  # seconds in which whoever is not stalled says the next thing, on a busy machine too


@pytest.fixture
def wire() -> Wire:
    return "grpc"


@dataclass
class Upload:
    """Bytes on their way in; counts from where they were asked for, and does something on the way."""

    content: bytes = field(default_factory=lambda: secrets.token_bytes(4 << 20), repr=False)
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    offsets: list[int] = field(default_factory=list)
    halfway: Callable[[], None] | None = None

    def chunks(self, offset: int) -> Iterator[bytes]:
        self.offsets.append(offset)
        for start in range(offset, len(self.content), CHUNK):
            if start >= len(self.content) // 2 and self.halfway:
                self.halfway, once = None, self.halfway
                once()
            yield self.content[start : start + CHUNK]

    def digest(self) -> str:
        return digest(self.content)


@contextmanager
def stub_of(consortium: Consortium, bank: Client) -> Iterator[stubs.EscrowStub]:
    """A bank's raw connection."""
    with line.channel(line.address(consortium), line.credentials(bank, consortium.core.now())) as channel:
        yield stubs.EscrowStub(channel)


def begin(token: str, offset: int = 0) -> pb.DepositRequest:
    return pb.DepositRequest(begin=pb.DepositBegin(upload=token, offset=offset))


def data(content: bytes) -> pb.DepositRequest:
    return pb.DepositRequest(data=content)


def end(content: bytes) -> pb.DepositRequest:
    return pb.DepositRequest(end=pb.DepositEnd(digest=digest(content)))


class Held:
    """A deposit that says something and is then silent."""

    def __init__(self, stub: stubs.EscrowStub, *first: pb.DepositRequest) -> None:
        self._go_on = threading.Event()
        self.call = stub.Deposit.future(self._messages(first))

    def _messages(self, first: tuple[pb.DepositRequest, ...]) -> Iterator[pb.DepositRequest]:
        yield from first
        self._go_on.wait()

    def end(self) -> None:
        self.call.cancel()
        self._go_on.set()


@pytest.fixture
def hold() -> Iterator[Callable[..., Held]]:
    """Makes deposits that fall silent."""
    made: list[Held] = []

    def make(stub: stubs.EscrowStub, *first: pb.DepositRequest) -> Held:
        made.append(Held(stub, *first))
        return made[-1]

    yield make
    for each in made:
        each.end()


# cut connections


@pytest.mark.parametrize("rooms", [(2_000,), (100_000, 1_000_000), (1_500_000, 1_500_000, 500_000, 300_000)], ids=str)
def test_a_cut_deposit_goes_on_where_it_was(consortium: Consortium, rooms: tuple[int, ...]) -> None:
    upload = Upload()
    assert sum(rooms) < len(upload.content)  # so each is used up, however little a cut loses
    with CutLine(line.address(consortium), rooms) as cut, line.over(cut, consortium.banks["north"]) as north:
        assert north.escrow.deposit(upload) == upload.digest()
        assert cut.cuts == len(rooms)
    assert consortium.core.vault.read(upload.digest()) == upload.content
    assert upload.offsets == sorted(upload.offsets)
    assert sum(rooms) < 3_000_000 or upload.offsets[-1] > 0


def test_a_cut_collection_goes_on_where_it_was(
    consortium: Consortium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("escrow.session.CHUNK", 500)
    contract = tiny.approved(consortium)
    assert consortium.core.run(contract).state == "released"
    north = consortium.banks["north"]
    whole = b"".join(north.escrow.collect(contract))
    assert len(whole) > 8_000
    assert list(north.escrow.collect(contract, len(whole))) == [] == list(north.escrow.collect(contract, 2**64 - 1))
    asked: list[int] = []
    taken = bytearray()
    honestly = Session.collect

    def has(offset: int) -> bool:
        return len(taken) >= offset or cut.cuts >= len(asked)

    def in_step(self: Session, contract: str, offset: int = 0) -> Iterator[bytes]:
        """Each piece once the one before was taken: a cut loses no more than one, however slow the reader is."""
        asked.append(offset)
        for piece in honestly(self, contract, offset):
            until(partial(has, offset))
            yield piece
            offset += len(piece)

    monkeypatch.setattr(Session, "collect", in_step)
    rooms = (7_000, 9_000)
    with CutLine(line.address(consortium), rooms, back=True) as cut, line.over(cut, north) as there:
        for piece in there.escrow.collect(contract):
            taken += piece
        assert taken == whole
        assert cut.cuts == len(rooms)
        release = fetch(there, contract, tmp_path / "release")
    assert 0 == asked[0] < asked[1] < asked[2]
    assert verify_release(release, north.identity, pinned(north.home)).contract.digest() == contract


@contextmanager
def listening(bank: Client, since: int = 0) -> Iterator[list[Event]]:
    """What a bank hears, in a thread of its own."""
    heard: list[Event] = []

    def listen() -> None:
        for event in bank.escrow.watch(since):
            heard.append(event)  # noqa: PERF402 - it is looked at while it grows

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield heard
    finally:
        bank.escrow.close()  # type: ignore[attr-defined]
        thread.join(line.SECONDS)
        assert not thread.is_alive()


def _told(consortium: Consortium) -> list[tuple[int, str]]:
    return [(each.index, each.kind) for each in consortium.core.ledger.events("north", 0, 1000)]


def test_a_cut_watch_hears_everything_once(consortium: Consortium) -> None:
    with CutLine(line.address(consortium), ()) as cut, line.over(cut, consortium.banks["north"]) as north:
        with listening(north) as heard:
            for number in range(4):
                tiny.proposed(consortium, title=f"Contract {number}")
                if number % 2:
                    until(lambda: len(heard) == len(_told(consortium)))
                cut.cut()
            until(lambda: len(heard) == len(_told(consortium)))
        assert [(each.index, each.kind) for each in heard] == _told(consortium)
        assert cut.cuts >= 2


def test_a_cut_list_is_read_again(consortium: Consortium) -> None:
    made = {tiny.proposed(consortium, title=f"Contract {number}") for number in range(6)}
    rooms = (4_000, 9_000)
    with CutLine(line.address(consortium), rooms, back=True) as cut, line.over(cut, consortium.banks["north"]) as north:
        assert {view.digest for view in north.escrow.contracts()} == made
        assert cut.cuts == len(rooms)


def test_an_escrow_that_starts_again_in_mid_upload(consortium: Consortium, runtime: Any) -> None:
    north = consortium.banks["north"]
    upload = Upload(halfway=lambda: line.restart(consortium, runtime))
    assert north.escrow.deposit(upload) == upload.digest()
    assert len(upload.offsets) == 2
    assert consortium.core.vault.read(upload.digest()) == upload.content


def test_an_escrow_that_is_away_for_a_while_in_mid_upload(
    consortium: Consortium, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than one call tries again by itself: it is asked once more how much has arrived."""
    lost: list[str] = []
    honestly = Patience.again

    def again(self: Patience, error: EscrowError) -> None:
        lost.append(error.code)
        honestly(self, error)

    monkeypatch.setattr(Patience, "again", again)
    away = partial(line.restart, consortium, runtime, between=lambda: until(lambda: len(lost) >= 2))
    upload = Upload(halfway=away)
    assert consortium.banks["north"].escrow.deposit(upload) == upload.digest()
    assert lost[1] == "escrow-unreachable"
    assert len(upload.offsets) == 2
    assert consortium.core.vault.read(upload.digest()) == upload.content


def test_an_escrow_that_starts_again_in_mid_watch(consortium: Consortium, runtime: Any) -> None:
    north = consortium.banks["north"]
    with listening(north) as heard:
        tiny.proposed(consortium)
        until(lambda: len(heard) == len(_told(consortium)))
        line.restart(consortium, runtime)
        contract = consortium.banks["harbour"].escrow.contracts()[0].digest
        consortium.banks["harbour"].reject(contract)
        until(lambda: len(heard) == len(_told(consortium)))
    assert [(each.index, each.kind) for each in heard] == _told(consortium)
    assert "contract-rejected" in {each.kind for each in heard}


# slow, endless, too many


def test_an_upload_that_stalls_is_cut_off_and_its_place_is_free(
    consortium: Consortium, runtime: Any, hold: Callable[..., Held]
) -> None:
    line.restart(consortium, runtime, stalled_seconds=PROMPT)
    north, upload = consortium.banks["north"], Upload()
    with stub_of(consortium, north) as stub:
        silent = hold(stub, begin(upload.token), data(upload.content[:1000]))
        mute = hold(stub)
        for each in (silent, mute):
            assert each.call.exception(line.SECONDS).code() is grpc.StatusCode.CANCELLED
    until(lambda: not consortium.core.uploads._shares["north"].busy)  # who called hears of it first
    assert north.escrow.deposit(upload) == upload.digest()
    assert upload.offsets == [1000]


def test_an_escrow_that_is_slow_itself_cuts_nobody_off(
    consortium: Consortium, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.restart(consortium, runtime, stalled_seconds=PROMPT)
    upload, adopt, pause = Upload(content=b"x" * 1000), consortium.core.vault.adopt, threading.Event()
    tried: list[int] = []

    def slowly(path: Path, named: str) -> None:
        tried.append(len(upload.offsets))
        pause.wait(1.5 * PROMPT)  # a slow disk, or storage far away
        adopt(path, named)

    monkeypatch.setattr(consortium.core.vault, "adopt", slowly)
    assert consortium.banks["north"].escrow.deposit(upload) == upload.digest()
    assert tried == [len(upload.offsets)]  # since then, nobody had to try again


def test_an_endless_upload_ends_at_the_limit(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consortium.core.uploads, "_limits", UploadLimits(file_bytes=1 << 20))
    token, sent = secrets.token_hex(16), [0]

    def endless() -> Iterator[pb.DepositRequest]:
        yield begin(token)
        while True:
            sent[0] += CHUNK
            yield data(bytes(CHUNK))

    north = consortium.banks["north"]
    with stub_of(consortium, north) as stub:
        assert refusal_of(lambda: stub.Deposit(endless(), timeout=line.SECONDS)).code == "quota-exceeded"
        assert stub.Received(pb.ReceivedRequest(upload=token)).size == 0
    assert sent[0] < 64 << 20
    assert not list((consortium.core.directory / "uploads").rglob("*.part"))


def test_more_uploads_at_once_than_allowed_are_refused(consortium: Consortium, hold: Callable[..., Held]) -> None:
    allowed = UploadLimits().simultaneous
    tokens = [secrets.token_hex(16) for _ in range(allowed)]
    north, upload = consortium.banks["north"], Upload(content=b"x")
    with stub_of(consortium, north) as stub:
        held = [hold(stub, begin(each), data(b"x")) for each in tokens]
        for each in tokens:
            until(lambda each=each: stub.Received(pb.ReceivedRequest(upload=each)).size == 1)  # type: ignore[misc]
        assert refusal_of(lambda: stub.Deposit(iter([begin(upload.token)]))).code == "quota-exceeded"
        assert refusal_of(lambda: stub.Deposit(iter([begin(tokens[0], 1)]))).code == "upload-busy"
        assert consortium.banks["harbour"].escrow.deposit(Upload()) is not None  # the others' places are their own
        for each in held:
            each.end()
        until(lambda: not consortium.core.uploads._shares["north"].busy)
        assert stub.Deposit(iter([begin(tokens[0], 1), end(b"x")])).digest == digest(b"x")


def test_more_listeners_than_allowed_are_refused(consortium: Consortium, refused: Any) -> None:
    tiny.proposed(consortium)
    with CutLine(line.address(consortium), ()) as cut, ExitStack() as stack:
        bank = stack.enter_context(line.over(cut, consortium.banks["north"]))
        streams = [bank.escrow.stub.Watch(pb.WatchRequest()) for _ in range(LISTENERS_AT_MOST)]  # type: ignore[attr-defined]
        for each in streams:
            assert next(each).kind == "contract-proposed"
        with refused("quota-exceeded"):
            next(consortium.banks["north"].escrow.watch(0))
        assert next(consortium.banks["harbour"].escrow.watch(0)).kind == "contract-proposed"
        cut.cut()
        until(lambda: not consortium.core.hub._ears["north"])
        assert next(consortium.banks["north"].escrow.watch(0)).kind == "contract-proposed"


def test_one_party_cannot_take_every_thread(consortium: Consortium, hold: Callable[..., Held]) -> None:
    north, harbour = consortium.banks.values()

    def answered() -> str:
        try:
            return north.escrow.info().ledger
        except EscrowError as error:
            return error.code

    with ExitStack() as connections:
        per_connection = range(min(STREAMS_AT_MOST, CALLS_AT_MOST))
        several = range(-(-CALLS_AT_MOST // STREAMS_AT_MOST))
        open_ones = [connections.enter_context(stub_of(consortium, north)) for _ in several]
        held = [hold(stub) for stub in open_ones for _ in per_connection]  # deposits that never begin
        until(lambda: answered() == "quota-exceeded")
        assert harbour.escrow.info().ledger == ORIGIN
        for each in held:
            each.end()
        until(lambda: answered() == ORIGIN)


# out of order


def test_a_deposit_out_of_order_is_refused_and_leaves_nothing(consortium: Consortium) -> None:
    content = b"ciphertext"
    north = consortium.banks["north"]

    def refused_with(*messages: pb.DepositRequest) -> str:
        return refusal_of(lambda: stub.Deposit(iter(messages), timeout=line.SECONDS)).code

    with stub_of(consortium, north) as stub:
        for code, messages in {
            "message-refused": [
                [],
                [data(content)],
                [end(content)],
                [pb.DepositRequest()],
                [begin("0" * 32), begin("0" * 32)],
                [begin("0" * 32), pb.DepositRequest()],
            ],
            "upload-refused": [
                [begin("0" * 32, 1), data(content), end(content)],
                [begin("0" * 32, 2**64 - 1), data(content), end(content)],
                [begin("0" * 31), data(content), end(content)],
                [begin("../" * 10 + "00"), data(content), end(content)],
                [begin(""), data(content), end(content)],
            ],
            "blob-refused": [
                [begin("1" * 32), data(content), end(b"another")],
                [begin("1" * 32), data(content), pb.DepositRequest(end=pb.DepositEnd(digest="nonsense"))],
                [begin("1" * 32), end(content)],
            ],
        }.items():
            for each in messages:
                assert refused_with(*each) == code, each
        for token in ("0" * 32, "1" * 32):
            assert stub.Received(pb.ReceivedRequest(upload=token)).size == 0
        assert refused_with(begin("2" * 32), data(content)) == "upload-stalled"  # cut off: what arrived is kept
        assert stub.Received(pb.ReceivedRequest(upload="2" * 32)).size == len(content)
        assert stub.Deposit(iter([begin("2" * 32, 4), data(content[4:]), end(content)])).digest == digest(content)
        beyond = [begin("2" * 32), data(b"more"), end(b"more")]  # complete: nothing of it is read
        assert stub.Deposit(iter(beyond)).digest == digest(content)
    assert consortium.core.vault.read(digest(content)) == content
