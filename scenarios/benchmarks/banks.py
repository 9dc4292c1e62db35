"""Banks of a benchmark: real clients over gRPC and TLS, with tiny deposits, and the contracts between them."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Self

from contracts.api import EscrowView, PartyView
from contracts.contract import Contract, drawn_up, validated
from contracts.schema import Columns, Schema, Split
from parties.client import Client
from parties.draft import draft
from parties.enrol import enrol, meet
from parties.identity import Identity
from parties.offers import Offer
from parties.remote import RemoteEscrow
from parties.sealing import Deposit, Part, Sealing
from parties.session import connect, renew

SCHEMA: Final = Schema(
    columns=Columns(time="time", label="fraud", group="card", amount="amount", terminal="terminal"),
    windows_days=(1,),
    split=Split(train_from=date(2026, 1, 1), train_days=14, test_days=14),
)
GAIN: Final = {"kind": "gain", "metric": "average-precision", "more-than": 0.0, "min-positives": 30}


@dataclass(frozen=True)
class Bank:
    """A bank's client and what it has deposited."""

    client: Client
    remote: RemoteEscrow
    deposits: tuple[Deposit, ...] = ()

    @property
    def name(self) -> str:
        """The bank's name."""
        return self.client.name

    @classmethod
    def open(cls, home: Path) -> Self:
        """Connect, with a first answer, from the home of a bank that has its certificate."""
        identity = Identity.open(home)
        remote = connect(home, identity, int(time.time()))
        return cls(Client(home, identity, remote), remote)

    def deposited(self) -> Self:
        """The bank with a train and a holdout deposit, both of them tiny."""
        train = self._sent("train", rows=100)
        holdout = self._sent("holdout", rows=100, positives=60)
        return type(self)(self.client, self.remote, (train, holdout))

    def _sent(self, part: Part, *, rows: int, positives: int | None = None) -> Deposit:
        content = BytesIO(f"{self.name} {part}".encode())
        sealing = Sealing(content, self.client.folder, part=part, schema=SCHEMA, rows=rows, positives=positives)
        return self.client.send(sealing)

    def card(self) -> dict[str, Any]:
        """What a contract with this bank needs to know of it, as JSON."""
        offers = [
            Offer(self.name, each.part, each.commitment, each.schema, each.rows, each.positives, entry=0, looks=0)
            for each in self.deposits
        ]
        return {"name": self.name, "key": self.client.identity.signer.key_id, "offers": offers}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remote.close()


def knock(home: Path, name: str, address: str, fingerprint: str) -> None:
    """A new bank makes its keys and asks to be admitted."""
    identity = Identity.create(home, name)
    enrol(home, identity, *meet(home, address, fingerprint))


def enter(home: Path) -> Bank:
    """A bank that was admitted gets its certificate and connects."""
    renew(home, Identity.open(home))
    return Bank.open(home)


def contract(info: EscrowView, directory: Iterable[PartyView], cards: Sequence[dict[str, Any]], title: str) -> Contract:
    """A contract between the banks of some cards, all of whom contribute, receive and must gain."""
    names = [card["name"] for card in cards]
    made = draft(
        info,
        directory,
        {card["name"]: [Offer(*each) for each in card["offers"]] for card in cards},
        me=names[0],
        partners=names[1:],
        schema=SCHEMA,
        now=int(time.time()),
        title=title,
        model={"family": "logistic"},
        method={"name": "pooled"},
        condition=GAIN,
    )
    return drawn_up(validated(made.document), {card["name"]: card["key"] for card in cards})
