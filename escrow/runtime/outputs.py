"""Reads what a dead worker left, as the tar stream that the engine makes of its results. Rules:

1. Every member is checked before a byte of it is written; only wanted paths are written, and a name is compared, never
   followed: whatever else the worker called its files is passed over.
2. A wanted path is a regular file with one name, reached by directories alone. A link, second hard link, directory,
   pipe, device or sparse file there is refused, and so is a path that occurs twice.
3. Members and bytes are bounded by what the worker was allowed. A stream that exceeds them is no longer read.
4. What is written has mode 0600 and a fixed time, and nothing else of what the worker said about it.
"""

import os
import shutil
import tarfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from escrow.runtime import folders
from escrow.runtime.job import MIB

_BLOCK: Final = 4096  # what a file takes at least, of a file system in memory
_NEARLY: Final = 16 * _BLOCK  # so little room left is none
_BUFFER: Final = 1 << 18
_HEADERS: Final = 8192  # bytes in the stream for each member besides its content


@dataclass(frozen=True)
class Received:
    """What was found.

    Attributes:
        stored: wanted paths that were written.
        refused: wanted path → why it was refused, in a few words.
        full: whether the worker had used up its room, or its number of files.
    """

    stored: frozenset[str]
    refused: Mapping[str, str]
    full: bool


class _TooMuchError(Exception):
    pass


class _Stream:
    """The chunks as a file to read, up to a bound."""

    def __init__(self, chunks: Iterator[bytes], most: int) -> None:
        self._chunks = chunks
        self._left = most
        self._held = b""

    def read(self, size: int) -> bytes:
        while len(self._held) < size:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            self._left -= len(chunk)
            if self._left < 0:
                raise _TooMuchError
            self._held += chunk
        taken, self._held = self._held[:size], self._held[size:]
        return taken


class _Reader:
    def __init__(self, wanted: Collection[str], into: Path, *, most: int, files: int) -> None:
        self.into = into
        self.most = most
        self.files = files
        self.seen = 0
        self.said = 0
        self.wanted = frozenset(wanted)
        self.parents = {path[:cut] for path in wanted for cut, char in enumerate(path) if char == "/"}
        self.stored: set[str] = set()
        self.refused: dict[str, str] = {}
        self.used = 0

    def take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Look at one member, and write it if it is wanted."""
        self.seen += 1
        self.said += member.size
        if self.seen > self.files or self.said > self.most:  # files with holes say that they are larger than they are
            raise _TooMuchError
        path = member.name.partition("/")[2]
        self.used += -(-member.size // _BLOCK) * _BLOCK if member.isreg() else 0
        if member.type == tarfile.LNKTYPE:
            self._refuse(member.linkname.partition("/")[2], "it has a second name")
        if path in self.parents and not member.isdir():
            for each in self.wanted:
                if each.startswith(f"{path}/"):
                    self._refuse(each, "the way there is no directory")
        if path not in self.wanted:
            return
        if member.type != tarfile.REGTYPE or member.issparse():
            self._refuse(path, "it is not a regular file with one name")
        elif path in self.stored or path in self.refused:
            self._refuse(path, "it is there twice")
        else:
            self._store(archive, member, path)

    def _refuse(self, path: str, why: str) -> None:
        if path in self.wanted:
            self.refused.setdefault(path, why)

    def _store(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        source = cast("IO[bytes]", archive.extractfile(member))
        folders.write_new(self.into, path, lambda file: shutil.copyfileobj(source, file, _BUFFER), mode=0o600)
        os.utime(self.into / path, ns=(0, 0), follow_symlinks=False)
        self.stored.add(path)

    def result(self, *, full: bool) -> Received:
        """The findings; what was written before it turned out to be refused is removed."""
        for path in self.stored & set(self.refused):
            (self.into / path).unlink()
        return Received(frozenset(self.stored - set(self.refused)), self.refused, full)


def receive(chunks: Iterator[bytes], wanted: Collection[str], into: Path, *, limit_mib: int, files: int) -> Received:
    """Read the archive of one directory and store the wanted files below `into`.

    Args:
        chunks: the stream: members are called `NAME` and `NAME/PATH` with one NAME.
        wanted: relative paths.
        into: directory that is the caller's alone.
        limit_mib: room the worker had.
        files: number of files and directories it could make.

    Raises:
        tarfile.TarError: the stream is cut or is none.
    """
    most = limit_mib * MIB
    reader = _Reader(wanted, into, most=most, files=files)
    stream = _Stream(chunks, most + (files + 1) * _HEADERS)
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|", bufsize=_BUFFER) as archive:
            for member in archive:
                reader.take(archive, member)
    except _TooMuchError:
        for path in reader.wanted:
            reader.refused.setdefault(path, "there is too much beside it")
        return reader.result(full=True)
    return reader.result(full=reader.seen >= files or reader.used >= most - _NEARLY)
