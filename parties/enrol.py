"""How a bank meets an escrow for the first time, and gets its certificates.

1. Whoever answers at the address shows a card. It is believed only if the key whose fingerprint the bank was told, over
   another channel, signed it; so it does not matter that nothing is known of the connection yet.
2. The card names the authorities of the escrow's TLS certificates. Every later connection must show one of theirs.
3. The bank's own key signs the request to be admitted, and which TLS key is to be certified. The TLS key is made here.
"""

import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from contracts.enrolment import Card, read_card
from contracts.errors import EscrowError
from contracts.protocol import escrow_pb2 as pb
from contracts.protocol import escrow_pb2_grpc as stubs
from parties.certificates import Connection, alone, install, new_request, remember
from parties.channel import failure, open_channel
from parties.identity import Identity, Pinned, pin

SECONDS: Final = 20.0


def meet(home: Path, address: str, fingerprint: str) -> tuple[Card, Connection]:
    """Fetch the card of the escrow at an enrolment address, check it, pin its key, and remember where it is.

    Raises:
        EscrowError: `escrow-unreachable`, `escrow-pinned` if another key signed the card than the fingerprint names,
            or if this home has pinned another escrow.
    """
    host, port = split_address(address)
    shown = _shown_certificate(host, port)
    with _channel(address, shown, _name(shown)) as channel:
        try:
            answer = stubs.EnrolmentStub(channel).GetCard(pb.GetCardRequest(), timeout=SECONDS)
        except grpc.RpcError as error:
            raise failure(error) from None
    card = read_card(answer.card, fingerprint)
    connection = Connection(f"{host}:{card.port}", address)
    if not (home / "escrow.json").exists():
        remember(home, connection)  # before the pin: a home that pinned an escrow knows where it is
    pin(home, Pinned(card.ledger, card.public_key))
    remember(home, connection)
    return card, connection


def always() -> bool:
    """A certificate is wanted, whichever there is."""
    return True


def enrol(
    home: Path, identity: Identity, card: Card, connection: Connection, *, wanted: Callable[[], bool] = always
) -> bool:
    """Ask to be admitted, or for a certificate if the operator has admitted this bank; whether it has one now.

    Args:
        home: the party's directory.
        identity: the party's keys.
        card: of the pinned escrow, from `meet`.
        connection: where that is.
        wanted: asked once no other command of this home exchanges its certificate: whether one is still wanted.

    Raises:
        EscrowError: `escrow-untrusted` if the escrow does not hold a certificate of the card's authorities, or what
            the escrow refuses with.
    """
    authorities = "".join(card.authorities)
    with alone(home), _channel(connection.enrolment, authorities, card.ledger) as channel:
        if not wanted():
            return True
        request = pb.EnrolRequest(
            request=identity.request(card.ledger).to_bytes(),
            certificate=new_request(home, identity, card.ledger),
        )
        try:
            answer = stubs.EnrolmentStub(channel).Enrol(request, timeout=SECONDS)
        except grpc.RpcError as error:
            raise failure(error) from None
        if answer.admitted:
            install(home, answer.certificate, authorities)
    return bool(answer.admitted)


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`; an IPv6 host stands in brackets.

    Raises:
        EscrowError: `usage`.
    """
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise EscrowError("usage", f"{address!r} is not an address.", "Write it like escrow.example:7444.")
    return host, int(port)


def _shown_certificate(host: str, port: int) -> str:
    """The certificate that whoever listens there shows, as PEM; nothing is believed of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the card's signature is what is believed
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host.strip("[]"), port), timeout=SECONDS) as connection,
            context.wrap_socket(connection) as tls,
        ):
            shown = tls.getpeercert(binary_form=True)
    except OSError as error:
        raise EscrowError("escrow-unreachable", f"Nothing that speaks TLS answers at {host}:{port}: {error}.") from None
    if shown is None:
        raise EscrowError("escrow-untrusted", f"Whoever answers at {host}:{port} shows no certificate.")
    return ssl.DER_cert_to_PEM_cert(shown)


def _name(certificate: str) -> str:
    """The host that a certificate names."""
    try:
        names = x509.load_pem_x509_certificate(certificate.encode()).extensions.get_extension_for_oid(
            ExtensionOID.SUBJECT_ALTERNATIVE_NAME
        )
        return str(names.value.get_values_for_type(x509.DNSName)[0])  # type: ignore[attr-defined]
    except (ValueError, IndexError, x509.ExtensionNotFound):
        raise EscrowError("escrow-untrusted", "The certificate there is not that of an escrow.") from None


def _channel(address: str, roots: str, ledger: str) -> grpc.Channel:
    return open_channel(address, grpc.ssl_channel_credentials(roots.encode()), ledger)
