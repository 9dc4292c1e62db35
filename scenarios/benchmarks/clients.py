"""Many banks in one process: `python -m scenarios.benchmarks.clients FOLDER`.

Each bank has a connection of its own and two threads: one proposes its contracts and approves those that its watcher
tells of; the other watches.
"""

import queue
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from contracts.api import Receipt
from contracts.contract import Contract
from contracts.errors import EscrowError
from contracts.statements import ContractProposed
from parties.client import Client
from parties.remote import RemoteEscrow
from scenarios.benchmarks.banks import Bank, contract, enter, knock
from scenarios.benchmarks.child import ORIGIN, serve

EVENTS: Final = 4
"""Of each contract: proposed, its run key opened, and one approval of each of its two parties."""
END_SECONDS: Final = 300.0


@dataclass(frozen=True)
class Recorded(RemoteEscrow):
    """A bank's session that keeps how long each submission took, in seconds, and its receipt."""

    receipts: list[tuple[float, Receipt]] = field(default_factory=list)

    def submit(self, envelope: bytes) -> Receipt:
        """See `contracts.api.Escrow.submit`."""
        begin = time.perf_counter()
        receipt = super().submit(envelope)
        self.receipts.append((time.perf_counter() - begin, receipt))
        return receipt


class Active:
    """A bank at work: proposes, approves, watches."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self.remote = Recorded(**vars(bank.remote))
        self.client = Client(bank.client.home, bank.client.identity, self.remote)
        self.contracts: list[Contract] = []
        self.seen: list[tuple[int, str]] = []
        self.errors: list[str] = []
        self._open: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._approved = 0

    def threads(self, expected: int) -> list[threading.Thread]:
        """Its two threads, for so many contracts that it is a party of."""
        works = [lambda: self._work(expected), lambda: self._watch(expected)]
        return [threading.Thread(target=self._told, args=(work,), daemon=True) for work in works]

    def _told(self, work: Any) -> None:
        try:
            work()
        except EscrowError as error:
            self.errors.append(f"{self.bank.name}: {error.code}: {error.message}")

    def _work(self, expected: int) -> None:
        for each in self.contracts:
            self.client.submit(ContractProposed(ledger=ORIGIN, party=self.bank.name, contract=each))
            while not self._open.empty():
                self._approve()
        while self._approved < expected:
            self._approve()

    def _approve(self) -> None:
        self.client.approve(self._open.get())
        self._approved += 1

    def _watch(self, expected: int) -> None:
        for event in self.remote.watch(0):
            self.seen.append((event.index, event.contract))
            if event.kind == "run-key-opened":
                self._open.put(event.contract)
            if len(self.seen) == EVENTS * expected:
                return

    def report(self) -> dict[str, Any]:
        """What it was told, as JSON."""
        return {
            "name": self.bank.name,
            "seconds": [seconds for seconds, _ in self.remote.receipts],
            "acknowledged": [(receipt.index, receipt.envelope) for _, receipt in self.remote.receipts],
            "seen": self.seen,
            "errors": self.errors,
        }


class Clients:
    """The banks of this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._active: list[Active] = []
        self._expected: Mapping[str, int] = {}

    def knock(self, names: Sequence[str], address: str, fingerprint: str) -> None:
        """New banks ask to be admitted."""
        for name in names:
            knock(self._folder / name, name, address, fingerprint)

    def enter(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """The admitted banks connect and deposit; their cards."""
        self._active = [Active(enter(self._folder / name).deposited()) for name in names]
        return [active.bank.card() for active in self._active]

    def draw(self, cards: Mapping[str, dict[str, Any]], partners: Mapping[str, Sequence[str]]) -> None:
        """Draw up each bank's contracts, one with each of its partners."""
        remote = self._active[0].remote
        info, directory = remote.info(), remote.directory()
        for active in self._active:
            name = active.bank.name
            active.contracts = [
                contract(info, directory, [cards[name], cards[partner]], f"{name} with {partner}, {number}")
                for number, partner in enumerate(partners[name])
            ]
        everyone = [each for name, others in partners.items() for other in others for each in (name, other)]
        self._expected = {active.bank.name: everyone.count(active.bank.name) for active in self._active}

    def go(self) -> list[dict[str, Any]]:
        """Everybody at once: propose, approve and watch until all is seen; what each bank was told."""
        threads = [thread for active in self._active for thread in active.threads(self._expected[active.bank.name])]
        for thread in threads:
            thread.start()
        end = time.monotonic() + END_SECONDS
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        for active in self._active:
            active.remote.close()
        return [active.report() for active in self._active]


if __name__ == "__main__":
    clients = Clients(Path(sys.argv[1]))
    serve(None, {"knock": clients.knock, "enter": clients.enter, "draw": clients.draw, "go": clients.go})
