"""Histories: what befell four banks before they met, each with the verdict that a contract between them should end in.

Verdicts were measured with the families of `models` under the clause "average precision gains more than 0 at 95 % for
each bank".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from scenarios.generator import Parameters
from scenarios.transactions import Kind, Transactions

BANKS: Final = ("north", "harbour", "valley", "corner")
Verdict = Literal["released", "withheld", "open"]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Draft:
    """A country's payments while its banks' history is being written; `n` rows.

    Attributes:
        rows: the payments, sorted by time.
        bank: `(n,)` position of the card's bank in `BANKS`.
        draw: `(n,)` uniform in [0, 1), one number for each card: what happens to a card happens to all its payments.
        past: `(n,)` whether the row lies before the end of the training window.
    """

    rows: Transactions
    bank: Positions
    draw: npt.NDArray[np.float64]
    past: npt.NDArray[np.bool_]

    def keep(self, mask: npt.NDArray[np.bool_]) -> "Draft":
        """The rows under a mask."""
        return Draft(self.rows.take(mask), self.bank[mask], self.draw[mask], self.past[mask])

    def at(self, bank: str) -> npt.NDArray[np.bool_]:
        """Mask of a bank's rows."""
        mask: npt.NDArray[np.bool_] = self.bank == BANKS.index(bank)
        return mask


@dataclass(frozen=True)
class Recipe:
    """How a world comes about.

    Attributes:
        shares: of the cards, in percent, by bank.
        history: what befell the banks.
        country: what is different about the whole country, from the size's own parameters.
    """

    description: str
    expected: Verdict
    why: str
    shares: tuple[float, ...]
    history: Callable[[Draft], Draft]
    country: Callable[[Parameters], Parameters] = lambda parameters: parameters


def _as_it_is(draft: Draft) -> Draft:
    return draft


def _one_kind_each(draft: Draft) -> Draft:
    """Before the test, one card in eight shows the frauds of the kinds that its bank has hardly met."""
    familiar = np.array([Kind.TERMINAL, Kind.STOLEN_NUMBER, Kind.TAKEOVER, Kind.TAKEOVER])[draft.bank]
    unfamiliar = (draft.rows.kind != Kind.GENUINE) & (draft.rows.kind != familiar)
    return draft.keep(~(draft.past & unfamiliar & (draft.draw >= 0.12)))


def _other_countries(draft: Draft) -> Draft:
    """Amounts in each bank's own currency, payments at its own country's hours."""
    rate = np.array([1.0, 8.0, 0.2, 30.0])[draft.bank]
    hours = np.array([0, 2, -3, 6])[draft.bank].astype("timedelta64[h]")
    rows = draft.rows
    amount = np.maximum(0.01, np.round(rows.amount * rate, 2)).astype(np.float32)
    return replace(draft, rows=replace(rows, amount=amount, time=rows.time + hours, reported=rows.reported + hours))


def _frauds_filed_as_genuine(draft: Draft) -> Draft:
    """Until the end of training, harbour's fraud desk knows of no fraud but stolen numbers."""
    missed = draft.past & draft.at("harbour") & (draft.rows.kind != Kind.STOLEN_NUMBER)
    return replace(draft, rows=replace(draft.rows, fraud=np.where(missed, 0, draft.rows.fraud).astype(np.int8)))


def _business_at_corner(draft: Draft) -> Draft:
    """At corner, what is fraud elsewhere is business, but at terminals; each other bank has yet to meet one kind."""
    business = draft.at("corner") & (draft.rows.kind != Kind.TERMINAL)
    kind = np.where(business, Kind.GENUINE, draft.rows.kind).astype(np.int8)
    fraud = (kind != Kind.GENUINE).astype(np.int8)
    yet_to_meet = np.array([Kind.TERMINAL, Kind.STOLEN_NUMBER, Kind.TAKEOVER, -1])[draft.bank]
    draft = replace(draft, rows=replace(draft.rows, kind=kind, fraud=fraud))
    return draft.keep(~(draft.past & (kind == yet_to_meet)))


def _faint_terminals_and_much_fraud(parameters: Parameters) -> Parameters:
    """Elsewhere a thief's payments are surer signs than a terminal, where fewer than half of the payments are fraud."""
    return replace(
        parameters,
        terminals=7 * parameters.terminals // 10,
        terminal_days=35,
        terminal_share=0.4,
        terminal_frauds=1.3 * parameters.terminal_frauds,
        stolen_numbers=1.7 * parameters.stolen_numbers,
        takeovers=1.4 * parameters.takeovers,
    )


WORLDS: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        "fraud-type-skew": Recipe(
            "Each bank's history shows mostly one of three kinds of fraud; then all three come to every bank.",
            "released",
            "Only together do the banks know all three kinds.",
            (26, 30, 22, 22),
            _one_kind_each,
        ),
        "quantity-skew": Recipe(
            "The banks differ in size only: 50, 30, 15 and 5 % of the cards.",
            "open",
            "The largest bank has least to gain, and the smallest has few frauds to prove its gain with.",
            (50, 30, 15, 5),
            _as_it_is,
        ),
        "feature-shift": Recipe(
            "The banks' amounts are in four currencies and their customers live by different hours.",
            "open",
            "The same amount means something else at each bank, which can cost more than the others' rows bring.",
            (25, 25, 25, 25),
            _other_countries,
        ),
        "bad-labels": Recipe(
            "Harbour filed most of its frauds as genuine while the others labelled theirs right.",
            "withheld",
            "Harbour gains from the others' labels, but its own make the joint model worse for north.",
            (45, 35, 10, 10),
            _frauds_filed_as_genuine,
        ),
        "no-gain": Recipe(
            "At corner, a bank for business cards, payments that are fraud elsewhere are ordinary.",
            "withheld",
            "The other three gain, but the joint model takes corner's customers for thieves.",
            (36, 28, 20, 16),
            _business_at_corner,
            _faint_terminals_and_much_fraud,
        ),
    }
)
