"""What the tests over the real wire need: channels of their own, a line that is cut, an escrow that starts again."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Self

import grpc

from contracts.enrolment import server_host
from contracts.errors import EscrowError
from contracts.protocol import escrow_pb2_grpc as stubs
from escrow.authority import Authority
from escrow.core import Core
from escrow.runtime.base import Runtime
from escrow.server import Server
from parties.certificates import Credentials, current
from parties.channel import failure
from parties.client import Client
from parties.remote import RemoteEscrow
from parties.witness import Witness
from scenarios.consortium import ORIGIN, Consortium

SECONDS = 15.0


def address(consortium: Consortium) -> str:
    """Where parties reach the escrow."""
    assert consortium.server is not None
    return f"{consortium.server.ports.host}:{consortium.server.ports.main}"


def credentials(bank: Client, now: int) -> Credentials:
    """A bank's TLS key and certificate, as a thief would find them."""
    return current(bank.home, bank.identity, now)


def channel(where: str, held: Credentials, *, host: str = server_host(ORIGIN)) -> grpc.Channel:
    """A connection that tries nothing twice."""
    tls = grpc.ssl_channel_credentials(held.authorities_pem, held.key_pem or None, held.chain_pem or None)
    return grpc.secure_channel(where, tls, [("grpc.ssl_target_name_override", host), ("grpc.enable_retries", 0)])


def session(bank: Client, held: Credentials, where: str) -> RemoteEscrow:
    """A bank's session under any credentials, at any address, that tries nothing twice."""
    line = channel(where, held)
    return RemoteEscrow(bank.name, line, stubs.EscrowStub(line), Witness(bank.home), SECONDS)


@contextmanager
def enrolment(consortium: Consortium) -> Iterator[stubs.EnrolmentStub]:
    """The service for those who are not admitted."""
    assert consortium.server is not None
    trusted = "".join(Authority.open(consortium.core.directory).authorities()).encode()
    where = f"{consortium.server.ports.host}:{consortium.server.ports.enrolment}"
    with channel(where, Credentials(b"", b"", trusted, 0, "")) as line:
        yield stubs.EnrolmentStub(line)


def refusal_of(call: Callable[[], object]) -> EscrowError:
    """What a raw call is refused with."""
    try:
        call()
    except grpc.RpcError as error:
        return failure(error)
    raise AssertionError("the call was answered")


def restart(
    consortium: Consortium, runtime: Runtime, *, between: Callable[[], None] = lambda: None, **how: Any
) -> None:
    """Stop the escrow and start it again where it was; the banks' sessions stay. `how` is what `Server.start` takes."""
    assert consortium.server is not None
    ports, now = consortium.server.ports, consortium.core.now
    consortium.server.stop(grace_seconds=0)
    consortium.core.close()
    between()
    consortium.core = Core.open(consortium.directory / "escrow", runtime, now=now)
    consortium.server = Server.start(consortium.core, ports, **how)


@dataclass(frozen=True)
class _Ends:
    near: socket.socket
    far: socket.socket


class CutLine:
    """A TCP line to a server, whose connections die after so many bytes in one direction.

    Args:
        server: where it leads, HOST:PORT.
        rooms: bytes that the first connections let through, one after the other; those that follow have no limit.
        back: count what the server sends, instead of what it is sent.
    """

    def __init__(self, server: str, rooms: Sequence[int], *, back: bool = False) -> None:
        host, _, port = server.rpartition(":")
        self._server, self._rooms, self._back = (host, int(port)), list(rooms), back
        self._threads: list[threading.Thread] = []
        self._open: list[_Ends] = []
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listener.getsockname())

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        _end(self._listener)
        self._threads[0].join()
        for ends in self._open:
            _end(ends.near)
            _end(ends.far)
        for thread in self._threads:
            thread.join()

    def cut(self) -> None:
        """End every connection; new ones are taken."""
        for ends in list(self._open):
            self.cuts += 1
            _end(ends.near)
            _end(ends.far)

    def _start(self, work: Callable[..., None], *given: object) -> None:
        self._threads.append(threading.Thread(target=work, args=given))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    ends = _Ends(near, socket.create_connection(self._server))
                except OSError:
                    near.close()
                    continue
                self._open.append(ends)
                room = self._rooms.pop(0) if self._rooms else None
                self._start(self._carry, ends.near, ends.far, None if self._back else room, ends)
                self._start(self._carry, ends.far, ends.near, room if self._back else None, ends)

    def _carry(self, source: socket.socket, target: socket.socket, room: int | None, ends: _Ends) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if room is not None:
                    data, room = data[:room], room - len(data)
                target.sendall(data)
                if room is not None and room <= 0:
                    self.cuts += 1
                    break
        self._open = [each for each in self._open if each is not ends]
        _end(ends.near)
        _end(ends.far)


def _end(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    line.close()


@contextmanager
def over(line: CutLine, bank: Client) -> Iterator[Client]:
    """The bank with its session led over another line."""
    assert isinstance(bank.escrow, RemoteEscrow)
    remote = bank.escrow
    held = credentials(bank, int(time.time()))
    there = RemoteEscrow.connect(line.address, held, remote.witness, ledger=ORIGIN, caller=bank.name)
    try:
        yield replace(bank, escrow=there)
    finally:
        there.close()


def until(happened: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    pause = threading.Event()
    for _ in range(int(SECONDS * 100)):
        if happened():
            return
        pause.wait(0.01)
    raise AssertionError("it never happened")
