"""What tests over the real wire need: channels of their own, lines that are cut or tapped, an escrow that restarts."""

import asyncio
import ctypes
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
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

SECONDS = 60.0  # that nothing should need


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


@dataclass(frozen=True, eq=False)
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
        self._open: set[_Ends] = set()  # of all threads, which add and discard, and never replace it
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listener.getsockname())

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        _end(self._listener)
        self._threads[0].join()
        for ends in list(self._open):
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
                self._open.add(ends)
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
        self._open.discard(ends)
        _end(ends.near)
        _end(ends.far)


def _end(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    line.close()


class Tap:
    """A line to an escrow whose owner holds the TLS keys of both ends, and so reads all that the bank says.

    Args:
        server: where it leads, HOST:PORT.
        shown: the escrow's key and certificates, as `Authority.server` gives them.
        held: the bank's.
        folder: for the keys.

    Attributes:
        address: where the bank finds it.
        heard: what came from the bank, of all connections, as HTTP/2 frames it.
    """

    address: str

    def __init__(self, server: str, shown: tuple[bytes, bytes], held: Credentials, folder: Path) -> None:
        self._host, _, self._port = server.rpartition(":")
        trusted = held.authorities_pem.decode()
        self._near = _speaks(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), *shown, folder / "near.pem")
        self._far = _speaks(
            ssl.create_default_context(cadata=trusted), held.key_pem, held.chain_pem, folder / "far.pem"
        )
        self._listening = Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, str]]()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._carried: list[asyncio.Task[None]] = []
        self.heard = bytearray()

    def __enter__(self) -> Self:
        self._thread.start()
        self._loop, self._over, self.address = self._listening.result(SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()

    async def _serve(self) -> None:
        over = asyncio.Event()
        async with await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._near) as server:
            address = "{}:{}".format(*server.sockets[0].getsockname())
            self._listening.set_result((asyncio.get_running_loop(), over, address))
            await over.wait()
            await asyncio.gather(*self._carried)

    def _accept(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        self._carried.append(asyncio.ensure_future(self._carry_both(near, back)))

    async def _carry_both(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        try:
            far, there = await asyncio.open_connection(
                self._host, int(self._port), ssl=self._far, server_hostname=server_host(ORIGIN)
            )
            await asyncio.gather(self._carry(near, there, self.heard), self._carry(far, back, bytearray()))
        finally:
            back.close()

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, heard: bytearray) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                heard += data
                target.write(data)
                await target.drain()
        target.close()
        with suppress(OSError):
            await target.wait_closed()


def _speaks(tls: ssl.SSLContext, key_pem: bytes, chain_pem: bytes, path: Path) -> ssl.SSLContext:
    """The context with a key and its certificates, for HTTP/2."""
    path.write_bytes(key_pem + chain_pem)
    tls.load_cert_chain(path)
    tls.set_alpn_protocols(["h2"])
    return tls


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


def signal_elsewhere(pid: int, number: signal.Signals) -> None:
    """Send a process a signal as if the system had handed it to another thread than its main one."""
    for task in Path("/proc", str(pid), "task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
            blocked = next(line for line in (task / "status").read_text().splitlines() if line.startswith("SigBlk:"))
            takes = int(task.name) != pid and not int(blocked.split()[1], 16) >> (number - 1) & 1
            if takes and ctypes.CDLL(None).tgkill(pid, int(task.name), int(number)) == 0:
                return
    raise AssertionError("no other thread would take it")


def until(happened: Callable[[], bool], *, seconds: float = SECONDS) -> None:
    """Wait for what another thread does, or another process."""
    pause = threading.Event()
    for _ in range(int(seconds * 100)):
        if happened():
            return
        pause.wait(0.01)
    raise AssertionError("it never happened")
