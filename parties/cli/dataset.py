"""Check, encrypt and deposit tables, list what was deposited, and take it back."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts.answers import Answer
from contracts.api import DepositView
from contracts.errors import EscrowError
from contracts.lifecycle import TERMINAL
from contracts.pages import counted
from contracts.proceedings import term_digest
from parties.cli import EPILOG, application
from parties.cli.desk import Desk, confirm, tell
from parties.cli.screen import progress, short, table
from parties.client import Client
from parties.draft import read_schema
from parties.home import keep_schema

app = application()


@app.callback(epilog=EPILOG)
def noun() -> None:
    """Check, encrypt and deposit tables, list what was deposited, and take it back.

    Example: party dataset add transactions.parquet --schema schema.yaml
    """


@app.command("add", epilog=EPILOG)
def add(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="TABLE", help="Labelled transactions, .parquet or .csv.")],
    schema_file: Annotated[
        Path, typer.Option("--schema", metavar="FILE", help="The schema, YAML or JSON, that all banks agreed on.")
    ],
) -> Answer:
    """Check a table, split it into train and holdout by the schema, encrypt both, and deposit them.

    The key that opens them stays here until an approval seals it to one contract.
    A sending that was cut off goes on where it was when the command is called again.
    What is deposited already is not deposited twice.

    Example: party dataset add transactions.parquet --schema schema.yaml
    """
    from parties.deposit import read_and_prepare  # noqa: PLC0415 - tables are slow to import, and needed here alone
    from parties.sending import Sent, deposit  # noqa: PLC0415

    desk: Desk = ctx.obj
    schema = read_schema(schema_file)
    tell(f"Checking {file.name} and computing its features …")
    train, holdout = read_and_prepare(file, schema)
    keep_schema(desk.home, schema)
    sent: list[Sent] = []
    with desk.client() as client:
        for part, prepared in (("train", train), ("holdout", holdout)):
            with progress(f"Sending {part}") as told:
                sent.append(deposit(client, prepared, part, schema, told))  # type: ignore[arg-type]
    lines = [f"{each.deposit.part:8} {each.words()}  {each.deposit.commitment}" for each in sent]
    lines += ["", "Next: party contract init --partner NAME --out contract.yaml, or wait for a proposal."]
    data = {"schema": term_digest(schema), "deposits": [each.data() for each in sent]}
    return Answer(data, "\n".join(lines))


@app.command("list", epilog=EPILOG)
def list_(ctx: typer.Context) -> Answer:
    """List this party's deposits, and how often each holdout was looked at.

    Example: party dataset list --format json
    """
    desk: Desk = ctx.obj
    with desk.client() as client:
        found = client.escrow.deposits()
    rows = [{**_data(each), "secrets": _held(desk, each)} for each in found]
    columns = ("deposit", "part", "rows", "frauds", "looks", "schema", "")
    shown = table(columns, (_row(each) for each in rows), numbers=("rows", "frauds", "looks"))
    return Answer(
        {"deposits": rows}, shown if rows else "Nothing is deposited.\n\nNext: party dataset add TABLE --schema FILE."
    )


@app.command("revoke", epilog=EPILOG)
def revoke(
    ctx: typer.Context,
    commitment: Annotated[str, typer.Argument(metavar="[COMMITMENT]", help="Its first eight characters will do.")] = "",
    yes: Annotated[str, typer.Option("--yes", metavar="COMMITMENT", help="The whole of it, for scripts.")] = "",
) -> Answer:
    """Take a deposit back for good: every unfinished contract that uses it is halted.

    Example: party dataset revoke 4f1d09aa
    """
    desk: Desk = ctx.obj
    with desk.client() as client:
        found = _own(client, commitment or yes)
        halted = [
            each
            for each in client.escrow.contracts()
            if each.state not in TERMINAL and found.commitment in each.contract.commitments()
        ]
        tell(f"The {found.part} deposit of {counted(found.rows or 0, 'row', 'rows')}: {found.commitment}")
        for case in halted:
            tell(f"This halts {short(case.digest)}: {' '.join(case.contract.title.split())}")
        confirm(found.commitment, yes, option="--yes", to="revoke it")
        receipt = client.revoke(found.commitment)
    data = {"commitment": found.commitment, "entry": receipt.index, "halted": [each.digest for each in halted]}
    words = f"Revoked, ledger entry {receipt.index}. Halted: {counted(len(halted), 'contract', 'contracts')}."
    return Answer(data, words)


def _own(client: Client, text: str) -> DepositView:
    """The deposit that the beginning of its commitment names.

    Raises:
        EscrowError: `usage`, or `deposit-unknown` if none begins so, or several do.
    """
    match = re.fullmatch(r"(?:sha256-salted:)?([0-9a-f]{8,64})", text)
    if not match:
        raise EscrowError("usage", "Name a deposit by eight or more characters of its commitment.", "See dataset list.")
    prefix = f"sha256-salted:{match[1]}"
    found = [each for each in client.escrow.deposits() if each.commitment.startswith(prefix) and not each.revoked]
    if len(found) != 1:
        count = "Several deposits begin" if found else "No deposit that was not revoked begins"
        raise EscrowError("deposit-unknown", f"{count} with {match[1]}.", "See `party dataset list`.")
    return found[0]


def _held(desk: Desk, view: DepositView) -> bool:
    """Whether what opens the deposit is still at home."""
    return (desk.home / "deposits" / f"{view.commitment.removeprefix('sha256-salted:')}.json").is_file()


def _data(view: DepositView) -> dict[str, Any]:
    found = view.model_dump(mode="json", exclude={"party", "data_schema"}, by_alias=True)
    return {**found, "schema": view.data_schema}


def _row(data: dict[str, Any]) -> tuple[object, ...]:
    note = "revoked" if data["revoked"] else "" if data["secrets"] else "its key is not in this home"
    looks = data["looks"] if data["part"] == "holdout" else None
    schema = short(data["schema"])
    return (short(data["commitment"]), data["part"], data["rows"], data["positives"], looks, schema, note)
