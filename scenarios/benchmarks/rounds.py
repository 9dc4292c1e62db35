"""Rounds of a joint training of three banks, timed where the operator of the escrow sees them: by its progress lines.

Each bank has few rows, so that a round is mostly the way there and back and not the training: an MLP of 16 features,
one hidden layer of 32, one output (the contract's language has one output for two classes). A round's time is what
passes between two lines `round 3 of 20` of the stage `train`, as the escrow hears them; so the first round, whose time
is spent on loading, is not among them. A job's time is that of the whole stage `train`, from the moment the escrow
begins it until the ledger says that it is done: workers started, loaded and removed, each party's own model trained.
What of a round is training is timed beside them: the same function on one bank's rows, called in the process that
measures.
"""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

from contracts.schema import Schema
from escrow.sealing import Seal
from models.families.base import make_federated
from models.table import Prepared
from scenarios import tiny
from scenarios.consortium import Consortium

BANKS: Final = ("north", "harbour", "valley")
SCHEMA: Final = Schema.model_validate(
    tiny.SCHEMA.model_dump() | {"features": tuple(f"v{number}" for number in range(1, 10))}
)
"""Seven features that every bank has, and nine more."""
MODEL: Final[Mapping[str, Any]] = {"family": "mlp", "hidden": [32]}
EPOCHS: Final = 1
"""Of a round."""


@dataclass(frozen=True)
class Timed:
    """One training.

    Attributes:
        rounds: seconds of every round but the first.
        seconds: of the whole stage.

    """

    rounds: tuple[float, ...]
    seconds: float


def tables() -> dict[str, tuple[Prepared, Prepared]]:
    """Each bank's rows: 220 to train on."""
    return {name: tiny.tables(i, name, banks=len(BANKS), schema=SCHEMA) for i, name in enumerate(BANKS)}


def training_seconds(rounds: int) -> float:
    """The median time of a bank's training in one round, of so many, one upon the other, and a first not counted.

    It is that of this process, which has every processor and no relay beside it.
    """
    rows, family = tables()[BANKS[0]][0], make_federated(MODEL)
    moments = family.moments(rows.features, rows.labels)
    parameters = family.initial(rows.features.shape[1], moments, seed=0)
    seconds = []
    for number in range(rounds + 1):
        begin = time.perf_counter()
        parameters = family.local_fit(parameters, moments, rows.features, rows.labels, epochs=EPOCHS, seed=number)
        seconds.append(time.perf_counter() - begin)
    return median(seconds[1:])


def method(rounds: int) -> dict[str, Any]:
    """So many rounds."""
    return {"name": "fedavg", "rounds": rounds, "local-epochs": EPOCHS}


def founded(stack: ExitStack, directory: Path, seal: Seal, *, at_home: bool) -> Consortium:
    """The three banks, with workers of their own if their rows stay with them; all of it ends with the stack."""
    clock = tiny.Clock(int(time.time()))  # TLS believes only a clock that is right
    runtime = stack.enter_context(seal.runtime(directory / "escrow"))
    consortium = tiny.founded(
        directory / "consortium",
        runtime,
        clock,
        banks=BANKS,
        exchanged=tables(),
        at_home=BANKS if at_home else (),
        schema=SCHEMA,
        wire="grpc",
    )
    stack.callback(consortium.close)
    for name in BANKS if at_home else ():
        consortium.workers[name] = stack.enter_context(seal.runtime(consortium.banks[name].home))
    return consortium


def approved(consortium: Consortium, rounds: int, title: str) -> str:
    """A contract about the training, approved by all; its digest."""
    contract = consortium.contract(consortium.draft(model=MODEL, method=method(rounds), title=title))
    digest = consortium.propose(contract)
    consortium.approve(digest)
    return digest


def timed(consortium: Consortium, digest: str) -> Timed:
    """Run a contract and time its training.

    Raises:
        RuntimeError: the run failed.
    """
    moments: list[tuple[str, float]] = []

    def heard(stage: str, words: str) -> None:
        if stage == "train":
            moments.append((words, time.perf_counter()))

    case = consortium.run(digest, heard)
    if case.verdict is None:
        raise RuntimeError(f"the run ended {case.state}: {case.reason}")
    told = dict(moments)
    rounds = [moment for words, moment in moments if words.startswith("round ")]
    return Timed(tuple(after - before for before, after in pairwise(rounds)), told["done"] - told["started"])
