"""An escrow under load: many banks at once over gRPC and TLS, each with a connection and a watcher of its own.

1. Every bank proposes contracts with other banks, and everybody approves as soon as its watcher tells of one: 200 banks
   and 2,000 contracts are 6,000 statements of the banks, which `statements_per_second` counts (the escrow adds 2,000),
   and 16,000 events for their watchers. `p50_ms` and `p99_ms` are of a bank's submissions, waiting included.
2. `lost` counts statements that were not acknowledged, or are not where the receipt says, and events that a watcher did
   not see; `doubled` counts statements that stand there twice and events that came twice.
3. Three more escrows, alike but for the length of their ledgers, answer one bank's submissions in turn:
   `latency_growth` is the longest ledger's median over the shortest's, which a hundred times more entries may raise by
   no more than their proofs grow.
"""

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from contracts.signing import sign
from contracts.statements import DataDeposited
from escrow.home import LEDGER
from escrow.ledger import Ledger
from escrow.runtime.process import memory_root
from parties.certificates import Connection, remember
from parties.identity import Identity
from scenarios.benchmarks.banks import Bank, enter, knock
from scenarios.benchmarks.child import HOST, ORIGIN, Child
from scenarios.benchmarks.kept import Told, kept
from scenarios.benchmarks.report import Figures, Target
from scenarios.benchmarks.served import Served

BANKS, CONTRACTS, PROCESSES = 200, 2000, 4
LENGTHS: Final = (1_000, 10_000, 100_000)
SUBMITTED: Final = 300
GROWTH_AT_MOST: Final = math.log2(LENGTHS[-1]) / math.log2(LENGTHS[0])  # proofs have so many hashes more


@dataclass(frozen=True)
class Size:
    """How much of it."""

    banks: int = BANKS
    contracts: int = CONTRACTS
    processes: int = PROCESSES
    lengths: Sequence[int] = LENGTHS
    submitted: int = SUBMITTED  # to each of the ledgers


def run(progress: Callable[[str], None], size: Size = Size()) -> Figures:
    """Load, then growth."""
    with tempfile.TemporaryDirectory(prefix="escrow-benchmark-") as name:
        values = _load(Path(name), size, progress) | _growth(Path(name), size, progress)
    targets = [Target("lost", "at_most", 0), Target("doubled", "at_most", 0)]
    targets += [Target("escrow_mib", "at_most", 512), Target("latency_growth", "at_most", GROWTH_AT_MOST)]
    return Figures(values, tuple(targets))


def _load(folder: Path, size: Size, progress: Callable[[str], None]) -> dict[str, float]:
    with ExitStack() as stack:
        served = stack.enter_context(Served(folder / "escrow"))
        started = [Child("clients", folder / "banks", log=folder / f"clients-{n}.log") for n in range(size.processes)]
        clients = [stack.enter_context(each) for each in started]
        progress(f"{size.banks} banks join")
        _join(clients, size, served)
        progress(f"{size.contracts} contracts of two banks each")
        before, begin = served.ask("usage")["cpu"], time.perf_counter()
        reports = [report for found in _all(clients, "go", [{}] * len(clients)) for report in found]
        passed, usage = time.perf_counter() - begin, served.ask("usage")
    for error in (error for report in reports for error in report["errors"]):
        progress(error)
    banks = {report["name"]: _told(report) for report in reports}
    found = kept(folder / "escrow", banks)
    acknowledged = sum(len(told.acknowledged) for told in banks.values())
    centiles = quantiles([1000 * seconds for report in reports for seconds in report["seconds"]], n=100)
    return {
        "statements_per_second": acknowledged / passed,
        "p50_ms": centiles[49],
        "p99_ms": centiles[98],
        "cpu_ms_per_statement": 1000 * (usage["cpu"] - before) / acknowledged,
        "acknowledged": float(acknowledged),
        "lost": float(found.lost + 3 * size.contracts - acknowledged),
        "doubled": float(found.doubled),
        "escrow_mib": usage["peak_mib"],
    }


def _join(clients: Sequence[Child], size: Size, served: Served) -> None:
    """Everybody is admitted, deposits, and draws contracts up with the banks that follow."""
    names = [f"bank-{number}" for number in range(size.banks)]
    shares = [{"names": names[each :: len(clients)]} for each in range(len(clients))]
    where = {"address": served.address, "fingerprint": served.fingerprint}
    _all(clients, "knock", [{**share, **where} for share in shares])
    served.ask("admit")
    cards = {card["name"]: card for found in _all(clients, "enter", shares) for card in found}
    partners = {
        name: [names[(position + 1 + number) % len(names)] for number in range(size.contracts // len(names))]
        for position, name in enumerate(names)
    }
    _all(clients, "draw", [{"cards": cards, "partners": partners}] * len(clients))


def _all(clients: Sequence[Child], do: str, what: Sequence[dict[str, Any]]) -> list[Any]:
    """Ask all clients at once; their answers."""
    for client, each in zip(clients, what, strict=True):
        client.post(do, **each)
    return [client.answer() for client in clients]


def _told(report: dict[str, Any]) -> Told:
    return Told([(index, digest) for index, digest in report["acknowledged"]], [(i, c) for i, c in report["seen"]])


def _growth(folder: Path, size: Size, progress: Callable[[str], None]) -> dict[str, float]:
    """Median latency of a submission by the ledger's length, on escrows that are asked in turn."""
    grown = folder / "grown"
    stated = _grown(grown)
    milliseconds: dict[int, list[float]] = {length: [] for length in size.lengths}
    with ExitStack() as stack:
        banks = []
        for length in size.lengths:
            progress(f"fill a ledger to {length:,} entries")
            _fill(grown, stated, length)
            shutil.copytree(grown, folder / f"long-{length}")
            banks.append(_served(folder / f"long-{length}", stack))
        progress(f"{size.submitted} submissions to each of them in turn")
        for number in range(size.submitted):
            for length, bank in zip(size.lengths, banks, strict=True):
                statement = _another(stated, size.lengths[-1] + number)
                begin = time.perf_counter()
                bank.client.submit(statement)
                milliseconds[length].append(1000 * (time.perf_counter() - begin))
    medians = {length: median(found) for length, found in milliseconds.items()}
    values = {f"submit_ms_{length}": found for length, found in medians.items()}
    return values | {"latency_growth": medians[max(medians)] / medians[min(medians)]}


def _grown(folder: Path) -> DataDeposited:
    """An escrow and a bank in `escrow/` and `bank/`, both not running; a statement of the bank's."""
    home = folder / "bank"
    with Served(folder / "escrow") as served:
        knock(home, "bank", served.address, served.fingerprint)
        served.ask("admit")
        with enter(home) as bank:
            return bank.deposited().deposits[0].statement(ORIGIN, "bank")


def _another(stated: DataDeposited, number: int) -> DataDeposited:
    return stated.model_copy(update={"commitment": f"sha256-salted:{number:064x}"})


def _fill(folder: Path, stated: DataDeposited, length: int) -> None:
    """Append the bank's statements until the ledger has this length; in memory, where the machine has a disk there."""
    signer = Identity.open(folder / "bank").signer
    with tempfile.TemporaryDirectory(prefix="escrow-benchmark-", dir=memory_root(folder).parent) as memory:
        file = Path(shutil.move(folder / "escrow" / LEDGER, memory))
        ledger = Ledger(f"sqlite:///{file}")
        for number in range(ledger.size(), length):
            ledger.append(sign(_another(stated, number).payload(), signer), int(time.time()))
        ledger.close()
        shutil.move(file, folder / "escrow")


def _served(folder: Path, stack: ExitStack) -> Bank:
    """The bank of a folder, connected to its escrow."""
    served = stack.enter_context(Served(folder / "escrow"))
    remember(folder / "bank", Connection(f"{HOST}:{served.ready['main']}", served.address))
    return stack.enter_context(Bank.open(folder / "bank"))
