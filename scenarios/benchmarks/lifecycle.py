"""What a contract's life costs an escrow, by the number of its parties: proposal, approvals, run and verdict.

The escrow is a process of its own behind gRPC and mutual TLS; the banks are real clients in this one, over connections
that stand (`connect_cpu_ms` is what a new one costs the escrow). A lifecycle is one proposal, n approvals (each reads
the contract, checks it and seals two keys) and a run that withholds: seven statements of the escrow, no training.
SQL statements are counted in the escrow by verb; one that writes many rows counts once, and `sql_rows` counts those.

The reference is a research prototype of the same idea, measured in one process without TLS or signatures: it needs
111·n + 123 SQL statements and 83, 158 and 308 ms of processor time at 5, 10 and 20 parties.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from contracts.contract import Contract
from scenarios.benchmarks.banks import Bank, contract, enter, knock
from scenarios.benchmarks.report import Figures, Target
from scenarios.benchmarks.served import Served

PARTIES: Final = (2, 5, 10, 20, 50)
REPEATED, WARM_UP = 9, 2
AT_MOST_MS: Final[Mapping[int, float]] = {5: 83, 10: 158, 20: 308 / 3}
"""What the prototype needs, and a third of it at 20 parties."""
BEYOND_LINEAR: Final = 1.1
"""From n to m parties, growth counts as linear up to this times m / n."""


@dataclass(frozen=True)
class Life:
    """What one contract's life took: milliseconds, and each verb's SQL statements and rows, one pair a call."""

    escrow_ms: float
    parties_ms: float  # of processor time, all parties together
    wall_ms: float
    sql: Mapping[str, Sequence[tuple[int, int]]]


def run(
    progress: Callable[[str], None], parties: Sequence[int] = PARTIES, repeated: int = REPEATED, warm_up: int = WARM_UP
) -> Figures:
    """Several lifecycles for each number of parties; medians."""
    lives: dict[int, list[Life]] = {}
    with tempfile.TemporaryDirectory(prefix="escrow-benchmark-") as name, Served(Path(name) / "escrow") as served:
        progress(f"{max(parties)} banks join")
        with ExitStack() as stack:
            joined = [stack.enter_context(bank) for bank in _joined(Path(name) / "banks", max(parties), served)]
            connect_ms = median(_connect_ms(bank, served) for bank in joined)
            for number in parties:
                progress(f"{number} parties")
                contracts = _contracts(joined[:number], warm_up + repeated)
                lives[number] = [_life(joined[:number], each, served) for each in contracts][warm_up:]
    return _report(lives, connect_ms)


def _joined(folder: Path, number: int, served: Served) -> list[Bank]:
    """Admitted banks that have deposited."""
    homes = [folder / f"bank-{position}" for position in range(number)]
    for home in homes:
        knock(home, home.name, served.address, served.fingerprint)
    served.ask("admit")
    return [enter(home).deposited() for home in homes]


def _connect_ms(bank: Bank, served: Served) -> float:
    """Processor time of the escrow for a new connection and its first answer."""
    before = served.ask("usage")["cpu"]
    with Bank.open(bank.client.home):
        pass
    return 1000 * float(served.ask("usage")["cpu"] - before)


def _contracts(joined: Sequence[Bank], number: int) -> list[Contract]:
    remote, cards = joined[0].remote, [bank.card() for bank in joined]
    info, directory = remote.info(), remote.directory()
    return [contract(info, directory, cards, f"Contract {each} of {len(joined)}") for each in range(number)]


def _life(joined: Sequence[Bank], proposed: Contract, served: Served) -> Life:
    served.ask("calls")
    escrow, wall, own = served.ask("usage")["cpu"], time.perf_counter(), time.process_time()
    digest = joined[0].client.propose(proposed)
    for bank in joined:
        bank.client.approve(digest)
    own = time.process_time() - own
    served.ask("decide", contract=digest)
    wall = time.perf_counter() - wall
    escrow = served.ask("usage")["cpu"] - escrow
    sql: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for verb, statements, rows in served.ask("calls"):
        sql["propose" if verb == "submit" and not sql else verb].append((statements, rows))
    return Life(1000 * escrow, 1000 * own, 1000 * wall, sql)


def _report(lives: Mapping[int, Sequence[Life]], connect_ms: float) -> Figures:
    values: dict[str, float] = {}
    for number, each in lives.items():
        values[f"cpu_ms_n{number}"] = median(life.escrow_ms for life in each)
        values[f"party_cpu_ms_n{number}"] = median(life.parties_ms / number for life in each)
        values[f"wall_ms_n{number}"] = median(life.wall_ms for life in each)
        values[f"sql_n{number}"] = median(sum(_sums(life, 0).values()) for life in each)
        values[f"sql_rows_n{number}"] = median(sum(_sums(life, 1).values()) for life in each)
    few, many = min(lives), max(lives)
    by_verb = {number: _most(lives[number]) for number in lives}
    for number in (few, many):
        values |= {f"sql_{verb}_n{number}": most for verb, most in by_verb[number].items()}
    values["sql_per_verb_growth"] = max(most - by_verb[few].get(verb, 0) for verb, most in by_verb[many].items())
    values["connect_cpu_ms"] = connect_ms
    targets = [Target("sql_per_verb_growth", "at_most", 0)]
    known = {number: most for number, most in AT_MOST_MS.items() if number in lives}
    targets += [Target(f"cpu_ms_n{number}", "at_most", most) for number, most in known.items()]
    if len(lives) > 1:
        [before, last] = sorted(lives)[-2:]
        values["cpu_growth"] = values[f"cpu_ms_n{last}"] / values[f"cpu_ms_n{before}"]
        targets.append(Target("cpu_growth", "at_most", BEYOND_LINEAR * last / before))
    return Figures(values, tuple(targets))


def _sums(life: Life, column: int) -> dict[str, int]:
    """Over all calls of each verb: SQL statements (0) or rows (1)."""
    return {verb: sum(call[column] for call in calls) for verb, calls in life.sql.items()}


def _most(lives: Sequence[Life]) -> dict[str, float]:
    """The most SQL statements that any call of each verb needed."""
    most: dict[str, float] = defaultdict(float)
    for life in lives:
        for verb, calls in life.sql.items():
            most[verb] = max(most[verb], *(statements for statements, _ in calls))
    return most
