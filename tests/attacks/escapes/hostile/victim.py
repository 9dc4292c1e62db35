"""An innocent program that is the victim of kills: says that it runs, waits, leaves an output."""

import time
from pathlib import Path


def work_when_told() -> None:
    print("working", flush=True)
    while not Path("/tmp/go").exists():  # noqa: S108 - its own container's
        time.sleep(0.05)
    Path("/results/found.json").write_bytes(b'"done"' + b" " * (1 << 20))


def work_on() -> None:
    print("working", flush=True)
    time.sleep(600)


def work_at_once() -> None:
    Path("/results/found.json").write_bytes(b'"done"' + b" " * (1 << 20))
