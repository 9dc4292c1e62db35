"""Every error that can reach a person is catalogued, and nothing is catalogued that cannot happen."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.errors import CODES, EscrowError, Exit

ROOT = Path(__file__).parents[2]
SOURCES = [
    (path, ast.parse(path.read_text()))
    for package in ("contracts", "models", "parties", "escrow", "scenarios")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path != ROOT / "contracts" / "errors.py"
]


def raised() -> Iterator[tuple[str, str, str]]:
    """Code, sentence as far as it is written out, and place of each `EscrowError("code", "sentence", …)`."""
    for path, tree in SOURCES:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "EscrowError" and node.args:
                code, sentence = node.args[0], node.args[1]
                if isinstance(code, ast.Constant) and isinstance(code.value, str):
                    yield code.value, _written(sentence), f"{path.relative_to(ROOT)}:{node.lineno}"


def _written(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
    return ""


def test_every_code_that_is_raised_is_catalogued() -> None:
    assert {place: code for code, _, place in raised() if code not in CODES} == {}


def test_every_catalogued_code_is_used_somewhere() -> None:
    used = {
        node.value
        for _, tree in SOURCES
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert sorted(set(CODES) - used) == []


def test_every_message_is_one_sentence() -> None:
    odd = {
        place: sentence
        for _, sentence, place in raised()
        if sentence and (not sentence.endswith((".", "X")) or ". " in sentence or "\n" in sentence)
    }
    assert odd == {}


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_says_what_to_do_next(code: str) -> None:
    error = EscrowError(code, "Something happened.")
    assert error.hint.endswith(".")
    assert error.exit is CODES[code].exit
    assert error.exit is not Exit.OK
    assert error.diagnostics() == f"Something happened. [{code}]\n  Next: {error.hint}"


def test_the_raiser_may_know_a_better_hint() -> None:
    assert EscrowError("usage", "Wrong.", "Try again.").diagnostics() == "Wrong. [usage]\n  Next: Try again."
