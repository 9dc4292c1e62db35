"""What is kept of the rounds that are done, so that training can go on at the next one and end with the same bytes.

A checkpoint is 32 bytes that say of which training it is, the number of rounds, rows and frauds, the joint moments, the
joint parameters, and what the method keeps, all little-endian. One that is cut off, too long, of another training (a
contract, run, method, family or roster) or not finite is none: training begins at round 1, with the same result.

It is written and read in pieces: no second copy of the parameters is ever in memory.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from contracts.canonical import canonical, derive
from contracts.errors import EscrowError
from contracts.frames import PART_BYTES
from models.families.base import Moments
from models.federated.vectors import Vector, cuts

_COUNTS: Final = Struct("<IQQ")  # rounds, rows, frauds
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class State:
    """Where a training stands.

    Attributes:
        round: how many rounds are done.
        moments: the joint moments.
        parameters: the joint parameters; a round changes them in place, so a round that fails ends the training.
        kept: what the method remembers, each as long as the parameters; changed likewise.

    """

    round: int
    moments: Moments
    parameters: Vector
    kept: Mapping[str, Vector]


@dataclass(frozen=True)
class Mark:
    """Of which training a checkpoint is, and how long its arrays are.

    Attributes:
        identity: 32 bytes.
        features: number of features.
        parameters: number of parameters.
        keeps: names of what the method keeps.

    """

    identity: bytes
    features: int
    parameters: int
    keeps: tuple[str, ...]

    @classmethod
    def of(cls, what: Mapping[str, Any], *, features: int, parameters: int, keeps: tuple[str, ...]) -> "Mark":
        """The mark of a training that `what` describes, as JSON values."""
        lengths = {"features": features, "parameters": parameters, "keeps": list(keeps)}
        return cls(derive("checkpoint", canonical(dict(what) | lengths)), features, parameters, keeps)


def written(state: State, mark: Mark) -> Iterator[memoryview]:
    """The checkpoint of a state, piece by piece: not copies, so it is taken before the next round."""
    moments = state.moments
    yield memoryview(mark.identity + _COUNTS.pack(state.round, moments.rows, moments.positives))
    arrays: list[npt.NDArray[Any]] = [moments.sums, moments.squares, state.parameters]
    for array in arrays + [state.kept[name] for name in mark.keeps]:
        yield array.astype(array.dtype.newbyteorder("<"), copy=False).data.cast("B")


def in_parts(pieces: Iterable[bytes | memoryview]) -> Iterator[list[memoryview]]:
    """Pieces put together and cut as they are kept: parts of `PART_BYTES` and a last one that is shorter."""
    part: list[memoryview] = []
    room = PART_BYTES
    for piece in pieces:
        rest = memoryview(piece)
        while len(rest) >= room:
            yield [*part, rest[:room]]
            part, rest, room = [], rest[room:], PART_BYTES
        part.append(rest)
        room -= len(rest)
    yield part


def read(stream: BinaryIO, mark: Mark) -> State | None:
    """The state in a checkpoint; None if it is not one of this training."""
    try:
        return _read(stream, mark)
    except (OSError, EOFError, EscrowError):
        return None


def _read(stream: BinaryIO, mark: Mark) -> State | None:
    if stream.read(len(mark.identity)) != mark.identity:
        return None
    counts = stream.read(_COUNTS.size)
    if len(counts) < _COUNTS.size:
        return None
    number, rows, positives = _COUNTS.unpack(counts)
    sums, squares = (_array(stream, np.dtype("<f8"), mark.features) for _ in range(2))
    parameters, *kept = (_array(stream, np.dtype("<f4"), mark.parameters) for _ in range(1 + len(mark.keeps)))
    if stream.read(1):
        return None
    return State(number, Moments(rows, sums, squares, positives), parameters, dict(zip(mark.keeps, kept, strict=True)))


def _array(stream: BinaryIO, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
    array = np.empty(count, dtype)
    for cut in cuts(count, _CHUNK):
        data = stream.read(array[cut].nbytes)
        if len(data) < array[cut].nbytes:
            raise EOFError
        array[cut] = np.frombuffer(data, dtype)
        if not np.isfinite(array[cut]).all():
            raise EOFError
    return array.astype(dtype.newbyteorder("="), copy=False)
