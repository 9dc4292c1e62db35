"""The words of the rounds, the same on both sides: what a message asks, what a reply holds.

A message asks a party `query.moments` (and holds nothing), or `train` with the global parameters (`arrays`), the joint
moments (`moments` and the row count in `metrics`), the round and the number of local epochs (`config`). A reply holds
exactly two records: `arrays`, and `metrics` with the number of rows and nothing else.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from models.families.base import Moments, Parameters

ASK_MOMENTS: Final = "query.moments"
ASK_TRAIN: Final = "train"

ARRAYS: Final = "arrays"
MOMENTS: Final = "moments"
CONFIG: Final = "config"
METRICS: Final = "metrics"

ROUND: Final = "server-round"
EPOCHS: Final = "local-epochs"
ROWS: Final = "num-examples"


def array_record(arrays: Sequence[npt.NDArray[Any]]) -> ArrayRecord:
    """Arrays as a record with keys 0, 1, …; always in C order, which is part of the bytes."""
    return ArrayRecord([np.ascontiguousarray(array) for array in arrays])


def moments_record(moments: Moments) -> ArrayRecord:
    """The sums and the sums of squares; the row count travels apart, as `num-examples`."""
    return array_record([moments.sums, moments.squares])


def train_request(parameters: Parameters, moments: Moments, *, number: int, epochs: int) -> RecordDict:
    """What a party is asked in round `number`, from 1; complete in itself, since a party may have restarted."""
    metrics = MetricRecord({ROWS: moments.rows})
    config = ConfigRecord({ROUND: number, EPOCHS: epochs})
    return RecordDict(
        {ARRAYS: array_record(parameters), MOMENTS: moments_record(moments), METRICS: metrics, CONFIG: config}
    )


def reply(arrays: ArrayRecord, rows: int) -> RecordDict:
    """What a party answers."""
    return RecordDict({ARRAYS: arrays, METRICS: MetricRecord({ROWS: rows})})
