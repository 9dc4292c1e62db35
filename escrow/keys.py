"""The keys of runs: one X25519 identity for each run of a contract, on the local disk and nowhere else.

Deposits are locked to their owner's key; an owner's approval seals the deposit's key to the run's identity.

Rules:

1. A key is there whole or not at all. Erased, it never comes back under the same name.
2. Files have mode 0600, the directory 0700; a name is checked before it touches a path.
"""

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from pyrage import x25519

from contracts.errors import EscrowError
from escrow.age import identity_of
from escrow.disk import private, sync

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,119}")
_NEW: Final = ".new"
_ERASED: Final = ".erased"


class Keys:
    """A directory of run keys. `sweep` belongs to start-up, before any other call."""

    def __init__(self, folder: Path) -> None:
        self._folder = private(folder)

    def open(self, name: str) -> str:
        """Return the recipient `age1…` of a run, whose key is made the first time.

        `vault-sealed` if the run's key was erased: a run that ended does not open again.
        """
        self._refuse_erased(name)
        path = self._key(name)
        if not path.exists():
            self._create(path, str(x25519.Identity.generate()).encode())
        return str(identity_of(self.identity(name)).to_public())

    def identity(self, name: str) -> str:
        """Return the secret identity `AGE-SECRET-KEY-1…` of a run; `vault-sealed` if it was never opened, or erased."""
        self._refuse_erased(name)
        try:
            return self._key(name).read_text(encoding="ascii")
        except FileNotFoundError as error:
            raise EscrowError("vault-sealed", f"No key was opened for the run {name}.") from error

    def erase(self, name: str) -> None:
        """Erase a run's key for good; nothing happens if it is erased.

        What this does: records that the name is erased, overwrites the key's bytes in place, syncs, unlinks, syncs the
        directory. Interrupted anywhere, the key is already refused, and `sweep` completes the rest.

        What holds afterwards: this directory never returns the key again, and no name leads to its bytes. On a disk
        that rewrites in place (ext4 or XFS on a magnetic disk) the bytes are gone.

        What does not: an SSD writes the zeros elsewhere and keeps the old cells until it collects them; copy-on-write
        and log-structured file systems (Btrfs, ZFS, F2FS), snapshots, data journalling and backups keep the old
        block; swap may hold what was in memory. Where that matters, put the keys on an encrypted volume whose key can
        be destroyed, or on memory. Whoever copied the key before still has it.
        """
        path = self._key(name)
        with suppress(FileExistsError):
            self._create(path.with_name(name + _ERASED), b"")
        self._overwrite(path)

    def sweep(self) -> None:
        """Remove what interrupted calls left, and complete interrupted erasures."""
        for path in self._folder.glob(f"*{_NEW}"):
            self._discard(path)
        for path in self._folder.glob(f"*{_ERASED}"):
            self._overwrite(path.with_suffix(""))

    def _key(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a run")
        return self._folder / name

    def _refuse_erased(self, name: str) -> None:
        if self._key(name).with_name(name + _ERASED).exists():
            raise EscrowError("vault-sealed", f"The key of the run {name} was erased.", "Propose another contract.")

    def _create(self, path: Path, content: bytes) -> None:
        """Create a file whole or not at all; if another caller was first, theirs stays."""
        new = path.with_name(f"{secrets.token_hex(16)}{_NEW}")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            path.hardlink_to(new)
        sync(self._folder)
        self._discard(new)

    def _discard(self, new: Path) -> None:
        """Remove the first name of a file from `_create`; if that is its only name, its bytes too."""
        if new.stat().st_nlink == 1:
            self._overwrite(new)
        else:
            new.unlink()

    def _overwrite(self, path: Path) -> None:
        """Overwrite a file in place, then remove it; nothing happens if it is not there."""
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        try:
            os.pwrite(fd, bytes(os.fstat(fd).st_size), 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        path.unlink()
        sync(self._folder)
