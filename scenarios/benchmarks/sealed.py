"""What sealing costs: one job beside a bare `docker run` of the same command, and the demo sealed beside unsealed.

`job_ratio` compares wall time of the whole life of a sealed job, from its inputs to the last trace of it removed, with
`docker run --rm IMAGE` of the same import and no protection at all; pairs in turn, the median of their ratios.
`demo_ratio` does so with whole demos of four banks. `leftovers` counts what many jobs in a row left behind of
containers, volumes, mounts, and files of the runtime; each has an input and an output, every second a door that it
dials, and every fifth fails. `image_build_seconds` is how long `escrow image build` takes where nothing can be
taken over but the wheels that it has kept; the jobs after it run in that image.
"""

import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from statistics import median
from typing import Final

from escrow.runtime.base import DIAL_SECONDS, State
from escrow.runtime.docker import ContainerRuntime
from escrow.runtime.images.engine import WORKER
from escrow.runtime.job import Job
from escrow.runtime.process import memory_root
from scenarios.benchmarks.demo import START
from scenarios.benchmarks.report import Figures, Target

Progress = Callable[[str], None]

IMPORT: Final = ("python3", "-c", "import torch")
OUTPUT: Final = "out.bin"
CONTENT: Final = b"what goes in comes out"
WORD: Final = b"here"
ROW: Final = f"""
import json, socket, sys
from pathlib import Path

job, results = map(Path, sys.argv[1:])
spec = json.loads((job / "job.json").read_bytes())
(results / "{OUTPUT}").write_bytes((job / "inputs" / "in.bin").read_bytes())
if spec["door"]:
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(str(job / "door" / "socket"))
        door.sendall({WORD!r})
sys.exit(spec["fails"])
"""
"""The program of the jobs in a row."""


@dataclass(frozen=True)
class Size:
    """How much is measured; the default is what the targets are about.

    Attributes:
        image: in which jobs run.
        builds: whether the worker's image is built, which takes minutes.
        command: of the pairs.
        pairs: of a sealed job and a bare container.
        jobs: in a row, which are to leave nothing.
        demos: of each kind; none if 0.

    """

    image: str = WORKER
    builds: bool = True
    command: Sequence[str] = IMPORT
    pairs: int = 10
    jobs: int = 50
    demos: int = 3


TARGETS: Final = (
    Target("image_build_seconds", "at_most", 360),
    Target("job_ratio", "at_most", 1.3),
    Target("leftovers", "at_most", 0),
    Target("demo_ratio", "at_most", 1.5),
)


def run(progress: Progress, size: Size | None = None) -> Figures:
    """The image, then jobs, then what they leave, then demos."""
    size = size or Size()
    with tempfile.TemporaryDirectory(prefix="escrow-benchmark-") as name:
        values = {"image_build_seconds": _built(progress) if size.builds else nan}
        values |= _pairs(Path(name), size, progress)
        values |= {"leftovers": _leftovers(Path(name), size, progress)}
        values |= _demos(Path(name), size, progress)
    return Figures(values, TARGETS)


def _built(progress: Progress) -> float:
    """Seconds of building the worker's image anew."""
    progress("the worker's image, anew")
    return _command("image", "build", "--anew")


def _pairs(directory: Path, size: Size, progress: Progress) -> dict[str, float]:
    """The life of one job against a bare container, with the same import."""
    pairs = []
    with ContainerRuntime(memory_root(directory), image=size.image, command=size.command) as runtime:
        for number in range(size.pairs + 1):
            progress(f"job, pair {number} of {size.pairs}" if number else "job, a first one that is not counted")
            pairs.append((_life(runtime, Job(f"pair-{number}", {})), _bare(runtime.worker(), size.command)))
    sealed, bare = [each[0] for each in pairs[1:]], [each[1] for each in pairs[1:]]
    return {
        "job_seconds": median(sealed),
        "bare_seconds": median(bare),
        "job_ratio": median(ours / theirs for ours, theirs in zip(sealed, bare, strict=True)),
    }


def _life(runtime: ContainerRuntime, job: Job, *, fails: bool = False) -> float:
    """Seconds of a job's whole life.

    Raises:
        RuntimeError: it ended otherwise, or what it left is not what came in.
    """
    begin = time.perf_counter()
    runtime.prepare(job)
    runtime.start(job)
    if job.door:
        with runtime.link(job.id, seconds=DIAL_SECONDS) as stream:
            said = stream.recv(len(WORD), socket.MSG_WAITALL)
        if said != WORD:
            raise RuntimeError(f"through the door of {job.id} came {said!r}")
    runtime.wait([job.id])
    if (state := runtime.status(job.id).state) is not (State.FAILED if fails else State.FINISHED):
        raise RuntimeError(f"the job {state}: {runtime.logs(job.id)[-2000:]!r}")
    found = {} if fails else {path: output.read() for path, output in runtime.collect(job).items()}
    if found != ({} if fails else dict.fromkeys(job.outputs, CONTENT)):
        raise RuntimeError(f"the job left {found}")
    runtime.destroy(job.id)
    return time.perf_counter() - begin


def _bare(image: str, command: Sequence[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(["docker", "run", "--rm", image, *command], check=True, stdout=subprocess.DEVNULL)  # noqa: S607 - as a person would
    return time.perf_counter() - begin


def _leftovers(directory: Path, size: Size, progress: Progress) -> int:
    """What there is of many jobs when each of them was removed, and of the runtime's files when it has ended too."""
    root, name = memory_root(directory), f"row-{secrets.token_hex(8)}"
    command = ("python3", "-I", "-S", "-c", ROW)
    files = {*root.rglob("*")}
    with ContainerRuntime(root, image=size.image, command=command) as runtime:
        for number in range(size.jobs):
            if number % 10 == 0:
                progress(f"job {number} of {size.jobs} in a row")
            door, fails = number % 2 == 0, number % 5 == 4
            spec, inputs = {"door": door, "fails": fails}, {"in.bin": CONTENT}
            _life(runtime, Job(f"{name}-{number}", spec, inputs, outputs=(OUTPUT,), door=door), fails=fails)
        left = len(standing(name))  # before the runtime ends: its guard would remove what is there
    return left + len({*root.rglob("*")} - files)


def standing(name: str) -> list[str]:
    """Containers, volumes and mounts of this machine that are called after a job."""
    lists = (["docker", "ps", "-a", "--format", "{{.Names}}"], ["docker", "volume", "ls", "-q"])
    found = [line for command in lists for line in subprocess.check_output(command, text=True).splitlines()]
    found += Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return [each for each in found if name in each]


def _demos(directory: Path, size: Size, progress: Progress) -> dict[str, float]:
    """Whole demos in turn."""
    pairs: list[dict[str, float]] = []
    for number in range(size.demos):
        pairs.append({})
        for sealing in ("container", "none"):
            progress(f"demo {number + 1} of {size.demos}, sealing {sealing}")
            keep = directory / f"{sealing}-{number}"
            pairs[-1][sealing] = _command("demo", "--sealing", sealing, "--keep", str(keep))
    ratios = [each["container"] / each["none"] for each in pairs]
    return {
        "demo_sealed_seconds": median(each["container"] for each in pairs) if pairs else nan,
        "demo_unsealed_seconds": median(each["none"] for each in pairs) if pairs else nan,
        "demo_ratio": median(ratios) if pairs else nan,
    }


def _command(*words: str) -> float:
    """Seconds of a command of `escrow`, as a user starts it."""
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", START, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - begin
