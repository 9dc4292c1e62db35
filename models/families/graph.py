"""What the ONNX graphs of all families have in common: names, versions, and bytes that depend on the model alone.

One input `features`, float32 (rows, d): raw features. One output `score`, float32 (rows,): the probability of fraud.
A family that needs another operator or field must teach it to `models.onnx_guard`.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

INPUT: Final = "features"
OUTPUT: Final = "score"
OPSETS: Final = {"": 17, "ai.onnx.ml": 3}
IR_VERSION: Final = 8


def constant(name: str, value: NDArray[np.generic] | np.generic) -> onnx.TensorProto:
    """An initializer stored inside the graph."""
    return numpy_helper.from_array(np.asarray(value, order="C"), name)


def graph_bytes(nodes: Sequence[onnx.NodeProto], initializers: Sequence[onnx.TensorProto], d: int) -> bytes:
    """A checked ONNX model from `features` (rows, d) to `score` (rows,), serialised deterministically."""
    graph = helper.make_graph(
        list(nodes),
        "score",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["rows", d])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["rows"])],
        list(initializers),
    )
    used = sorted({node.domain for node in nodes} | {""})
    model = helper.make_model(
        graph,
        producer_name="model-escrow",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid(domain, OPSETS[domain]) for domain in used],
    )
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
