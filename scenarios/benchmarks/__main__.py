"""`python -m scenarios.benchmarks NAME`: run one benchmark and print its figures and the targets they must reach.

The exit code is 1 if a target is missed; the benchmark itself has then still succeeded, so the status is `ok`.
"""

import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from contracts.answers import EPILOG, Answer
from contracts.errors import EscrowError, Exit
from escrow.cli import application, invoke, serve
from scenarios.benchmarks.report import Figures, Target

BENCHMARKS: Final[Mapping[str, str]] = {
    "gate": "how fast the gate resamples, and that it says what scikit-learn says",
    "calibration": "how often the gate releases a model that does not benefit every bank",
    "overhead": "what the escrow adds to the time of the training alone",
    "accuracy": "how good the models are on public data",
    "ledger": "how fast the ledger grows and is verified",
    "demo": "time and memory of `escrow demo`",
    "lifecycle": "what a contract costs the escrow over gRPC and TLS, by the number of its parties",
    "load": "200 banks at once: speed, and whether anything is lost or doubled",
    "deposit": "how fast a large file is sealed and uploaded, and in how much memory",
    "sealed": "what sealing costs: a job beside a bare container, the demo beside an unsealed one",
    "federated": "how long a round of joint training takes, sealed, at the banks, large, in crowds; and if it repeats",
    "federated-accuracy": "how good each way to train together is, for each bank, on public data",
    "recovery": "what an escrow that is killed at random moments loses, and how soon it is back",
}

app = application()


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    return serve(lambda rest: invoke(app, "python -m scenarios.benchmarks", rest), words)


@app.command(epilog=f"{EPILOG}\n\nA missed target is exit code 1 with status ok.")
def benchmark(name: Annotated[str, typer.Argument(metavar="NAME")] = "list") -> Answer:
    """Run the benchmark NAME, or list them all.

    Example: python -m scenarios.benchmarks gate --format json
    """
    if name == "list":
        return Answer({"benchmarks": dict(BENCHMARKS)}, _listed())
    if name not in BENCHMARKS:
        raise EscrowError("usage", f"There is no benchmark {name!r}.", f"Name one of: {', '.join(BENCHMARKS)}.")
    figures = _run(name)
    data = {"benchmark": name, "machine": machine(), **report(figures)}
    return Answer(data, Group(*_page(name, figures)), Exit.OK if figures.met else Exit.REFUSED)


def _run(name: str) -> Figures:
    module = import_module(f"scenarios.benchmarks.{name.replace('-', '_')}")
    figures = module.run(lambda text: typer.echo(f"{name}: {text}", err=True))
    if not isinstance(figures, Figures):
        raise TypeError(name)
    return figures


def report(figures: Figures) -> dict[str, Any]:
    """Figures and targets as JSON values; a figure that is no number is null, and reaches no target."""
    values = {name: _number(value) for name, value in figures.values.items()}
    return {"figures": values, "targets": [_target(target, figures.values) for target in figures.targets]}


def _target(target: Target, values: Mapping[str, float]) -> dict[str, Any]:
    """`at_least` or `at_most` is the bound, `value` what was measured."""
    return {
        "figure": target.figure,
        target.kind: target.value,
        "value": _number(values[target.figure]),
        "met": bool(target.met(values)),
    }


def _number(value: float) -> float | None:
    """A plain number for JSON, whatever numpy called it."""
    return float(value) if isfinite(value) else None


def machine() -> dict[str, Any]:
    """What a figure's reader must know of the machine: neither its name nor its paths."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _cpu() -> str:
    """The processor's model as Linux names it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _listed() -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, what in BENCHMARKS.items():
        grid.add_row(Text(name, style="bold"), what)
    return grid


def _page(name: str, figures: Figures) -> Iterator[RenderableType]:
    about = machine()
    yield Text(f"{name}: {BENCHMARKS[name]}", style="bold")
    yield Text(f"{about['cpu']}, {about['cores']} cores, {about['memory_mib']} MiB, Python {about['python']}", "dim")
    table = Table("figure")
    for column in ("value", "target", "met"):
        table.add_column(column, justify="right")
    targets = {target.figure: target for target in figures.targets}
    for figure, value in figures.values.items():
        target = targets.get(figure)
        table.add_row(figure, f"{value:.4g}", *(_words(target, figures.values) if target else ("", "")))
    yield table


def _words(target: Target, values: Mapping[str, float]) -> tuple[str, Text]:
    met = target.met(values)
    bound = f"{'≥' if target.kind == 'at_least' else '≤'} {target.value:g}"
    return bound, Text("yes", style="green") if met else Text("no", style="red")


if __name__ == "__main__":
    sys.exit(main())
