"""`serve` as a process of its own: banks over real TLS, signals, kills, and what its log and metrics tell."""

import json
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from shutil import copytree
from typing import Any, Self
from urllib.error import HTTPError

import pytest

from contracts.entries import read_leaf
from contracts.protocol import escrow_pb2 as pb
from contracts.statements import read
from escrow.audit import audit
from escrow.channel import operating
from escrow.core import clock
from escrow.daemon import FILES_AT_MOST
from escrow.home import open_key
from escrow.ledger import Ledger
from escrow.runtime.process import ProcessRuntime
from parties.client import Client
from parties.deposit import seal_table
from parties.enrol import enrol, meet
from parties.identity import Identity, pinned
from parties.release import fetch, verify_release
from parties.remote import RemoteEscrow
from parties.session import connect
from scenarios import tiny
from tests.wire import signal_elsewhere
from tests.wire import until as wait_until

HERE = Path(__file__).parent
QUICK = (sys.executable, str(HERE / "quick_worker.py"))
WAITS = (sys.executable, "-S", "-c", "import signal; signal.pause()")
SECONDS = 60


class Child:
    """A serving process, and its log as it grows."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            self._events.put(json.loads(line))
        self._events.put({"event": None})

    def until(self, event: str) -> dict[str, Any]:
        """The next event of that name."""
        while (found := self._events.get(timeout=SECONDS))["event"] != event:
            assert found["event"] is not None, self.lines
        return found

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(SECONDS)
        self._thread.join()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture(scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An escrow with two banks, and a contract that north has approved, by the real clock."""
    folder = tmp_path_factory.mktemp("world")
    with ProcessRuntime(folder / "jobs", command=QUICK, packages=()) as runtime:
        consortium = tiny.founded(folder / "world", runtime, clock, banks=("north", "harbour"))  # type: ignore[arg-type]
        digest = tiny.proposed(consortium)
        consortium.approve(digest, "north")
        consortium.core.close()
    (folder / "world" / "digest").write_text(digest)
    return folder / "world"


class World:
    """A copy of an escrow and its banks, which start it and connect to it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.escrow = folder, folder / "escrow"
        self.digest = (folder / "digest").read_text()
        self.fingerprint = open_key(self.escrow)[0].key_id

    def serve(self, *worker: str) -> Child:
        command = [sys.executable, HERE / "serve_child.py", self.escrow, self.folder / "jobs", *(worker or QUICK)]
        return Child([str(each) for each in command])

    def dial(self, name: str, ready: dict[str, Any]) -> Client:
        """A bank's connection; it enrols for a TLS certificate first."""
        home = self.folder / "banks" / name
        identity = Identity.open(home) if home.exists() else Identity.create(home, name)
        card, connection = meet(home, f"{ready['host']}:{ready['enrolment']}", self.fingerprint)
        assert enrol(home, identity, card, connection)
        return Client(home, identity, connect(home, identity, clock()))

    def kinds(self) -> Counter[str]:
        """What stands on the ledger, the escrow being closed."""
        ledger = Ledger(f"sqlite:///{self.escrow / 'ledger.db'}")
        with closing(ledger):
            found = [read(read_leaf(data).envelope.payload) for data in ledger.leaves()]
        return Counter(each.kind for each in found)  # type: ignore[attr-defined]


@pytest.fixture
def world(_world: Path, tmp_path: Path) -> World:
    return World(copytree(_world, tmp_path / "world"))


def remote(bank: Client) -> RemoteEscrow:
    assert isinstance(bank.escrow, RemoteEscrow)
    return bank.escrow


def until(bank: Client, kind: str) -> None:
    """Wait until this has happened to a contract of the bank's."""
    assert any(each.kind == kind for each in bank.escrow.watch(0))


def got(ready: dict[str, Any], path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{ready['metrics']}{path}", timeout=SECONDS) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_contract_is_approved_over_the_network_and_runs_by_itself(world: World, tmp_path: Path) -> None:
    with world.serve() as child:
        ready = child.until("ready")
        where = json.loads((world.escrow / "serving.json").read_text())
        assert where == {name: ready[name] for name in ("pid", "host", "main", "enrolment", "metrics")}
        bank = world.dial("harbour", ready)
        sealed = seal_table(tiny.table("harbour", "train", {3: 40}, seed=7), "train", tiny.SCHEMA, bank.folder)
        bank.deposit([sealed])
        bank.approve(world.digest)
        until(bank, "run-released")
        release = fetch(bank, world.digest, tmp_path / "release")
        verify_release(release, bank.identity, pinned(bank.home))
        remote(bank).close()
        child.until("run-ended")
        metrics = got(ready, "/metrics")[1]
        assert got(ready, "/healthz") == (200, "ok\n")
        assert got(ready, "/readyz") == (200, "ready\n")
        assert got(ready, "/else")[0] == 404
        assert child.end() == 0
        assert list(world.escrow.glob("serving.json")) + list(world.escrow.glob("operator.sock")) == []
    for line in (
        'escrow_calls_total{code="ok",verb="submit"}',
        'escrow_call_seconds_bucket{le="+Inf",verb="deposit"} 1.0',
        'escrow_contracts{state="open"} 0.0',
        'escrow_runs_total{outcome="decided"} 1.0',
        "escrow_runs_running 0.0",
        "escrow_bugs_total 0.0",
        'escrow_certificate_days{certificate="server"}',
        "process_resident_memory_bytes",
    ):
        assert line in metrics
    assert not any(each in metrics for each in ("harbour", "north", "released", world.digest[7:]))
    assert world.kinds()["run-released"] == 1
    _no_secrets("".join(child.lines), world)


def _no_secrets(log: str, world: World) -> None:
    """The log of a whole story holds nothing that was sent, no key and no name of a party's file."""
    lines = [json.loads(line) for line in log.splitlines()]
    assert {line["level"] for line in lines} <= {"info", "warning"}
    assert all(line["time"].endswith("+00:00") for line in lines)
    assert {"ready", "call", "run-began", "run-ended", "draining", "stopped"} <= {line["event"] for line in lines}
    files = [path for path in world.folder.rglob("*") if path.is_file()]
    names = {path.name for path in files if path.is_relative_to(world.folder / "banks")} - {"escrow.json"}
    secrets = {line for path in files if path.suffix == ".pem" for line in path.read_text().splitlines()}
    secrets |= {path.read_text() for path in (world.escrow / "vault" / "keys").iterdir() if path.suffix != ".erased"}
    for secret in {*names, *secrets, "AGE-SECRET", "PRIVATE KEY", "BEGIN", "harbour-train-", "Traceback", "sha256:age"}:
        assert not secret or secret not in log


def test_sigterm_lets_a_run_go_and_the_next_process_takes_it_up(world: World) -> None:
    """And it is heard whichever thread the system hands it to."""
    with world.serve(*WAITS) as child:
        bank = world.dial("harbour", child.until("ready"))
        bank.approve(world.digest)
        until(bank, "run-started")
        watching = bank.escrow.watch(0)
        assert next(watching).kind == "contract-proposed"
        assert child.end() == 0
        remote(bank).close()
        assert [json.loads(line)["event"] for line in child.lines[-3:]].count("stopped") == 1
        assert any('"outcome": "left"' in line for line in child.lines)
    assert world.kinds()["run-failed"] == 0
    with world.serve() as child:
        child.until("run-began")
        child.until("run-ended")
        signal_elsewhere(child.process.pid, signal.SIGTERM)
        child.until("draining")
        assert child.wait() == 0
    assert [world.kinds()[kind] for kind in ("run-started", "run-released", "run-failed")] == [1, 1, 0]


def test_a_killed_escrow_goes_on_where_it_was(world: World) -> None:
    with world.serve(*WAITS) as child:
        bank = world.dial("harbour", child.until("ready"))
        bank.approve(world.digest)
        until(bank, "run-started")
        remote(bank).close()
        assert child.end(signal.SIGKILL) == -signal.SIGKILL
    assert (world.escrow / "operator.sock").exists()
    with world.serve(*WAITS) as child:
        child.until("run-began")
        wait_until(lambda: any(world.folder.glob("jobs/*/started")), seconds=SECONDS)  # told before it has begun
        with operating(world.escrow) as verbs:
            [found] = verbs("runs")["runs"]
            assert (found["contract"], found["state"], found["run"]) == (world.digest, "running", 1)
        with operating(world.escrow) as verbs:
            verbs("abort", contract=world.digest)
        assert child.until("run-ended")["outcome"] == "failed"
        assert child.end() == 0
    assert [world.kinds()[kind] for kind in ("run-started", "run-failed", "key-erased")] == [1, 1, 1]
    audit(world.escrow)


def test_an_escrow_may_open_as_many_files_as_the_system_lets_it(world: World) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        child = world.serve()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with child:
        ready = child.until("ready")
        allowed = FILES_AT_MOST if hard == resource.RLIM_INFINITY else min(hard, FILES_AT_MOST)
        assert resource.prlimit(child.process.pid, resource.RLIMIT_NOFILE) == (allowed, hard)
        with ExitStack() as idle:
            for _ in range(300):
                idle.enter_context(socket.create_connection((ready["host"], ready["main"])))
            bank = world.dial("north", ready)
            assert bank.escrow.info()
            remote(bank).close()
        assert child.end() == 0


def test_a_second_process_is_refused_and_a_second_signal_ends_the_first_at_once(world: World) -> None:
    with world.serve() as child:
        ready = child.until("ready")
        with world.serve() as second:
            assert second.wait() == 1
            assert second.process.stdout is not None
            assert second.process.stdout.read() == "escrow-busy\n"
        assert got(ready, "/readyz")[0] == 200
        bank = world.dial("harbour", ready)
        call = _slow_deposit(remote(bank))
        wait_until(lambda: any(world.escrow.glob("uploads/harbour/*.part")), seconds=SECONDS)  # it keeps the drain up
        child.process.send_signal(signal.SIGINT)
        child.until("draining")
        assert child.end() == -signal.SIGTERM
        call.cancel()
        remote(bank).close()


def _slow_deposit(escrow: RemoteEscrow) -> Any:
    """A deposit that has begun and does not go on."""
    over = threading.Event()

    def messages() -> Iterator[pb.DepositRequest]:
        yield pb.DepositRequest(begin=pb.DepositBegin(upload="0" * 32, offset=0))
        over.wait(SECONDS)

    call = escrow.stub.Deposit.future(messages())
    call.add_done_callback(lambda _: over.set())
    return call
