"""How a bank and an escrow come to trust each other's TLS keys, starting from one compared fingerprint.

Rules:
1. The bank compares one thing with the operator: the key id of the escrow's ledger key. That key signs a `Card`, and
   the card names the authorities whose certificates the bank accepts. So trust in TLS follows from the pin alone.
2. The party's signing key signs a `CertificateRequest`, so a TLS key is certified for whom the operator admitted and
   nobody else. The request inside it is signed by the TLS key, which proves that the party holds that.
3. TLS keys are ECDSA P-256: gRPC's TLS refuses Ed25519 certificates. A TLS key is named by the SHA-256 of its
   SubjectPublicKeyInfo, however often it is certified.
4. Both documents carry their kind, and neither is a statement: none can be read as another, or stand on the ledger.

Sources: RFC 2986 (PKCS #10), RFC 5280 (X.509).
"""

from typing import Annotated, Final, Literal, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import Field, ValidationError

from contracts.canonical import canonical, decode_base64, digest, parse
from contracts.errors import EscrowError
from contracts.signing import Envelope, KeyId, PublicKey, key_id, public_bytes, verify
from contracts.statements import Origin
from contracts.terms import Digest, Name, Term, problems

_REQUEST_AT_MOST: Final = 4096  # characters of base64; a request for a P-256 key takes about 350
_X509_ERRORS: Final = (  # what `cryptography` raises besides ValueError for a malformed certificate or request
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)


class Card(Term):
    """What an escrow says of itself, signed with its ledger key."""

    kind: Literal["escrow-card"] = "escrow-card"
    ledger: Origin
    public_key: PublicKey  # the ledger key
    authorities: Annotated[tuple[str, ...], Field(min_length=1)]  # PEM: whose certificates to accept, current first
    port: Annotated[int, Field(ge=1, le=65535)]  # of the main service, on the host where the card was found

    def payload(self) -> bytes:
        """The bytes to sign."""
        return canonical(self.model_dump(mode="json", by_alias=True))


class CertificateRequest(Term):
    """What a party signs to have a TLS key certified."""

    kind: Literal["certificate-request"] = "certificate-request"
    ledger: Origin
    name: Name
    request: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]+={0,2}$", max_length=_REQUEST_AT_MOST)]  # base64 of PKCS #10

    def payload(self) -> bytes:
        """The bytes to sign."""
        return canonical(self.model_dump(mode="json", by_alias=True))


def read_card(envelope: bytes, fingerprint: KeyId) -> Card:
    """The card of the escrow with this fingerprint.

    Steps: 1. the envelope is well-formed and holds a card; 2. the card's ledger key has the fingerprint and is the one
    that signed; 3. the signature fits; 4. each authority is the certificate of one.

    Raises:
        EscrowError: `not-canonical` or `document-invalid` at steps 1 and 4, `escrow-pinned` at step 2,
            `signature-invalid` at step 3.
    """
    signed = Envelope.from_bytes(envelope)
    card = _read(Card, signed.payload)
    if not signed.key_id == key_id(public_bytes(card.public_key)) == fingerprint:
        raise EscrowError("escrow-pinned", "The escrow's card is signed by another key than the one you compared.")
    verify(signed, card.public_key)
    if not all(map(_is_authority, card.authorities)):
        raise EscrowError("document-invalid", "The card names an authority that is not the certificate of one in PEM.")
    return card


def read_certificate_request(
    envelope: bytes, public_key: PublicKey, ledger: str, name: str
) -> x509.CertificateSigningRequest:
    """The request for a certificate that the party of this key and name makes of this ledger's escrow.

    Steps: 1. the party's key signed; 2. for this ledger and name; 3. the TLS key is ECDSA P-256 and signed the request
    itself. Of the request nothing counts but its key: what a certificate says is the issuer's to decide.

    Raises:
        EscrowError: `enrolment-refused` at steps 2 and 3; `signature-invalid`, `not-canonical` or `document-invalid` at
            step 1.
    """
    signed = Envelope.from_bytes(envelope)
    verify(signed, public_key)
    asked = _read(CertificateRequest, signed.payload)
    if (asked.ledger, asked.name) != (ledger, name):
        raise EscrowError("enrolment-refused", "The certificate request is for another ledger or another party.")
    try:
        request = x509.load_der_x509_csr(decode_base64(asked.request))
        proven = is_tls_key(request.public_key()) and request.is_signature_valid
    except (ValueError, *_X509_ERRORS):
        proven = False
    if not proven:
        raise EscrowError(
            "enrolment-refused", "The certificate request is not one of an ECDSA P-256 key, signed with that key."
        )
    return request


def is_tls_key(key: object) -> bool:
    """Whether it is a public key of the one kind that is certified here: ECDSA P-256."""
    return isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)


def tls_key_digest(key: CertificatePublicKeyTypes) -> Digest:
    """By which a TLS key is named: of its DER SubjectPublicKeyInfo."""
    return digest(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def server_host(ledger: str) -> str:
    """The host that an escrow's server certificate names, wherever it is reached: `escrow.example/ledger` has one."""
    return ledger.partition("/")[0]


def _is_authority(pem: str) -> bool:
    """Whether this is one certificate of a certificate authority, spelled as `cryptography` writes it."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        issues = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, *_X509_ERRORS):
        return False
    return issues and certificate.public_bytes(Encoding.PEM).decode() == pem


_Document = TypeVar("_Document", Card, CertificateRequest)


def _read(kind: type[_Document], payload: bytes) -> _Document:
    """A document from its complete canonical form."""
    try:
        found = kind.model_validate(parse(payload), by_alias=True, by_name=False)
    except ValidationError as error:
        raise EscrowError(
            "document-invalid", "The document is not valid: " + "; ".join(problems(error)) + "."
        ) from None
    if found.payload() != payload:
        raise EscrowError("not-canonical", "The document is not in its complete canonical form.")
    return found
