"""The escrow's certificate authority: which TLS keys belong to the escrow and to its admitted parties.

Rules:
1. The authority's key and certificates are one file, and so are the server's: each is replaced by one rename, so a
   crash never leaves a key beside another key's certificate. The files have mode 0600.
2. Nothing is kept in memory: what another process rotates or drops counts in the next handshake.
3. A certificate says what the escrow decided, never what a request asks for: name, use, time. It lives 90 days and
   begins an hour ago, for clocks differ.
4. A rotation makes a new authority and keeps trusting those before, so certificates under either are good until the
   older ones are dropped. The server's certificate changes when it is due, not with the rotation: banks have weeks to
   fetch the new card.
5. A TLS session may outlive its certificate, so whoever answers a call asks `peer` again.

The key of the authority is not the ledger's: it signs nothing that stands on the ledger.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import TypeAdapter

from contracts.enrolment import server_host, tls_key_digest
from contracts.errors import EscrowError
from contracts.terms import Digest, Name
from escrow.disk import private, write_whole
from escrow.home import about

LIFETIME: Final = 90 * 86400  # of a certificate, in seconds
AUTHORITY_LIFETIME: Final = 3652 * 86400
SKEW: Final = 3600  # clocks differ by less

_AUTHORITY, _SERVER = "authority.pem", "server.pem"
_NAME: Final[TypeAdapter[str]] = TypeAdapter(Name)
_END: Final = b"-----END PRIVATE KEY-----\n"


class Peer(NamedTuple):
    """Who a client certificate says is calling."""

    name: str
    key: Digest  # of the TLS key
    not_after: int  # whole seconds since 1970


@dataclass(frozen=True)
class Authority:
    """The authority of one escrow. Safe for threads."""

    folder: Path
    host: str  # what the server's certificate names

    @classmethod
    def create(cls, directory: Path, origin: str, now: int) -> Self:
        """A new authority in the directory of an escrow.

        Raises:
            EscrowError: `escrow-exists` if it has one.
        """
        folder = directory / "tls"
        if (folder / _AUTHORITY).exists():
            raise EscrowError("escrow-exists", f"{directory} has a certificate authority.")
        private(folder)
        authority = cls(folder, server_host(origin))
        authority._keep(_founded(now))
        return authority

    @staticmethod
    def exists(directory: Path) -> bool:
        """Whether the directory of an escrow has an authority."""
        return (directory / "tls" / _AUTHORITY).exists()

    @classmethod
    def open(cls, directory: Path) -> Self:
        """The authority of an escrow.

        Raises:
            EscrowError: `escrow-missing` if the directory holds no escrow, or one without an authority.
        """
        origin, _ = about(directory)
        authority = cls(directory / "tls", server_host(origin))
        authority._issuer()
        return authority

    def authorities(self) -> tuple[str, ...]:
        """The certificates that a card names, in PEM: the current one first."""
        return tuple(each.public_bytes(Encoding.PEM).decode() for each in self._issuer().certificates)

    def issue(
        self, name: Name, request: x509.CertificateSigningRequest, now: int, *, lifetime: int = LIFETIME
    ) -> bytes:
        """A client certificate for the key of a request that was read by `contracts.enrolment`; PEM, its issuer after.

        Raises:
            EscrowError: `certificate-expired` if the authority's own time is over.
        """
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        use = ExtendedKeyUsageOID.CLIENT_AUTH
        return self._issuer().issued(request.public_key(), subject, use=use, now=now, lifetime=lifetime)

    def server(self, now: int) -> tuple[bytes, bytes]:
        """The server's key and certificate chain in PEM; made anew when less than a third of its time is left.

        Raises:
            EscrowError: `certificate-expired` if the authority's own time is over.
        """
        path, issuer = self.folder / _SERVER, self._issuer()
        try:
            key_pem, chain_pem = _read(path)
            leaf, above = x509.load_pem_x509_certificates(chain_pem)
            due = above not in issuer.certificates or 3 * (_end(leaf) - now) < _end(leaf) - _start(leaf)
        except (OSError, ValueError):
            due = True
        if due:
            key = generate_private_key(SECP256R1())
            names = x509.SubjectAlternativeName([x509.DNSName(self.host)])
            use = ExtendedKeyUsageOID.SERVER_AUTH
            key_pem = _pem(key)
            chain_pem = issuer.issued(key.public_key(), x509.Name([]), use=use, now=now, lifetime=LIFETIME, names=names)
            write_whole(path, key_pem + chain_pem)
        return key_pem, chain_pem

    def rotate(self, now: int) -> None:
        """Make a new authority that issues from now on; those before are trusted until they are dropped."""
        before = self._issuer().certificates
        made = _founded(now)
        self._keep(_Issuer(made.key, made.certificates + before))

    def drop_old(self) -> None:
        """Trust the current authority alone: what an older one certified is refused in every new session."""
        issuer = self._issuer()
        self._keep(_Issuer(issuer.key, issuer.certificates[:1]))

    def _issuer(self) -> "_Issuer":
        try:
            key_pem, chain_pem = _read(self.folder / _AUTHORITY)
            key, chain = load_pem_private_key(key_pem, None), x509.load_pem_x509_certificates(chain_pem)
        except (OSError, ValueError):
            raise EscrowError("escrow-missing", f"{self.folder.parent} holds no certificate authority.") from None
        if not isinstance(key, EllipticCurvePrivateKey):
            raise EscrowError("key-invalid", "The authority's key is not an ECDSA key.")
        return _Issuer(key, tuple(chain))

    def _keep(self, issuer: "_Issuer") -> None:
        chain = b"".join(each.public_bytes(Encoding.PEM) for each in issuer.certificates)
        write_whole(self.folder / _AUTHORITY, _pem(issuer.key) + chain)


@dataclass(frozen=True)
class _Issuer:
    """What signs certificates: the current authority's key, and the certificates of all that are trusted."""

    key: EllipticCurvePrivateKey = field(repr=False)
    certificates: tuple[x509.Certificate, ...]  # the current one first

    def issued(
        self,
        key: CertificatePublicKeyTypes,
        subject: x509.Name,
        *,
        use: x509.ObjectIdentifier,
        now: int,
        lifetime: int,
        names: x509.SubjectAlternativeName | None = None,
    ) -> bytes:
        """A certificate and its issuer's, in PEM."""
        current = self.certificates[0]
        end = min(now + lifetime, _end(current))
        if end <= now:
            raise EscrowError(
                "certificate-expired", "The escrow's certificate authority has ended.", "Rotate the authority."
            )
        above = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            _certificate(subject, current.subject, key, now, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(above, critical=False)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=True)  # the subject is empty (RFC 5280, section 4.1.2.6)
        return builder.sign(self.key, SHA256()).public_bytes(Encoding.PEM) + current.public_bytes(Encoding.PEM)


def peer(pem: bytes, now: int) -> Peer:
    """Who the certificate presented in a session stands for; the session's handshake has checked its issuer.

    Raises:
        EscrowError: `certificate-refused` if it names no party, `certificate-expired` if its time is over.
    """
    found = _peer(pem)
    if now > found.not_after:
        raise EscrowError("certificate-expired", f"{found.name}'s certificate has ended.")
    return found


@lru_cache(maxsize=1024)
def _peer(pem: bytes) -> Peer:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        [common] = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        name = _NAME.validate_python(common.value)
    except ValueError:
        raise EscrowError("certificate-refused", "The certificate names no party.") from None
    return Peer(name, tls_key_digest(certificate.public_key()), _end(certificate))


def _founded(now: int) -> _Issuer:
    """A new authority, self-signed; its name comes from its key, so that no two share one."""
    key = generate_private_key(SECP256R1())
    label = tls_key_digest(key.public_key()).removeprefix("sha256:")[:16]
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Model Escrow authority {label}")])
    builder = (
        _certificate(name, name, key.public_key(), now, now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
    )
    return _Issuer(key, (builder.sign(key, SHA256()),))


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: CertificatePublicKeyTypes, now: int, end: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(now - SKEW, UTC))
        .not_valid_after(datetime.fromtimestamp(end, UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _start(certificate: x509.Certificate) -> int:
    return int(certificate.not_valid_before_utc.timestamp())


def _end(certificate: x509.Certificate) -> int:
    return int(certificate.not_valid_after_utc.timestamp())


def _pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read(path: Path) -> tuple[bytes, bytes]:
    """A key and the certificates after it, both in PEM."""
    key, end, chain = path.read_bytes().partition(_END)
    return key + end, chain
