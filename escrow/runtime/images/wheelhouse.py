"""The wheels that a worker's image is made of: what is installed beside this escrow, as far as a worker uses it.

The extra `worker` in pyproject.toml names what the worker imports. The same versions as here make the same model here
and in a container; constraints.txt fixes both. Wheels only: nothing is compiled, and no code of a package runs while
it is fetched.
"""

import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from subprocess import DEVNULL, PIPE, run
from tempfile import TemporaryDirectory
from typing import Final

from packaging.requirements import Requirement
from packaging.tags import sys_tags
from packaging.utils import NormalizedName, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from contracts.errors import EscrowError

DISTRIBUTION: Final = "model-escrow"
NEEDED: Final = "worker"
"""The extra whose requirements a worker imports."""

NOT_IMPORTED: Final = frozenset(
    {
        # Flower's servers, their database, and the commands that manage both
        *("alembic", "fastapi", "pathspec", "prompt-toolkit", "requests", "sqlalchemy", "starlette", "tomli-w"),
        *("tomli", "uv", "uvicorn"),
        # torch's compiler
        *("filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy"),
    }
)
"""What packages require and a worker never imports; neither these nor what they alone require is in the image."""

_INSTALL: Final = "Install what the escrow needs: pip install -c constraints.txt 'model-escrow[escrow]'."

Pins = Mapping[NormalizedName, Version]


def pins(extra: str = NEEDED, without: Iterable[str] = NOT_IMPORTED) -> Pins:
    """The distributions that an extra needs, with the versions that are installed here, sorted by name.

    Raises:
        EscrowError: `extra-missing` if one of them is not installed.
    """
    found: dict[NormalizedName, Version] = {}
    left_out = frozenset(without)
    base = set(_requirements(DISTRIBUTION))
    ahead = [each for each in _requirements(DISTRIBUTION, extra) if each not in base]
    if not ahead:
        raise EscrowError("extra-missing", f"The installed {DISTRIBUTION} has no extra {extra}.", _INSTALL)
    while ahead:
        requirement = ahead.pop()
        name = canonicalize_name(requirement.name)
        if name not in found and name not in left_out:
            found[name] = _installed(name)
            ahead += _requirements(name, *requirement.extras)
    return dict(sorted(found.items()))


def _requirements(name: str, *extras: str) -> list[Requirement]:
    """What a distribution requires here if it is installed with these extras."""
    every = [Requirement(text) for text in requires(name) or ()]
    return [each for each in every if not each.marker or any(each.marker.evaluate({"extra": e}) for e in ("", *extras))]


def _installed(name: str) -> Version:
    try:
        return Version(version(name))
    except PackageNotFoundError:
        raise EscrowError("extra-missing", f"The worker needs {name}, which is not installed here.", _INSTALL) from None


def fetch(wanted: Pins, directory: Path) -> dict[NormalizedName, Path]:
    """The wheels of some pins, by name; those that are not in the directory yet are fetched with pip.

    Raises:
        EscrowError: `image-refused` if a wheel cannot be had.
    """
    directory.mkdir(parents=True, exist_ok=True)
    there = _wheels(wanted, directory)
    if missing := {name: number for name, number in wanted.items() if name not in there}:
        with TemporaryDirectory(prefix=".fetching-", dir=directory) as fresh:
            _download(missing, Path(fresh))
            for path in Path(fresh).glob("*.whl"):
                path.replace(directory / path.name)
    found = _wheels(wanted, directory)
    if lost := sorted(set(wanted) - set(found)):
        raise EscrowError("image-refused", f"There is no wheel of {', '.join(lost)} for this machine.")
    return {name: found[name] for name in wanted}


def _wheels(wanted: Pins, directory: Path) -> dict[NormalizedName, Path]:
    found = {}
    fitting = frozenset(sys_tags())
    for path in sorted(directory.glob("*.whl")):
        name, number, _, tags = parse_wheel_filename(path.name)
        if wanted.get(name) == number and tags & fitting:
            found[name] = path
    return found


def _download(wanted: Pins, directory: Path) -> None:
    words = [f"{name}=={number}" for name, number in wanted.items()]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet"]
    wheels_only = ["--no-deps", "--only-binary", ":all:", "--dest", str(directory)]
    done = run([*pip, *wheels_only, *words], stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise EscrowError(
            "image-refused",
            "pip could not fetch the worker's wheels.",
            "Let pip reach an index that has them (`pip config list`), then run the command again.",
            errors or [f"pip ended with {done.returncode}."],
        )
