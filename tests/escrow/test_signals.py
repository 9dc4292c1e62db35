"""Signals that end a process: whoever waits hears them, and nothing of that is left."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from escrow.runtime.signals import heard
from tests.wire import signal_elsewhere, until

USR = (signal.SIGUSR1, signal.SIGUSR2)
PATIENCE = 30.0


def passed_over(*_: object) -> None:
    """Somebody's own handler."""


@pytest.fixture(autouse=True)
def before() -> Iterator[None]:
    old = [signal.signal(each, passed_over) for each in USR]
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    yield
    assert [signal.signal(each, how) for each, how in zip(USR, old, strict=True)] == [passed_over, passed_over]
    assert signal.set_wakeup_fd(wakeup) == wakeup


def test_a_signal_is_heard_in_whatever_thread_it_comes_and_whoever_waits() -> None:
    with ThreadPoolExecutor(1) as thread, heard(USR) as signals:
        waiting = thread.submit(signals.wait)
        until(waiting.running)
        signal_elsewhere(os.getpid(), signal.SIGUSR2)
        assert waiting.result(PATIENCE)


def test_a_signal_that_was_not_named_ends_no_wait() -> None:
    with heard([signal.SIGUSR1]) as signals:
        os.kill(os.getpid(), signal.SIGUSR2)
        signals.end()
        assert not signals.wait()


def test_each_signal_is_heard_once_until_the_end() -> None:
    with heard(USR) as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert [signals.wait() for _ in range(2)] == [True, True]
        signals.end()
        assert not signals.wait()


def test_who_ends_it_is_not_held_up_by_what_nobody_read() -> None:
    with heard(USR) as signals:
        for _ in range(5000):
            os.kill(os.getpid(), signal.SIGUSR1)
        signals.end()
        assert not signals.wait()


def test_the_second_signal_ends_a_process_that_listens_once_though_nobody_waits_yet() -> None:
    program = (
        "import os, signal\n"
        "from escrow.runtime.signals import heard\n"
        "with heard([signal.SIGINT, signal.SIGTERM], once=True) as signals:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    assert signals.wait()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    signals.wait()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], timeout=PATIENCE, check=False)
    assert ended.returncode == -signal.SIGTERM


def test_what_fails_meanwhile_leaves_nothing() -> None:
    with pytest.raises(RuntimeError), heard(USR):
        raise RuntimeError


def test_elsewhere_than_in_the_main_thread_it_is_refused_and_leaves_nothing() -> None:
    with ThreadPoolExecutor(1) as thread, pytest.raises(ValueError, match="main thread"):
        thread.submit(heard(USR).__enter__).result(PATIENCE)
