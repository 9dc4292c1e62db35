"""What a killed escrow leaves: a guard, which ends its jobs and no others, and perhaps half of a job's start."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import docker
import pytest

from escrow.runtime import doors, guard
from escrow.runtime.docker import ContainerRuntime
from tests.engine import leftovers
from tests.jobs import FINISHED, NAUGHTY, PATIENCE, has_ended, job, processes, refused

pytestmark = pytest.mark.engine
COMMAND = ("python3", "-c", NAUGHTY.read_text())
ESCROW = """
import sys, time
from pathlib import Path
from escrow.runtime.docker import ContainerRuntime
from tests.jobs import job, start_and_hear
runtime = ContainerRuntime(Path(sys.argv[1]), image=sys.argv[2], command=("python3", "-c", sys.argv[3]))
start_and_hear(runtime, job("sleep_and_tell", job_id="old"))
print("runs", flush=True)
time.sleep(600)
"""
REFUSAL = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 6\r\n\r\nno way"
NOTHING = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
    b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"Volumes": null}',
)


@contextmanager
def escrow(root: Path, image: str) -> Iterator[int]:
    """Another escrow with a job that runs: the pid of its guard. It is killed in the end."""
    command = [sys.executable, "-c", ESCROW, str(root), image, COMMAND[2]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"runs\n"
            [pid] = [pid for pid in processes(guard.__file__) if is_child(pid, process.pid)]
            yield pid
        finally:
            process.kill()


def is_child(pid: int, parent: int) -> bool:
    """Whether it is; what another test's escrow left may be gone by now."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == parent
    return False


def test_a_late_guard_leaves_the_next_escrow_alone(engine: docker.DockerClient, memory: Path, image: str) -> None:
    root = memory / "jobs"
    what = job("dial", job_id="new", door=True)
    with escrow(root, image) as pid:
        late = os.pidfd_open(pid)
        os.kill(pid, signal.SIGSTOP)
    try:
        with ContainerRuntime(root, image=image, command=COMMAND) as runtime:  # the old job is still in the engine
            assert leftovers(engine, root)
            runtime.prepare(what)
            runtime.start(what)
            with runtime.link("new", seconds=PATIENCE) as stream:
                signal.pidfd_send_signal(late, signal.SIGCONT)
                assert has_ended(os.dup(late))
                stream.sendall(b"go on")
                assert stream.recv(100) == b"GO ON"
            assert runtime.wait(["new"], seconds=PATIENCE) == {"new"}
            assert runtime.status("new") == FINISHED
            runtime.destroy("new")
            assert leftovers(engine, root) == []
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(late, signal.SIGKILL)
        os.close(late)


@contextmanager
def bereft(path: Path, label: str, word: bytes) -> Iterator[socket.socket]:
    """Where a guard looks for the engine whose escrow has ended, with this last word; it ends well afterwards."""
    command = [sys.executable, "-I", "-S", guard.__file__, str(path), label]
    with socket.socket(socket.AF_UNIX) as door, subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        door.bind(str(path))
        door.listen()
        door.settimeout(PATIENCE)
        assert process.stdin is not None
        process.stdin.write(word)
        process.stdin.close()
        yield door
        assert process.wait(PATIENCE) == 0


def test_an_engine_that_is_away_and_then_refuses_is_asked_again(
    engine: docker.DockerClient, memory: Path, image: str
) -> None:
    label, path = f"escrow-test-guard={uuid4().hex}", memory / "engine"
    name, _, value = label.partition("=")
    left = engine.api.create_container(image, command=["true"], labels={name: value})["Id"]
    with bereft(path, label, b".") as door:
        door.accept()[0].close()  # as an engine does that is stopping
        with door.accept()[0] as asked:
            asked.recv(1 << 16)
            path.unlink()  # before it is answered, so that it asks nobody here again
            path.symlink_to("/var/run/docker.sock")
            asked.sendall(REFUSAL)
    with pytest.raises(docker.errors.NotFound):
        engine.api.inspect_container(left)


@pytest.mark.parametrize("word", [b"", b"."])
def test_what_the_engine_makes_late_is_removed_unless_the_escrow_had_nothing_under_way(
    engine: docker.DockerClient, memory: Path, image: str, word: bytes
) -> None:
    label, path = f"escrow-test-guard={uuid4().hex}", memory / "engine"
    name, _, value = label.partition("=")
    with bereft(path, label, word) as door:
        with door.accept()[0] as asked:
            for answer in NOTHING:
                asked.recv(1 << 16)
                path.unlink(missing_ok=True)
                asked.sendall(answer)
            left = engine.api.create_container(image, command=["true"], labels={name: value})["Id"]
        path.symlink_to("/var/run/docker.sock")
    kept = [each["Id"] for each in engine.api.containers(all=True, filters={"label": label})]
    assert kept == ([left] if word else [])
    for each in kept:
        engine.api.remove_container(each)


def test_a_door_that_a_killed_escrow_had_bound_is_bound_again(memory: Path, image: str) -> None:
    root, what = memory / "jobs", job("dial", door=True)
    with ContainerRuntime(root, image=image, command=COMMAND) as runtime:
        runtime.prepare(what)
        doors.Door(root / "job-1/job/door")._listener.close()  # as the kernel does for a killed one
    with ContainerRuntime(root, image=image, command=COMMAND) as runtime:
        runtime.start(what)
        with runtime.link("job-1", seconds=PATIENCE) as stream:
            stream.sendall(b"go on")
            assert stream.recv(100) == b"GO ON"
        assert runtime.wait(["job-1"], seconds=PATIENCE) == {"job-1"}
        assert runtime.status("job-1") == FINISHED
        runtime.destroy("job-1")


def test_where_no_door_can_be_is_said(tmp_path: Path) -> None:
    (tmp_path / doors.NAME).mkdir()
    with refused("runtime-unfit"):
        doors.Door(tmp_path)
