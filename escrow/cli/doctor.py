"""Check what an escrow needs of its machine, and say what to do."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from contracts.answers import Answer, printable
from contracts.errors import Exit
from escrow.cli.home import Home
from escrow.cli.serving import ENROLMENT, MAIN, METRICS, EnrolmentPort, Image, Listen, MetricsPort, Port, SealedBy
from escrow.sealing import IMAGE, Seal

if TYPE_CHECKING:
    from escrow.doctor import Check


def doctor(  # noqa: PLR0917 - the options of one command, each by name
    home: Home,
    listen: Listen = "127.0.0.1",
    port: Port = MAIN,
    enrolment: EnrolmentPort = ENROLMENT,
    metrics_port: MetricsPort = METRICS,
    sealing: SealedBy = "container",
    image: Image = IMAGE,
) -> Answer:
    """Check what an escrow needs of its machine, from its directory to engine and image, and say what to do.

    The escrow: its directory, database, clock, storage, room on the disk, certificates, ports and open files. Its jobs:
    memory for them, what crashes leave, the worker's packages for plain processes; for containers the engine, the
    limits it can keep, its runtimes, and the image.

    Whether it serves or not; give it the options that the escrow serves with. Exit code 1 if a check fails.
    With --sealing none, what only sealed jobs need is noted where it is missing.

    Example: escrow doctor --home /var/lib/escrow
    """
    from escrow.doctor import Patient, examine  # noqa: PLC0415 - help and wrong usage answer at once

    ports = {"main": port, "enrolment": enrolment, "metrics": metrics_port}
    patient = Patient(home.absolute(), int(time.time()), listen, ports, Seal(sealing, image))
    checks = tuple(examine(patient))
    sound = all(check.mark != "wrong" for check in checks)
    data = {
        "sound": sound,
        "checks": [
            {"check": number, "name": check.name, "mark": check.mark, "found": check.found, "advice": check.advice}
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
        words = f"{check.found}\nNext: {check.advice}" if check.advice else check.found
        grid.add_row(f"{number}.", _MARKS[check.mark], check.name, Text(printable(words)))
    failed = sum(check.mark == "wrong" for check in checks)
    return Group(grid, f"{failed} of {len(checks)} checks failed." if failed else "All is well.")


_MARKS: Final = {"ok": Text("ok", "green"), "note": Text("note", "yellow"), "wrong": Text("WRONG", "bold red")}
