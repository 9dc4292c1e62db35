"""A bank's TLS identity: a key made at home, the certificate the escrow gave for it, and whom the bank trusts.

Rules:
1. The TLS key is made here, new for every certificate, and lies locked to the party's age key (`parties.identity`).
2. Key and certificate are one file, replaced by one rename: after a crash there is the old pair or the new one.
3. A certificate is taken only if it is for the key that was just made, for this party, and from an authority that the
   escrow's signed card names.
4. Between a request and the certificate that answers it no other command of this home makes a request (`alone`).

The folder `tls/` of a home holds `next.pem` (a key that waits for its certificate, and the request), `identity.pem`
(key and certificates) and `authorities.pem`.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from contracts.canonical import encode_base64
from contracts.enrolment import CertificateRequest, tls_key_digest
from contracts.errors import EscrowError
from contracts.signing import sign
from contracts.terms import Digest
from parties.identity import Identity, lock, read_private, unlock, write_private

_NEXT, _IDENTITY, _AUTHORITIES = "tls/next.pem", "tls/identity.pem", "tls/authorities.pem"
_CONNECTION: Final = "connection.json"
_END: Final = b"-----END AGE ENCRYPTED FILE-----\n"


@dataclass(frozen=True)
class Credentials:
    """What a TLS connection to the escrow needs, in PEM."""

    key_pem: bytes = field(repr=False)
    chain_pem: bytes  # the party's certificate and its issuer's
    authorities_pem: bytes  # whose certificates the escrow may show
    not_after: int  # of the party's certificate, whole seconds since 1970
    key_digest: Digest  # by which the TLS key is revoked


@dataclass(frozen=True)
class Connection:
    """Where the escrow is reached, as HOST:PORT."""

    address: str  # of the service for parties
    enrolment: str  # of the service for those who want to become one


def remember(home: Path, connection: Connection) -> None:
    """Keep where the escrow is reached."""
    write_private(home / _CONNECTION, json.dumps(asdict(connection)).encode())


def connection(home: Path) -> Connection:
    """Where the escrow is reached.

    Raises:
        EscrowError: `certificate-missing` if the party has not enrolled.
    """
    try:
        about = json.loads((home / _CONNECTION).read_text())
        return Connection(str(about["address"]), str(about["enrolment"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise EscrowError(
            "certificate-missing",
            f"{home} knows of no escrow to connect to.",
            "Name its address for enrolment: party enrol HOST:PORT.",
        ) from None


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """One command of a home at a time exchanges its TLS key; the others wait."""
    folder = (home / _NEXT).parent
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def new_request(home: Path, identity: Identity, ledger: str) -> bytes:
    """Make a new TLS key and ask for its certificate: the envelope for `Enrol`, signed by the party."""
    key = generate_private_key(SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (home / _NEXT).parent.mkdir(mode=0o700, exist_ok=True)
    write_private(home / _NEXT, lock(key_pem, identity.age) + request.public_bytes(Encoding.PEM))
    asked = CertificateRequest(
        ledger=ledger, name=identity.name, request=encode_base64(request.public_bytes(Encoding.DER))
    )
    return sign(asked.payload(), identity.signer).to_bytes()


def install(home: Path, certificate_pem: bytes, authorities_pem: str) -> None:
    """Take the certificate that answers the last `new_request`, and use it from now on.

    Args:
        home: the party's directory.
        certificate_pem: the certificate, and its issuer's.
        authorities_pem: the authorities of the escrow's card, one after another.

    Raises:
        EscrowError: `certificate-missing` if no key waits for a certificate, `certificate-refused` if this one is not
            for that key and this party, or from none of the authorities.
    """
    locked, request = _waiting(home)
    authorities, chain = _certificates(authorities_pem.encode()), _certificates(certificate_pem)
    leaf = chain[0]
    if leaf.public_key() != request.public_key() or leaf.subject != request.subject:
        raise EscrowError("certificate-refused", "The certificate is not for the key and name that were asked for.")
    if not any(_issued(leaf, authority) for authority in authorities):
        raise EscrowError("certificate-refused", "The certificate is from none of the escrow's authorities.")
    write_private(home / _AUTHORITIES, _pem(authorities))
    write_private(home / _IDENTITY, locked + _pem(chain))
    (home / _NEXT).unlink()


def trust(home: Path, authorities_pem: str) -> None:
    """Trust the authorities of a newer card, without a new certificate.

    Raises:
        EscrowError: `certificate-refused` if they are no certificates.
    """
    write_private(home / _AUTHORITIES, _pem(_certificates(authorities_pem.encode())))


def current(home: Path, identity: Identity, now: int) -> Credentials:
    """What connects this party to the escrow.

    Raises:
        EscrowError: `certificate-missing` if it has no certificate, `certificate-expired` if that has ended,
            `certificate-refused` if it is not valid yet by this machine's clock; as `parties.identity.unlock`.
    """
    locked, chain_pem, authorities_pem = _identity(home)
    leaf = _certificates(chain_pem)[0]
    if now > _end(leaf):
        raise EscrowError("certificate-expired", f"{identity.name}'s certificate has ended.")
    if now < _start(leaf):
        raise EscrowError(
            "certificate-refused", f"{identity.name}'s certificate is not valid yet.", "Set this machine's clock."
        )
    return Credentials(
        key_pem=unlock(locked, identity.age),
        chain_pem=chain_pem,
        authorities_pem=authorities_pem,
        not_after=_end(leaf),
        key_digest=tls_key_digest(leaf.public_key()),
    )


def due(home: Path, now: int) -> bool:
    """Whether to ask for a new certificate: less than a third of this one's time is left.

    Raises:
        EscrowError: `certificate-missing` if there is none.
    """
    leaf = _certificates(_identity(home)[1])[0]
    return 3 * (_end(leaf) - now) < _end(leaf) - _start(leaf)


def certified(home: Path) -> bool:
    """Whether the certificate in use is from an authority that is trusted now.

    Raises:
        EscrowError: `certificate-missing` if there is none.
    """
    _, chain, authorities = _identity(home)
    leaf = _certificates(chain)[0]
    return any(_issued(leaf, authority) for authority in _certificates(authorities))


def _waiting(home: Path) -> tuple[bytes, x509.CertificateSigningRequest]:
    """The locked key that waits for its certificate, and the request that was made with it."""
    try:
        locked, end, request = read_private(home / _NEXT).partition(_END)
        return locked + end, x509.load_pem_x509_csr(request)
    except (OSError, ValueError):
        raise EscrowError("certificate-missing", "No TLS key waits for a certificate.") from None


def _identity(home: Path) -> tuple[bytes, bytes, bytes]:
    """The locked key in use, its certificates, and those of the authorities, in PEM."""
    try:
        locked, end, chain = read_private(home / _IDENTITY).partition(_END)
        return locked + end, chain, read_private(home / _AUTHORITIES)
    except OSError:
        raise EscrowError("certificate-missing", f"{home} holds no certificate.") from None


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise EscrowError("certificate-refused", "A certificate cannot be read.") from None


def _pem(certificates: list[x509.Certificate]) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def _issued(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _start(certificate: x509.Certificate) -> int:
    return int(certificate.not_valid_before_utc.timestamp())


def _end(certificate: x509.Certificate) -> int:
    return int(certificate.not_valid_after_utc.timestamp())
