"""A bank goes on by itself when its escrow changed its authority, and when a renewal fails or meets another one."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
import pytest

from contracts.errors import EscrowError
from escrow.authority import Authority
from parties import certificates
from parties.certificates import Connection, connection, current, remember
from parties.client import Client
from parties.deposit import seal_table
from parties.remote import PACKAGE_AT_MOST
from parties.session import connect, renew
from scenarios import tiny
from scenarios.consortium import Consortium, Wire
from tests import wire as line
from tests.servers import free_port

DAY = 86400


@pytest.fixture
def wire() -> Wire:
    return "grpc"


@pytest.fixture
def clock() -> tiny.Clock:
    """The escrow begins seventy days ago: what is certified then is due now, and still good."""
    return tiny.Clock(int(time.time()) - 70 * DAY)


def goes_on(consortium: Consortium, bank: Client) -> None:
    session = connect(bank.home, bank.identity, consortium.core.now())
    assert {view.party for view in session.deposits()} == {bank.name}
    session.close()


def rotated(consortium: Consortium, clock: tiny.Clock) -> Authority:
    """A new authority, under which the server's certificate was issued again; the banks' are not due."""
    clock.time += 35 * DAY
    for bank in consortium.banks.values():
        renew(bank.home, bank.identity)
    authority = Authority.open(consortium.core.directory)
    authority.rotate(clock())
    clock.time += 35 * DAY
    return authority


def key_of(bank: Client, now: int) -> str:
    return current(bank.home, bank.identity, now).key_digest


def test_a_bank_learns_of_a_new_authority_and_keeps_its_certificate(consortium: Consortium, clock: tiny.Clock) -> None:
    authority = rotated(consortium, clock)
    north = consortium.banks["north"]
    before = current(north.home, north.identity, clock())
    goes_on(consortium, north)
    after = current(north.home, north.identity, clock())
    assert after.key_digest == before.key_digest
    assert after.authorities_pem == "".join(authority.authorities()).encode() != before.authorities_pem


def test_a_bank_whose_authority_was_dropped_gets_a_certificate_of_the_new_one(
    consortium: Consortium, clock: tiny.Clock
) -> None:
    authority = rotated(consortium, clock)
    north, harbour = consortium.banks.values()
    goes_on(consortium, harbour)  # it trusts both authorities, and has a certificate of the old one
    before = {bank.name: key_of(bank, clock()) for bank in (north, harbour)}
    authority.drop_old()
    for bank in (north, harbour):
        goes_on(consortium, bank)
        assert key_of(bank, clock()) != before[bank.name]


def test_a_bank_finds_its_escrow_at_another_port(consortium: Consortium, clock: tiny.Clock) -> None:
    north = consortium.banks["north"]
    place = connection(north.home)
    remember(north.home, Connection(f"127.0.0.1:{free_port()}", place.enrolment))
    goes_on(consortium, north)
    assert connection(north.home) == place


def test_whoever_has_the_port_but_no_certificate_of_the_card_is_not_believed(
    consortium: Consortium, clock: tiny.Clock, refused: Any
) -> None:
    """The true card is believed, and what it says is that this is somebody else."""
    north = consortium.banks["north"]
    rotated(consortium, clock)
    (consortium.directory / "other").mkdir()
    other = Authority.create(consortium.directory / "other", consortium.core.origin, clock())
    before = key_of(north, clock())
    assert consortium.server
    consortium.server.main.stop(0).wait()
    server = grpc.server(ThreadPoolExecutor(2))
    credentials = grpc.ssl_server_credentials([other.server(clock())])
    server.add_secure_port(f"127.0.0.1:{consortium.server.ports.main}", credentials)
    server.start()
    with refused("escrow-untrusted"):
        connect(north.home, north.identity, clock())
    server.stop(0).wait()
    assert key_of(north, clock()) == before


def test_a_renewal_that_fails_is_a_warning_while_the_certificate_is_good(
    consortium: Consortium, clock: tiny.Clock, refused: Any
) -> None:
    north = consortium.banks["north"]
    place, before = connection(north.home), key_of(north, clock())
    remember(north.home, Connection(place.address, f"127.0.0.1:{free_port()}"))
    clock.time += 70 * DAY
    told: list[str] = []
    session = connect(north.home, north.identity, clock(), warn=told.append)
    assert session.info().ledger == consortium.core.origin
    session.close()
    assert key_of(north, clock()) == before
    [sentence] = told
    assert "could not be renewed" in sentence
    with refused("escrow-unreachable"):
        connect(north.home, north.identity, clock() + 21 * DAY)


def test_commands_of_one_home_renew_one_after_the_other(
    consortium: Consortium, clock: tiny.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.time += 70 * DAY
    north = consortium.banks["north"]
    asked: list[None] = []
    honest = certificates.new_request

    def counted(*args: Any) -> bytes:
        asked.append(None)
        return honest(*args)

    monkeypatch.setattr("parties.enrol.new_request", counted)
    failures: list[EscrowError] = []

    def command() -> None:
        try:
            goes_on(consortium, north)
        except EscrowError as error:
            failures.append(error)

    threads = [threading.Thread(target=command) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failures == []
    assert len(asked) == 1


def test_no_more_is_taken_than_a_package_can_hold(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    chunk = bytes(1 << 20)

    def endless(*_: object) -> Iterator[bytes]:
        while True:
            yield chunk

    monkeypatch.setattr("escrow.session.Session.collect", endless)
    north, taken = consortium.banks["north"], 0
    with refused("release-invalid"):
        for each in north.escrow.collect("sha256:" + 64 * "0"):
            taken += len(each)
    assert PACKAGE_AT_MOST - len(chunk) <= taken <= PACKAGE_AT_MOST


def test_a_place_that_a_dead_line_holds_is_waited_for(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch, clock: tiny.Clock
) -> None:
    monkeypatch.setattr("parties.patience.BUSY_PAUSE_SECONDS", 0.1)
    north = consortium.banks["north"]
    new = seal_table(tiny.tables(0, "north", banks=2)[0], "train", tiny.SCHEMA, north.folder)
    begun, noticed, told = threading.Event(), threading.Event(), list[str]()

    def dead() -> Iterator[bytes]:
        yield b""
        begun.set()
        noticed.wait(line.SECONDS)
        raise EscrowError("upload-stalled", "The line is dead.")

    def hold() -> None:
        with suppress(EscrowError):
            consortium.core.session("north").receive(new.token, 0, dead(), new.digest)

    def warn(sentence: str) -> None:
        told.append(sentence)
        noticed.set()

    holder = threading.Thread(target=hold)
    holder.start()
    assert begun.wait(line.SECONDS)
    session = connect(north.home, north.identity, clock(), warn=warn)
    assert session.deposit(new) == new.blob
    session.close()
    holder.join()
    assert len(told) == 1
    assert "waiting" in told[0]
