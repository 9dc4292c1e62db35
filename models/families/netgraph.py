"""The ONNX graph of a net; apart from the net, so that who only trains it does not load onnx."""

import numpy as np
from onnx import helper

from models.families.base import Float32Vector, Parameters
from models.families.graph import INPUT, OUTPUT, constant, graph_bytes


def net_graph(parameters: Parameters, mean: Float32Vector, reciprocal: Float32Vector, clip: float) -> bytes:
    """The log transform, standardisation, clipping and layers as one graph."""
    initializers = [
        constant("one", np.float32(1)),
        constant("mean", mean),
        constant("reciprocal", reciprocal),
        constant("low", np.float32(-clip)),
        constant("high", np.float32(clip)),
        constant("columns", np.array([1], np.int64)),
    ]
    nodes = [
        helper.make_node("Sign", [INPUT], ["sign"]),
        helper.make_node("Abs", [INPUT], ["size"]),
        helper.make_node("Add", ["size", "one"], ["shifted"]),
        helper.make_node("Log", ["shifted"], ["log"]),
        helper.make_node("Mul", ["sign", "log"], ["tame"]),
        helper.make_node("Sub", ["tame", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "reciprocal"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "low", "high"], ["hidden0"]),
    ]
    depth = len(parameters) // 2
    for layer in range(depth):
        weight, bias = parameters[2 * layer : 2 * layer + 2]
        initializers += [constant(f"weight{layer}", weight), constant(f"bias{layer}", bias)]
        names = [f"hidden{layer}", f"weight{layer}", f"bias{layer}"]
        nodes.append(helper.make_node("Gemm", names, [f"linear{layer}"], transB=1))
        if layer < depth - 1:
            nodes.append(helper.make_node("Relu", [f"linear{layer}"], [f"hidden{layer + 1}"]))
    nodes.append(helper.make_node("Sigmoid", [f"linear{depth - 1}"], ["probability"]))
    nodes.append(helper.make_node("Squeeze", ["probability", "columns"], [OUTPUT]))
    return graph_bytes(nodes, initializers, mean.size)
