"""Directories of jobs: made private, filled once, read without following anything, removed to the last byte.

What a worker left below such a directory is hostile: links, devices, pipes, directories nested a thousand deep or
closed with mode 000. Nothing here follows a link, blocks on opening, or recurses.
"""

import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO, Final

from contracts.errors import EscrowError
from escrow.runtime.job import Source

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def make_private(path: Path) -> Path:
    """Create `path` with mode 0700, or accept it if it is a directory of this user that nobody else can enter.

    `runtime-unfit` otherwise: in a shared place such as /dev/shm another user may have put something there first.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise EscrowError("runtime-unfit", f"The runtime cannot use {path}: {error.strerror}.") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise EscrowError(
            "runtime-unfit", f"The runtime cannot use {path}: it is not a directory of its own, mode 0700."
        )
    return path


def require_memory(path: Path) -> None:
    """Refuse with `runtime-unfit` unless `path` lies in a file system in memory (tmpfs)."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        mount, _, about = line.partition(" - ")
        if mount.split()[2] == number:
            if about.split()[0] == "tmpfs":
                return
            break
    raise EscrowError("runtime-unfit", f"The runtime cannot use {path}: it is not in memory (tmpfs), but on a disk.")


def make_below(top: Path, relative: str, *, mode: int = 0o700) -> Path:
    """Create the directory `relative` below `top`, each part with exactly `mode`, whatever the umask."""
    for part in relative.split("/"):
        top /= part
        if not top.is_dir():
            top.mkdir(mode=0o700)
            top.chmod(mode)
    return top


def write_new(top: Path, relative: str, source: Source, *, mode: int = 0o400) -> None:
    """Create the file `relative` below `top`, with its directories, from `source`.

    It has exactly `mode`, and who may read it may enter the directories.
    """
    *parents, name = relative.split("/")
    entered = 0o700 | (mode & 0o444) | (mode & 0o444) >> 2
    path = (make_below(top, "/".join(parents), mode=entered) if parents else top) / name
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, mode)
        if callable(source):
            source(file)
        else:
            file.write(source)


def _plain(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


def _open_below(folder: Path, relative: str) -> BinaryIO | None:
    """Open the file if it is regular and has one name, else None; OSError if the way there is odd."""
    *parents, name = relative.split("/")
    at = os.open(folder, _FOLDER)
    try:
        for parent in parents:
            deeper = os.open(parent, _FOLDER, dir_fd=at)
            os.close(at)
            at = deeper
        if not _plain(os.stat(name, dir_fd=at, follow_symlinks=False)):  # opening a device can have effects
            return None
        file = os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at), "rb")
    finally:
        os.close(at)
    if _plain(os.fstat(file.fileno())):
        return file
    file.close()
    return None


def open_output(folder: Path, relative: str) -> BinaryIO:
    """Open the regular file `relative` below `folder`.

    FileNotFoundError if there is none; `output-refused` for a link anywhere on the way, a second hard link, a
    directory, pipe, socket or device, or a file that may not be read.
    """
    try:
        file = _open_below(folder, relative)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise EscrowError("output-refused", f"The output {relative} cannot be read: {error.strerror}.") from error
    if file is None:
        raise EscrowError("output-refused", f"The output {relative} is not a regular file with one name.")
    return file


def _is_folder(name: str | Path, at: int | None = None) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)


def _clear(name: str, top: int) -> None:
    """Remove `name` from the directory `top`; directories in it are first lifted into `top`, so nothing recurses."""
    if not _is_folder(name, top):
        os.unlink(name, dir_fd=top)
        return
    os.chmod(name, 0o700, dir_fd=top)
    at = os.open(name, _FOLDER, dir_fd=top)
    try:
        for entry in os.listdir(at):  # noqa: PTH208 - of an open directory
            if _is_folder(entry, at):
                os.chmod(entry, 0o700, dir_fd=at)  # a directory that is moved must be writable
                os.rename(entry, secrets.token_hex(16), src_dir_fd=at, dst_dir_fd=top)
            else:
                os.unlink(entry, dir_fd=at)
    finally:
        os.close(at)
    os.rmdir(name, dir_fd=top)


def remove(path: Path) -> None:
    """Remove the directory `path` and everything below it; nothing happens if it does not exist."""
    if not os.path.lexists(path):
        return
    if _is_folder(path):
        path.chmod(0o700)
    top = os.open(path, _FOLDER)
    try:
        while names := os.listdir(top):  # noqa: PTH208 - of an open directory
            for name in names:
                _clear(name, top)
    finally:
        os.close(top)
    path.rmdir()
