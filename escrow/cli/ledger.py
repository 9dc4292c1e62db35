"""Prove an escrow's ledger: nothing was edited, removed, reordered or signed by the wrong hand. Or take it home.

The escrow need not run, and nothing is believed but signatures and hashes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from contracts.answers import EPILOG, Answer, printable
from contracts.errors import EscrowError
from escrow.audit import audit
from escrow.cli import application
from escrow.cli.home import Home, ask

_NOTE_BYTES: Final = 1 << 20
_NO_HEAD: Final = "No remembered head was compared: name one with --head to be sure that nothing was cut off."

app = application()


@app.callback(epilog=EPILOG)
def noun() -> None:
    """Prove an escrow's ledger from its files, or export it.

    Example: escrow ledger verify /var/lib/escrow
    """


@app.command("verify", epilog=EPILOG)
def verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR")],
    head: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A head that a party remembers; the ledger must contain it. Repeatable."),
    ] = None,
) -> Answer:
    """Verify the whole ledger of an escrow, step by step.

    DIR is an escrow's directory, or what `escrow demo --keep DIR` left.
    In the latter case the heads that its banks remember are compared too.
    Without any head, an operator who rewrote or shortened the ledger stays unseen.

    Example: escrow ledger verify /var/lib/escrow --head ~/party/head.note
    """
    home, remembered = _found(directory)
    heads = {str(path): _note(path) for path in [*(head or []), *remembered]}
    steps = audit(home, heads, lambda step: typer.echo(printable(f"{step[0]}. {step[1]}"), err=True))
    data = {"steps": [{"step": number, "passed": words} for number, words in steps], "heads": list(heads)}
    compared = f"It continues every one of {len(heads)} remembered heads." if heads else _NO_HEAD
    return Answer(data, printable(f"The ledger in {home} is intact.\n{compared}"))


@app.command("export", epilog=EPILOG)
def export(file: Annotated[Path, typer.Argument(metavar="FILE")], home: Home) -> Answer:
    """Write the ledger as one file, also while the escrow serves: for auditors, and for whoever has no database.

    The first line holds the signed head, each further line an entry; there is no data in it and no secret.

    Example: escrow ledger export ledger.jsonl --home /var/lib/escrow
    """
    data = ask(home, "export", path=str(file.absolute()))
    return Answer(data, printable(f"{data['entries']} entries are in {file}."))


def _note(path: Path) -> str:
    """The text of a remembered head."""
    try:
        with path.open("rb") as file:
            return file.read(_NOTE_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        raise EscrowError("file-unreadable", f"The head {path} cannot be read as text.") from None


def _found(directory: Path) -> tuple[Path, Sequence[Path]]:
    """The escrow's own directory, and the heads that banks beside it remember."""
    for home in (directory, directory / "escrow"):
        if (home / "escrow.json").is_file():
            return home, sorted(directory.glob("banks/*/head.note"))
    raise EscrowError("escrow-missing", f"{directory} holds no escrow.")
