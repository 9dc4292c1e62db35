"""Attempts to reach, read, write and become what a worker must not, all made by one job of each sealing.

Meanwhile another job of the same party runs and wants to be found. The same attempts are made in a container with
nothing of the sealing, as root and in the machine's own namespaces: an attempt that fails there too proves nothing.
"""

import hashlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from escrow.runtime.base import State
from escrow.runtime.job import Job, Limits
from tests.attacks.escapes.catalogue import ATTEMPTS, DOOR, Attempt, Probe, asked
from tests.attacks.escapes.stage import HOSTILE, PATIENCE, ROWS, Ear, Stage, listening, place
from tests.servers import free_port

pytestmark = pytest.mark.engine

SECONDS = 240  # that all attempts together never need
VARIABLE = "ESCROW_CANARY"
ENGINE_SOCKETS = ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock")
CONTROL_CAPABILITIES = ("SYS_ADMIN", "SYS_PTRACE", "NET_RAW", "NET_ADMIN", "SYS_NICE", "SYSLOG", "DAC_READ_SEARCH")


@dataclass
class Played:
    """What came of the attempts.

    Attributes:
        told: attempt → outcome and words.
        friend: what the other worker found out: its own attempts, and `heard`.
        ear: what the host heard.
        unchanged: whether inputs, vault and the engine's programs are on the host as they were.
        traces: what was left on the machine.
    """

    told: dict[str, list[str]]
    friend: dict[str, Any]
    ear: list[str]
    unchanged: bool
    traces: list[str]


@contextmanager
def canary(memory: Path) -> Iterator[tuple[str, Path]]:
    """A secret that stands in the environment and the command line of a process of the escrow's, and in a vault."""
    secret = secrets.token_hex(16)
    vault = memory / "vault"
    vault.write_text(secret, encoding="ascii")
    os.environ[VARIABLE] = secret
    waiting = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", waiting, secret], stdin=subprocess.PIPE) as process:
        try:
            yield secret, vault
        finally:
            del os.environ[VARIABLE]
            assert process.stdin is not None
            process.stdin.close()


def aimed(secret: str, vault: Path, ear: Ear, **others: object) -> dict[str, object]:
    """What the hostile program is told of the host: more than anybody could guess."""
    meet = {"name": f"meet-{secret[:8]}", "port": free_port(), "key": int(secret[:6], 16)}
    return {
        "attempts": [probe.name for probe in ATTEMPTS],
        "canary": secret[::-1],
        "tcp": ear.tcp,
        "udp": ear.udp,
        "hostname": os.uname().nodename,
        "engine": ENGINE_SOCKETS,
        "vault": str(vault),
        "inputs": [],
        "volume": "none",
        "pids": [os.getpid()],
        "inits": [],
        "meet": meet,
        **others,
    }


def friendly(aim: dict[str, object], secret: str, party: str) -> Job:
    """The escrow's own worker, with a door, turned into one that wants to be found."""
    inputs = {name: (HOSTILE / name).read_bytes() for name in ("friend.py", "kit.py")}
    return Job(
        "friend",
        {"meet": aim["meet"]},
        {**inputs, "secret.txt": secret.encode()},
        ("found.json", "secret.txt"),
        Limits(memory_mib=256, results_mib=8),
        party=party,
        door=True,
    )


def engines_init() -> str:
    """Digest of the host's program that becomes a container's init."""
    found = [path for path in map(Path, ("/usr/libexec/docker-init", "/usr/bin/docker-init")) if path.exists()]
    return hashlib.sha256(b"".join(path.read_bytes() for path in found)).hexdigest()


def play(stage: Stage, memory: Path) -> Played:
    worker = ("python3", "-ISB", "/job/inputs/friend.py")
    root = memory / "jobs"
    with canary(memory) as (secret, vault), listening(secret[:20]) as ear:
        other = Stage(root, stage.image, stage.engine, stage.sealing, command=worker)
        with other.runtime:
            aim = aimed(secret, vault, ear, inits=[1])
            friend = friendly(aim, secret, other.party)
            other.start(friend)
            with other.runtime.link(friend.id, seconds=PATIENCE) as line:
                line.settimeout(PATIENCE)
                line.sendall(b"!")
                assert line.recv(1) == b"!"
                home = root / friend.id / "job"
                aim |= {"inputs": [str(home / "inputs/secret.txt"), "/job/inputs/secret.txt"]}
                aim |= {"volume": other.names(friend).volume}
                before = engines_init()
                limits = {"seconds": SECONDS, "memory_mib": 256, "results_mib": 8, "cpus": 2}
                job = other.job("attempts", aim, party=other.party, **limits)
                other.start(job)
                assert other.runtime.wait([job.id], seconds=PATIENCE + SECONDS) == {job.id}
                given = root / job.id / "job/data/rows.csv"
                seen = given.stat()
                unchanged = (given.read_bytes(), seen.st_mode & 0o7777, seen.st_nlink) == (ROWS, 0o444, 1)
                unchanged &= vault.read_text() == secret and engines_init() == before
                ran = other.end(job)
            heard = other.end(friend)
        assert heard.status.state is State.FINISHED
        return Played(ran.found(), heard.found(), ear.heard, unchanged, [*other.traces(job), *other.traces(friend)])


@pytest.fixture(scope="session")
def played(stage: Stage) -> Iterator[Played]:
    """The attempts of one sealing, made once."""
    with place() as memory:
        yield play(stage, memory)


@pytest.mark.parametrize("probe", ATTEMPTS, ids=lambda probe: probe.name)
def test_an_attempt_gets_nowhere(stage: Stage, played: Played, probe: Attempt) -> None:
    outcome, words = played.told[probe.name]
    if asked(probe, stage.sealing):
        assert outcome in {"refused", "nothing"}, words
    else:
        assert outcome != "broken", words


@pytest.mark.parametrize("probe", DOOR, ids=lambda probe: probe.name)
def test_the_door_is_for_one_call(played: Played, probe: Probe) -> None:
    outcome, words = played.friend[probe.name]
    assert outcome in {"refused", "nothing"}, words


def test_nobody_heard_anything_and_nothing_is_left(played: Played) -> None:
    assert played.ear == []
    assert played.friend["heard"] == []
    assert played.unchanged
    assert played.traces == []


# the same attempts with nothing in their way


@pytest.fixture(scope="session")
def unsealed(stages: dict[str, Stage], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What comes of the attempts in a container that shares the machine's network, processes and memory, as root."""
    stage = next(iter(stages.values()))
    folder = tmp_path_factory.mktemp("unsealed")
    for name in ("code", "data", "tmp", "results"):
        (folder / name).mkdir()
    with canary(folder) as (secret, vault), listening(secret[:20]) as ear:
        aim = aimed(secret, vault, ear)
        aim |= {"inputs": [str(vault)], "attempts": [probe.name for probe in ATTEMPTS if probe.control]}
        for name, content in stage.job("unsealed", aim).inputs.items():
            assert isinstance(content, bytes)
            (folder / name).write_bytes(content)
        (folder / "code/run").chmod(0o755)
        with befriended(aim, folder / "tmp"):
            unsealed_run(stage.engine, stage.image, folder)
    told: dict[str, list[str]] = json.loads((folder / "results/found.json").read_text(encoding="ascii"))
    return told


@contextmanager
def befriended(aim: dict[str, object], folder: Path) -> Iterator[None]:
    """The other worker, as a plain process of the machine."""
    command = [sys.executable, "-ISB", str(HOSTILE / "friend.py"), "-", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as friend:
        assert friend.stdin is not None
        assert friend.stdout is not None
        friend.stdin.write(json.dumps(aim) + "\n")
        friend.stdin.flush()
        assert friend.stdout.readline() == "listening\n"
        yield
        friend.stdin.close()


def unsealed_run(engine: docker.DockerClient, image: str, folder: Path) -> None:
    binds = [f"{folder / name}:/{name}" for name in ("code", "data", "tmp", "results")]
    binds += [f"{folder}:{folder}:ro", f"{ENGINE_SOCKETS[0]}:{ENGINE_SOCKETS[0]}"]
    host = {
        "Binds": binds,
        "NetworkMode": "host",
        "PidMode": "host",
        "IpcMode": "host",
        "CapAdd": list(CONTROL_CAPABILITIES),
        "SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"],
        "MaskedPaths": [],
        "ReadonlyPaths": [],
        "Init": True,
    }
    about = {
        "Image": image,
        "Entrypoint": ["/code/run"],
        "User": "0:0",
        "Env": [f"{VARIABLE}={os.environ[VARIABLE]}"],
        "Tty": True,
        "HostConfig": host,
    }
    create: Callable[[dict[str, object]], dict[str, str]] = engine.api.create_container_from_config
    container = create(about)["Id"]
    try:
        engine.api.start(container)
        ended = engine.api.wait(container, timeout=SECONDS)
        assert ended["StatusCode"] == 0, engine.api.logs(container).decode()
    finally:
        engine.api.remove_container(container, force=True)


@pytest.mark.parametrize("probe", [probe for probe in ATTEMPTS if probe.control], ids=lambda probe: probe.name)
def test_the_attempt_gets_somewhere_where_nothing_is_sealed(unsealed: dict[str, list[str]], probe: Attempt) -> None:
    outcome, words = unsealed[probe.name]
    assert outcome == "got", words
