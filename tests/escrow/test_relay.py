"""The relay between streams of this process: what it lets pass, what it refuses, and that it leaves nothing open."""

import json
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from hashlib import sha256

import pytest

from contracts.errors import EscrowError
from contracts.frames import KEEPER, PART_BYTES, PAYLOAD_BYTES_AT_MOST, Frame, FrameReader
from escrow.relay import Bounds, Passed, Rounds, Traffic, relay, round_digest

NAMES = ("corner", "harbour", "north")  # numbered in this order
PATIENCE = 30.0  # seconds that no test should need
BOUNDS = Bounds(rounds=10, parts=3, answer_seconds=PATIENCE, until=PATIENCE, kept_bytes=9_000_000, payload_bytes=1000)


class Conversation:
    """A relay in a thread, and the far ends of its streams; time starts at 0."""

    def __init__(self, *, clock: Callable[[], float] | None = None, **bounds: float) -> None:
        self._stack = ExitStack()
        pairs = {name: socket.socketpair() for name in ("asker", *NAMES)}
        self.near = {name: near for name, (near, _) in pairs.items()}
        self.far = {name: self._stack.enter_context(far) for name, (_, far) in pairs.items()}
        self._readers = {name: FrameReader(at_most=1 << 30) for name in pairs}
        for far in self.far.values():
            far.settimeout(PATIENCE)
        self.kept: list[tuple[int, bytes, Rounds]] = []
        self.while_keeping: Callable[[], object] = lambda: None
        begin = time.monotonic()
        self._thread = self._stack.enter_context(ThreadPoolExecutor(1))
        self.result: Future[Traffic] = self._thread.submit(
            relay,
            self.near["asker"],
            {name: self.near[name] for name in reversed(NAMES)},
            replace(BOUNDS, **bounds),
            keep=self._keep,
            clock=clock or (lambda: time.monotonic() - begin),
        )

    def _keep(self, number: int, parts: Sequence[bytes], rounds: Rounds) -> None:
        self.kept.append((number, b"".join(parts), rounds))
        self.while_keeping()

    def say(self, name: str, party: int, payload: bytes, number: int = 0) -> None:
        self.far[name].sendall(Frame(party, payload, number).encode())

    def say_late(self, name: str, party: int, payload: bytes, number: int = 0) -> None:
        """Say it when time is over: the relay may have ended by itself already."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.say(name, party, payload, number)

    def hear(self, name: str) -> Frame:
        """The next frame; fails if the stream ends instead."""
        while True:
            data = self.far[name].recv(1 << 16)
            assert data, f"{name} hears nothing any more"
            frames = self._readers[name].feed(data)
            if frames:
                (frame,) = frames
                return frame

    def exchange(self, party: int, number: int) -> None:
        """A question to a party, and its answer."""
        for speaker, listener, payload in (("asker", NAMES[party], b"q"), (NAMES[party], "asker", b"answer")):
            self.say(speaker, party, payload, number)
            assert self.hear(listener) == Frame(party, payload, number)

    def done(self) -> Traffic:
        """The asker has no more questions."""
        self.far["asker"].shutdown(socket.SHUT_WR)
        return self.result.result(PATIENCE)

    def refusal(self, code: str, *, party: str | None) -> str:
        """The relay has failed with a code, and blames a party or none; its message."""
        error = self.result.exception(PATIENCE)
        assert isinstance(error, EscrowError)
        assert (error.code, error.party) == (code, party)
        return error.message

    def close(self) -> None:
        """End it, if it has not ended; every stream that it was given is closed then."""
        with suppress(OSError):
            self.far["asker"].shutdown(socket.SHUT_RDWR)
        self.result.exception(PATIENCE)
        assert all(near.fileno() == -1 for near in self.near.values())
        self._stack.close()


class Held:
    """A clock that stands still until it is let go: what is said before takes no time, however slow the machine."""

    def __init__(self) -> None:
        self._begin: float | None = None

    def __call__(self) -> float:
        return 0.0 if self._begin is None else time.monotonic() - self._begin

    def go(self) -> None:
        self._begin = time.monotonic()


Talk = Callable[..., Conversation]


@pytest.fixture
def talking() -> Iterator[Talk]:
    """Makes conversations with bounds of their own."""
    with ExitStack() as stack:

        def make(**how) -> Conversation:
            conversation = Conversation(**how)
            stack.callback(conversation.close)
            return conversation

        yield make


@pytest.fixture
def talk(talking: Talk) -> Conversation:
    return talking()


def hashed(*frames: Frame) -> str:
    return f"sha256:{sha256(b''.join(frame.encode() for frame in frames)).hexdigest()}"


# what passes


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_questions_and_answers_pass_unchanged_and_are_counted(talk: Conversation, order: tuple[int, ...]) -> None:
    for number, name in enumerate(NAMES):
        talk.say("asker", number, b"q" * number)
        assert talk.hear(name) == Frame(number, b"q" * number)
    for number in order:
        talk.say(NAMES[number], number, f"answer of {number}".encode())
        assert talk.hear("asker") == Frame(number, f"answer of {number}".encode())
    passed = talk.done()
    assert passed.questions == {name: Passed(1, 12 + number) for number, name in enumerate(NAMES)}
    assert passed.answers == {name: Passed(1, 12 + len("answer of 0")) for name in NAMES}


def test_each_party_can_compute_its_own_pair_and_all_of_them_the_rounds_digest(talk: Conversation) -> None:
    talk.exchange(1, 0)
    for party, number in ((0, 1), (1, 1), (1, 1), (0, 3)):
        talk.exchange(party, number)

    def pair(party: int, number: int, times: int = 1) -> tuple[str, str]:
        return tuple(hashed(*times * [Frame(party, payload, number)]) for payload in (b"q", b"answer"))

    rounds = talk.done().rounds
    corner, harbour = pair(0, 1), pair(1, 1, times=2)
    text = json.dumps({"corner": corner, "harbour": harbour}, separators=(",", ":"))
    assert rounds == {
        0: round_digest({"harbour": pair(1, 0)}),
        1: f"sha256:{sha256(text.encode()).hexdigest()}",
        3: round_digest({"corner": pair(0, 3)}),
    }


def test_frames_arrive_in_pieces_and_several_at_once(talk: Conversation) -> None:
    data = b"".join(Frame(number, bytes([number]) * 300).encode() for number in (0, 1, 2))
    for place in range(0, len(data), 7):
        talk.far["asker"].sendall(data[place : place + 7])
    for number, name in enumerate(NAMES):
        assert talk.hear(name) == Frame(number, bytes([number]) * 300)


def test_frames_as_long_as_the_bound_pass_although_nobody_reads_yet(talking: Talk) -> None:
    talk = talking(payload_bytes=PAYLOAD_BYTES_AT_MOST)
    payload = bytes(PAYLOAD_BYTES_AT_MOST)
    with ThreadPoolExecutor(1) as saying:
        said = saying.submit(lambda: [talk.say("asker", number, payload) for number in range(3)])
        said.result(PATIENCE)  # all of them are taken, and none has been read
        for number, name in enumerate(NAMES):
            assert talk.hear(name) == Frame(number, payload)
        answered = saying.submit(talk.say, "north", 2, payload)
        assert talk.hear("asker") == Frame(2, payload)
        answered.result(PATIENCE)


def test_no_more_is_held_than_one_frame_for_each_party_and_direction(talking: Talk) -> None:
    size, rounds = 1 << 20, 8
    talk = talking(payload_bytes=size)
    talk.exchange(0, 0)  # everything is loaded
    frame = {number: [Frame(number, bytes(size), each).encode() for each in range(rounds)] for number in range(3)}
    into = memoryview(bytearray(size + 12))

    def take(name: str) -> None:
        left = into
        while left:
            left = left[talk.far[name].recv_into(left) :]

    tracemalloc.start()
    try:
        with ThreadPoolExecutor(1) as saying:
            for each in range(rounds):
                said = saying.submit(lambda: [talk.far["asker"].sendall(frame[number][each]) for number in range(3)])  # noqa: B023 - done in this turn
                said.result(PATIENCE)
                for number, name in enumerate(NAMES):
                    take(name)
                    answered = saying.submit(talk.far[name].sendall, frame[number][each])
                    take("asker")
                    answered.result(PATIENCE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 6 * size < peak < 6.5 * size


# what a party does wrong


def asked(talk: Conversation) -> None:
    talk.say("asker", 1, b"q", 4)
    talk.hear("harbour")


def test_a_party_that_leaves_ends_it_and_is_named(talk: Conversation) -> None:
    asked(talk)
    talk.far["harbour"].close()
    talk.refusal("roster-incomplete", party="harbour")
    assert talk.far["north"].recv(1) == b""  # the others are told by their streams' end
    assert talk.far["asker"].recv(1) == b""


def test_a_party_that_leaves_unasked_ends_it_and_is_named(talk: Conversation) -> None:
    talk.far["north"].close()
    talk.refusal("roster-incomplete", party="north")


def test_a_party_that_leaves_in_the_middle_of_an_answer_ends_it(talk: Conversation) -> None:
    asked(talk)
    talk.far["harbour"].sendall(Frame(1, b"half", 4).encode()[:-1])
    talk.far["harbour"].close()
    talk.refusal("roster-incomplete", party="harbour")


def test_an_answer_longer_than_its_bound_is_refused_by_its_header(talk: Conversation) -> None:
    asked(talk)
    talk.far["harbour"].sendall(Frame(1, bytes(1001), 4).header())
    talk.refusal("update-invalid", party="harbour")


@pytest.mark.parametrize(
    ("party", "number"),
    [(2, 4), (3, 4), (KEEPER, 4), (1, 3), (1, 5), (1, 0)],
    ids=["anothers", "nobodys", "a checkpoint", "an old round", "a round to come", "before the rounds"],
)
def test_an_answer_under_another_number_is_refused(talk: Conversation, party: int, number: int) -> None:
    asked(talk)
    talk.say("harbour", party, b"I am someone else", number)
    talk.refusal("update-invalid", party="harbour")
    assert talk.kept == []


def test_a_second_answer_is_refused(talk: Conversation) -> None:
    asked(talk)
    talk.say("harbour", 1, b"one", 4)
    talk.say("harbour", 1, b"two", 4)
    talk.refusal("update-invalid", party="harbour")


def test_a_word_from_somebody_who_was_not_asked_is_refused(talk: Conversation) -> None:
    asked(talk)
    talk.say("north", 2, b"listen to me", 4)
    talk.refusal("update-invalid", party="north")


def test_an_answer_to_a_question_that_was_not_read_is_refused(talking: Talk) -> None:
    talk = talking(payload_bytes=PAYLOAD_BYTES_AT_MOST)
    talk.say("asker", 1, bytes(PAYLOAD_BYTES_AT_MOST))
    assert talk.far["harbour"].recv(1) == b"\0"  # it is on its way
    talk.say("harbour", 1, b"whatever it was")
    talk.refusal("update-invalid", party="harbour")


# what the asker does wrong


@pytest.mark.parametrize("arrived", [1, 12, 15])
def test_an_asker_that_leaves_in_the_middle_of_a_question_ends_it(talk: Conversation, arrived: int) -> None:
    talk.far["asker"].sendall(Frame(1, b"half").encode()[:arrived])
    talk.far["asker"].close()
    talk.refusal("roster-incomplete", party=None)


def test_a_question_longer_than_its_bound_is_refused_by_its_header(talk: Conversation) -> None:
    talk.far["asker"].sendall(Frame(1, bytes(1001)).header())
    talk.refusal("update-invalid", party=None)


def test_a_question_for_nobody_is_refused(talk: Conversation) -> None:
    talk.say("asker", 3, b"q")
    talk.refusal("roster-incomplete", party=None)


def test_a_question_before_the_answer_is_refused(talk: Conversation) -> None:
    talk.say("asker", 1, b"one")
    talk.say("asker", 1, b"two")
    talk.refusal("roster-incomplete", party=None)


def test_a_question_before_the_answer_was_taken_is_refused(talking: Talk) -> None:
    talk = talking(payload_bytes=PAYLOAD_BYTES_AT_MOST)
    asked(talk)
    talk.say("harbour", 1, bytes(PAYLOAD_BYTES_AT_MOST), 4)
    assert talk.far["asker"].recv(1) == b"\0"  # it is on its way
    talk.say("asker", 1, b"more", 5)
    talk.refusal("roster-incomplete", party=None)


def test_rounds_do_not_go_back_for_a_party(talk: Conversation) -> None:
    talk.exchange(0, 2)
    talk.exchange(1, 1)  # another is still there
    talk.exchange(1, 2)
    talk.say("asker", 1, b"q", 1)
    talk.refusal("update-invalid", party=None)


def test_a_round_that_the_training_does_not_have_is_refused(talk: Conversation) -> None:
    talk.exchange(0, 10)
    talk.say("asker", 1, b"q", 11)
    talk.refusal("update-invalid", party=None)


def test_more_questions_in_a_round_than_it_needs_are_refused(talk: Conversation) -> None:
    for number in (0, 1):
        for _ in range(3):
            talk.exchange(1, number)
    talk.exchange(2, 1)
    talk.say("asker", 1, b"one more", 1)
    talk.refusal("update-invalid", party=None)


# time


def test_who_does_not_answer_in_its_time_is_named(talking: Talk) -> None:
    clock = Held()
    talk = talking(clock=clock, answer_seconds=0.2)
    talk.exchange(0, 0)
    asked(talk)
    talk.far["harbour"].sendall(Frame(1, b"half", 4).encode()[:-1])  # begun is not answered
    clock.go()
    assert "within its time" in talk.refusal("roster-incomplete", party="harbour")


def test_who_does_not_even_take_the_question_is_named(talking: Talk) -> None:
    talk = talking(answer_seconds=0.2, payload_bytes=PAYLOAD_BYTES_AT_MOST)
    talk.say("asker", 2, bytes(PAYLOAD_BYTES_AT_MOST))
    assert "within its time" in talk.refusal("roster-incomplete", party="north")


def test_each_question_has_a_time_of_its_own(talking: Talk) -> None:
    now = [0.0]
    talk = talking(clock=lambda: now[0], answer_seconds=10, until=1000)
    for number in range(5):
        now[0] += 9
        talk.exchange(1, number)
    talk.say("asker", 2, b"q", 4)
    talk.hear("north")
    now[0] += 9
    asked(talk)
    now[0] += 2
    talk.say_late("harbour", 1, b"in time", 4)
    talk.refusal("roster-incomplete", party="north")


def test_the_time_that_keeping_takes_counts_for_no_answer(talking: Talk) -> None:
    now = [0.0]
    talk = talking(clock=lambda: now[0], answer_seconds=10, until=1000)
    talk.while_keeping = lambda: now.append(now.pop() + 100)
    talk.say("asker", 1, b"q", 1)
    talk.hear("harbour")
    talk.say("asker", KEEPER, b"weights", 0)
    talk.say("asker", 2, b"q", 1)
    talk.hear("north")  # so it has been kept
    talk.say("harbour", 1, b"in time", 1)
    assert talk.hear("asker") == Frame(1, b"in time", 1)
    now[0] += 10
    talk.say_late("asker", 0, b"q", 1)
    talk.refusal("roster-incomplete", party="north")


def test_the_times_of_one_rounds_answers_are_added_up(talking: Talk) -> None:
    now = [0.0]
    talk = talking(clock=lambda: now[0], answer_seconds=10, until=1000)
    for number in (1, 2):  # each round begins anew
        talk.say("asker", 1, b"q", number)
        talk.hear("harbour")
        now[0] += 6
        talk.say("harbour", 1, b"answer", number)
        talk.hear("asker")
    now[0] += 100  # the asker's own time
    talk.say("asker", 1, b"one more part", 2)
    talk.hear("harbour")
    now[0] += 5
    talk.say_late("harbour", 1, b"answer", 2)
    talk.refusal("roster-incomplete", party="harbour")


def test_nobody_is_waited_for_for_ever(talking: Talk) -> None:
    clock = Held()
    talk = talking(clock=clock, until=0.3)
    asked(talk)
    clock.go()
    assert "harbour" in talk.refusal("limit-time", party="harbour")


def test_when_several_are_waited_for_at_the_end_nobody_is_blamed(talking: Talk) -> None:
    clock = Held()
    talk = talking(clock=clock, until=0.3)
    asked(talk)
    talk.say("asker", 2, b"q", 4)
    talk.hear("north")
    clock.go()
    message = talk.refusal("limit-time", party=None)
    assert "harbour, north" in message
    assert "corner" not in message


def test_an_asker_that_says_nothing_is_not_waited_for_for_ever(talking: Talk) -> None:
    assert "the aggregator" in talking(until=0.1).refusal("limit-time", party=None)


# checkpoints


def checkpoint(talk: Conversation, number: int, kept: bytes) -> None:
    for start in range(0, len(kept) + 1, PART_BYTES):
        talk.say("asker", KEEPER, kept[start : start + PART_BYTES], number)


@pytest.mark.parametrize("size", [0, 5, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES])
def test_a_checkpoint_is_kept_whole_and_not_answered(talk: Conversation, size: int) -> None:
    kept = bytes(range(251)) * (size // 251) + bytes(size % 251)
    talk.exchange(0, 1)
    checkpoint(talk, 1, kept)
    talk.exchange(0, 2)
    checkpoint(talk, 2, b"next")
    passed = talk.done()
    assert [(number, found) for number, found, _ in talk.kept] == [(1, kept), (2, b"next")]
    assert passed.questions["corner"].frames == passed.answers["corner"].frames == 2


def test_a_checkpoint_comes_with_what_was_said_until_then(talk: Conversation) -> None:
    talk.exchange(1, 0)
    for number in (1, 2):
        for party in range(3):
            talk.exchange(party, number)
        checkpoint(talk, number, b"weights")
    talk.exchange(0, 3)
    rounds = talk.done().rounds
    assert [list(said) for _, _, said in talk.kept] == [[0, 1], [0, 1, 2]]
    for number, _, said in talk.kept:
        assert said == {each: digest for each, digest in rounds.items() if each <= number}


def test_a_long_training_costs_a_digest_a_round(talking: Talk) -> None:
    talk = talking(rounds=1000)
    talk.exchange(0, 0)

    def train(last: int) -> int:
        for number in range(last - 99, last + 1):
            for party in range(3):
                talk.exchange(party, number)
            checkpoint(talk, number, b"")
        talk.kept.clear()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        first, second = train(100), train(200)
    finally:
        tracemalloc.stop()
    assert second - first < 100 * 400  # a pair of each party would be some 300 bytes more for each


def test_the_next_round_can_begin_while_one_is_kept(talk: Conversation) -> None:
    talk.exchange(0, 1)
    talk.say("asker", 0, b"q", 2)
    checkpoint(talk, 1, b"weights")
    talk.hear("corner")
    talk.say("corner", 0, b"answer", 2)
    talk.hear("asker")
    rounds = talk.done().rounds
    ((_, _, said),) = talk.kept
    assert said == {1: rounds[1]}
    assert set(rounds) == {1, 2}


def test_a_checkpoint_that_was_cut_off_is_none(talk: Conversation) -> None:
    talk.say("asker", KEEPER, bytes(PART_BYTES), 1)
    talk.done()
    assert talk.kept == []


def test_a_round_that_was_kept_is_over(talk: Conversation) -> None:
    checkpoint(talk, 2, b"weights")
    talk.say("asker", 0, b"q", 2)
    talk.refusal("roster-incomplete", party=None)


def test_a_round_is_not_kept_before_its_answers(talk: Conversation) -> None:
    asked(talk)
    checkpoint(talk, 4, b"weights")
    talk.refusal("roster-incomplete", party=None)
    assert talk.kept == []


@pytest.mark.parametrize("second", [0, 1])
def test_checkpoints_do_not_go_back(talk: Conversation, second: int) -> None:
    checkpoint(talk, 1, b"weights")
    checkpoint(talk, second, b"other weights")
    talk.refusal("roster-incomplete", party=None)


def test_the_parts_of_a_checkpoint_are_of_one_round(talk: Conversation) -> None:
    talk.say("asker", KEEPER, bytes(PART_BYTES), 1)
    talk.say("asker", KEEPER, b"the rest", 2)
    talk.refusal("roster-incomplete", party=None)


def test_a_checkpoint_of_no_round_is_refused(talk: Conversation) -> None:
    talk.say("asker", KEEPER, b"weights", 11)
    talk.refusal("update-invalid", party=None)


def test_a_part_longer_than_parts_are_is_refused(talk: Conversation) -> None:
    talk.far["asker"].sendall(Frame(KEEPER, bytes(PART_BYTES + 1)).header())
    talk.refusal("update-invalid", party=None)


def test_a_checkpoint_longer_than_its_bound_is_refused(talking: Talk) -> None:
    talk = talking(kept_bytes=PART_BYTES + 10)
    checkpoint(talk, 1, bytes(PART_BYTES + 10))
    talk.exchange(0, 2)
    assert len(talk.kept) == 1
    talk.say("asker", KEEPER, bytes(PART_BYTES), 2)
    talk.far["asker"].sendall(Frame(KEEPER, bytes(11), 2).header())
    talk.refusal("update-invalid", party=None)
    assert len(talk.kept) == 1


def test_what_fails_while_keeping_ends_it(talk: Conversation) -> None:
    def fail() -> None:
        raise EscrowError("storage-full", "There is no room.")

    talk.while_keeping = fail
    checkpoint(talk, 1, b"weights")
    talk.refusal("storage-full", party=None)
    assert talk.far["corner"].recv(1) == b""
