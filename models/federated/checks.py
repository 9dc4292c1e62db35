"""What an answer must be before a number of it is used. Whatever fails here ends the run.

1. Every party answered exactly once, to the message it was sent and without an error; nobody else answered
   (`roster-incomplete`).
2. An answer holds the two records that were asked for and no third (`update-invalid`, like all that follows).
3. Its arrays have the number, lengths, types and bytes' layout of the ones expected.
4. Its row count is the one that the contract states for that party.
5. Every number is finite, and the update, all its parts together, moved the parameters no further than
   `distance_limit`.
6. Nobody is asked to go on from joint parameters that are out of range (`require_in_range`).

An error names the party, never a number of its data: the text may reach other parties. Nothing of a hostile array is
parsed: its header must be byte for byte the header that is expected.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from contracts.errors import EscrowError
from models.federated.records import ARRAYS, METRICS, ROWS
from models.federated.vectors import Vector, cuts, has_layout, unpacked

STRETCH: Final = 10.0
"""How far one round may move the parameters, root mean square; see `distance_limit`."""
RANGE: Final = 100.0
"""How large joint parameters may become, root mean square; see `require_in_range`."""
_CHUNK: Final = 1 << 15


def answers(
    replies: Iterable[Message], sent: Mapping[int, str], parties: Mapping[int, str]
) -> Iterator[tuple[str, Message]]:
    """Each party's answer, as it arrives.

    Args:
        replies: whatever the grid returns.
        sent: node id → id of the message it was sent.
        parties: node id → name.

    Raises:
        EscrowError: `roster-incomplete`.
    """
    found: set[int] = set()
    for reply in replies:
        node = reply.metadata.src_node_id
        if node not in sent:
            raise EscrowError("roster-incomplete", "An answer came from somebody who was not asked.")
        if sent[node] != reply.metadata.reply_to_message_id:
            raise _absent(parties[node], "answered another question than it was asked")
        if reply.has_error() or not reply.has_content():
            raise _absent(parties[node], "answered with an error")
        if node in found:
            raise _absent(parties[node], "answered twice")
        found.add(node)
        yield parties[node], reply
    for node in sent:
        if node not in found:
            raise _absent(parties[node], "did not answer in time")


def checked_vectors(
    answer: RecordDict, layout: Sequence[tuple[str, int]], metrics: Mapping[str, int], party: str
) -> list[npt.NDArray[Any]]:
    """The arrays of one answer, finite; views, not copies.

    Args:
        answer: what the party sent.
        layout: type and length of each array.
        metrics: exactly what the answer has to state.
        party: whose answer it is.

    Raises:
        EscrowError: `update-invalid`.
    """
    record, stating = answer.get(ARRAYS), answer.get(METRICS)
    if len(answer) > 2 or not isinstance(record, ArrayRecord) or not isinstance(stating, MetricRecord):
        raise refusal(party, "does not hold exactly the records that were asked for")
    stated = dict(stating)
    if stated.get(ROWS) != metrics[ROWS]:
        raise refusal(party, "does not state the row count that the contract states")
    if stated != metrics:
        raise refusal(party, "does not state exactly what was asked for")
    expected = {str(number): each for number, each in enumerate(layout)}
    if list(record) != list(expected) or not all(has_layout(record[key], *each) for key, each in expected.items()):
        raise refusal(party, "does not have the number, lengths and types of the arrays that were asked for")
    arrays = [unpacked(array) for array in record.values()]
    if not all(bool(np.isfinite(array).all()) for array in arrays):
        raise refusal(party, "is not finite")
    return arrays


class Distances:
    """How far each party's update has moved the parameters, part by part (rule 5).

    Args:
        count: how many parameters there are.

    """

    def __init__(self, count: int) -> None:
        self._limit = distance_limit(count) ** 2
        self._squares: dict[str, float] = {}

    def add(self, update: Vector, parameters: Vector, party: str) -> None:
        """Add one part of an update.

        Raises:
            EscrowError: `update-invalid` once it is further away than the limit.
        """
        so_far = self._squares.get(party, 0.0) + _square(update, parameters)
        if not so_far <= self._limit:  # written so that NaN fails
            raise refusal(party, "moves the parameters further than any honest training would")
        self._squares[party] = so_far


def distance_limit(count: int) -> float:
    """The L2 distance that one round may move so many parameters at most: 10 · √count.

    Generous on purpose: it stops an update that would drown every other, not one that is merely wrong. An epoch over
    67,000 rows moved a parameter by .02 to .25 (root mean square) at the families' own learning rates, which is about a
    hundredth of the limit, and by 3 at the largest rate that a contract can ask for. It does not grow with the
    parameters: whoever pushes them up each round must not earn more room by it.
    """
    return STRETCH * math.sqrt(count)


def require_in_range(parameters: Vector) -> None:
    """Refuse to go on from joint parameters that no honest training reaches.

    From still larger ones an honest party's training overflows, and its update would be refused in its name. Who moved
    them there cannot be told: nobody is named.

    Raises:
        EscrowError: `update-invalid`.
    """
    if not _square(parameters) <= RANGE**2 * parameters.size:  # written so that NaN fails
        raise EscrowError("update-invalid", "The joint parameters have left the range of any honest training.")


def refusal(party: str, what: str) -> EscrowError:
    """What is raised about a party whose answer is not what it has to be."""
    return EscrowError("update-invalid", f"The update of party {party} {what}.", party=party)


def _absent(party: str, what: str) -> EscrowError:
    return EscrowError("roster-incomplete", f"Party {party} {what}.", party=party)


def _square(vector: Vector, less: Vector | None = None) -> float:
    """The square of the norm of a vector less another, in double precision; no copy of a whole one is made."""
    found = 0.0
    for cut in cuts(vector.size, _CHUNK):
        moved = np.subtract(vector[cut], 0 if less is None else less[cut], dtype=np.float64)
        found += float(moved @ moved)
    return found
