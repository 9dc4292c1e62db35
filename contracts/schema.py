"""The schema of a contribution: which column is what, which is never a feature, and how train and holdout are split.

The schema is part of the contract, so both sides of a deposit, the bank that prepares it and the sealed run that checks
it, follow one text. Dates are whole days of the table's own clock.
"""

from datetime import date, datetime, time, timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from contracts.terms import Column, Term

Days = Annotated[int, Field(ge=1, le=366)]


class Columns(Term):
    """The columns every card-transaction table must have."""

    time: Column
    label: Column
    group: Column  # the card (or customer): the unit that is resampled and that a bank owns
    amount: Column
    terminal: Column

    def names(self) -> tuple[str, ...]:
        """The five names, in the order of the fields."""
        return (self.time, self.label, self.group, self.amount, self.terminal)


class Split(Term):
    """The rule that splits a bank's history: train window, label delay, test window."""

    train_from: date
    train_days: Days
    test_days: Days

    @property
    def train_until(self) -> date:
        """First day after the training window."""
        return self.train_from + timedelta(days=self.train_days)


class Schema(Term):
    """Schema `card-transactions/1`."""

    name: Literal["card-transactions/1"] = "card-transactions/1"
    columns: Columns
    features: tuple[Column, ...] = ()  # further numeric columns of the table, used as they stand
    never: tuple[Column, ...] = ()  # columns that may never be a feature
    windows_days: tuple[Days, ...] = (1, 7, 30)
    label_delay_days: Annotated[int, Field(ge=0, le=366)] = 7
    amount_at_most: Annotated[float, Field(gt=0)] = 1e9
    split: Split

    @model_validator(mode="after")
    def _features_allowed(self) -> Self:
        names = self.columns.names()
        if len(set(names)) != len(names):
            raise ValueError(f"columns must be five different columns, not {', '.join(names)}")
        if len(set(self.features)) != len(self.features):
            raise ValueError("features names a column twice")
        if list(self.windows_days) != sorted(set(self.windows_days)) or not self.windows_days:
            raise ValueError("windows-days must be increasing whole days")
        forbidden = {self.columns.label, self.columns.group, self.columns.terminal, self.columns.time, *self.never}
        for column in self.features:
            if column in forbidden:
                raise ValueError(f"column {column!r} may never be a feature")
        return self

    @property
    def test_from(self) -> date:
        """First day of the holdout: the training window's end plus the label delay."""
        return self.split.train_until + timedelta(days=self.label_delay_days)

    @property
    def test_until(self) -> date:
        """First day after the holdout."""
        return self.test_from + timedelta(days=self.split.test_days)

    def windows(self) -> dict[str, tuple[datetime, datetime]]:
        """`{"train": (from, until), "holdout": (from, until)}`, each half-open, at midnight of the table's clock."""
        midnight = time()
        return {
            "train": (
                datetime.combine(self.split.train_from, midnight),
                datetime.combine(self.split.train_until, midnight),
            ),
            "holdout": (
                datetime.combine(self.test_from, midnight),
                datetime.combine(self.test_until, midnight),
            ),
        }
