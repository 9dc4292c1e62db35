"""Check a contract and read what follows from it, before anybody signs.

Nothing here needs an escrow: the text of the contract is enough, so every party can do it at home.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from contracts.answers import EPILOG, Answer, printable
from contracts.capabilities import Capabilities, unsupported
from contracts.consequences import Explanation, ForParty, explain
from contracts.contract import Contract, problems
from contracts.errors import EscrowError
from escrow.cli import application
from escrow.cli.document import read_document
from escrow.runtime.process import ProcessRuntime

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
    data = {
        "valid": True,
        "title": contract.title,
        "digest": _digest(contract),
        "parties": len(contract.parties),
        "clauses": len(contract.release),
        "unsupported": missing,
    }
    parties = _counted(len(contract.parties), "party", "parties")
    clauses = _counted(len(contract.release), "clause", "clauses")
    lines = [
        f"{file.name} is a valid contract: {contract.title}",
        f"{parties}, {clauses} that must hold",
        _digest_words(contract),
        *(f"Not supported by this escrow yet: {term}" for term in missing),
    ]
    return Answer(data, printable("\n".join(lines)))


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
    explanation = explain(contract)
    chosen = [each for each in explanation.parties if not party or each.party == party]
    if not chosen:
        names = ", ".join(contract.names())
        raise EscrowError("party-unknown", f"{party} is not one of the parties.", f"Name one of them: {names}.")
    missing = _unsupported(contract)
    data = explanation.model_dump(mode="json", by_alias=True) | {
        "digest": _digest(contract),
        "purpose": contract.purpose,
        "parties": [each.model_dump(mode="json", by_alias=True) for each in chosen],
        "unsupported": missing,
    }
    return Answer(data, Group(*_page(contract, explanation, chosen, missing)))


def read_contract(file: Path) -> Contract:
    """The contract in a file, which may be a draft.

    Raises:
        EscrowError: `file-unreadable`, or `document-invalid` with every problem that was found.
    """
    document = read_document(file)
    try:
        return Contract.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        found = problems(error)
        count = _counted(len(found), "problem", "problems")
        raise EscrowError(
            "document-invalid",
            f"{file.name} is not a valid contract: {count}.",
            "Correct what is named above and validate again.",
            found,
        ) from None


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _unsupported(contract: Contract) -> list[str]:
    """What an escrow of this version cannot honour, whatever code it runs."""
    return unsupported(contract, Capabilities(workers={ProcessRuntime.sealing: ""}))


def _digest(contract: Contract) -> str | None:
    return contract.digest() if all(party.key for party in contract.parties) else None


def _digest_words(contract: Contract) -> str:
    return f"Digest: {_digest(contract) or 'none yet, this is a draft: the keys of its parties are not filled in'}"


def _page(
    contract: Contract, explanation: Explanation, chosen: Iterable[ForParty], missing: list[str]
) -> Iterator[RenderableType]:
    yield Text(printable(contract.title), style="bold")
    yield Text(printable(f"Purpose: {contract.purpose}"))
    yield Text(_digest_words(contract), style="dim")
    yield from _section("What runs", _list([explanation.computation]))
    if missing:
        yield _list([f"Not supported by this escrow yet: {term}" for term in missing], mark="!", style="yellow")
    yield from _section("Released only if all of this holds", _list(explanation.conditions, numbered=True))
    yield from _section("Who learns what", _outcomes(explanation))
    yield from _section("The operator of the escrow", _list(explanation.operator))
    for each in chosen:
        yield from _section(f"For {each.party}", _list(each.consequences))
        if each.warnings:
            yield _list(each.warnings, mark="!", style="yellow")


def _section(title: str, body: RenderableType) -> Iterator[RenderableType]:
    yield Text()
    yield Rule(Text(title, style="bold"), align="left", style="dim")
    yield body


def _list(lines: Iterable[str], *, mark: str = "•", style: str = "", numbered: bool = False) -> Table:
    grid = _grid()
    for number, line in enumerate(lines, 1):
        grid.add_row(Text(f"{number}." if numbered else mark, style=style), Text(printable(line), style=style))
    return grid


def _outcomes(explanation: Explanation) -> Table:
    styles: dict[str, Any] = {"released": "green", "withheld": "yellow", "failed": "red"}
    grid = _grid()
    for outcome, words in explanation.outcomes.items():
        grid.add_row(Text(outcome, style=styles.get(outcome, "")), Text(printable(words)))
    return grid


def _grid() -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    return grid
