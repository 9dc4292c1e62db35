"""Verify a released model offline, and score transactions with it.

A release is used only after every step of its verification passed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from contracts.answers import EPILOG, Answer, printable
from contracts.clauses import Measured
from contracts.errors import EscrowError
from parties import scoring
from parties.cli import application
from parties.identity import Identity, pinned
from parties.release import Step, Verified, summary, verify_release

app = application()

Folder = Annotated[Path, typer.Argument(metavar="DIR")]
Home = Annotated[
    Path | None, typer.Option(metavar="DIR", envvar="PARTY_HOME", help="The party's home: its keys and pinned escrow.")
]


@app.callback(epilog=EPILOG)
def noun() -> None:
    """Verify a released model, and score transactions with it.

    Example: party release verify RELEASE --home /etc/party
    """


@app.command("verify", epilog=EPILOG)
def verify(directory: Folder, home: Home = None) -> Answer:
    """Verify a fetched release step by step, offline, and show what the contract's test found for this party.

    DIR is the directory that the release was fetched into.

    Example: party release verify RELEASE --home /etc/party
    """
    verified, steps = _verified(directory, home)
    passed = [{"step": number, "passed": sentence} for number, sentence in steps]
    return Answer({**summary(verified), "steps": passed}, Group(*_page(verified)))


@app.command("score", epilog=EPILOG)
def score(
    directory: Folder,
    table: Annotated[Path, typer.Argument(metavar="TABLE")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the scores go: .parquet or .csv; replaced.")],
    home: Home = None,
) -> Answer:
    """Verify a release, then give each transaction of a table its probability of fraud.

    TABLE is .parquet or .csv with the columns of the contract's schema.
    Labels may be missing. Features look back in time: append new rows to history.
    FILE holds time, group, terminal, amount and score, in the table's order.

    Example: party release score RELEASE today.parquet --out scores.parquet --home /etc/party
    """
    scoring.check_writable(out, table)
    verified, _ = _verified(directory, home)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Scoring", total=None)
        found = scoring.score(verified, table, lambda done, all_: progress.update(task, completed=done, total=all_))
    scoring.write(out, found)
    model = verified.bundle.digest if verified.bundle else None
    data = {"contract": verified.contract.digest(), "model": model, "rows": found.num_rows, "out": str(out)}
    return Answer(data, printable(f"{found.num_rows} rows scored, written to {out}\nModel {model}"))


def _verified(directory: Path, home: Path | None) -> tuple[Verified, list[Step]]:
    if home is None:
        raise EscrowError("home-missing", "Nothing says which party this is.")
    steps: list[Step] = []

    def told(step: Step) -> None:
        steps.append(step)
        typer.echo(printable(f"{step[0]}. {step[1]}"), err=True)

    return verify_release(directory, Identity.open(home), pinned(home), told), steps


def _page(verified: Verified) -> Iterator[RenderableType]:
    yield Text(printable(verified.contract.title), style="bold")
    yield Text("Verified: use this model.", style="green") if verified.bundle else Text("Verified.", style="green")
    if verified.opening.findings:
        yield _findings(verified)
    else:
        yield Text("The contract discloses no figures to this party.")
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
