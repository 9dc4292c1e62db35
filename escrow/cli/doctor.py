"""Check what an escrow needs of its machine, and say what to do."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from contracts.answers import Answer, printable
from contracts.errors import Exit
from escrow.cli.home import Home
from escrow.cli.serving import ENROLMENT, MAIN, METRICS, EnrolmentPort, Listen, MetricsPort, Port

if TYPE_CHECKING:
    from escrow.doctor import Check


def doctor(
    home: Home,
    listen: Listen = "127.0.0.1",
    port: Port = MAIN,
    enrolment: EnrolmentPort = ENROLMENT,
    metrics_port: MetricsPort = METRICS,
) -> Answer:
    """Check directory, database, clock, storage, room, certificates, ports, files, worker and memory.

    Whether it serves or not; exit code 1 if a check fails.

    Example: escrow doctor --home /var/lib/escrow
    """
    from escrow.doctor import Patient, examine  # noqa: PLC0415 - help and wrong usage answer at once

    ports = {"main": port, "enrolment": enrolment, "metrics": metrics_port}
    checks = tuple(examine(Patient(home.absolute(), int(time.time()), listen, ports)))
    sound = all(check.ok for check in checks)
    data = {
        "sound": sound,
        "checks": [
            {"check": number, "name": check.name, "ok": check.ok, "found": check.found, "advice": check.advice}
            for number, check in enumerate(checks, 1)
        ],
    }
    return Answer(data, _page(checks), Exit.OK if sound else Exit.REFUSED)


def _page(checks: Sequence["Check"]) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    for _ in range(3):
        grid.add_column(no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    for number, check in enumerate(checks, 1):
        mark = Text("ok", "green") if check.ok else Text("WRONG", "bold red")
        words = check.found if check.ok else f"{check.found}\nNext: {check.advice}"
        grid.add_row(f"{number}.", mark, check.name, Text(printable(words)))
    failed = sum(not check.ok for check in checks)
    return Group(grid, f"{failed} of {len(checks)} checks failed." if failed else "All is well.")
