"""Time and memory of `escrow demo`, as a user starts it: a fresh process, from the command to the last line."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from scenarios.benchmarks.report import Figures, Target

RUNS = 5
SAMPLE_SECONDS = 0.1
START = "import sys; from escrow.cli import main; sys.exit(main())"


def run(progress: Callable[[str], None]) -> Figures:
    """Median of several demos; memory is the highest sum over all processes that run at once."""
    seconds, peaks = [], []
    for number in range(RUNS):
        progress(f"demo {number + 1} of {RUNS}")
        with tempfile.TemporaryDirectory(prefix="escrow-benchmark-") as folder:
            passed, peak = _timed([sys.executable, "-c", START, "demo", "--keep", f"{folder}/demo"])
        seconds.append(passed)
        peaks.append(peak)
    values = {"seconds": median(seconds), "slowest_seconds": max(seconds), "peak_mib": max(peaks)}
    return Figures(values, (Target("seconds", "at_most", 60), Target("peak_mib", "at_most", 2048)))


def _timed(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak MiB of a command and all that it starts.

    Raises:
        RuntimeError: the command failed.
    """
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0.0
    while True:
        try:
            code = process.wait(timeout=SAMPLE_SECONDS)
        except subprocess.TimeoutExpired:
            peak = max(peak, _resident(process.pid))
            continue
        if code:
            raise RuntimeError(f"the demo ended with exit code {code}")
        return time.perf_counter() - begin, peak


def _resident(root: int) -> float:
    """Resident MiB of a process and its descendants; pages that two share count twice."""
    parents, resident = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            pages = int((folder / "statm").read_text().split()[1])
        except (OSError, IndexError):
            continue  # it ended while we looked
        parents[int(folder.name)] = int(fields[1])
        resident[int(folder.name)] = pages * 4096
    family, size = {root}, 0
    while len(family) > size:
        size = len(family)
        family |= {pid for pid, parent in parents.items() if parent in family}
    return sum(resident.get(pid, 0) for pid in family) / 2**20
