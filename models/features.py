"""Window features: what one bank can compute from its own transactions alone, and the split into train and holdout.

The features are those of Le Borgne, Siblini, Lebichot and Bontempi, "Reproducible Machine Learning for Credit Card
Fraud Detection - Practical Handbook" (2022), chapter 3. For a row at time t, a window of n days and a label delay of D
days, with times in whole seconds:

1. `customer-count-Nd`: rows of its group in (t - n days, t], so this row and every row of the same second count;
2. `customer-mean-amount-Nd`: their mean amount;
3. `terminal-count-Nd`: rows of its terminal in (t - D - n days, t - D];
4. `terminal-risk-Nd`: the share of those that are fraud, 0 if there are none;
5. `amount`; `weekend`: 1 on Saturday and Sunday; `night`: 1 while the hour is at most 6; the schema's own features.

No look-ahead: no feature depends on a row later than t, nor on a label that was not yet known at t. Without label delay
the terminal windows end one second before t, so that no row sees its own label. Windows are sets: the order of the rows
in the table changes nothing. Sums are exact integers, so no row changes another's features by rounding.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from contracts.errors import EscrowError
from contracts.schema import Schema
from models.table import Prepared, Table, codes

_DAY: Final = 86_400
_FRACTION: Final = 2**32  # parts of one unit of the currency: as fine as float32 for every amount from 0.002 up

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Timeline:
    """Rows in order of key, then time; answers "which rows of my key lie in this window" by binary search.

    Attributes:
        order: `(n,)` the row at each place.
        moments: `(n,)` key and time of each place as one increasing integer, in seconds.
    """

    order: npt.NDArray[np.intp]
    moments: Ints

    @classmethod
    def of(cls, keys: npt.NDArray[np.int32], seconds: Ints, *, reach: int) -> "_Timeline":
        """Build it; `reach` is how many seconds before its row a window may begin."""
        since = seconds - seconds.min() + reach + 1  # a window never begins before its own key's stretch
        moments = keys.astype(np.int64) * (int(since.max()) + 1) + since
        order = np.argsort(moments, kind="stable")
        return cls(order, moments[order])

    def until(self, ago: int) -> npt.NDArray[np.intp]:
        """Where, for each place, its key's rows up to and with `ago` seconds before it end."""
        return np.searchsorted(self.moments, self.moments - ago, side="right")

    def running(self, values: npt.NDArray[np.integer]) -> Ints:
        """`(n + 1,)` sums of the first 0, 1, ... places; they may wrap around, their differences do not."""
        return np.concatenate(([0], np.cumsum(values[self.order], dtype=np.int64)))

    def back(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """From places to rows."""
        rows = np.empty(len(values), dtype=np.float32)
        rows[self.order] = values
        return rows


def feature_names(schema: Schema) -> tuple[str, ...]:
    """Names of a prepared table's features, in order, without looking at a table."""
    customer = [f"customer-{what}-{days}d" for days in schema.windows_days for what in ("count", "mean-amount")]
    terminal = [f"terminal-{what}-{days}d" for days in schema.windows_days for what in ("count", "risk")]
    return ("amount", "weekend", "night", *customer, *terminal, *schema.features)


def features_for_scoring(table: Table, schema: Schema) -> Prepared:
    """Compute every row's features over the whole table, in the table's order.

    A bank that scores new transactions appends them to its history, so that windows are filled; a label that is not
    known yet is 0 and is read only by terminal windows that begin after the label delay.

    Raises:
        EscrowError: `feature-forbidden` if a column of the schema has the name of a window feature.
    """
    columns = {
        "amount": table.amounts,
        **_calendar(table.times),
        **_customer(table, schema.windows_days),
        **_terminal(table, schema.windows_days, schema.label_delay_days),
    }
    for name in schema.features:
        if name in columns or name == schema.columns.amount:
            raise EscrowError(
                "feature-forbidden", f"Column {name!r} is, or has the name of, a feature that is made anyway."
            )
    features = np.empty((len(table), len(columns) + len(schema.features)), dtype=np.float32)
    for j, column in enumerate(columns.values()):
        features[:, j] = column
    features[:, len(columns) :] = table.extra
    return Prepared(
        names=(*columns, *schema.features),
        features=features,
        labels=table.labels,
        groups=table.groups,
        terminals=table.terminals,
        amounts=table.amounts,
        times=table.times,
    )


def prepare(table: Table, schema: Schema) -> tuple[Prepared, Prepared]:
    """Compute features over a bank's whole history and split it by the schema's rule.

    Returns:
        `(train, holdout)`, each in order of time (rows of one second in the table's order). The holdout lacks the rows
        of cards that were known as compromised: on day t, those with a fraud on a day d of the table with
        `train_from <= d <= t - label_delay_days - 1`.

    Raises:
        EscrowError: `window-empty` if either has no rows or no frauds; `feature-forbidden`.
    """
    everything = features_for_scoring(table, schema)
    known = _known_compromised(everything, schema)
    return _window(everything, schema, "train", ~np.zeros_like(known)), _window(everything, schema, "holdout", ~known)


def _window(everything: Prepared, schema: Schema, name: str, kept: npt.NDArray[np.bool_]) -> Prepared:
    start, until = schema.windows()[name]
    times = everything.times
    rows = np.flatnonzero((times >= np.datetime64(start, "s")) & (times < np.datetime64(until, "s")) & kept)
    part = everything.select(rows[np.argsort(times[rows], kind="stable")])
    if not part.positives:
        what = "frauds" if len(part) else "rows"
        raise EscrowError(
            "window-empty", f"The {name} window from {start:%Y-%m-%d} to before {until:%Y-%m-%d} has no {what}."
        )
    return part


def _known_compromised(everything: Prepared, schema: Schema) -> npt.NDArray[np.bool_]:
    """Which rows are of a card whose fraud was known on the row's day, counted from the first day of training."""
    days = _seconds(everything.times) // _DAY
    cards = codes(everything.groups)
    train_from = np.datetime64(schema.split.train_from, "D").astype(np.int64)
    fraud = (everything.labels == 1) & (days >= train_from)
    never = np.iinfo(np.int64).max
    first_fraud = np.full(len(cards), never, dtype=np.int64)
    np.minimum.at(first_fraud, cards[fraud], days[fraud])
    return first_fraud[cards] <= days - schema.label_delay_days - 1


def _seconds(times: npt.NDArray[np.datetime64]) -> Ints:
    return times.astype("datetime64[s]").astype(np.int64)


def _calendar(times: npt.NDArray[np.datetime64]) -> dict[str, npt.NDArray[np.float32]]:
    seconds = _seconds(times)
    weekday = (seconds // _DAY + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    hour = seconds % _DAY // 3600
    return {"weekend": (weekday >= 5).astype(np.float32), "night": (hour <= 6).astype(np.float32)}


def _customer(table: Table, windows: tuple[int, ...]) -> dict[str, npt.NDArray[np.float32]]:
    line = _Timeline.of(codes(table.groups), _seconds(table.times), reach=max(windows) * _DAY)
    whole, fraction = _exact(table.amounts)
    units, parts = line.running(whole), line.running(fraction)
    end = line.until(0)
    columns = {}
    for days in windows:
        start = line.until(days * _DAY)
        count = end - start
        total = (units[end] - units[start]) + (parts[end] - parts[start]) / _FRACTION
        columns[f"customer-count-{days}d"] = line.back(count.astype(np.float64))
        columns[f"customer-mean-amount-{days}d"] = line.back(total / count)
    return columns


def _exact(amounts: npt.NDArray[np.float32]) -> tuple[Ints, Ints]:
    """Amounts as whole units and 2**-32 parts: integers, whose sums do not depend on what else was summed."""
    if float(amounts.max()) * len(amounts) >= 2.0**62:
        raise EscrowError("table-invalid", "The amounts are too large to be summed; state them in a larger unit.")
    whole = np.floor(amounts.astype(np.float64))
    fraction = np.rint((amounts - whole) * _FRACTION)
    return whole.astype(np.int64), fraction.astype(np.int64)


def _terminal(table: Table, windows: tuple[int, ...], delay: int) -> dict[str, npt.NDArray[np.float32]]:
    line = _Timeline.of(codes(table.terminals), _seconds(table.times), reach=(delay + max(windows)) * _DAY)
    frauds = line.running(table.labels)
    end = line.until(max(delay * _DAY, 1))
    columns = {}
    for days in windows:
        start = line.until((delay + days) * _DAY)
        count = end - start
        share = (frauds[end] - frauds[start]) / np.maximum(count, 1)
        columns[f"terminal-count-{days}d"] = line.back(count.astype(np.float64))
        columns[f"terminal-risk-{days}d"] = line.back(share)
    return columns
