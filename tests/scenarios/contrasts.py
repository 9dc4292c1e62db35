"""Two small worlds whose verdicts do not depend on what a model happens to learn, and what a demo may not leave behind.

The small worlds of `scenarios.worlds` are too small for a net: with other keys, and so other seeds, it gains or not.
"""

import os
from collections.abc import Callable
from datetime import date
from pathlib import Path

import docker
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from contracts.schema import Columns, Schema, Split
from escrow.runtime.confinement import JOB
from escrow.runtime.process import memory_root
from scenarios.worlds import BANKS, Verdict, World

SCHEMA = Schema(
    columns=Columns(time="time", label="fraud", group="card", amount="amount", terminal="terminal"),
    features=("x", "y"),
    windows_days=(1,),
    label_delay_days=1,
    split=Split(train_from=date(2026, 1, 2), train_days=14, test_days=14),
)
ROWS = 1200
DAYS = 30
FAR = 6.0
"""How far a fraud stands out, in standard deviations of its feature."""

Place = Callable[[npt.NDArray[np.bool_], int], npt.NDArray[np.float64]]
"""From whether rows are of the holdout, and the bank's position, to where frauds stand out: `(n, 2)`."""


def exchanged(later: npt.NDArray[np.bool_], position: int) -> npt.NDArray[np.float64]:
    """Each bank has met what the other will meet."""
    return FAR * np.eye(2)[np.where(later, 1 - position, position)]


def opposed(later: npt.NDArray[np.bool_], position: int) -> npt.NDArray[np.float64]:
    """What is fraud at one bank is none at the other."""
    return np.tile([FAR * (1 - 2 * position), 0.0], (len(later), 1))


def world(name: str, place: Place, expected: Verdict) -> World:
    """Two banks whose frauds stand out there; the same tables each time."""
    tables = {bank: table(bank, position, place, name) for position, bank in enumerate(BANKS[:2])}
    return World(name, f"World {name}.", SCHEMA, tables, expected, "Its frauds are made so.")


def table(bank: str, position: int, place: Place, seed: str) -> pa.Table:
    rng = np.random.default_rng([position, *seed.encode()])
    seconds = np.sort(rng.integers(0, DAYS * 86_400, ROWS))
    fraud, xy = rng.random(ROWS) < 0.15, rng.normal(size=(ROWS, 2))
    xy[fraud] += place(seconds >= 15 * 86_400, position)[fraud]
    return pa.table(
        {
            "time": np.datetime64("2026-01-01", "us") + seconds.astype("timedelta64[s]"),
            "fraud": fraud.astype(np.int8),
            "card": [f"{bank}-{card}" for card in rng.integers(0, ROWS // 3, ROWS)],
            "terminal": [f"t{terminal}" for terminal in rng.integers(0, 30, ROWS)],
            "amount": 1 + rng.gamma(2.0, 30.0, ROWS).round(2),
            "x": xy[:, 0],
            "y": xy[:, 1],
        }
    )


def story() -> list[World]:
    """A world in which each bank gains, and one in which none can."""
    return [world("exchanged", exchanged, "released"), world("opposed", opposed, "withheld")]


def running(directory: Path) -> list[str]:
    """The processes that have to do with a demo's directory, or with jobs of its escrow or its banks' nodes."""
    homes = [directory / "escrow", *(directory / "banks").glob("*")]
    found, names = [], [os.fsencode(place) for place in (directory, *map(memory_root, homes))]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            about = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended meanwhile, or is somebody else's
        if any(name in about for name in names):
            found.append(about.split(b"\0")[0].decode())
    return found


def jobs_left(directory: Path) -> list[Path]:
    """What is left in memory of the jobs of a demo's escrow and of its banks' nodes."""
    roots = [memory_root(home) for home in (directory / "escrow", *(directory / "banks").glob("*"))]
    return [path for root in roots for path in root.parent.glob(f"{root.name}*")]


def containers_left(engine: docker.DockerClient, contract: str) -> list[str]:
    """What is left in the engine of a contract's jobs, the escrow's and those of banks' nodes."""
    jobs = {"label": JOB}
    found = [*engine.api.containers(all=True, filters=jobs), *(engine.api.volumes(filters=jobs)["Volumes"] or [])]
    digest = contract.removeprefix("sha256:")[:32]
    return [each["Labels"][JOB] for each in found if digest in each["Labels"][JOB]]
