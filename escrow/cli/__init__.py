"""The command `escrow`: one module for each noun, and commands that packages of a higher floor plug in.

A noun's module is imported only when the command line names it, so help and wrong usage answer at once, and a machine
without the training extras can still validate a contract. What every command shares stands in `contracts.answers`.
"""

import ast
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import typer
from click import Command
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from contracts.answers import EPILOG, Edge, run

NOUNS: Final[Mapping[str, str]] = {
    "init": "escrow.cli.init:init",
    "serve": "escrow.cli.serving:serve",
    "status": "escrow.cli.status:status",
    "doctor": "escrow.cli.doctor:doctor",
    "party": "escrow.cli.party:app",
    "contract": "escrow.cli.contracts:app",
    "run": "escrow.cli.runs:app",
    "ledger": "escrow.cli.ledger:app",
    "image": "escrow.cli.image:app",
    "certificate": "escrow.cli.certificate:app",
    "backup": "escrow.cli.backup:backup",
    "restore": "escrow.cli.restore:restore",
}
"""What the program offers: name → `module:application` of a noun, or `module:function` of a command."""

PLUGGED_IN: Final = "model_escrow.commands"
"""The entry-point group of further commands: name → `module:function`, a typer command that returns an `Answer`."""


def main(argv: Sequence[str] | None = None) -> int:
    """The program `escrow`; returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    return serve(lambda rest: _program(rest or ["--help"]), words)


def serve(command: Callable[[Sequence[str]], object], argv: Sequence[str]) -> int:
    """`contracts.answers.run` on this process's own stdout and stderr."""
    debug = os.environ.get("ESCROW_DEBUG") == "1"
    return run(command, argv, Edge(show, typer.echo, partial(typer.echo, err=True), debug))


def show(people: object) -> None:
    """Print a result; text keeps its lines: a digest is never broken."""
    Console(markup=False, highlight=False, emoji=False).print(people, soft_wrap=isinstance(people, str | Text))


def application(**settings: Any) -> typer.Typer:
    """An empty application with the settings that all of them share."""
    return typer.Typer(add_completion=False, rich_markup_mode="rich", **settings)


def invoke(app: typer.Typer, name: str, argv: Sequence[str]) -> object:
    """Parse the arguments of an application and run the command they name; what it returns."""
    command = typer.main.get_command(app)
    _refill(command)
    return command.main(list(argv), prog_name=name, standalone_mode=False)


def _refill(command: Command) -> None:
    """Let the screen break the lines of a command's help, and of those under it, not the source; brackets are text.

    Paragraphs, of which each example is one, and items of a list keep their lines.
    """
    command.help = escape(re.sub(r"(?<=\S)(?<!Examples:)\n(?!\s|- )", " ", command.help or ""))
    for each in getattr(command, "commands", {}).values():
        _refill(each)


def _program(argv: Sequence[str]) -> object:
    app = application(epilog=EPILOG, help=_HELP)
    app.callback()(lambda: None)
    plugged_in = {point.name: point.value for point in entry_points(group=PLUGGED_IN)}
    for name, target in {**plugged_in, **NOUNS}.items():
        if name not in argv:
            app.command(name, help=_summary(target))(lambda: None)  # listed only
            continue
        loaded = _load(target)
        if isinstance(loaded, typer.Typer):
            app.add_typer(loaded, name=name)
        else:
            app.command(name, epilog=EPILOG)(loaded)
    return invoke(app, "escrow", argv)


_HELP: Final = """The escrow operator's program, and what any party can do without an escrow.

Example: escrow init /var/lib/escrow --origin escrow.example/ledger
"""


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def _summary(target: str) -> str:
    """The first line of a module's docstring, without importing the module."""
    try:
        spec = find_spec(target.partition(":")[0])
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        return "Not installed."
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_bytes())) or ""
    return text.partition("\n")[0]
