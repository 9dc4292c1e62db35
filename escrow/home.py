"""The directory of an escrow: its key, the origin of its ledger, and the lock of the one process that serves it."""

import fcntl
import json
import os
import secrets
from pathlib import Path

from contracts.errors import EscrowError
from contracts.signing import Ed25519Signer

LEDGER = "ledger.db"
_KEY, _ABOUT, _LOCK = "key.pem", "escrow.json", "lock"


def make(directory: Path, origin: str) -> None:
    """Give a directory the key of a new escrow.

    Raises:
        EscrowError: `escrow-exists` if it holds one.
    """
    if (directory / _KEY).exists():
        raise EscrowError("escrow-exists", f"{directory} holds an escrow.")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    signer = Ed25519Signer.from_seed(secrets.token_bytes(32))
    (directory / _ABOUT).write_text(json.dumps({"origin": origin, "public-key": signer.public}) + "\n")
    partial = directory / f"{_KEY}.partial"  # the key comes last and whole: cut short, the directory holds no escrow
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(signer.to_pem())
        file.flush()
        os.fsync(file.fileno())
    partial.rename(directory / _KEY)


def open_key(directory: Path) -> tuple[Ed25519Signer, str]:
    """The escrow's signer and the origin of its ledger.

    Raises:
        EscrowError: `escrow-missing` if the directory holds no escrow.
    """
    origin, _ = about(directory)
    try:
        return Ed25519Signer.from_pem((directory / _KEY).read_bytes()), origin
    except OSError:
        raise EscrowError("escrow-missing", f"{directory} holds no escrow.") from None


def about(directory: Path) -> tuple[str, str]:
    """The origin of the ledger and the public key it says it has; a bank trusts the one that it pinned.

    Raises:
        EscrowError: `escrow-missing` if the directory holds no escrow.
    """
    try:
        found = json.loads((directory / _ABOUT).read_text())
        return str(found["origin"]), str(found["public-key"])
    except (OSError, ValueError, KeyError, TypeError):
        raise EscrowError("escrow-missing", f"{directory} holds no escrow.") from None


class Lock:
    """The directory is this process's until `release`, or until the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Give the directory back; nothing happens a second time."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def lock(directory: Path) -> Lock:
    """Take the directory: a second process would sweep away what the first one runs.

    Raises:
        EscrowError: `escrow-busy` if another has it.
    """
    descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise EscrowError("escrow-busy", f"{directory} is served by another process.") from None
    return Lock(descriptor)
