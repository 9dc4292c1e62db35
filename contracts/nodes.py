"""What a bank's node and the escrow say to each other while rows that stay at the bank are trained on. Pure.

The connection may break at any time and be made again; the conversation goes on where it was. It can, because it is a
strict alternation: the escrow asks, the node's worker answers, and each question and answer is one whole frame
(`contracts.frames`). So each side has at most one frame that the other may not have, keeps that one, and tells how many
it has got. Rules:

1. A node first says `Here`: which run and attempt it has a worker for, if any, and how many questions of it arrived.
2. If the escrow knows nothing of that attempt, or has ended it, it says `Over` at once. Else it waits until the
   training needs the node, and says `Begin`: run, attempt, and how many answers it has. If that is another run or
   attempt than the node stated, the node ends its worker and starts one anew, from nothing.
3. Then frames, each in `Piece`s of exactly `PIECE_BYTES` and a last one that may be shorter, from the first frame that
   the other side lacks. A connection that breaks in the middle of a frame has sent none of it.
4. `Over` ends an attempt, also in the middle of an answer, of which the node may still send the rest: its worker ends.
   Once it has, the node says `Here` again, on the same connection, for what may follow.
5. `Failed` says that the node's worker cannot go on, and may be said from `Begin` on; the escrow says `Over`. Its code
   is one of `FAILURES`: what else went wrong at a bank is `training-failed`, and its machine's trouble `worker-lost`.
6. A node that comes back without its worker, when questions were answered that nobody keeps, has lost the attempt.
7. Of one party's connections for one contract the newest counts. An older one is refused with `node-refused`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Final

from pydantic import Field

from contracts.errors import EscrowError
from contracts.frames import HEADER, PAYLOAD_BYTES_AT_MOST, whose
from contracts.terms import Term

PIECE_BYTES: Final = 1 << 20
FRAME_BYTES_AT_MOST: Final = HEADER.size + PAYLOAD_BYTES_AT_MOST
FAILURES: Final = frozenset(
    {
        "bundle-invalid",
        "column-missing",
        "commitment-mismatch",
        "counts-differ",
        "feature-forbidden",
        "limit-memory",
        "limit-processes",
        "limit-results",
        "limit-time",
        "model-invalid",
        "output-refused",
        "scores-invalid",
        "table-empty",
        "table-invalid",
        "training-failed",
        "update-invalid",
        "window-empty",
        "worker-changed",
        "worker-lost",
        "worker-silent",
    }
)
"""What a worker at a bank can fail with. None of it says anything of the escrow's own machine, or of the law."""
Number = Annotated[int, Field(strict=True, ge=0, le=2**53)]


class Here(Term):
    """A node: where it stands."""

    run: Number = 0
    attempt: Number = 0
    questions: Number = 0


class Failed(Term):
    """A node: its worker has failed."""

    code: str

    def meant(self) -> str:
        """The code that the escrow believes."""
        return self.code if self.code in FAILURES else "training-failed"


class Begin(Term):
    """The escrow: an attempt begins, or goes on."""

    run: Number
    attempt: Number
    answers: Number


class Over(Term):
    """The escrow: the attempt has ended, however."""


@dataclass(frozen=True)
class Piece:
    """Either side: some bytes of a frame; `last` ends it."""

    data: bytes = field(repr=False)
    last: bool


Said = Here | Failed | Piece
"""What a node says."""
Told = Begin | Over | Piece
"""What the escrow says."""


def pieces(frame: bytes) -> Iterator[Piece]:
    """A frame as it travels."""
    for start in range(0, len(frame), PIECE_BYTES):
        yield Piece(frame[start : start + PIECE_BYTES], last=start + PIECE_BYTES >= len(frame))


class Pieces:
    """Puts a frame together; bounded."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, piece: Piece) -> bytes | None:
        """Take the next piece; the whole frame if it was the last.

        Raises:
            EscrowError: `update-invalid` if the frame is longer than any may be or than it says, or comes in pieces of
                another size.
        """
        self._size += len(piece.data)
        if not (len(piece.data) == PIECE_BYTES or (piece.last and 0 < len(piece.data) < PIECE_BYTES)):
            raise EscrowError("update-invalid", f"A message comes in pieces of other sizes than {PIECE_BYTES} bytes.")
        if self._size > FRAME_BYTES_AT_MOST:
            raise EscrowError("update-invalid", f"A message is longer than the {FRAME_BYTES_AT_MOST} bytes allowed.")
        self._parts.append(piece.data)
        if not piece.last:
            return None
        frame = b"".join(self._parts)
        self._parts, self._size = [], 0
        whose(frame)
        return frame


__all__ = [
    "FAILURES",
    "FRAME_BYTES_AT_MOST",
    "PIECE_BYTES",
    "Begin",
    "Failed",
    "Here",
    "Over",
    "Piece",
    "Pieces",
    "Said",
    "Told",
    "pieces",
]
