"""How long a bank goes on with a stream, and its node before it connects anew: by a clock that a test sets."""

import threading
from types import SimpleNamespace

import pytest

from contracts.errors import CODES, EscrowError
from parties import patience
from parties.patience import ATTEMPTS, STEADY_SECONDS, Patience, Persistence

AWAY = EscrowError("escrow-unreachable", "The escrow is away.")
COME_BACK = {"escrow-unreachable", "escrow-slow", "escrow-crowded", "quota-exceeded"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Monotonic seconds, which stand still until a test moves them on."""
    hand = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=lambda: hand.seconds))
    return hand


def test_it_waits_twice_as_long_each_time_but_never_longer_than_half_a_minute(clock: SimpleNamespace) -> None:
    waits = Persistence()
    expected = [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0]
    assert [waits.pause(AWAY) for _ in expected] == pytest.approx(expected)
    clock.seconds += 10 * 365 * 86400.0  # nobody set a limit
    assert {waits.pause(AWAY) for _ in range(5000)} == {30.0}


def test_from_the_first_while_again_once_the_escrow_has_answered(clock: SimpleNamespace) -> None:
    waits = Persistence(at_most=60.0)
    assert [waits.pause(AWAY) for _ in range(3)] == pytest.approx([0.2, 0.4, 0.8])
    clock.seconds += 59.0
    waits.well()
    clock.seconds += 59.0  # of which it knows no failure: they do not count
    assert waits.pause(AWAY) == pytest.approx(0.2)
    clock.seconds += 59.0
    assert waits.pause(AWAY) == pytest.approx(0.4)


def test_it_gives_up_with_the_last_error_once_the_escrow_was_away_so_long(clock: SimpleNamespace) -> None:
    waits, last = Persistence(at_most=60.0), EscrowError("escrow-slow", "The last of them.")
    for seconds in (30.0, 29.0, 1.0):
        waits.pause(AWAY)
        clock.seconds += seconds
    with pytest.raises(EscrowError) as caught:
        waits.pause(last)
    assert caught.value is last


def test_without_patience_the_first_failure_ends_it() -> None:
    with pytest.raises(EscrowError) as caught:
        Persistence(at_most=0.0).pause(AWAY)
    assert caught.value is AWAY


@pytest.mark.parametrize("code", sorted(CODES))
def test_only_what_comes_back_by_itself_is_waited_for(code: str) -> None:
    waits, error = Persistence(), EscrowError(code, "Something went wrong.")
    if code in COME_BACK:
        assert waits.pause(error) > 0
        return
    with pytest.raises(EscrowError) as caught:
        waits.pause(error)
    assert caught.value is error


def impatient() -> Patience:
    """For which no time passes while it waits."""
    ended = threading.Event()
    ended.set()
    return Patience(ended)


def test_a_stream_that_makes_no_progress_is_tried_so_often(clock: SimpleNamespace) -> None:
    """However long its escrow was away in between: that was no connection that held."""
    stream = impatient()
    stream.at(7)
    for _ in range(ATTEMPTS - 1):
        stream.again(AWAY)
        clock.seconds += 2 * STEADY_SECONDS
    with pytest.raises(EscrowError) as caught:
        stream.again(AWAY)
    assert caught.value is AWAY


def test_a_stream_goes_on_as_long_as_it_makes_progress_or_its_connections_hold(clock: SimpleNamespace) -> None:
    stream = impatient()
    for number in range(4 * ATTEMPTS):
        stream.at(number // 2)
        stream.again(AWAY)
    for _ in range(4 * ATTEMPTS):
        stream.at(0)
        clock.seconds += 2 * STEADY_SECONDS
        stream.again(AWAY)
