"""How fast a large file is sealed and uploaded over TLS on loopback, and in how much memory on either side.

A deposit reads the plaintext, hashes it, encrypts it with age, keeps the ciphertext on the bank's disk, sends it while
it grows, and is stated; the escrow hashes what arrives, keeps it on its disk, and compares digests. Both sync. No
deposit is faster than the slower of two parts of it alone: encrypting (`encrypt_mb_per_second`) and a bare gRPC stream
of as many bytes (`stream_mb_per_second`). `ratio_to_limit` is the deposit's speed over that of the slower part, the
median over runs in turn. Everything lies in the system's directory for temporary files, whose disk was synced before.
"""

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

from escrow.authority import Authority
from scenarios.benchmarks.banks import knock
from scenarios.benchmarks.child import Child
from scenarios.benchmarks.report import Figures, Target
from scenarios.benchmarks.served import Served

MEBIBYTE: Final = 1 << 20
FILE_MIB, REPEATED = 1024, 3
MIB_AT_MOST: Final = 255  # "under 256 MiB"


def run(progress: Callable[[str], None], mib: int = FILE_MIB, repeated: int = REPEATED) -> Figures:
    """Encrypt, stream and deposit in turn; medians."""
    seconds: dict[str, list[float]] = {"deposit": [], "encrypt": [], "stream": []}
    with tempfile.TemporaryDirectory(prefix="escrow-benchmark-") as name, ExitStack() as stack:
        folder = Path(name)
        file, home, log = folder / "plaintext", folder / "bank", folder / "log"
        _write(file, mib)
        served = stack.enter_context(Served(folder / "escrow"))
        knock(home, "bank", served.address, served.fingerprint)
        served.ask("admit")
        bank, other = (stack.enter_context(Child("sender", home, log=log)) for _ in range(2))
        bare = stack.enter_context(Child("bare", folder / "escrow", log=log))
        where = {"address": bare.ready["address"], "authorities": _authorities(folder / "escrow")}
        for number in range(repeated):
            progress(f"{mib} MiB, {number + 1} of {repeated}")
            for child, do, what in ((other, "encrypt", {}), (other, "stream", where), (bank, "deposit", {})):
                os.sync()
                seconds[do].append(child.ask(do, file=str(file), **what))
        client, escrow = bank.ask("usage"), served.ask("usage")
    speeds = {what: [mib * MEBIBYTE / 1e6 / each for each in found] for what, found in seconds.items()}
    ratios = [deposit / min(parts) for deposit, *parts in zip(*speeds.values(), strict=True)]
    values = {f"{what}_mb_per_second": median(found) for what, found in speeds.items()}
    values |= {"ratio_to_limit": median(ratios), "client_mib": client["peak_mib"], "escrow_mib": escrow["peak_mib"]}
    targets = [Target("ratio_to_limit", "at_least", 0.7)]
    targets += [Target(f"{side}_mib", "at_most", MIB_AT_MOST) for side in ("client", "escrow")]
    return Figures(values, tuple(targets))


def _write(file: Path, mib: int) -> None:
    with file.open("wb") as content:
        for _ in range(mib):
            content.write(os.urandom(MEBIBYTE))


def _authorities(directory: Path) -> str:
    """Whose certificates the escrow of a directory shows."""
    return "".join(Authority.open(directory).authorities())
