"""The scheduler, over real child processes: order, waiting, expiry, failures, leaving.

Most workers here fail at once, or wait for ever: what matters is who is started when.
"""

import queue
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from contracts import statements as st
from contracts.entries import read_leaf
from contracts.lifecycle import State
from contracts.nodes import Here
from contracts.signing import sign
from contracts.statements import read
from escrow.core import Core
from escrow.runtime.job import Job
from escrow.runtime.process import ProcessRuntime
from escrow.scheduler import RETRY_SECONDS, RunTold, Scheduler, plan
from parties.client import Client
from scenarios import hostile, tiny
from scenarios.consortium import Consortium
from tests import ledgers
from tests.nodes import Line, approved_at_home
from tests.wire import until

SECONDS = 120  # that anything may take, a whole run too, before a test fails


class Heard(RunTold):
    """Keeps what it hears, in order."""

    def __init__(self) -> None:
        self.lines: queue.Queue[tuple[str, ...]] = queue.Queue()

    def began(self, contract: str) -> None:
        self.lines.put(("began", contract))

    def ended(self, contract: str, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.lines.put(("ended", contract, outcome))

    def put_aside(self, contract: str, code: str) -> None:
        self.lines.put(("aside", contract, code))

    def bug(self, verb: str, error: BaseException) -> None:
        self.lines.put(("bug", verb, type(error).__name__))

    def next(self) -> tuple[str, ...]:
        return self.lines.get(timeout=SECONDS)

    def until(self, *line: str) -> list[tuple[str, ...]]:
        """Everything up to this line."""
        found = [self.next()]
        while found[-1] != line:
            found.append(self.next())
        return found


FAILS = ("false",)
WAITS = (sys.executable, "-S", "-c", "import signal; signal.pause()")
Start = Callable[..., Consortium]


@pytest.fixture
def start(tmp_path: Path, clock: tiny.Clock) -> Iterator[Start]:
    """Makes a consortium of two banks whose workers are a command."""
    with ExitStack() as stack:

        def made(command: Sequence[str]) -> Consortium:
            runtime = stack.enter_context(ProcessRuntime(tmp_path / "jobs", command=command, packages=(), capacity=4))
            consortium = tiny.founded(tmp_path / "consortium", runtime, clock, banks=("north", "harbour"))
            stack.callback(consortium.core.close)
            return consortium

        yield made


@contextmanager
def scheduling(core: Core, **how: Any) -> Iterator[tuple[Scheduler, Heard]]:
    heard = Heard()
    scheduler = Scheduler(core, told=heard, **how)
    scheduler.start()
    try:
        yield scheduler, heard
    finally:
        assert scheduler.stop(SECONDS)


def kinds(core: Core) -> Counter[str]:
    found = (read(read_leaf(data).envelope.payload) for data in core.ledger.leaves())
    return Counter(each.kind for each in found)  # type: ignore[attr-defined]


def state(core: Core, digest: str) -> State:
    return core.runs.case(digest).state


def happened(consortium: Consortium, kind: str, digest: str) -> None:
    """Wait until this stands on the ledger."""
    watching = consortium.core.session("north").watch(0)
    try:
        assert any((each.kind, each.contract) == (kind, digest) for each in watching)
    finally:
        watching.leave()


def moment(clock: tiny.Clock, seconds: int) -> str:
    return datetime.fromtimestamp(clock.time + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_approved_contracts_run_one_after_the_other_in_the_order_of_their_approval(start: Start) -> None:
    consortium = start(FAILS)
    late, first, last = (tiny.proposed(consortium, title=f"Contract {number}") for number in range(3))
    for digest in (first, late, last):
        consortium.approve(digest)
    with scheduling(consortium.core) as (scheduler, heard):
        lines = [heard.next() for _ in range(6)]
    assert scheduler.running == ()
    assert lines == [line for each in (first, late, last) for line in (("began", each), ("ended", each, "failed"))]
    assert {state(consortium.core, each) for each in (first, late, last)} == {State.FAILED}


def test_as_many_run_at_once_as_are_allowed(start: Start) -> None:
    consortium = start(WAITS)
    digests = [tiny.approved(consortium, title=f"Contract {number}") for number in range(3)]
    with scheduling(consortium.core, at_once=2) as (scheduler, heard):
        assert {heard.next() for _ in range(2)} == {("began", each) for each in digests[:2]}
        happened(consortium, "run-started", digests[0])
        assert set(scheduler.running) == set(digests[:2])
        consortium.banks["north"].halt(digests[0])
        assert heard.until("began", digests[2])[-2:] == [("ended", digests[0], "stopped"), ("began", digests[2])]
        assert set(scheduler.running) == set(digests[1:])


def test_a_contract_waits_for_its_time_and_others_do_not(start: Start, clock: tiny.Clock) -> None:
    consortium = start(FAILS)
    early = tiny.approved(consortium, limits={"expires": moment(clock, 9000), "not-before": moment(clock, 1000)})
    other = tiny.approved(consortium)
    with scheduling(consortium.core) as (_, heard):
        heard.until("ended", other, "failed")
        assert state(consortium.core, early) is State.APPROVED
        clock.time += 1000
        consortium.core.hub.tell([])
        assert heard.next() == ("began", early)
        heard.until("ended", early, "failed")


def test_a_contract_waits_for_the_nodes_of_banks_whose_rows_stay_there(start: Start) -> None:
    consortium = start(FAILS)
    other = tiny.proposed(consortium)
    waiting = approved_at_home(consortium, "north", "harbour")
    north, harbour = consortium.banks.values()
    with ExitStack() as lines, scheduling(consortium.core) as (scheduler, heard):

        def joined(bank: Client) -> None:
            line = lines.enter_context(Line(lambda said: bank.escrow.join(waiting, said)))
            line.say(Here())

        joined(north)
        until(lambda: north.view(waiting).turn == ("harbour",))
        consortium.approve(other)  # later, and it is not kept waiting
        heard.until("ended", other, "failed")
        until(lambda: scheduler.running == ())  # what has ended is told a moment before it is forgotten
        assert (state(consortium.core, waiting), north.view(waiting).reason) == (State.APPROVED, "nodes")
        joined(harbour)
        assert heard.next() == ("began", waiting)
        heard.until("ended", waiting, "failed")
        assert state(consortium.core, waiting) is State.FAILED


def test_a_run_under_way_waits_for_no_node_before_it_goes_on(start: Start) -> None:
    consortium = start(WAITS)
    digest = approved_at_home(consortium, "north")
    consortium.core.state(st.RunStarted(ledger=consortium.core.origin, contract=digest, run=1))
    with scheduling(consortium.core) as (_, heard):
        assert heard.next() == ("began", digest)


def test_expiry_is_stated_when_its_time_comes_also_of_what_was_proposed_meanwhile(
    consortium: Consortium, clock: tiny.Clock
) -> None:
    before = tiny.proposed(consortium, title="Before", limits={"expires": moment(clock, 500)})
    with scheduling(consortium.core) as (_, heard):
        after = tiny.proposed(consortium, title="After", limits={"expires": moment(clock, 400)})
        clock.time += 400
        consortium.core.hub.tell([])
        happened(consortium, "contract-expired", after)
        assert state(consortium.core, before) is State.OPEN
        clock.time += 100
        consortium.core.hub.tell([])
        happened(consortium, "contract-expired", before)
        assert heard.lines.empty()


def test_expiry_needs_no_event_but_time(consortium: Consortium, clock: tiny.Clock) -> None:
    """The clock of the test goes on by itself here: the scheduler waits as long as it is told to, then looks."""
    digest = tiny.proposed(consortium, limits={"expires": moment(clock, 1)})
    times = iter([clock.time])
    core = replace(consortium.core, now=lambda: next(times, clock.time + 1))
    with scheduling(core):
        happened(consortium, "contract-expired", digest)


def test_what_another_worker_may_not_run_is_put_aside_once_and_others_go_on(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    consortium = start(FAILS)
    refused = tiny.approved(consortium, title="Of the old worker")
    monkeypatch.setattr(consortium.core.runtime, "_worker", f"sha256:{'0' * 64}")  # as after an update of the escrow
    good = tiny.approved(consortium, title="Of the new worker")
    with scheduling(consortium.core) as (_, heard):
        lines = heard.until("ended", good, "failed")
        consortium.core.hub.tell([])
    expected = [("began", refused), ("aside", refused, "worker-unknown"), ("ended", refused, "refused")]
    assert lines[:3] == expected
    assert lines.count(("began", refused)) == 1
    assert heard.lines.empty()
    assert state(consortium.core, refused) is State.APPROVED


def test_a_run_that_this_machine_failed_goes_on_after_a_while(
    start: Start, clock: tiny.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    consortium = start(FAILS)
    digest = tiny.approved(consortium)
    runtime, full = consortium.core.runtime, [True]
    prepare = runtime.prepare

    def prepared(job: Job) -> None:
        if full:
            raise OSError(28, "No space left on device")
        prepare(job)

    monkeypatch.setattr(runtime, "prepare", prepared)
    with scheduling(consortium.core) as (_, heard):
        lines = heard.until("ended", digest, "refused")
        assert lines == [
            ("began", digest),
            ("bug", "run", "OSError"),
            ("aside", digest, "bug"),
            ("ended", digest, "refused"),
        ]
        assert state(consortium.core, digest) is State.RUNNING
        full.clear()
        clock.time += RETRY_SECONDS
        consortium.core.hub.tell([])
        assert [heard.next() for _ in range(2)] == [("began", digest), ("ended", digest, "failed")]
    assert kinds(consortium.core)["run-started"] == 1


def test_a_last_approval_whose_commit_was_never_answered_starts_the_run_when_it_is_sent_again(
    start: Start, refused: Any
) -> None:
    consortium = start(FAILS)
    digest = tiny.proposed(consortium)
    north, harbour = consortium.banks.values()
    north.approve(digest)
    last = sign(hostile.approval(harbour, digest).payload(), harbour.identity.signer).to_bytes()
    looked: queue.Queue[None] = queue.Queue()
    with scheduling(consortium.core, chores=lambda: looked.put(None)) as (_, heard):
        looked.get(timeout=SECONDS)
        with ledgers.answer_lost(), refused("database-unreachable"):
            harbour.escrow.submit(last)
        harbour.escrow.submit(last)
        heard.until("ended", digest, "failed")


@pytest.mark.parametrize(
    "end",
    [
        lambda consortium: consortium.banks["harbour"].revoke(consortium.deposits["harbour"][0].commitment),
        lambda consortium: consortium.core.revoke("harbour"),
    ],
    ids=["data", "party"],
)
def test_a_run_key_that_could_not_be_erased_is_erased_later_and_the_revocation_stands(
    consortium: Consortium, clock: tiny.Clock, monkeypatch: pytest.MonkeyPatch, end: Callable[[Consortium], object]
) -> None:
    digests = {tiny.approved(consortium, title=title) for title in ("One", "Another")}
    consortium.core.state(st.RunStarted(ledger=consortium.core.origin, contract=min(digests), run=1))
    vault, broken = consortium.core.vault, [True]
    erase, tried = vault.erase_run_key, queue.Queue[str]()

    def erased(name: str) -> None:
        tried.put(f"sha256:{name}")
        if broken:
            raise OSError(5, "Input/output error")
        erase(name)

    monkeypatch.setattr(vault, "erase_run_key", erased)
    end(consortium)
    assert {state(consortium.core, digest) for digest in digests} == {State.HALTED}
    assert {tried.get_nowait() for _ in digests} == digests  # the first one's failure did not hold the other up
    with scheduling(consortium.core):
        assert {tried.get(timeout=SECONDS) for _ in digests} == digests  # at once
        broken.clear()
        clock.time += RETRY_SECONDS
        consortium.core.hub.tell([])
        for digest in digests:
            happened(consortium, "key-erased", digest)


def test_stopping_leaves_a_run_under_way_and_the_next_scheduler_ends_it(start: Start, runtime: Any) -> None:
    consortium = start(WAITS)
    digest = tiny.approved(consortium)
    with scheduling(consortium.core) as (_, heard):
        happened(consortium, "run-started", digest)
    assert [heard.next() for _ in range(2)] == [("began", digest), ("ended", digest, "left")]
    assert state(consortium.core, digest) is State.RUNNING
    assert consortium.core.runtime.sweep() == frozenset()
    with scheduling(replace(consortium.core, runtime=runtime)) as (_, heard):
        heard.until("ended", digest, "decided")
    assert state(consortium.core, digest) is State.RELEASED
    counted = kinds(consortium.core)
    assert (counted["run-started"], counted["stage-completed"], counted["run-failed"]) == (1, 4, 0)


def test_a_worker_that_ends_because_we_stop_is_no_failure_of_the_run(start: Start) -> None:
    """However the end of its jobs and the end of the scheduler follow one another."""
    consortium = start(WAITS)
    digest = tiny.approved(consortium)
    with scheduling(consortium.core) as (scheduler, heard):
        happened(consortium, "run-started", digest)
        scheduler.leave()
        consortium.core.runtime.close()
        heard.until("ended", digest, "left")
    assert state(consortium.core, digest) is State.RUNNING
    assert kinds(consortium.core)["run-failed"] == 0


def test_the_next_run_follows_by_itself_until_the_budget_is_spent(start: Start, clock: tiny.Clock) -> None:
    consortium = start(FAILS)
    digest = tiny.approved(consortium, limits={"expires": moment(clock, 900), "runs": 2})
    with scheduling(consortium.core) as (_, heard):
        lines = [heard.next() for _ in range(4)]
    assert lines == [("began", digest), ("ended", digest, "failed")] * 2
    assert state(consortium.core, digest) is State.FAILED
    assert kinds(consortium.core)["run-failed"] == 2


def test_chores_are_done_at_the_start_and_every_hour_and_may_fail(consortium: Consortium, clock: tiny.Clock) -> None:
    done: queue.Queue[int] = queue.Queue()

    def chores() -> None:
        done.put(clock.time)
        raise OSError(5, "the disk's secret name")

    with scheduling(consortium.core, chores=chores) as (_, heard):
        assert done.get(timeout=SECONDS) == tiny.START
        consortium.core.hub.tell([])
        clock.time += 3600
        consortium.core.hub.tell([])
        assert done.get(timeout=SECONDS) == tiny.START + 3600
        assert heard.next() == ("bug", "chores", "OSError")
    assert done.empty()


def test_what_is_under_way_comes_before_what_was_approved_earlier(consortium: Consortium) -> None:
    earlier, later = (tiny.approved(consortium, title=title) for title in ("Earlier", "Later"))
    consortium.core.state(st.RunStarted(ledger=consortium.core.origin, contract=later, run=1))
    cases = [consortium.core.runs.case(each) for each in (earlier, later)]
    now = consortium.core.now()
    assert plan(cases, set(), {}, now, 2).start == (later, earlier)
    assert plan(cases, {later}, {}, now, 1).start == (earlier,)
    assert plan(cases, set(), {}, now, 0).start == ()
