"""Simulated card transactions as arrays: what each is, when its bank hears of a fraud, the columns of its file."""

from dataclasses import dataclass, fields
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

TIME: Final = "TIME"
CARD: Final = "CARD"
TERMINAL: Final = "TERMINAL"
AMOUNT: Final = "AMOUNT"
FRAUD: Final = "FRAUD"
KIND: Final = "KIND"


class Kind(IntEnum):
    """What a payment really is; never a feature."""

    GENUINE = 0
    STOLEN_NUMBER = 1  # a few large payments at online shops within hours, by day and by night
    TERMINAL = 2  # a terminal in the wrong hands for weeks: most of what it charges is fraud, in ordinary amounts
    TAKEOVER = 3  # several small payments all over the country within hours


@dataclass(frozen=True)
class Transactions:
    """Rows sorted by time; every array has one entry for each row."""

    time: npt.NDArray[np.datetime64]  # datetime64[s], the country's own clock
    customer: npt.NDArray[np.int32]
    terminal: npt.NDArray[np.int32]
    amount: npt.NDArray[np.float32]
    fraud: npt.NDArray[np.int8]  # the truth, 1 = fraud
    kind: npt.NDArray[np.int8]  # `Kind`
    reported: npt.NDArray[np.datetime64]  # when the bank hears of a fraud; not-a-time for genuine payments

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.integer]) -> Self:
        """The given rows (mask or positions), in their order."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def labels_at(self, moment: datetime) -> npt.NDArray[np.int8]:
        """The labels as the bank knows them at `moment`: a fraud that is not yet reported looks genuine."""
        known: npt.NDArray[np.bool_] = self.reported <= np.datetime64(moment, "s")
        return known.astype(np.int8)

    def table(self) -> pa.Table:
        """The columns TIME, CARD, TERMINAL, AMOUNT, FRAUD and KIND."""
        columns = {
            TIME: self.time,
            CARD: self.customer,
            TERMINAL: self.terminal,
            AMOUNT: self.amount,
            FRAUD: self.fraud,
            KIND: self.kind,
        }
        return pa.table(columns)


def write_parquet(path: Path, transactions: Transactions) -> None:
    """Write the columns of `Transactions.table` as one Parquet file."""
    pq.write_table(transactions.table(), path, compression="zstd")
