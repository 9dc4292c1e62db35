"""How the bank's commands show things: pages, tables, times and progress."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from contracts import pages
from contracts.pages import Section

Told = Callable[[int, int | None], None]
"""Hears how much of how much is done."""


def page(sections: Iterable[Section]) -> Text:
    """Sections as text for this terminal."""
    return Text.assemble(*pages.laid_out(sections, Console().width))


def tell_page(sections: Iterable[Section]) -> None:
    """The same on stderr, as talk before a question."""
    show(page(sections), stderr=True)


def show(people: object, *, stderr: bool = False) -> None:
    """Print a result; what is laid out already, and what is text, keeps its lines: a digest is never broken."""
    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    console.print(people, soft_wrap=isinstance(people, str | Text))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[str] = ()) -> Table:
    """A table; `numbers` names the columns that stand to the right. None is shown as nothing."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text("" if each is None else pages.one_line(str(each))) for each in row))
    return made


def moment(time: int) -> str:
    """A time as people read it, UTC."""
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S} UTC"


def short(digest: str) -> str:
    """The first eight characters of a digest or commitment: what people type."""
    return digest.rpartition(":")[2][:8]


@contextmanager
def progress(what: str) -> Iterator[Told]:
    """A bar on stderr while something takes its time; nothing where no terminal is."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
