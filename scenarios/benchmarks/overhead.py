"""What the governed run costs beside the same training called directly.

Each run is a program of its own, so both pay for their imports: `direct` reads every bank's table, prepares it, trains
the own models and the joint one and scores the holdouts; `governed` does the same through keys, deposits, contract,
ledger, workers, gate, release and every bank's verification. Worlds and tables are made before the clock starts. The
joint model and the own models train at the same time in the governed run, on two workers with one thread each; the
direct run has one thread. So processor time is given as well (`…_cpu_ratio`), where the escrow has no such help.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from scenarios.benchmarks.report import Figures, Target
from scenarios.mainjob import RELEASED_WORLD
from scenarios.worlds import SCHEMA, build

PAIRS = 5
METHODS = ("pooled", "fedavg")
MODEL = "mlp"


def run(progress: Callable[[str], None]) -> Figures:
    """Pairs of governed and direct runs in turn; medians of their ratios."""
    with tempfile.TemporaryDirectory(prefix="escrow-benchmark-") as name:
        root = Path(name)
        progress(f"make the world {RELEASED_WORLD}")
        build(RELEASED_WORLD, seed=1).write(root / "tables")
        values: dict[str, float] = {}
        for method in METHODS:
            pairs = []
            for pair in range(PAIRS):
                progress(f"{method}, pair {pair + 1} of {PAIRS}")
                made = root / f"{method}-{pair}"
                made.mkdir()
                pairs.append([_timed(mode, method, root / "tables", made) for mode in ("governed", "direct")])
            for index, unit in ((0, "seconds"), (1, "cpu_seconds")):
                values[f"{method}_governed_{unit}"] = median(ours[index] for ours, _ in pairs)
                values[f"{method}_direct_{unit}"] = median(theirs[index] for _, theirs in pairs)
            values[f"{method}_ratio"] = median(ours[0] / theirs[0] for ours, theirs in pairs)
            values[f"{method}_cpu_ratio"] = median(ours[1] / theirs[1] for ours, theirs in pairs)
    targets = tuple(Target(f"{method}_ratio", "at_most", 1.15) for method in METHODS)
    return Figures(values, targets)


def _timed(mode: str, method: str, tables: Path, made: Path) -> tuple[float, float]:
    """Wall and processor seconds of one program and everything it started."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    command = [sys.executable, "-m", "scenarios.benchmarks.overhead", mode, method, str(tables), str(made)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def governed(method: str, tables: Path, made: Path) -> dict[str, Any]:
    """From keys to every bank's verified release."""
    from scenarios.consortium import METHODS as KNOWN  # noqa: PLC0415 - each program imports only what it needs
    from scenarios.consortium import MODELS, Consortium  # noqa: PLC0415
    from scenarios.play import Stopwatch, play  # noqa: PLC0415

    consortium = Consortium.create(made, SCHEMA)
    try:
        for table in sorted(tables.glob("*.parquet")):
            consortium.join(table.stem)
            consortium.deposit(table.stem, table)
        played = play(
            consortium, RELEASED_WORLD, model=MODELS[MODEL], method=KNOWN[method], title=method, watch=Stopwatch()
        )
    finally:
        consortium.core.close()
    if not played.verified:
        raise RuntimeError(f"the run ended {played.verdict}")
    return {"verdict": played.verdict, "stages": played.stages}


def direct(method: str, tables: Path) -> dict[str, Any]:
    """The training alone."""
    from parties.deposit import read_and_prepare  # noqa: PLC0415
    from scenarios import direct as plain  # noqa: PLC0415
    from scenarios.consortium import METHODS as KNOWN  # noqa: PLC0415
    from scenarios.consortium import MODELS  # noqa: PLC0415

    banks = {table.stem: plain.Bank(*read_and_prepare(table, SCHEMA)) for table in sorted(tables.glob("*.parquet"))}
    own = plain.own_models(banks, MODELS[MODEL], 1)
    if method == "pooled":
        joint = plain.pooled_model(banks, MODELS[MODEL], 1)
    else:
        joint = plain.averaged_model(banks, MODELS[MODEL], KNOWN[method], bytes(32))
    return {
        name: [plain.average_precision(own[name], bank.holdout), plain.average_precision(joint, bank.holdout)]
        for name, bank in banks.items()
    }


def main(arguments: list[str]) -> None:
    """`governed|direct METHOD TABLES DIRECTORY`: one run; its result as JSON."""
    mode, method, tables, made = arguments
    found = governed(method, Path(tables), Path(made)) if mode == "governed" else direct(method, Path(tables))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
