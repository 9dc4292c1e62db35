"""The demo's work: worlds played from keys to verdict, and the envelope that tells of them."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from contracts.computation import TWO_WAY
from contracts.errors import EscrowError
from contracts.schema import Columns, Schema
from escrow.sealing import UNSEALED, Seal
from scenarios import plot, worlds
from scenarios.consortium import METHODS, MODELS, Consortium, Wire
from scenarios.network import Network
from scenarios.play import Played, Stopwatch, Tell, play
from scenarios.watching import Watching, cleared
from scenarios.worlds import World

RELEASED_WORLD, WITHHELD_WORLD = "fraud-type-skew", "no-gain"
STAGES = ("deposit", "approve", "prepare", "baseline", "train", "evaluate", "decide", "release", "verify")

Reach = Wire | Literal["network"]
"""How banks reach the escrow: in one process, or (`network`) by commands, everybody in processes of their own."""
Placement = Literal["escrow", "party"]
"""Where the banks' training rows are: deposited, or with the banks, whose own nodes train on them."""


@dataclass(frozen=True)
class Choice:
    """What the command line asks for."""

    model: str
    method: str
    seed: int
    seal: Seal
    placement: Placement = "escrow"

    @property
    def at_home(self) -> bool:
        """Whether training rows stay with the banks."""
        return self.placement == "party"


def chosen(
    model: str | None, method: str | None, seed: int, seal: Seal = UNSEALED, placement: Placement = "escrow"
) -> Choice:
    """The model and method asked for; what is left open follows from the other, and from where the rows are.

    Raises:
        EscrowError: `usage` for a model or method that does not exist, or that do not go together.
    """
    for what, value, known in (("model", model, MODELS), ("method", method, METHODS)):
        if value is not None and value not in known:
            raise EscrowError("usage", f"There is no {what} {value!r}.", f"Use one of: {', '.join(known)}.")
    model = model or "mlp"
    trees = "ensemble" if placement == "party" else "pooled"
    method = method or (trees if model == "boosted" else "fedavg")
    if model == "boosted" and method in TWO_WAY:
        raise EscrowError(
            "usage", "Trees have no parameters to average.", f"Use --method {trees} with --model boosted."
        )
    if placement == "party" and method == "pooled":
        raise EscrowError("usage", "Rows that stay at the banks cannot be pooled.", "Use another --method.")
    if seed < 0:
        raise EscrowError("usage", "A seed is 0 or more.")
    return Choice(model, method, seed, seal, placement)


def own_table(
    data: Path,
    columns: Mapping[str, str | None],
    train_from: str | None,
    *,
    train_days: int,
    delay_days: int,
    test_days: int,
    shares: str,
    never: Sequence[str],
    features: Sequence[str],
    seed: int,
) -> World:
    """A user's own table as a world.

    Raises:
        EscrowError: `usage` for options that are missing or malformed, and all that `worlds.from_table` raises.
    """
    missing = [f"--{name}" for name, value in columns.items() if not value]
    if not train_from:
        missing.append("--train-from")
    if missing or not train_from:
        raise EscrowError("usage", f"With --data these options are needed too: {', '.join(missing)}.")
    try:
        first = datetime.strptime(train_from, "%Y-%m-%d").date()  # noqa: DTZ007 - a day of the table's own clock
    except ValueError:
        raise EscrowError("usage", f"--train-from {train_from!r} is not a date.", "Write it like 2018-07-04.") from None
    try:
        percents = [float(share) for share in shares.split(",")]
    except ValueError:
        raise EscrowError("usage", f"--shares {shares!r} are not numbers.", "Write them like 50,30,15,5.") from None
    return worlds.from_table(
        data,
        columns=Columns.model_validate(columns),
        train_from=first,
        train_days=train_days,
        test_days=test_days,
        shares=percents,
        seed=seed,
        label_delay_days=delay_days,
        never=never,
        features=features,
    )


def known_world(name: str) -> None:
    """Refuse the name of a world that does not exist.

    Raises:
        EscrowError: `usage`.
    """
    if name not in worlds.WORLDS:
        raise EscrowError("usage", f"There is no world {name!r}.", f"Use one of: {', '.join(worlds.WORLDS)}.")


@contextmanager
def new_directory(keep: Path | None) -> Iterator[Path]:
    """An empty directory for everything the demo makes; if it fails, nothing of it is left unless it was asked for.

    Raises:
        EscrowError: `usage` if the one asked for is not empty or cannot be made.
    """
    if keep is not None:
        try:
            keep.mkdir(parents=True, exist_ok=True)
            if any(keep.iterdir()):
                raise EscrowError("usage", f"{keep} is not empty.", "Name a new directory with --keep.")
        except OSError as error:
            raise EscrowError("usage", f"{keep} cannot be made: {error.strerror}.") from None
        yield keep
        return
    made = Path(tempfile.mkdtemp(prefix="escrow-demo-"))
    try:
        yield made
    except BaseException:
        shutil.rmtree(made)
        raise


def story(world: str, seed: int, size: worlds.Size = "demo") -> list[World]:
    """The world that was asked for, and one whose contract must be withheld."""
    return [worlds.build(name, seed=seed, size=size) for name in dict.fromkeys([world, WITHHELD_WORLD])]


def run(
    choice: Choice,
    directory: Path,
    made: Sequence[World],
    *,
    tell: Tell,
    wire: Reach = "process",
) -> dict[str, Any]:
    """Play a contract in each world and return the envelope's data.

    Args:
        choice: model, method, seed and sealing.
        directory: for everything that is made.
        made: one or more worlds of the same schema, played one after the other.
        tell: hears how it goes.
        wire: how the banks reach the escrow.
    """
    opened = networked if wire == "network" else partial(together, schema=made[0].schema, wire=wire)
    with opened(directory, choice, tell) as play_world:
        played = [play_world(each) for each in made]
    picture = plot.draw(played, directory / "gains.png")
    return {
        "directory": str(directory),
        "network": wire == "network",
        "plot": str(picture),
        "model": choice.model,
        "method": choice.method,
        "seed": choice.seed,
        "sealing": choice.seal.sealing,
        "placement": choice.placement,
        "contracts": [described(each) for each in played],
    }


Player = Callable[[World], Played]


@contextmanager
def networked(directory: Path, choice: Choice, tell: Tell) -> Iterator[Player]:
    """Plays worlds over an escrow and banks that are processes of their own."""
    opened = Network.opened(
        directory, model=choice.model, method=choice.method, seal=choice.seal, at_home=choice.at_home, tell=tell
    )
    with opened as network:
        yield network.play


@contextmanager
def together(directory: Path, choice: Choice, tell: Tell, *, schema: Schema, wire: Wire) -> Iterator[Player]:
    """Plays worlds over an escrow and banks in this process."""
    home = directory / "escrow"
    runtime = Watching(choice.seal.runtime(home), directory / "seen")
    consortium = Consortium.create(directory, schema, runtime=runtime, wire=wire)
    try:
        yield lambda world: contract_of(world, consortium, choice, tell)
    finally:
        consortium.close()
        cleared(choice.seal, home)
        for name, worker in consortium.workers.items():
            worker.close()
            cleared(choice.seal, consortium.banks[name].home)


def contract_of(world: World, consortium: Consortium, choice: Choice, tell: Tell) -> Played:
    """One world from deposits to verdict; banks that are not admitted yet make their keys first."""
    watch = Stopwatch()
    watch.begin("deposit")
    tables = world.write(consortium.directory / "tables" / world.name)
    for bank in world.banks:
        tell("deposit", f"{bank} prepares, commits, encrypts and deposits")
        if bank not in consortium.banks:
            consortium.join(bank)
            if choice.at_home:
                consortium.workers[bank] = choice.seal.runtime(consortium.banks[bank].home)
        consortium.deposit(bank, tables[bank], at_home=choice.at_home)
    watch.end("deposit")
    return play(
        consortium,
        world.name,
        model=MODELS[choice.model],
        method=METHODS[choice.method],
        title=f"Joint card-fraud model, {world.name}",
        watch=watch,
        tell=tell,
    )


def described(played: Played) -> dict[str, Any]:
    """One contract of the envelope."""
    parties = {}
    for name, row in played.rows.items():
        found = row.measurement
        parties[name] = {
            "own": found and found.own,
            "joint": found and found.joint,
            "gain": found and found.gain,
            "lower_bound": found and found.gain_lower,
            "positives": found and found.positives,
            "clause": row.clause,
            "finding": row.outcome,
            "holds": row.outcome == "holds",
        }
    first = next(iter(played.bundles.values()), None)
    return {
        "contract": played.contract.digest(),
        "world": played.world,
        "verdict": played.verdict,
        "code": played.code,
        "parties": parties,
        "stages": {stage: round(played.stages[stage], 3) for stage in STAGES if stage in played.stages},
        "bundle": str(first) if first else None,
        "verified": played.verified,
    }
