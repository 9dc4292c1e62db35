"""Every random choice of a run comes from the one seed that the contract fixes; nobody picks another."""

from contracts.canonical import derive


def part_seed(seed: bytes, *part: str | int) -> bytes:
    """32 bytes for one part of a run, for example `part_seed(seed, "local", "north", 3)`."""
    return derive("part", seed, *(str(label).encode() for label in part))


def part_number(seed: bytes, *part: str | int) -> int:
    """The same as a number from 0 to 2³² − 1, which is what the training libraries take."""
    return int.from_bytes(part_seed(seed, *part)[:4], "big")
