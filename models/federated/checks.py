"""What a round's replies must be before a number of them is used. Whatever fails here ends the run.

1. Every party answered exactly once, to the message it was sent and without an error; nobody else answered
   (`roster-incomplete`).
2. A reply holds the two records that were asked for and no third (`update-invalid`, like all that follows).
3. Its arrays have the count, shapes, types and bytes' layout of the ones expected.
4. Its row count is the one that the contract states for that party.
5. Every number is finite, and the update moved the parameters no further than `distance_limit`.

An error names the party, never a number of its data: the text may reach other parties. Nothing of a hostile array is
parsed: its header must be byte for byte the header that is expected.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, Message, RecordDict

from contracts.errors import EscrowError
from models.families.base import Parameters
from models.federated.records import ARRAYS, METRICS, ROWS

STRETCH: Final = 10.0
"""How far one round may move the parameters, in units of (their own norm + √count); see `distance_limit`."""


def answers(replies: Iterable[Message], sent: Mapping[int, str], parties: Mapping[int, str]) -> dict[str, Message]:
    """Each party's answer, in the order of `parties`.

    Args:
        replies: whatever the grid returned.
        sent: node id → id of the message it was sent.
        parties: node id → name.

    Raises:
        EscrowError: `roster-incomplete`.
    """
    found: dict[int, Message] = {}
    for reply in replies:
        node = reply.metadata.src_node_id
        if node not in sent or sent[node] != reply.metadata.reply_to_message_id:
            raise EscrowError("roster-incomplete", "An answer came from somebody who was not asked.")
        if reply.has_error() or not reply.has_content():
            raise EscrowError("roster-incomplete", f"Party {parties[node]} answered with an error.")
        if node in found:
            raise EscrowError("roster-incomplete", f"Party {parties[node]} answered twice.")
        found[node] = reply
    for node in sent:
        if node not in found:
            raise EscrowError("roster-incomplete", f"Party {parties[node]} did not answer in time.")
    return {name: found[node] for node, name in parties.items()}


def checked_arrays(answer: RecordDict, expected: ArrayRecord, rows: int, party: str) -> list[npt.NDArray[Any]]:
    """The arrays of one answer, finite and laid out like `expected`.

    Raises:
        EscrowError: `update-invalid`.
    """
    if set(answer) != {ARRAYS, METRICS} or len(answer.array_records) != 1 or len(answer.metric_records) != 1:
        raise _refuse(party, "does not hold exactly the records that were asked for")
    if dict(answer.metric_records[METRICS]) != {ROWS: rows}:
        raise _refuse(party, "does not state the row count that the contract states")
    record = answer.array_records[ARRAYS]
    if list(record) != list(expected) or not all(_same_layout(record[key], expected[key]) for key in expected):
        raise _refuse(party, "does not have the number, shapes and types of the arrays that were asked for")
    arrays = [_values(array) for array in record.values()]
    if not all(bool(np.isfinite(array).all()) for array in arrays):
        raise _refuse(party, "is not finite")
    return arrays


def check_distance(update: Parameters, parameters: Parameters, party: str) -> None:
    """Refuse an update that is further from the global parameters than `distance_limit`.

    Raises:
        EscrowError: `update-invalid`.
    """
    moved = [new.astype(np.float64) - old for new, old in zip(update, parameters, strict=True)]
    if _norm(moved) > distance_limit(parameters):
        raise _refuse(party, "moves the parameters further than any honest training would")


def distance_limit(parameters: Parameters) -> float:
    """The L2 distance that one round may move the parameters at most: 10 · (‖parameters‖ + √count).

    Generous on purpose: it stops an update that would drown every other, not one that is merely wrong. An epoch over
    67,000 rows moved a parameter by .02 to .25 (root mean square) at the families' own learning rates, which is about a
    hundredth of the limit, and by 3 at the largest rate that a contract can ask for.
    """
    return STRETCH * (_norm(parameters) + math.sqrt(sum(array.size for array in parameters)))


def _norm(arrays: Iterable[npt.NDArray[Any]]) -> float:
    return math.sqrt(sum(float(np.sum(np.square(array, dtype=np.float64))) for array in arrays))


def _same_layout(array: Array, expected: Array) -> bool:
    start = _start(expected)
    return (
        (array.dtype, tuple(array.shape), array.stype) == (expected.dtype, tuple(expected.shape), expected.stype)
        and len(array.data) == len(expected.data)
        and array.data[:start] == expected.data[:start]
    )


def _values(array: Array) -> npt.NDArray[Any]:
    """The numbers of an array whose layout is known; a view, not a copy."""
    return np.frombuffer(array.data, dtype=array.dtype, offset=_start(array)).reshape(array.shape)


def _start(array: Array) -> int:
    """Where the numbers begin, after the header of the .npy format."""
    return len(array.data) - math.prod(array.shape) * np.dtype(array.dtype).itemsize


def _refuse(party: str, what: str) -> EscrowError:
    return EscrowError("update-invalid", f"The update of party {party} {what}.")
