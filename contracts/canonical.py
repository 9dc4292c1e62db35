"""Canonical JSON bytes, digests, salted commitments and derived bytes.

Rules:
1. A document has one form in bytes: RFC 8785 (JCS). What is signed, hashed and stored is these bytes.
2. `parse` takes only bytes that `canonical` would write: no second spelling of a number, no white space, no key twice,
   no other order of keys. So `canonical(parse(data)) == data` whenever `parse` succeeds.
3. Nesting and size are bounded by fixed numbers, so two readers never differ in what they accept.
4. Every hash that is not a plain file digest starts with a prefix of its own, so none can stand for another.
"""

import base64
import json
import re
from hashlib import sha256
from itertools import accumulate
from typing import Final, NoReturn

import rfc8785

from contracts.errors import EscrowError

MAX_DEPTH: Final = 64
MAX_BYTES: Final = 16 * 1024 * 1024
SALT_BYTES: Final = 32

_SAFE_INTEGER: Final = 2**53 - 1
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BRACKET: Final = re.compile(rb"[\[\]{}]")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


class _NotPlainError(Exception):
    """The document holds a number that only RFC 8785's own rules can spell."""


def _plain_integer(text: str) -> int:
    value = int(text)
    if not -_SAFE_INTEGER <= value <= _SAFE_INTEGER:
        raise _NotPlainError
    return value


def _plain_float(text: str) -> float:
    value = float(text)
    if not _is_plain_float(value):
        raise _NotPlainError
    return value


def _is_plain_float(value: float) -> bool:
    """Whether Python spells the number as RFC 8785 does: both write the shortest digits, and part over exponents."""
    return 1e-4 <= abs(value) < 1e16 and not value.is_integer()


def _not_plain(_: str) -> NoReturn:
    raise _NotPlainError


def _number(text: str) -> int | float:
    value = int(text)
    return value if -_SAFE_INTEGER <= value <= _SAFE_INTEGER else float(value)


def _not_a_number(text: str) -> NoReturn:
    raise ValueError(text)


_PLAIN_DECODER: Final = json.JSONDecoder(parse_int=_plain_integer, parse_float=_plain_float, parse_constant=_not_plain)
_DECODER: Final = json.JSONDecoder(parse_int=_number, parse_constant=_not_a_number)
_PLAIN_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, sort_keys=True, separators=(",", ":"), allow_nan=False
)


def canonical(value: object) -> bytes:
    """The RFC 8785 bytes of a JSON value (dict, list, tuple, str, int, float, bool, None).

    Raises:
        EscrowError: `document-invalid` for what the form cannot hold: NaN, infinities, integers beyond ±(2^53 − 1),
            keys that are not strings, lone surrogates, other types, nesting beyond `MAX_DEPTH`, more than `MAX_BYTES`.
    """
    try:
        data = _written(value)
    except RecursionError:
        raise EscrowError("document-invalid", "The document is nested too deeply.") from None
    except ValueError:
        raise EscrowError("document-invalid", "The document holds a value or key that JSON cannot hold.") from None
    if (excess := _excess(data, MAX_BYTES)) is not None:
        raise EscrowError("document-invalid", excess)
    return data


def _written(value: object) -> bytes:
    """By Python's encoder where it writes as RFC 8785 does (see `_read`); the library takes six times as long."""
    try:
        return _PLAIN_ENCODER.encode(_plain(value)).encode()
    except _NotPlainError:
        return rfc8785.dumps(value)  # type: ignore[arg-type]


def _plain(value: object) -> object:
    """The value as Python's encoder is to see it: a number without fraction is an integer."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int and -_SAFE_INTEGER <= value <= _SAFE_INTEGER:  # type: ignore[operator]
        return value
    if kind is float:
        return _plain_number(value)  # type: ignore[arg-type]
    if kind is dict and all(type(key) is str and key.isascii() for key in value):  # type: ignore[attr-defined]
        return {key: _plain(item) for key, item in value.items()}  # type: ignore[attr-defined]
    if kind is list or kind is tuple:
        return [_plain(item) for item in value]  # type: ignore[attr-defined]
    raise _NotPlainError


def _plain_number(value: float) -> int | float:
    if _is_plain_float(value):
        return value
    if value.is_integer() and abs(value) <= _SAFE_INTEGER:
        return int(value)
    raise _NotPlainError


def parse(data: bytes, *, at_most: int = MAX_BYTES) -> object:
    """The value of canonical JSON bytes; a number without fraction comes back as int if |number| < 2^53, else as float.

    Args:
        data: what `canonical` wrote.
        at_most: largest accepted length in bytes.

    Raises:
        EscrowError: `not-canonical` for any other bytes.
    """
    if (excess := _excess(data, at_most)) is not None:
        raise EscrowError("not-canonical", excess)
    try:
        value, same = _read(data)
    except (ValueError, OverflowError):
        raise EscrowError("not-canonical", "The document is not JSON in UTF-8.") from None
    if not same:
        raise EscrowError("not-canonical", "The document is JSON, but not in its canonical form.")
    return value


def _read(data: bytes) -> tuple[object, bool]:
    """The value, and whether its canonical form is the same bytes.

    A key that stands twice is lost in the value and so missed in the comparison.

    The fast way is for ASCII text whose numbers are neither very large nor very small. There Python's encoder writes
    what RFC 8785 asks for: the same escapes, the same numbers, and keys in code-point order, which is UTF-16 order when
    every key is ASCII.
    """
    text = data.decode()
    if text.isascii():
        try:
            value = _PLAIN_DECODER.decode(text)
        except _NotPlainError:
            pass
        else:
            return value, _PLAIN_ENCODER.encode(value) == text
    value = _DECODER.decode(text)
    return value, rfc8785.dumps(value) == data


def _excess(data: bytes, at_most: int) -> str | None:
    """Which bound the bytes exceed, as a sentence, or None."""
    if len(data) > at_most:
        return f"The document has {len(data)} bytes; at most {at_most} are accepted."
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _too_deep(data):
        return f"The document is nested more than {MAX_DEPTH} levels deep."
    return None


def _too_deep(data: bytes) -> bool:
    brackets = _BRACKET.finditer(_STRING.sub(b"", data))
    depths = accumulate(1 if bracket[0] in b"[{" else -1 for bracket in brackets)
    return any(depth > MAX_DEPTH for depth in depths)


def encode_base64(data: bytes) -> str:
    """Standard base64 with padding (RFC 4648, section 4)."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: str) -> bytes:
    """The bytes of `encode_base64`'s text.

    Raises:
        EscrowError: `not-canonical` for any other spelling: no padding, other alphabet, white space, stray bits.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise EscrowError("not-canonical", "A base64 text is malformed.") from None
    if encode_base64(data) != text:
        raise EscrowError("not-canonical", "A base64 text is not in its canonical form.")
    return data


def digest(data: bytes) -> str:
    """`sha256:` and the hex SHA-256 of the bytes."""
    return "sha256:" + sha256(data).hexdigest()


def commitment(salt: bytes, content_digest: str) -> str:
    """`sha256-salted:` and the hex hash of salt and content digest: binding, and silent without the salt.

    Args:
        salt: `SALT_BYTES` random bytes.
        content_digest: what `digest` gives for the content, so that a large file is hashed once, as a stream.

    Raises:
        EscrowError: `document-invalid` for a salt of another length or a malformed digest.
    """
    if len(salt) != SALT_BYTES:
        raise EscrowError("document-invalid", f"A salt has {SALT_BYTES} bytes, not {len(salt)}.")
    if not _DIGEST.fullmatch(content_digest):
        raise EscrowError("document-invalid", "A content digest is `sha256:` and 64 lower-case hex digits.")
    content = bytes.fromhex(content_digest.removeprefix("sha256:"))
    return "sha256-salted:" + sha256(b"model-escrow/commitment/1\0" + salt + content).hexdigest()


def derive(label: str, *parts: bytes) -> bytes:
    """32 bytes that depend on the label and the parts, each with its length before it, so no two lists run together.

    Used for seeds that nobody picks: `derive("split", contract_digest)`.
    """
    pieces = (label.encode(), *parts)
    framed = b"".join(len(piece).to_bytes(8, "big") + piece for piece in pieces)
    return sha256(b"model-escrow/derive/1\0" + framed).digest()
