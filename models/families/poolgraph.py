"""The ONNX graph of an ensemble: its members' graphs side by side, and the weighted sum of their log-odds.

Members may come from strangers: they must have passed `models.bundle` before. A member's names are prefixed with its
party's, so none can stand for another's tensor; `features` alone is everybody's. Whatever number a member's score is,
what it adds to the sum is finite: a score that is none counts as ½, which adds nothing, and one beyond 0 or 1 as the
nearest that counts. So a member can do no more than its factor lets it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Final

import numpy as np
import onnx
from onnx import helper

from contracts.errors import EscrowError
from models.families.graph import INPUT, OPSETS, OUTPUT, constant, graph_bytes

NEAREST: Final = 2.0**-20
"""How near to 0 and 1 a member's score counts: its log-odds stay within ±13.9. 1 − 2⁻²⁰ is a float32 number."""


@dataclass(frozen=True)
class Part:
    """One member: its graph, and the factor by which its log-odds enter the sum."""

    graph: bytes
    factor: float


def pool_graph(parts: Mapping[str, Part], *, offset: float, d: int) -> bytes:
    """sigmoid(`offset` + Σ factor · log-odds of the member's score), added in the order of the parties' names.

    Args:
        parts: members by party, at least one.
        offset: what is added to the sum.
        d: number of features.

    Raises:
        EscrowError: `update-invalid`, with the party, for a graph that is not plain enough to stand among others.
    """
    nodes: list[onnx.NodeProto] = []
    initializers = [
        constant("half", np.float32(0.5)),
        constant("low", np.float32(NEAREST)),
        constant("high", np.float32(1 - NEAREST)),
        constant("one", np.float32(1)),
        constant("offset", np.float32(offset)),
    ]
    for party in sorted(parts):
        graph = _member(party, parts[party].graph)
        nodes += [*graph.node, *_log_odds(party)]
        initializers += [*graph.initializer, constant(f"{party}:factor", np.float32(parts[party].factor))]

    def added(total: str, party: str) -> str:
        nodes.append(helper.make_node("Add", [total, f"{party}:part"], [f"{party}:sum"]))
        return f"{party}:sum"

    total = reduce(added, sorted(parts), "offset")
    nodes.append(helper.make_node("Sigmoid", [total], [OUTPUT]))
    return graph_bytes(nodes, initializers, d)


def _log_odds(party: str) -> list[onnx.NodeProto]:
    """From the member's score to its part of the sum, under names that none of a member's own can be (`_prefixed`)."""
    score, none, number, near, yes, rest, no, odds = (
        f"{party}{name}" for name in ("/score", ":none", ":number", ":near", ":yes", ":rest", ":no", ":odds")
    )
    return [
        helper.make_node("IsNaN", [score], [none]),  # what `Clip` makes of one is left to each runtime
        helper.make_node("Where", [none, "half", score], [number]),
        helper.make_node("Clip", [number, "low", "high"], [near]),
        helper.make_node("Log", [near], [yes]),
        helper.make_node("Sub", ["one", near], [rest]),
        helper.make_node("Log", [rest], [no]),
        helper.make_node("Sub", [yes, no], [odds]),
        helper.make_node("Mul", [odds, f"{party}:factor"], [f"{party}:part"]),
    ]


def _member(party: str, data: bytes) -> onnx.GraphProto:
    """A member's graph under its party's name."""
    model = onnx.load_model_from_string(data)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        raise _refused(party) from None
    if any(OPSETS.get(used.domain) != used.version for used in model.opset_import):
        raise _refused(party)
    graph: onnx.GraphProto = model.graph
    for node in graph.node:
        node.input[:] = [_prefixed(party, name) for name in node.input]
        node.output[:] = [_prefixed(party, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = _prefixed(party, tensor.name)
    return graph


def _prefixed(party: str, name: str) -> str:
    """An empty name is an operator's optional input that is not given."""
    return name if name in ("", INPUT) else f"{party}/{name}"


def _refused(party: str) -> EscrowError:
    return EscrowError("update-invalid", "A party's own model is no plain graph.", party=party)
