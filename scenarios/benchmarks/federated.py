"""Joint training over Flower: how long a round takes, and what sealing, distance, size and numbers add to it.

All in one run on one machine, medians; each figure's own module says how it is measured.

- `round_ms`, `job_seconds` (`rounds`): sealed workers at the escrow, three banks, 20 rounds, containers started within.
  `training_ms` is what one bank's training takes of a round: the three train at once, as far as there are processors.
- `job_speedup_over_ray`, `round_speedup_over_superlink` (`engines`): the same job on Flower's Ray simulation, and over
  its SuperLink with TLS. Where this machine has no Ray its figures are missing: nothing stands in for them.
- `node_extra_ms` (`rounds`): the same training with the rows at the banks, whose nodes and sealed workers are reached
  over TLS on loopback, less the one at the escrow, for each round. Nodes are threads of the process that measures.
- `mb_per_second`, `peak_mib_…` (`bandwidth`): weights of 100 MB and three parties; unsealed processes over the relay, a
  checkpoint of each round included, which goes to the relay and is not counted. `mb_per_second_unkept` is without.
- `peak_mib_large` (`bandwidth`): weights of 500 MB carried so, without checkpoints; the most that a worker takes.
- `growth_per_party`, `memory_growth` (`growth`): time for one party in one round, and peak memory of the process that
  has most, in simulation; the most of 16 to 1,000 parties over those at 16.
- `distinct_models` (`repeats`): how many different models come of three orders of arrival, and of a crash with resume.

How good the models are is another benchmark: `federated-accuracy`.
"""

import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from math import nan
from pathlib import Path
from statistics import median
from typing import Final

from escrow.sealing import Seal
from scenarios.benchmarks import bandwidth, engines, growth, repeats, rounds
from scenarios.benchmarks.report import Figures, Target

Progress = Callable[[str], None]
SEALED: Final = Seal("container")


@dataclass(frozen=True)
class Size:
    """How much is measured; the default is what the targets are about.

    Attributes:
        seal: of the workers whose rounds are timed.
        rounds: of every training that is timed.
        repeated: how often each is, and the simulations.
        uncounted: how often before, while the machine warms up.
        ray: whether Ray is tried.
        superlink: rounds over SuperLink, each of which takes seconds; none if 0.
        mb: of the weights.
        mb_rounds: in which they are carried.
        mb_large: of the weights whose workers' memory is looked at, carried in two rounds.
        parties: of the simulations; the second is what the later ones are compared with.
        words: of `scenarios.lies`, for the workers of `repeats`.

    """

    seal: Seal = SEALED
    rounds: int = 20
    repeated: int = 3
    uncounted: int = 1
    ray: bool = True
    superlink: int = 3
    mb: float = 100.0
    mb_rounds: int = 6
    mb_large: float = 500.0
    parties: tuple[int, ...] = growth.PARTIES
    words: str = repeats.HONEST


TARGETS: Final = (
    Target("round_ms", "at_most", 30),
    Target("training_ms", "at_most", 10),
    Target("job_seconds", "at_most", 12),
    Target("job_speedup_over_ray", "at_least", 1.5),
    Target("round_speedup_over_superlink", "at_least", 300),
    Target("node_extra_ms", "at_most", 15),
    Target("mb_per_second", "at_least", 300),
    Target("peak_mib_large", "at_most", 1536),
    Target("growth_per_party", "at_most", 1.2),
    Target("memory_growth", "at_most", 1.2),
    Target("distinct_models", "at_most", 1),
)


def run(progress: Progress, size: Size | None = None) -> Figures:
    """Everything, one after the other."""
    size = size or Size()
    made = Path(tempfile.mkdtemp(prefix="escrow-benchmark-"))
    try:
        values = _rounds(made, size, progress)
        values["training_ms"] = 1000 * rounds.training_seconds(size.rounds)
        values |= _weights(made, size, progress)
        values |= _growth(size, progress)
        values["distinct_models"] = repeats.distinct_models(made / "repeats", progress, words=size.words)
    finally:
        shutil.rmtree(made)
    return Figures(values, TARGETS)


def _rounds(made: Path, size: Size, progress: Progress) -> dict[str, float]:
    """Trainings where the rows lie, and the same job elsewhere; in turn, so that none has the quieter machine."""
    here: list[rounds.Timed] = []
    there: list[rounds.Timed] = []
    ray: list[rounds.Timed] = []
    with ExitStack() as stack:
        escrow, banks = (
            rounds.founded(stack, made / place, size.seal, at_home=place == "banks") for place in ("escrow", "banks")
        )
        for number in range(1 - size.uncounted, size.repeated + 1):
            counted = number > 0
            title = f"training {number} of {size.repeated}" if counted else f"training {number}, which is not counted"
            progress(f"{title}: rows at the escrow")
            digest = rounds.approved(escrow, size.rounds, title)
            here.append(rounds.timed(escrow, digest))
            progress(f"{title}: rows at the banks")
            there.append(rounds.timed(banks, rounds.approved(banks, size.rounds, title)))
            if size.ray and counted:
                progress(f"{title}: Flower's Ray simulation")
                job = engines.job_directory(made / f"ray-{number}", escrow.core.runs.case(digest).contract)
                ray += filter(None, [engines.on_ray(job)])
        contract = escrow.core.runs.case(rounds.approved(escrow, size.superlink or 1, "over SuperLink")).contract
    if size.ray and not ray:
        progress("Ray is not installed here (the extra `simulation`): its figures are missing")
    superlink = None
    if size.superlink:
        progress("the same job over SuperLink with TLS")
        superlink = engines.on_superlink(engines.job_directory(made / "superlink", contract))
    round_ms = 1000 * median(engines.round_seconds(each) for each in here[size.uncounted :])
    at_banks = 1000 * median(engines.round_seconds(each) for each in there[size.uncounted :])
    job_seconds = median(each.seconds for each in here[size.uncounted :])
    ray_job = median(each.seconds for each in ray) if ray else nan
    superlink_ms = 1000 * engines.round_seconds(superlink)
    return {
        "round_ms": round_ms,
        "job_seconds": job_seconds,
        "ray_round_ms": 1000 * median(engines.round_seconds(each) for each in ray) if ray else nan,
        "ray_job_seconds": ray_job,
        "job_speedup_over_ray": ray_job / job_seconds,
        "superlink_round_ms": superlink_ms,
        "round_speedup_over_superlink": superlink_ms / round_ms,
        "node_round_ms": at_banks,
        "node_job_seconds": median(each.seconds for each in there[size.uncounted :]),
        "node_extra_ms": at_banks - round_ms,
    }


def _growth(size: Size, progress: Progress) -> dict[str, float]:
    """Crowds, and how they grow."""
    values = growth.growth(progress, parties=size.parties, times=size.repeated)
    compared = size.parties[1:]
    grown = {"growth_per_party": "party_round_ms", "memory_growth": "peak_mib"}
    return values | {name: growth.worst(values, figure, compared) for name, figure in grown.items()}


def _weights(made: Path, size: Size, progress: Progress) -> dict[str, float]:
    """Large weights, with and without checkpoints, and larger ones."""
    found = {}
    for kept in (True, False):
        progress(f"weights of {size.mb:g} MB, checkpoints {'kept' if kept else 'left out'}")
        place = made / f"weights-{kept}"
        place.mkdir()
        found[kept] = bandwidth.carried(place, mb=size.mb, rounds=size.mb_rounds, kept=kept)
    peaks = {f"peak_mib_{name}": mib for name, mib in found[True].peak_mib.items()}
    progress(f"weights of {size.mb_large:g} MB")
    place = made / "weights-large"
    place.mkdir()
    large = bandwidth.carried(place, mb=size.mb_large, rounds=2, kept=False).peak_mib
    return {
        "mb_per_second": found[True].mb_per_second,
        "mb_per_second_unkept": found[False].mb_per_second,
        **peaks,
        "peak_mib_large": max(mib for name, mib in large.items() if name != "relay"),
    }
