"""Playing a contract from deposits to a verified release, and what the simulator saw of it.

The simulator is the operator here, and shows what that means: it reads the evidence out of the run, sealed or not
(`scenarios.watching`). No bank sees those figures of another, and of a withheld contract no bank sees any.

`play` plays a contract by calls in this process, whichever way the banks reach the escrow; `scenarios.network` plays
the same contract with the commands of banks and operator. Both end in `Played`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contracts.clauses import Gain, Outcome
from contracts.contract import Contract
from contracts.gain import Measurement
from contracts.gate import measured_clauses
from parties.identity import pinned
from parties.release import fetch, verify_release
from scenarios.consortium import Consortium
from scenarios.watching import Watching, seen

Tell = Callable[[str, str], None]
"""Called with a stage and a few words."""


@dataclass(frozen=True)
class Row:
    """One bank's line of the table."""

    measurement: Measurement | None
    clause: str
    threshold: float
    outcome: str


@dataclass(frozen=True)
class Played:
    """One contract, played to its end.

    Attributes:
        contract: the contract.
        world: name of the world.
        verdict: what the ledger says: released, withheld, undecided, or the state it ended in.
        code: the catalogued code of a failed run, else None.
        rows: by bank, in the contract's order; what the simulator saw.
        stages: seconds by stage.
        bundles: verified releases by bank.
    """

    contract: Contract
    world: str
    verdict: str
    code: str | None
    rows: dict[str, Row]
    stages: dict[str, float]
    bundles: dict[str, Path] = field(default_factory=dict)

    @property
    def verified(self) -> bool:
        """Whether every bank verified its release."""
        return set(self.bundles) == set(self.rows)


class Stopwatch:
    """Seconds by stage; a stage may be entered several times."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._since: dict[str, float] = {}

    def begin(self, stage: str) -> None:
        """Start counting."""
        self._since[stage] = time.perf_counter()

    def end(self, stage: str) -> None:
        """Stop counting."""
        passed = time.perf_counter() - self._since.pop(stage)
        self.stages[stage] = self.stages.get(stage, 0.0) + passed


def quiet(stage: str, words: str) -> None:
    """Nobody is told."""


def play(
    consortium: Consortium,
    world: str,
    *,
    model: Mapping[str, Any],
    method: Mapping[str, Any],
    title: str,
    watch: Stopwatch,
    tell: Tell = quiet,
) -> Played:
    """Propose, approve, run and, if released, fetch and verify at every bank."""
    watch.begin("approve")
    tell("approve", "propose, explain, approve")
    contract = consortium.contract(consortium.draft(model=model, method=method, title=title))
    digest = consortium.propose(contract)
    consortium.approve(digest)
    watch.end("approve")

    def progress(stage: str, words: str) -> None:
        if words == "started":
            watch.begin(stage)
        elif words == "done":
            watch.end(stage)
        tell(stage, words)

    case, runtime = consortium.run(digest, progress), consortium.core.runtime
    bundles: dict[str, Path] = {}
    if case.state == "released":
        watch.begin("verify")
        for name, bank in consortium.banks.items():
            tell("verify", f"{name} fetches and verifies")
            folder = fetch(bank, digest, bank.home / "releases" / digest.removeprefix("sha256:")[:16])
            verify_release(folder, bank.identity, pinned(bank.home))
            bundles[name] = folder
        watch.end("verify")
    return Played(
        contract=contract,
        world=world,
        verdict=case.verdict or str(case.state),
        code=case.reason if case.state == "failed" else None,
        rows=rows(contract, seen(runtime.folder, digest) if isinstance(runtime, Watching) else {}),
        stages=watch.stages,
        bundles=bundles,
    )


def rows(contract: Contract, measured: Mapping[str, Measurement]) -> dict[str, Row]:
    """Each bank's line, by bank, from what the operator saw."""
    found = {}
    for number, clause in measured_clauses(contract).items():
        if isinstance(clause, Gain):
            measurement = measured.get(number)
            words = f"> {clause.more_than:g} at {clause.confidence:.0%}"
            outcome = clause.judge(measurement) if measurement else Outcome.UNDECIDED
            found[clause.party] = Row(measurement, words, clause.more_than, str(outcome))
    return found
