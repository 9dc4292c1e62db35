"""What a home remembers of contracts for its nodes, over restarts: `nodes/` in it.

1. How often a run has begun here. It is written before anything of that attempt starts, so whoever makes a node begin
   again and again, or is started again, does not begin at nothing.
2. What this bank has taken back: a contract that it halted, rejected or withdrew, a deposit that it revoked. It is
   marked before the escrow hears of it, so this bank's own node ends whatever the escrow does. The mark stays, also if
   the escrow refuses the statement: who removes the file has decided so.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import EscrowError
from contracts.terms import Digest
from parties.identity import write_private


@dataclass(frozen=True)
class Marks:
    """The memory of one home; one program at a time runs its nodes, and any may take something back."""

    home: Path

    def began(self, contract: Digest, run: int) -> int:
        """Count one more beginning of a run; how many there were, this one included.

        Raises:
            EscrowError: `file-unreadable` if what was counted cannot be read.
        """
        path = self.counts(contract)
        try:
            counted: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        except (OSError, ValueError):
            raise EscrowError("file-unreadable", f"{path} cannot be read: how often runs began here.") from None
        counted[str(run)] = counted.get(str(run), 0) + 1
        self._write(path, json.dumps(counted))
        return counted[str(run)]

    def counts(self, contract: Digest) -> Path:
        """The file with the counts of a contract."""
        return self._path(contract, "json")

    def take_back(self, what: str) -> None:
        """Mark a contract, or a commitment, as taken back by this bank."""
        self._write(self._path(what, "ended"), f"{what}\n")

    def taken_back(self, each: Iterable[str]) -> Path | None:
        """The mark of the first of these that was taken back, if one was."""
        return next((path for what in each if (path := self._path(what, "ended")).exists()), None)

    def _path(self, what: str, kind: str) -> Path:
        return self.home / "nodes" / f"{what.rpartition(':')[2]}.{kind}"

    def _write(self, path: Path, text: str) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_private(path, text.encode())


__all__ = ["Marks"]
