"""Files that are there whole or not at all, also after SIGKILL or a power cut, and a full disk told in plain words."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from contracts.errors import EscrowError

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def private(folder: Path) -> Path:
    """Make a directory that only its owner may enter (0700), if it is not there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def sync(folder: Path) -> None:
    """Make names that were added to or removed from a directory last."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_whole(path: Path, content: bytes) -> None:
    """Write a short file of mode 0600, replacing one of that name."""
    new = path.with_name(f"{secrets.token_hex(16)}.new")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    finally:
        new.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def full_disk_refused() -> Iterator[None]:
    """Refuse with `storage-full` what finds no room: a full disk, a quota, a limit on the size of files."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise EscrowError("storage-full", "The escrow has no room for the file.") from error


@contextmanager
def arriving(path: Path) -> Iterator[BinaryIO]:
    """A file of mode 0600 that has its name once all of it is written and on the disk, and is not there otherwise.

    Raises:
        EscrowError: `file-unwritable`, or `storage-full`.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with full_disk_refused():
            partial.unlink(missing_ok=True)  # whoever made it could read, or lead elsewhere, what goes into it
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            sync(path.parent)
    except OSError as error:
        raise EscrowError("file-unwritable", f"{path} cannot be written: {error.strerror}.") from None
    finally:
        partial.unlink(missing_ok=True)
