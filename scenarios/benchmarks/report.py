"""What a benchmark hands back: named figures and the targets they must reach."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Target:
    """A bound on one figure."""

    figure: str
    kind: Literal["at_least", "at_most"]
    value: float

    def met(self, values: Mapping[str, float]) -> bool:
        """Whether the figure reaches the target; a figure that is not a number does not."""
        figure = values[self.figure]
        return figure >= self.value if self.kind == "at_least" else figure <= self.value


@dataclass(frozen=True)
class Figures:
    """The figures of one benchmark by name, and its targets; each target names one of the figures."""

    values: dict[str, float]
    targets: tuple[Target, ...]

    def __post_init__(self) -> None:
        unknown = {target.figure for target in self.targets} - set(self.values)
        if unknown:
            raise ValueError(f"targets without a figure: {', '.join(sorted(unknown))}")

    @property
    def met(self) -> bool:
        """Whether every target is reached."""
        return all(target.met(self.values) for target in self.targets)
