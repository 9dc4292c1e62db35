"""What an executor is asked to run: a job, its limits, and what it may be called.

Ids and paths become names of files, so each can mean only one of them, and none that is the machine's.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import astuple, dataclass, field
from typing import BinaryIO, Final

from contracts.terms import Digest

Source = bytes | Callable[[BinaryIO], None]
"""Content of an input: the bytes, or a function that writes plaintext into the open file (and raises to refuse)."""

MIB: Final = 1 << 20
FAILURE_FILE: Final = "failure.json"
_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,119}")
_PATH: Final = re.compile(r"(?!.{201})[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*){0,3}")
_TARGET: Final = re.compile(r"(?!.{201})(/[A-Za-z0-9_][A-Za-z0-9._-]*){1,4}")
_TAKEN: Final = re.compile(
    r"bin|boot|dev|door|etc|home|job|job\.json|lib|lib32|lib64|libx32|media|mnt|opt|proc|results|root|run|sbin|srv|sys|tmp"
    r"|usr|var"
)
"""Names at the root that are the machine's, the image's or the runtime's."""


def is_job_id(text: str) -> bool:
    """Tell whether `text` is 1 to 120 of a-z, 0-9 and hyphen, not first a hyphen: ids become names of directories."""
    return _ID.fullmatch(text) is not None


@dataclass(frozen=True)
class Limits:
    """What one job may use. Exceeding time, memory, results or processes ends it with the code `limit-…`.

    Sealed, the kernel refuses a process or temporary file too many, which a worker may survive or die of.
    """

    seconds: int = 3600  # wall time
    memory_mib: int = 4096  # resident memory of all its processes together; sealed, its files count too, and no swap
    results_mib: int = 512  # all files it writes into results together, and each file it writes anywhere
    scratch_mib: int = 512  # all temporary files together
    processes: int = 256  # processes and threads together
    open_files: int = 1024  # for each process
    cpus: int = 2  # processor seconds a second; not limited for a plain process

    def __post_init__(self) -> None:
        if min(astuple(self)) < 1:
            raise ValueError("every limit is at least 1")


@dataclass(frozen=True)
class Program:
    """What a job runs instead of the escrow's own worker: somebody's code.

    The job's directory stands for the root of the file system: its input `code/run` is `/code/run` to the program, and
    what it writes into `/results` are its results. As a plain process it finds them relative to the directory of its
    command (`../data`, `../results`), which holds in a container too. It finds no `job.json`. ValueError for a path
    that is the machine's or the runtime's.

    Attributes:
        image: what it runs in; a plain process ignores it.
        command: an input that is executed, and its arguments.
        environment: variables that it gets besides the runtime's own.
        mounts: directory of inputs → absolute path at which it stands in a container besides `/DIRECTORY`.

    """

    image: Digest
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.command:
            raise ValueError("a program needs a command")
        for target in self.mounts.values():
            if not _TARGET.fullmatch(target) or _TAKEN.fullmatch(target.split("/")[1]):
                raise ValueError(f"{target!r} cannot be where a program finds inputs")

    def check(self, inputs: Collection[str]) -> None:
        """ValueError unless the command is one of `inputs`, and these lie in directories that a program may have."""
        folders = {path.partition("/")[0] for path in inputs}
        if self.command[0] not in inputs or not set(self.mounts) <= folders:
            raise ValueError("a program's command and what it mounts are among its inputs")
        if any(_TAKEN.fullmatch(name) for name in folders) or not all("/" in path for path in inputs):
            raise ValueError("a program's inputs lie in directories of its own")


@dataclass(frozen=True)
class Job:
    """One job; ValueError for an id or a path that could mean more than one file.

    Attributes:
        id: unique for contract digest, run number, stage and party; at most 120 of a-z, 0-9 and hyphen.
        spec: JSON object that the worker finds as `job.json`.
        inputs: relative path under `inputs/` → content; for a program, relative to the root (see `Program`).
        outputs: relative paths under `results/` that may be collected; a worker need not write each.
        limits: what it may use.
        party: whose data it sees, if one party's alone: sealed, each party's jobs run as another user.
        door: whether the worker finds a Unix socket, `door/socket` in its directory, that it can dial once (see
            `Runtime.link`).
        program: what runs instead of the escrow's worker, if anything.

    """

    id: str
    spec: Mapping[str, object]
    inputs: Mapping[str, Source] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    party: str | None = None
    door: bool = False
    program: Program | None = None

    def __post_init__(self) -> None:
        if not is_job_id(self.id):
            raise ValueError(f"{self.id!r} cannot be the id of a job")
        for path in (*self.inputs, *self.outputs):
            if not _PATH.fullmatch(path):
                raise ValueError(f"{path!r} cannot be an input or output of a job")
        if FAILURE_FILE in self.outputs or len(set(self.outputs)) != len(self.outputs):
            raise ValueError(f"outputs are different files, and {FAILURE_FILE} is not one of them")
        if self.program is not None:
            self.program.check(self.inputs)
