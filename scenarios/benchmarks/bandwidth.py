"""How many bytes of weights a second pass between a worker that asks and three that answer, and in how much memory.

`python -m scenarios.benchmarks.bandwidth` is the process in the middle: it starts the workers (`bulk`), joins them by
the escrow's relay, and hears of the rounds as the escrow does. A round carries the weights to each party and back; what
is counted is that, in MB of 10⁶ bytes, both directions and all parties together, over the median time between two
rounds. Checkpoints, which go to the escrow only, take their time and are not counted.
"""

import json
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

from contracts.frames import floats_in_a_part
from escrow.relay import Bounds, relay
from escrow.runtime.base import State
from escrow.runtime.job import Job, Limits
from escrow.runtime.process import ProcessRuntime
from scenarios.benchmarks.child import Child, serve, usage

PARTIES: Final = ("harbour", "north", "valley")
WORKER: Final = (sys.executable, "-m", "scenarios.benchmarks.bulk")
FOUND: Final = "found.json"
SECONDS: Final = 600


@dataclass(frozen=True)
class Carried:
    """What was measured.

    Attributes:
        mb_per_second: both directions, all parties.
        peak_mib: of each process, by what it is: `aggregate`, `relay`, and each party.

    """

    mb_per_second: float
    peak_mib: Mapping[str, float]


def carried(directory: Path, *, mb: float, rounds: int, kept: bool = True) -> Carried:
    """Carry weights of so many MB through so many rounds, in processes that do nothing else."""
    with Child("bandwidth", directory / "jobs", log=directory / "bandwidth.log") as child:
        found = child.ask("carry", count=int(mb * 1e6) // 4, rounds=rounds, kept=kept)
        moments = found.pop("moments")
        peaks = found.pop("peak_mib") | {"relay": child.ask("usage")["peak_mib"]}
    seconds = median(after - before for before, after in pairwise(moments))
    return Carried(2 * len(PARTIES) * mb / seconds, peaks)


def carry(root: Path, *, count: int, rounds: int, kept: bool) -> dict[str, Any]:
    """The moments at which a round was over, and the memory of the workers.

    Raises:
        RuntimeError: not everything arrived.
    """
    specs: dict[str, dict[str, Any]] = {"aggregate": {"role": "aggregate", "parties": PARTIES, "kept": kept}}
    specs |= {party: {"role": "client", "party": party} for party in PARTIES}
    what = {"count": count, "method": {"name": "fedavg", "rounds": rounds}}
    jobs = {
        name: Job(name, {**spec, **what}, outputs=(FOUND,), limits=Limits(seconds=SECONDS), door=True)
        for name, spec in specs.items()
    }
    with ProcessRuntime(root, command=WORKER) as runtime, ThreadPoolExecutor(1) as thread:
        for job in jobs.values():
            runtime.prepare(job)
            runtime.start(job)
        links = {name: runtime.link(name, seconds=SECONDS) for name in jobs}
        parts = 2 * (count // floats_in_a_part(len(PARTIES)) + 2)
        bounds = Bounds(rounds, parts, SECONDS, time.monotonic() + SECONDS, 4 * count + (1 << 20))
        passed = thread.submit(relay, links.pop("aggregate"), links, bounds, keep=lambda *_: None)
        moments = _heard(runtime)
        passed.result()
        found = {name: _found(runtime, job) for name, job in jobs.items()}
        for name in jobs:
            runtime.destroy(name)
    if found["aggregate"]["value"] != rounds:
        raise RuntimeError("the weights that arrived are not those that were sent")
    return {"moments": moments, "peak_mib": {name: each["peak_mib"] for name, each in found.items()}}


def _heard(runtime: ProcessRuntime) -> list[float]:
    """When each round was over, as the escrow hears of it."""
    moments: list[float] = []
    while not runtime.wait(["aggregate"], progress=lambda _, words: moments.append(time.perf_counter())):  # noqa: ARG005
        pass
    return moments


def _found(runtime: ProcessRuntime, job: Job) -> dict[str, Any]:
    runtime.wait([job.id])
    if runtime.status(job.id).state is not State.FINISHED:
        raise RuntimeError(f"{job.id} failed: {runtime.logs(job.id)[-2000:].decode(errors='replace')}")
    found: dict[str, Any] = json.loads(runtime.collect(job)[FOUND].read())
    return found


if __name__ == "__main__":
    where = Path(sys.argv[1])
    serve({"ready": usage()}, {"carry": lambda **what: carry(where, **what)})
