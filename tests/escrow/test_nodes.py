"""Nodes in this process: what is resumed, what is refused, what ends, and that nothing is left."""

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from contracts import statements as st
from contracts.capabilities import unsupported
from contracts.contract import Contract
from contracts.errors import EscrowError
from contracts.nodes import FRAME_BYTES_AT_MOST, PIECE_BYTES, Begin, Failed, Here, Over, Piece, Said, Told, pieces
from escrow.conversations import Seat
from escrow.core import Core
from escrow.housekeeping import Housekeeping, needed
from escrow.nodes import JOINS_AT_MOST, Nodes
from scenarios.consortium import Consortium
from tests.nodes import SECONDS, Asker, Line, approved_at_home, frame, lying, proposed_at_home
from tests.wire import until

CONTRACT = "sha256:" + 64 * "1"
BIG = bytes(range(256)) * (3 * PIECE_BYTES // 256 + 1)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    before = set(threading.enumerate())
    nodes = Nodes()
    yield nodes
    nodes.close()
    until(lambda: set(threading.enumerate()) <= before)


Dial = Callable[..., Line]


@pytest.fixture
def dial(nodes: Nodes) -> Iterator[Dial]:
    """Connects nodes of `north`."""
    lines: list[Line] = []

    def made(contract: str = CONTRACT, party: str = "north", still: Callable[[], bool] = lambda: True) -> Line:
        def join(said: Iterator[Said]) -> Iterator[Told]:
            return nodes.serve(contract, party, said, still)

        lines.append(Line(join))
        return lines[-1]

    yield made
    for line in lines:
        line.close()


@pytest.fixture
def begin(nodes: Nodes, dial: Dial) -> Iterator[Callable[..., tuple[Asker, Line]]]:
    """Begins an attempt with a node that is there."""
    askers: list[Asker] = []

    def begun(run: int = 1, attempt: int = 1) -> tuple[Asker, Line]:
        line = dial()
        line.say(Here())
        askers.append(Asker(nodes.link(CONTRACT, run, attempt, "north", seconds=SECONDS)))
        assert line.told() == Begin(run=run, attempt=attempt, answers=0)
        return askers[-1], line

    yield begun
    for asker in askers:
        asker.stream.close()


Begun = Callable[..., tuple[Asker, Line]]


def answered(asker: Asker, line: Line) -> None:
    """A question that is asked, and its answer."""
    asker.ask(b"one")
    line.question()
    line.answer(frame(b"yes"))
    assert asker.answer() == b"yes"


def test_questions_and_answers_pass_whole(begin: Begun) -> None:
    asker, line = begin()
    for number, payload in enumerate([b"", b"one", BIG, bytes(PIECE_BYTES - 12), bytes(PIECE_BYTES)]):
        assert asker.ask(payload, number) == line.question()
        line.answer(frame(payload[::-1], number))
        assert asker.answer() == payload[::-1]


def test_a_training_waits_for_its_node(nodes: Nodes, dial: Dial) -> None:
    with ThreadPoolExecutor(1) as pool:
        linked = pool.submit(nodes.link, CONTRACT, 1, 1, "north", seconds=SECONDS)
        until(lambda: [seat.run for seat in nodes._of(CONTRACT)] == [1])  # from then on only its wait lets a node in
        line = dial()
        assert line.begin() == Begin(run=1, attempt=1, answers=0)
        linked.result(SECONDS).close()


def test_a_node_that_does_not_come_is_named(nodes: Nodes, dial: Dial) -> None:
    dial(party="harbour").say(Here())
    dial(contract="sha256:" + 64 * "2").say(Here())
    dial()  # and says nothing
    with pytest.raises(EscrowError) as caught:
        nodes.link(CONTRACT, 1, 1, "north", seconds=0.05)
    assert (caught.value.code, caught.value.party) == ("node-missing", "north")


def test_the_wait_for_a_node_ends_with_its_run(nodes: Nodes) -> None:
    codes: list[str] = []

    def link() -> None:
        try:
            nodes.link(CONTRACT, 1, 1, "north", seconds=600)
        except EscrowError as error:
            codes.append(error.code)

    waiting = threading.Thread(target=link)
    waiting.start()

    def cut() -> bool:
        nodes.end(CONTRACT, 1)
        return bool(codes)

    until(cut)
    waiting.join()
    assert codes == ["node-missing"]


# resumed


def test_a_question_that_did_not_arrive_is_asked_again(begin: Begun, dial: Dial) -> None:
    asker, first = begin()
    question = asker.ask(BIG)
    assert isinstance(first.told(), Piece)
    second = dial()
    assert second.begin(Here(run=1, attempt=1)) == Begin(run=1, attempt=1, answers=0)
    assert second.question() == question
    second.answer(frame(b"yes"))
    assert asker.answer() == b"yes"


def test_a_question_that_arrived_is_not_asked_again(begin: Begun, dial: Dial) -> None:
    asker, first = begin()
    asker.ask(b"one")
    first.question()
    second = dial()
    assert second.begin(Here(run=1, attempt=1, questions=1)).answers == 0
    second.answer(frame(b"yes"))
    assert asker.answer() == b"yes"
    two = asker.ask(b"two")
    assert second.question() == two


def test_half_an_answer_is_none(begin: Begun, dial: Dial) -> None:
    asker, first = begin()
    asker.ask(b"one")
    first.question()
    first.say(next(pieces(frame(BIG))))
    second = dial()
    assert second.begin(Here(run=1, attempt=1, questions=1)).answers == 0
    second.answer(frame(BIG))
    assert asker.answer() == BIG


def test_an_answer_that_arrived_is_told_and_not_taken_twice(nodes: Nodes, begin: Begun, dial: Dial) -> None:
    asker, first = begin()
    answered(asker, first)
    second = dial()
    assert second.begin(Here(run=1, attempt=1, questions=1)).answers == 1
    second.answer(frame(b"yes"))
    assert second.end() == "update-invalid"
    assert asker.ended()
    assert nodes.failure(CONTRACT, 1, "north") == "update-invalid"


def test_what_is_asked_while_nobody_is_there_waits(begin: Begun, dial: Dial, nodes: Nodes) -> None:
    asker, first = begin()
    first.close()
    until(lambda: nodes.connected == 0)
    question = asker.ask(b"one")
    second = dial()
    assert second.begin(Here(run=1, attempt=1)).answers == 0
    assert second.question() == question


def test_a_newer_connection_takes_the_place_of_an_older_one(begin: Begun, dial: Dial) -> None:
    asker, first = begin()
    asker.ask(b"one")
    first.question()
    second = dial()
    assert first.end() == "node-refused"
    first.answer(frame(b"old"))
    second.begin(Here(run=1, attempt=1, questions=1))
    second.answer(frame(b"new"))
    assert asker.answer() == b"new"


def test_a_worker_that_was_lost_before_it_mattered_is_asked_anew(begin: Begun, dial: Dial) -> None:
    asker, _ = begin()
    question = asker.ask(b"one")
    second = dial()
    assert second.begin().answers == 0
    assert second.question() == question


def test_a_worker_that_was_lost_later_ends_the_attempt(begin: Begun, dial: Dial, nodes: Nodes) -> None:
    asker, first = begin()
    answered(asker, first)
    second = dial()
    second.say(Here())
    assert asker.ended()
    assert nodes.failure(CONTRACT, 1, "north") == "worker-lost"
    with nodes.link(CONTRACT, 1, 2, "north", seconds=SECONDS):
        assert second.told() == Begin(run=1, attempt=2, answers=0)


# ended


def test_the_end_of_a_run_is_told_and_another_may_follow(nodes: Nodes, begin: Begun) -> None:
    asker, line = begin()
    asker.ask(BIG)
    line.question()
    line.say(next(pieces(frame(BIG))))
    nodes.end(CONTRACT, 1)
    nodes.end(CONTRACT, 1)
    assert asker.ended()
    line.over()
    line.say(*[*pieces(frame(BIG))][1:])  # it was on its way
    line.say(Here())
    with nodes.link(CONTRACT, 2, 1, "north", seconds=SECONDS) as stream:
        assert line.told() == Begin(run=2, attempt=1, answers=0)
        assert Asker(stream).ask(b"two") == line.question()
    assert nodes.failure(CONTRACT, 2, "north") is None


def test_the_end_of_another_run_ends_nothing(nodes: Nodes, begin: Begun) -> None:
    asker, line = begin(run=2)
    nodes.end(CONTRACT, 1)
    nodes.end("sha256:" + 64 * "3", 2)
    assert asker.ask(b"one") == line.question()


def test_a_training_that_leaves_ends_the_attempt(begin: Begun) -> None:
    asker, line = begin()
    asker.stream.close()
    line.over()


def test_a_node_with_a_worker_of_an_attempt_that_is_over_is_told_so(nodes: Nodes, dial: Dial) -> None:
    line = dial()
    line.say(Here(run=1, attempt=1, questions=3))
    line.over()
    with pytest.raises(EscrowError):
        nodes.link(CONTRACT, 1, 1, "north", seconds=0.05)
    line.say(Here())
    with nodes.link(CONTRACT, 1, 1, "north", seconds=SECONDS):
        assert line.told() == Begin(run=1, attempt=1, answers=0)


@pytest.mark.parametrize(
    ("said", "believed"),
    [
        ("limit-memory", "limit-memory"),
        ("storage-full", "training-failed"),
        ("state-refused", "training-failed"),
        ("<script>", "training-failed"),
    ],
)
def test_a_failed_worker_is_believed_by_its_code(nodes: Nodes, begin: Begun, said: str, believed: str) -> None:
    asker, line = begin()
    line.say(Failed(code=said))
    assert asker.ended()
    line.over()
    assert nodes.failure(CONTRACT, 1, "north") == believed
    assert nodes.failure(CONTRACT, 1, "harbour") is None


def test_a_contract_that_ended_lets_its_nodes_go(nodes: Nodes, dial: Dial) -> None:
    still = threading.Event()
    still.set()
    line = dial(still=still.is_set)
    line.say(Here())
    with nodes.link(CONTRACT, 1, 1, "north", seconds=SECONDS):
        line.told()
        still.clear()
        nodes.look(["harbour"])
        nodes.look(["north"])
        line.over()
        assert line.end() == "closed"


def test_a_party_that_may_go_on_no_longer_is_refused(nodes: Nodes, dial: Dial) -> None:
    revoked = threading.Event()

    def still() -> bool:
        if revoked.is_set():
            raise EscrowError("party-revoked", "north's admission was revoked.")
        return True

    line = dial(still=still)
    line.say(Here())
    until(lambda: nodes.connected == 1)
    revoked.set()
    nodes.look(["north"])
    assert line.end() == "party-revoked"


def test_who_comes_after_the_end_is_let_go(nodes: Nodes, dial: Dial) -> None:
    first = dial()
    until(lambda: nodes.connected == 1)
    nodes.hang_up()
    assert first.end() == "closed"
    assert dial().end() == "closed"


# broken rules

Broken = Callable[[Line], None]


def unasked(line: Line) -> None:
    line.answer(frame(b"nobody asked"))


def twice(line: Line) -> None:
    line.question()
    line.answer(frame(b"one"))
    line.answer(frame(b"two"))


def too_long(line: Line) -> None:
    line.question()
    for _ in range(FRAME_BYTES_AT_MOST // PIECE_BYTES + 1):
        line.say(Piece(bytes(PIECE_BYTES), last=False))


def empty_pieces(line: Line) -> None:
    line.question()
    line.say(Piece(b"", last=False))


def crumbs(line: Line) -> None:
    line.question()
    line.say(Piece(b"x", last=False))


def cut_short(line: Line) -> None:
    line.question()
    line.answer(lying(100, b"short"))


def no_frame(line: Line) -> None:
    line.question()
    line.answer(b"short")


def here_again(line: Line) -> None:
    line.say(Here(run=1, attempt=1))


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (unasked, "update-invalid"),
        (twice, "update-invalid"),
        (too_long, "update-invalid"),
        (empty_pieces, "update-invalid"),
        (crumbs, "update-invalid"),
        (cut_short, "update-invalid"),
        (no_frame, "update-invalid"),
        (here_again, "message-refused"),
    ],
)
def test_a_node_that_breaks_the_rules_is_refused_and_fails_the_attempt(
    nodes: Nodes, begin: Begun, broken: Broken, code: str
) -> None:
    asker, line = begin()
    if broken is not unasked:
        asker.ask(b"one")
    broken(line)
    assert line.end() == code
    assert nodes.failure(CONTRACT, 1, "north") == code
    if broken is twice:
        assert asker.stream.recv(1 << 16) in {frame(b"one"), b""}
    assert asker.ended()


@pytest.mark.parametrize("questions", [0, 2, 7, 2**53])
def test_numbers_that_cannot_be_are_refused(nodes: Nodes, begin: Begun, dial: Dial, questions: int) -> None:
    asker, first = begin()
    answered(asker, first)
    second = dial()
    second.say(Here(run=1, attempt=1, questions=questions))
    assert second.end() == "roster-incomplete"
    assert asker.ended()
    assert nodes.failure(CONTRACT, 1, "north") == "roster-incomplete"


@pytest.mark.parametrize(
    ("said", "code"),
    [(Piece(b"x", last=True), "update-invalid"), (Failed(code="training-failed"), "message-refused")],
)
def test_who_does_not_say_where_it_stands_is_refused(dial: Dial, said: Said, code: str) -> None:
    line = dial()
    line.say(said)
    assert line.end() == code


def test_a_party_joins_a_bounded_number_of_contracts(nodes: Nodes, dial: Dial) -> None:
    for number in range(JOINS_AT_MOST):
        dial(contract=f"sha256:{number:064x}").say(Here())
    until(lambda: nodes.connected == JOINS_AT_MOST)
    assert dial(contract=CONTRACT).end() == "quota-exceeded"
    dial(contract=CONTRACT, party="harbour").say(Here())
    dial(contract=f"sha256:{0:064x}").say(Here())  # in place of the one that is there
    until(lambda: nodes.connected == JOINS_AT_MOST + 1)


# what the others see


def contract_of(consortium: Consortium, digest: str) -> Contract:
    return consortium.core.runs.case(digest).contract


def completed(core: Core, digest: str, stage: str) -> st.StageCompleted:
    outputs, rounds = "sha256-salted:" + 64 * "4", ["sha256:" + 64 * "5"] if stage == "train" else []
    return st.StageCompleted(ledger=core.origin, contract=digest, run=1, stage=stage, outputs=outputs, rounds=rounds)


def test_an_approved_contract_says_whose_node_is_missing(consortium: Consortium) -> None:
    digest = proposed_at_home(consortium, "harbour")
    north, harbour = consortium.banks.values()
    assert (north.view(digest).reason, north.view(digest).turn) == ("approvals", ("north", "harbour"))
    consortium.approve(digest)
    assert (north.view(digest).reason, north.view(digest).turn) == ("nodes", ("harbour",))
    with Line(lambda said: harbour.escrow.join(digest, said)) as line:
        line.say(Here())
        until(lambda: north.view(digest).reason == "start")
        assert north.view(digest).turn == ("escrow",)
    until(lambda: north.view(digest).reason == "nodes")


def test_a_run_says_whose_node_its_training_waits_for(consortium: Consortium) -> None:
    digest = approved_at_home(consortium, "harbour")
    north, harbour = consortium.banks.values()
    core = consortium.core
    core.state(st.RunStarted(ledger=core.origin, contract=digest, run=1))
    stages = contract_of(consortium, digest).stages()
    for stage in stages[: stages.index("train")]:
        assert north.view(digest).turn == ("escrow",)
        core.state(completed(core, digest, stage))
    assert (north.view(digest).reason, north.view(digest).turn) == ("nodes", ("harbour",))
    with Line(lambda said: harbour.escrow.join(digest, said)) as line:
        line.say(Here())
        until(lambda: north.view(digest).turn == ("escrow",))
    until(lambda: north.view(digest).reason == "nodes")
    core.state(completed(core, digest, "train"))
    assert north.view(digest).turn == ("escrow",)


def test_no_more_banks_are_asked_at_once_than_the_escrow_has_room_for(consortium: Consortium) -> None:
    contract = contract_of(consortium, proposed_at_home(consortium, "north", "harbour"))
    able = consortium.core.runs.able
    assert unsupported(contract, replace(able, answering=2)) == []
    assert unsupported(contract, replace(able, answering=1)) == ["parties: above 1 that are asked while training"]


def test_rows_at_the_bank_are_kept_there(consortium: Consortium) -> None:
    proposed_at_home(consortium, "harbour")
    kept = {(each.part, each.kept) for each in consortium.banks["harbour"].escrow.deposits()}
    assert kept == {("train", False), ("train", True), ("holdout", False)}
    blobs = {each.stated.blob for each in consortium.core.ledger.deposits("harbour")}
    assert None in blobs
    assert needed(consortium.core.ledger) >= blobs - {None}
    assert Housekeeping(consortium.core).tidy() == ()


def test_only_a_bank_whose_rows_stay_at_home_joins(consortium: Consortium, refused: Any) -> None:
    digest = proposed_at_home(consortium, "harbour")
    north, harbour = consortium.banks.values()
    with refused("state-refused"):
        harbour.escrow.join(digest, iter([Here()]))
    consortium.approve(digest)
    with refused("node-refused"):
        north.escrow.join(digest, iter([Here()]))
    with refused("contract-unknown"):
        harbour.escrow.join("sha256:" + 64 * "0", iter([Here()]))
    harbour.halt(digest)
    with refused("state-refused"):
        harbour.escrow.join(digest, iter([Here()]))


def test_a_halt_lets_a_node_go(consortium: Consortium) -> None:
    digest = approved_at_home(consortium, "harbour")
    north, harbour = consortium.banks.values()
    nodes = consortium.core.nodes
    with Line(lambda said: harbour.escrow.join(digest, said)) as line:
        line.say(Here())
        with nodes.link(digest, 1, 1, "harbour", seconds=SECONDS) as stream:
            assert isinstance(line.told(), Begin)
            north.halt(digest)
            assert Asker(stream).ended()
            assert isinstance(line.told(), Over)
            assert line.end() == "closed"
    assert nodes.missing(contract_of(consortium, digest)) == ["harbour"]


def test_who_comes_when_a_contract_has_just_ended_is_refused_and_leaves_nothing(
    consortium: Consortium, refused: Any
) -> None:
    """As if the halt had come between the question whether the contract goes on, and the answer."""
    before = seats()  # of a test that failed, perhaps
    digest = approved_at_home(consortium, "harbour")
    harbour, nodes = consortium.banks["harbour"], consortium.core.nodes
    joining = harbour.escrow.join(digest, iter([Here()]))
    harbour.halt(digest)
    with refused("state-refused"):
        next(joining)
    with refused("state-refused"):
        nodes.link(digest, 1, 1, "harbour", seconds=SECONDS)
    gc.collect()
    assert seats() <= before


def seats() -> set[Seat]:
    return {each for each in gc.get_objects() if type(each) is Seat}  # `isinstance` would wake what only warns
