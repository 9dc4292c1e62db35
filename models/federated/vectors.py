"""How parameters travel: as one flat vector, cut in parts that are small enough for one message.

A part is a one-dimensional array in Flower's `Array`, whose bytes are a .npy file (version 1.0). They are made and read
here without numpy's own reader: each part is copied once, and nothing of a hostile header is ever parsed.
"""

import ctypes
import gc
import io
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from flwr.app import Array

from models.families.base import Federated, Moments, Parameters

_STYPE: Final = "numpy.ndarray"
_M_TRIM_THRESHOLD: Final = -1  # as malloc.h has them
_M_MMAP_THRESHOLD: Final = -3

Vector: TypeAlias = npt.NDArray[np.float32]
Shapes: TypeAlias = tuple[tuple[int, ...], ...]


def shapes_of(family: Federated, features: int) -> Shapes:
    """The shapes of a family's parameters for so many features."""
    nothing = Moments(1, np.zeros(features), np.zeros(features), 0)
    return tuple(array.shape for array in family.initial(features, nothing, seed=0))


def count_of(shapes: Shapes) -> int:
    """How many numbers arrays of these shapes hold."""
    return sum(prod(shape) for shape in shapes)


def flat(parameters: Parameters) -> Vector:
    """Parameters as one vector, a copy."""
    return np.concatenate([array.ravel() for array in parameters], dtype=np.float32)


def shaped(vector: Vector, shapes: Shapes) -> Parameters:
    """The parameters in a vector: views, not copies."""
    ends = np.cumsum([prod(shape) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(np.split(vector, ends[:-1]), shapes, strict=True)]


def cuts(count: int, length: int) -> list[slice]:
    """`count` numbers in parts of `length` and a last one that may be shorter; at least one part."""
    return [slice(start, min(start + length, count)) for start in range(0, max(count, 1), length)]


def pieces(arrays: Sequence[npt.NDArray[Any]], length: int) -> Iterator[npt.NDArray[Any]]:
    """Arrays as the parts of their one vector, which is never made: all of them are in memory once."""
    held: list[npt.NDArray[Any]] = []
    room = length
    for array in arrays:
        rest = np.ascontiguousarray(array).ravel()
        while rest.size >= room:
            yield np.concatenate([*held, rest[:room]]) if held else rest[:room]
            held, rest, room = [], rest[room:], length
        if rest.size:
            held.append(rest)
            room -= rest.size
    if held:
        yield np.concatenate(held)


def packed(vector: npt.NDArray[Any]) -> Array:
    """A vector as Flower's array, the same bytes as Flower's own way to make one; a copy."""
    data = b"".join((_header(vector.dtype, vector.size), np.ascontiguousarray(vector).data))
    return Array(str(vector.dtype), (vector.size,), _STYPE, data)


def has_layout(array: Array, dtype: str, count: int) -> bool:
    """Whether an array, of whatever origin, is exactly a vector of this type and length."""
    header = _header(np.dtype(dtype), count)
    return (
        (array.dtype, tuple(array.shape), array.stype) == (dtype, (count,), _STYPE)
        and len(array.data) == len(header) + count * np.dtype(dtype).itemsize
        and array.data.startswith(header)
    )


def unpacked(array: Array) -> npt.NDArray[Any]:
    """The numbers of an array whose layout is known; a view, not a copy."""
    (count,) = array.shape
    return np.frombuffer(array.data, dtype=array.dtype, offset=len(array.data) - count * np.dtype(array.dtype).itemsize)


def keep_freed() -> None:
    """Have glibc keep the room of one part for the next: fresh pages for each cost more than all its copies.

    The limits are those that glibc comes to by itself once it has seen larger blocks.
    """
    limit = getattr(ctypes.CDLL(None), "mallopt", None)
    if limit is not None:  # another C library has none
        limit(_M_MMAP_THRESHOLD, 32 << 20)
        limit(_M_TRIM_THRESHOLD, 64 << 20)


def let_go() -> None:
    """Give memory that nobody uses back to the machine, also what lies below anything still in use.

    Worth it only where parameters come in parts, and not at each of them.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def find_views() -> None:
    """Free what Flower's views of a record held: they refer to themselves (`models.federated.records`)."""
    gc.collect(1)


def _header(dtype: np.dtype[Any], count: int) -> bytes:
    buffer = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()
