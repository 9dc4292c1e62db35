"""What a capsule's `environment/Dockerfile` asks for. It is read, never executed: an image is made from what was read.

Rules:

1. Only the little language below is read; anything else is refused with its line and what to write instead.
2. Nothing comes from the author but names, exact versions, hashes and a few harmless variables: no address, no file, no
   command, no option that could lead elsewhere. `FROM` tells the family and the version that the author had, no more.
3. Python packages are pinned exactly. Debian has one version of an R package: the author's stands in the comparison.

    FROM python:VERSION | r-base:VERSION | rocker/NAME:VERSION
    COPY LIST… PLACE                       lists that lie in environment/, under their own names
    RUN pip install [-r LIST | NAME==VERSION]…
    RUN apt-get install r-cran-NAME[=VERSION]…     also r-bioc-NAME, r-base, r-base-core, r-recommended
    RUN install2.r NAME…                   also Rscript -e 'install.packages(c("NAME", …))'
    ENV NAME=VALUE…                        of `VARIABLES`
    LABEL …                                not carried over

`requirements.lock` (as `pip freeze` writes it) or `packages.txt` (a name and a version of R's on each line) in
environment/ is the author's lock: it need not be named in the Dockerfile.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, Literal

from contracts.capsule import DOCKERFILE, Capsule
from contracts.errors import EscrowError
from escrow.runtime.images import pins
from escrow.runtime.images.pins import NotReadError, Pin, add

Family = Literal["python", "r"]

LOCKS: Final[Mapping[Family, str]] = {"python": "requirements.lock", "r": "packages.txt"}
"""The author's lock in environment/, by family."""

VARIABLES: Final = frozenset(
    {
        *("DEBIAN_FRONTEND", "LANG", "LC_ALL", "MPLBACKEND", "PIP_NO_CACHE_DIR", "TZ"),
        *("PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "PYTHONUNBUFFERED"),
        *("MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    }
)
"""Variables that an author may set: none of them names a program, or a place to load one from."""

# Options that change nothing here.
_PIP: Final = frozenset(
    {
        *("-q", "--quiet", "-U", "--upgrade", "--no-cache-dir", "--no-compile", "--require-hashes"),
        *("--only-binary=:all:", "--disable-pip-version-check", "--root-user-action=ignore"),
    }
)
_APT: Final = frozenset({"-y", "--yes", "-q", "-qq", "--no-install-recommends"})
_INSTALL2: Final = frozenset({"-e", "--error", "-s", "--skipinstalled"})

_SHOWN_AT_MOST: Final = 50

_FROM: Final = re.compile(r"([a-z0-9._/-]+)(?::([A-Za-z0-9._-]+))?(?:@sha256:[0-9a-f]{64})?(?:\s+[Aa][Ss]\s+\w+)?")
_VERSION: Final = re.compile(r"\d+(\.\d+){0,2}(?![\w.])")
_INSTALL_PACKAGES: Final = re.compile(r"install\.packages\((?:c\(([^()]*)\)|([^()]*))\)")
_VALUE: Final = re.compile(r"([A-Za-z0-9_+-][A-Za-z0-9_.,:/+-]{0,63})?")

_INSTEAD: Final[Mapping[str, str]] = {
    "ADD": "Write COPY and the name of a list that lies in environment/; nothing is fetched or unpacked.",
    "ARG": "Write the value itself; nothing is handed in at a build.",
    "CMD": "Remove it: code/run is what runs.",
    "ENTRYPOINT": "Remove it: code/run is what runs.",
    "EXPOSE": "Remove it: there is no network.",
    "MAINTAINER": "Write it into metadata/metadata.yml.",
    "USER": "Remove it: every run has an unprivileged user of its own.",
    "VOLUME": "Remove it: /data and /results are there.",
    "WORKDIR": "Remove it: code/run starts in /code.",
}


@dataclass(frozen=True)
class Recipe:
    """What an environment asks for.

    Attributes:
        interpreter: version of Python or R that the author had, as far as `FROM` says it.
        packages: to be installed, by name.
        lock: what the author had, by name: `packages` and the lock beside the Dockerfile.
        variables: to be set, by name.
    """

    family: Family
    interpreter: str | None
    packages: Mapping[str, Pin]
    lock: Mapping[str, Pin]
    variables: Mapping[str, str]


def read(capsule: Capsule) -> Recipe:
    """What a capsule's environment asks for.

    Raises:
        EscrowError: `image-refused`, with each line that cannot be read and what to write instead in `details`.
    """
    top = DOCKERFILE.removesuffix("Dockerfile")
    files = {
        path.removeprefix(top): content.decode() for path, content in capsule.files.items() if path.startswith(top)
    }
    reader = _Reader(capsule.declaration.family, files)
    reader.dockerfile()
    reader.lock()
    if reader.refused:
        said = f"The capsule's environment asks in {len(reader.refused)} places for what no image is built from."
        raise EscrowError("image-refused", said, "Write there what each line says instead.", reader.refused)
    lock = {**reader.packages, **reader.locked}
    return Recipe(reader.family, reader.interpreter, reader.packages, lock, reader.variables)


@dataclass
class _Reader:
    family: Family
    files: Mapping[str, str]  # of environment/, by path below it
    interpreter: str | None = None
    packages: dict[str, Pin] = field(default_factory=dict)
    locked: dict[str, Pin] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    copied: set[str] = field(default_factory=set)
    listed: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    bases: int = 0

    def dockerfile(self) -> None:
        self._each("Dockerfile", self._instruction)
        if not self.bases:
            self.refused.append(f"{DOCKERFILE}: no FROM. Begin it with FROM python:3.11 or FROM r-base:4.2.")

    def lock(self) -> None:
        pin = pins.python_pin if self.family == "python" else pins.listed_pin

        def one(line: str) -> None:
            add(self.locked, found := pin(line))
            pins.check_same(self.packages.get(found.name), found)

        if LOCKS[self.family] in self.files:
            self._each(LOCKS[self.family], one)

    def _each(self, name: str, one: Callable[[str], None]) -> None:
        for number, line in pins.lines(self.files[name]):
            if len(self.refused) == _SHOWN_AT_MOST:
                return
            try:
                one(pins.bounded(line))
            except NotReadError as error:
                self.refused.append(f"environment/{name}, line {number}: {error.what} {error.instead}")

    def _instruction(self, line: str) -> None:
        word, _, rest = line.replace("\t", " ").partition(" ")
        match word.upper():
            case "FROM":
                self._from(rest.strip())
            case "COPY":
                self._copy(rest.strip())
            case "RUN":
                self._run(rest.strip())
            case "ENV":
                self._env(rest.strip())
            case "LABEL":
                pass
            case other:
                raise NotReadError(f"{pins.quoted(word)} is not read.", _INSTEAD.get(other, "Remove it."))

    def _from(self, rest: str) -> None:
        self.bases += 1
        if self.bases > 1:
            raise NotReadError("A second FROM.", "Write one stage; there is nothing to compile.")
        found = _FROM.fullmatch(rest)
        family = _family(found[1]) if found else None
        if found is None or family is None:
            raise NotReadError(f"{pins.quoted(rest)} is of no family.", "Write FROM python:3.11 or FROM r-base:4.2.")
        if family != self.family:
            raise NotReadError(
                f"FROM is of family {family}.", f"escrow.yml says {self.family}; write the same in both."
            )
        version = _VERSION.match(found[2] or "")
        self.interpreter = version[0] if version else None

    def _copy(self, rest: str) -> None:
        *sources, place = _words(rest) or [""]
        if not sources or rest.startswith(("-", "[")):
            raise NotReadError("COPY in another form.", "Write COPY, the names of lists in environment/, and a place.")
        for source in sources:
            name = source.removeprefix("./")
            if "/" in name or name not in self.files:
                raise NotReadError(f"{pins.quoted(source)} is no list in environment/.", "Copy lists alone, by name.")
            if "." in _last(place).strip(".") and _last(place) != name:
                raise NotReadError("COPY to another name.", f"Copy {name} under its own name.")
            self.copied.add(name)

    def _env(self, rest: str) -> None:
        words = _words(rest)
        if words and "=" not in words[0]:
            words = [f"{words[0]}={' '.join(words[1:])}"]
        for word in words:
            name, _, value = word.partition("=")
            if name not in VARIABLES:
                instead = f"Set it in code/run, or use {', '.join(sorted(VARIABLES))}."
                raise NotReadError(f"The variable {pins.quoted(name)}.", instead)
            if not _VALUE.fullmatch(value):
                raise NotReadError(f"The value of {name}.", "Write at most 64 letters, digits and _.,:/+- there.")
            self.variables[name] = value

    def _run(self, rest: str) -> None:
        if rest.startswith("["):
            raise NotReadError("RUN with a list.", "Write the command as a plain line.")
        for between, command in groupby(_words(rest), "&&".__eq__):
            if not between:
                self._command(list(command))

    def _command(self, command: list[str]) -> None:
        match command[1:] if command[:1] == ["DEBIAN_FRONTEND=noninteractive"] else command:
            case ["pip" | "pip3", "install", *rest] | ["python" | "python3", "-m", "pip", "install", *rest]:
                self._of("python", "pip")
                self._pip(rest)
            case ["apt-get" | "apt", "update" | "clean"] | ["rm", "-rf", "/var/lib/apt/lists/*" | "/var/lib/apt/lists"]:
                self._of("r", "apt-get")
            case ["apt-get" | "apt", *rest] if "install" in rest:
                self._of("r", "apt-get")
                for word in rest:
                    if word != "install" and word not in _APT:
                        add(self.packages, pins.debian_pin(word))
            case ["install2.r", *rest]:
                self._of("r", "install2.r")
                self._install2(rest)
            case ["Rscript", "-e", expression] if found := _INSTALL_PACKAGES.fullmatch(expression.strip()):
                self._of("r", "install.packages")
                for each in (found[1] or found[2] or "").split(","):
                    add(self.packages, pins.cran_pin(_string(each.strip())))
            case other:
                instead = "Nothing is executed at a build: write pip install, apt-get install or install2.r, no more."
                raise NotReadError(f"The command {pins.quoted(' '.join(other))}.", instead)

    def _of(self, family: Family, command: str) -> None:
        if family != self.family:
            raise NotReadError(f"{command} is not for family {self.family}.", "Remove it, or choose the other family.")

    def _pip(self, words: Iterable[str]) -> None:
        rest = iter(words)
        for word in rest:
            option, _, value = word.partition("=")
            if option in {"-r", "--requirement"}:
                self._list(_last(value or next(rest, "")))
            elif word == "--only-binary" and next(rest, "") == ":all:":
                continue
            elif word.startswith("-") and word not in _PIP:
                raise NotReadError(
                    f"The option {pins.quoted(word)}.", "Leave it out; the operator's own index is used."
                )
            elif word not in _PIP:
                add(self.packages, pins.python_pin(word))

    def _list(self, name: str) -> None:
        if name not in self.copied:
            raise NotReadError(
                f"The list {pins.quoted(name)} was not copied.", "Lay it into environment/, COPY it before."
            )
        if name not in self.listed:
            self.listed.add(name)
            self._each(name, lambda line: add(self.packages, pins.python_pin(line)))

    def _install2(self, words: Iterable[str]) -> None:
        rest = iter(words)
        for word in rest:
            if word in {"-n", "--ncpus"}:
                next(rest, None)
            elif word not in _INSTALL2:
                add(self.packages, pins.cran_pin(word))


def _words(text: str) -> list[str]:
    """Words as a shell would part them; `&&`, `|`, `>` and the like, unless in quotes, are words of their own."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        return list(lexer)
    except ValueError:
        raise NotReadError("A quotation mark without its other half.", "Close it.") from None


def _family(image: str) -> Family | None:
    *above, name = image.split("/")
    if name == "python":
        return "python"
    return "r" if name in {"r-base", "r-ver"} or "rocker" in above else None


def _last(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _string(expression: str) -> str:
    """The string that an expression of R is; empty, which is no name, if it is anything else."""
    return expression[1:-1] if expression[:1] == expression[-1:] and expression[:1] in {"'", '"'} else ""
