"""Where the probes are played: a runtime, jobs that run hostile programs, and the search for what they left."""

import json
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.errors import NotFound

from contracts.errors import EscrowError
from escrow.runtime import confinement, folders
from escrow.runtime.base import State, Status
from escrow.runtime.docker import ContainerRuntime
from escrow.runtime.job import Job, Limits, Program, Source
from tests.attacks.escapes.catalogue import SMALL
from tests.engine import label_of, leftovers

HOSTILE = Path(__file__).with_name("hostile")
ROWS = b"card,label\n4929,1\n"
PATIENCE = 60.0


def code() -> dict[str, Source]:
    """The hostile programs, as a capsule's code."""
    return {f"code/{path.name}": path.read_bytes() for path in sorted(HOSTILE.iterdir()) if path.is_file()}


@dataclass(frozen=True)
class Ran:
    """How a job ended.

    Attributes:
        status: as the runtime tells it.
        outputs: what was collected, by path; empty if nothing was.
        refusal: why outputs were refused, in the runtime's words.
        kept: bytes that the runtime keeps of what was printed.
        told: progress lines that nobody had read when it ended.
        files: what the job's directory held on the host: path → (mode, modification time).
    """

    status: Status
    outputs: Mapping[str, bytes]
    refusal: str
    kept: int
    told: int
    files: Mapping[str, tuple[int, float]]

    def found(self) -> Any:
        """What the program wrote of itself."""
        return json.loads(self.outputs["found.json"])


class Stage:
    """A runtime of one sealing over a directory in memory.

    The numeric user of a worker follows from its job or party, on the whole machine. So both have a mark of the
    directory: whatever else runs meanwhile, the processes of that user are this job's.

    Attributes:
        party: whose jobs may be.
    """

    def __init__(self, root: Path, image: str, engine: docker.DockerClient, sealing: str, **others: Any) -> None:
        self.root, self.image, self.engine, self.sealing = root, image, engine, sealing
        self.runtime = ContainerRuntime(root, image=image, sealing=sealing, client=engine, capacity=4, **others)  # type: ignore[arg-type]
        self.containers: dict[str, str] = {}  # by job
        self._mark = label_of(root).rpartition("=")[2][:8]
        self.party = f"north-{self._mark}"

    def job(
        self,
        name: str,
        aim: Mapping[str, object],
        outputs: Sequence[str] = ("found.json",),
        party: str | None = None,
        **limits: int,
    ) -> Job:
        """A job in which the hostile `code/run` does what `aim` says."""
        given = {**SMALL, **limits}
        return Job(
            id=re.sub(r"[^a-z0-9]+", "-", f"{name.lower()}-{self._mark}"),
            spec={},
            inputs={**code(), "data/rows.csv": ROWS, "data/aim.json": json.dumps(aim).encode()},
            outputs=tuple(outputs),
            limits=Limits(**given),
            party=party,
            program=Program(image=self.image, command=("code/run",)),
        )

    def names(self, job: Job) -> confinement.Names:
        return confinement.Names(label_of(self.root).partition("=")[2], job.id)

    def start(self, job: Job) -> None:
        self.runtime.prepare(job)
        self.runtime.start(job)
        with suppress(NotFound):  # it has ended already
            self.containers[job.id] = str(self.engine.api.inspect_container(self.names(job).worker)["Id"])

    def hear(self, job: Job) -> None:
        """Wait until a job has printed something."""
        assert until(lambda: self.runtime.logs(job.id) != b""), self.runtime.status(job.id)

    def end(self, job: Job) -> Ran:
        """Wait for its end, look at everything, and destroy it."""
        assert self.runtime.wait([job.id], seconds=PATIENCE + job.limits.seconds) == {job.id}
        status, outputs, refusal, told = self.runtime.status(job.id), dict[str, bytes](), "", list[str]()
        self.runtime.wait([job.id], progress=lambda _, text: told.append(text))
        if status.state is State.FINISHED:
            try:
                outputs = {path: output.read() for path, output in self.runtime.collect(job).items()}
            except EscrowError as error:
                refusal = f"{error.code}: {error.message}"
        kept = len(self.runtime.logs(job.id))
        files = dict(below(self.root / job.id / "results"))
        self.runtime.destroy(job.id)
        return Ran(status, outputs, refusal, kept, len(told), files)

    def run(self, job: Job) -> Ran:
        try:
            self.start(job)
            return self.end(job)
        finally:
            self.runtime.destroy(job.id)

    def traces(self, job: Job) -> list[str]:
        """What is left of a job on this machine: containers, volumes, mounts, files and processes."""
        names = self.names(job)
        called = {f"/{names.worker}", f"/{names.keeper}", names.volume}
        ours = [each for each in leftovers(self.engine, self.root) if each in called]
        files = [str(path) for path in (self.root / job.id, self.root / f".{job.id}") if path.exists()]
        return [
            *ours,
            *files,
            *mounted(names.volume),
            *running(confinement.user_of(job), self.containers.get(job.id, names.worker)),
        ]


def below(folder: Path) -> Iterator[tuple[str, tuple[int, float]]]:
    """Everything below a directory: path → mode and modification time."""
    for path in folder.rglob("*"):
        found = path.lstat()
        yield str(path.relative_to(folder)), (found.st_mode, found.st_mtime)


def mounted(name: str) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines() if name in line]


def running(user: int, container: str) -> list[str]:
    """Processes of the machine that have the job's user, or serve its container."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            served = (
                container in line and "containerd-shim" not in line
            )  # those are the engine's, and go when they like
            if path.stat().st_uid == user or served:
                found.append(f"process {path.name} {line}")
    return found


@contextmanager
def place() -> Iterator[Path]:
    """A directory in memory for what belongs together; a runtime is closed before it is left."""
    folder = Path(tempfile.mkdtemp(prefix="escrow-escapes-", dir="/dev/shm"))
    try:
        yield folder
    finally:
        folders.remove(folder)


@dataclass
class Ear:
    """Listens on the host for whoever should not be able to reach it: TCP, UDP and an abstract Unix socket."""

    tcp: int
    udp: int
    heard: list[str]


@contextmanager
def listening(abstract: str) -> Iterator[Ear]:
    """An open ear on the loopback interface, and under an abstract name."""
    lines = [
        socket.create_server(("127.0.0.1", 0)),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        socket.socket(socket.AF_UNIX),
    ]
    lines[1].bind(("127.0.0.1", 0))
    lines[2].bind(f"\0{abstract}")
    lines[2].listen()
    ear = Ear(lines[0].getsockname()[1], lines[1].getsockname()[1], [])
    threads = [threading.Thread(target=_hear, args=(line, ear.heard), daemon=True) for line in lines]
    for thread in threads:
        thread.start()
    try:
        yield ear
    finally:
        for line in lines:
            if line.type == socket.SOCK_DGRAM:
                line.sendto(b"", line.getsockname())
            else:
                line.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for line in lines:
            line.close()


def _hear(line: socket.socket, heard: list[str]) -> None:
    """Until the line is shut down; a datagram is answered, so that its sender knows that it arrived."""
    with suppress(OSError):
        while True:
            if line.type == socket.SOCK_DGRAM:
                data, sender = line.recvfrom(64)
                if not data:
                    return
                line.sendto(data, sender)
            else:
                line.accept()[0].close()
            heard.append(f"{line.family.name} {line.type.name}")


def until(done: Callable[[], bool], *, seconds: float = PATIENCE) -> bool:
    """Ask again and again, for what tells nobody when it happens."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if done():
            return True
        pause.wait(0.05)
    return False


__all__ = ["ROWS", "Ear", "Ran", "Stage", "code", "listening", "place", "until"]
