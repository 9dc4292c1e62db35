"""Gangs on the runtime: real processes that talk through the relay, and everything that one of them can do wrong."""

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from contracts.errors import EscrowError
from contracts.frames import Frame, FrameReader
from contracts.nodes import Begin, Failed, Here, Over, Piece, Pieces, Said, pieces
from escrow.gangs import LOOK_SECONDS, RunningGang, TrainingAttempt
from escrow.nodes import Nodes
from escrow.runtime.job import Job, Limits
from escrow.runtime.process import ProcessRuntime, package_folders
from escrow.stagejobs import Gang, StageJob

WORKER = Path(__file__).with_name("gang_worker.py")
PARTIES = ("corner", "harbour", "north")
CONTRACT = "sha256:" + 64 * "0"
PATIENCE = 90.0  # seconds that no test should need


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[ProcessRuntime]:
    packages = package_folders("models", "contracts")
    with ProcessRuntime(tmp_path / "jobs", command=(sys.executable, str(WORKER)), packages=packages) as runtime:
        yield runtime


def gang(*, lead: str = "ask", rounds: int = 3, allowed: int = 2, seconds: int = 60, **others: str) -> Gang:
    """A gang of three parties; `others` says who misbehaves, and how."""
    asks = StageJob(
        "joint",
        {"do": lead, "rounds": rounds, "parties": len(PARTIES), "method": {"rounds": allowed}},
        {},
        {"said.json": "said.json"},
        door=True,
    )
    answers = (
        StageJob(
            f"client-{party}",
            {"do": others.get(party, "answer"), "party": party},
            {},
            party=party,
            door=True,
        )
        for party in PARTIES
    )
    return Gang(asks, tuple(answers), round_seconds=seconds)


def attempt(kept: list[tuple[bytes, Mapping[int, str]]] | None = None) -> TrainingAttempt:
    """The first attempt of a run; what it keeps of its rounds is added to `kept`."""

    def keep(state: Sequence[bytes], rounds: Mapping[int, str]) -> None:
        if kept is not None:
            kept.append((b"".join(state), rounds))

    return TrainingAttempt(CONTRACT, 1, 1, Nodes(), nullcontext, keep, before={0: "sha256:" + 64 * "1"})


Play = Callable[..., Mapping[str, bytes]]


@pytest.fixture
def play(runtime: ProcessRuntime) -> Iterator[Play]:
    """Runs a gang as a stage does; afterwards nothing of it is left."""
    threads = set(threading.enumerate())
    played: list[RunningGang] = []

    def run(what: Gang, *, seconds: int = 60, tried: TrainingAttempt | None = None) -> Mapping[str, bytes]:
        ids = {job.name: f"x-{job.name}" for job in what.jobs}
        running = RunningGang(runtime, "train", what, ids, tried or attempt())
        played.append(running)
        limits = Limits(seconds=seconds)
        jobs = [
            Job(name, each.spec, outputs=tuple(each.outputs), limits=limits, party=each.party, door=each.door)
            for name, each in running.members
        ]
        try:
            running.start(jobs)
            until = time.monotonic() + PATIENCE
            while running.lead not in runtime.wait([running.lead], seconds=0.1):
                if running.broken:
                    break
                assert time.monotonic() < until
            return {**running.outputs(), **running.logs()}
        finally:
            running.end()
            running.end()

    yield run
    assert played
    assert list(runtime.root.iterdir()) == []
    assert set(threading.enumerate()) <= threads


def failure(play: Play, what: Gang, **how: Any) -> EscrowError:
    with pytest.raises(EscrowError) as failed:
        play(what, **how)
    return failed.value


def code(play: Play, what: Gang, **how: Any) -> str:
    return failure(play, what, **how).code


def test_a_gang_talks_and_its_leads_outputs_are_kept(play: Play) -> None:
    made = play(gang(corner="slow"))
    said = json.loads(made["said.json"])
    assert said == [[f"q{number} {party}" for party in PARTIES] for number in range(3)]


def test_what_passed_is_counted_and_digested_alike_whoever_was_slow(play: Play) -> None:
    first, second = (json.loads(play(gang(**{slow: "slow"}))["relay"]) for slow in ("corner", "north"))
    assert first == second
    questions, answers = first["questions"], first["answers"]
    assert list(questions) == list(answers) == list(PARTIES)
    assert [(each["frames"], each["bytes"]) for each in questions.values()] == [(3, 3 * (12 + 2))] * 3
    assert answers["north"]["bytes"] == 3 * (12 + len("q0 north"))
    assert len(set(first["rounds"].values())) == 3


def test_each_round_is_kept_with_the_digests_up_to_it(play: Play) -> None:
    kept: list[tuple[bytes, Mapping[int, str]]] = []
    made = play(gang(), tried=attempt(kept))
    said, rounds = json.loads(made["said.json"]), json.loads(made["relay"])["rounds"]
    assert [json.loads(state) for state, _ in kept] == [said[: number + 1] for number in range(3)]
    for number, (_, digests) in enumerate(kept):
        assert digests == {each: rounds[str(each)] for each in range(number + 1)}


@pytest.mark.parametrize(
    ("does", "expected"),
    [
        ("end_before", "file-unreadable"),  # its own code, not the broken stream's
        ("fail", "counts-differ"),
        ("leave", "roster-incomplete"),
        ("twice", "update-invalid"),
        ("as_another", "update-invalid"),
        ("too_long", "update-invalid"),
    ],
)
def test_a_party_that_breaks_the_rules_ends_the_gang(play: Play, does: str, expected: str) -> None:
    error = failure(play, gang(harbour=does, seconds=600), seconds=600)  # so its time is not what ends it
    assert (error.code, error.party) == (expected, "harbour")


def test_a_party_that_never_dials_ends_the_gang(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("escrow.gangs.DIAL_SECONDS", 1.0)
    monkeypatch.setattr("escrow.gangs.LAST_WORD_SECONDS", 0.2)
    assert code(play, gang(harbour="never_dial")) == "worker-silent"


def test_a_party_that_leaves_and_lives_on_ends_the_gang(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("escrow.gangs.LAST_WORD_SECONDS", 0.2)
    assert code(play, gang(harbour="leave_and_live")) == "roster-incomplete"


def test_who_does_not_answer_within_its_time_is_named(play: Play) -> None:
    error = failure(play, gang(lead="ask_one", corner="hang", seconds=1))
    assert (error.code, error.party) == ("roster-incomplete", "corner")


@pytest.mark.parametrize("how", [{"harbour": "hang"}, {"harbour": "never_dial"}, {"lead": "idle"}])
def test_who_keeps_the_others_waiting_is_ended_with_its_time(play: Play, how: dict[str, str]) -> None:
    assert code(play, gang(**how, seconds=600), seconds=2) == "limit-time"


@pytest.mark.parametrize(
    ("does", "expected"),
    [
        ("die", "training-failed"),
        ("refuse", "update-invalid"),
        ("end_before", "file-unreadable"),
        ("ask_a_stranger", "roster-incomplete"),
        ("ask_twice", "roster-incomplete"),
    ],
)
def test_an_aggregator_that_fails_ends_the_gang(play: Play, does: str, expected: str) -> None:
    assert code(play, gang(lead=does)) == expected


def test_an_aggregator_asks_in_no_more_rounds_than_the_contract_has(play: Play) -> None:
    assert code(play, gang(rounds=4, allowed=2)) == "update-invalid"


def test_a_job_alone_needs_no_relay(play: Play) -> None:
    alone = Gang(StageJob("joint", {"do": "end_before"}, {}, {"said.json": "said.json"}))
    assert code(play, alone) == "file-unreadable"


def test_a_gang_can_be_ended_at_any_moment(runtime: ProcessRuntime) -> None:
    for does in ("never_dial", "hang"):
        what = gang(north=does)
        running = RunningGang(runtime, "train", what, {job.name: f"x-{job.name}" for job in what.jobs}, attempt())
        running.start([Job(name, each.spec, party=each.party, door=each.door) for name, each in running.members])
        running.end()
        assert list(runtime.root.iterdir()) == []


# a party at home


class Home:
    """A node of harbour's that answers as `gang_worker` does, or says why it cannot."""

    def __init__(self, nodes: Nodes, failing: str | None) -> None:
        self._failing = failing
        self._said: SimpleQueue[Said | None] = SimpleQueue()
        self._said.put(Here())
        self.over = threading.Event()
        self.begun = self.ended = 0
        said = iter(self._said.get, None)
        self._told = nodes.serve(CONTRACT, "harbour", said, lambda: True)
        self._thread = threading.Thread(target=self._live)
        self._thread.start()

    def _live(self) -> None:
        found = Pieces()
        for told in self._told:
            self.begun += isinstance(told, Begin)
            self.ended += isinstance(told, Over)
            if isinstance(told, Over):
                self.over.set()
            elif isinstance(told, Piece) and (frame := found.add(told)) is not None:
                self._hear(frame)
            elif isinstance(told, Begin) and self._failing:
                self._said.put(Failed(code=self._failing))

    def _hear(self, frame: bytes) -> None:
        (question,) = FrameReader().feed(frame)
        answer = Frame(question.party, question.payload + b" harbour", question.round)
        for piece in pieces(answer.encode()):
            self._said.put(piece)

    def leave(self) -> None:
        self._said.put(None)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.close()


@pytest.fixture
def home(nodes: Nodes) -> Iterator[Callable[..., Home]]:
    homes: list[Home] = []

    def make(failing: str | None = None) -> Home:
        homes.append(Home(nodes, failing))
        return homes[-1]

    yield make
    nodes.close()
    for each in homes:
        each.leave()
    for thread in threading.enumerate():
        if thread.name.startswith(("node-", "attempt")):
            thread.join(PATIENCE)


def partly_at_home(**how: Any) -> Gang:
    """The gang, with harbour's rows at harbour."""
    whole = gang(**how)
    others = tuple(each for each in whole.others if each.party != "harbour")
    return replace(whole, others=others, at_home=("harbour",))


def test_a_party_at_home_is_asked_through_its_node(play: Play, nodes: Nodes, home: Callable[..., Home]) -> None:
    node = home()
    made = play(partly_at_home(), tried=replace(attempt(), nodes=nodes))
    assert json.loads(made["said.json"]) == [[f"q{number} {party}" for party in PARTIES] for number in range(3)]
    assert node.over.wait(PATIENCE)  # told when the gang ended


@pytest.mark.parametrize(
    ("said", "expected"), [("counts-differ", "counts-differ"), ("storage-full", "training-failed")]
)
def test_what_a_node_says_of_its_worker_fails_the_gang(
    play: Play, nodes: Nodes, home: Callable[..., Home], said: str, expected: str
) -> None:
    """Never as a failure of this machine, which would leave the run under way."""
    home(said)
    error = failure(play, partly_at_home(), tried=replace(attempt(), nodes=nodes))
    assert (error.code, error.party) == (expected, "harbour")


def test_a_node_that_is_not_there_is_missed_after_its_time(play: Play, nodes: Nodes) -> None:
    error = failure(play, partly_at_home(seconds=2), tried=replace(attempt(), nodes=nodes))
    assert (error.code, error.party) == ("node-missing", "harbour")


@pytest.mark.parametrize(
    ("how", "expected", "party"),
    [
        ({"lead": "refuse"}, "update-invalid", None),
        ({"north": "fail_unasked"}, "counts-differ", "north"),
    ],
)
def test_a_job_that_ends_while_a_node_is_awaited_ends_the_wait(
    play: Play, nodes: Nodes, how: dict[str, str], expected: str, party: str | None
) -> None:
    begin = time.monotonic()
    error = failure(play, partly_at_home(seconds=600, **how), seconds=900, tried=replace(attempt(), nodes=nodes))
    assert (error.code, error.party) == (expected, party)
    assert time.monotonic() - begin < PATIENCE


class Asked(Nodes):
    """Tells when somebody waits for a node, and when the wait is ended; lets a test into the moments between."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()

    def link(self, *what: Any, **how: Any) -> socket.socket:
        self.asked.set()
        return super().link(*what, **how)


@pytest.mark.parametrize("dialled", [False, True], ids=["while the lead starts", "when it has dialled"])
def test_a_wait_for_a_node_ends_with_the_gang(runtime: ProcessRuntime, dialled: bool) -> None:
    nodes, what = Asked(), partly_at_home(seconds=600)
    ids = {job.name: f"x-{job.name}" for job in what.jobs}
    running = RunningGang(runtime, "train", what, ids, replace(attempt(), nodes=nodes))
    running.start([Job(name, each.spec, party=each.party, door=each.door) for name, each in running.members])
    assert not dialled or nodes.asked.wait(PATIENCE)
    begin = time.monotonic()
    running.end()
    assert time.monotonic() - begin < PATIENCE
    assert list(runtime.root.iterdir()) == []


def test_a_node_that_comes_while_the_gang_ends_is_not_left_with_an_attempt(
    runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes when the jobs are being destroyed, which takes a while on an engine."""
    nodes, what = Asked(), partly_at_home(seconds=600)
    ids = {job.name: f"x-{job.name}" for job in what.jobs}
    running = RunningGang(runtime, "train", what, ids, replace(attempt(), nodes=nodes))
    running.start([Job(name, each.spec, party=each.party, door=each.door) for name, each in running.members])
    assert nodes.asked.wait(PATIENCE)
    homes: list[Home] = []
    destroy = runtime.destroy

    def late(job_id: str) -> None:
        if job_id == running.lead:
            homes.append(Home(nodes, None))
            time.sleep(2 * LOOK_SECONDS)  # in which a wait that went on would find it
        destroy(job_id)

    monkeypatch.setattr(runtime, "destroy", late)
    running.end()
    (home,) = homes
    nodes.close()
    home.leave()
    assert home.begun == home.ended


def test_no_node_begins_once_the_contract_has_ended(
    runtime: ProcessRuntime, nodes: Nodes, home: Callable[..., Home]
) -> None:
    class StoppedError(Exception):
        pass

    @contextmanager
    def ended() -> Iterator[None]:
        raise StoppedError
        yield

    node, what = home(), partly_at_home(seconds=600)
    ids = {job.name: f"x-{job.name}" for job in what.jobs}
    running = RunningGang(runtime, "train", what, ids, replace(attempt(), nodes=nodes, permitted=ended))
    try:
        running.start([Job(name, each.spec, party=each.party, door=each.door) for name, each in running.members])
        with pytest.raises(StoppedError):
            running.outputs()
    finally:
        running.end()
    assert node.begun == 0
