"""The help of a command-line program, page by page, as people read it on a screen of 80 columns."""

import re
from collections.abc import Callable
from itertools import pairwise

WIDTH = 80
_MARGIN = 1


def pages(call: Callable[..., tuple[int, str, str]]) -> dict[tuple[str, ...], str]:
    """Every command's page, by its words; of the whole program by none. COLUMNS has to be `WIDTH`."""
    found: dict[tuple[str, ...], str] = {}
    left: list[tuple[str, ...]] = [()]
    for argv in left:
        found[argv] = call(*argv, "--help")[1]
        listed = re.findall(r"^│ ([a-z-]+) ", found[argv].partition("─ Commands ─")[2], flags=re.MULTILINE)
        left += [(*argv, command) for command in listed]
    return found


def broken_early(page: str) -> list[str]:
    """Lines of a page's text that end though the next word had room, and no paragraph ends with them."""
    lines = [line.strip() for line in page.partition("╭")[0].splitlines()]
    return [
        line
        for line, following in pairwise(lines)
        if line and following and line != "Examples:" and not following.startswith("- ")
        if len(f"{line} {following.split()[0]}") <= WIDTH - 2 * _MARGIN
    ]
