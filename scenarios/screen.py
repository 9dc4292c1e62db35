"""What a person sees of the demo: progress while it runs, then a table for each contract and what to do next."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from contracts.answers import Answer
from contracts.errors import Exit
from scenarios.mainjob import STAGES
from scenarios.play import Tell
from scenarios.worlds import WORLDS

UNSEALED = (
    "NOT SEALED: workers run as plain processes. For made-up data and development.\n"
    "To see it sealed: escrow image build, then escrow demo --sealing container"
)
SEALED = (
    "Every job ran in a container without network{}. The simulator, as operator, reads the figures below all the "
    "same: containers keep the code that runs from the network, not the operator from the memory."
)
COLOURS = {"released": "bold green", "withheld": "bold red", "holds": "green", "fails": "red", "undecided": "yellow"}


class Bar:
    """One line on stderr: the stage under way and how many of the contract's stages are done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("start", total=len(STAGES))

    def tell(self, stage: str, words: str) -> None:
        """Show where the work is."""
        done = STAGES.index(stage) + (words == "done")
        self._progress.update(self._task, completed=done, description=f"{stage}: {words}")


def watched(perform: Callable[[Tell], dict[str, Any]]) -> dict[str, Any]:
    """Perform with a progress bar on stderr."""
    columns = (SpinnerColumn(), BarColumn(bar_width=18), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True) as progress:
        return perform(Bar(progress).tell)


def answer(data: dict[str, Any]) -> Answer:
    """The demo's answer; refused if a released model could not be verified or a run failed."""
    sound = all(each["verified"] if each["verdict"] == "released" else not each["code"] for each in data["contracts"])
    return Answer(data, Group(*_lines(data)), Exit.OK if sound else Exit.REFUSED)


def _lines(data: dict[str, Any]) -> Iterator[RenderableType]:
    """The tables of all contracts, the picture, and next steps."""
    yield _sealing(data["sealing"])
    for contract in data["contracts"]:
        yield ""
        yield _title(contract)
        yield _table(contract)
        yield _told(contract)
        yield Text("seconds: " + " · ".join(f"{k} {v:.1f}" for k, v in contract["stages"].items()), style="dim")
    yield ""
    yield Text(f"Gains with their bounds and thresholds: {data['plot']}", overflow="fold")
    released = next((contract for contract in data["contracts"] if contract["bundle"]), None)
    if released:
        directory, bundle = Path(data["directory"]), Path(released["bundle"])
        place, home = bundle.relative_to(directory), bundle.parent.parent.relative_to(directory)
        yield Text(f"Verify both yourself, offline, in {directory}:", overflow="fold")
        yield f"  party release verify {place} --home {home}"
        yield "  escrow ledger verify ."


def _sealing(sealing: str) -> Text:
    """What kept the code that ran from doing anything else."""
    if sealing == "none":
        return Text(UNSEALED, style="yellow")
    return Text(SEALED.format(", under gVisor" if sealing == "gvisor" else ""), style="green")


def _title(contract: dict[str, Any]) -> Text:
    verdict = contract["verdict"]
    digest = contract["contract"].removeprefix("sha256:")[:16]
    return Text.assemble(
        (f"World {contract['world']}", "bold"), f"  contract {digest}…  ", (verdict, COLOURS.get(verdict, "yellow"))
    )


def _table(contract: dict[str, Any]) -> Table:
    caption = "average precision on each bank's own holdout, as the simulator saw it"
    table = Table(caption=caption, caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("bank")
    for name in ("frauds", "own", "joint", "gain", "lower bound"):
        table.add_column(name, justify="right")
    table.add_column("clause")
    table.add_column("finding")
    for bank, row in contract["parties"].items():
        figures = [_figure(row[key]) for key in ("own", "joint", "gain", "lower_bound")]
        finding = Text(row["finding"], style=COLOURS[row["finding"]])
        table.add_row(bank, str(row["positives"] or "–"), *figures, row["clause"], finding)
    return table


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _told(contract: dict[str, Any]) -> str:
    if contract["verdict"] == "released":
        verified = "verified it" if contract["verified"] else "could NOT verify it"
        return f"Every bank was told: released, its own line of this table, and fetched the model and {verified}."
    if contract["code"]:
        return f"Every bank was told: failed, {contract['code']}. Model and figures were destroyed."
    return f"Every bank was told: {contract['verdict']}. Nothing else; model, figures and run key were destroyed."


def worlds() -> Answer:
    """The worlds that the demo can play."""
    table = Table("world", "expected", "what happens there", box=SIMPLE_HEAD, pad_edge=False)
    for name, recipe in WORLDS.items():
        table.add_row(name, recipe.expected, recipe.description)
    data = {name: {"expected": recipe.expected, "description": recipe.description} for name, recipe in WORLDS.items()}
    return Answer({"worlds": data}, table)
