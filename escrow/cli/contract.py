"""Check a contract and read what follows from it, before anybody signs.

Nothing here needs an escrow: the text of the contract is enough.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.text import Text

from contracts import pages
from contracts.answers import EPILOG, Answer
from contracts.capabilities import Capabilities, unsupported
from contracts.computation import Sealing
from contracts.contract import Contract
from contracts.pages import Line, Section
from escrow.cli import application
from escrow.cli.document import read_document

app = application()

File = Annotated[Path, typer.Argument(metavar="FILE")]


@app.callback(epilog=EPILOG)
def noun() -> None:
    """Check a contract and read what follows from it, before anybody signs.

    Example: escrow contract explain contract.yaml
    """


@app.command("validate", epilog=EPILOG)
def validate(file: File) -> Answer:
    """Check that a contract's text is valid, and show its digest if every party's key is filled in.

    FILE is YAML, or JSON if its name ends in .json. A draft without keys will do.
    Every problem is named with its place.
    Terms that are valid but not supported by this escrow yet are named too.

    Example: escrow contract validate contract.yaml
    """
    contract = read_contract(file)
    missing = _unsupported(contract)
    page = [pages.validity_page(contract, file.name), Section("", tuple(map(Line, _notes(missing))))]
    return Answer({**pages.validity(contract), "unsupported": missing}, _shown(page))


@app.command("explain", epilog=EPILOG)
def explain_(
    file: File,
    party: Annotated[str, typer.Option(metavar="NAME", help="Only what follows for this party.")] = "",
) -> Answer:
    """Say in sentences what a contract means: what runs, who learns what in each outcome, and what to beware of.

    FILE is YAML, or JSON if its name ends in .json. A draft without keys will do.

    Example: escrow contract explain contract.yaml --party north
    """
    contract = read_contract(file)
    missing = _unsupported(contract)
    data = {**pages.consequences(contract, party), "unsupported": missing}
    return Answer(data, _shown(pages.consequences_page(contract, party, _notes(missing))))


def read_contract(file: Path) -> Contract:
    """The contract in a file, which may be a draft.

    Raises:
        EscrowError: `file-unreadable`, or `document-invalid` with every problem that was found.
    """
    return pages.contract_from(read_document(file), file.name)


def _unsupported(contract: Contract) -> list[str]:
    """What an escrow of this version cannot honour, whatever code it runs and however it seals."""
    return unsupported(contract, Capabilities(workers=dict.fromkeys(get_args(Sealing), "")))


def _notes(missing: Iterable[str]) -> list[str]:
    return [f"Not supported by this escrow yet: {term}" for term in missing]


def _shown(page: Iterable[Section]) -> Text:
    return Text.assemble(*pages.laid_out(page, Console().width))
