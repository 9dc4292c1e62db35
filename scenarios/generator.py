"""Card transactions that nobody ever made: customers, terminals, three kinds of fraud, drift and late labels.

Rules:
1. A seed and its parameters give the same rows on every machine with the same numpy.
2. Rows are sorted by time, amounts are positive whole cents, labels are 0 or 1, 0 exactly where `kind` is 0.
3. Only the columns of the schema are meant for models: `kind` names the answer and `reported` the future.

The three kinds leave different traces, so that a model that knows one is nearly blind to the others: stolen numbers
show in the amount, compromised terminals in the terminal's reported frauds, takeovers in the card's number of payments.
"""

from dataclasses import dataclass, fields
from datetime import date
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from scenarios.transactions import Kind, Transactions

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DAY: Final = 86_400
HOURS: Final = np.array(
    [2, 1, 1, 1, 1, 2, 4, 7, 9, 10, 11, 13, 14, 12, 11, 11, 13, 15, 15, 13, 10, 8, 6, 4], dtype=float
)
"""Genuine payments by hour of the day, relative."""

WEEK: Final = np.array([1.0, 1.0, 1.0, 1.1, 1.3, 1.3, 0.8])
"""Genuine payments by weekday from Monday, relative."""


GOLDEN: Final = (np.sqrt(5) - 1) / 2
"""Multiples of it, modulo 1, are spread evenly however many one takes."""


@dataclass(frozen=True)
class Parameters:
    """What the simulated country is like. A share or rate is relative to the customers' everyday payments.

    Drift is linear: a quantity with drift d per 30 days is multiplied by 1 + d·t/30 on day t.
    """

    start: date = date(2025, 3, 3)
    days: int = 63
    customers: int = 7_200  # each with one card
    terminals: int = 500
    districts: int = 20  # beside the online shops; a customer lives in one of them

    payments_per_day: float = 0.33  # mean over customers, gamma-distributed between them
    at_home: float = 0.65  # share of payments at terminals of the home district
    online: float = 0.20  # share of payments at online shops; the rest is made anywhere in the country
    amount_median: float = 25.0  # of the median customer
    amount_between: float = 0.5  # log standard deviation between customers
    amount_within: float = 0.6  # log standard deviation within a customer
    large_purchases: float = 0.003  # share of genuine payments as large as a thief's
    travel: float = 0.003  # genuine payments made in bursts on journeys

    stolen_numbers: float = 0.006  # frauds of this kind
    stolen_amount: float = 12.0  # median amount of a thief, in multiples of amount_median
    terminal_frauds: float = 0.016  # frauds of this kind
    terminal_days: int = 28  # how long a terminal stays compromised
    terminal_share: float = 0.7  # share of its payments that are fraud meanwhile
    takeovers: float = 0.013  # frauds of this kind
    takeover_amount: float = 0.4  # their amounts, in the card's ordinary ones: small, to pass below limits

    inflation: float = 0.01  # drift of all amounts
    fraud_growth: float = 0.10  # drift of the number of frauds
    caution: float = -0.05  # drift of a thief's amounts: they learn to stay below notice
    new_terminals: float = 0.15  # share of terminals that open during the history
    label_delay_days: int = 7  # a fraud is reported within so many days, uniformly

    def __post_init__(self) -> None:
        """Refuse what no country is like (ValueError)."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in {"start", "inflation", "fraud_growth", "caution"} and value < 0:
                raise ValueError(f"{field.name} must not be negative, not {value}")
        if min(self.days, self.customers, self.districts) < 1 or self.terminals <= self.districts:
            raise ValueError("there must be a day, a customer, a district and more terminals than districts")
        if self.at_home + self.online > 1 or max(self.new_terminals, self.terminal_share, self.large_purchases) > 1:
            raise ValueError("shares must not exceed 1")


def generate(parameters: Parameters, seed: int) -> Transactions:
    """All payments of the country's customers, genuine and not.

    Expected rows: customers · payments_per_day · days · (1 + travel + stolen_numbers + takeovers).
    """
    rng = np.random.default_rng(seed)
    country = _country(parameters, rng)
    everyday = _everyday(parameters, country, rng)
    payments = len(everyday.seconds)

    def burst(share: float, kind: Kind, *, each: float, hours: float, online: bool = False) -> _Rows:
        return _bursts(parameters, country, rng, share * payments, kind, each=each, hours=hours, online=online)

    genuine = _join(everyday, burst(parameters.travel, Kind.GENUINE, each=5, hours=96))
    genuine = _compromise(parameters, genuine, rng, parameters.terminal_frauds * payments)
    rows = _join(
        genuine,
        burst(parameters.stolen_numbers, Kind.STOLEN_NUMBER, each=1.5, hours=6, online=True),
        burst(parameters.takeovers, Kind.TAKEOVER, each=4, hours=6),
    )
    return _finish(parameters, country, rows, rng)


class _Country(NamedTuple):
    home: Ints  # (customers,) district
    median: Floats  # (customers,) amount
    activity: Floats  # (customers,) payments a day
    terminal_ids: Ints  # (terminals,) shuffled, so that an id says nothing about the place
    opens: Floats  # (terminals,) day; 0 for those that are always there


class _Rows(NamedTuple):
    seconds: Ints  # since the first midnight
    customer: Ints
    place: Ints  # position of the terminal in the country, district by district
    kind: npt.NDArray[np.int8]


def _join(*parts: _Rows) -> _Rows:
    return _Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _drift(per_30_days: float, days: npt.ArrayLike) -> Floats:
    return np.maximum(0.0, 1 + per_30_days * np.asarray(days, dtype=float) / 30)


def _block(parameters: Parameters) -> int:
    """Terminals in a district; the online shops are one more district, and take what is left over."""
    return parameters.terminals // (parameters.districts + 1)


def _country(parameters: Parameters, rng: np.random.Generator) -> _Country:
    customers, terminals = parameters.customers, parameters.terminals
    late = rng.random(terminals) < parameters.new_terminals
    return _Country(
        home=rng.integers(parameters.districts, size=customers),
        median=parameters.amount_median * np.exp(parameters.amount_between * rng.standard_normal(customers)),
        activity=parameters.payments_per_day * rng.gamma(3.0, 1 / 3.0, size=customers),
        terminal_ids=rng.permutation(terminals),
        opens=np.where(late, rng.uniform(0, parameters.days, terminals), 0.0),
    )


def _places(parameters: Parameters, country: _Country, rng: np.random.Generator, district: Ints, day: Ints) -> Ints:
    """A terminal in each given district, the popular ones more often; one not open yet gives way to an old one."""
    block = _block(parameters)
    online = parameters.terminals - block * parameters.districts
    size = np.where(district == parameters.districts, online, block)
    place: Ints = district * block + (size * rng.random(len(district)) ** 1.2).astype(np.int64)
    always = np.flatnonzero(country.opens == 0)
    closed = country.opens[place] > day
    if len(always):
        place[closed] = rng.choice(always, size=int(closed.sum()))
    return place


def _everyday(parameters: Parameters, country: _Country, rng: np.random.Generator) -> _Rows:
    customer = np.repeat(np.arange(parameters.customers), rng.poisson(country.activity * parameters.days))
    size = len(customer)
    weekday = (parameters.start.weekday() + np.arange(parameters.days)) % 7
    day = _draw(rng, WEEK[weekday], size)
    seconds = day * DAY + _draw(rng, HOURS, size) * 3600 + rng.integers(3600, size=size)
    where = rng.random(size)
    district = rng.integers(parameters.districts, size=size)
    district = np.where(where < parameters.at_home + parameters.online, parameters.districts, district)
    district = np.where(where < parameters.at_home, country.home[customer], district)
    place = _places(parameters, country, rng, district, day)
    return _Rows(seconds, customer, place, np.zeros(size, np.int8))


def _draw(rng: np.random.Generator, weights: Floats, size: int) -> Ints:
    """Positions drawn with the given relative weights."""
    cumulative = np.cumsum(weights)
    drawn: Ints = np.searchsorted(cumulative, rng.random(size) * cumulative[-1], side="right")
    return np.minimum(drawn, len(weights) - 1)


def _bursts(
    parameters: Parameters,
    country: _Country,
    rng: np.random.Generator,
    expected: float,
    kind: Kind,
    *,
    each: float,
    hours: float,
    online: bool,
) -> _Rows:
    """`expected` payments in bursts of 1 + Poisson(each − 1) payments by one card, spread evenly over `hours`."""
    growth = parameters.fraud_growth if kind else 0.0
    bursts = rng.poisson(expected / each)
    first = _draw(rng, _drift(growth, np.arange(parameters.days)), bursts) * DAY + rng.integers(DAY, size=bursts)
    holder = rng.integers(parameters.customers, size=bursts)
    payments = 1 + rng.poisson(each - 1, size=bursts)
    seconds = np.repeat(first, payments) + rng.integers(int(hours * 3600), size=int(payments.sum()))
    inside = seconds < parameters.days * DAY
    seconds, customer = seconds[inside], np.repeat(holder, payments)[inside]
    size = len(seconds)
    district = np.full(size, parameters.districts) if online else rng.integers(parameters.districts + 1, size=size)
    place = _places(parameters, country, rng, district, seconds // DAY)
    return _Rows(seconds, customer, place, np.full(size, kind, np.int8))


def _compromise(parameters: Parameters, rows: _Rows, rng: np.random.Generator, expected: float) -> _Rows:
    """Turn `expected` payments at compromised terminals into frauds: terminals fall, the busy ones more often, until
    enough payments are theirs; each stays compromised for `terminal_days`.
    """
    if not len(rows.seconds) or expected <= 0 or parameters.terminal_share <= 0:
        return rows
    horizon = parameters.days * DAY
    order = np.lexsort((rows.seconds, rows.place))
    key = rows.place[order] * horizon + rows.seconds[order]
    candidates = 4 * parameters.terminals
    place = rows.place[rng.integers(len(rows.place), size=candidates)]
    lead = np.arange(-parameters.terminal_days, parameters.days)
    growth = np.cumsum(_drift(parameters.fraud_growth, lead))
    evenly = (rng.random() + np.arange(candidates) * GOLDEN) % 1.0
    falls = np.interp(evenly * growth[-1], np.r_[0.0, growth], np.r_[lead, parameters.days]) * DAY
    from_, until = np.clip(falls, 0, horizon), np.clip(falls + parameters.terminal_days * DAY, 0, horizon)
    first = np.searchsorted(key, place * horizon + from_.astype(np.int64))
    counts = np.searchsorted(key, place * horizon + until.astype(np.int64)) - first
    enough = int(np.searchsorted(np.cumsum(counts) * parameters.terminal_share, expected)) + 1
    first, counts = first[:enough], counts[:enough]
    positions = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    hit = order[np.unique(positions)]
    kind = rows.kind.copy()
    kind[hit[rng.random(len(hit)) < parameters.terminal_share]] = Kind.TERMINAL
    return rows._replace(kind=kind)


def _finish(parameters: Parameters, country: _Country, rows: _Rows, rng: np.random.Generator) -> Transactions:
    """Amounts, reports and ids, in order of time."""
    order = np.argsort(rows.seconds, kind="stable")
    rows = _Rows(rows.seconds[order], rows.customer[order], rows.place[order], rows.kind[order])
    size = len(rows.seconds)
    amount = _amounts(parameters, country, rows, rng)
    time = np.datetime64(parameters.start, "s") + rows.seconds.astype("timedelta64[s]")
    delay = (rng.random(size) * parameters.label_delay_days * DAY).astype("timedelta64[s]")
    fraud = rows.kind != Kind.GENUINE
    return Transactions(
        time=time,
        customer=rows.customer.astype(np.int32),
        terminal=country.terminal_ids[rows.place].astype(np.int32),
        amount=amount,
        fraud=fraud.astype(np.int8),
        kind=rows.kind,
        reported=np.where(fraud, time + delay, np.datetime64("NaT", "s")),
    )


def _amounts(
    parameters: Parameters, country: _Country, rows: _Rows, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Ordinary amounts of the card, but for thieves and large purchases, whose amounts know no customer."""
    size = len(rows.seconds)
    day = rows.seconds // DAY
    spread = np.exp(parameters.amount_within * rng.standard_normal(size))
    ordinary = country.median[rows.customer] * spread
    large = parameters.amount_median * parameters.stolen_amount * spread
    purchase = (rows.kind == Kind.GENUINE) & (rng.random(size) < parameters.large_purchases)
    thief = rows.kind == Kind.STOLEN_NUMBER
    ordinary = np.where(rows.kind == Kind.TAKEOVER, parameters.takeover_amount * ordinary, ordinary)
    amount = np.where(thief, large * _drift(parameters.caution, day), np.where(purchase, large, ordinary))
    return np.maximum(0.01, np.round(amount * _drift(parameters.inflation, day), 2)).astype(np.float32)
