"""The escrow's store of encrypted blobs, and the keys of runs that can open them.

Rules:

1. A blob is ciphertext (age, https://age-encryption.org/v1) and is named by its SHA-256. The vault never sees
   plaintext at rest: `seal` encrypts on the way to the disk, `unseal` decrypts on the way to a job's directory.
2. A blob is there whole or not at all, also after SIGKILL or a power cut: it is written beside its place, synced and
   renamed.
3. Deposits are locked to their owner's key. What the escrow holds is one X25519 identity for each run of a contract;
   an owner's approval seals the deposit's key to it. Erased, it never comes back under the same name.
4. Files have mode 0600, directories 0700; names are checked before they touch a path.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, Self

from pyrage import x25519

from contracts.errors import EscrowError
from contracts.terms import Digest
from escrow.age import Reader, Writer, identity_of, seal_stream, unseal_bytes, unseal_stream

__all__ = ["Vault", "seal_stream", "unseal_bytes", "unseal_stream"]

_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,119}")
_NEW: Final = ".new"
_ERASED: Final = ".erased"


def sync(folder: Path) -> None:
    """Make names that were added to or removed from a directory last."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class _Incoming:
    """A blob on its way to the disk: counted, digested, and given its name only by `keep`."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._room = folder, limit
        self._hash = hashlib.sha256()
        self._path = folder / f"{secrets.token_hex(16)}{_NEW}"
        self._file = os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")

    def write(self, data: bytes) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise EscrowError("blob-refused", "The file is larger than the vault takes.")
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def keep(self, expected: Digest | None) -> Digest:
        digest = f"sha256:{self._hash.hexdigest()}"
        if expected is not None and digest != expected:
            raise EscrowError("blob-refused", f"The bytes are not those of {expected}.")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._path.rename(self._folder / digest.removeprefix("sha256:"))
        sync(self._folder)
        return digest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


class Vault:
    """A directory of blobs and run keys.

    Blobs may be put and read from several threads and processes; `sweep` belongs to start-up, before any of them.
    """

    def __init__(self, root: Path) -> None:
        self._blobs, self._keys = root / "blobs", root / "keys"
        for folder in (root, self._blobs, self._keys):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)

    # blobs

    def put(self, chunks: Iterable[bytes], *, expected: Digest | None = None, limit: int) -> Digest:
        """Store ciphertext of at most `limit` bytes; its digest. Storing the same bytes again changes nothing.

        `blob-refused`, and nothing is stored, if it is larger or its digest is not `expected`.
        """
        with _Incoming(self._blobs, limit) as incoming:
            for chunk in chunks:
                incoming.write(chunk)
            return incoming.keep(expected)

    def seal(self, reader: Reader, recipient: str, *, limit: int) -> Digest:
        """Encrypt to `recipient` and store at most `limit` bytes of ciphertext; its digest. Errors as `put`."""
        with _Incoming(self._blobs, limit) as incoming:
            seal_stream(reader, incoming, recipient)
            return incoming.keep(None)

    def unseal(self, digest: Digest, identity: str, writer: Writer) -> None:
        """Decrypt a blob into `writer`; errors as `open` and `unseal_stream`."""
        with self.open(digest) as ciphertext:
            unseal_stream(ciphertext, writer, identity)

    def open(self, digest: Digest) -> BinaryIO:
        """Open a blob, unchecked: who decrypts or receives it checks it. `blob-missing` if it is not there."""
        try:
            return self._blob(digest).open("rb")
        except FileNotFoundError as error:
            raise EscrowError("blob-missing", f"The vault does not hold {digest}.") from error

    def read(self, digest: Digest) -> bytes:
        """Return a blob's bytes, checked: `blob-corrupt` if they are no longer those of the digest."""
        with self.open(digest) as file:
            data = file.read()
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise EscrowError("blob-corrupt", f"The vault's copy of {digest} is damaged.", "Restore it from a backup.")
        return data

    def size(self, digest: Digest) -> int:
        """Return a blob's size in bytes; `blob-missing` if it is not there."""
        with self.open(digest) as file:
            return os.fstat(file.fileno()).st_size

    def has(self, digest: Digest) -> bool:
        """Tell whether the blob is there."""
        return self._blob(digest).exists()

    def delete(self, digest: Digest) -> None:
        """Remove a blob; nothing happens if it is not there."""
        self._blob(digest).unlink(missing_ok=True)
        sync(self._blobs)

    def _blob(self, digest: Digest) -> Path:
        match = _DIGEST.fullmatch(digest)
        if match is None:
            raise EscrowError("blob-missing", "A blob is named by sha256: and 64 lower-case hex digits.")
        return self._blobs / match[1]

    # run keys

    def open_run_key(self, name: str) -> str:
        """Return the recipient `age1…` of a run, whose key is made the first time.

        `vault-sealed` if the run's key was erased: a run that ended does not open again.
        """
        self._refuse_erased(name)
        path = self._key(name)
        if not path.exists():
            self._create(path, str(x25519.Identity.generate()).encode())
        return str(identity_of(self.run_identity(name)).to_public())

    def run_identity(self, name: str) -> str:
        """Return the secret identity `AGE-SECRET-KEY-1…` of a run; `vault-sealed` if it was never opened, or erased."""
        self._refuse_erased(name)
        try:
            return self._key(name).read_text(encoding="ascii")
        except FileNotFoundError as error:
            raise EscrowError("vault-sealed", f"No key was opened for the run {name}.") from error

    def erase_run_key(self, name: str) -> None:
        """Erase a run's key for good; nothing happens if it is erased.

        What this does: records that the name is erased, overwrites the key's bytes in place, syncs, unlinks, syncs the
        directory. Interrupted anywhere, the key is already refused, and `sweep` completes the rest.

        What holds afterwards: this vault never returns the key again, and no name leads to its bytes. On a disk that
        rewrites in place (ext4 or XFS on a magnetic disk) the bytes are gone.

        What does not: an SSD writes the zeros elsewhere and keeps the old cells until it collects them; copy-on-write
        and log-structured file systems (Btrfs, ZFS, F2FS), snapshots, data journalling and backups keep the old
        block; swap may hold what was in memory. Where that matters, put the vault on an encrypted volume whose key can
        be destroyed, or on memory. Whoever copied the key before still has it.
        """
        path = self._key(name)
        with suppress(FileExistsError):
            self._create(path.with_name(name + _ERASED), b"")
        self._overwrite(path)

    def sweep(self) -> None:
        """At start-up: remove what an interrupted call left, and complete interrupted erasures."""
        for path in self._blobs.glob(f"*{_NEW}"):
            path.unlink()
        for path in self._keys.glob(f"*{_NEW}"):
            self._discard(path)
        for path in self._keys.glob(f"*{_ERASED}"):
            self._overwrite(path.with_suffix(""))

    def _key(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a run")
        return self._keys / name

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
        sync(self._keys)
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
        sync(self._keys)
