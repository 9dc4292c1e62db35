"""The command `party`: what a bank does at home, one module for each noun and each command that needs none.

A module is imported only when the command line names it, so help and wrong usage answer at once. What every command
shares stands in `contracts.answers` and in `parties.cli.desk`.
"""

import os
import re
import sys
import time
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import typer
from click import Command
from rich.markup import escape

from contracts import answers
from contracts.answers import Edge, run, taken
from contracts.errors import EscrowError
from parties.cli.screen import show

VERBS: Final = {
    "init": "Make this party's keys and its policy.",
    "enrol": "Get admitted to an escrow, and a certificate.",
    "status": "Who this party is, and what waits for it.",
    "start": "Train with rows that stay here, whenever a contract needs it.",
    "join": "The same for one contract, until it ends.",
}
"""Command → what it does; its module in this package has the same name and offers `command`."""

NOUNS: Final = {
    "certificate": "Show, renew or revoke what this party connects with.",
    "dataset": "Check, encrypt and deposit tables.",
    "capsule": "Write, check and run code for somebody else's rows, and offer it.",
    "contract": "Draw up, read, approve, stop and watch contracts.",
    "release": "Fetch and verify a released model, and score transactions with it.",
    "ledger": "Note the ledger's head, and verify the whole ledger.",
    "policy": "What this party never approves, whatever a contract offers.",
}
"""Noun → what it offers; its module in this package has the same name and offers `app`."""

EPILOG: Final = f"`--home DIR`, anywhere, or PARTY_HOME names the party's home.\n\n{answers.EPILOG}"
"""What every help text ends with."""

_HELP: Final = """A bank's own program: its keys and its data never leave the bank unencrypted.

A first day: init, enrol, dataset add, contract init, contract propose, contract approve, release fetch.

Example: party status --home /etc/party
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The program `party`; returns its exit code."""
    debug = os.environ.get("ESCROW_DEBUG") == "1"
    edge = Edge(show, typer.echo, partial(typer.echo, err=True), debug)
    return run(lambda rest: _program(rest or ["--help"]), sys.argv[1:] if argv is None else argv, edge)


def application(**settings: Any) -> typer.Typer:
    """An empty application with the settings that all of them share."""
    return typer.Typer(add_completion=False, rich_markup_mode="rich", **settings)


def _program(argv: Sequence[str]) -> object:
    rest, homes = taken(argv, "--home")
    if "" in homes:
        raise EscrowError("usage", "--home needs a directory.")
    named = homes[-1] if homes else os.environ.get("PARTY_HOME")
    app = application(epilog=EPILOG, help=_HELP)
    app.callback()(lambda: None)
    for verb, does in VERBS.items():
        loaded = import_module(f"parties.cli.{verb}").command if verb in rest else lambda: None  # or listed only
        app.command(verb, epilog=EPILOG, help=None if verb in rest else does)(loaded)
    for noun, offers in NOUNS.items():
        if noun in rest:
            app.add_typer(import_module(f"parties.cli.{noun}").app, name=noun)
        else:
            app.command(noun, help=offers)(lambda: None)  # listed only
    desk = _desk(named) if {*VERBS, *NOUNS}.intersection(rest) else None
    command = typer.main.get_command(app)
    _refill(command)
    return command.main(list(rest), prog_name="party", standalone_mode=False, obj=desk)


def _refill(command: Command) -> None:
    """Let the screen break the lines of a command's help, and of those under it, not the source; brackets are text.

    Paragraphs, of which each example is one, and items of a list keep their lines.
    """
    command.help = escape(re.sub(r"(?<=\S)(?<!Examples:)\n(?!\s|- )", " ", command.help or ""))
    for each in getattr(command, "commands", {}).values():
        _refill(each)


def _desk(home: str | None) -> object:
    """What every command gets, imported when there is one."""
    made: object = import_module("parties.cli.desk").Desk(Path(home) if home else None, lambda: int(time.time()))
    return made
