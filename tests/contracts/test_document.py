"""Documents from anybody: whatever the bytes, they are a mapping of plain values or one refusal."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from support import refused

from contracts.canonical import canonical
from contracts.document import MAX_BYTES, read_mapping
from contracts.errors import EscrowError

MARKS = some.text(some.sampled_from(" \n\t-:,[]{}&*!|>'\"%@#?~=<.0123456789abeinoy_\u0085\ufeff"), max_size=60)
ANYTHING = some.one_of(some.binary(max_size=60), MARKS.map(str.encode), MARKS.map(lambda text: f"a: {text}".encode()))


def read(data: bytes, name: str) -> dict[str, object]:
    return read_mapping(data, name, what="policy", begin="Begin with `policy: 1`.")


def refusal(data: bytes, name: str) -> EscrowError | None:
    try:
        found = read(data, name)
    except EscrowError as error:
        return error
    assert json.loads(json.dumps(found)) == found
    return None


@settings(max_examples=500)
@given(ANYTHING, some.sampled_from(["policy.yml", "policy.JSON"]))
def test_any_bytes_are_plain_values_or_refused(data: bytes, name: str) -> None:
    error = refusal(data, name)
    if error is not None:
        assert error.code == "document-invalid"
        assert error.message.startswith(name)
        assert "\n" not in error.message


@given(
    some.dictionaries(some.text(some.characters(codec="utf-8")), some.integers(-9, 9) | some.booleans() | some.none())
)
def test_canonical_json_is_read_as_it_is(values: dict[str, object]) -> None:
    assert read(canonical(values), "policy.json") == values


@pytest.mark.parametrize(
    "data",
    [
        b"a: " + b"[" * 10_000,
        b"a: " + b"{a: " * 10_000,
        b"- " * 100_000,
        b"a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        b"a: 1" + b"0" * 400,
        b"a: 1\nA\xff: 2",
        b"x" * (MAX_BYTES + 1),
    ],
)
def test_a_short_text_cannot_make_a_huge_value(data: bytes) -> None:
    with refused("document-invalid"):
        read(data, "policy.yml")


def test_the_hint_says_how_such_a_document_begins() -> None:
    with refused("document-invalid") as caught:
        read(b"- a\n", "policy.yml")
    assert caught.value.message == "policy.yml holds a list, not the keys and values of a policy."
    assert caught.value.hint == "Begin with `policy: 1`."
