"""How far a training has come, kept while its run is under way: its attempts, and its last whole round.

Rules:

1. A checkpoint is encrypted to the run key, and there whole or not at all. It is not made sure on the disk: one that a
   power cut took, or that cannot be opened, is none, and the training begins anew.
2. It is kept under the contract's guard, and only while the folder is there that a look at the ledger allowed
   (`begin`). Whoever destroys what a run made removes the folder under that guard, so no round waits for the ledger.
3. Attempts are numbered through the whole run, escrows that were killed included: a node never takes one for another.

One file holds a line of JSON, what was said in which round, and then what the asking worker handed over.
"""

import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from threading import RLock
from typing import Final

from contracts.canonical import canonical, parse
from contracts.errors import EscrowError
from contracts.terms import Digest
from escrow.age import Writer
from escrow.runstore import RunStore

FOLDER: Final = "checkpoint"
_ATTEMPTS: Final = "attempts"


class Checkpoint:
    """The state of a training after a whole round.

    Attributes:
        rounds: round → digest of what was said in it, of all rounds up to this one.

    """

    def __init__(self, store: RunStore, path: Path) -> None:
        """Open it.

        Raises:
            EscrowError: it cannot be opened.
            OSError: it is not there.
        """
        self._store, self._path = store, path
        with Path(os.devnull).open("wb") as nowhere:
            self.rounds = self._read(nowhere)

    def write(self, file: Writer) -> None:
        """Write what the asking worker handed over into an open file; errors as when it is opened."""
        self._read(file)

    def _read(self, file: Writer) -> Mapping[int, Digest]:
        after = _AfterFirstLine(file)
        with self._path.open("rb") as sealed:
            self._store.unseal(sealed, after)
        document = parse(bytes(after.line))
        return {int(number): str(each) for number, each in document.items()} if isinstance(document, dict) else {}


class Checkpoints:
    """The attempts of one run, and its last checkpoint.

    Args:
        store: of the run.
        guard: of the contract.

    """

    def __init__(self, store: RunStore, guard: RLock) -> None:
        self._store, self._guard = store, guard
        self._folder = store.root / FOLDER
        self._path = self._folder / "last"

    def begin(self) -> int:
        """The run's next attempt, from 1; the guard is held and the contract has not ended."""
        self._folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        return self._count("begun")

    def lose(self) -> int:
        """Note that an attempt was lost, as `begin`; how many of this run have been."""
        return self._count("lost")

    def _count(self, what: str) -> int:
        stated = self._store.stated(_ATTEMPTS)
        found = None if stated is None else parse(stated)
        counts = {"begun": 0, "lost": 0} | (found if isinstance(found, dict) else {})
        count = int(str(counts[what])) + 1
        self._store.state(_ATTEMPTS, canonical({**counts, what: count}))
        return count

    def keep(self, state: Sequence[bytes], rounds: Mapping[int, Digest]) -> None:
        """Keep a round's checkpoint, in place of the one before.

        Args:
            state: what the asking worker handed over, in parts; no copy is made of them together.
            rounds: see `Checkpoint`.

        """
        line = canonical({str(number): each for number, each in rounds.items()}) + b"\n"
        incoming = self._folder / "incoming"
        with self._guard:
            if not self._folder.exists():
                return  # the contract has ended, and with it whatever waits for this
            with incoming.open("wb") as file:
                self._store.seal(_Joined(line, *state), file)
            incoming.replace(self._path)

    def last(self) -> Checkpoint | None:
        """The last whole round that was kept, if there is one and it can be opened."""
        try:
            return Checkpoint(self._store, self._path)
        except (EscrowError, OSError):
            return None


class _Joined:
    """Reads some bytes after some others, without copying them together."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = [BytesIO(part) for part in parts]

    def read(self, size: int) -> bytes:
        while self._parts:
            if data := self._parts[0].read(size):
                return data
            self._parts.pop(0)
        return b""


class _AfterFirstLine:
    """Writes on what comes after the first line, which it keeps."""

    def __init__(self, file: Writer) -> None:
        self._file = file
        self._whole = False
        self.line = bytearray()

    def write(self, data: bytes) -> int:
        rest = data
        if not self._whole:
            begin, end, rest = data.partition(b"\n")
            self._whole = bool(end)
            self.line += begin
        while rest:
            rest = rest[self._file.write(rest) :]
        return len(data)

    def flush(self) -> None:
        self._file.flush()


__all__ = ["FOLDER", "Checkpoint", "Checkpoints"]
