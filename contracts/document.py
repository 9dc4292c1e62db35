"""A document that people write, YAML or JSON, as plain values; it may come from anybody.

Rules:

1. At most `MAX_BYTES` in UTF-8.
2. One document, a mapping; no key twice, no key that is not text.
3. Only what JSON has: a number is spelled as JSON spells it, true and false are the only truth values (a party called
   `no` must be quoted), and dates stay the text they are. Anchors, aliases and tags are refused.
4. Nesting is bounded before anything is built.

A name that ends in `.json` says JSON, everything else is YAML.
"""

import json
import re
from typing import Any, Final

import yaml

from contracts.canonical import MAX_DEPTH
from contracts.errors import EscrowError

MAX_BYTES: Final = 1 << 20

_LOADER: Final = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # the same language, ten times as fast if libyaml is there
_TAG: Final = "tag:yaml.org,2002:"
_JSON_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_DIGITS: Final = 300
"""Longest number; anything longer is a mistake or an attack."""


class _WrongError(Exception):
    """What is wrong with a text, as the rest of a sentence that begins with the document's name."""


def read_mapping(data: bytes, name: str, *, what: str, begin: str) -> dict[str, Any]:
    """The mapping that a document's bytes hold.

    Args:
        data: the bytes as they came; a caller need read no more than `MAX_BYTES` + 1 of them.
        name: what messages call the document; a file's name, from whose ending its form follows.
        what: what it should hold, as in "the keys and values of a contract".
        begin: the hint for somebody whose document holds something else.

    Raises:
        EscrowError: `document-invalid`, with the line where there is one.
    """
    text = _text(data, name, what)
    try:
        value = _from_json(text) if name.lower().endswith(".json") else _from_yaml(text)
    except _WrongError as wrong:
        raise EscrowError("document-invalid", f"{name} {wrong}.", "Correct the file and try again.") from None
    if not isinstance(value, dict):
        told = f"{name} holds {_kind(value)}, not the keys and values of a {what}."
        raise EscrowError("document-invalid", told, begin)
    return value


def _text(data: bytes, name: str, what: str) -> str:
    if len(data) > MAX_BYTES:
        told = f"{name} is larger than {MAX_BYTES} bytes."
        raise EscrowError("document-invalid", told, f"A {what} is a short text.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        told = f"{name} is not UTF-8: byte {error.start} is not."
        raise EscrowError("document-invalid", told, "Save the file as UTF-8.") from None


def _kind(value: object) -> str:
    names = {str: "a text", list: "a list", type(None): "nothing", bool: "a truth value"}
    return names.get(type(value), "a number")


def _from_json(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refused, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise _WrongError(f"is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise _WrongError("is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _WrongError(f"has the key {key[:40]!r} twice")
        found[key] = value
    return found


def _refused(constant: str) -> None:
    raise _WrongError(f"holds {constant}, which is not a number")


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise _WrongError("holds a number that is too long")
    return int(digits)


def _from_yaml(text: str) -> object:
    try:
        _bounded(text)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise _WrongError(f"is not YAML: {where}{error.problem or error.context}") from None
    except yaml.YAMLError:
        raise _WrongError("is not YAML: it holds a control character") from None
    return None if node is None else _plain(node)


def _bounded(text: str) -> None:
    """Rule 4, and no anchors or aliases, from which a short text could build a huge value."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if getattr(event, "anchor", None):
            raise _WrongError("has an anchor or alias; write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _WrongError(f"is nested more than {MAX_DEPTH} levels deep")


def _plain(node: yaml.Node) -> object:
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        return _mapping(node)
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        return [_plain(item) for item in node.value]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    raise _at(node, f"has the tag {node.tag[:40]}, which JSON does not know")


def _mapping(node: yaml.MappingNode) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag != _TAG + "str":
            raise _at(key, "has a key that is not text; put quotes around it")
        if key.value in found:
            raise _at(key, f"has the key {key.value[:40]!r} twice")
        found[key.value] = _plain(value)
    return found


def _scalar(node: yaml.ScalarNode) -> object:
    kind, value = node.tag.removeprefix(_TAG), node.value
    if kind in {"str", "timestamp"}:
        return value
    if kind == "null":
        return None
    if kind == "bool":
        if value not in {"true", "false"}:
            raise _at(node, f"has {value!r}, which YAML takes for a truth value; write true or false, or quote it")
        return value == "true"
    if kind in {"int", "float"} and _JSON_NUMBER.fullmatch(value) and len(value) <= _DIGITS:
        return int(value) if kind == "int" else float(value)
    raise _at(node, f"has {value[:40]!r}, which JSON cannot say; write a plain number, or quote it")


def _at(node: yaml.Node, what: str) -> _WrongError:
    return _WrongError(f"{what} (line {node.start_mark.line + 1})")
