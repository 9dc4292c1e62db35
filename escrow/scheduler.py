"""What an escrow does by itself: start approved contracts in order, resume what was under way, state expiry in time,
and make up for what it owes contracts.

Rules:
1. Runs that are under way come first, then approved contracts in the order of their last approvals on the ledger. At
   most a fixed number runs at once, each at most once; a contract whose not-before lies ahead waits for it, and one
   with training rows at banks until a node of each of them is connected. What is under way goes on at once.
2. What is to be done is read from the ledger each time, so nothing is lost with the process.
3. Nothing is polled: the scheduler waits until something happens to a contract or the next moment that it knows of.
4. A contract that a rule refuses to run is put aside until the ledger says something new about it, or the process
   starts again: another worker, say, may run then. One that this machine failed is tried again after a while.
5. What should have followed from a statement and failed, the erasure of a run key say, is tried again at once, then
   after a while, until it is done.
6. Stopped, runs are left where they are: their jobs end, nothing is stated and nothing destroyed, and the next process
   goes on.
"""

import heapq
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from contracts import statements as st
from contracts.entries import read_leaf
from contracts.errors import EscrowError
from contracts.lifecycle import State
from contracts.records import CaseRecord
from contracts.statements import read
from escrow.core import Core
from escrow.leaving import LeavingRuns, LeftError
from escrow.runs import OF_THE_MACHINE, UNDER_WAY

RETRY_SECONDS: Final = 60  # after a failure of this machine
CHORES_SECONDS: Final = 3600
_PROPOSED: Final = b'"kind":"contract-proposed"'
_OUTCOMES: Final = {State.FAILED: "failed", **dict.fromkeys((State.RELEASED, State.WITHHELD, State.HELD), "decided")}


class RunTold:
    """Who hears of runs: the log and the metrics. This one keeps silent."""

    def began(self, contract: str) -> None:
        """A run was started or resumed."""

    def ended(self, contract: str, outcome: str, seconds: float) -> None:
        """A run is over: `decided`, `failed`, `stopped` by a statement, `left` for the next process,
        or `refused`, and the contract put aside.
        """

    def put_aside(self, contract: str, code: str) -> None:
        """A contract could not be run; why."""

    def bug(self, verb: str, error: BaseException) -> None:
        """Something failed in a way nobody foresaw."""


@dataclass(frozen=True)
class _Aside:
    """A contract that could not be run."""

    case: CaseRecord | None  # as it stood, if the ledger could be asked
    until: float  # when it is tried again, by the escrow's clock


@dataclass(frozen=True)
class Plan:
    """What is to be done now.

    Attributes:
        start: contracts to run, in order.
        wake: when the next one falls due, None if nothing is known to; whole seconds since 1970.
    """

    start: tuple[str, ...]
    wake: float | None


def plan(cases: list[CaseRecord], running: set[str], aside: dict[str, _Aside], now: float, places: int) -> Plan:
    """Which contracts to run now, and when to look again if nothing happens before.

    Args:
        cases: the contracts that are approved, with every node they need, or under way.
        running: those of them that run in this process.
        aside: those that could not be run.
        now: the clock.
        places: how many more may run.
    """
    due: list[CaseRecord] = []
    later: list[float] = []
    for case in cases:
        if case.digest in running:
            continue
        at = _runnable(case, aside.get(case.digest))
        if at <= now:
            due.append(case)
        else:
            later.append(at)
    due.sort(key=_turn)
    known = [at for at in later if at != float("inf")]
    return Plan(tuple(case.digest for case in due[:places]), min(known, default=None))


def _runnable(case: CaseRecord, aside: _Aside | None) -> float:
    """From when on a contract may be run."""
    if aside is not None and (aside.case is None or aside.case == case):
        return aside.until
    not_before = case.contract.limits.not_before
    return not_before.timestamp() if not_before and case.state is State.APPROVED else 0.0


def _turn(case: CaseRecord) -> tuple[bool, int]:
    return case.state not in UNDER_WAY, max(case.approvals.values())


class Scheduler:
    """Runs the contracts of one escrow from `start` to `stop`.

    Args:
        core: the escrow.
        at_once: how many runs may be under way in this process.
        told: hears of runs.
        chores: is done at the start and every hour.
    """

    def __init__(
        self, core: Core, *, at_once: int = 1, told: RunTold | None = None, chores: Callable[[], None] = lambda: None
    ) -> None:
        self._core, self._places, self._told, self._chores = core, at_once, told or RunTold(), chores
        self._leaving = threading.Event()
        self._runs = LeavingRuns.of(core.runs, self._leaving)
        self._ear = core.hub.listen(None)
        self._change = threading.Lock()  # of what follows, which the threads of runs touch too
        self._running: dict[str, threading.Thread] = {}
        self._aside: dict[str, _Aside] = {}
        self._seen = 0  # entries whose proposals are among the expiries
        self._expiries: list[tuple[float, str]] = []  # a heap; contracts that ended early stay until their time
        self._chores_at = 0.0
        self._settle_at = 0.0
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)

    def start(self) -> None:
        """Begin; what was under way is resumed."""
        self._seen = self._core.ledger.size()
        self._expiries = [(_expires(case), case.digest) for case in self._core.unfinished()]
        heapq.heapify(self._expiries)
        self._thread.start()

    @property
    def running(self) -> tuple[str, ...]:
        """The contracts that run in this process."""
        with self._change:
            return tuple(self._running)

    def leave(self) -> None:
        """Start nothing more, and let go of what runs; returns at once."""
        self._leaving.set()
        self._ear.close()

    def stop(self, seconds: float) -> bool:
        """Leave, and wait so long at most; whether everything has ended.

        What has not ended by then states nothing more either, and its jobs end with the runtime.
        """
        self.leave()
        until = time.monotonic() + seconds
        if self._thread.is_alive():
            self._thread.join(seconds)
        with self._change:
            threads = list(self._running.values())
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._core.hub.leave(None, self._ear)
        return not any(thread.is_alive() for thread in (self._thread, *threads))

    def _work(self) -> None:
        wait: float | None = 0.0
        while self._ear.wait(wait) and not self._leaving.is_set():
            self._ear.clear()
            try:
                wait = self._look()
            except Exception as error:  # noqa: BLE001 - the database may be away: told, and looked at again
                self._told.bug("scheduler", error)
                wait = RETRY_SECONDS

    def _look(self) -> float:
        """Do what is due; the seconds until something else is."""
        now = self._core.now()
        if now >= self._chores_at:
            self._chores_at = now + CHORES_SECONDS
            self._guarded("chores", self._chores)
        self._settle(now)
        self._note_proposals()
        self._expire(now)
        wake = self._start(now)
        moments = [
            self._chores_at,
            self._settle_at,
            *(at for at, _ in self._expiries[:1]),
            *([] if wake is None else [wake]),
        ]
        return max(0.0, min(moments) - self._core.now())

    def _guarded(self, what: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - runs must go on
            self._told.bug(what, error)

    def _settle(self, now: float) -> None:
        if self._core.owing.is_set() or now >= self._settle_at:
            self._settle_at = now + RETRY_SECONDS  # also if the ledger cannot be asked now
            self._core.owing.clear()
            if self._core.settle():
                self._settle_at = now + CHORES_SECONDS

    def _note_proposals(self) -> None:
        size = self._core.ledger.size()
        for data in self._core.ledger.leaves(self._seen, size) if size > self._seen else ():
            payload = read_leaf(data).envelope.payload
            statement = read(payload) if _PROPOSED in payload else None
            if isinstance(statement, st.ContractProposed):
                contract = statement.contract
                heapq.heappush(self._expiries, (contract.limits.expires.timestamp(), contract.digest()))
        self._seen = size

    def _expire(self, now: float) -> None:
        while self._expiries and self._expiries[0][0] <= now:
            if self._runs.case(self._expiries[0][1]).ended:
                heapq.heappop(self._expiries)
                continue
            try:
                self._core.expire()
            except EscrowError as error:
                if error.code != "state-refused":  # a party ended one of them meanwhile
                    raise

    def _start(self, now: float) -> float | None:
        """Start what is due, as far as there are places; when to look again."""
        with self._change:
            running = set(self._running)
        places = self._places - len(running)
        if places <= 0:
            return None
        states = [State.APPROVED, *UNDER_WAY]
        cases = [each for each in self._core.ledger.all("case", states=states) if isinstance(each, CaseRecord)]
        ready = [case for case in cases if case.state in UNDER_WAY or not self._core.nodes.missing(case.contract)]
        with self._change:
            self._aside = {case.digest: self._aside[case.digest] for case in cases if case.digest in self._aside}
            planned = plan(ready, running, self._aside, now, places)
            for contract in planned.start:
                thread = threading.Thread(target=self._run, args=(contract,), name=f"run-{contract[7:23]}", daemon=True)
                self._running[contract] = thread
                thread.start()
        return planned.wake

    def _run(self, contract: str) -> None:
        begin = time.monotonic()
        self._told.began(contract)
        outcome = "refused"
        try:
            outcome = _outcome(self._runs.run(contract))
        except LeftError:
            outcome = "left"
        except EscrowError as error:
            self._put_aside(contract, error)
        except Exception as error:  # noqa: BLE001 - a full disk, say: the run stays under way
            self._told.bug("run", error)
            self._put_aside(contract, error)
        finally:
            self._told.ended(contract, outcome, time.monotonic() - begin)
            with self._change:
                del self._running[contract]
            self._ear.hear()

    def _put_aside(self, contract: str, error: Exception) -> None:
        code = error.code if isinstance(error, EscrowError) else "bug"
        ours = code in {*OF_THE_MACHINE, "bug", "runtime-busy"}
        until = self._core.now() + RETRY_SECONDS if ours else float("inf")
        self._told.put_aside(contract, code)
        try:
            case = self._runs.case(contract)
        except EscrowError:  # the database is away
            case = None
        with self._change:
            self._aside[contract] = _Aside(case, until)
        if case is None or case.ended:
            self._core.owing.set()


def _expires(case: CaseRecord) -> float:
    return case.contract.limits.expires.timestamp()


def _outcome(case: CaseRecord) -> str:
    """How a run ended, without its verdict."""
    if case.state is State.APPROVED:  # a run is left
        return "failed" if case.verdict is None else "decided"
    return _OUTCOMES.get(case.state, "stopped")


__all__ = ["Plan", "RunTold", "Scheduler", "plan"]
