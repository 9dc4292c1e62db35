"""Signals that end a process in good order, heard whichever thread the system hands them to.

Python runs its handlers in the main thread alone, and nothing wakes that one for a signal that another thread was
handed. But each is written to a stream wherever it comes; who waits reads that.
"""

import signal
import socket
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress


class Signals:
    """What was written: a byte for each signal that has a handler."""

    def __init__(self, hears: socket.socket, tells: socket.socket, numbers: Collection[int]) -> None:
        self._hears, self._tells, self._numbers = hears, tells, numbers
        self._over = False

    def wait(self) -> bool:
        """Wait for the next of the signals, in any thread; False once `end` was called."""
        while not self._over and (told := self._hears.recv(1)):
            if told[0] in self._numbers:
                return True
        return False

    def end(self) -> None:
        """Let who waits go."""
        self._over = True
        with suppress(BlockingIOError):  # then there is enough to read
            self._tells.send(b"\0")


@contextmanager
def heard(numbers: Collection[signal.Signals], *, once: bool = False) -> Iterator[Signals]:
    """Meanwhile these signals do nothing but end a `Signals.wait`. For the main thread; any may wait.

    Args:
        numbers: the signals.
        once: only the first is heard; the next ends the process, as if nobody had listened, whoever waits or does not.
    """

    def hear(*_: object) -> None:
        for number in numbers if once else ():
            signal.signal(number, signal.SIG_DFL)

    with ExitStack() as undo:
        hears, tells = (undo.enter_context(end) for end in socket.socketpair())
        tells.setblocking(False)
        undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False))
        for number in numbers:
            undo.callback(signal.signal, number, signal.signal(number, hear))
        yield Signals(hears, tells, frozenset(map(int, numbers)))


__all__ = ["Signals", "heard"]
