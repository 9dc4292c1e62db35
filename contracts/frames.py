"""How messages pass between sealed workers, and between a bank's node and the escrow: frames on a stream.

Pure: bytes in, frames out. A frame is the number of a party (four bytes), the number of a round (four bytes), the
length of the payload (four bytes), all big-endian, and the payload, which only the workers understand. Rules:

1. A frame is no longer than its bound. Whoever reads one knows before it has taken more than the twelve bytes.
2. The first number says whom a frame is for, or whom it is from; parties are counted from 0 in the order of their
   names. `KEEPER` is nobody's: what the asker sends there is kept by the escrow, and never answered.
3. Round 0 is everything before the first round. An answer has the round of its question.
4. What is to be kept of a round comes in parts of exactly `PART_BYTES` and a last one that is shorter, maybe empty.
"""

from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from contracts.errors import EscrowError

PAYLOAD_BYTES_AT_MOST: Final = 16 << 20
"""Of one message. What is larger is sent in parts (`models.federated.records`)."""
PART_BYTES: Final = 4 << 20
ARRAY_BYTES_AT_MOST: Final = PART_BYTES - 65_536
"""Of the numbers, or bytes, that one part carries; the rest is room for everything else in the message."""
ARRAYS_AT_MOST: Final = 1 << 28
"""Bytes that one part of every party together may carry: with many parties the parts are smaller."""
KEEPER: Final = 0xFFFF_FFFF

HEADER: Final = Struct(">III")


@dataclass(frozen=True)
class Frame:
    """One message on its way.

    Attributes:
        party: the party's number, or `KEEPER`.
        payload: opaque here.
        round: the round it belongs to.

    """

    party: int
    payload: bytes = field(repr=False)
    round: int = 0

    def header(self) -> bytes:
        """What goes before the payload.

        Raises:
            EscrowError: `update-invalid` if the payload is longer than its bound.
        """
        return header(self.party, self.round, len(self.payload))

    def encode(self) -> bytes:
        """The frame's bytes; see `header` for what it raises."""
        return self.header() + self.payload


def header(party: int, number: int, length: int) -> bytes:
    """What goes before the payload of a frame; see `Frame`.

    Raises:
        EscrowError: `update-invalid` if the payload is longer than its bound.
    """
    _require(length, PAYLOAD_BYTES_AT_MOST)
    return HEADER.pack(party, number, length)


class FrameReader:
    """Cuts a stream into frames, however the stream is cut when it arrives."""

    def __init__(self, *, at_most: int = PAYLOAD_BYTES_AT_MOST) -> None:
        """Read frames with payloads of `at_most` bytes."""
        self._at_most = at_most
        self._bytes = bytearray()

    @property
    def amid(self) -> bool:
        """Whether a frame has begun to arrive: a stream that ends now was cut off."""
        return bool(self._bytes)

    def feed(self, data: bytes) -> list[Frame]:
        """Take what arrived; the frames that it completes, in order.

        Raises:
            EscrowError: `update-invalid` if a frame is longer than its bound; the stream is of no use any more.
        """
        self._bytes += data
        frames = []
        while len(self._bytes) >= HEADER.size:
            party, number, length = HEADER.unpack_from(self._bytes)
            _require(length, self._at_most)
            end = HEADER.size + length
            if len(self._bytes) < end:
                break
            with memoryview(self._bytes) as view:
                frames.append(Frame(party, bytes(view[HEADER.size : end]), number))
            del self._bytes[:end]
        return frames


def whose(frame: bytes) -> tuple[int, int]:
    """The party and the round of a whole frame.

    Raises:
        EscrowError: `update-invalid` if this is more than one frame or less, or one that is longer than its bound.
    """
    if len(frame) < HEADER.size:
        raise EscrowError("update-invalid", "A message is shorter than what stands before every message.")
    party, number, length = HEADER.unpack_from(frame)
    _require(length, PAYLOAD_BYTES_AT_MOST)
    if length != len(frame) - HEADER.size:
        raise EscrowError("update-invalid", "A message has another length than it says.")
    return party, number


def floats_in_a_part(parties: int) -> int:
    """How many float32 numbers one part carries when so many parties answer each question."""
    return max(1024, min(ARRAY_BYTES_AT_MOST, ARRAYS_AT_MOST // parties) // 4)


def _require(length: int, at_most: int) -> None:
    if length > at_most:
        raise EscrowError("update-invalid", f"A message of {length} bytes is longer than the {at_most} allowed.")


__all__ = [
    "ARRAYS_AT_MOST",
    "ARRAY_BYTES_AT_MOST",
    "HEADER",
    "KEEPER",
    "PART_BYTES",
    "PAYLOAD_BYTES_AT_MOST",
    "Frame",
    "FrameReader",
    "floats_in_a_part",
    "header",
    "whose",
]
