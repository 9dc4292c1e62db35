"""How the time of a round and the memory grow with the number of parties, in simulation (`escrow simulate`).

Each number of parties is a process of its own, so that none profits from another's memory. The time for one party in
one round is the median over the rounds but the first, divided by the parties; what it is made of is local training,
messages as bytes, checks, and its share of the averaging. Small crowds go more rounds: a median of three tenths of a
second would be the machine's mood. For the same reason all numbers are gone through several times.
"""

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Final

from scenarios.benchmarks.demo import START

PARTIES: Final = (4, 16, 64, 256, 1000)
ANSWERS: Final = 1000
"""How many answers are timed at least, as far as `ROUNDS_AT_MOST` allows."""
ROUNDS_AT_MOST: Final = 60


def growth(
    progress: Callable[[str], None], *, parties: Sequence[int] = PARTIES, rounds: int = 4, times: int = 3
) -> dict[str, float]:
    """Milliseconds for one party in one round, and the process's peak memory in MiB, by the number of parties: medians.

    Args:
        progress: told where it is.
        parties: how many there are, each in a process.
        rounds: at least.
        times: how often all numbers of parties are gone through.
    """
    found = defaultdict[str, list[float]](list)
    for number in [number for _ in range(times) for number in parties]:
        progress(f"{number} parties in simulation")
        turns = max(rounds, min(ROUNDS_AT_MOST, ANSWERS // number))
        command = [sys.executable, "-c", START, "simulate", "--parties", str(number), "--rounds", str(turns)]
        told = subprocess.run([*command, "--format", "json"], check=True, capture_output=True).stdout
        data = json.loads(told)["data"]
        found[f"party_round_ms_{number}"].append(data["party_round_ms"])
        found[f"peak_mib_{number}"].append(data["peak_mib"])
    return {figure: median(values) for figure, values in found.items()}


def worst(values: Mapping[str, float], figure: str, parties: Sequence[int]) -> float:
    """The largest of all numbers' values over the first one's: what grows on the way and shrinks again counts."""
    compared = [values[f"{figure}_{number}"] for number in parties]
    return max(compared) / compared[0]
