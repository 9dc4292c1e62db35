"""Images as bytes that depend on their content alone, so that two builds give one image ID.

The engine stamps what it builds with the time of day. `layers` therefore copies a file system, as the engine or
mmdebstrap writes it, into tar files in which every entry has one owner, one time and a plain mode, and `load` hands
them to the engine with a configuration that names no time but `EPOCH`. Rules:

1. Regular files, directories and links only; everything belongs to root; nothing is set-uid, set-gid or writable for
   others, but directories with the sticky bit.
2. The order is that of the source, and both sources sort by name; nothing else of the source's headers is kept.
"""

import hashlib
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Final, Self, cast

import docker

from contracts.canonical import canonical
from contracts.terms import Digest
from escrow.runtime.images.engine import find

EPOCH: Final = 315532800
"""The time that every file in an image has: 1980-01-01, the first that zip files know."""

_CHUNK: Final = 1 << 20
_STICKY: Final = 0o1000


@dataclass(frozen=True)
class Layer:
    """A layer of an image: a tar file and the digest of its bytes."""

    path: Path
    digest: Digest


class Stream:
    """Chunks of bytes as a file that can only be read forwards."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Return `size` bytes, fewer only at the end."""
        parts, missing = [self._rest], size - len(self._rest)
        while missing > 0 and (chunk := next(self._chunks, b"")):
            parts.append(chunk)
            missing -= len(chunk)
        whole = b"".join(parts)
        self._rest = whole[size:]
        return whole[:size]


class _Writer:
    """One layer being written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hash = hashlib.sha256()
        self._file = path.open("wb")
        self._tar = tarfile.open(fileobj=cast("IO[bytes]", self), mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - `__exit__` closes it

    def write(self, data: bytes) -> int:
        """What the tar file is written through."""
        self._hash.update(data)
        return self._file.write(data)

    def add(self, entry: tarfile.TarInfo, content: IO[bytes] | None) -> None:
        self._tar.addfile(entry, content)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()
        self._file.close()

    def layer(self) -> Layer:
        """What was written; complete once the writer is left."""
        return Layer(self._path, f"sha256:{self._hash.hexdigest()}")


def layers(
    source: IO[bytes] | Stream,
    directory: Path,
    place: Callable[[str], int | None],
    *,
    count: int = 1,
    added: Mapping[str, bytes] | None = None,
) -> tuple[Layer, ...]:
    """Write the layers of an image from the tar stream of a file system, uncompressed.

    Args:
        source: the stream.
        directory: where the layers are written, `0.tar` and so on.
        place: path from the root, without a slash before or behind → number of the layer it belongs to, None to leave
            it out.
        count: how many layers there are.
        added: further files for layer 0, by path; their directories are made.
    """
    with ExitStack() as stack:
        writers = [stack.enter_context(_Writer(directory / f"{number}.tar")) for number in range(count)]
        seen = set()
        entries = stack.enter_context(tarfile.open(fileobj=cast("IO[bytes]", source), mode="r|"))
        for entry in entries:
            plain = _plain(entry)
            if plain and (number := place(plain.name)) is not None:
                seen.add(plain.name)
                writers[number].add(plain, entries.extractfile(entry) if entry.isreg() else None)
        for plain, content in _files(added or {}, seen):
            writers[0].add(plain, BytesIO(content))
        while source.read(_CHUNK):  # what follows the end of the archive; an engine's stream is freed by reading it
            pass
    return tuple(writer.layer() for writer in writers)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """The entry as rule 1 has it; None for the root itself, devices, sockets and pipes."""
    name = _relative(entry.name)
    if not name or not (entry.isreg() or entry.isdir() or entry.issym() or entry.islnk()):
        return None
    plain = tarfile.TarInfo(name)
    plain.type, plain.mtime, plain.size = entry.type, EPOCH, entry.size
    plain.linkname = _relative(entry.linkname) if entry.islnk() else entry.linkname
    keeps_all = entry.issym() or (entry.isdir() and entry.mode & _STICKY)
    plain.mode = entry.mode & (0o1777 if keeps_all else 0o755)
    return plain


def _relative(name: str) -> str:
    return name.removeprefix("./").strip("/") if name != "." else ""


def _files(contents: Mapping[str, bytes], seen: Iterable[str]) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Entries for files, and before them for directories that are not there yet."""
    there = set(seen)
    for path, content in sorted(contents.items()):
        for parent in [str(each) for each in reversed(PurePosixPath(path).parents)][1:]:
            if parent not in there:
                there.add(parent)
                yield _entry(parent, tarfile.DIRTYPE, 0o755), b""
        entry = _entry(path, tarfile.REGTYPE, 0o644)
        entry.size = len(content)
        yield entry, content


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, EPOCH
    return entry


def context(contents: Mapping[str, bytes | Path]) -> Iterator[bytes]:
    """A tar stream of files by path: what a build sees."""
    for path, content in sorted(contents.items()):
        yield from _member(path, content)
    yield bytes(2 * tarfile.BLOCKSIZE)


def load(client: docker.DockerClient, stack: Sequence[Layer], settings: Mapping[str, object], tag: str) -> Digest:
    """Give the engine an image and tag it; its ID, which layers and settings determine.

    It gets the first 12 digits of its ID as a second tag, so that a later image does not leave it nameless.

    Args:
        client: the engine.
        stack: the layers, the lowest first.
        settings: labels, environment and so on, as the engine calls them (`Labels`, `Env`, `User`).
        tag: NAME:TAG, which an earlier image may have.
    """
    time = datetime.fromtimestamp(EPOCH, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    platform = client.version()
    config = canonical(
        {
            "architecture": platform["Arch"],
            "os": platform["Os"],
            "created": time,
            "config": dict(settings),
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in stack]},
            "history": [{"created": time, "created_by": "model-escrow"} for _ in stack],
        }
    )
    number = hashlib.sha256(config).hexdigest()
    names = [tag, f"{tag.partition(':')[0]}:{number[:12]}"]
    client.images.load(cast("bytes", _docker_archive(stack, config, names)))  # it streams, whatever its type says
    return find(client, names[1]).id  # the other tag may be another image's by now


def _docker_archive(stack: Sequence[Layer], config: bytes, tags: Sequence[str]) -> Iterator[bytes]:
    """The form of `docker save`."""
    names = [f"{layer.digest.partition(':')[2]}/layer.tar" for layer in stack]
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    yield from _member(name, config)
    for layer, path in dict(zip(stack, names, strict=True)).items():
        yield from _member(path, layer.path)
    yield from _member("manifest.json", canonical([{"Config": name, "RepoTags": list(tags), "Layers": names}]))
    yield bytes(2 * tarfile.BLOCKSIZE)


def _member(name: str, content: bytes | Path) -> Iterator[bytes]:
    """One file of a tar stream."""
    entry = _entry(name, tarfile.REGTYPE, 0o644)
    entry.size = len(content) if isinstance(content, bytes) else content.stat().st_size
    yield entry.tobuf(tarfile.PAX_FORMAT)
    if isinstance(content, bytes):
        yield content
    else:
        with content.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    yield bytes(-entry.size % tarfile.BLOCKSIZE)
