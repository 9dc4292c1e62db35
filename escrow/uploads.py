"""Uploads of deposits: files that arrive in pieces, resume after any interruption, and enter the vault whole.

A bank sends the ciphertext of a deposit before it states it, under a token that it chose itself. Until the last byte is
there and the digest is right, the file is staged on the local disk, apart from the vault.

Rules:

1. What arrived stays, also after SIGKILL; the bank asks how much that is and goes on from there. A power cut may have
   damaged it, but nothing enters the vault whose digest is not the one the bank says after the last byte.
2. A wrong digest, a file that is too large and a failed sync end an upload: what is staged is deleted.
3. A completed upload is remembered, so that a bank whose answer was lost sends nothing twice, and only who sent a file
   states it: nobody else can give another party's file a meaning that outlives its owner's revocation.
4. A party has a share of the disk and of the transfers, and cannot touch another party's uploads.
"""

import hashlib
import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Final

from contracts.errors import EscrowError
from contracts.terms import Digest
from escrow.disk import full_disk_refused, private, write_whole
from escrow.vault import WAIT, Vault

_PARTY: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")
_TOKEN: Final = re.compile(r"[0-9a-f]{32}")
_NOTE: Final = re.compile(r"(sha256:[0-9a-f]{64}) ([0-9]{1,18})\n")
_STAGED: Final = ".part"
_DONE: Final = ".done"
_MIB: Final = 1 << 20
_PUSH: Final = 32 * _MIB


@dataclass(frozen=True)
class UploadLimits:
    """What one party may have on its way in."""

    file_bytes: int = 16 << 30  # of one file
    staged_bytes: int = 16 << 30  # of all files that are not yet complete
    unstated_bytes: int = 64 << 30  # of completed files, since `sweep` last found their statements
    stated_bytes: int = 1 << 40  # of deposits that were stated and not revoked
    files: int = 1000  # not yet complete, or unstated
    simultaneous: int = 4


@dataclass
class _Share:
    """What a party has on its way in, by token; sizes in bytes."""

    staged: dict[str, int] = field(default_factory=dict)
    unstated: dict[str, int] = field(default_factory=dict)
    completed: dict[str, Digest] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Note:
    """What is remembered of a completed upload."""

    digest: Digest
    size: int


class Uploads:
    """The uploads of all parties, staged in one directory of the vault's file system.

    Safe to use from several threads of the one process that serves the escrow.
    """

    def __init__(self, root: Path, vault: Vault, limits: UploadLimits | None = None) -> None:
        self._root, self._vault = private(root), vault
        self._limits = UploadLimits() if limits is None else limits
        self._lock = threading.Lock()
        self._shares: defaultdict[str, _Share] = defaultdict(_Share)
        for path in root.glob(f"*/*{_STAGED}"):
            self._shares[path.parent.name].staged[path.stem] = path.stat().st_size
        for path in root.glob(f"*/*{_DONE}"):
            share, note = self._shares[path.parent.name], _read_note(path)
            share.unstated[path.stem], share.completed[path.stem] = note.size, note.digest

    def received(self, party: str, token: str) -> int:
        """Return how many bytes of an upload are there: all of them if it is complete, 0 if nothing is known of it."""
        staged = self._path(party, token, _STAGED)
        done = self._completed(party, token)
        if done is not None:
            return done.size
        return staged.stat().st_size if staged.exists() else 0

    def receive(
        self, party: str, token: str, offset: int, chunks: Iterable[bytes], digest: Callable[[], Digest]
    ) -> Digest:
        """Take the bytes of an upload from `offset` on and store the complete file in the vault; its digest.

        What is there beyond `offset` is cut off. `digest` is asked for the whole file's digest after the last chunk.
        If it or `chunks` raises, or the disk is full, what arrived is kept for the next call. If the upload was
        completed before and its blob is there, nothing is read and its digest is returned.

        Raises:
            EscrowError: `upload-refused` if fewer than `offset` bytes are there or the token is not 32 hexadecimal
                digits, `upload-busy` if the upload is being received already, `quota-exceeded` if the party has used
                its share, `blob-refused` if the digest is another, `storage-full`, `storage-unreachable`.
        """
        with self._turn(party, token), full_disk_refused():
            private(self._root / party)
            done = self._completed(party, token) or self._received_whole(party, token, offset, chunks, digest)
            self._path(party, token, _STAGED).unlink(missing_ok=True)
        return done.digest

    def sent(self, party: str, digest: Digest) -> bool:
        """Return whether the party itself completed an upload of this file, as far as it is remembered."""
        with self._lock:
            return party in self._shares and digest in self._shares[party].completed.values()

    def admit_stated(self, party: str, stated: int, size: int) -> None:
        """Refuse a deposit of `size` bytes with `quota-exceeded` if the party's `stated` ones leave no room for it."""
        if stated + size > self._limits.stated_bytes:
            raise EscrowError(
                "quota-exceeded",
                f"{party}'s deposits have at most {self._limits.stated_bytes} bytes together.",
                "Revoke a deposit that is no longer needed, or ask the operator for more.",
            )

    def sweep(self, now: float, claimed: Collection[Digest]) -> None:
        """Forget uploads that nothing happened to in the `WAIT` seconds before `now`, a POSIX time by the disk's clock.

        Completed uploads whose digest is `claimed`, by statements on the ledger, no longer count in their party's
        share. May be called while uploads go on; they are left alone.
        """
        named = frozenset(claimed)
        with self._lock:
            for path in self._root.glob("*/*"):
                with suppress(FileNotFoundError):  # a note that is being written changes its name
                    self._sweep(path, now - WAIT, named)

    def _sweep(self, path: Path, before: float, claimed: frozenset[Digest]) -> None:
        share = self._shares[path.parent.name]
        if path.stem in share.busy:
            return
        if path.stat().st_mtime < before:
            path.unlink()
            for each in (share.unstated, share.completed) if path.suffix == _DONE else (share.staged,):
                each.pop(path.stem, None)
        elif path.suffix == _DONE and _read_note(path).digest in claimed:
            share.unstated.pop(path.stem, None)

    def _path(self, party: str, token: str, suffix: str) -> Path:
        if not _PARTY.fullmatch(party):
            raise ValueError(f"{party!r} cannot be the name of a party")
        if not _TOKEN.fullmatch(token):
            raise EscrowError("upload-refused", "An upload is named by 32 lower-case hexadecimal digits.")
        return self._root / party / (token + suffix)

    def _completed(self, party: str, token: str) -> _Note | None:
        path = self._path(party, token, _DONE)
        if not path.exists():
            return None
        note = _read_note(path)
        return note if self._vault.has(note.digest) else None

    @contextmanager
    def _turn(self, party: str, token: str) -> Iterator[None]:
        """The one transfer of this upload, as one of the few that the party may have at a time."""
        staged = self._path(party, token, _STAGED)
        with self._lock:
            share = self._shares[party]
            if token in share.busy:
                raise EscrowError("upload-busy", "This upload is being received already.")
            self._admit(party, share, token)
            share.busy.add(token)
        try:
            yield
        finally:
            size = staged.stat().st_size if staged.exists() else None
            with self._lock:
                share.busy.remove(token)
                share.staged.pop(token, None)
                if size is not None:
                    share.staged[token] = size

    def _admit(self, party: str, share: _Share, token: str) -> None:
        limits, known = self._limits, share.staged.keys() | share.unstated.keys() | share.busy
        if len(share.busy) >= limits.simultaneous:
            raise EscrowError("quota-exceeded", f"{party} sends {limits.simultaneous} files at once already.")
        if token in known:
            return
        if len(known) >= limits.files:
            raise EscrowError("quota-exceeded", f"{party} has {limits.files} uploads that are incomplete or unstated.")
        if sum(share.unstated.values()) >= limits.unstated_bytes:
            raise EscrowError(
                "quota-exceeded",
                f"{party} has uploaded {limits.unstated_bytes} bytes or more that no statement names.",
                "State these deposits, then go on.",
            )

    def _received_whole(
        self, party: str, token: str, offset: int, chunks: Iterable[bytes], digest: Callable[[], Digest]
    ) -> _Note:
        """Receive to the end, check, remember, adopt: in this order, so that no crash loses a file that is complete."""
        path = self._path(party, token, _STAGED)
        there = path.stat().st_size if path.exists() else 0
        if not 0 <= offset <= there:
            raise EscrowError("upload-refused", f"The upload cannot go on at {offset}, for {there} bytes have arrived.")
        with _resumed(path, offset) as staged:
            for chunk in chunks:
                self._reserve(party, token, staged.size + len(chunk), path)
                staged.append(chunk)
            stated = digest()
            if staged.digest() != stated:
                path.unlink()
                raise EscrowError("blob-refused", f"The bytes are not those of {stated}.")
            staged.sync()
        note = _Note(stated, staged.size)
        write_whole(self._path(party, token, _DONE), f"{note.digest} {note.size}\n".encode())
        self._vault.adopt(path, note.digest)
        with self._lock:
            share = self._shares[party]
            share.unstated[token], share.completed[token] = note.size, note.digest
        return note

    def _reserve(self, party: str, token: str, size: int, path: Path) -> None:
        """Let an upload grow to `size` bytes, within the party's share."""
        limits = self._limits
        if size > limits.file_bytes:
            path.unlink()
            raise EscrowError("quota-exceeded", f"A file has at most {limits.file_bytes} bytes.", "Send a smaller one.")
        with self._lock:
            staged = self._shares[party].staged
            if sum(staged.values()) - staged.get(token, 0) + size > limits.staged_bytes:
                raise EscrowError(
                    "quota-exceeded", f"{party}'s incomplete uploads have at most {limits.staged_bytes} bytes together."
                )
            staged[token] = size


class _Staged:
    """A file that is being received: appended to, hashed as it grows, in memory that does not depend on its size.

    Hashed in the thread that writes: measured over TLS on two cores, a second thread for hashing gained nothing.
    """

    def __init__(self, path: Path, file: FileIO, offset: int) -> None:
        self._path, self._file = path, file
        self._hash = hashlib.sha256()
        self.size = self._pushed = offset
        file.truncate(offset)
        for block in iter(partial(file.read, _MIB), b""):
            self._hash.update(block)

    def append(self, chunk: bytes) -> None:
        """Append all of a chunk, or as much as the disk has room for before its error."""
        rest = memoryview(chunk)
        while rest:
            written = self._file.write(rest)
            self._hash.update(rest[:written])
            self.size += written
            rest = rest[written:]
        if self.size - self._pushed >= _PUSH:
            # makes the kernel start writing now, so that the sync at the end finds little left to do
            os.posix_fadvise(self._file.fileno(), self._pushed, self.size - self._pushed, os.POSIX_FADV_DONTNEED)
            self._pushed = self.size

    def digest(self) -> Digest:
        """Return the digest of everything there."""
        return f"sha256:{self._hash.hexdigest()}"

    def sync(self) -> None:
        """Make it last, or delete it: after a failed sync, what reads as written may not be on the disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError:
            self._path.unlink()
            raise


@contextmanager
def _resumed(path: Path, offset: int) -> Iterator[_Staged]:
    """The staged file, cut off at `offset` and hashed up to there."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "r+b", buffering=0) as file:
        yield _Staged(path, file, offset)


def _read_note(path: Path) -> _Note:
    match = _NOTE.fullmatch(path.read_text(encoding="ascii"))
    if match is None:
        raise ValueError(f"{path} is not the note of an upload")
    return _Note(match[1], int(match[2]))
