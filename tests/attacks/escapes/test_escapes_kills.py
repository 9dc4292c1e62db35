"""Whatever keeps a job is killed in the midst of it: the escrow, its containers, the engine.

Afterwards nothing is left, and the run goes on or has failed with a code. The engine that is killed is one of the
test's own, beside the one that everybody uses.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from docker.errors import APIError

from contracts.errors import CODES, EscrowError
from escrow.runtime.base import State, Status
from escrow.runtime.job import Job
from tests.attacks.escapes.catalogue import CONTAINER_KILLS, ENGINE_KILLS, ESCROW_KILLS, Kill, Probe, asked
from tests.attacks.escapes.stage import PATIENCE, Ran, Stage, place, until
from tests.engine import leftovers

pytestmark = pytest.mark.engine

HERE = Path(__file__).parent
DOCKERD, UMOUNT, UNSHARE = (shutil.which(name) or name for name in ("dockerd", "umount", "unshare"))
LEFT = ("prepared", "finished", "collecting")
"""When a killed escrow leaves its job for the next; whatever ran is lost."""


def goes_on(stage: Stage, moment: str) -> None:
    """The same job runs to its end, and nothing of it is left."""
    ran = stage.run(stage.job(moment, {"deed": "victim.work_at_once"}))
    assert ran.status == Status(State.FINISHED)
    assert ran.found() == "done"
    assert stage.traces(stage.job(moment, {})) == []


# the escrow


def kill_escrow(stage: Stage, moment: str, environment: Mapping[str, str]) -> None:
    with place() as folder:
        root = folder / "jobs"
        command = [sys.executable, HERE / "killed_escrow.py", root, stage.image, stage.sealing, moment]
        child = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            timeout=4 * PATIENCE,
            check=False,
            env=environment,
        )
        assert child.returncode == -signal.SIGKILL, child.stderr.decode()
        assert until(lambda: leftovers(stage.engine, root) == [])  # by the guard: nobody else is there
        after = Stage(root, stage.image, stage.engine, stage.sealing)
        with after.runtime:
            job = after.job(moment, {"deed": "victim.work_at_once"})
            assert after.runtime.sweep([job.id]) == ({job.id} if moment in LEFT else set())
            status = after.runtime.status(job.id)
            if moment in {"finished", "collecting"}:
                assert status == Status(State.FINISHED)
                assert after.runtime.collect(job)["found.json"].read().startswith(b'"done"')
            else:
                assert status == Status(State.PREPARED if moment == "prepared" else State.ABSENT)
            after.runtime.destroy(job.id)
            assert after.traces(job) == []
            goes_on(after, moment)
        assert not root.exists()


@pytest.fixture(scope="session")
def killed(stage: Stage) -> Iterator[dict[str, Future[None]]]:
    """Escrows that are killed at each moment, a few at once."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE.parents[2]),
    }  # read here: pytest changes it from test to test
    with ThreadPoolExecutor(3) as threads:
        yield {probe.moment: threads.submit(kill_escrow, stage, probe.moment, environment) for probe in ESCROW_KILLS}


@pytest.mark.parametrize("probe", ESCROW_KILLS, ids=lambda probe: probe.name)
def test_the_escrow_is_killed(killed: dict[str, Future[None]], probe: Kill) -> None:
    killed[probe.moment].result()


# its containers

ACTS: dict[str, Callable[[docker.APIClient, str, str], object]] = {
    "worker killed": lambda api, worker, keeper: api.kill(worker),
    "worker removed": lambda api, worker, keeper: api.remove_container(worker, force=True),
    "keeper killed": lambda api, worker, keeper: api.kill(keeper),
    "keeper removed": lambda api, worker, keeper: api.remove_container(keeper, force=True),
    "worker paused": lambda api, worker, keeper: api.pause(worker),
}


DEEDS: dict[str, tuple[str, int]] = {
    "worker killed": ("work_on", 120),
    "worker removed": ("work_on", 120),
    "keeper killed": ("work_when_told", 120),  # when nobody is there who keeps what it leaves
    "keeper removed": ("work_when_told", 120),
    "worker paused": ("work_on", 15),  # which nothing else ends
}
"""What the worker does meanwhile, and its limit of time."""


def kill_container(stage: Stage, moment: str) -> Ran:
    deed, seconds = DEEDS[moment]
    job = stage.job(moment, {"deed": f"victim.{deed}"}, seconds=seconds)
    names = stage.names(job)
    try:
        stage.start(job)
        stage.hear(job)
        ACTS[moment](stage.engine.api, names.worker, names.keeper)
        if deed == "work_when_told":
            tell_to_work(stage.engine.api, names.worker)
        return stage.end(job)
    finally:
        stage.runtime.destroy(job.id)


def tell_to_work(api: docker.APIClient, worker: str) -> None:
    with suppress(APIError):  # it has ended with its keeper
        told = api.exec_create(worker, ["touch", "/tmp/go"])  # noqa: S108 - the container's own
        api.exec_start(told["Id"], detach=True)


@pytest.fixture(scope="session")
def lost(stage: Stage) -> Iterator[dict[str, Future[Ran]]]:
    """How jobs ended whose containers were killed, a few at once."""
    with ThreadPoolExecutor(3) as threads:
        asked_for = [probe.name for probe in CONTAINER_KILLS if asked(probe, stage.sealing)]
        yield {moment: threads.submit(kill_container, stage, moment) for moment in asked_for}


@pytest.mark.parametrize("probe", CONTAINER_KILLS, ids=lambda probe: probe.name)
def test_a_container_is_killed_from_outside(stage: Stage, lost: dict[str, Future[Ran]], probe: Probe) -> None:
    if probe.name in lost:
        ran = lost[probe.name].result()
        assert ran.status.state is State.FAILED, "a loss is never taken for a good end"
        assert ran.status.code in CODES
        assert (ran.status.code == "limit-time") == (probe.name == "worker paused")
        assert ran.outputs == {}
        assert stage.traces(stage.job(probe.name, {})) == []


# the engine


class OwnEngine:
    """A container engine of the test's own: its own socket, state, containers and images, and no network."""

    def __init__(self, folder: Path, runtimes: Mapping[str, object], version: str) -> None:
        self.folder, self.version = folder, version
        self.process: subprocess.Popen[bytes] | None = None
        self.state = folder / "state"
        (folder / "config.json").write_text(json.dumps({"runtimes": dict(runtimes)}), encoding="ascii")

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/socket"

    def client(self) -> closing[docker.DockerClient]:
        made = docker.DockerClient(base_url=self.url, version=self.version, timeout=120)
        made.api.trust_env = False  # as `escrow.runtime.images.engine`: threads would read what pytest changes
        return closing(made)

    def start(self) -> None:
        places = {"host": self.url, "data-root": self.state / "data", "exec-root": self.state / "exec"}
        places |= {"pidfile": self.folder / "pid", "config-file": self.folder / "config.json"}
        (self.folder / "pid").unlink(missing_ok=True)
        (self.folder / "socket").unlink(missing_ok=True)
        options = [f"--{name}={value}" for name, value in places.items()]
        options += ["--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"]
        with (self.folder / "log").open("ab") as log:
            # in a network of its own: an engine that is told to have no bridge removes the machine's
            apart = [UNSHARE, "--net", DOCKERD, *options]
            self.process = subprocess.Popen(apart, stdout=log, stderr=log, start_new_session=True)
        assert until(self._answers), (self.folder / "log").read_text()[-2000:]

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(f"{self.folder}/socket")
        except OSError:
            return False
        with self.client() as client:
            return bool(client.ping())

    def kill(self) -> None:
        """End it, and with it the program that it starts containers through, as the kernel is asked to."""
        record = self.state / "exec/containerd/containerd.pid"
        helper = int(record.read_text(encoding="ascii"))
        self._end(signal.SIGKILL)
        assert until(lambda: not Path(f"/proc/{helper}").exists())
        record.unlink()  # the next one would wait for it

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait()
            self.process = None


@contextmanager
def own_engine(engine: docker.DockerClient, image: str) -> Iterator[OwnEngine]:
    """An engine that may be killed, with the image and the runtimes that everybody's has."""
    folder = Path(tempfile.mkdtemp(prefix="escrow-engine-", dir="/var/tmp"))
    runtimes = {name: about for name, about in engine.info()["Runtimes"].items() if name == "runsc"}
    own = OwnEngine(folder, runtimes, engine.api.api_version)
    try:
        own.start()
        with own.client() as client:
            client.images.load(b"".join(engine.images.get(image).save()))
        yield own
    finally:
        own.stop()
        for point in reversed(mounts_below(folder)):  # of the killed ones
            subprocess.run([UMOUNT, point], check=True)
        shutil.rmtree(folder)


def mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return [point for point in (line.split()[4] for line in lines) if point.startswith(f"{folder}/")]


@dataclass(frozen=True)
class Meeting:
    """Where the jobs and whoever kills the engine wait for each other; one that fails does not let the others wait."""

    barrier: threading.Barrier

    def __enter__(self) -> Callable[[], int]:
        return self.barrier.wait

    def __exit__(self, failure: object, *_: object) -> None:
        if failure is not None:
            self.barrier.abort()


def lose_engine(own: OwnEngine, image: str, sealing: str, moment: str, meeting: Meeting) -> None:
    with place() as folder, meeting as meet:
        root = folder / "jobs"
        with own.client() as client:
            before = Stage(root, image, client, sealing)
            job = before.job(moment, {"deed": "victim.work_at_once" if moment == "finished" else "victim.work_on"})
            before.runtime.prepare(job)
            if moment != "prepared":
                before.start(job)
            if moment == "running":
                before.hear(job)
            if moment == "finished":
                before.runtime.wait([job.id])
            meet()  # it is killed
            meet()
            meanwhile(before, job, moment)
        meet()  # it is started again
        meet()
        with own.client() as client:
            after = Stage(root, image, client, sealing)
            after.containers |= before.containers
            with after.runtime:
                after.runtime.sweep()
                assert after.traces(job) == []
                goes_on(after, moment)
            assert leftovers(client, root) == []
        assert not root.exists()


def meanwhile(stage: Stage, job: Job, moment: str) -> None:
    """While there is no engine, the escrow knows what it knew, and what it cannot do has a code."""
    if moment == "finished":
        assert stage.runtime.collect(job)["found.json"].read().startswith(b'"done"')
    elif moment == "running":
        assert stage.runtime.wait([job.id], seconds=PATIENCE) == {job.id}
        assert stage.runtime.status(job.id) == Status(State.FAILED, "engine-missing")
    else:
        with pytest.raises(EscrowError) as refusal:
            stage.runtime.start(job)
        assert refusal.value.code == "engine-missing"
    with suppress(EscrowError):  # it cannot end what it cannot reach
        stage.runtime.close()


@pytest.fixture(scope="session")
def restarted(
    stages: dict[str, Stage], engine: docker.DockerClient, image: str
) -> Iterator[dict[tuple[str, str], Future[None]]]:
    """Jobs of each sealing at each moment on an engine that is killed once and started again."""
    cases = [(sealing, probe.moment) for sealing in stages for probe in ENGINE_KILLS]
    meeting = Meeting(threading.Barrier(len(cases) + 1, timeout=5 * PATIENCE))
    with own_engine(engine, image) as own, ThreadPoolExecutor(len(cases)) as threads:
        futures = {case: threads.submit(lose_engine, own, image, *case, meeting) for case in cases}
        with suppress(threading.BrokenBarrierError), meeting as meet:
            meet()
            own.kill()
            meet()
            meet()
            own.start()
            meet()
        yield futures


@pytest.mark.parametrize("probe", ENGINE_KILLS, ids=lambda probe: probe.name)
def test_the_engine_is_killed(restarted: dict[tuple[str, str], Future[None]], stage: Stage, probe: Kill) -> None:
    restarted[stage.sealing, probe.moment].result()
