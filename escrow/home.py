"""The directory of an escrow: its key, the origin of its ledger, where its data lie, and the lock of the one process
that serves it.

`escrow.json` says the origin, the public key and, where the ledger or the encrypted files do not lie in the directory
itself, the URLs of database and blobs. A URL may hold a password: only the owner reads the file.
"""

import fcntl
import json
import os
import secrets
from pathlib import Path

from contracts.errors import EscrowError
from contracts.signing import Ed25519Signer

LEDGER = "ledger.db"
_KEY, _ABOUT, _LOCK = "key.pem", "escrow.json", "lock"


def make(directory: Path, origin: str, database: str | None = None, blobs: str | None = None) -> None:
    """Give a directory the key of a new escrow.

    Args:
        directory: made if it is not there.
        origin: of the ledger's checkpoints.
        database: SQLAlchemy URL of the ledger; a file in the directory if None.
        blobs: URL of the storage for encrypted files; a folder in the directory if None.

    Raises:
        EscrowError: `escrow-exists` if it holds one.
    """
    if (directory / _KEY).exists():
        raise EscrowError("escrow-exists", f"{directory} holds an escrow.")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    signer = Ed25519Signer.from_seed(secrets.token_bytes(32))
    about = {"origin": origin, "public-key": signer.public, "database": database, "blobs": blobs}
    _write(directory / _ABOUT, json.dumps({key: text for key, text in about.items() if text}).encode() + b"\n")
    _write(directory / _KEY, signer.to_pem())  # the key comes last: cut short, the directory holds no escrow


def _write(path: Path, data: bytes) -> None:
    """Put a file in its place whole, for its owner's eyes."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


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
    found = _about(directory)
    return found["origin"], found["public-key"]


def database_url(directory: Path) -> str:
    """The SQLAlchemy URL of the ledger's database; it may hold a password.

    Raises:
        EscrowError: `escrow-missing` if the directory holds no escrow.
    """
    return _about(directory).get("database") or f"sqlite:///{directory / LEDGER}"


def blobs_url(directory: Path) -> str | None:
    """The URL of the storage for encrypted files, None for a folder in the directory; it may hold a password.

    Raises:
        EscrowError: `escrow-missing` if the directory holds no escrow.
    """
    return _about(directory).get("blobs")


def _about(directory: Path) -> dict[str, str]:
    try:
        found = json.loads((directory / _ABOUT).read_text())
        return {"origin": found["origin"], "public-key": found["public-key"], **found}
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
