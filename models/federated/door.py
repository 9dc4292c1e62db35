"""The one door of a worker that has no network: a Unix socket beside its inputs, which it dials and never binds.

Frames go through it (`contracts.frames`); who stands behind it is the escrow's affair. This module needs no Flower: a
worker can knock before it has loaded anything.
"""

import os
import socket
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Final, Self

from contracts.errors import EscrowError
from contracts.frames import HEADER, PAYLOAD_BYTES_AT_MOST, Frame, header

SOCKET: Final = "socket"
_BUFFER: Final = 1 << 18
_PIECES_AT_MOST: Final = 1024  # of one call to the system (IOV_MAX)


class Door:
    """A stream of frames. Close it, or use it as a context."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._incoming = stream.makefile("rb", buffering=_BUFFER)

    @classmethod
    def dial(cls, folder: Path) -> Self:
        """Go through the door in a folder, however long its path is.

        Raises:
            EscrowError: `roster-incomplete` if nobody is there.
        """
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                stream.connect(f"/proc/self/fd/{place}/{SOCKET}")  # a socket's address has room for 107 bytes only
            finally:
                os.close(place)
        except OSError as error:
            stream.close()
            raise EscrowError("roster-incomplete", f"The door does not open: {error.strerror}.") from error
        return cls(stream)

    def send(self, frame: Frame) -> None:
        """Send a frame; returns when it is on its way.

        Raises:
            EscrowError: `update-invalid` if it is too long, `roster-incomplete` if nobody takes it.
        """
        self.send_pieces(frame.party, frame.round, [frame.payload])

    def send_pieces(self, party: int, number: int, pieces: Sequence[bytes | memoryview]) -> None:
        """Send a frame whose payload is in pieces; they are not copied to stand together. See `send`."""
        head = header(party, number, sum(len(piece) for piece in pieces))
        rest = deque(memoryview(piece) for piece in (head, *pieces))
        try:
            while rest:
                sent = self._stream.sendmsg(islice(rest, _PIECES_AT_MOST))
                while rest and sent >= len(rest[0]):
                    sent -= len(rest.popleft())
                if sent:
                    rest[0] = rest[0][sent:]
        except OSError as error:
            raise EscrowError("roster-incomplete", "The door was closed from the other side.") from error

    def receive(self) -> Frame | None:
        """Wait for the next frame; None once the stream has ended.

        Raises:
            EscrowError: `update-invalid` if a frame is too long, `roster-incomplete` if the stream was cut off.
        """
        header = self._read(HEADER.size)
        if not header:
            return None
        party, number, length = HEADER.unpack(header)
        if length > PAYLOAD_BYTES_AT_MOST:
            raise EscrowError("update-invalid", "A message is longer than any may be.")
        return Frame(party, self._read(length) if length else b"", number)

    def _read(self, count: int) -> bytes:
        """So many bytes, or none if the stream ends before the first."""
        try:
            data: bytes = self._incoming.read(count)
        except OSError as error:
            raise EscrowError("roster-incomplete", "The door was closed from the other side.") from error
        if 0 < len(data) < count:
            raise EscrowError("roster-incomplete", "The stream was cut off in the middle of a message.")
        return data

    def close(self) -> None:
        """Close the door; the other side sees the stream end."""
        self._incoming.close()
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


__all__ = ["Door"]
