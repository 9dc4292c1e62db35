"""The two ports of an escrow: mutual TLS for its parties, server TLS for those who want to become one.

The server's certificate is looked at in every handshake, so a renewed one, or a new authority, needs no restart.
"""

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

MESSAGE_BYTES: Final = 4 << 20
ENROLMENT_BYTES: Final = 64 << 10
THREADS: Final = 512  # a listener holds one for as long as it listens
ENROLMENT_THREADS: Final = 8
SERVICE: Final = "model_escrow.v1.Escrow"


@dataclass(frozen=True)
class Ports:
    """Where an escrow listens.

    Attributes:
        host: address to listen on.
        main: port for parties; 0 lets the system choose.
        enrolment: port for those who are not admitted yet.
    """

    host: str = "127.0.0.1"
    main: int = 0
    enrolment: int = 0


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
        cls, core: Core, ports: Ports | None = None, told: Told | None = None, stalled_seconds: float = STALLED_SECONDS
    ) -> Self:
        """Listen, and answer from now on.

        Raises:
            EscrowError: `port-taken` if another program listens there.
        """
        if not tls_settled():
            raise RuntimeError("gRPC was imported before contracts.protocol: it would speak TLS 1.2")
        wished = ports or Ports()
        authority = Authority.open(core.directory)
        front, requests = Front(core, told or Told()), Enrolment(core, authority)
        main, healthy = _server(THREADS, MESSAGE_BYTES), health.HealthServicer()
        stubs.add_EscrowServicer_to_server(EscrowService(front, stalled_seconds), main)
        health_pb2_grpc.add_HealthServicer_to_server(healthy, main)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), main)
        main_port = _listen(main, wished.host, wished.main, _credentials(core, authority, mutual=True))
        enrolment_service = EnrolmentService(front, requests, lambda: _card(core, authority, main_port))
        enrolment = _server(ENROLMENT_THREADS, ENROLMENT_BYTES)
        stubs.add_EnrolmentServicer_to_server(enrolment_service, enrolment)
        enrolment_port = _listen(enrolment, wished.host, wished.enrolment, _credentials(core, authority, mutual=False))
        main.start()
        enrolment.start()
        for name in ("", SERVICE):
            healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
        return cls(main, enrolment, Ports(wished.host, main_port, enrolment_port), requests, healthy)

    def stop(self, grace_seconds: float) -> None:
        """Take no more calls, let those under way end for so long, then cut them off."""
        self.healthy.enter_graceful_shutdown()
        self.requests.core.hub.close()  # who listens would for as long as it may
        over = [server.stop(grace_seconds) for server in (self.enrolment, self.main)]
        for each in over:
            each.wait()


def _card(core: Core, authority: Authority, port: int) -> bytes:
    """The escrow's card with the authorities of this moment, as an envelope."""
    card = Card(ledger=core.origin, public_key=core.signer.public, authorities=authority.authorities(), port=port)
    return sign(card.payload(), core.signer).to_bytes()


def _server(threads: int, message_bytes: int) -> grpc.Server:
    options = [
        ("grpc.max_receive_message_length", message_bytes),
        ("grpc.so_reuseport", 0),  # a second escrow on this port is a mistake
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
        ("grpc.max_concurrent_streams", 64),  # of one connection
    ]
    return grpc.server(
        ThreadPoolExecutor(threads, thread_name_prefix="call"), options=options, maximum_concurrent_rpcs=threads
    )


def _listen(server: grpc.Server, host: str, port: int, credentials: grpc.ServerCredentials) -> int:
    try:
        return server.add_secure_port(f"{host}:{port}", credentials)
    except RuntimeError:
        raise EscrowError("port-taken", f"Nothing can listen on {host}:{port}.") from None


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
