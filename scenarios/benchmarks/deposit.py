"""How fast a large file is sealed and uploaded over TLS on loopback, and in how much memory on either side.

A deposit reads the plaintext, hashes it, encrypts it with age, hashes the ciphertext and keeps it on the bank's disk,
sends it while it grows, and is stated; the escrow hashes what arrives, keeps it on its disk, and compares digests. Both
sync. No deposit is faster than the slower of two of its parts alone: encrypting, and a bare gRPC stream of as many
bytes in the same messages. `ratio_to_limit` is the deposit's speed over that of the slower part, the median of runs in
turn. The files lie in the system's directory for temporary files, whose disk is synced before each run.

All parts share this machine's cores, as they would not if bank and escrow had one each. `cores_mb_per_second` is what
the cores could do at most of the parts at once: encrypt, stream, and hash three times.
"""

import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from escrow.authority import Authority
from scenarios.benchmarks.banks import knock
from scenarios.benchmarks.child import Child
from scenarios.benchmarks.report import Figures, Target
from scenarios.benchmarks.served import Served

MIB: Final = 1 << 20
FILE_MIB, REPEATED = 1024, 3
MEMORY_MIB: Final = 256
HASHED: Final = 3  # the plaintext once, the ciphertext on either side


class Run(NamedTuple):
    """One run of the deposit or of a part of it."""

    mb_per_second: float
    cpu_ms_per_mb: float  # of all processes that took part


def run(progress: Callable[[str], None], mib: int = FILE_MIB, repeated: int = REPEATED) -> Figures:
    """Each part alone and the deposit in turn; medians."""
    runs: dict[str, list[Run]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="escrow-benchmark-") as name, ExitStack() as stack:
        folder = Path(name)
        file, home, log = folder / "plaintext", folder / "bank", folder / "log"
        _write(file, mib)
        escrow = stack.enter_context(Served(folder / "escrow"))
        knock(home, "bank", escrow.address, escrow.fingerprint)
        escrow.ask("admit")
        bank, other = (stack.enter_context(Child("sender", home, log=log)) for _ in range(2))
        bare = stack.enter_context(Child("bare", folder / "escrow", log=log))
        where = {"address": bare.ready["address"], "authorities": _authorities(folder / "escrow")}
        for number in range(repeated):
            progress(f"{mib} MiB, {number + 1} of {repeated}")
            runs["hash"].append(_run(mib, [other], "hash", file=str(file)))
            runs["encrypt"].append(_run(mib, [other], "encrypt", file=str(file)))
            runs["stream"].append(_run(mib, [other, bare], "stream", file=str(file), **where))
            runs["deposit"].append(_run(mib, [bank, escrow], "deposit", file=str(file)))
        memory = {"client": bank.ask("usage")["peak_mib"], "escrow": escrow.ask("usage")["peak_mib"]}
    return _report(runs, memory)


def _run(mib: int, involved: list[Child], do: str, **what: Any) -> Run:
    """Ask the first of the children that are involved, which times it."""
    os.sync()
    before = _cpu(involved)
    seconds = involved[0].ask(do, **what)
    megabytes = mib * MIB / 1e6
    return Run(megabytes / seconds, 1000 * (_cpu(involved) - before) / megabytes)


def _cpu(children: Iterable[Child]) -> float:
    return float(sum(child.ask("usage")["cpu"] for child in children))


def _report(runs: dict[str, list[Run]], memory: dict[str, float]) -> Figures:
    speed = {what: median(each.mb_per_second for each in found) for what, found in runs.items()}
    cpu = {what: median(each.cpu_ms_per_mb for each in found) for what, found in runs.items()}
    pairs = zip(runs["deposit"], runs["encrypt"], runs["stream"], strict=True)
    ratios = [whole.mb_per_second / min(part.mb_per_second for part in parts) for whole, *parts in pairs]
    cores = len(os.sched_getaffinity(0))
    values = {f"{what}_mb_per_second": found for what, found in speed.items()}
    values["cores_mb_per_second"] = 1000 * cores / (cpu["encrypt"] + cpu["stream"] + HASHED * cpu["hash"])
    values["deposit_cpu_ms_per_mb"] = cpu["deposit"]
    values["ratio_to_limit"] = median(ratios)
    values |= {f"{side}_mib": peak for side, peak in memory.items()}
    targets = [Target("ratio_to_limit", "at_least", 0.7)]
    targets += [Target(f"{side}_mib", "at_most", MEMORY_MIB) for side in memory]
    return Figures(values, tuple(targets))


def _write(file: Path, mib: int) -> None:
    with file.open("wb") as content:
        for _ in range(mib):
            content.write(os.urandom(MIB))


def _authorities(directory: Path) -> str:
    """Whose certificates the escrow of a directory shows."""
    return "".join(Authority.open(directory).authorities())
