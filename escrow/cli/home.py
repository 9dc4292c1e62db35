"""What the commands on one escrow share: how its directory is named, how it is asked, and how tables look."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from contracts.answers import printable

if TYPE_CHECKING:
    from escrow.channel import Verbs

Home = Annotated[
    Path,
    typer.Option("--home", metavar="DIR", envvar="ESCROW_HOME", help="Directory of the escrow.", show_default=False),
]
CONTRACT_HELP: Final = "The contract's digest, or its first 8 digits or more."
SHORT: Final = 16  # hexadecimal digits of a digest that people see


@contextmanager
def operating(home: Path) -> Iterator["Verbs"]:
    """The operator's verbs on the escrow of a directory; see `escrow.channel`."""
    from escrow import channel  # noqa: PLC0415 - help and wrong usage answer at once

    with channel.operating(home.absolute()) as verbs:
        yield verbs


def ask(home: Path, verb: str, **arguments: str) -> dict[str, Any]:
    """What one of the operator's verbs answers."""
    with operating(home) as verbs:
        return verbs(verb, **arguments)


def short(digest: str) -> str:
    """The part of a digest that tells it from others."""
    return digest.partition(":")[2][:SHORT]


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], nothing: str) -> Table | str:
    """Rows for people, in 80 columns; `nothing` if there are none."""
    if not rows:
        return nothing
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for header in headers:
        made.add_column(header, header_style="bold", overflow="fold")
    for row in rows:
        made.add_row(*(Text(printable(str(each))) for each in row))
    return made


def facts(rows: Sequence[tuple[str, object]]) -> str:
    """Names and what they stand for, in 80 columns; a digest is never broken, so that it can be copied."""
    wide = max((len(name) for name, _ in rows), default=0) + 2
    lines = []
    for name, value in rows:
        whole = textwrap.wrap(printable(str(value)), 80 - wide, break_long_words=False, break_on_hyphens=False)
        lines += [f"{label:{wide}}{line}" for label, line in zip_longest([name], whole or [""], fillvalue="")]
    return "\n".join(lines)
