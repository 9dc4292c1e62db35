"""A file on its way to the escrow, such that calling again never deposits it twice.

A sending that was cut off left its ciphertext and secrets at home. Whether they are of this very content is seen from
the commitment: the salt is there, and opening the content gives the same bytes again. What stays at the bank is
encrypted and stated in the same way, and its file is not sent.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from contracts.canonical import commitment
from contracts.errors import EscrowError
from contracts.proceedings import term_digest
from contracts.schema import Schema
from parties.client import Client
from parties.sealing import CHUNK, Deposit, Part, Sealing

Told = Callable[[int, int | None], object]
"""Hears how many of how many bytes are on their way."""


@dataclass(frozen=True)
class Content:
    """What is to be deposited.

    Attributes:
        part: of a contribution.
        open: opens the plaintext, which is the same bytes each time.
        schema: by which it was made, if that is for a joint training.
        rows: that it has, if it is a table.
        positives: frauds among them, if it is a holdout.
        kept: whether it is committed to and stays at the bank.
    """

    part: Part
    open: Callable[[], BinaryIO]
    schema: Schema | None = None
    rows: int | None = None
    positives: int | None = None
    kept: bool = False

    def sealing(self, plaintext: BinaryIO, folder: Path) -> Sealing:
        """What was opened, to be committed and encrypted while it is being sent."""
        counts = {"rows": self.rows, "positives": self.positives}
        return Sealing(plaintext, folder, part=self.part, schema=self.schema, kept=self.kept, **counts)


class Sent(NamedTuple):
    """A deposit, and how it came to stand on the ledger."""

    deposit: Deposit
    how: str  # new, resumed or known

    def words(self) -> str:
        """For people."""
        if self.deposit.kept:
            return "was committed to before; stays here" if self.how == "known" else "committed to; stays here"
        return {"new": "deposited", "resumed": "deposited, resumed", "known": "was deposited before"}[self.how]

    def data(self) -> dict[str, Any]:
        """For programs."""
        each = self.deposit
        return {
            "part": each.part,
            "commitment": each.commitment,
            "rows": each.rows,
            "positives": each.positives,
            "size": each.size,
            "kept": each.kept,
            "how": self.how,
        }


def deposit(client: Client, content: Content, told: Told) -> Sent:
    """Deposit something, or go on with an earlier call that was cut off.

    Raises:
        EscrowError: `upload-busy` if another command sends from this home, or what the escrow refuses with.
    """
    with _alone(client.folder):
        stated = {each.commitment: each for each in client.escrow.deposits()}
        found = held(client.folder, content)
        fresh = [each for each in found if each.commitment not in stated or not stated[each.commitment].revoked]
        if not fresh:
            with content.open() as plaintext:
                sealing = content.sealing(plaintext, client.folder)
                return Sent(client.send(sealing, lambda done: told(done, None)), "new")
        known = next((each for each in fresh if each.commitment in stated), None)
        if known:
            return Sent(known, "known")
        client.deposit(fresh[:1], lambda done: told(done, fresh[0].size))
        return Sent(fresh[0], "resumed")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One command at a time sends from a home; what a killed one left half encrypted is removed."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EscrowError(
                "upload-busy", f"Another command sends from {folder}.", "Wait until it has ended."
            ) from None
        for path in folder.glob("*.partial"):
            path.unlink()
        yield
    finally:
        os.close(descriptor)


def held(folder: Path, content: Content) -> list[Deposit]:
    """The deposits at home that hold this very content, sent or kept as it is to be."""
    wanted = (content.part, content.schema and term_digest(content.schema), content.kept)
    found = [each for each in _all(folder) if (each.part, each.schema, each.kept) == wanted and each.path.is_file()]
    return _alike(found, content)


def require_not_kept(folder: Path, content: Content) -> None:
    """Refuse to send what was kept here before, whatever schema that was committed to by.

    Raises:
        EscrowError: `deposit-kept`.
    """
    if _alike([each for each in _all(folder) if each.kept], content):
        raise EscrowError("deposit-kept", "These very training rows were kept here before, and would now be sent.")


def _alike(found: list[Deposit], content: Content) -> list[Deposit]:
    """Those of the deposits that hold this very content."""
    if not found:
        return []
    hashed = hashlib.sha256()
    with content.open() as plaintext:
        for chunk in iter(partial(plaintext.read, CHUNK), b""):
            hashed.update(chunk)
    digest = f"sha256:{hashed.hexdigest()}"
    return [each for each in found if commitment(bytes.fromhex(each.salt), digest) == each.commitment]


def _all(folder: Path) -> list[Deposit]:
    return [each for path in sorted(folder.glob("*.json")) if (each := _held(path)) is not None]


def _held(path: Path) -> Deposit | None:
    """A deposit's secrets; None for a file that a crash cut short, whose deposit was never sent whole."""
    try:
        return Deposit.load(path)
    except (json.JSONDecodeError, KeyError, TypeError):
        return None
