"""Fetch a released model, verify it offline, and score transactions with it.

A release is used only after every step of its verification passed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from contracts.answers import Answer, printable
from contracts.clauses import Measured
from contracts.consequences import DEVELOPMENT
from parties import scoring
from parties.cli import EPILOG, application
from parties.cli.cases import found
from parties.cli.desk import Desk, step
from parties.cli.screen import progress, short
from parties.identity import pinned
from parties.release import Step, Verified, fetch, summary, verify_release

app = application()

Folder = Annotated[Path, typer.Argument(metavar="DIR")]


@app.callback(epilog=EPILOG)
def noun() -> None:
    """Fetch and verify a released model, and score transactions with it.

    Example: party release fetch 4f1d09aa --into RELEASE
    """


@app.command("fetch", epilog=EPILOG)
def fetch_(
    ctx: typer.Context,
    which: Annotated[str, typer.Argument(metavar="DIGEST", help="The contract; its first eight characters will do.")],
    into: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where it goes; a directory in the party's home if left out.")
    ] = None,
) -> Answer:
    """Fetch this party's package of a released contract, decrypt it, and verify it step by step.

    Example: party release fetch 4f1d09aa --into RELEASE
    """
    desk: Desk = ctx.obj
    with desk.client() as client:
        view = found(client.escrow, which)
        directory = fetch(client, view.digest, into or desk.home / "releases" / short(view.digest))
    verified, steps = _verified(directory, desk)
    where = Text(printable(f"Fetched into {directory}"))
    return Answer({**summary(verified), "directory": str(directory), "steps": steps}, Group(*_page(verified), where))


@app.command("verify", epilog=EPILOG)
def verify(ctx: typer.Context, directory: Folder) -> Answer:
    """Verify a fetched release step by step, offline, and show what the contract's test found for this party.

    DIR is the directory that the release was fetched into.

    Example: party release verify RELEASE --home /etc/party
    """
    verified, steps = _verified(directory, ctx.obj)
    return Answer({**summary(verified), "steps": steps}, Group(*_page(verified)))


@app.command("score", epilog=EPILOG)
def score(
    ctx: typer.Context,
    directory: Folder,
    table: Annotated[Path, typer.Argument(metavar="TABLE")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the scores go: .parquet or .csv; replaced.")],
) -> Answer:
    """Verify a release, then give each transaction of a table its probability of fraud.

    TABLE is .parquet or .csv with the columns of the contract's schema.
    Labels may be missing. Features look back in time: append new rows to history.
    FILE holds time, group, terminal, amount and score, in the table's order.

    Example: party release score RELEASE today.parquet --out scores.parquet --home /etc/party
    """
    scoring.check_writable(out, table)
    verified, _ = _verified(directory, ctx.obj)
    with progress("Scoring") as told:
        scored = scoring.score(verified, table, told)
    scoring.write(out, scored)
    model = verified.bundle.digest if verified.bundle else None
    data = {"contract": verified.contract.digest(), "model": model, "rows": scored.num_rows, "out": str(out)}
    return Answer(data, printable(f"{scored.num_rows} rows scored, written to {out}\nModel {model}"))


def _verified(directory: Path, desk: Desk) -> tuple[Verified, list[dict[str, object]]]:
    """The release, and the steps of its verification, which were told as they passed."""
    steps: list[dict[str, object]] = []

    def told(passed: Step) -> None:
        steps.append({"step": passed[0], "passed": passed[1]})
        step(passed)

    return verify_release(directory, desk.identity(), pinned(desk.home), told), steps


def _page(verified: Verified) -> Iterator[RenderableType]:
    development = verified.standing == "development"
    if development:
        yield Text(DEVELOPMENT, style="bold yellow")
    yield Text(printable(verified.contract.title), style="bold")
    usable = verified.bundle and not development
    yield Text("Verified: use this model." if usable else "Verified.", style="green")
    if verified.opening.findings:
        yield _findings(verified)
    elif verified.contract.training:
        yield Text("The contract discloses no figures to this party.")
    if verified.outputs:
        yield Text(f"Outputs of capsule {verified.outputs.capsule}, green on synthetic rows before:")
        yield from (Text(printable(f"  outputs/{path}")) for path in verified.outputs.outputs)
    if verified.bundle:
        yield Text(f"Model {verified.bundle.digest}")


def _findings(verified: Verified) -> Table:
    """One row for each of the party's own conditions."""
    title = "What the test found on this party's holdout"
    style: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False, "show_edge": False, "title_justify": "left"}
    table = Table("condition", "metric", title=title, **style)
    for column in ("own", "joint", "gain", "lower\nbound", "positives"):
        table.add_column(column, justify="right", no_wrap=True)
    for finding in verified.opening.findings:
        clause, measured = verified.contract.release[finding.clause], finding.measurement
        metric = clause.metric_words() if isinstance(clause, Measured) else ""
        if measured is None:
            table.add_row(clause.kind, metric)
            continue
        lower = measured.joint_lower if clause.kind == "floor" else measured.gain_lower
        figures = (_figure(each) for each in (measured.own, measured.joint))
        table.add_row(
            clause.kind, metric, *figures, _figure(measured.gain, "+"), _figure(lower, "+"), str(measured.positives)
        )
    return table


def _figure(value: float | None, sign: str = "") -> str:
    return "undefined" if value is None else f"{value:{sign}.4f}"
