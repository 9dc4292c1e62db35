"""From one compared fingerprint to trust in TLS keys, and TLS keys taken back."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings, strategies
from support import LEDGER, World, party_revoked, refused, sha, signer

from contracts import statements as st
from contracts.canonical import canonical, encode_base64, parse
from contracts.enrolment import (
    Card,
    CertificateRequest,
    read_card,
    read_certificate_request,
    server_host,
    tls_key_digest,
)
from contracts.errors import EscrowError
from contracts.rules import REVOKED_KEYS_AT_MOST
from contracts.signing import Envelope, sign

ESCROW, NORTH = signer("escrow"), signer("north")
TLS_KEY = ec.generate_private_key(ec.SECP256R1())
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whoever")])
OPENED = datetime(2026, 1, 1, tzinfo=UTC)


def certificate(*, ca: bool | None = True) -> str:
    builder = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(TLS_KEY.public_key())
        .serial_number(1)
        .not_valid_before(OPENED)
        .not_valid_after(OPENED + timedelta(days=1))
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    return builder.sign(TLS_KEY, SHA256()).public_bytes(Encoding.PEM).decode()


AUTHORITY = certificate()


def card(**terms: Any) -> dict[str, Any]:
    plain = {"kind": "escrow-card", "ledger": LEDGER, "public-key": ESCROW.public, "port": 7443}
    return {**plain, "authorities": [AUTHORITY], **terms}


def shown(by: Any = ESCROW, **terms: Any) -> bytes:
    return sign(canonical(card(**terms)), by).to_bytes()


def signing_request(key: Any = TLS_KEY) -> x509.CertificateSigningRequest:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    return x509.CertificateSigningRequestBuilder().subject_name(NAME).sign(key, algorithm)


def asked(by: Any = NORTH, *, request: bytes | None = None, **terms: Any) -> bytes:
    der = signing_request().public_bytes(Encoding.DER) if request is None else request
    plain = {"ledger": LEDGER, "name": "north", "request": encode_base64(der)}
    return sign(CertificateRequest.model_validate({**plain, **terms}).payload(), by).to_bytes()


def read_request(envelope: bytes) -> x509.CertificateSigningRequest:
    return read_certificate_request(envelope, NORTH.public, LEDGER, "north")


# the card


def test_the_card_of_the_compared_escrow_names_whom_to_trust() -> None:
    found = read_card(shown(), ESCROW.key_id)
    assert found == Card(ledger=LEDGER, public_key=ESCROW.public, authorities=(AUTHORITY,), port=7443)
    assert found.payload() == canonical(card())


def test_a_card_of_another_key_is_refused_whatever_it_says() -> None:
    stranger = signer("stranger")
    for envelope in (
        shown(stranger),  # the right key stated, signed by another
        shown(stranger, **{"public-key": stranger.public}),  # another escrow
        shown(ESCROW, **{"public-key": stranger.public}),
    ):
        with refused("escrow-pinned"):
            read_card(envelope, ESCROW.key_id)
    with refused("escrow-pinned"):
        read_card(shown(), ESCROW.key_id[:-1])


def test_a_changed_card_is_refused() -> None:
    signed = Envelope.from_bytes(shown())
    other = Envelope(canonical(card(port=1)), signed.payload_type, signed.signatures)
    with refused("signature-invalid"):
        read_card(other.to_bytes(), ESCROW.key_id)


@pytest.mark.parametrize(
    "terms",
    [
        {"authorities": []},
        {"authorities": [AUTHORITY + AUTHORITY]},
        {"authorities": [AUTHORITY + "\n"]},
        {"authorities": ["no certificate"]},
        {"authorities": [certificate(ca=False)]},
        {"authorities": [certificate(ca=None)]},
        {"port": 0},
        {"port": 65536},
        {"ledger": "No Ledger"},
        {"kind": "certificate-request"},
        {"more": 1},
    ],
)
def test_a_card_that_is_none_is_refused(terms: dict[str, Any]) -> None:
    with refused("document-invalid"):
        read_card(shown(**terms), ESCROW.key_id)


def test_a_card_has_one_spelling() -> None:
    for payload in (canonical({**card(), "port": "7443"}), canonical(card()).replace(b":7443", b": 7443")):
        with refused("not-canonical"):
            read_card(sign(payload, ESCROW).to_bytes(), ESCROW.key_id)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@settings(max_examples=300)
@given(place=strategies.integers(0, 10_000), byte=strategies.integers(0, 255))
def test_a_damaged_authority_is_refused_in_our_own_words(place: int, byte: int) -> None:
    """What still reads as a certificate is left to TLS."""
    der = bytearray(x509.load_pem_x509_certificate(AUTHORITY.encode()).public_bytes(Encoding.DER))
    der[place % len(der)] = byte
    text = encode_base64(bytes(der))
    lines = "\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    pem = f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"
    with suppress(EscrowError):
        assert read_card(shown(authorities=[pem]), ESCROW.key_id).authorities == (pem,)
    with refused("escrow-pinned"):
        read_card(shown(signer("stranger"), authorities=[pem]), ESCROW.key_id)


# certificate requests


def test_a_party_asks_for_a_certificate_with_its_own_key() -> None:
    found = read_request(asked())
    assert found.public_key() == TLS_KEY.public_key()
    assert tls_key_digest(found.public_key()) == tls_key_digest(TLS_KEY.public_key())


def test_nobody_asks_for_another_or_elsewhere() -> None:
    with refused("signature-invalid"):
        read_request(asked(signer("harbour")))
    for terms in ({"name": "harbour"}, {"ledger": "other.example"}):
        with refused("enrolment-refused"):
            read_request(asked(**terms))


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()], ids=["P-384", "Ed25519"]
)
def test_another_kind_of_key_is_not_certified(key: Any) -> None:
    with refused("enrolment-refused"):
        read_request(asked(request=signing_request(key).public_bytes(Encoding.DER)))


def test_the_tls_key_itself_must_have_signed() -> None:
    """Else a party could get a certificate for somebody else's TLS key."""
    der = bytearray(signing_request().public_bytes(Encoding.DER))
    other = signing_request(ec.generate_private_key(ec.SECP256R1())).public_bytes(Encoding.DER)
    place = der.index(TLS_KEY.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
    stolen = x509.load_der_x509_csr(other).public_key()
    assert isinstance(stolen, ec.EllipticCurvePublicKey)
    der[place : place + 65] = stolen.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    with refused("enrolment-refused"):
        read_request(asked(request=bytes(der)))


@settings(max_examples=300)
@given(place=strategies.integers(0, 10_000), byte=strategies.integers(0, 255))
def test_a_damaged_request_is_refused_in_our_own_words(place: int, byte: int) -> None:
    der = bytearray(_REQUEST)
    before, der[place % len(der)] = der[place % len(der)], byte
    if byte == before:
        return
    with refused("enrolment-refused"):
        read_request(asked(request=bytes(der)))


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"no DER", b"\xff" * 100])
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with refused("enrolment-refused" if data else "document-invalid"):
        read_request(asked(request=data) if data else sign(canonical(_unasked()), NORTH).to_bytes())


def test_no_document_stands_for_another() -> None:
    """One key signs statements, requests and cards: each is read as what it is and as nothing else."""
    world = World.founded()
    admission = sign(world.admission("north").request.payload(), NORTH).to_bytes()
    revocation = sign(revoked("north", "a").payload(), NORTH).to_bytes()
    for envelope in (admission, revocation, shown(NORTH)):
        with refused("document-invalid"):
            read_request(envelope)
    for envelope in (asked(ESCROW), admission):
        with refused("document-invalid"):
            read_card(envelope, ESCROW.key_id)
    for envelope in (asked(), shown()):
        with refused("document-invalid"):
            st.read(Envelope.from_bytes(envelope).payload)


def test_the_server_goes_by_the_host_of_its_ledger() -> None:
    assert server_host("escrow.example/ledger") == server_host("escrow.example") == "escrow.example"


# TLS keys taken back


def revoked(party: str, key: str) -> st.CertificateRevoked:
    return st.CertificateRevoked(ledger=LEDGER, party=party, key=sha(key))


@pytest.mark.parametrize("who", ["north", "auditor"])
def test_whoever_was_admitted_takes_a_tls_key_back(who: str) -> None:
    world = World.founded()
    world.submit(revoked(who, "first"))
    world.submit(revoked(who, "second"))
    assert world.party(who).revoked_keys == (sha("first"), sha("second"))
    assert not world.party(who).revoked
    assert world.party("harbour").revoked_keys == ()
    assert world.replayed() == world.documents


def test_a_key_is_taken_back_once_by_its_own_party() -> None:
    world = World.founded()
    world.submit(revoked("north", "first"))
    world.refuses("statement-refused", revoked("north", "first"))
    world.refuses("signature-invalid", revoked("north", "second"), signer("harbour"))
    world.refuses("signature-invalid", revoked("north", "second"), world.escrow)
    world.refuses("party-unknown", revoked("corner", "first"))
    world.refuses("statement-refused", revoked("north", "second").model_copy(update={"ledger": "other.example"}))
    world.submit(revoked("harbour", "first"))  # says nothing of north's key
    world.submit(party_revoked("north"))
    world.refuses("party-revoked", revoked("north", "second"))


def test_a_party_takes_back_a_bounded_number() -> None:
    world = World.founded()
    for number in range(REVOKED_KEYS_AT_MOST):
        world.submit(revoked("north", str(number)))
    world.refuses("statement-refused", revoked("north", "one more"))


def test_a_revocation_does_not_disturb_the_partys_contracts() -> None:
    world = World.founded()
    name = world.propose()
    world.submit(revoked("north", "first"))
    assert world.state(name) == "open"
    world.approve(name)
    assert world.party("north").revoked_keys == (sha("first"),)


def _unasked() -> dict[str, Any]:
    document = parse(Envelope.from_bytes(asked()).payload)
    assert isinstance(document, dict)
    return {**document, "request": ""}


_REQUEST = signing_request().public_bytes(Encoding.DER)
