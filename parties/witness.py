"""A bank remembers the last head of the ledger it saw, and refuses one that does not continue it.

Every answer of an escrow over the network carries its head and a proof. The head must be signed by the pinned escrow,
be no shorter than what this bank knew when it asked, and be proven to continue it. What is refused is kept, with what
was remembered, as evidence that anyone who knows the escrow's key can check; so is a receipt that proves nothing.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from contracts.api import Receipt
from contracts.canonical import encode_base64
from contracts.errors import EscrowError, Exit
from contracts.notes import Checkpoint
from contracts.signing import Envelope
from contracts.transparency import verify_consistency
from parties.identity import Pinned, pinned, write_private

Ask = Callable[[int, int], Sequence[bytes]]
"""Asks the escrow for the proof that the ledger of the second size continues that of the first."""


@dataclass(frozen=True)
class Witness:
    """The memory of one home directory; processes and threads that share it take turns."""

    home: Path

    @property
    def path(self) -> Path:
        """The remembered head, a signed note."""
        return self.home / "head.note"

    def seen(self) -> int:
        """How many entries the remembered head has; 0 if there is none."""
        note = self._note()
        return int(note.split("\n", 2)[1]) if note else 0

    def saw(self, note: str, ask: Ask, *, since: int = 0, proof: Sequence[bytes] | None = None) -> Checkpoint:
        """Check a head against the remembered one and remember it, if it is longer.

        Args:
            note: the head, a signed note.
            ask: how to get a proof that was not sent along.
            since: the size this bank knew of when it asked; the head may not be shorter.
            proof: that the head continues the ledger of `since` entries, if it was sent along.

        Raises:
            EscrowError: `ledger-tampered`, and the evidence is kept.
        """
        with self._locked():
            remembered = self._note()
            escrow = pinned(self.home)
            try:
                now = escrow.checkpoint(note)
                before = escrow.checkpoint(remembered) if remembered else None
                if before is not None:
                    _continues(before, now, ask, since, proof)
            except EscrowError as error:
                if error.exit is not Exit.REFUSED:
                    raise  # the connection was lost, which is evidence of nothing
                raise self._refused(error, escrow, remembered, note, proof) from error
            if before is None or now.size > before.size:
                write_private(self.path, note.encode())
        return now

    def _note(self) -> str:
        try:
            return self.path.read_text()
        except FileNotFoundError:
            return ""

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.home / "head.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _refused(
        self, error: EscrowError, escrow: Pinned, remembered: str, note: str, proof: Sequence[bytes] | None
    ) -> EscrowError:
        """The error to raise, with the evidence kept under a name that follows from its content."""
        found = {
            "ledger": escrow.ledger,
            "public-key": escrow.public_key,
            "remembered": remembered,
            "shown": note,
            "proof": [each.hex() for each in proof or ()],
            "refused": error.message,
        }
        return _with_evidence(self.home, error, found, "The escrow's ledger does not continue the one this bank saw")


def refused_receipt(home: Path, error: EscrowError, envelope: Envelope, receipt: Receipt) -> EscrowError:
    """The error to raise for a receipt that does not prove that the envelope's statement stands on the ledger.

    The evidence is kept: the statement, and all that the escrow answered.
    """
    escrow = pinned(home)
    found = {
        "ledger": escrow.ledger,
        "public-key": escrow.public_key,
        "envelope": encode_base64(envelope.to_bytes()),
        "receipt": receipt.model_dump(mode="json", by_alias=True),
        "refused": error.message,
    }
    return _with_evidence(home, error, found, "The escrow's receipt does not prove that the statement stands there")


def _with_evidence(home: Path, error: EscrowError, found: Mapping[str, object], meaning: str) -> EscrowError:
    """The error to raise, with the evidence kept; what a proof or the ledger itself shows is called tampering."""
    path = keep_evidence(home, found)
    if error.code not in {"proof-invalid", "ledger-tampered"}:
        return error
    return EscrowError(
        "ledger-tampered",
        f"{meaning}: {error.message}",
        f"The evidence is in {path}; compare heads with the other parties before you go on.",
    )


def keep_evidence(home: Path, found: Mapping[str, object]) -> Path:
    """Keep what was refused, and what it was compared with, under a name that follows from it; its path."""
    folder = home / "evidence"
    folder.mkdir(mode=0o700, exist_ok=True)
    content = (json.dumps(found, indent=1) + "\n").encode()
    path = folder / f"{hashlib.sha256(content).hexdigest()[:16]}.json"
    write_private(path, content)
    return path


def _continues(before: Checkpoint, now: Checkpoint, ask: Ask, since: int, proof: Sequence[bytes] | None) -> None:
    if now.size < since:
        raise EscrowError("ledger-tampered", f"It has {now.size} entries and had {since}.")
    if now.size < before.size:  # another call of this bank was answered later and came first
        verify_consistency(now.size, now.root, before.size, before.root, ask(now.size, before.size))
        return
    if now.size == before.size:
        steps: Sequence[bytes] = ()
    else:
        steps = proof if proof is not None and since == before.size else ask(before.size, now.size)
    verify_consistency(before.size, before.root, now.size, now.root, steps)
