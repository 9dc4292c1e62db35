"""Flower's SuperLink, TLS and node authentication included, runs the same job to the same bytes, and leaves nothing.

So does its simulation on Ray, where that is installed. Slow: Flower starts a fresh process for each message at each
node, Ray a handful of programs.
"""

import base64
import importlib.util
import math
import os
import socket
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from contracts.errors import EscrowError
from models.federated import raygrid, superlink
from models.federated.hosted import Journal, Started, Timing, environment, job_in, watched
from models.federated.superlink import Federation, private_directory, run_superlink
from models.federated.superlink_keys import LOOPBACK, write_node_key
from models.jobs import Place
from models.ports import reserved_port
from models.roles import federated
from scenarios.crowd import Crowd, train_elsewhere

PARTIES = 2
ROUNDS = 2
SECONDS = 180.0  # on a busy machine a program of Flower's needs a minute to say its first word

CROWD = Crowd(PARTIES, 40, 7, {"family": "mlp", "hidden": [8]}, {"name": "fedavg", "rounds": ROUNDS})


@pytest.fixture
def job(tmp_path: Path) -> Path:
    directory = tmp_path / "job"
    CROWD.write_job(CROWD.contract(), directory)
    return directory


@dataclass(frozen=True)
class Process:
    """What anyone who may look at a process sees of how it was started."""

    words: list[bytes]
    settings: dict[bytes, bytes]


def processes_below(pid: int) -> Iterator[tuple[int, Process | None]]:
    """What a process started, and what that started, and so on."""
    for below in Path(f"/proc/{pid}/task").glob("*/children"):
        children = []
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            children = [int(child) for child in below.read_text().split()]
        for child in children:
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended, which hides none of the others
                yield child, process(child)
                yield from processes_below(child)


def process(pid: int) -> Process | None:
    """None if it was just about to end or to become another program, and so shows nothing or half of each."""
    words, settings, again = ((Path(f"/proc/{pid}") / name).read_bytes() for name in ("cmdline", "environ", "cmdline"))
    if not words or words != again:
        return None
    pairs = (each.partition(b"=") for each in settings.split(b"\0"))
    return Process(words.split(b"\0"), {name: value for name, _, value in pairs})


def servers(seen: Iterable[Process]) -> dict[int, Process]:
    """Those who were told to listen, by their port of loopback."""
    option = b"--port="
    return {int(word[len(option) :]): each for each in seen for word in each.words if word.startswith(option)}


def asked(port: int, authority: Path | None) -> bytes:
    """What a client that asks something on a port of loopback hears: in TLS, under a certificate of this authority, or
    in the clear.
    """
    with ExitStack() as lines, suppress(ConnectionResetError):
        line = lines.enter_context(socket.create_connection((LOOPBACK, port), SECONDS))
        if authority is not None:
            tls = ssl.create_default_context(cafile=authority)
            line = lines.enter_context(tls.wrap_socket(line, server_hostname=LOOPBACK))
        line.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return line.recv(4096)
    return b""


def told_by(secret: bytes, process: Process) -> bool:
    """Whether a secret, or a line of it, stands in what a process was started with."""
    lines = [line for line in secret.splitlines() if len(line) > 16 and not line.startswith(b"-----")] or [secret]
    forms = {form for line in (secret, *lines) for form in (line, line.hex().encode(), base64.b64encode(line))}
    return any(form in there for form in forms for there in (*process.words, *process.settings.values()))


def test_the_same_bytes_as_in_one_process_and_nothing_stays(
    tmp_path: Path, nothing_left: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does any of its processes know a secret that it was not given as a file, or tell Flower of itself."""
    monkeypatch.setenv("OPERATORS_TOKEN", "which-is-none-of-theirs")
    told: list[str] = []
    seen: list[Process] = []
    secrets: dict[str, bytes] = {}
    heard: dict[int, tuple[bytes, bytes]] = {}
    before = {pid for pid, _ in processes_below(os.getpid())}

    def look(words: str) -> None:
        told.append(words)
        seen.extend(found for pid, found in processes_below(os.getpid()) if found and pid not in before)
        for path in (nothing_left[-1] / "secret", *nothing_left[-1].glob("*.key")):
            secrets[path.name] = path.read_bytes()
        for port in servers(seen).keys() - heard.keys():
            heard[port] = asked(port, nothing_left[-1] / "ca.pem"), asked(port, None)

    job = tmp_path / "job"
    timing = train_elsewhere(CROWD, CROWD.contract(), run_superlink, job, look).timing
    programs = {Path(os.fsdecode(word)).name for each in seen for word in each.words[:3]}
    assert programs >= {"flower-superlink", "flower-supernode", "flower-superexec", "flwr"}
    assert [(sealed[:5], clear) for sealed, clear in heard.values()] == (1 + PARTIES) * [(b"HTTP/", b"")]
    assert all(b"--isolation=process" in each.words for each in servers(seen).values())
    [link] = [each for each in servers(seen).values() if b"--enable-supernode-auth" in each.words]
    assert b"--disable-runtime-dependency-installation" in link.words
    assert len(secrets) == 2 + PARTIES
    for each in seen:
        assert each.settings[b"FLWR_TELEMETRY_ENABLED"] == b"0", each.words
        assert each.settings[b"FLWR_DISABLE_UPDATE_CHECK"] == b"1", each.words
        assert b"OPERATORS_TOKEN" not in each.settings, each.words
        assert not {b"--insecure", b"--allow-runtime-dependency-installation"} & set(each.words)
        assert [name for name, secret in secrets.items() if told_by(secret, each)] == [], each.words
    require_same_as_alone(job, told, timing)


@pytest.fixture
def ray() -> None:
    """Ray is installed, or has to be."""
    if importlib.util.find_spec("ray") is None and os.environ.get("ESCROW_REQUIRE_RAY") != "1":
        pytest.skip("Ray, the extra `simulation`, is not installed")


@pytest.mark.usefixtures("ray", "nothing_left")
def test_ray_makes_the_same_bytes_and_nothing_of_it_stays(tmp_path: Path) -> None:
    told: list[str] = []
    timing = train_elsewhere(CROWD, CROWD.contract(), raygrid.run_ray, tmp_path / "job", told.append).timing
    require_same_as_alone(tmp_path / "job", told, timing)


def require_same_as_alone(job: Path, told: list[str], timing: Timing) -> None:
    """See that an engine has made what one process makes, and has told of each round once."""
    alone = job.parent / "alone"
    alone.mkdir()
    assert told.count(f"round {ROUNDS} of {ROUNDS}") == 1
    federated.run(job_in(job), Place(job / "inputs", alone, job / "door"), told.append)
    one, other = ((made / "model" / "model.onnx").read_bytes() for made in (job / "results", alone))
    assert one == other
    assert len(timing.rounds) == ROUNDS
    assert 0 < sum(timing.rounds) < timing.seconds


def test_a_node_whose_key_is_not_on_the_roster_is_refused_and_the_run_ends_in_time(
    job: Path, nothing_left: list[Path]
) -> None:
    with private_directory() as private, Federation.opened(private) as federation:
        for name in ("north", "stranger"):
            write_node_key(private / f"{name}.key")
        stranger = federation.join("stranger", private / "stranger.key", job)
        federation.register("north", private / "north.pub")  # meanwhile, for both take seconds
        assert stranger.wait(SECONDS) not in {None, 0}
        assert "SuperNode ID" not in stranger.log.read_text()  # what one that was admitted says

        late = federation.join("north", private / "north.key", job)
        with pytest.raises(EscrowError, match="longer than it may") as error:
            watched(late, federation.running[:2], Journal(private / "journal.jsonl"), lambda words: None, until=0)
        assert error.value.code == "limit-time"
        assert (private / "north.key").exists()  # what is gone afterwards


def test_an_engine_that_fails_without_a_word_is_lost(tmp_path: Path) -> None:
    def run(code: int) -> None:
        program = [sys.executable, "-c", f"raise SystemExit({code})"]
        process = Started(program, environment=environment(tmp_path), log=tmp_path / "log")
        watched(process, [], Journal(tmp_path / "journal.jsonl"), lambda words: None, until=math.inf)

    run(0)
    with pytest.raises(EscrowError, match="failed without saying why") as error:
        run(3)
    assert error.value.code == "worker-lost"


def test_a_reserved_port_is_for_servers_that_are_told_it() -> None:
    with reserved_port() as port:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((LOOPBACK, port))
        for _ in range(2):
            with socket.socket() as early:
                assert early.connect_ex((LOOPBACK, port)) != 0
            with socket.create_server((LOOPBACK, port)):
                socket.create_connection((LOOPBACK, port), SECONDS).close()


def test_what_was_noted_before_the_end_is_told_however_late_one_looks(tmp_path: Path) -> None:
    ended = Started([sys.executable, "-c", ""], environment=environment(tmp_path), log=tmp_path / "log")
    assert ended.wait(SECONDS) == 0
    journal, told = Journal(tmp_path / "journal.jsonl"), list[str]()
    for words in ("round 1 of 2", "round 2 of 2"):
        journal.tell(words)
    watched(ended, [], journal, told.append, until=0)
    assert told == ["round 1 of 2", "round 2 of 2"]


DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
held = b"x" * (1 << 26)  # to give it back takes the kernel a while
print(flush=True)
time.sleep(3600)
"""
ITS_PARENT = """
import pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
pathlib.Path("child").write_text(str(child.pid))
"""


def test_who_was_left_behind_by_what_has_ended_is_gone_when_that_was_ended(tmp_path: Path) -> None:
    program = [sys.executable, "-c", ITS_PARENT, DEAF]
    started = Started(program, environment=environment(tmp_path), log=tmp_path / "log")
    assert started.wait(SECONDS) == 0
    child = Path("/proc", (tmp_path / "child").read_text(), "status")
    assert "State:\tS" in child.read_text()
    started.end()
    with suppress(FileNotFoundError, ProcessLookupError):  # nobody has waited for it, or somebody has
        assert "State:\tZ" in child.read_text()


@pytest.mark.parametrize("engine", [raygrid.run_ray, run_superlink])
def test_a_job_that_has_results_is_not_run_again(
    engine: Callable[[Path], Timing], job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results of another run can never be taken for this one's."""
    monkeypatch.setattr(raygrid.importlib.util, "find_spec", lambda name: True)
    stale = job / "results" / "model" / "model.onnx"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of another run")
    with pytest.raises(EscrowError) as error:
        engine(job)
    assert error.value.code == "file-unwritable"
    assert stale.read_bytes() == b"of another run"


def test_without_ray_the_error_says_how_to_get_it(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raygrid.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EscrowError) as error:
        raygrid.run_ray(job)
    assert error.value.code == "extra-missing"
    assert "pip install 'model-escrow[simulation]'" in error.value.hint


@pytest.fixture
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The private directories; afterwards no process knows them and they are gone."""
    made: list[Path] = []

    def noted(**how: object) -> str:
        path = Path(original(**how))
        made.append(path)
        return str(path)

    original = superlink.tempfile.mkdtemp
    monkeypatch.setattr(superlink.tempfile, "mkdtemp", noted)
    yield made
    assert made
    assert not [path for path in made if path.exists()]
    assert not [line for line in _commands() if any(str(path) in line for path in made)]


def _commands() -> list[str]:
    found = []
    for process in Path("/proc").iterdir():
        try:
            found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            continue
    return found
