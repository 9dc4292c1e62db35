"""The two ports of an escrow: mutual TLS for its parties, server TLS for those who want to become one.

1. The server's certificate is looked at in every handshake, so a renewed one, or a new authority, needs no restart.
2. Bounded is, on each port (`Door`): calls under way, messages, a handshake's time, calls of one connection at once,
   and how long a connection lasts, in silence or at all. gRPC gives a call its thread as soon as its headers are there,
   before anybody can look at its certificate: what a call that sends nothing more holds, it holds until its connection
   ends. Clients connect again, and their streams and uploads go on where they were cut off.
3. Not bounded is the number of connections from one address, and of one certificate. Whoever reaches the enrolment port
   can crowd it, and whoever holds a certificate of this escrow, revoked or not, can crowd the port for parties, by
   opening connections anew: until the operator blocks its address in front of the escrow. Neither crowds the other
   port's threads; file descriptors are shared by both (`escrow.daemon`). A crowded port refuses, it does not fall.
"""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from contracts.enrolment import Card
from contracts.errors import EscrowError
from contracts.protocol import escrow_pb2_grpc as stubs
from contracts.protocol import tls_settled
from contracts.signing import sign
from escrow.authority import Authority
from escrow.core import Core
from escrow.enrolment import Enrolment
from escrow.front import Front, Told
from escrow.service import STALLED_SECONDS, EnrolmentService, EscrowService

HANDSHAKE_SECONDS: Final = 20
STREAMS_AT_MOST: Final = 64  # of one connection at once
SERVICE: Final = "model_escrow.v1.Escrow"


@dataclass(frozen=True)
class Ports:
    """Where an escrow listens.

    Attributes:
        host: address to listen on, IPv4, IPv6 (with or without brackets), or a name of one.
        main: port for parties; 0 lets the system choose.
        enrolment: port for those who are not admitted yet.
    """

    host: str = "127.0.0.1"
    main: int = 0
    enrolment: int = 0


@dataclass(frozen=True)
class Door:
    """What one port lets in.

    Attributes:
        calls: at most under way at once, each with a thread; more are refused at once.
        message_bytes: the largest message.
        idle_seconds: a connection without calls is closed after so long.
        age_seconds: a connection takes no new calls after so long (10 % more or less, so that not all end at once).
        grace_seconds: what calls under way then have to end; the rest is cut off.
    """

    calls: int
    message_bytes: int
    idle_seconds: float
    age_seconds: float
    grace_seconds: float


PARTIES: Final = Door(1024, 4 << 20, idle_seconds=300, age_seconds=600, grace_seconds=30)
STRANGERS: Final = Door(64, 64 << 10, idle_seconds=20, age_seconds=20, grace_seconds=10)


@dataclass
class Server:
    """Both ports of one escrow, serving."""

    main: grpc.Server
    enrolment: grpc.Server
    ports: Ports
    requests: Enrolment
    healthy: health.HealthServicer

    @classmethod
    def start(
        cls,
        core: Core,
        ports: Ports | None = None,
        told: Told | None = None,
        *,
        stalled_seconds: float = STALLED_SECONDS,
        parties: Door = PARTIES,
        strangers: Door = STRANGERS,
    ) -> Self:
        """Listen, and answer from now on.

        Raises:
            EscrowError: `port-taken` if nothing can listen there, `usage` if the host is none.
        """
        if not tls_settled():
            raise RuntimeError("gRPC was imported before contracts.protocol: it would speak TLS 1.2")
        wished = ports or Ports()
        host = _host(wished.host)
        authority = Authority.open(core.directory)
        front, requests = Front(core, told or Told()), Enrolment(core, authority)
        main, healthy = _server(parties), health.HealthServicer()
        stubs.add_EscrowServicer_to_server(EscrowService(front, stalled_seconds), main)
        health_pb2_grpc.add_HealthServicer_to_server(healthy, main)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), main)
        main_port = _listen(main, host, wished.main, _credentials(core, authority, mutual=True))
        enrolment_service = EnrolmentService(front, requests, lambda: _card(core, authority, main_port))
        enrolment = _server(strangers)
        stubs.add_EnrolmentServicer_to_server(enrolment_service, enrolment)
        enrolment_port = _listen(enrolment, host, wished.enrolment, _credentials(core, authority, mutual=False))
        main.start()
        enrolment.start()
        for name in ("", SERVICE):
            healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
        return cls(main, enrolment, Ports(host, main_port, enrolment_port), requests, healthy)

    def stop(self, grace_seconds: float) -> None:
        """Take no more calls, let those under way end for so long, then cut them off."""
        self.healthy.enter_graceful_shutdown()
        self.requests.core.let_go()  # who listens, or waits for a training, would for as long as it may
        over = [server.stop(grace_seconds) for server in (self.enrolment, self.main)]
        for each in over:
            each.wait()


def _card(core: Core, authority: Authority, port: int) -> bytes:
    """The escrow's card with the authorities of this moment, as an envelope."""
    card = Card(ledger=core.origin, public_key=core.signer.public, authorities=authority.authorities(), port=port)
    return sign(card.payload(), core.signer).to_bytes()


def _server(door: Door) -> grpc.Server:
    options = [
        ("grpc.max_receive_message_length", door.message_bytes),
        ("grpc.max_connection_idle_ms", int(door.idle_seconds * 1000)),
        ("grpc.max_connection_age_ms", int(door.age_seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", int(door.grace_seconds * 1000)),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
        ("grpc.so_reuseport", 0),  # a second escrow on this port is a mistake
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
        ("grpc.max_concurrent_streams", STREAMS_AT_MOST),
    ]
    threads = ThreadPoolExecutor(door.calls, thread_name_prefix="call")
    return grpc.server(threads, options=options, maximum_concurrent_rpcs=door.calls)


def _host(wished: str) -> str:
    """The host without brackets, known to be an address or a name of one: gRPC would take other words as a socket's.

    Raises:
        EscrowError: `usage`.
    """
    host = wished[1:-1] if wished.startswith("[") and wished.endswith("]") else wished
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM) if host else []
    except (OSError, UnicodeError):
        found = []
    if not found:
        raise EscrowError(
            "usage", f"{wished!r} is no address to listen on.", "Give an IP address, such as 0.0.0.0 or ::."
        )
    return host


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listen(server: grpc.Server, host: str, port: int, credentials: grpc.ServerCredentials) -> int:
    try:
        return server.add_secure_port(_address(host, port), credentials)
    except RuntimeError:
        raise EscrowError("port-taken", f"Nothing can listen on {_address(host, port)}.") from None


def _credentials(core: Core, authority: Authority, *, mutual: bool) -> grpc.ServerCredentials:
    certificates = _Certificates(core, authority, mutual=mutual)
    first = certificates.configuration(certificates.now())
    return grpc.dynamic_ssl_server_credentials(
        first,
        certificates.changed,  # type: ignore[arg-type]  # None means no change
        require_client_authentication=mutual,
    )


class _Certificates:
    """What one port shows in its handshakes, and whose certificates it asks for.

    gRPC hears of changes only. With each configuration that it is given it frees the one before, which another
    handshake may just be using: given one in every handshake, the process crashed when many clients came at once.
    """

    def __init__(self, core: Core, authority: Authority, *, mutual: bool) -> None:
        self._core, self._authority, self._mutual = core, authority, mutual
        self._change = threading.Lock()
        self._shown: _Shown | None = None

    def now(self) -> "_Shown":
        """What holds at this moment."""
        roots = "".join(self._authority.authorities()).encode() if self._mutual else None
        return _Shown(*self._authority.server(self._core.now()), roots)

    def configuration(self, shown: "_Shown") -> grpc.ServerCertificateConfiguration:
        """That as gRPC takes it; from now on this is what it knows."""
        self._shown = shown
        return grpc.ssl_server_certificate_configuration([(shown.key_pem, shown.chain_pem)], shown.roots_pem)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """A configuration, if it is another than the last."""
        shown = self.now()
        with self._change:
            return None if shown == self._shown else self.configuration(shown)


class _Shown(NamedTuple):
    key_pem: bytes
    chain_pem: bytes
    roots_pem: bytes | None
