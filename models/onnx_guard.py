"""Refuses an ONNX file that holds anything but the plain graphs of `models.families`, before a runtime sees it.

onnxruntime is made to run any graph. Even loaded from bytes it opens the file of the working directory that a tensor
names as external data, and operators exist that loop or allocate at will. So the file's protobuf is walked here and
everything outside a closed grammar is refused:
1. Only the messages and fields that our graphs use: no external or sparse data, no subgraph, function or metadata.
2. Only the operators and domains that our graphs use.
3. Only minimal integers and exact lengths, so that no other reader can see other fields in the same bytes.

The walk needs no protobuf library: a bank's client has none. Field numbers are those of onnx.proto (ONNX IR version 8).
"""

from collections.abc import Mapping
from typing import Final, TypeAlias, Union

from contracts.errors import EscrowError

_VARINT: Final = 0
_BYTES: Final = 2
_FIXED32: Final = 5

_Field: TypeAlias = Union[int, frozenset[bytes], "_Message"]
"""A wire type, the texts that a field may hold, or the grammar of a nested message."""
_Message: TypeAlias = Mapping[int, _Field]

DOMAINS: Final = frozenset({b"", b"ai.onnx.ml"})
OPERATORS: Final = frozenset(
    {b"Sign", b"Abs", b"Add", b"Log", b"Mul", b"Sub", b"Clip", b"Gemm", b"Relu", b"Sigmoid", b"Squeeze"}  # nets
    | {b"TreeEnsembleClassifier", b"Gather"}  # trees
    | {b"IsNaN", b"Where"}  # ensembles
)

_TENSOR: Final[_Message] = {1: _VARINT, 2: _VARINT, 8: _BYTES, 9: _BYTES}  # dims, data_type, name, raw_data
_DIMENSION: Final[_Message] = {1: _VARINT, 2: _BYTES}  # dim_value, dim_param
_TENSOR_TYPE: Final[_Message] = {1: _VARINT, 2: {1: _DIMENSION}}  # elem_type, shape
_VALUE: Final[_Message] = {1: _BYTES, 2: {1: _TENSOR_TYPE}}  # name, type
_ATTRIBUTE: Final[_Message] = {
    1: _BYTES,  # name
    2: _FIXED32,  # f
    3: _VARINT,  # i
    4: _BYTES,  # s
    7: _FIXED32,  # floats
    8: _VARINT,  # ints
    9: _BYTES,  # strings
    20: _VARINT,  # type
}
_NODE: Final[_Message] = {1: _BYTES, 2: _BYTES, 4: OPERATORS, 5: _ATTRIBUTE, 7: DOMAINS}  # input, output, …
_GRAPH: Final[_Message] = {1: _NODE, 2: _BYTES, 5: _TENSOR, 11: _VALUE, 12: _VALUE}  # node, name, initializer, …
_MODEL: Final[_Message] = {1: _VARINT, 2: _BYTES, 7: _GRAPH, 8: {1: DOMAINS, 2: _VARINT}}  # …, graph, opset_import


def check(data: bytes) -> None:
    """Refuse `data` unless it is an ONNX model of the grammar above.

    Raises:
        EscrowError: `bundle-invalid`.
    """
    _walk(data, 0, len(data), _MODEL)


def _walk(data: bytes, at: int, end: int, message: _Message) -> None:
    """Check the fields of the message in `data[at:end]`."""
    while at < end:
        tag, at = _varint(data, at, end)
        field = message.get(tag >> 3)
        if field is None:
            raise _refused("holds a field that no model of ours has")
        if tag & 7 != (field if isinstance(field, int) else _BYTES):
            raise _refused("holds a field of another type")
        if field == _VARINT:
            _, at = _varint(data, at, end)
            continue
        length, at = (4, at) if field == _FIXED32 else _varint(data, at, end)
        if length > end - at:
            raise _refused("is cut short")
        if isinstance(field, Mapping):
            _walk(data, at, at + length, field)
        elif isinstance(field, frozenset) and data[at : at + length] not in field:
            raise _refused("uses an operator that no model of ours has")
        at += length


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The integer at `at` and the place after it."""
    value = 0
    for place in range(at, min(at + 10, end)):
        byte = data[place]
        value |= (byte & 0x7F) << 7 * (place - at)
        if byte < 0x80:
            if byte == 0 and place > at:
                break
            return value, place + 1
    raise _refused("holds a malformed integer")


def _refused(what: str) -> EscrowError:
    return EscrowError("bundle-invalid", f"The bundle's ONNX file {what}.")
