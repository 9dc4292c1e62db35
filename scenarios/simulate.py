"""`escrow simulate`: a contract of many made-up banks, trained in rounds on this machine; how long each round takes.

It is a simulation and says so: no party signs, nothing is sealed, nothing is released. Without a sealed worker for each
bank a thousand of them fit on one machine; what runs besides is what every engine runs, the same round loop and checks.
"""

import logging
import resource
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from contracts.answers import Answer
from contracts.errors import EscrowError
from parties.draft import trimming

if TYPE_CHECKING:
    from scenarios.crowd import Crowd
from scenarios.memory import peak_mib

Tell = Callable[[str], None]
EngineName = Literal["local", "ray", "superlink"]
MethodName = Literal["fedavg", "fedprox", "fedadam", "median", "trimmed-mean"]

PARTIES_AT_MOST: Final = 1024
SUPERNODES_AT_MOST: Final = 16
"""On one machine each is a server, an executor and a fresh Python process for every message."""
PARTIES: Final[Mapping[EngineName, int]] = {"local": 100, "ray": 100, "superlink": 4}
"""How many banks, if nobody says."""
ROWS_AT_LEAST: Final = 20
MODEL: Final = {"family": "mlp", "hidden": [32], "batch": 16}  # few rows are to make several steps

HONEST: Final = "A SIMULATION: made-up rows, no escrow, no signatures, no seal, no release."


def simulate(
    *,
    parties: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=PARTIES_AT_MOST,
            help=f"How many banks; {PARTIES['local']} if left out. Over a SuperLink {SUPERNODES_AT_MOST} at most,"
            f" {PARTIES['superlink']} if left out.",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Rounds of the method.")] = 10,
    engine: Annotated[EngineName, typer.Option(help="What carries the messages.")] = "local",
    method: Annotated[MethodName, typer.Option(help="How updates are combined.")] = "fedavg",
    rows: Annotated[int, typer.Option(min=ROWS_AT_LEAST, max=100_000, help="Training rows of each bank.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Another seed makes other rows.")] = 1,
) -> Answer:
    """Simulate joint training with many made-up banks, and time its rounds.

    Draws up a contract of that many banks, with rows made from the seed, and runs its training: the real round loop and
    checks, the real side of each party, the seed of the contract's own digest. Engine local runs every party in this
    process, one after the other, in memory that does not grow with them. Engine ray runs them on Flower's simulation
    (pip install 'model-escrow[simulation]'), engine superlink over a SuperLink with TLS and a SuperNode for each.

    Examples:
    escrow simulate --parties 1000 --rounds 10

    escrow simulate --parties 16 --engine ray --method median --format json
    """
    parties = PARTIES[engine] if parties is None else parties
    if engine == "superlink" and parties > SUPERNODES_AT_MOST:
        raise EscrowError(
            "usage", f"Over a SuperLink one machine bears {SUPERNODES_AT_MOST} parties.", "Use --engine local or ray."
        )
    from scenarios.crowd import Crowd  # noqa: PLC0415 - training is slow to import

    term = trimming({"name": method, "rounds": rounds}, parties)
    crowd = Crowd(parties=parties, rows=rows, seed=seed, model=MODEL, method=term)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    data = _watched(lambda tell: _simulated(crowd, engine, tell))
    return Answer(data, Group(*_lines(data)))


def _simulated(crowd: "Crowd", engine: EngineName, tell: Tell) -> dict[str, Any]:
    from contracts.work import run_seed  # noqa: PLC0415 - as above
    from scenarios import crowd as crowds  # noqa: PLC0415
    from scenarios.direct import average_precision  # noqa: PLC0415

    tell("the contract")
    contract = crowd.contract()
    seed, test = run_seed(contract, 1), crowd.test()
    if engine == "local":
        trained = crowds.train_locally(crowd, seed, tell)
    else:
        with tempfile.TemporaryDirectory(prefix="escrow-simulate-") as made:
            trained = crowds.train_elsewhere(crowd, contract, _engine(engine), Path(made), tell)
    peak = _peak_mib()
    tell("the models on the common test")
    per_party = [1000 * seconds / crowd.parties for seconds in trained.timing.rounds]
    return {
        "simulation": HONEST,
        "engine": engine,
        "parties": crowd.parties,
        "rows": crowd.rows,
        "seed": crowd.seed,
        "method": crowd.method["name"],
        "contract": contract.digest(),
        "seconds": round(trained.timing.seconds, 3),
        "round_seconds": [round(seconds, 4) for seconds in trained.timing.rounds],
        "party_round_ms": round(statistics.median(per_party[1:] or per_party), 3),
        "peak_mib": peak,
        "joint_average_precision": round(average_precision(trained, test), 4),
        "own_average_precision": round(crowds.own_precision(crowd, seed, test), 4),
        "test_rows": len(test),
    }


def _engine(name: EngineName) -> Callable[..., Any]:
    if name == "ray":
        from models.federated.raygrid import run_ray  # noqa: PLC0415 - Flower is slow to import

        return run_ray
    from models.federated.superlink import run_superlink  # noqa: PLC0415

    return run_superlink


def _peak_mib() -> int:
    """The most memory that one process has had: this one, or one that it started and that has ended."""
    return int(max(peak_mib(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024))


def _watched(perform: Callable[[Tell], dict[str, Any]]) -> dict[str, Any]:
    """Perform with a line of progress on stderr."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("start", total=None)
        return perform(lambda words: progress.update(task, description=words))


def _lines(data: dict[str, Any]) -> list[Any]:
    table = Table(box=SIMPLE_HEAD)
    for column in ("round", "seconds", "ms for each party"):
        table.add_column(column, justify="right")
    for number, seconds in enumerate(data["round_seconds"], start=1):
        table.add_row(str(number), f"{seconds:.3f}", f"{1000 * seconds / data['parties']:.2f}")
    return [
        Text(data["simulation"], style="yellow"),
        f"{data['parties']} parties of {data['rows']} rows, method {data['method']}, engine {data['engine']}.",
        table,
        f"All of it: {data['seconds']:.1f} s; round 1 holds what comes before it, too.",
        f"Largest process: {data['peak_mib']} MiB.",
        f"Average precision on {data['test_rows']} rows of all kinds of fraud:",
        f"joint {data['joint_average_precision']:.3f}, median of parties' own {data['own_average_precision']:.3f}.",
    ]
