"""The command `party`: what a bank does at home, one module for each noun.

A noun's module is imported only when the command line names it, so help and wrong usage answer at once. What every
command shares stands in `contracts.answers`.
"""

import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any, Final

import typer
from rich.console import Console

from contracts.answers import EPILOG, Edge, run

NOUNS: Final = {"release": "Verify a released model, and score transactions with it."}
"""Noun → what it offers; its module in this package has the same name."""

_HELP: Final = """A bank's own program: its keys and its data never leave the bank.

Example: party release verify RELEASE --home /etc/party
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The program `party`; returns its exit code."""
    out = Console(markup=False, highlight=False, emoji=False)
    debug = os.environ.get("ESCROW_DEBUG") == "1"
    edge = Edge(out.print, typer.echo, partial(typer.echo, err=True), debug)
    return run(lambda rest: _program(rest or ["--help"]), sys.argv[1:] if argv is None else argv, edge)


def application(**settings: Any) -> typer.Typer:
    """An empty application with the settings that all of them share."""
    return typer.Typer(add_completion=False, rich_markup_mode="rich", **settings)


def _program(argv: Sequence[str]) -> object:
    app = application(epilog=EPILOG, help=_HELP)
    app.callback()(lambda: None)
    for noun, offer in NOUNS.items():
        if noun in argv:
            app.add_typer(import_module(f"parties.cli.{noun}").app, name=noun)
        else:
            app.command(noun, help=offer)(lambda: None)  # listed only
    return typer.main.get_command(app).main(list(argv), prog_name="party", standalone_mode=False)
