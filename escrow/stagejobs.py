"""The jobs of a stage, before anything is opened or runs: what they are asked, and what they need of whom.

Inputs are named by what they are, not where they lie: a deposit of a party, or an output of an earlier stage.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from contracts.capsule import DeclaredOutput


@dataclass(frozen=True)
class Deposited:
    """An input that is a party's deposit."""

    party: str
    commitment: str


@dataclass(frozen=True)
class Made:
    """An input that an earlier stage made."""

    stage: str
    name: str


@dataclass(frozen=True)
class StageJob:
    """One job of a stage.

    Attributes:
        name: unique in its stage.
        spec: what the worker is asked (see `models.jobs`).
        inputs: path → what it is.
        outputs: path of a declared output → name under which the stage keeps it.
        party: whose data it sees, if one party's alone.
        door: whether it talks with the other jobs of its gang.
        capsule: what runs instead of the escrow's worker, if anything; its inputs are then the tables of `/data`, and
            without any it has its own synthetic rows.
        sizes: the outputs that may not be larger than what is declared of them.
    """

    name: str
    spec: Mapping[str, object]
    inputs: Mapping[str, Deposited | Made]
    outputs: Mapping[str, str] = field(default_factory=dict)
    party: str | None = None
    door: bool = False
    capsule: Deposited | None = None
    sizes: tuple[DeclaredOutput, ...] = ()


@dataclass(frozen=True)
class Gang:
    """Jobs that can only run together: one that needs no other, or one that asks and those that answer, one a party.

    Attributes:
        lead: the one that is waited for.
        others: those that it asks through their doors.
        at_home: the parties that it asks through their nodes.
        round_seconds: how long each of those asked may take to answer what it is asked in one round.
    """

    lead: StageJob
    others: tuple[StageJob, ...] = ()
    at_home: tuple[str, ...] = ()
    round_seconds: int = 0

    @property
    def jobs(self) -> tuple[StageJob, ...]:
        """All of them that run here, the lead first."""
        return (self.lead, *self.others)

    @property
    def talks(self) -> bool:
        """Whether the lead asks anybody."""
        return bool(self.others or self.at_home)
