"""The words of federated training, the same on both sides and on every grid: all that is ever asked and answered.

| message         | the question holds                             | the answer holds                              |
|-----------------|------------------------------------------------|-----------------------------------------------|
| `query.own`     | `config`: which part                           | `arrays`: a part of the party's own model     |
|                 |                                                | files, packed, uint8; `metrics`: rows, bytes  |
|                 |                                                | of all parts                                  |
| `query.moments` | `config`                                       | `arrays`: sums and sums of squares of the     |
|                 |                                                | features (float64), number of frauds (int64); |
|                 |                                                | `metrics`: rows                               |
| `train`         | `config`: round, which part of how many;       | to the last part: the first part of the       |
|                 | `arrays`: that part of the joint parameters;   | party's new parameters; to any other: a       |
|                 | with the last one `moments` and `metrics`: the | vector without numbers; `metrics`: rows       |
|                 | joint moments, and their rows                  |                                               |
| `query.update`  | `config`: round, which part                    | `arrays`: that part of its new parameters;    |
|                 |                                                | `metrics`: rows                               |

`config` always has all three numbers; what comes before the first round is round 0; a part that is asked for before it
is known how many there are is said to be of 1. Parts are counted from 1, in order, within one round. Parameters that
fit into one part are one question and one answer a round, complete in itself: the party may have restarted. One that
has not answers each round once, in rising order, and gives its own model and moments once. An answer holds two records
and no third. How a party trains is the contract's affair, so no question says it.

Nothing here uses the views `RecordDict.array_records` and its like: each refers to itself, so what it holds, here 4 MB,
stays in memory until Python looks for such cycles. Flower's strategies use them: `vectors.find_views` looks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Self, cast

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from contracts.errors import EscrowError
from models.families.base import Moments
from models.federated.vectors import has_layout, packed, unpacked

ASK_OWN: Final = "query.own"
ASK_MOMENTS: Final = "query.moments"
ASK_TRAIN: Final = "train"
ASK_UPDATE: Final = "query.update"

ARRAYS: Final = "arrays"
MOMENTS: Final = "moments"
CONFIG: Final = "config"
METRICS: Final = "metrics"

ROUND: Final = "server-round"
PART: Final = "part"
PARTS: Final = "parts"
ROWS: Final = "num-examples"
BYTES: Final = "num-bytes"
VECTOR: Final = "0"
"""Key of the one array where there is one."""


@dataclass(frozen=True)
class Part:
    """Which part of what: part `number` of `of`, from 1, in round `round`."""

    round: int
    number: int = 1
    of: int = 1

    @classmethod
    def asked(cls, content: RecordDict) -> Self:
        """The part that a question is about.

        Raises:
            EscrowError: `update-invalid` if it does not say so.
        """
        record = content.get(CONFIG)
        config = dict(record) if isinstance(record, ConfigRecord) else {}
        numbers = [number for key in (ROUND, PART, PARTS) if type(number := config.get(key)) is int]
        if len(config) != len(numbers) or len(numbers) != len(fields(cls)):
            raise EscrowError("update-invalid", "A question does not say which part of which round it is about.")
        part = cls(*numbers)
        if part.round < 0 or not 1 <= part.number <= part.of:
            raise EscrowError("update-invalid", "A question is about a part that cannot be.")
        return part

    @property
    def last(self) -> bool:
        """Whether no further part follows."""
        return self.number == self.of

    def after(self, other: Self) -> bool:
        """Whether it is the part that follows another of the same round."""
        return (self.round, self.number, self.of) == (other.round, other.number + 1, other.of)

    def record(self) -> ConfigRecord:
        """As a question states it."""
        return ConfigRecord({ROUND: self.round, PART: self.number, PARTS: self.of})


def query(part: Part) -> RecordDict:
    """Any question that holds nothing but which part it is about."""
    return RecordDict({CONFIG: part.record()})


def train_request(vector: Array, part: Part, moments: Moments) -> RecordDict:
    """One part of the joint parameters; the joint moments are with the last."""
    content = RecordDict({CONFIG: part.record(), ARRAYS: ArrayRecord({VECTOR: vector})})
    if part.last:
        content[MOMENTS] = array_record(moment_vectors(moments))
        content[METRICS] = MetricRecord({ROWS: moments.rows})
    return content


def moment_vectors(moments: Moments) -> list[npt.NDArray[Any]]:
    """The sums, the sums of squares and the number of frauds; the row count travels apart, as `num-examples`."""
    return [moments.sums, moments.squares, np.array([moments.positives], np.int64)]


def moment_layout(features: int) -> list[tuple[str, int]]:
    """Type and length of each of `moment_vectors`."""
    return [("float64", features), ("float64", features), ("int64", 1)]


def joint_moments(content: RecordDict, features: int) -> Moments:
    """The joint moments that a question holds.

    Raises:
        EscrowError: `update-invalid` if it holds none for so many features.
    """
    arrays, metrics = content.get(MOMENTS), content.get(METRICS)
    if not isinstance(arrays, ArrayRecord) or not isinstance(metrics, MetricRecord):
        raise EscrowError("update-invalid", "The last part of the joint parameters came without the joint moments.")
    found, rows = list(arrays.values()), metrics.get(ROWS)
    layout = moment_layout(features)
    if len(found) != len(layout) or not all(
        has_layout(array, *each) for array, each in zip(found, layout, strict=True)
    ):
        raise EscrowError("update-invalid", "The joint moments are not those of the party's features.")
    if type(rows) is not int:
        raise EscrowError("update-invalid", "The joint moments came without the number of rows.")
    sums, squares, positives = (unpacked(array) for array in found)
    return Moments(rows, sums, squares, int(positives[0]))


def array_record(vectors: Sequence[npt.NDArray[Any]]) -> ArrayRecord:
    """Vectors as a record with keys 0, 1, …"""
    return ArrayRecord({str(number): packed(vector) for number, vector in enumerate(vectors)})


def answer(arrays: ArrayRecord, rows: int, **more: int) -> RecordDict:
    """What a party answers; `more` are further counts by their keys."""
    return RecordDict({ARRAYS: arrays, METRICS: MetricRecord({ROWS: rows, **more})})


def one(vector: Array) -> ArrayRecord:
    """A record of one vector."""
    return ArrayRecord({VECTOR: vector})


def only_vector(content: RecordDict) -> npt.NDArray[Any]:
    """The one vector of an answer that was checked; a view."""
    return unpacked(cast("ArrayRecord", content[ARRAYS])[VECTOR])
