"""Check, encrypt and deposit tables, list what was deposited, and take it back."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contracts.answers import Answer
from contracts.api import DepositView
from contracts.errors import EscrowError
from contracts.lifecycle import TERMINAL
from contracts.pages import counted
from contracts.proceedings import term_digest
from parties import policy
from parties.cli import EPILOG, application
from parties.cli.desk import Desk, confirm, tell
from parties.cli.screen import short, table
from parties.cli.sending import send
from parties.client import Client
from parties.draft import read_schema
from parties.home import keep_schema

if TYPE_CHECKING:
    from parties.sending import Sent

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
    *,
    schema_file: Annotated[
        Path | None, typer.Option("--schema", metavar="FILE", help="The schema, YAML or JSON, all banks agreed on.")
    ] = None,
    purpose: Annotated[
        str, typer.Option("--as", metavar="training|table", help="For a joint training, or for capsules.")
    ] = "training",
    rows: Annotated[
        int | None, typer.Option("--rows", metavar="N", min=1, help="Of a table that is neither .csv nor .parquet.")
    ] = None,
    keep_training: Annotated[
        bool, typer.Option("--keep-training", help="Commit to the training rows, and never send them.")
    ] = False,
    send_training: Annotated[
        bool, typer.Option("--send-training", help="Send training rows although they were kept here before.")
    ] = False,
) -> Answer:
    """Check a table, split it into train and holdout by the schema, encrypt both, and deposit them.

    The key that opens them stays here until an approval seals it to one contract.

    With `--keep-training` the training rows stay here, encrypted on this disk: others learn how many there are and a
    commitment. A contract can train on them all the same while `party start` runs here; the holdout is always sent.
    Training rows that were kept so are not sent later by a call that leaves the option out, nor are any if policy.yml
    has the term `placements: [party]`, unless `--send-training` says so.

    A sending that was cut off goes on where it was when the command is called again.
    What is deposited already is not deposited twice.

    With `--as table` the file is deposited as it is, byte for byte, for contracts in which a capsule runs on it.

    Example: party dataset add transactions.parquet --schema schema.yaml

    Example: party dataset add transactions.parquet --schema schema.yaml --keep-training

    Example: party dataset add transactions.csv --as table
    """
    desk: Desk = ctx.obj
    if purpose == "table" and schema_file is None and not keep_training and not send_training:
        return _add_table(desk, file, rows)
    if purpose != "training" or schema_file is None or rows is not None:
        raise EscrowError("usage", "Name the --schema of a table for training, or say --as table and nothing of it.")
    if keep_training and send_training:
        raise EscrowError("usage", "Training rows are either kept or sent.", "Leave one of the two options out.")
    return _add_training(desk, file, schema_file, keep=keep_training, anyway=send_training)


def _add_training(desk: Desk, file: Path, schema_file: Path, *, keep: bool, anyway: bool) -> Answer:
    from parties.deposit import content_of, read_and_prepare  # noqa: PLC0415 - tables are slow to import
    from parties.sending import require_not_kept  # noqa: PLC0415 - as above

    if not keep and not anyway:
        _require_may_be_sent(desk)
    schema = read_schema(schema_file)
    tell(f"Checking {file.name} and computing its features …")
    train, holdout = read_and_prepare(file, schema)
    training = content_of(train, "train", schema, kept=keep)
    if not keep and not anyway:
        require_not_kept(desk.home / "deposits", training)
    keep_schema(desk.home, schema)
    with desk.client() as client:
        sent = [
            send(client, training),
            send(client, content_of(holdout, "holdout", schema)),
        ]
    then = "party contract init --partner NAME --out contract.yaml, or wait for a proposal."
    return _added(sent, then, {"schema": term_digest(schema)})


def _require_may_be_sent(desk: Desk) -> None:
    """Refuse to send training rows that no contract this bank could approve has use for at the escrow."""
    if policy.load(desk.home).placements == ("party",):
        raise EscrowError(
            "deposit-kept",
            "By this bank's policy training rows stay here (placements), and these would be sent.",
        )


def _add_table(desk: Desk, file: Path, rows: int | None) -> Answer:
    from parties.tables import table_content  # noqa: PLC0415 - tables are slow to import

    tell(f"Counting the rows of {file.name} …")
    content = table_content(file, rows)
    with desk.client() as client:
        sent = send(client, content)
    return _added([sent], "wait for the proposal of a contract, or tell the capsule's author.", {})


def _added(sent: "list[Sent]", then: str, about: dict[str, Any]) -> Answer:
    lines = [f"{each.deposit.part:8} {each.words()}  {each.deposit.commitment}" for each in sent]
    data = {**about, "deposits": [each.data() for each in sent]}
    return Answer(data, "\n".join([*lines, "", f"Next: {then}"]))


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
    here = "stays here" if data["kept"] else ""
    note = "revoked" if data["revoked"] else here if data["secrets"] else "its key is not in this home"
    looks = data["looks"] if data["part"] in {"holdout", "table"} else None
    schema = data["schema"] and short(data["schema"])
    return (short(data["commitment"]), data["part"], data["rows"], data["positives"], looks, schema, note)
