"""See the runs of contracts, and end one."""

from typing import Annotated, Any

import typer
from rich.console import Group

from contracts.answers import EPILOG, Answer, printable
from escrow.cli import application
from escrow.cli.home import CONTRACT_HELP, Home, ask, facts, short, table

app = application()

Named = Annotated[str, typer.Argument(metavar="CONTRACT", help=CONTRACT_HELP)]


@app.callback(epilog=EPILOG)
def noun() -> None:
    """See the runs of contracts, and end one.

    Example: escrow run list --home /var/lib/escrow
    """


@app.command("list", epilog=EPILOG)
def list_(home: Home) -> Answer:
    """List the contracts that were run, and how their last runs stand.

    Example: escrow run list --home /var/lib/escrow
    """
    data = ask(home, "runs")
    rows = [(short(each["contract"]), _number(each), each["state"], _how(each), each["title"]) for each in data["runs"]]
    return Answer(data, table(("CONTRACT", "RUN", "STATE", "", "TITLE"), rows, "No contract has been run."))


@app.command("show", epilog=EPILOG)
def show(contract: Named, home: Home) -> Answer:
    """Show the last run of a contract: its stages and when each was done.

    If it failed because of one party, only you and that party are told which.

    Example: escrow run show 3f9a1c02 --home /var/lib/escrow
    """
    data = ask(home, "run", contract=contract)
    rows = [("contract", data["contract"]), ("title", data["title"]), ("run", _number(data))]
    rows += [("state", data["state"]), ("stages done", ", ".join(data["stages"]) or "none"), ("now", _how(data))]
    rows += [("fault", data["fault"])] if data["fault"] else []
    history = [(each["index"], each["time"], each["statement"]) for each in data["history"]]
    return Answer(data, Group(facts(rows), "", table(("ENTRY", "TIME", "STATEMENT"), history, "")))


@app.command("abort", epilog=EPILOG)
def abort(contract: Named, home: Home) -> Answer:
    """End the run of a contract that is under way, and destroy what it made.

    The run is spent and stands on the ledger as failed with the code `run-aborted`. If the contract allows another run,
    that one starts by itself; only a party can end the contract.

    Example: escrow run abort 3f9a1c02 --home /var/lib/escrow
    """
    data = ask(home, "abort", contract=contract)
    words = "Another one follows." if data["state"] == "approved" else f"The contract is {data['state']}."
    return Answer(data, printable(f"Run {data['run']} of {short(data['contract'])} is aborted. {words}"))


def _number(run: dict[str, Any]) -> str:
    return f"{run['run']} of {run['of']}"


def _how(run: dict[str, Any]) -> str:
    """Where a run is, or how it ended."""
    if run["running"]:
        return f"after {run['stages'][-1]}" if run["stages"] else "begins"
    return str(run["verdict"] or run["reason"])
