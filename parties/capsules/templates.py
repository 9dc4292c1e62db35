"""Whole small capsules that work, to begin with: one for each family, with rows drawn by chance."""

import math
import random
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from contracts.capsule import RUN
from contracts.errors import EscrowError

TEMPLATES: Final = ("python", "r")
ROWS: Final = 2000
SEED: Final = 20260101
_FRAUDS: Final = 0.03


def new_capsule(folder: Path, template: str) -> tuple[str, ...]:
    """Write a capsule into a new or empty directory; the paths of its files.

    Raises:
        EscrowError: `usage` for a template that does not exist, `file-unwritable`.
    """
    if template not in TEMPLATES:
        raise EscrowError("usage", f"There is no template {template!r}; there is {' and '.join(TEMPLATES)}.")
    files = dict(_files(resources.files(__package__) / "templates" / template))
    files["data/transactions.csv"] = transactions(ROWS, SEED).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise EscrowError("file-unwritable", f"{folder} is not empty.", "Name a directory that does not exist yet.")
        for path, content in files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(content)
        (folder / RUN).chmod(0o755)
    except OSError as error:
        raise EscrowError("file-unwritable", f"{folder} cannot be written: {error.strerror}.") from None
    return tuple(sorted(files))


def _files(folder: Traversable, below: str = "") -> Iterator[tuple[str, bytes]]:
    for each in folder.iterdir():
        if each.name == "__pycache__":  # an installer compiles whatever ends in .py
            continue
        if each.is_dir():
            yield from _files(each, f"{below}{each.name}/")
        else:
            yield f"{below}{each.name}", each.read_bytes()


def transactions(rows: int, seed: int) -> str:
    """Card transactions of 28 days as CSV, none of them real: frauds are larger, and more of them happen at night."""
    rng = random.Random(seed)  # noqa: S311 - rows that stand for nobody's
    lines = ["time,card,terminal,amount,fraud"]
    for second in sorted(rng.randrange(28 * 86_400) for _ in range(rows)):
        day, hour = second // 86_400 + 1, second % 86_400 // 3600
        fraud = rng.random() < _FRAUDS * (3 if hour < 6 else 1)
        amount = math.exp(rng.gauss(4.5 if fraud else 3.2, 0.8))
        time = f"2026-01-{day:02}T{hour:02}:{second // 60 % 60:02}:{second % 60:02}Z"
        lines.append(f"{time},c{rng.randrange(300):03},t{rng.randrange(60):02},{amount:.2f},{int(fraud)}")
    return "\n".join(lines) + "\n"
