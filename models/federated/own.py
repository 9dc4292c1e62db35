"""Fetching the parties' own models: all are asked at once and train meanwhile; nothing goes to them but questions.

What arrives is files of known names and bounded size, packed as `contracts.archive` says. What is in them is for their
reader to check: here they are bytes.
"""

from collections.abc import Collection, Mapping
from typing import Final

import numpy as np
from flwr.app import Message, MetricRecord

from contracts import archive
from contracts.errors import EscrowError
from contracts.frames import ARRAY_BYTES_AT_MOST
from models.federated import records
from models.federated.checks import checked_vectors, refusal
from models.federated.records import Part
from models.federated.roster import Roster
from models.federated.vectors import cuts

_AROUND: Final = 2048
"""Bytes that an archive adds for each file and in all, at most."""


def fetch_own(roster: Roster, parties: Collection[str], limits: Mapping[str, int]) -> dict[str, dict[str, bytes]]:
    """The own models' files of some parties, by party and name.

    Args:
        roster: the parties on their grid.
        parties: whom to ask.
        limits: the files that each party sends, and the most bytes of each.

    Raises:
        EscrowError: `roster-incomplete`, and `update-invalid` for anything but exactly these files.
    """
    incoming = {party: _Incoming(party, roster.rows[party], limits) for party in parties}
    number = 1
    while asked := [party for party, each in incoming.items() if number <= each.parts]:
        for of in sorted({incoming[party].parts for party in asked}):
            group = [party for party in asked if incoming[party].parts == of]

            def check(party: str, reply: Message) -> None:
                incoming[party].take(reply)

            question = records.query(Part(0, number, max(number, of)))
            roster.ask(records.ASK_OWN, question, number=0, check=check, of=group)()
        number += 1
    return {party: each.files() for party, each in sorted(incoming.items())}


class _Incoming:
    """One party's files as they arrive."""

    def __init__(self, party: str, rows: int, limits: Mapping[str, int]) -> None:
        self._party, self._rows, self._limits = party, rows, limits
        self._at_most = sum(size + _AROUND for size in limits.values())
        self._size: int | None = None
        self._arrived: list[bytes] = []

    @property
    def parts(self) -> int:
        """How many parts there are, as far as is known."""
        return 1 if self._size is None else len(cuts(self._size, ARRAY_BYTES_AT_MOST))

    def take(self, reply: Message) -> None:
        """Check and keep the next part."""
        if self._size is None:
            self._size = self._stated(reply)
        cut = cuts(self._size, ARRAY_BYTES_AT_MOST)[len(self._arrived)]
        metrics = {records.ROWS: self._rows, records.BYTES: self._size}
        (part,) = checked_vectors(reply.content, [("uint8", cut.stop - cut.start)], metrics, self._party)
        self._arrived.append(part.tobytes())

    def files(self) -> dict[str, bytes]:
        """All of it, unpacked."""
        try:
            files = archive.unpack(b"".join(self._arrived), self._limits)
        except EscrowError as error:
            raise self._refused() from error
        if set(files) != set(self._limits):
            raise self._refused()
        return files

    def _stated(self, reply: Message) -> int:
        """How many bytes the party says it will send."""
        metrics = reply.content.get(records.METRICS)
        size = metrics.get(records.BYTES) if isinstance(metrics, MetricRecord) else None
        if type(size) is not int or not 0 < size <= self._at_most:
            raise refusal(self._party, "does not say how large its own model is, or it is too large")
        return size

    def _refused(self) -> EscrowError:
        return refusal(self._party, "does not hold exactly the files of its own model")


def packed_own(files: Mapping[str, bytes]) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """A party's own model files as the vector that travels."""
    return np.frombuffer(archive.pack(files), np.uint8)
