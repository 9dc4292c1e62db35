"""What is true of sealed workers alone, under each sealing that the engine has.

The law they share with plain processes is in `test_runtime.py`; what hostile ones try is in `tests/attacks`.
"""

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

import docker
import pytest
import requests

from contracts.errors import EscrowError
from escrow.runtime import outputs
from escrow.runtime.base import State, Status
from escrow.runtime.cells import Cell
from escrow.runtime.confinement import Names, user_of
from escrow.runtime.docker import ContainerRuntime
from escrow.runtime.job import Job, Limits, Program
from tests.engine import label_of, leftovers
from tests.jobs import FINISHED, NAUGHTY, PATIENCE, job, refused, run, start_and_hear

pytestmark = pytest.mark.engine
LOOK = """
import json, os, resource, socket, sys
from pathlib import Path

def tried(deed):
    try:
        return deed() or "done"
    except OSError as error:
        return type(error).__name__

def written(folder):
    (Path(folder) / "x").write_bytes(b"x")

def lines(path):
    return Path(path).read_text().splitlines()

status = dict(line.split(":", 1) for line in lines("/proc/self/status"))
seen = {
    "environment": dict(os.environ),
    "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
    "capabilities": [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapInh")],
    "interfaces": [line.split(":")[0].strip() for line in lines("/proc/net/dev")[2:]],
    "families": {family: tried(lambda: socket.socket(family).close()) for family in (1, 2, 10, 38, 40)},
    "host": [socket.gethostname(), Path("/etc/resolv.conf").read_text().split()],
    "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit())[-1] < 100,
    "writable": [folder for folder in ("/", "/job", "/job/inputs", "/etc", "/dev", "/proc", "/sys", "/tmp", "/results")
                 if tried(lambda: written(folder)) == "done"],
    "limits": [resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in ("CORE", "NOFILE", "FSIZE")],
    "room": [os.statvfs(path).f_blocks * os.statvfs(path).f_frsize for path in ("/tmp", "/results", "/dev/shm")],
    "given": sorted(str(path) for path in Path("/job").rglob("*")),
    "stdin": sys.stdin.read(),
    "argv": sys.argv[1:],
}
(Path(sys.argv[2]) / "seen.json").write_text(json.dumps(seen))
"""
Make = Callable[..., ContainerRuntime]


@pytest.fixture
def root(memory: Path) -> Path:
    return memory / "jobs"


@pytest.fixture
def make(engine: docker.DockerClient, root: Path, sealing: str, image: str) -> Iterator[Make]:
    """Make runtimes of the tests' worker; whatever they do, the engine must be as it was before."""
    command = ("python3", "-c", NAUGHTY.read_text())

    def made(**about: object) -> ContainerRuntime:
        return ContainerRuntime(root, **{"image": image, "sealing": sealing, "command": command, **about})

    yield made
    assert leftovers(engine, root) == []


@pytest.fixture
def runtime(make: Make) -> Iterator[ContainerRuntime]:
    with make() as runtime:
        yield runtime


# what the worker gets


def test_the_worker_sees_its_job_and_nothing_of_the_machine(make: Make, sealing: str, monkeypatch) -> None:
    monkeypatch.setenv("SECRET", "key of the escrow")
    limits = Limits(open_files=99, results_mib=3, scratch_mib=5)
    what = Job("job-1", {"do": "look"}, {"in.bin": b"x"}, ("seen.json",), limits, party="north")
    with make(command=("python3", "-c", LOOK)) as runtime:
        assert run(runtime, what) == FINISHED, runtime.logs("job-1")
        seen = json.loads(runtime.collect(what)["seen.json"].read())
    assert "key of the escrow" not in str(seen)
    assert (seen["environment"]["HOME"], seen["environment"]["OMP_NUM_THREADS"]) == ("/tmp", "1")  # noqa: S108 - its own
    user = user_of(what)
    assert seen["ids"] == [[user] * 3, [user] * 3, [user]]
    assert seen["capabilities"] == [0, 0, 0, 0]
    assert set(seen["interfaces"]) <= {"lo"}
    assert seen["families"]["1"] == "done"
    assert "done" not in (seen["families"]["38"], seen["families"]["40"])  # the kernel's own, and the hypervisor
    assert seen["host"] == ["worker", ["nameserver", "127.0.0.1"]]
    assert seen["processes"]
    assert seen["writable"] == ["/tmp", "/results"]  # noqa: S108 - its own
    assert seen["limits"] == [[1, 1], [99, 99], [3 << 20, 3 << 20]]
    assert seen["room"] == [5 << 20, 3 << 20, 1 << 20]
    assert seen["given"] == ["/job/inputs", "/job/inputs/in.bin", "/job/job.json"]
    assert (seen["stdin"], seen["argv"]) == ("", ["/job", "/results"])


def test_each_party_is_another_user() -> None:
    jobs = [Job(name, {}, party=party) for name, party in (("a", "north"), ("b", "south"), ("c", None), ("d", None))]
    users = [user_of(each) for each in jobs]
    assert len(set(users)) == 4
    assert user_of(replace(jobs[0], id="another")) == users[0]
    assert all(0x70000000 <= user < 0x80000000 for user in users)


def test_a_program_finds_its_rows_where_it_mounts_them(runtime: ContainerRuntime, image: str) -> None:
    code = b"#!/bin/sh\ncat /confidential/data/rows.csv data/rows.csv ../data/rows.csv > /results/out.bin || pwd\n"
    inputs = {"code/run": code, "code/data/rows.csv": b"own,", "data/rows.csv": b"rows,"}
    program = Program(image, ("code/run",), mounts={"data": "/confidential/data"})
    what = Job("job-1", {}, inputs, ("out.bin",), program=program)
    assert run(runtime, what) == FINISHED
    assert runtime.collect(what)["out.bin"].read() == b"rows,own,rows,"


# limits


@pytest.mark.parametrize(
    ("do", "limits", "code"),
    [
        ("sleep", {"seconds": 1}, "limit-time"),
        ("fill_memory", {"memory_mib": 128}, "limit-memory"),
        ("fill_results", {"results_mib": 4}, "limit-results"),
        ("fill_scratch", {"scratch_mib": 4, "memory_mib": 128}, "training-failed"),
        ("many_processes", {"processes": 10}, "training-failed"),
        ("many_files", {}, "limit-results"),
        ("holes", {"results_mib": 4}, "limit-results"),
    ],
)
def test_a_limit_is_kept(runtime: ContainerRuntime, sealing: str, do: str, limits: dict[str, int], code: str) -> None:
    if (do, sealing) == ("many_processes", "gvisor"):
        do = "ever_more_processes"  # gVisor has threads of its own, so the bound is higher
    assert run(runtime, job(do, **limits)) == Status(State.FAILED, code)


def test_a_limit_on_time_is_kept_though_the_engine_refuses_at_first(runtime: ContainerRuntime, monkeypatch) -> None:
    remove, refusals = docker.APIClient.remove_container, iter([500, 500])

    def refusing(*arguments: object, **options: object) -> None:
        if status := next(refusals, None):
            response = requests.Response()
            response.status_code = status
            raise docker.errors.APIError("cannot kill container", response)
        remove(*arguments, **options)

    monkeypatch.setattr(docker.APIClient, "remove_container", refusing)
    assert run(runtime, job("sleep", seconds=1)) == Status(State.FAILED, "limit-time")


@pytest.mark.parametrize("printed", [b"\n", b"x", b'{"progress": "row 17"}\n', b"{\n"])
def test_a_flood_of_output_stretches_no_limit_and_starves_nobody(make: Make, sealing: str, printed: bytes) -> None:
    flood = f"import os\ndata = {printed!r} * {(1 << 16) // len(printed)}\nwhile True: os.write(1, data)"
    told: list[str] = []
    with make(command=("python3", "-c", flood)) as runtime:
        runtime.prepare(job("flood", seconds=2, cpus=1))
        runtime.start(job("flood", seconds=2, cpus=1))
        begin = time.monotonic()
        assert runtime.wait(["job-1"], seconds=PATIENCE, progress=lambda _, text: told.append(text)) == {"job-1"}
        assert time.monotonic() - begin < 30
        assert runtime.status("job-1") == Status(State.FAILED, "limit-time")
    assert len(told) <= 500


def test_outputs_have_no_times_and_no_modes_of_the_workers(runtime: ContainerRuntime, root: Path) -> None:
    assert run(runtime, job("copy")) == FINISHED
    found = (root / "job-1/results/out.bin").stat()
    assert (found.st_mtime, found.st_mode & 0o7777, found.st_uid) == (0, 0o600, os.geteuid())


# what is left


def test_a_job_that_has_ended_has_nothing_in_the_engine(engine: docker.DockerClient, make: Make, root: Path) -> None:
    with make() as runtime:
        start_and_hear(runtime, job("sleep_and_tell"))
        assert len(leftovers(engine, root)) == 3
        runtime.destroy("job-1")
        assert leftovers(engine, root) == []
        assert run(runtime, job("copy")) == FINISHED
    assert leftovers(engine, root) == []
    with make() as again:
        assert again.collect(job("copy"))["out.bin"].read() == b"input"


def test_many_jobs_leave_no_descriptor_behind(runtime: ContainerRuntime, root: Path) -> None:
    assert run(runtime, job("nothing")) == FINISHED
    runtime.destroy("job-1")
    before = descriptors()
    for number in range(8):
        runtime.prepare(job("nothing", job_id=f"job-{number}", door=True))
        runtime.start(job("nothing", job_id=f"job-{number}", door=True))
        runtime.wait([f"job-{number}"], seconds=PATIENCE)
        runtime.destroy(f"job-{number}")
    assert descriptors() <= before
    assert list(root.iterdir()) == []


def descriptors() -> set[tuple[str, str]]:
    """Those of this process, but for the connections that the engine's library keeps, which it bounds itself."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add((entry.name, str(entry.readlink())))
    return {(name, target) for name, target in found if not target.startswith("socket:")}


def test_results_that_find_no_room_at_home_are_a_failure_that_leaves_nothing(
    runtime: ContainerRuntime, root: Path, monkeypatch
) -> None:
    def full(chunks: object, wanted: object, into: Path, **limits: object) -> NoReturn:
        (into / "half").write_bytes(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(outputs, "receive", full)
    assert run(runtime, job("copy")) == Status(State.FAILED, "storage-full")
    assert sorted(path.name for path in (root / "job-1").iterdir()) == ["job", "outcome", "started"]


def test_an_outcome_that_cannot_be_written_is_remembered(runtime: ContainerRuntime, root: Path) -> None:
    runtime.prepare(job("copy"))
    (root / "job-1/outcome.new").mkdir()
    runtime.start(job("copy"))
    assert runtime.wait(["job-1"], seconds=PATIENCE) == {"job-1"}
    assert runtime.status("job-1") == Status(State.FAILED, "runtime-unfit")
    assert not (root / "job-1/results").exists()
    runtime.destroy("job-1")
    assert runtime.status("job-1") == Status(State.ABSENT)


def test_a_start_that_the_engine_answers_too_late_leaves_no_worker(
    engine: docker.DockerClient, runtime: ContainerRuntime, root: Path, monkeypatch
) -> None:
    start = docker.APIClient.start

    def late(api: docker.APIClient, name: str) -> None:
        start(api, name)
        if not name.endswith("-keeper"):
            raise requests.ReadTimeout

    runtime.prepare(job("sleep"))
    with monkeypatch.context() as patch:
        patch.setattr(docker.APIClient, "start", late)
        with refused("engine-missing"):
            runtime.start(job("sleep"))
    assert leftovers(engine, root) == []
    assert runtime.status("job-1") == Status(State.PREPARED)
    runtime.start(job("sleep"))
    assert runtime.status("job-1") == Status(State.RUNNING)


def test_what_an_earlier_attempt_left_in_the_engine_is_replaced(
    engine: docker.DockerClient, runtime: ContainerRuntime, root: Path, image: str
) -> None:
    names = Names(label_of(root).partition("=")[2], "job-1")
    for name in (names.worker, names.keeper):
        engine.api.create_container(image, name=name, command=["python3"])
    assert run(runtime, job("copy")) == FINISHED


# what is refused


def test_what_cannot_seal_is_refused_and_leaves_nothing(make: Make, root: Path, tmp_path: Path, image: str) -> None:
    with refused("image-missing"):
        make(image="nobody-made-this:latest")
    assert not root.exists()
    (tmp_path / "jobs").mkdir(mode=0o700)
    with refused("runtime-unfit") as caught:
        ContainerRuntime(tmp_path / "jobs", image=image)
    assert "in memory" in caught.value.message


def test_an_image_that_would_write_to_a_disk_is_refused(engine: docker.DockerClient, make: Make, image: str) -> None:
    container = engine.api.create_container(image, command=["true"])["Id"]
    made = engine.api.commit(container, changes="VOLUME /data")["Id"]
    try:
        with refused("image-refused"):
            make(image=made)
    finally:
        engine.api.remove_container(container)
        engine.api.remove_image(made, noprune=True)  # which would take an untagged base along


def test_an_engine_without_gvisor_is_refused(engine: docker.DockerClient, root: Path, image: str, monkeypatch) -> None:
    told = engine.info()
    monkeypatch.setattr(engine, "info", lambda: {**told, "Runtimes": {"runc": {}}})
    with refused("runtime-unfit"):
        ContainerRuntime(root, image=image, sealing="gvisor", client=engine)


def test_a_tag_that_moves_does_not_change_the_worker(engine: docker.DockerClient, make: Make, image: str) -> None:
    moving = f"escrow-test-moving:{uuid4().hex}"  # another test process may do the same
    engine.api.tag(image, *moving.split(":"))
    try:
        with make(image=moving) as runtime:
            assert runtime.worker() == image
            engine.api.remove_image(moving)
            assert run(runtime, job("copy")) == FINISHED
    finally:
        with suppress(docker.errors.ImageNotFound):
            engine.api.remove_image(moving)


def test_without_an_engine_there_is_no_directory_either(
    root: Path, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    with refused("engine-missing"):
        ContainerRuntime(root, image=image)
    assert not root.exists()


# an engine that goes away


class Road:
    """A socket that leads to the engine's, and can be cut."""

    def __init__(self, path: Path, engine: str) -> None:
        self.path = path
        self._engine = engine
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.mend()

    def mend(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(100)
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._engine)
                self._ends += (near, far)
                self._start(self._carry, near, far)
                self._start(self._carry, far, near)

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        self.path.unlink()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()
        self._ends.clear()
        self._threads.clear()


@pytest.fixture
def road(memory: Path) -> Iterator[Road]:
    road = Road(memory / "road", "/var/run/docker.sock")
    yield road
    road.cut()


def test_a_running_job_whose_engine_goes_away_has_failed_and_is_still_destroyed(make: Make, road: Road) -> None:
    client = docker.DockerClient(base_url=f"unix://{road.path}", version="auto")
    with make(client=client) as runtime:
        start_and_hear(runtime, job("sleep_and_tell"))
        road.cut()
        assert runtime.wait(["job-1"], seconds=PATIENCE) == {"job-1"}
        assert runtime.status("job-1") == Status(State.FAILED, "engine-missing")
        with refused("engine-missing"):
            runtime.destroy("job-1")
        road.mend()
        assert runtime.status("job-1") == Status(State.FAILED, "engine-missing")
        runtime.destroy("job-1")
        assert run(runtime, job("copy")) == FINISHED
    client.close()


def test_results_that_went_with_the_engine_are_not_taken_for_none(
    engine: docker.DockerClient, runtime: ContainerRuntime, root: Path
) -> None:
    runtime.prepare(job("dial", door=True))
    runtime.start(job("dial", door=True))
    with runtime.link("job-1", seconds=PATIENCE) as stream:
        engine.api.kill(Names(label_of(root).partition("=")[2], "job-1").keeper)
        stream.sendall(b"go on")
    assert runtime.wait(["job-1"], seconds=PATIENCE) == {"job-1"}
    assert runtime.status("job-1") == Status(State.FAILED, "engine-missing")


def test_a_prepared_job_waits_for_an_engine_that_is_away(make: Make, road: Road) -> None:
    client = docker.DockerClient(base_url=f"unix://{road.path}", version="auto")
    with make(client=client) as runtime:
        road.cut()
        runtime.prepare(job("copy"))
        for _ in range(2):
            with refused("engine-missing"):
                runtime.start(job("copy"))
        assert runtime.status("job-1") == Status(State.PREPARED)
        road.mend()
        runtime.start(job("copy"))
        assert runtime.wait(["job-1"], seconds=PATIENCE) == {"job-1"}
        assert runtime.status("job-1") == FINISHED
    client.close()


def test_a_keeper_that_is_late_is_awaited_before_another_is_called(runtime: ContainerRuntime, monkeypatch) -> None:
    keep, go_on = Cell.keep, threading.Event()

    def late(cell: Cell, config: dict[str, object]) -> None:
        assert go_on.wait(PATIENCE)
        keep(cell, config)

    def refuse(cell: Cell, config: dict[str, object]) -> NoReturn:
        raise EscrowError("engine-missing", "The container engine does not answer.")

    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as thread:
        patch.setattr(Cell, "keep", late)
        patch.setattr(Cell, "furnish", refuse)
        runtime.prepare(job("copy"))
        starting = thread.submit(runtime.start, job("copy"))
        try:
            with pytest.raises(TimeoutError):
                starting.result(0.5)
        finally:
            go_on.set()
        with refused("engine-missing"):
            starting.result(PATIENCE)
    assert run(runtime, job("copy")) == FINISHED
    assert runtime.collect(job("copy"))["out.bin"].read() == b"input"


def test_a_finished_job_needs_no_engine(make: Make, road: Road) -> None:
    client = docker.DockerClient(base_url=f"unix://{road.path}", version="auto")
    with make(client=client) as runtime:
        assert run(runtime, job("copy")) == FINISHED
        road.cut()
        assert runtime.collect(job("copy"))["out.bin"].read() == b"input"
        road.mend()
    client.close()
