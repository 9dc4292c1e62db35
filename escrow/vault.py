"""The escrow's store of encrypted blobs, and the keys of runs that can open them.

Rules:

1. A blob is ciphertext (age, https://age-encryption.org/v1) and is named by its SHA-256. The vault never sees
   plaintext at rest: `seal` encrypts on the way in, `unseal` decrypts on the way to a job's directory.
2. A blob is there whole or not at all: it is written and synced in a directory beside, and only then handed to where
   blobs lie (`escrow.blobs`), which is the local disk or object storage.
3. The keys of runs (`escrow.keys`) are on the local disk always, so that erasing one does not depend on anybody else.
4. A blob that nothing on the ledger names may be deleted once it has waited long enough for its statement.
"""

import hashlib
import os
import secrets
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import BinaryIO, Final, Self

from contracts.errors import EscrowError
from contracts.terms import Digest
from escrow.age import Reader, Writer, seal_stream, unseal_bytes, unseal_stream
from escrow.blobs import Blobs, LocalBlobs
from escrow.disk import private, sync
from escrow.keys import Keys

__all__ = ["WAIT", "Vault", "seal_stream", "sync", "unseal_bytes", "unseal_stream"]

WAIT: Final = 48 * 3600  # seconds that a blob may wait for the statement that names it


class _Incoming:
    """A blob on its way in: counted, digested, and handed over only by `keep`."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._room = limit
        self._hash = hashlib.sha256()
        self._path = folder / secrets.token_hex(16)
        self._file = os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")

    def write(self, data: bytes) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise EscrowError("blob-refused", "The file is larger than the vault takes.")
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def keep(self, blobs: Blobs, expected: Digest | None) -> Digest:
        digest = f"sha256:{self._hash.hexdigest()}"
        if expected is not None and digest != expected:
            raise EscrowError("blob-refused", f"The bytes are not those of {expected}.")
        self._file.flush()
        os.fsync(self._file.fileno())
        blobs.adopt(self._path, digest)
        return digest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()
        finally:
            self._path.unlink(missing_ok=True)


class Vault:
    """Blobs and run keys.

    Blobs may be put and read from several threads and processes; `sweep` belongs to start-up, before any of them.
    """

    def __init__(self, root: Path, blobs: Blobs | None = None) -> None:
        """Use `root` for the run keys, for what is coming in and, unless `blobs` lie elsewhere, for the blobs."""
        private(root)
        self._incoming = private(root / "incoming")
        self._blobs = LocalBlobs(root / "blobs") if blobs is None else blobs
        self._keys = Keys(root / "keys")

    # blobs

    def put(self, chunks: Iterable[bytes], *, expected: Digest | None = None, limit: int) -> Digest:
        """Store ciphertext of at most `limit` bytes; its digest. Storing the same bytes again changes nothing.

        `blob-refused`, and nothing is stored, if it is larger or its digest is not `expected`.
        """
        with _Incoming(self._incoming, limit) as incoming:
            for chunk in chunks:
                incoming.write(chunk)
            return incoming.keep(self._blobs, expected)

    def adopt(self, path: Path, digest: Digest) -> None:
        """Move in a complete, synced file of ciphertext whose digest was checked; see `Blobs.adopt`."""
        self._blobs.adopt(path, digest)

    def seal(self, reader: Reader, recipient: str, *, limit: int) -> Digest:
        """Encrypt to `recipient` and store at most `limit` bytes of ciphertext; its digest. Errors as `put`."""
        with _Incoming(self._incoming, limit) as incoming:
            seal_stream(reader, incoming, recipient)
            return incoming.keep(self._blobs, None)

    def unseal(self, digest: Digest, identity: str, writer: Writer) -> None:
        """Decrypt a blob into `writer`; errors as `open` and `unseal_stream`."""
        with self.open(digest) as ciphertext:
            unseal_stream(ciphertext, writer, identity)

    def open(self, digest: Digest) -> BinaryIO:
        """Open a blob, unchecked: who decrypts or receives it checks it. `blob-missing` if it is not there."""
        return self._blobs.open(digest)

    def read(self, digest: Digest) -> bytes:
        """Return a blob's bytes, checked: `blob-corrupt` if they are no longer those of the digest."""
        with self.open(digest) as file:
            data = file.read()
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise EscrowError("blob-corrupt", f"The vault's copy of {digest} is damaged.", "Restore it from a backup.")
        return data

    def size(self, digest: Digest) -> int:
        """Return a blob's size in bytes; `blob-missing` if it is not there."""
        return self._blobs.size(digest)

    def has(self, digest: Digest) -> bool:
        """Tell whether the blob is there."""
        return self._blobs.has(digest)

    def delete(self, digest: Digest) -> None:
        """Remove a blob; nothing happens if it is not there."""
        self._blobs.delete(digest)

    def unclaimed(self, claimed: Collection[Digest], now: float) -> tuple[Digest, ...]:
        """Return the blobs that `claimed` does not name and that came more than `WAIT` seconds before `now`.

        `now` is a POSIX time by the clock of the storage. Younger blobs may still wait for their statement.
        """
        named = frozenset(claimed)
        return tuple(sorted(each for each in self._blobs.all(before=now - WAIT) if each not in named))

    # run keys

    def open_run_key(self, name: str) -> str:
        """See `Keys.open`."""
        return self._keys.open(name)

    def run_identity(self, name: str) -> str:
        """See `Keys.identity`."""
        return self._keys.identity(name)

    def erase_run_key(self, name: str) -> None:
        """See `Keys.erase`, which says what erasing achieves and what it does not."""
        self._keys.erase(name)

    def sweep(self) -> None:
        """At start-up: remove what an interrupted call left, and complete interrupted erasures."""
        for path in self._incoming.iterdir():
            path.unlink()
        self._keys.sweep()
