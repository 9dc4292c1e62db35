"""A capsule: somebody's code for somebody else's data, in the layout that people know from Code Ocean.

    metadata/metadata.yml     what it is and who wrote it
    environment/Dockerfile    what it needs, and beside it the lists that the Dockerfile names
    code/run                  the program, executable; beside it whatever it reads
    data/                     synthetic rows, under the names that the confidential ones have
    escrow.yml                what it declares (`Declaration`)

Rules (`read` names every one that is broken):

1. Nothing else lies in it but `README.md` and `LICENSE`; paths are plain ASCII, at most four levels deep. No code
   sees a file of `data/` that is not declared.
2. Code and environment are text: whoever approves a capsule can read all that runs. Packages come from the operator's
   own sources, never from the author (`environment/Dockerfile`).
3. Each output is declared with its kind, its greatest size and its vetting rule; what is not declared never leaves.
4. Its digest covers code, environment and `escrow.yml`, each file by path and content, and nothing else: the same on
   every machine, and unchanged by other synthetic rows.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, field_validator

from contracts import archive
from contracts.canonical import canonical, digest
from contracts.contributions import FileName
from contracts.document import read_mapping
from contracts.errors import EscrowError
from contracts.terms import Digest, Term, problems

DECLARATION: Final = "escrow.yml"
METADATA: Final = "metadata/metadata.yml"
DOCKERFILE: Final = "environment/Dockerfile"
RUN: Final = "code/run"
FILES_AT_MOST: Final = 1000
TEXT_BYTES_AT_MOST: Final = 1 << 20
DATA_BYTES_AT_MOST: Final = 64 << 20
PACKED_BYTES_AT_MOST: Final = DATA_BYTES_AT_MOST + (4 << 20)
"""Of a deposited capsule, encrypted: the escrow opens it in memory, so no larger one is taken."""
CONFIDENTIAL_CONFIG: Final = re.compile(r"code/(.+/)?config-confidential\.[A-Za-z0-9]+")
"""Configuration for capsules that switch by themselves: it is there only when the rows are confidential."""

_PATH: Final = re.compile(r"(?!.{101})[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*){0,3}")
_TOPS: Final = ("metadata", "environment", "code", "data")
_ALONE: Final = (DECLARATION, "README.md", "LICENSE")

OUTPUT_BYTES_AT_MOST: Final = 1 << 28

OutputPath = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$", max_length=80)
]


class DeclaredOutput(Term):
    """One file that may leave, relative to `/results`."""

    path: OutputPath
    kind: Literal["table", "model", "figure", "text"]
    size_kib: Annotated[int, Field(ge=1, le=OUTPUT_BYTES_AT_MOST >> 10)]
    vetting: Literal["none", "disclosure-control"]
    """`none`: released as it is. `disclosure-control`: held until a machine has checked it against disclosure."""


def _apart(outputs: tuple[DeclaredOutput, ...]) -> tuple[DeclaredOutput, ...]:
    paths = [output.path for output in outputs]
    if len(set(paths)) != len(paths):
        raise ValueError("a path stands there twice")
    if folder := _folder_and_file(paths):
        raise ValueError(f"{folder} cannot be a file and a directory")
    if "failure.json" in paths:
        raise ValueError("failure.json is a name that the escrow's own jobs use")
    if sum(output.size_kib for output in outputs) > OUTPUT_BYTES_AT_MOST >> 10:
        raise ValueError(f"together they may have {OUTPUT_BYTES_AT_MOST >> 20} MiB at most")
    return outputs


Outputs = Annotated[tuple[DeclaredOutput, ...], Field(min_length=1, max_length=64), AfterValidator(_apart)]
"""All outputs of a capsule: different files, and not too much together."""


class CapsuleLimits(Term):
    """What one run of it may use."""

    seconds: Annotated[int, Field(ge=1, le=86_400)] = 600
    memory_mib: Annotated[int, Field(ge=64, le=65_536)] = 2048


class Declaration(Term):
    """`escrow.yml`: what a capsule reads, writes and needs."""

    capsule: Literal[1]
    family: Literal["python", "r"]  # of the operator's vetted bases
    data: Annotated[tuple[FileName, ...], Field(min_length=1, max_length=16)]  # files of `/data`
    outputs: Outputs
    limits: CapsuleLimits = CapsuleLimits()

    @field_validator("data")
    @classmethod
    def _different(cls, data: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(data)) != len(data):
            raise ValueError("a name stands there twice")
        return data


@dataclass(frozen=True)
class Capsule:
    """A capsule that keeps the rules; made by `read`.

    Attributes:
        files: path → content, of everything in it.
        declaration: what `escrow.yml` says.
    """

    files: Mapping[str, bytes]
    declaration: Declaration

    @cached_property
    def digest(self) -> Digest:
        """Of code, environment and declaration: what a contract names."""
        return self._digest(lambda path: path == DECLARATION or path.startswith(("code/", "environment/")))

    @cached_property
    def environment(self) -> Digest:
        """Of the environment alone: what an image is built from, and labelled with."""
        return self._digest(lambda path: path.startswith("environment/"))

    def _digest(self, covered: Callable[[str], bool]) -> Digest:
        return digest(canonical({path: digest(content) for path, content in self.files.items() if covered(path)}))

    def packed(self) -> bytes:
        """All of it as one archive, for a deposit."""
        return archive.pack(self.files)

    def code(self, *, confidential: bool) -> dict[str, bytes]:
        """What stands in `/code`, by path below the root."""
        found = {path: content for path, content in self.files.items() if path.startswith("code/")}
        if confidential:
            return found
        return {path: content for path, content in found.items() if not CONFIDENTIAL_CONFIG.fullmatch(path)}

    def synthetic(self) -> dict[str, bytes]:
        """What stands in `/data` while the rows are synthetic, by path below the root: the declared files, no others.

        So a capsule that reads anything else fails on its author's machine, not on the confidential rows.
        """
        return {f"data/{name}": self.files[f"data/{name}"] for name in self.declaration.data}


def read(files: Mapping[str, bytes]) -> Capsule:
    """The capsule that some files make.

    Args:
        files: path → content, without `results/`, which is never part of a capsule.

    Raises:
        EscrowError: `capsule-invalid`, with every rule that is broken in `details`.
    """
    broken = list(_broken(files))
    declaration = None
    try:
        declaration = _declaration(files) if DECLARATION in files else None
    except EscrowError as error:
        broken += error.details or (error.message,)
    if declaration is not None:
        broken += [
            f"data/{name} is declared and not there." for name in declaration.data if f"data/{name}" not in files
        ]
    if declaration is None or broken:
        raise EscrowError("capsule-invalid", f"The capsule breaks {len(broken)} of the rules.", details=broken)
    return Capsule(dict(sorted(files.items())), declaration)


def unpack(data: bytes) -> Capsule:
    """The capsule in an archive that `Capsule.packed` made.

    Raises:
        EscrowError: `archive-invalid` or `capsule-invalid`.
    """
    return read(archive.unpack(data, _most))


def _most(path: str) -> int:
    """The most bytes of a file; none where no file may stand."""
    top, below, _ = path.partition("/")
    if not _PATH.fullmatch(path) or (path not in _ALONE and not (below and top in _TOPS)):
        return -1
    return DATA_BYTES_AT_MOST if path.startswith("data/") else TEXT_BYTES_AT_MOST


def _broken(files: Mapping[str, bytes]) -> Iterator[str]:
    if len(files) > FILES_AT_MOST:
        yield f"It has {len(files)} files; {FILES_AT_MOST} at most."
    if sum(len(content) for content in files.values()) > DATA_BYTES_AT_MOST:
        yield f"It has more than {DATA_BYTES_AT_MOST >> 20} MiB."
    if folder := _folder_and_file(files):
        yield f"{folder!a} is a file and a directory."
    for path in (DECLARATION, METADATA, DOCKERFILE, RUN):
        if path not in files:
            yield f"{path} is missing."
    for path, content in files.items():
        yield from _broken_by(path, content)


def _broken_by(path: str, content: bytes) -> Iterator[str]:
    if (most := _most(path)) < 0:
        yield f"{path!a} has no place in a capsule, or an odd name."
    elif len(content) > most:
        yield f"{path} has {len(content)} bytes; {most} at most."
    elif not path.startswith("data/") and not _text(content):
        yield f"{path} is not text: all that runs must be readable."
    elif path == RUN and not content.startswith(b"#!"):
        yield f"{RUN} does not begin with #! and the program that runs it."


def _folder_and_file(paths: Collection[str]) -> str | None:
    """The first path, if any, below which another one lies: no disk can hold both."""
    folders = {path[:at] for path in paths for at, character in enumerate(path) if character == "/"}
    return min(folders.intersection(paths), default=None)


def _text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


def _declaration(files: Mapping[str, bytes]) -> Declaration:
    document = read_mapping(
        files[DECLARATION], DECLARATION, what="capsule's declaration", begin="Begin it with `capsule: 1`."
    )
    try:
        return Declaration.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        wrong = [f"{DECLARATION}: {each}." for each in problems(error)]
        raise EscrowError("capsule-invalid", f"{DECLARATION} is not valid.", details=wrong) from None
