"""Contracts: check one and read what follows from it before anybody signs, and see those that stand on the ledger."""

from typing import Annotated, Any

import typer
from rich.console import Group

from contracts.answers import EPILOG, Answer
from escrow.cli.contract import app
from escrow.cli.home import CONTRACT_HELP, Home, ask, facts, short, table

__all__ = ["app"]


@app.command("list", epilog=EPILOG)
def list_(home: Home) -> Answer:
    """List the contracts on the ledger, where each stands and whose turn it is.

    Example: escrow contract list --home /var/lib/escrow
    """
    data = ask(home, "contracts")
    rows = [_row(each) for each in data["contracts"]]
    return Answer(data, table(("CONTRACT", "STATE", "APPROVED", "TURN", "TITLE"), rows, "No contract was proposed."))


@app.command("show", epilog=EPILOG)
def show(contract: Annotated[str, typer.Argument(metavar="CONTRACT", help=CONTRACT_HELP)], home: Home) -> Answer:
    """Show one contract on the ledger: its terms in short, and everything that has happened to it.

    `--format json` shows all of its terms.

    Example: escrow contract show 3f9a1c02 --home /var/lib/escrow
    """
    data = ask(home, "contract", contract=contract)
    rows = [
        ("contract", data["contract"]),
        ("title", data["title"]),
        ("parties", ", ".join(data["parties"])),
        ("approved", ", ".join(data["approved"]) or "by nobody"),
        ("state", f"{data['state']}: {data['reason']}"),
        ("turn", _turn(data["turn"])),
        ("expires", data["expires"]),
        ("verdict", data["verdict"] or "none"),
    ]
    history = [(each["index"], each["time"], each["statement"]) for each in data["history"]]
    return Answer(data, Group(facts(rows), "", table(("ENTRY", "TIME", "STATEMENT"), history, "")))


def _row(case: dict[str, Any]) -> tuple[str, ...]:
    approved = f"{case['approvals']}/{len(case['parties'])}"
    return short(case["contract"]), case["state"], approved, _turn(case["turn"]), case["title"]


def _turn(names: list[str]) -> str:
    return ", ".join(names) or "nobody"
