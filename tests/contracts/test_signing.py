"""A signature fits one key and the exact bytes, and an envelope has one form."""

import base64
import json
from dataclasses import replace
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from contracts.canonical import canonical, digest
from contracts.errors import EscrowError
from contracts.signing import (
    PAYLOAD_TYPE,
    Ed25519Signer,
    Envelope,
    KeyId,
    PublicKey,
    Signature,
    Signer,
    SignerRegistry,
    key_id,
    pae,
    public_bytes,
    public_text,
    sign,
    verify,
    verify_bytes,
)

NORTH = Ed25519Signer.from_seed(b"n" * 32)
SOUTH = Ed25519Signer.from_seed(b"s" * 32)
PAYLOAD = b'{"kind":"approve"}'


def refused(code: str) -> "pytest.RaisesExc[EscrowError]":
    return pytest.raises(EscrowError, check=lambda error: error.code == code)


def test_the_pre_authentication_encoding_of_the_dsse_specification() -> None:
    encoded = pae("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_lengths_are_counted_in_bytes() -> None:
    assert pae("ä", b"\0 \n") == b"DSSEv1 2 \xc3\xa4 3 \0 \n"


def test_the_first_signature_of_rfc_8032() -> None:
    signer = Ed25519Signer.from_seed(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    raw = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert signer.public == f"ed25519-pub:{raw}"
    assert signer.key_id == "ed25519:" + sha256(bytes.fromhex(raw)).hexdigest()
    assert signer.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )


def test_keys_read_as_they_are_written() -> None:
    assert public_text(public_bytes(NORTH.public)) == NORTH.public
    assert key_id(public_bytes(NORTH.public)) == NORTH.key_id
    assert TypeAdapter(PublicKey).validate_python(NORTH.public) == NORTH.public
    assert TypeAdapter(KeyId).validate_python(NORTH.key_id) == NORTH.key_id


@pytest.mark.parametrize(
    "text", ["", NORTH.key_id, NORTH.public[:-1], NORTH.public + "0", NORTH.public.upper(), NORTH.public + "\n"]
)
def test_a_malformed_public_key_is_refused(text: str) -> None:
    with refused("key-invalid"):
        public_bytes(text)
    with pytest.raises(ValueError, match="string_pattern_mismatch"):
        TypeAdapter(PublicKey).validate_python(text)


PRIME = 2**255 - 19
CURVE_D = -121665 * pow(121666, -1, PRIME) % PRIME


def doubled(y: int) -> int:
    """The y coordinate of twice a point of the curve −x² + y² = 1 + d·x²·y²."""
    x_squared = (y * y - 1) * pow(CURVE_D * y * y + 1, -1, PRIME) % PRIME
    return (y * y + x_squared) * pow(2 - y * y + x_squared, -1, PRIME) % PRIME


def square_root(square: int) -> int:
    """A root modulo 2^255 − 19; refuses what has none."""
    root: int = pow(square, (PRIME + 3) // 8, PRIME)
    if (root * root - square) % PRIME:
        root = root * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    assert (root * root - square) % PRIME == 0
    return root


def points_of_small_order() -> list[int]:
    """The y coordinates of the eight points whose eightfold is the neutral point (y = 1)."""
    inverse = pow(CURVE_D, -1, PRIME)
    half = square_root((inverse * inverse + inverse) % PRIME)
    squares = [(-inverse + half) % PRIME, (-inverse - half) % PRIME]  # d·y⁴ + 2·y² − 1 = 0
    [square] = [each for each in squares if pow(each, (PRIME - 1) // 2, PRIME) == 1]
    eighth = square_root(square)
    points = [1, PRIME - 1, 0, eighth, PRIME - eighth]
    assert all(doubled(doubled(doubled(y))) == 1 for y in points)
    return points


@pytest.mark.parametrize("sign_bit", [0, 1])
@pytest.mark.parametrize("y", [*points_of_small_order(), PRIME, PRIME + 1, 2**255 - 1])
def test_a_key_under_which_one_signature_fits_many_messages_is_refused(y: int, sign_bit: int) -> None:
    with refused("key-invalid"):
        public_text((y | sign_bit << 255).to_bytes(32, "little"))


def test_such_a_key_would_let_anyone_sign_anything() -> None:
    neutral = (1).to_bytes(32, "little")
    Ed25519PublicKey.from_public_bytes(neutral).verify(neutral + bytes(32), b"anything")
    with refused("key-invalid"):
        verify_bytes(b"anything", neutral + bytes(32), f"ed25519-pub:{neutral.hex()}")


@pytest.mark.parametrize("length", [0, 31, 33])
def test_raw_keys_have_32_bytes(length: int) -> None:
    with refused("key-invalid"):
        public_text(b"n" * length)
    with refused("key-invalid"):
        Ed25519Signer.from_seed(b"n" * length)


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_key_file_gives_back_the_signer(passphrase: bytes | None) -> None:
    again = Ed25519Signer.from_pem(NORTH.to_pem(passphrase), passphrase)
    assert again.public == NORTH.public
    assert again.sign(PAYLOAD) == NORTH.sign(PAYLOAD)


def test_a_key_file_that_does_not_open_is_refused() -> None:
    other_kind = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for pem, passphrase in [
        (NORTH.to_pem(b"right"), b"wrong"),
        (NORTH.to_pem(b"right"), None),
        (NORTH.to_pem(), b"needless"),
        (NORTH.to_pem()[:60], None),
        (b"", None),
        (other_kind, None),
    ]:
        with refused("key-invalid"):
            Ed25519Signer.from_pem(pem, passphrase)


def test_a_private_key_is_not_shown() -> None:
    assert repr(NORTH) == "Ed25519Signer()"


def test_signers_are_found_by_scheme() -> None:
    keys = {"file:north.pem": NORTH, "file:south.pem": SOUTH}
    registry = SignerRegistry()
    registry.register("file", keys.__getitem__)
    signer: Signer = registry.open("file:south.pem")
    assert signer.public == SOUTH.public
    with refused("bug"):
        registry.register("file", keys.__getitem__)


@pytest.mark.parametrize("uri", ["", "file", "kms:north", ":north.pem", "FILE:north.pem"])
def test_an_unknown_scheme_is_refused_and_the_known_ones_are_named(uri: str) -> None:
    registry = SignerRegistry()
    registry.register("file", lambda _: NORTH)
    with refused("key-invalid") as caught:
        registry.open(uri)
    assert "file:" in caught.value.hint


@given(st.binary(max_size=64))
@settings(max_examples=50)
def test_what_is_signed_travels_unchanged_and_verifies(payload: bytes) -> None:
    envelope = Envelope.from_bytes(sign(payload, NORTH).to_bytes())
    assert envelope.payload == payload
    assert envelope.key_id == NORTH.key_id
    verify(envelope, NORTH.public)


def test_the_bytes_of_an_envelope() -> None:
    envelope = sign(PAYLOAD, NORTH)
    signature = base64.b64encode(NORTH.sign(b"DSSEv1 43 " + PAYLOAD_TYPE.encode() + b" 18 " + PAYLOAD)).decode()
    assert (
        envelope.to_bytes()
        == (
            '{"payload":"eyJraW5kIjoiYXBwcm92ZSJ9","payloadType":"application/vnd.model-escrow.statement+json",'
            f'"signatures":[{{"keyid":"{NORTH.key_id}","sig":"{signature}"}}]}}'
        ).encode()
    )
    assert envelope.digest == digest(envelope.to_bytes())


def test_another_key_does_not_verify() -> None:
    with refused("signature-invalid"):
        verify(sign(PAYLOAD, NORTH), SOUTH.public)


def test_a_signature_under_another_name_does_not_verify() -> None:
    genuine = sign(PAYLOAD, NORTH)
    posing = replace(genuine, signatures=(Signature(SOUTH.key_id, genuine.signatures[0].sig),))
    for public in (NORTH.public, SOUTH.public):
        with refused("signature-invalid"):
            verify(posing, public)


def test_the_payload_type_is_signed() -> None:
    with refused("signature-invalid"):
        verify(replace(sign(PAYLOAD, NORTH), payload_type="text/plain"), NORTH.public)


def test_none_or_two_signatures_do_not_verify() -> None:
    genuine = sign(PAYLOAD, NORTH)
    for signatures in ((), genuine.signatures * 2):
        with refused("signature-invalid"):
            verify(replace(genuine, signatures=signatures), NORTH.public)


@given(st.integers(0, 8 * (len(PAYLOAD) + 64) - 1))
@settings(max_examples=100)
def test_a_flipped_bit_does_not_verify(position: int) -> None:
    genuine = sign(PAYLOAD, NORTH)
    whole = bytearray(genuine.signatures[0].sig + PAYLOAD)
    whole[position // 8] ^= 1 << position % 8
    altered = Envelope(bytes(whole[64:]), PAYLOAD_TYPE, (Signature(NORTH.key_id, bytes(whole[:64])),))
    with refused("signature-invalid"):
        verify(altered, NORTH.public)


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(65), bytes(64)])
def test_a_signature_of_any_length_is_refused_not_fatal(signature: bytes) -> None:
    with refused("signature-invalid"):
        verify_bytes(PAYLOAD, signature, NORTH.public)


def document() -> dict[str, object]:
    fields: dict[str, object] = json.loads(sign(PAYLOAD, NORTH).to_bytes())
    return fields


def test_an_envelope_is_read_in_its_one_form_only() -> None:
    data = sign(PAYLOAD, NORTH).to_bytes()
    padded = document() | {"payload": "eyJraW5kIjoiYXBwcm92ZSJ9".rstrip("9") + "8"}
    for spelling in (
        data + b"\n",
        data.replace(b'"payload":', b'"payload": ', 1),
        json.dumps(document(), sort_keys=True).encode(),
        data[:-1],
        canonical(document() | {"payload": "QR=="}),
        canonical(document() | {"payload": "QQ"}),
        canonical(document() | {"payload": "_w=="}),
    ):
        with refused("not-canonical"):
            Envelope.from_bytes(spelling)
    assert Envelope.from_bytes(canonical(padded)).payload != PAYLOAD


SIGNATURE = {"keyid": NORTH.key_id, "sig": base64.b64encode(bytes(64)).decode()}


@pytest.mark.parametrize(
    "change",
    [
        {"payload": None},
        {"payloadType": "application/json"},
        {"signatures": []},
        {"signatures": [SIGNATURE, SIGNATURE]},
        {"signatures": SIGNATURE},
        {"signatures": [{**SIGNATURE, "cert": ""}]},
        {"signatures": [{"sig": SIGNATURE["sig"]}]},
        {"signatures": [{**SIGNATURE, "keyid": ""}]},
        {"signatures": [{**SIGNATURE, "keyid": NORTH.public}]},
        {"signatures": [{**SIGNATURE, "sig": "QQ=="}]},
        {"unknown": 1},
    ],
)
def test_a_document_that_is_not_one_signed_statement_is_refused(change: dict[str, object]) -> None:
    with refused("document-invalid"):
        Envelope.from_bytes(canonical(document() | change))


@pytest.mark.parametrize("key", ["payload", "payloadType", "signatures"])
def test_a_missing_key_is_refused(key: str) -> None:
    fields = document()
    del fields[key]
    with refused("document-invalid"):
        Envelope.from_bytes(canonical(fields))


@pytest.mark.parametrize("data", [b"1", b"[]", b"null", b'"x"'])
def test_other_json_is_refused(data: bytes) -> None:
    with refused("document-invalid"):
        Envelope.from_bytes(data)


def test_the_size_is_bounded() -> None:
    data = sign(PAYLOAD, NORTH).to_bytes()
    assert Envelope.from_bytes(data, at_most=len(data)).to_bytes() == data
    with refused("not-canonical"):
        Envelope.from_bytes(data, at_most=len(data) - 1)
    with refused("not-canonical"):
        Envelope.from_bytes(sign(bytes(1024 * 1024), NORTH).to_bytes())
