"""Streams of frames that do not block: each frame is received where it stays until it is sent on, so it is copied once.

Rules: a frame is refused by its header, before there is room for it; what is given to send is not copied either, so it
is not changed before it has been sent. What frames may say is the affair of `escrow.relay`.
"""

import select
import selectors
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from contracts.frames import HEADER, PART_BYTES

Begin = Callable[[int, int, int], memoryview]
"""Where the frame belongs whose header says party, round and length of payload; refuses it by raising."""
Done = Callable[[memoryview], None]
"""Takes a frame that has arrived whole."""

_CHUNK: Final = 1 << 16  # whatever is longer is received where it belongs


def scratch() -> memoryview:
    """Room for what arrives before it is known where it belongs; one serves all streams of a thread."""
    return memoryview(bytearray(_CHUNK))


class FrameStream:
    """One stream: puts frames together as they arrive, and sends what it is given as it can be taken.

    Args:
        stream: not blocking.
        selector: is told what to wait for, with this object beside it.

    """

    def __init__(self, stream: socket.socket, selector: selectors.BaseSelector) -> None:
        self._socket, self._selector = stream, selector
        self._head = bytearray()
        self._frame: memoryview | None = None
        self._filled = 0
        self._out: deque[tuple[memoryview, Callable[[], None]]] = deque()
        self._waits = False
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PART_BYTES)  # as much of it as this machine allows
        selector.register(stream, selectors.EVENT_READ, self)

    @property
    def amid(self) -> bool:
        """Whether a frame has begun to arrive and is not complete."""
        return bool(self._head) or self._frame is not None

    @property
    def all_sent(self) -> bool:
        """Whether everything that was given to send has been taken."""
        return not self._out

    def receive(self, room: memoryview, begin: Begin, done: Done) -> bool:
        """Take what has arrived; False at the stream's end, also if it was cut off (see `amid`)."""
        into = room if self._frame is None else self._frame[self._filled :]
        try:
            count = self._socket.recv_into(into)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if self._frame is None:
            self._cut(room[:count], begin, done)
        else:
            self._filled += count
            self._finish(self._frame, done)
        return count > 0

    def _cut(self, data: memoryview, begin: Begin, done: Done) -> None:
        """Copy what has arrived to where it belongs."""
        while data:
            if self._frame is None:
                missing = HEADER.size - len(self._head)
                self._head += data[:missing]
                data = data[missing:]
                if len(self._head) < HEADER.size:
                    return
                self._frame = begin(*HEADER.unpack(self._head))
                self._frame[: HEADER.size] = self._head
                self._filled = HEADER.size
                self._head.clear()
            end = min(self._filled + len(data), len(self._frame))
            self._frame[self._filled : end] = data[: end - self._filled]
            data = data[end - self._filled :]
            self._filled = end
            self._finish(self._frame, done)

    def _finish(self, frame: memoryview, done: Done) -> None:
        if self._filled == len(frame):
            self._frame = None
            done(frame)

    def send(self, frame: memoryview, sent: Callable[[], None] = lambda: None) -> None:
        """Send a frame, now or when it can be taken; `sent` is called when all of it has been."""
        self._out.append((frame, sent))
        self.flush()

    def flush(self) -> None:
        """Send as much as goes. That a stream has ended is noticed by `receive`."""
        try:
            while self._out:
                frame, sent = self._out[0]
                count = self._socket.send(frame)
                if count == len(frame):
                    self._out.popleft()
                    sent()
                else:
                    self._out[0] = (frame[count:], sent)
        except BlockingIOError:
            pass
        except OSError:
            self._out.clear()
        if self._waits != bool(self._out):
            self._waits = bool(self._out)
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._waits else 0)
            self._selector.modify(self._socket, events, self)


class Buffer:
    """Room for one frame at a time, as large as the largest so far: what was in it before is overwritten."""

    def __init__(self) -> None:
        self._room = bytearray()

    def of(self, length: int) -> memoryview:
        """Room for a frame with so long a payload."""
        size = HEADER.size + length
        if size > len(self._room):
            self._room = bytearray(size)
        return memoryview(self._room)[:size]


def hang_up(stream: socket.socket) -> None:
    """End a stream both ways, whoever reads or waits on it; one that is closed is left alone."""
    with suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)


def hung_up(streams: Sequence[socket.socket], seconds: float) -> list[socket.socket]:
    """Those that have ended, at either side, as soon as one has, or none after so long; nothing is read."""
    poll = select.poll()
    for stream in streams:
        poll.register(stream, select.POLLRDHUP)
    ended = {fd for fd, _ in poll.poll(1000 * seconds)}
    return [stream for stream in streams if stream.fileno() in ended]


__all__ = ["Buffer", "FrameStream", "hang_up", "hung_up", "scratch"]
