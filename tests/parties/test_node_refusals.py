"""What a bank's node does for nobody: what its bank has taken back, runs begun too often, what it has no place for."""

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contracts.api import CaseView
from contracts.errors import EscrowError
from contracts.frames import Frame
from contracts.nodes import Begin, Over, Piece, Said, Told, pieces
from escrow.core import clock
from escrow.runtime.process import ProcessRuntime
from parties import permission, places
from parties.client import Client
from parties.conditions import Conditions, News, Session
from parties.identity import Identity
from parties.marks import Marks
from parties.node import Node
from parties.nodes import Nodes, Watchman
from parties.permission import ATTEMPTS_BESIDES
from scenarios import tiny
from tests.wire import until

WORKER = Path(__file__).parents[1] / "escrow" / "sealed_worker.py"
SECONDS = 60.0  # shorter than any deadline that would end a node which ignores its bank
FLOOR = {"kind": "floor", "party": "north", "metric": "average-precision", "at-least": 0.01, "min-positives": 30}


class House:
    """North, whose training rows stay with it, the escrow, and what north's nodes tell."""

    def __init__(self, folder: Path, wish: str) -> None:
        self.runtime = ProcessRuntime(folder / "jobs", command=(sys.executable, str(WORKER)), packages=(), capacity=2)
        self.workers = ProcessRuntime(folder / "north", command=(sys.executable, str(WORKER)), packages=())
        train = tiny.table(f"{wish}-north", "train", {3: 60})
        self.consortium = tiny.founded(
            folder / "consortium",
            self.runtime,
            clock,  # type: ignore[arg-type]
            banks=("harbour", "north"),
            at_home=("north",),
            exchanged={"north": (train, tiny.table("north", "holdout", {3: 30, 4: 30}))},
        )
        self.news: list[News] = []
        self.dialled = 0
        self.escrow: Any = self.north.escrow

    @property
    def north(self) -> Client:
        return self.consortium.banks["north"]

    def approved(self, title: str = "Joint") -> str:
        method = {"name": "fedavg", "rounds": 5, "round-seconds": 600}
        document = self.consortium.draft(model={"family": "logistic"}, method=method, title=title, release=[FLOOR])
        digest = self.consortium.propose(self.consortium.contract(document))
        self.consortium.approve(digest)
        return digest

    def conditions(self) -> Conditions:
        def dial() -> Session:
            self.dialled += 1
            return Session(Client(self.north.home, self.north.identity, self.escrow), lambda: None)

        return Conditions(dial, lambda _: self.workers, clock, self.news.append)

    def serve(self, digest: str) -> CaseView:
        """How a node of north's ends by itself; one that goes on is stopped, and fails the test."""
        node = Node(digest, self.conditions())
        with ThreadPoolExecutor(1) as threads:
            try:
                return threads.submit(node.serve).result(SECONDS)
            finally:
                node.stop()

    def told(self, kind: str) -> list[str]:
        return [each.contract for each in self.news if each.kind == kind]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[[str], House]]:
    houses: list[House] = []
    before = set(threading.enumerate())

    def make(wish: str) -> House:
        houses.append(House(tmp_path, wish))
        return houses[-1]

    yield make
    for house in houses:
        assert list((tmp_path / "north").iterdir()) == []
        house.consortium.close()
        house.workers.close()
        house.runtime.close()
    until(lambda: set(threading.enumerate()) <= before)


@pytest.fixture
def house(made: Callable[[str], House]) -> House:
    return made("quick")


@pytest.fixture
def running(made: Callable[[str], House]) -> Iterator[Callable[[str], tuple[House, str]]]:
    """Has a run under way on the ledger, whose training waits for north; it is halted if the test did not."""
    begun: list[tuple[House, str]] = []
    with ThreadPoolExecutor(1) as threads:

        def run(wish: str) -> tuple[House, str]:
            house = made(wish)
            digest = house.approved()
            core = house.consortium.core

            def under_way() -> None:
                with suppress(EscrowError):  # it is halted
                    core.run(digest)

            begun.append((house, digest))
            threads.submit(under_way)
            # the ledger says nothing more of it before north comes
            until(lambda: "prepare" in core.runs.case(digest).stages, seconds=SECONDS)
            return house, digest

        yield run
        for house, digest in begun:
            with suppress(EscrowError):  # it has ended
                house.north.halt(digest)


class Deaf:
    """An escrow that goes on asking, whatever is halted, and shows the contract as it once stood."""

    def __init__(self, honest: Any, shown: CaseView, after: int, then: Callable[[], object]) -> None:
        self.honest, self.shown, self.after, self.then = honest, shown, after, then
        self.begun, self.asked, self.heard = 0, 0, list[Said]()

    def view(self, _: str) -> CaseView:
        return self.shown

    def contracts(self) -> tuple[CaseView, ...]:
        return (self.shown,)

    def watch(self, _: int) -> Iterator[Any]:
        return iter(())

    def join(self, _: str, said: Iterator[Said]) -> Iterator[Told]:
        next(said)
        self.begun += 1
        yield Begin(run=1, attempt=1, answers=0)
        for number in range(6):
            self.asked += 1
            yield from pieces(Frame(1, b"sums", number).encode())
            if number == self.after:
                self.then()
            answer = next(said, None)
            if answer is None:
                continue  # it does not take no for an answer
            self.heard.append(answer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.honest, name)


@pytest.mark.parametrize(("wish", "after", "answers"), [("slow", 2, 3), ("hang", 0, 0)])
@pytest.mark.parametrize("how", ["halt", "revoke"])
def test_what_the_bank_takes_back_ends_its_own_node_whatever_the_escrow_does(
    *, running: Callable[[str], tuple[House, str]], refused: Any, wish: str, after: int, answers: int, how: str
) -> None:
    house, digest = running(wish)
    train, _ = house.consortium.deposits["north"]
    honest = house.north

    def take_back() -> None:
        if how == "halt":
            honest.halt(digest)
        else:
            honest.revoke(train.commitment)

    house.escrow = deaf = Deaf(honest.escrow, honest.view(digest), after, take_back)
    with refused("node-refused"):
        house.serve(digest)
    assert (deaf.begun, house.told("begun")) == (1, [digest])
    assert len([each for each in deaf.heard if isinstance(each, Piece)]) <= answers
    assert house.told("round").count(digest) <= after
    with refused("node-refused"):
        house.serve(digest)
    assert deaf.begun == 1


def test_a_statement_that_the_escrow_refuses_ends_the_node_all_the_same(house: House, refused: Any) -> None:
    digest = house.approved()
    with refused("statement-refused"):
        house.north.withdraw(digest)
    with refused("node-refused"):
        house.serve(digest)
    assert house.told("waiting") == []


def test_how_often_a_run_began_is_known_after_a_restart(
    running: Callable[[str], tuple[House, str]], refused: Any
) -> None:
    house, digest = running("quick")
    shown = house.north.view(digest)
    most = shown.contract.limits.retries + 1 + ATTEMPTS_BESIDES
    marks = Marks(house.north.home)
    assert [marks.began(digest, 1) for _ in range(most)] == list(range(1, most + 1))
    house.escrow = Deaf(house.north.escrow, shown, 9, lambda: None)
    with refused("node-refused"):
        house.serve(digest)
    assert house.told("begun") == []
    assert marks.began(digest, 2) == 1


def test_a_contract_that_was_refused_is_not_joined_again_before_the_ledger_says_something_new(
    running: Callable[[str], tuple[House, str]],
) -> None:
    house, digest = running("quick")
    shown = house.north.view(digest)
    for _ in range(shown.contract.limits.retries + 1 + ATTEMPTS_BESIDES):
        Marks(house.north.home).began(digest, 1)
    house.escrow = deaf = Deaf(house.north.escrow, shown, 9, lambda: None)
    ended: list[CaseView | EscrowError] = []
    conditions = house.conditions()
    nodes = Nodes(conditions, lambda _, how: ended.append(how))
    watchman = Watchman(nodes, conditions)
    with ThreadPoolExecutor(1) as threads:
        watching = threads.submit(watchman.watch)
        try:
            until(lambda: ended != [])
            dialled = house.dialled
            until(lambda: house.dialled >= dialled + 3)
        finally:
            watchman.stop()
            nodes.stop()
        watching.result()
    assert deaf.begun == 1
    assert [each.code for each in ended if isinstance(each, EscrowError)] == ["node-refused"]


def test_a_refused_contract_is_joined_again_only_after_it_was_reconsidered(house: House) -> None:
    digest = house.approved()
    case = permission.approved(house.north, digest)
    Marks(house.north.home).take_back(digest)
    ended: list[CaseView | EscrowError] = []
    nodes = Nodes(house.conditions(), lambda _, how: ended.append(how))
    try:
        nodes.add(digest)
        until(lambda: len(ended) == 1)
        nodes.add(digest)  # by a watchman who looked before the refusal
        nodes.reconsider(digest, lambda: None)  # as it stood for a node that ended before it had read the ledger
        nodes.add(digest)
        assert house.dialled == 1
        nodes.reconsider(digest, lambda: case)
        nodes.add(digest)
        until(lambda: len(ended) == 2)
    finally:
        nodes.stop()
    assert [each.code for each in ended if isinstance(each, EscrowError)] == ["node-refused"] * 2


def test_a_contract_that_has_ended_is_not_joined_again(house: House) -> None:
    digest = house.approved()
    house.consortium.banks["harbour"].halt(digest)
    ended: list[CaseView | EscrowError] = []
    nodes = Nodes(house.conditions(), lambda _, how: ended.append(how))
    try:
        nodes.add(digest)
        until(lambda: ended != [])
        nodes.add(digest)  # by a watchman who looked before the end
    finally:
        nodes.stop()
    assert [each.state for each in ended if isinstance(each, CaseView)] == ["halted"]
    assert house.dialled == 1


def test_a_watchman_who_is_stopped_while_he_dials_asks_for_nothing_more(house: House) -> None:
    conditions = house.conditions()

    def dial() -> Session:
        watchman.stop()
        return conditions.dial()

    house.escrow = None
    watchman = Watchman(Nodes(conditions, lambda *_: None), replace(conditions, dial=dial))
    watchman.watch()
    assert house.dialled == 1


def test_who_has_no_place_does_not_say_that_it_is_there(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = house.approved("First"), house.approved("Second")
    core = house.consortium.core

    def there(digest: str) -> bool:
        return not core.nodes.missing(core.runs.case(digest).contract)

    nodes = Nodes(house.conditions(), lambda *_: None)
    try:
        nodes.add(first)
        until(lambda: there(first))
        nodes.add(second)
        until(lambda: house.told("queued") == [second])
        assert not there(second)
        monkeypatch.setattr(places, "IDLE_SECONDS", 0.0)  # nothing has begun for long
        until(lambda: not there(first) and there(second))
    finally:
        nodes.stop()


def test_a_node_that_hears_nothing_but_over_ends_with_its_bank(house: House, refused: Any) -> None:
    digest = house.approved()

    class Endless(Deaf):
        def join(self, _: str, said: Iterator[Said]) -> Iterator[Told]:
            next(said)
            while True:
                self.asked += 1
                if self.asked == 10:
                    self.then()
                yield Over()

    honest = house.north
    house.escrow = Endless(honest.escrow, honest.view(digest), 0, lambda: honest.halt(digest))
    with refused("node-refused"):
        house.serve(digest)
    assert house.escrow.asked == 10


def test_a_watchman_that_fails_ends_the_command_with_a_bug(
    tmp_path: Path, ask: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Watchman) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Watchman, "watch", fails)
    Identity.create(tmp_path / "home", "north")
    ended = ask("start", "--home", tmp_path / "home")
    assert (ended["exit_code"], ended["data"]["code"]) == (5, "bug")
