"""Packages as the texts of a capsule's environment name them: exactly, and by name alone. Rules:

1. A package of Python is a name, an exact version and perhaps hashes; no condition, no address, no file, no option.
2. A package of R is one of Debian's: `r-cran-NAME`, `r-bioc-NAME` or R itself; CRAN's names are turned into Debian's.
3. What cannot be read is refused with what to write instead (`NotReadError`); nothing is guessed.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from packaging.utils import canonicalize_name

from contracts.errors import EscrowError

_LINE_AT_MOST: Final = 20_000  # characters: a package with a hundred hashes has half of it
_PYTHON: Final = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?)(?:\[(?P<extras>[A-Za-z0-9._, -]+)\])?"
    r"\s*==\s*(?P<version>[0-9][A-Za-z0-9.!+_-]{0,63})(?P<hashes>(?:\s+--hash=sha256:[0-9a-f]{64})*)"
)
_DEBIAN: Final = re.compile(r"(r-(?:cran|bioc)-[a-z0-9][a-z0-9.+-]*|r-base|r-base-core|r-recommended)(?:=([0-9]\S*))?")
_CRAN: Final = re.compile(r"[A-Za-z][A-Za-z0-9.]{0,63}")
_LISTED: Final = re.compile(r"([A-Za-z][A-Za-z0-9.+-]*)(?:\s*={1,2}\s*|\s+)([0-9]\S*)")


class NotReadError(Exception):
    """One place that cannot be read.

    Attributes:
        what: what stands there.
        instead: what to write.
    """

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(what, instead)
        self.what = what
        self.instead = instead


@dataclass(frozen=True)
class Pin:
    """A package by name: normalised for Python, Debian's for R.

    Attributes:
        version: the exact one that the author had; None if the text does not say.
        extras: optional parts, such as `socks` of `requests[socks]`.
        hashes: SHA-256, in hex, of the files that may serve; empty if any may.
    """

    name: str
    version: str | None = None
    extras: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()

    def requirement(self) -> str:
        """The line of a requirements file that asks for it."""
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        return " ".join([f"{self.name}{extras}=={self.version}", *(f"--hash=sha256:{each}" for each in self.hashes)])


def lines(text: str) -> Iterator[tuple[int, str]]:
    """Whole lines with the number of their first: comments and empty lines left out, continuations joined."""
    start, parts = 0, list[str]()
    for number, raw in enumerate(text.split("\n"), 1):
        line = re.split(r"(?:^|\s)#", raw, maxsplit=1)[0].rstrip()
        if not line.strip():
            continue
        start = start or number
        parts.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            yield start, "".join(parts).strip()
            start, parts = 0, []
    if parts:
        yield start, "".join(parts).strip()


def bounded(line: str) -> str:
    """The line, if it is short enough to be taken apart."""
    if len(line) > _LINE_AT_MOST:
        raise NotReadError(f"A line of {len(line)} characters.", f"Write {_LINE_AT_MOST} at most.")
    return line


def quoted(text: str) -> str:
    """Text of an author as an error shows it: short, and plain ASCII."""
    return f"{text[:60]!a}"


def python_pin(text: str) -> Pin:
    """`NAME==VERSION`, with extras and hashes if there are any."""
    found = _PYTHON.fullmatch(text)
    if found is None:
        instead = "Write NAME==VERSION; packages come from the operator's index, never from an address or a file."
        raise NotReadError(f"{quoted(text)} is not pinned exactly.", instead)
    extras = {str(canonicalize_name(each.strip())) for each in (found["extras"] or "").split(",") if each.strip()}
    hashes = re.findall(r"sha256:([0-9a-f]{64})", found["hashes"])
    name = str(canonicalize_name(found["name"]))
    return Pin(name, found["version"], tuple(sorted(extras)), tuple(sorted(hashes)))


def debian_pin(text: str) -> Pin:
    """A package of R by Debian's name, with Debian's version if there is one: `r-cran-NAME=VERSION`."""
    found = _DEBIAN.fullmatch(text)
    if found is None:
        instead = "Write r-cran-NAME or r-bioc-NAME as Debian calls it; `apt-cache search r-cran-` lists them."
        raise NotReadError(f"{quoted(text)} is no package of R.", instead)
    return Pin(found[1], found[2])


def cran_pin(text: str) -> Pin:
    """A package of R by CRAN's name."""
    if not _CRAN.fullmatch(text):
        raise NotReadError(f"{quoted(text)} is no name of a package.", "Write names alone; the packages are Debian's.")
    return Pin(f"r-cran-{text.lower()}")


def listed_pin(text: str) -> Pin:
    """A line of a list of R's packages: CRAN's or Debian's name and a version."""
    found = _LISTED.fullmatch(text)
    if found is None:
        raise NotReadError(f"{quoted(text)} is no package.", "Write a name and a version on each line.")
    if found[1].startswith(("r-cran-", "r-bioc-", "r-base")):
        return Pin(found[1], found[2])
    return Pin(cran_pin(found[1]).name, found[2])


def add(pins: dict[str, Pin], pin: Pin) -> None:
    """Add a pin to others; the same package is not there in two versions."""
    check_same(pins.get(pin.name), pin)
    pins[pin.name] = pin


def check_same(earlier: Pin | None, pin: Pin) -> None:
    """Refuse another version of a package."""
    if earlier and earlier.version and pin.version and earlier.version != pin.version:
        raise NotReadError(f"{pin.name} {pin.version}, and {earlier.version} elsewhere.", "Write one version.")


def check_hashes(pins: Collection[Pin]) -> None:
    """Refuse packages of which only some have hashes, as pip does in words that name none of them.

    Raises:
        EscrowError: `image-refused`.
    """
    bare = sorted(pin.name for pin in pins if not pin.hashes)
    if bare and len(bare) < len(pins):
        raise EscrowError(
            "image-refused",
            "Some packages have hashes and others have none.",
            "Write hashes for all packages, also for those that others require, or for none.",
            [f"{name} has none" for name in bare],
        )
