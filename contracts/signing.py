"""Signatures over opaque bytes: DSSE envelopes, key ids, signers found by URI.

Rules:
1. The signature covers the payload's bytes exactly as they travelled (DSSE v1 pre-authentication encoding); a verified
   payload is never serialised again.
2. An envelope has one form in bytes, one payload type and exactly one signature, of the key that its key id names.
3. Keys are Ed25519 (RFC 8032). A public key is written `ed25519-pub:` and 64 hex digits, its id `ed25519:` and the hex
   SHA-256 of the raw key. Keys under which one signature fits many messages (points of small order) are refused.
4. Nothing is read or written here: who opens a `file:` or other URI registers the opener at the edge.

Source: https://github.com/secure-systems-lab/dsse (protocol.md, envelope.md).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Annotated, Final, NamedTuple, Protocol, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import StringConstraints

from contracts.canonical import canonical, decode_base64, digest, encode_base64, parse
from contracts.errors import EscrowError

PAYLOAD_TYPE: Final = "application/vnd.model-escrow.statement+json"
MAX_ENVELOPE_BYTES: Final = 1024 * 1024
SIGNATURE_BYTES: Final = 64

PublicKey = Annotated[str, StringConstraints(pattern=r"^ed25519-pub:[0-9a-f]{64}$")]
"""A public key as documents write it."""

KeyId = Annotated[str, StringConstraints(pattern=r"^ed25519:[0-9a-f]{64}$")]
"""The short-hand by which envelopes and the ledger name a key."""

_PUBLIC_KEY: Final = re.compile(r"ed25519-pub:[0-9a-f]{64}")
_KEY_ID: Final = re.compile(r"ed25519:[0-9a-f]{64}")
_PRIME: Final = 2**255 - 19
_ORDER_EIGHT: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER: Final = frozenset({0, 1, _PRIME - 1, _ORDER_EIGHT, _PRIME - _ORDER_EIGHT})


def public_text(raw: bytes) -> PublicKey:
    """The text of a raw 32-byte public key.

    Raises:
        EscrowError: `key-invalid` for another length, a second spelling of a point, or a point of small order.
    """
    if len(raw) != 32:
        raise EscrowError("key-invalid", f"A public key has 32 bytes, not {len(raw)}.")
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    if y >= _PRIME or y in _SMALL_ORDER:
        raise EscrowError("key-invalid", "The public key is not one that a key generator makes.")
    return f"ed25519-pub:{raw.hex()}"


def public_bytes(text: PublicKey) -> bytes:
    """The raw 32 bytes of a public key's text.

    Raises:
        EscrowError: `key-invalid` for what `public_text` would not write.
    """
    if not _PUBLIC_KEY.fullmatch(text):
        raise EscrowError("key-invalid", "A public key is `ed25519-pub:` and 64 lower-case hex digits.")
    raw = bytes.fromhex(text.removeprefix("ed25519-pub:"))
    public_text(raw)
    return raw


def key_id(public: bytes) -> KeyId:
    """The key id of a raw 32-byte public key."""
    return f"ed25519:{sha256(public).hexdigest()}"


def verify_bytes(message: bytes, signature: bytes, public: PublicKey) -> None:
    """Check one bare Ed25519 signature.

    Raises:
        EscrowError: `signature-invalid`, or `key-invalid` for a malformed key.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_bytes(public)).verify(signature, message)
    except InvalidSignature:
        raise EscrowError("signature-invalid", "The signature does not fit the message and the key.") from None


class Signer(Protocol):
    """Whoever holds a private key: a file now, a hardware module or key service later."""

    @property
    def public(self) -> PublicKey:
        """The public key, as documents write it."""
        ...

    @property
    def key_id(self) -> KeyId:
        """The public key's id."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature of the message."""
        ...


@dataclass(frozen=True)
class Ed25519Signer:
    """A signer whose private key is in memory. Deterministic: one message, one signature."""

    private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """The signer of a 32-byte secret seed (RFC 8032, section 5.1.5)."""
        if len(seed) != 32:
            raise EscrowError("key-invalid", f"A private key's seed has 32 bytes, not {len(seed)}.")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_pem(cls, pem: bytes, passphrase: bytes | None = None) -> Self:
        """The signer of a PKCS #8 private key in PEM.

        Raises:
            EscrowError: `key-invalid` for another kind of key, a malformed file, or a wrong, missing or needless
                passphrase.
        """
        try:
            private = serialization.load_pem_private_key(pem, passphrase)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise EscrowError("key-invalid", "The private key cannot be read with this passphrase.") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise EscrowError("key-invalid", "The private key is not an Ed25519 key.")
        return cls(private)

    def to_pem(self, passphrase: bytes | None = None) -> bytes:
        """The private key as PKCS #8 in PEM, encrypted if a passphrase is given."""
        encryption: serialization.KeySerializationEncryption = (
            serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        )
        return self.private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)

    @property
    def public(self) -> PublicKey:
        """The public key, as documents write it."""
        return public_text(self.private.public_key().public_bytes_raw())

    @property
    def key_id(self) -> KeyId:
        """The public key's id."""
        return key_id(self.private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature of the message."""
        return self.private.sign(message)


class SignerRegistry:
    """Openers of signers by URI scheme (`file:…`, later `pkcs11:…`)."""

    def __init__(self) -> None:
        self._openers: dict[str, Callable[[str], Signer]] = {}

    def register(self, scheme: str, opener: Callable[[str], Signer]) -> None:
        """Let `opener` open URIs of this scheme; a scheme has one opener."""
        if scheme in self._openers:
            raise EscrowError("bug", f"The key scheme {scheme!r} is registered twice.")
        self._openers[scheme] = opener

    def open(self, uri: str) -> Signer:
        """The signer at a URI.

        Raises:
            EscrowError: `key-invalid` for an unknown scheme, or what the opener raises.
        """
        scheme, colon, _ = uri.partition(":")
        opener = self._openers.get(scheme) if colon else None
        if opener is None:
            known = ", ".join(f"{name}:" for name in sorted(self._openers)) or "none"
            raise EscrowError("key-invalid", "No signer is known for this key's URI.", f"Use one of: {known}.")
        return opener(uri)


class Signature(NamedTuple):
    """One signature of an envelope."""

    key_id: KeyId
    sig: bytes  # 64 bytes


@dataclass(frozen=True)
class Envelope:
    """A DSSE v1 envelope: a payload exactly as it was signed, and who signed it."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]

    @property
    def key_id(self) -> KeyId:
        """The id of the key that signed: there is exactly one."""
        return self.signatures[0].key_id

    @property
    def digest(self) -> str:
        """The digest of the envelope's bytes."""
        return digest(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The envelope's one form in bytes: DSSE's JSON envelope, canonical."""
        return self._form

    @cached_property
    def _form(self) -> bytes:
        signatures = [{"keyid": each.key_id, "sig": encode_base64(each.sig)} for each in self.signatures]
        payload = encode_base64(self.payload)
        return canonical({"payload": payload, "payloadType": self.payload_type, "signatures": signatures})

    @classmethod
    def from_bytes(cls, data: bytes, *, at_most: int = MAX_ENVELOPE_BYTES) -> Self:
        """Read an envelope, without checking its signature.

        Args:
            data: what `to_bytes` wrote.
            at_most: largest accepted length in bytes.

        Raises:
            EscrowError: `not-canonical` for other bytes of a JSON document or base64 text; `document-invalid` for a
                canonical document that is not an envelope of this product with exactly one signature.
        """
        match parse(data, at_most=at_most):
            case {
                "payload": str(payload),
                "payloadType": str(payload_type),
                "signatures": [{"keyid": str(key), "sig": str(sig), **no_more}],
                **nothing_else,
            } if payload_type == PAYLOAD_TYPE and _KEY_ID.fullmatch(key) and not no_more and not nothing_else:
                signature = Signature(key, decode_base64(sig))
                if len(signature.sig) == SIGNATURE_BYTES:
                    return cls(decode_base64(payload), payload_type, (signature,))
        raise EscrowError("document-invalid", "The document is not a signed statement with exactly one signature.")


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, signer: Signer) -> Envelope:
    """The payload in an envelope signed by `signer`."""
    signature = Signature(signer.key_id, signer.sign(pae(PAYLOAD_TYPE, payload)))
    return Envelope(payload, PAYLOAD_TYPE, (signature,))


def verify(envelope: Envelope, public: PublicKey) -> None:
    """Check that the envelope was signed by this key.

    Steps: 1. it has exactly one signature; 2. whose key id is this key's; 3. which fits payload type and payload.

    Raises:
        EscrowError: `signature-invalid` at the first step that fails, or `key-invalid` for a malformed key.
    """
    if len(envelope.signatures) != 1:
        raise EscrowError("signature-invalid", "The envelope does not have exactly one signature.")
    [signature] = envelope.signatures
    if signature.key_id != key_id(public_bytes(public)):
        raise EscrowError("signature-invalid", "The envelope was signed by another key.")
    verify_bytes(pae(envelope.payload_type, envelope.payload), signature.sig, public)
