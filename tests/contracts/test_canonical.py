"""One document, one form in bytes: RFC 8785, and nothing else is read."""

import json
from hashlib import sha256

import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contracts.canonical import (
    MAX_DEPTH,
    canonical,
    commitment,
    decode_base64,
    derive,
    digest,
    encode_base64,
    parse,
)
from contracts.errors import EscrowError

SAFE = 2**53 - 1
TEXTS = st.text(max_size=8)
SCALARS = (
    st.none() | st.booleans() | st.integers(-SAFE, SAFE) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4))


def refused(code: str) -> "pytest.RaisesExc[EscrowError]":
    return pytest.raises(EscrowError, check=lambda error: error.code == code)


def test_the_examples_of_rfc_8785() -> None:
    document = json.loads(
        '{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],'
        r' "string": "\u20ac$\u000F\u000aA' + r"'" + r'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}'
    )
    assert (
        canonical(document)
        == (
            '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
            r'"string":"€$\u000f\nA' + r"'" + r'B\"\\\\\"/"}'
        ).encode()
    )


def test_keys_stand_in_utf16_order() -> None:
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    data = canonical(dict.fromkeys(keys, 0))
    assert list(json.loads(data)) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert parse(data) == dict.fromkeys(keys, 0)


@given(VALUES)
@example(1e20)
@example(2.0**53)
@example([-0.0, 1e21, 5e-324, 1e-7])
@settings(max_examples=150)
def test_what_is_written_is_read_back_and_written_the_same(value: object) -> None:
    data = canonical(value)
    read = parse(data)
    assert read == value
    assert canonical(read) == data


def standard_form(data: bytes) -> bytes | None:
    """What RFC 8785's own implementation makes of JSON text; every number is read as a double."""
    try:
        value = json.loads(data, parse_int=lambda text: float(text) if abs(int(text)) > SAFE else int(text))
        return rfc8785.dumps(value)
    except ValueError:
        return None


@given(
    VALUES,
    st.booleans(),
    st.booleans(),
    st.sampled_from([(",", ":"), (", ", ": "), (",", ": ")]),
)
@settings(max_examples=150)
def test_other_spellings_are_accepted_exactly_when_they_are_the_standard_form(
    value: object, ascii_only: bool, sort: bool, separators: tuple[str, str]
) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only, sort_keys=sort, separators=separators).encode()
    if standard_form(data) == data:
        assert canonical(parse(data)) == data
    else:
        with refused("not-canonical"):
            parse(data)


@given(st.lists(st.sampled_from('{}[]",:0123456789.eE+-truefalsn\\u €\U0001f600'), max_size=12).map("".join))
@settings(max_examples=300)
def test_any_bytes_are_accepted_exactly_when_they_are_the_standard_form(text: str) -> None:
    data = text.encode()
    if standard_form(data) == data:
        assert canonical(parse(data)) == data
    else:
        with refused("not-canonical"):
            parse(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"a":1,"a":1}',
        b'{"a":1,"a":2}',
        '{"ä":1,"ä":2}'.encode(),
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b' {"a":1}',
        b'{"a":1}\n',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":1.0}',
        b'{"a":-0}',
        b'{"a":1e2}',
        b'{"a":01}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b"1e999",
        b"9007199254740993",
        b"1" * 400,
        b"1" * 5000,
        '"ä"'.encode() + b"1",
        '["ä",'.encode() + b"1" * 400 + b"]",
        b'"\\u0041"',
        b'"\\u00e4"',
        b'"\\/"',
        b'"\\ud800"',
        b'{"\\ud800":1}',
        b'"\xff"',
        b"'a'",
        b"[1,]",
    ],
)
def test_a_second_spelling_is_refused(data: bytes) -> None:
    with refused("not-canonical"):
        parse(data)


@settings(max_examples=2000)
@given(st.floats(allow_nan=False, allow_infinity=False) | st.floats(1e-5, 1e17) | st.floats(-1.0, 1.0))
@example(1e16)
@example(1e-4)
@example(0.1 + 0.2)
def test_numbers_are_spelled_as_the_standard_has_it(number: float) -> None:
    written = canonical({"number": number})
    assert written == rfc8785.dumps({"number": number})
    assert parse(written) == {"number": number}


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        [-float("inf")],
        SAFE + 1,
        {"a": -SAFE - 1},
        {1: "a"},
        {None: "a"},
        {"\ud800": 1},
        "\ud800",
        b"bytes",
        {"a", "b"},
        object(),
    ],
)
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with refused("document-invalid"):
        canonical(value)


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_nesting_is_bounded_at_the_same_depth_for_writer_and_reader() -> None:
    assert parse(canonical(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    with refused("document-invalid"):
        canonical(nested(MAX_DEPTH + 1))
    with refused("not-canonical"):
        parse(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))


def test_no_depth_ends_in_a_recursion_error() -> None:
    endless: list[object] = []
    endless.append(endless)
    with refused("document-invalid"):
        canonical(endless)
    for data in (b"[" * 1_000_000, b'{"a":' * 200_000, b"[" * 100_000 + b"]" * 100_000):
        with refused("not-canonical"):
            parse(data)


@pytest.mark.parametrize("text", ["[" * 100, '\\"' + "{" * 100, "]" * 100 + "[" * 100, "\\\\"])
def test_brackets_in_strings_are_not_nesting(text: str) -> None:
    value = [{"[[[" * 40: text, "b": [text] * 100}] * 70
    assert parse(canonical(value)) == value


def test_quotes_without_end_do_not_take_long() -> None:
    with refused("not-canonical"):
        parse(b"[" * 100 + b'"' + b'\\"' * 1_000_000)


def test_size_is_bounded() -> None:
    assert parse(b'"aaaa"', at_most=6) == "aaaa"
    with refused("not-canonical"):
        parse(b'"aaaaa"', at_most=6)


@given(st.binary(max_size=12))
def test_base64_has_one_text_for_each_byte_string(data: bytes) -> None:
    assert decode_base64(encode_base64(data)) == data


@pytest.mark.parametrize("text", ["QQ", "QQ=", "QR==", "QQ==\n", "Q Q==", "_-8=", "QQ===", "QQ==QQ==", "ä"])
def test_another_base64_text_is_refused(text: str) -> None:
    with refused("not-canonical"):
        decode_base64(text)


def test_digest_is_plain_sha256() -> None:
    assert digest(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_commitment_binds_to_salt_and_content() -> None:
    salt = bytes(range(32))
    content = digest(b"rows")
    expected = sha256(b"model-escrow/commitment/1\0" + salt + bytes.fromhex(content[7:])).hexdigest()
    assert commitment(salt, content) == f"sha256-salted:{expected}"
    assert len({commitment(salt, content), commitment(salt[::-1], content), commitment(salt, digest(b"row"))}) == 3


@pytest.mark.parametrize("salt", [b"", bytes(31), bytes(33)])
def test_a_salt_of_another_length_is_refused(salt: bytes) -> None:
    with refused("document-invalid"):
        commitment(salt, digest(b"rows"))


@pytest.mark.parametrize("content", ["", "sha256:", "sha256:" + "A" * 64, "a" * 64, "sha256:" + "a" * 64 + "\n"])
def test_a_malformed_digest_is_refused(content: str) -> None:
    with refused("document-invalid"):
        commitment(bytes(32), content)


PARTS = st.tuples(st.text(max_size=3), st.lists(st.binary(max_size=3), max_size=3))


@given(PARTS, PARTS)
@example(("a", [b"bc"]), ("a", [b"b", b"c"]))
@example(("ab", []), ("a", [b"b"]))
@example(("a", []), ("a", [b""]))
def test_derived_bytes_are_equal_only_for_equal_parts(
    one: tuple[str, list[bytes]], other: tuple[str, list[bytes]]
) -> None:
    assert len(derive(one[0], *one[1])) == 32
    assert (derive(one[0], *one[1]) == derive(other[0], *other[1])) == (one == other)


def test_derived_bytes_do_not_change() -> None:
    assert (
        derive("seed", b"contract").hex()
        == sha256(b"model-escrow/derive/1\0" + b"\0\0\0\0\0\0\0\4seed" + b"\0\0\0\0\0\0\0\x08contract").hexdigest()
    )
