"""A capsule as a directory of its author's.

Rules:

1. Regular files only: a link is refused, wherever it leads.
2. `results/` is no part of a capsule; neither is what begins with a dot, nor what Python and R leave behind.
3. No more bytes and files are read than a capsule can hold, and nothing below its deepest level.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from contracts.capsule import DATA_BYTES_AT_MOST, FILES_AT_MOST, Capsule, read
from contracts.errors import EscrowError

RESULTS: Final = "results"
LEVELS_AT_MOST: Final = 4  # as `contracts.capsule` has it
_LEFT_BEHIND: Final = ("__pycache__",)


@dataclass
class Found:
    """What lies in a directory.

    Attributes:
        files: path → content.
        left_out: what is no part of a capsule, without what lies below it.
        wrong: a sentence for each thing that cannot be in one.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def capsule_in(folder: Path) -> Capsule:
    """The capsule in a directory.

    Raises:
        EscrowError: `file-unreadable`, or `capsule-invalid` with every rule that is broken in `details`.
    """
    return capsule_of(find(folder))


def capsule_of(found: Found) -> Capsule:
    """The capsule that was found.

    Raises:
        EscrowError: `capsule-invalid` with every rule that is broken in `details`.
    """
    wrong = list(found.wrong)
    try:
        capsule = read(found.files)
    except EscrowError as error:
        wrong += error.details
    if wrong:
        rules = "one rule" if len(wrong) == 1 else f"{len(wrong)} rules"
        raise EscrowError("capsule-invalid", f"The capsule breaks {rules}.", "Correct what is named above.", wrong)
    return capsule


def find(folder: Path) -> Found:
    """Everything in a directory, as far as a capsule can hold it.

    Raises:
        EscrowError: `file-unreadable`.
    """
    found = Found()
    try:
        room = DATA_BYTES_AT_MOST
        for entry in _entries(folder, "", found):
            if max(len(found.files), len(found.wrong)) > FILES_AT_MOST:
                break
            room -= _take(folder, entry, found, room)
    except OSError as error:
        raise EscrowError("file-unreadable", f"{error.filename} cannot be read: {error.strerror}.") from None
    return found


def _entries(folder: Path, below: str, found: Found) -> Iterator[str]:
    """Paths of everything that is no directory, in the order of their names."""
    with os.scandir(folder / below) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{below}{entry.name}"
        if path == RESULTS or entry.name.startswith(".") or entry.name in _LEFT_BEHIND:
            found.left_out.append(path)
        elif entry.is_dir(follow_symlinks=False):
            if path.count("/") + 1 == LEVELS_AT_MOST:
                found.wrong.append(f"{path!a} is a directory at the deepest level, where only files can be.")
            else:
                yield from _entries(folder, f"{path}/", found)
        else:
            yield path


def _take(folder: Path, path: str, found: Found, room: int) -> int:
    """Read a file if it takes up no more than what is left of the room; how much it takes up."""
    whole, most = folder / path, DATA_BYTES_AT_MOST >> 20
    if whole.is_symlink() or not whole.is_file():
        found.wrong.append(f"{path!a} is a link or a device; copy the file itself there.")
    elif (size := whole.stat().st_size) > DATA_BYTES_AT_MOST:
        found.wrong.append(f"{path!a} is larger than {most} MiB.")
    elif size > room:
        found.wrong.append(f"{path!a} is more than fits: a capsule has {most} MiB at most.")
    else:
        with whole.open("rb") as file:
            found.files[path] = file.read(size)
        return size
    return 0
