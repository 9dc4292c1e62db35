"""What this party never approves, whatever a contract offers, and what that says of a contract."""

from pathlib import Path
from typing import Annotated

import typer

from contracts.answers import Answer
from contracts.errors import Exit
from contracts.pages import Line, Section
from parties import policy
from parties.cli import EPILOG, acts, application
from parties.cli.cases import found, is_digest, looks, read_contract
from parties.cli.desk import Desk
from parties.cli.screen import page, table

app = application()


@app.callback(epilog=EPILOG)
def noun() -> None:
    """What this party never approves, whatever a contract offers.

    Example: party policy check contract.yaml
    """


@app.command("show", epilog=EPILOG)
def show(ctx: typer.Context) -> Answer:
    """Show what the policy in this party's home demands; without a file the default is in force.

    Example: party policy show
    """
    desk: Desk = ctx.obj
    path = desk.home / policy.FILE
    demands = policy.load(desk.home).demands()
    data = {
        "file": str(path) if path.exists() else None,
        "demands": [{"term": each.term, "value": each.value, "sentence": each.sentence} for each in demands],
    }
    rows = [(each.term, each.value, each.sentence) for each in demands]
    nothing = f"The policy in {path} demands nothing: every contract may be approved."
    return Answer(data, table(("term", "value", "demands"), rows) if rows else nothing)


@app.command("check", epilog=EPILOG)
def check(
    ctx: typer.Context,
    which: Annotated[
        str, typer.Argument(metavar="FILE|DIGEST", help="A contract's file, or its digest's first eight characters.")
    ],
) -> Answer:
    """Say whether this party's policy allows a contract; exit code 1 and every violation if it does not.

    A file is checked offline, unless the policy limits looks: only the escrow has counted them.

    Example: party policy check contract.yaml
    """
    desk: Desk = ctx.obj
    name = desk.identity().name
    if is_digest(which):
        with desk.client() as client:
            said = acts.verdict(desk, name, found(client.escrow, which).contract, looks(client.escrow))
    else:
        contract = read_contract(Path(which))
        counted = {}
        if policy.load(desk.home).looks_at_most is not None:
            with desk.client() as client:
                counted = looks(client.escrow)
        said = acts.verdict(desk, name, contract, counted)
    if said["allowed"]:
        return Answer(said, f"{name}'s policy allows this contract.")
    first = Section("", (Line(f"{name}'s policy does not allow this contract."),))
    lines = (Line(f"{each['term']}: {each['sentence']}", "!", "red") for each in said["violations"])
    return Answer(said, page([first, Section("", tuple(lines))]), Exit.REFUSED)
