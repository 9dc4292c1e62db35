"""Where encrypted blobs lie: a directory, or S3-compatible storage.

Rules:

1. A blob is named by the SHA-256 of its bytes, and is there whole or not at all: a file is renamed into its place, an
   object appears when its upload completes. Whoever hands a blob in has checked its digest.
2. What is read is unchecked: age authenticates what is decrypted, `Vault.read` and a receiver compare the digest.
3. Reading and storing take memory that does not depend on the blob's size.
4. Storage that cannot be reached or refuses the escrow's credentials is `storage-unreachable`, never a missing blob.
"""

import io
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from contracts.errors import EscrowError
from contracts.terms import Digest
from escrow.disk import private, sync

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_NAME: Final = re.compile(r"[0-9a-f]{64}")
_URL: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._/-]*)?")
_PART: Final = 8 << 20  # bytes of one request; 10,000 parts, the most that S3 takes, are 80 GiB
_PARTS_AT_ONCE: Final = 4


class Blobs(Protocol):
    """Blobs by digest. Safe to use from several threads and processes."""

    def adopt(self, path: Path, digest: Digest) -> None:
        """Move a file in that is complete, synced and has this digest; a blob that is there is replaced by its like.

        On an error the file stays where it was and no blob is half there.
        """

    def open(self, digest: Digest) -> BinaryIO:
        """Open a blob for reading and seeking, unchecked; `blob-missing` if it is not there."""

    def size(self, digest: Digest) -> int:
        """Return a blob's size in bytes; `blob-missing` if it is not there."""

    def has(self, digest: Digest) -> bool:
        """Tell whether the blob is there."""

    def delete(self, digest: Digest) -> None:
        """Remove a blob; nothing happens if it is not there."""

    def all(self, *, before: float = math.inf) -> Iterator[Digest]:
        """Yield what is there, in no order: the blobs adopted before a POSIX time of the storage's clock."""


def blobs_at(url: str | None, folder: Path) -> Blobs:
    """The blobs at `s3://BUCKET` or `s3://BUCKET/PREFIX`, or in `folder` without a URL."""
    return LocalBlobs(folder) if url is None else ObjectBlobs(url)


def _name(digest: Digest) -> str:
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise EscrowError("blob-missing", "A blob is named by sha256: and 64 lower-case hex digits.")
    return match[1]


def _missing(digest: Digest) -> EscrowError:
    return EscrowError("blob-missing", f"The vault does not hold {digest}.")


class LocalBlobs:
    """Blobs as files of one directory, named by their hexadecimal digests, of mode 0600.

    A file can only be adopted from the same file system.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = private(folder)

    def adopt(self, path: Path, digest: Digest) -> None:
        """See `Blobs.adopt`."""
        os.utime(path)  # a blob's age counts from here, not from its last byte
        path.rename(self._path(digest))
        sync(self._folder)

    def open(self, digest: Digest) -> BinaryIO:
        """See `Blobs.open`."""
        try:
            return self._path(digest).open("rb")
        except FileNotFoundError as error:
            raise _missing(digest) from error

    def size(self, digest: Digest) -> int:
        """See `Blobs.size`."""
        try:
            return self._path(digest).stat().st_size
        except FileNotFoundError as error:
            raise _missing(digest) from error

    def has(self, digest: Digest) -> bool:
        """See `Blobs.has`."""
        return self._path(digest).exists()

    def delete(self, digest: Digest) -> None:
        """See `Blobs.delete`."""
        self._path(digest).unlink(missing_ok=True)
        sync(self._folder)

    def all(self, *, before: float = math.inf) -> Iterator[Digest]:
        """See `Blobs.all`."""
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name) and entry.stat().st_mtime < before:
                    yield f"sha256:{entry.name}"

    def _path(self, digest: Digest) -> Path:
        return self._folder / _name(digest)


class ObjectBlobs:
    """Blobs as objects under a prefix of a bucket.

    Endpoint, region and credentials come from the environment, as `obstore` reads it (`AWS_ENDPOINT_URL`,
    `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, …) or from the machine's role. Only HTTPS is spoken
    unless `AWS_ALLOW_HTTP` is set.

    An upload that was killed leaves no object, but its parts lie hidden in the bucket until the bucket's own rule for
    incomplete multipart uploads (AbortIncompleteMultipartUpload) removes them: set one.
    """

    def __init__(self, url: str, *, patience: timedelta = timedelta(minutes=1)) -> None:
        """Name the storage, which is not reached yet; `patience` is how long failing requests are tried again."""
        if not _URL.fullmatch(url):
            raise EscrowError("usage", "The vault's storage is not a URL like s3://bucket/prefix.")
        with _reached():
            self._store = S3Store.from_url(url, retry_config={"retry_timeout": patience})

    def adopt(self, path: Path, digest: Digest) -> None:
        """See `Blobs.adopt`."""
        name = _name(digest)
        with _reached():
            obstore.put(self._store, name, path, chunk_size=_PART, max_concurrency=_PARTS_AT_ONCE)
        path.unlink()

    def open(self, digest: Digest) -> BinaryIO:
        """See `Blobs.open`."""
        return io.BufferedReader(_Object(self._store, digest, self.size(digest)), _PART)

    def size(self, digest: Digest) -> int:
        """See `Blobs.size`."""
        with _reached(digest):
            return obstore.head(self._store, _name(digest))["size"]

    def has(self, digest: Digest) -> bool:
        """See `Blobs.has`."""
        name = _name(digest)
        with _reached():
            try:
                obstore.head(self._store, name)
            except FileNotFoundError:
                return False
        return True

    def delete(self, digest: Digest) -> None:
        """See `Blobs.delete`."""
        with _reached(), suppress(FileNotFoundError):
            obstore.delete(self._store, _name(digest))

    def all(self, *, before: float = math.inf) -> Iterator[Digest]:
        """See `Blobs.all`."""
        with _reached():
            for page in obstore.list(self._store):
                for each in page:
                    if _NAME.fullmatch(each["path"]) and each["last_modified"].timestamp() < before:
                        yield f"sha256:{each['path']}"


class _Object(io.RawIOBase):
    """An object read by ranges: one long answer would time out under a slow reader."""

    def __init__(self, store: S3Store, digest: Digest, size: int) -> None:
        self._store, self._digest, self._size = store, digest, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)
        wanted = min(len(view), self._size - self._at)
        if wanted <= 0:
            return 0
        with _reached(self._digest):
            found = obstore.get_range(self._store, _name(self._digest), start=self._at, length=wanted)
        view[: len(found)] = found
        self._at += len(found)
        return len(found)

    def readall(self) -> bytes:
        parts = []
        while part := self.read(_PART):
            parts.append(part)
        return b"".join(parts)


@contextmanager
def _reached(digest: Digest | None = None) -> Iterator[None]:
    """Say what the storage's errors mean: `blob-missing` of a named blob, else `storage-unreachable`."""
    try:
        yield
    except FileNotFoundError as error:
        if digest is not None:
            raise _missing(digest) from error
        raise EscrowError("storage-unreachable", "The object storage has no such bucket.") from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise EscrowError("storage-unreachable", "The object storage refuses the escrow's credentials.") from error
    except BaseError as error:
        raise EscrowError("storage-unreachable", "The object storage does not answer as it should.") from error
