"""An escrow that is killed (SIGKILL) at random moments of a running load, and started again each time.

A few banks propose contracts, withdraw them, state deposits, and watch, all without a pause. Whenever the escrow is
gone, each repeats the very statement that was not answered as soon as it is back, and its watcher goes on where it was.
One kill in ten meets the escrow while it starts. Afterwards the ledger is compared with every receipt and every event.

`ready_seconds` is the time from starting the program to its first answer over a new TLS connection.
"""

import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

from contracts import statements as st
from contracts.canonical import digest
from contracts.contract import Contract
from contracts.errors import EscrowError
from models.ports import reserved_port
from parties.client import Client
from parties.remote import RemoteEscrow
from scenarios.benchmarks.banks import Bank, contract, enter, knock
from scenarios.benchmarks.child import ORIGIN
from scenarios.benchmarks.kept import Told, kept
from scenarios.benchmarks.report import Figures, Target
from scenarios.benchmarks.served import Served

KILLS, BANKS, SEED = 200, 4, 1
DEPOSITS: Final = 4  # stated for each contract
LOAD_SECONDS: Final = 0.5  # a kill comes at a random moment of so long a load,
WHILE_STARTING: Final = 0.1  # but so many of them come before,
STARTING_SECONDS: Final = 1.0  # at a random moment of so long a start
END_SECONDS: Final = 60.0


class OverError(Exception):
    """The benchmark has ended."""


class Killed:
    """An escrow that is killed and comes back on the same ports; and all connections of the banks to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._held = ExitStack()  # the ports, also while nobody listens there
        self._ports = {port: self._held.enter_context(reserved_port()) for port in ("main", "enrolment")}
        self.served = Served(directory, **self._ports).wait_ready()
        self._change = threading.Condition()
        self._up, self._over = True, False
        self._open: list[RemoteEscrow] = []

    def kill(self) -> None:
        """End it and every connection: nobody waits for gRPC to try again."""
        with self._change:
            self._up = False
        self.served.kill()
        with self._change:
            cut, self._open = self._open, []
        for remote in cut:
            remote.close()

    def end(self) -> None:
        """Kill it for the last time: nobody waits for it any more."""
        with self._change:
            self._over = True
            self._change.notify_all()
        self.kill()
        self._held.close()

    def start(self, rng: random.Random, probe: Bank) -> float:
        """Start it again; the seconds from then to its first answer, in the last start that was not cut short."""
        while True:
            self.served = Served(self.directory, **self._ports)
            if rng.random() >= WHILE_STARTING:
                break
            time.sleep(rng.uniform(0, STARTING_SECONDS))
            self.served.kill()
        self.served.wait_ready()
        with Bank.open(probe.client.home):
            passed = time.perf_counter() - self.served.begun
        with self._change:
            self._up = True
            self._change.notify_all()
        return passed

    def connected(self, bank: Bank) -> Client:
        """The bank over a connection of its own, once the escrow answers.

        Raises:
            OverError: it never will again.
        """
        while True:
            with self._change:
                self._change.wait_for(lambda: self._up or self._over)
                if self._over:
                    raise OverError
            try:
                again = Bank.open(bank.client.home)
            except EscrowError as error:
                cut_off(error)
                continue
            with self._change:
                if self._up:
                    self._open.append(again.remote)
                    return again.client
            again.remote.close()


def cut_off(error: EscrowError) -> None:
    """Raise the error, unless it says that a connection was lost."""
    if error.code != "escrow-unreachable":
        raise error


class Busy:
    """One bank: a thread that states things and one that watches, both over any number of kills."""

    def __init__(self, bank: Bank, contracts: Callable[[str], Contract], escrow: Killed) -> None:
        self.bank = bank
        self.acknowledged: list[tuple[int, str]] = []
        self.seen: list[tuple[int, str]] = []
        self.repeated = 0
        self._contracts, self._escrow = contracts, escrow
        self._over = threading.Event()
        self._news = threading.Condition()
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._kept, args=(each,), daemon=True) for each in (self._work, self._watch)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def settle(self) -> None:
        """Begin nothing more, and wait for what was begun."""
        self._over.set()
        self._threads[0].join(END_SECONDS)

    def sees(self, index: int) -> bool:
        """Wait until the watcher has seen the entry at this place; whether it has, in the time it is given."""
        with self._news:
            return self._news.wait_for(lambda: bool(self.seen) and self.seen[-1][0] >= index, END_SECONDS)

    def propose_last(self) -> int:
        """Propose one more contract; the place of its second entry, the escrow's run key."""
        self._state(self._escrow.connected(self.bank), next(self._statements(0)))
        return self.acknowledged[-1][0] + 1

    def end(self) -> None:
        """See both threads end, now that every connection has.

        Raises:
            BaseException: what one of them failed with.
        """
        for thread in self._threads:
            thread.join(END_SECONDS)
        for error in self._errors:
            raise error

    def _kept(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OverError:
            return
        except BaseException as error:  # noqa: BLE001 - whoever ends the threads gets it
            self._errors.append(error)

    def _work(self) -> None:
        client, number = self._escrow.connected(self.bank), 0
        while not self._over.is_set():
            number += 1
            for statement in self._statements(number):
                client = self._state(client, statement)

    def _statements(self, number: int) -> Iterator[st.ByParty]:
        """A contract that comes and goes, and a few deposits."""
        name = self.bank.name
        proposed = self._contracts(f"Contract {number} of {name}")
        yield st.ContractProposed(ledger=ORIGIN, party=name, contract=proposed)
        yield st.ContractWithdrawn(ledger=ORIGIN, party=name, contract=proposed.digest())
        deposit = self.bank.deposits[0].statement(ORIGIN, name)
        for each in range(DEPOSITS):
            fresh = digest(f"{name} {number} {each}".encode()).removeprefix("sha256:")
            yield deposit.model_copy(update={"commitment": f"sha256-salted:{fresh}"})

    def _state(self, client: Client, statement: st.ByParty) -> Client:
        """State it, until that is acknowledged; the client whose connection held."""
        while True:
            try:
                receipt = client.submit(statement)
            except EscrowError as error:
                cut_off(error)
                self.repeated += 1
                client = self._escrow.connected(self.bank)
            else:
                self.acknowledged.append((receipt.index, receipt.envelope))
                return client

    def _watch(self) -> None:
        while True:
            client = self._escrow.connected(self.bank)
            try:
                for event in client.escrow.watch(self.seen[-1][0] + 1 if self.seen else 0):
                    with self._news:
                        self.seen.append((event.index, event.contract))
                        self._news.notify()
            except EscrowError as error:
                cut_off(error)


def run(progress: Callable[[str], None], kills: int = KILLS, seed: int = SEED) -> Figures:
    """Kill and start again, so often; then compare."""
    rng, ready = random.Random(seed), []  # noqa: S311 - moments of kills
    with tempfile.TemporaryDirectory(prefix="escrow-benchmark-") as name:
        escrow = Killed(Path(name) / "escrow")
        try:
            progress(f"{BANKS} banks join")
            busy = _busy(Path(name) / "banks", escrow)
            for number in range(kills):
                if number % 20 == 0:
                    progress(f"kill {number + 1} of {kills}")
                time.sleep(rng.uniform(0, LOAD_SECONDS))
                escrow.kill()
                ready.append(escrow.start(rng, busy[0].bank))
            progress("compare")
            _settled(busy)
        finally:
            escrow.end()
        for each in busy:
            each.end()
        found = kept(escrow.directory, {each.bank.name: Told(each.acknowledged, each.seen) for each in busy})
    values = {
        "lost": float(found.lost),
        "doubled": float(found.doubled),
        "acknowledged": float(sum(len(each.acknowledged) for each in busy)),
        "repeated": float(sum(each.repeated for each in busy)),
        "ready_seconds": median(ready),
        "ready_seconds_max": max(ready),
    }
    return Figures(values, (Target("lost", "at_most", 0), Target("doubled", "at_most", 0)))


def _busy(folder: Path, escrow: Killed) -> list[Busy]:
    """Admitted banks at work, each of them with contracts between all."""
    homes = [folder / f"bank-{number}" for number in range(BANKS)]
    for home in homes:
        knock(home, home.name, escrow.served.address, escrow.served.fingerprint)
    escrow.served.ask("admit")
    banks = [enter(home).deposited() for home in homes]
    cards = [bank.card() for bank in banks]
    info, directory = banks[0].remote.info(), banks[0].remote.directory()
    for bank in banks:
        bank.remote.close()
    busy = [Busy(bank, lambda title: contract(info, directory, cards, title), escrow) for bank in banks]
    for each in busy:
        each.start()
    return busy


def _settled(busy: list[Busy]) -> None:
    """End the work, and let every watcher see one last contract, and so all before it."""
    for each in busy:
        each.settle()
    last = busy[0].propose_last()
    for each in busy:
        if not each.sees(last):
            raise RuntimeError(f"{each.bank.name}'s watcher did not see entry {last} in time")
