"""What differs between the packages that a capsule's author had and those in the image that was rebuilt from the list.

Nothing follows from a difference by itself: it is shown to whoever decides whether the results can be the same.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from packaging.version import InvalidVersion, Version

from escrow.runtime.images.dockerfile import Recipe


@dataclass(frozen=True)
class Difference:
    """One package that is not the same here and there.

    Attributes:
        package: its name; `python` or `r` for the interpreter.
        author: the version that the author had; None if the author did not have it.
        image: the version in the image; None if it is not there.
    """

    package: str
    author: str | None
    image: str | None

    @property
    def kind(self) -> Literal["missing", "additional", "other version"]:
        """What it is, seen from the author's list."""
        if self.image is None:
            return "missing"
        return "additional" if self.author is None else "other version"


def differences(recipe: Recipe, interpreter: str, installed: Mapping[str, str]) -> tuple[Difference, ...]:
    """What differs: the interpreter first, then by name.

    Args:
        recipe: what the author had.
        interpreter: version of Python or R in the image.
        installed: name → version of the packages of that language in the image.
    """
    return tuple(_differences(recipe, interpreter, installed))


def _differences(recipe: Recipe, interpreter: str, installed: Mapping[str, str]) -> Iterator[Difference]:
    if recipe.interpreter and not f"{interpreter}.".startswith(f"{recipe.interpreter}."):
        yield Difference(recipe.family, recipe.interpreter, interpreter)
    same = _same_python if recipe.family == "python" else _same_r
    for name in sorted({*recipe.lock, *installed}):
        if name not in recipe.lock:
            yield Difference(name, None, installed[name])
        elif difference := _of_one(name, recipe.lock[name].version, installed.get(name), same):
            yield difference


def _of_one(name: str, author: str | None, image: str | None, same: Callable[[str, str], bool]) -> Difference | None:
    """The difference in a package that the author had, of whatever version if `author` is None."""
    if image is not None and (author is None or same(author, image)):
        return None
    return Difference(name, author or "any", image)


def _same_python(author: str, image: str) -> bool:
    try:
        return Version(author) == Version(image)
    except InvalidVersion:
        return author == image


def _same_r(author: str, image: str) -> bool:
    """CRAN says 1.8.4 or 7.3-58.2 where Debian says 1.8.4+dfsg-1 or 1:7.3-58.2-1; R takes - and . for the same."""
    return author == image or _upstream(author, debian=False) == _upstream(image, debian=True)


def _upstream(version: str, *, debian: bool) -> str:
    if debian:
        version = version.split(":", 1)[-1].rpartition("-")[0] or version
        version = re.split(r"[+~]", version, maxsplit=1)[0]
    return version.replace("-", ".")
