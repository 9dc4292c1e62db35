"""A prepared table on its way to the escrow, such that calling again never deposits it twice.

A sending that was cut off left its ciphertext and secrets at home. Whether they are of this very table is seen from the
commitment: the salt is there, and preparing a table gives the same bytes again.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from contracts.canonical import commitment
from contracts.errors import EscrowError
from contracts.proceedings import term_digest
from contracts.schema import Schema
from models.table import Prepared, write_prepared
from parties.client import Client
from parties.deposit import Deposit, Part, sealing_of

Told = Callable[[int, int | None], object]
"""Hears how many of how many bytes are on their way."""


class Sent(NamedTuple):
    """A deposit, and how it came to stand on the ledger."""

    deposit: Deposit
    how: str  # new, resumed or known

    def words(self) -> str:
        """For people."""
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
            "how": self.how,
        }


def deposit(client: Client, prepared: Prepared, part: Part, schema: Schema, told: Told) -> Sent:
    """Deposit a prepared table, or go on with an earlier call that was cut off.

    Raises:
        EscrowError: `runtime-busy` if another command sends from this home, or what the escrow refuses with.
    """
    with _alone(client.folder):
        stated = {each.commitment: each for each in client.escrow.deposits()}
        found = _prepared_before(client.folder, prepared, part, schema)
        fresh = [each for each in found if each.commitment not in stated or not stated[each.commitment].revoked]
        if not fresh:
            sealing = sealing_of(prepared, part, schema, client.folder)
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


def _prepared_before(folder: Path, prepared: Prepared, part: Part, schema: Schema) -> list[Deposit]:
    """The deposits at home that hold this very table."""
    wanted = (part, term_digest(schema))
    kept = (_kept(path) for path in sorted(folder.glob("*.json")))
    alike = [each for each in kept if each is not None and (each.part, each.schema) == wanted and each.path.is_file()]
    if not alike:
        return []
    buffer = BytesIO()
    write_prepared(buffer, prepared)
    content = f"sha256:{hashlib.sha256(buffer.getbuffer()).hexdigest()}"
    return [each for each in alike if commitment(bytes.fromhex(each.salt), content) == each.commitment]


def _kept(path: Path) -> Deposit | None:
    """A deposit's secrets; None for a file that a crash cut short, whose deposit was never sent whole."""
    try:
        return Deposit.load(path)
    except (json.JSONDecodeError, KeyError, TypeError):
        return None
