"""A bank's session over the network: what fails at home, at the escrow and in between, and how a bank is told."""

import io
import secrets
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from contracts.canonical import digest
from contracts.errors import EscrowError, Exit
from escrow.session import Session
from parties.client import Client
from parties.identity import Identity
from parties.remote import RemoteEscrow
from parties.sealing import Sealing
from parties.session import connect
from parties.witness import Witness
from scenarios import tiny
from scenarios.consortium import ORIGIN, Consortium, Wire
from tests import wire as line
from tests.servers import free_port


@pytest.fixture
def wire() -> Wire:
    return "grpc"


def remote(bank: Client) -> RemoteEscrow:
    assert isinstance(bank.escrow, RemoteEscrow)
    return bank.escrow


def test_both_clients_answer_alike(consortium: Consortium) -> None:
    """In process and over the network, view by view."""
    contract = tiny.proposed(consortium)
    consortium.approve(contract, "north")
    size = consortium.core.ledger.size()
    for name, bank in consortium.banks.items():
        there, here = bank.escrow, consortium.core.session(name)
        assert there.caller == here.caller
        assert there.info() == here.info()
        assert there.directory() == here.directory()
        assert there.deposits() == here.deposits()
        assert there.contracts() == here.contracts()
        assert there.view(contract) == here.view(contract)
        assert there.head() == here.head()
        assert there.entries(0, size) == here.entries(0, size)
        assert there.inclusion(3, size) == here.inclusion(3, size)
        assert there.consistency(3, size) == here.consistency(3, size)
        events, honest = there.watch(0), here.watch(0)
        assert [next(events) for _ in range(3)] == [next(honest) for _ in range(3)]
        events.close()  # type: ignore[attr-defined]
        honest.leave()


def test_an_escrow_that_is_not_there_is_unreachable(consortium: Consortium) -> None:
    north = consortium.banks["north"]
    held = line.credentials(north, consortium.core.now())
    nobody = line.session(north, held, f"127.0.0.1:{free_port()}")
    for call in (nobody.info, nobody.head):
        with pytest.raises(EscrowError) as caught:
            call()
        assert (caught.value.code, caught.value.exit) == ("escrow-unreachable", Exit.CONNECTION)
    nobody.close()


def test_an_escrow_that_does_not_answer_is_slow(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    released, honest = threading.Event(), Session.info

    def slow(self: Session) -> Any:
        released.wait(line.SECONDS)
        return honest(self)

    monkeypatch.setattr(Session, "info", slow)
    north = consortium.banks["north"]
    connected = connect(north.home, north.identity, consortium.core.now())
    hurried = replace(connected, seconds=0.3)  # now that the connection, which takes its time, is made
    with pytest.raises(EscrowError) as caught:
        hurried.info()
    assert (caught.value.code, caught.value.exit) == ("escrow-slow", Exit.TIMEOUT)
    released.set()
    connected.close()


def test_a_session_that_is_closed_ends_its_listener(consortium: Consortium) -> None:
    north = consortium.banks["north"]
    tiny.proposed(consortium)
    events = north.escrow.watch(0)
    next(events)
    ending = threading.Timer(0.2, remote(north).close)
    ending.start()
    assert all(event.index for event in events)  # ends, and raises nothing
    ending.join()


def test_whoever_calls_after_the_session_was_closed_is_told_that_the_escrow_cannot_be_reached(
    consortium: Consortium,
) -> None:
    """A node asks in two threads, and one of them may end the session at any moment."""
    north = consortium.banks["north"]
    remote(north).close()
    calls = (
        north.escrow.info,
        north.escrow.contracts,
        lambda: north.escrow.deposit(consortium.deposits["north"][0]),
        lambda: next(north.escrow.collect("sha256:" + 64 * "0")),
        lambda: next(remote(north).join("sha256:" + 64 * "0", iter(()))),
    )
    for call in calls:
        with pytest.raises(EscrowError) as caught:
            call()
        assert caught.value.code == "escrow-unreachable"
    assert list(north.escrow.watch(0)) == []


class Unreadable:
    """A file that cannot be read to its end."""

    def __init__(self, *, good: int) -> None:
        self.token, self._good = secrets.token_hex(16), good
        self.tried = 0

    def chunks(self, offset: int) -> Iterator[bytes]:
        self.tried += 1
        yield bytes(self._good)[offset:]
        raise OSError("the disk is gone")

    def digest(self) -> str:
        raise AssertionError("nobody asks for the digest of what was not sent")


def test_a_file_that_cannot_be_read_at_home_is_told_as_that(consortium: Consortium) -> None:
    """Not as a connection that was lost, and not five times."""
    upload = Unreadable(good=5000)
    with pytest.raises(OSError, match="the disk is gone"):
        consortium.banks["north"].escrow.deposit(upload)
    assert upload.tried == 1
    assert consortium.core.session("north").received(upload.token) == 5000


def sealing(bank: Client, plaintext: Any) -> Sealing:
    return Sealing(plaintext, bank.folder, part="train", schema=tiny.SCHEMA, rows=10)


def test_a_file_is_sent_while_it_is_encrypted(consortium: Consortium) -> None:
    north = consortium.banks["north"]
    deposit = north.send(sealing(north, io.BytesIO(secrets.token_bytes(3 << 20))))
    assert consortium.core.vault.read(deposit.blob) == deposit.path.read_bytes()
    assert deposit.commitment in {view.commitment for view in north.escrow.deposits()}


def test_a_cut_line_does_not_disturb_the_encryption(consortium: Consortium) -> None:
    with (
        line.CutLine(line.address(consortium), (200_000, 1_000_000)) as cut,
        line.over(cut, consortium.banks["north"]) as north,
    ):
        deposit = north.send(sealing(north, io.BytesIO(secrets.token_bytes(3 << 20))))
        assert cut.cuts == 2
    assert consortium.core.vault.read(deposit.blob) == deposit.path.read_bytes()


class Failing(io.RawIOBase):
    """A plaintext whose disk fails."""

    def __init__(self) -> None:
        self._left = 1 << 20

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._left <= 0:
            raise OSError("the disk is gone")
        self._left -= len(buffer)
        buffer[:] = bytes(len(buffer))
        return len(buffer)


def test_a_file_that_fails_while_it_is_sent_leaves_nothing(consortium: Consortium) -> None:
    north = consortium.banks["north"]
    size, kept = consortium.core.ledger.size(), {path.name for path in north.folder.iterdir()}
    with pytest.raises(OSError, match="the disk is gone"):
        north.send(sealing(north, Failing()))
    assert consortium.core.ledger.size() == size
    assert {path.name for path in north.folder.iterdir()} == kept
    assert len(north.escrow.deposits()) == 2


def test_an_escrow_that_keeps_another_file_than_was_sent_is_found_out(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    monkeypatch.setattr(Session, "receive", lambda *_: digest(b"another"))
    north = consortium.banks["north"]
    with refused("blob-refused"):
        north.send(sealing(north, io.BytesIO(b"rows")))


def test_a_bank_without_a_certificate_is_told_to_enrol(consortium: Consortium, tmp_path: Any, refused: Any) -> None:
    identity = Identity.create(tmp_path / "newcomer", "newcomer")
    with refused("certificate-missing"):
        connect(tmp_path / "newcomer", identity, consortium.core.now())
    assert Witness(tmp_path / "newcomer").seen() == 0


def test_the_ledger_that_was_seen_is_remembered_by_any_answer(consortium: Consortium) -> None:
    north = consortium.banks["north"]
    for call in (north.escrow.info, north.escrow.deposits, north.escrow.contracts):
        tiny.proposed(consortium, title=f"After {Witness(north.home).seen()}")
        call()
        assert Witness(north.home).seen() == consortium.core.ledger.size()
    assert north.escrow.info().ledger == ORIGIN
