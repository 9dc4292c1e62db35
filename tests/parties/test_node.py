"""A bank's node end to end: `party` processes, an escrow process over TLS, workers as plain processes.

Whatever is killed or cut, the contract is released, the rows have never left, and nothing of them is left in memory.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

import pyrage
import pytest
from pyrage import x25519

from contracts.computation import JointTraining
from contracts.errors import EscrowError
from contracts.package import GRAPH
from escrow.authority import Authority
from escrow.core import clock
from escrow.runtime.process import ProcessRuntime, code_digest, memory_root, package_folders
from models.table import Prepared, read_prepared
from parties.certificates import Connection, connection, remember
from parties.premises import Premises
from parties.sealing import Deposit
from scenarios import tiny
from scenarios.consortium import Consortium
from tests.servers import free_port
from tests.wire import CutLine, Tap, credentials, signal_elsewhere, until

HERE = Path(__file__).parent
WORKER = HERE.parent / "escrow" / "sealed_worker.py"
SERVE = HERE.parent / "escrow" / "serve_child.py"
SECONDS = 120.0  # that nothing should need
FLOOR = {"kind": "floor", "party": "north", "metric": "average-precision", "at-least": 0.01, "min-positives": 30}


def tables(bank: str) -> tuple[Prepared, Prepared]:
    """North's tables."""
    return tiny.table(f"quick-{bank}", "train", {3: 60}), tiny.table(f"quick-{bank}", "holdout", {3: 30, 4: 30})


class Node:
    """A `party` process of north's that tells what it does."""

    def __init__(self, home: Path, gates: Path, words: tuple[str, ...]) -> None:
        command = [sys.executable, "-P", str(HERE / "party_child.py"), str(gates), *words, "--home", str(home)]
        self._errors = (home.parent / "node-errors").open("w+")
        self.process = subprocess.Popen(
            [*command, "--format", "jsonl"], stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()
        self.told: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._errors:
            self.kill()

    def until(self, kind: str, **data: object) -> dict[str, Any]:
        """Wait until it tells something of this kind, with these data."""
        while (told := self._next()) is not None:
            if told.get("kind") == kind and {**told, **data} == told:
                return told
        raise AssertionError((self.told, self.errors()))

    def end(self) -> dict[str, Any]:
        """Its envelope, once it has ended."""
        while self._next() is not None:
            pass
        self.process.wait(SECONDS)
        assert "Traceback" not in self.errors()
        envelope = self.told.pop()
        assert envelope["exit_code"] == self.process.returncode
        return envelope

    def kinds(self) -> list[str]:
        return [told["kind"] for told in self.told]

    def rounds(self) -> list[int]:
        """Those that it was asked for."""
        return [told["round"] for told in self.told if told["kind"] == "round"]

    def errors(self) -> str:
        self._errors.seek(0)
        return self._errors.read()

    def receives(self, *numbers: signal.Signals) -> None:
        """All of these reach it at once: while it stands still, for it could have ended before the last."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        for number in (*numbers, signal.SIGCONT):
            self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(SECONDS)
        self._reading.join()

    def _next(self) -> dict[str, Any] | None:
        """What it tells next; None if that was all."""
        line = self._lines.get(timeout=SECONDS)
        if line is not None:
            self.told.append(json.loads(line))
        return None if line is None else self.told[-1]

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)


class Gates:
    """Holds north's workers back before they answer in some round: nothing goes on while a test does something."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def shut(self, *rounds: int) -> None:
        for number in rounds:
            os.mkfifo(self.folder / str(number))

    def take_away(self, number: int) -> None:
        """Whoever comes now goes on; whoever waits there goes on waiting."""
        (self.folder / str(number)).unlink()

    def open(self, number: int) -> None:
        """Whoever waits there goes on, once somebody does."""

        def opened() -> bool:
            with suppress(OSError):  # nobody is there
                os.close(os.open(self.folder / str(number), os.O_WRONLY | os.O_NONBLOCK))
                return True
            return False

        until(opened, seconds=SECONDS)
        self.take_away(number)


@dataclass(frozen=True)
class Secret:
    """A bank's training rows, in the forms in which somebody could have them."""

    slices: list[bytes]  # of the file, which is compressed; not what the footers of all tables have alike
    features: list[bytes]  # of each row, as a worker holds them
    cards: list[bytes]

    @classmethod
    def of(cls, train: Deposit, others: Iterable[Deposit]) -> Self:
        file, alike = _file(train), b"".join(map(_file, others))
        slices = [file[at : at + 64] for at in range(0, len(file) - 64, 64)]
        table = read_prepared(BytesIO(file))
        return cls(
            [each for each in slices if each not in alike],
            [row.tobytes() for row in table.features],
            [card.encode() for card in set(table.groups.tolist())],
        )

    def seen_in(self, data: bytes) -> set[str]:
        """The forms in which some of it is in these bytes."""
        return {name for name, parts in vars(self).items() if any(part in data for part in parts)}


def _file(deposit: Deposit) -> bytes:
    return pyrage.decrypt(deposit.path.read_bytes(), [x25519.Identity.from_str(deposit.identity)])


class Town:
    """Two banks and an escrow process; north's training rows stay with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gates = Gates(folder / "gates")
        with ProcessRuntime(folder / "jobs", command=(sys.executable, str(WORKER)), packages=(), capacity=2) as runtime:
            self.consortium: Consortium = tiny.founded(
                folder / "consortium",
                runtime,
                clock,  # type: ignore[arg-type]
                banks=("harbour", "north"),
                at_home=("north",),
                exchanged={"north": tables("north")},
                wire="grpc",
            )
            self.home = self.consortium.banks["north"].home
            self.port = free_port()
            self.escrow: subprocess.Popen[bytes] | None = None

    def propose(self, *approving: str, rounds: int = 4, **terms: Any) -> str:
        expires = self.consortium.draft(model={}, method={"name": "pooled"})["limits"]["expires"]
        document = self.consortium.draft(
            model={"family": "logistic"},
            method={"name": "fedavg", "rounds": rounds, "round-seconds": 600},
            limits={"expires": expires, "retries": 3},
            release=[FLOOR],
            **terms,
        )
        digest = self.consortium.propose(self.consortium.contract(document))
        self.consortium.approve(digest, *approving)
        return digest

    def close(self) -> None:
        """The banks' and the escrow's part in this process is over."""
        if self.consortium.server is not None:
            self.consortium.close()
            self.consortium.server = None

    def serve(self) -> None:
        """Start the escrow, or start it again where it was."""
        self.close()
        where = [self.port, 0, self.consortium.directory / "escrow", self.folder / "jobs"]
        worker = [sys.executable, WORKER]
        command = [sys.executable, "-P", SERVE, "--ports", *where, *worker]
        with (self.folder / "escrow.log").open("a") as log:
            self.escrow = subprocess.Popen([str(each) for each in command], stdout=log, stderr=log)
        until(self._answers, seconds=SECONDS)
        remember(self.home, replace(connection(self.home), address=f"127.0.0.1:{self.port}"))

    def _answers(self) -> bool:
        assert self.escrow is not None
        assert self.escrow.poll() is None, (self.folder / "escrow.log").read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.escrow is not None:
            self.escrow.send_signal(how)
            self.escrow.wait(SECONDS)
            self.escrow = None

    def node(self, *words: str) -> Node:
        return Node(self.home, self.gates.folder, words)

    def opened(self, digest: str) -> bytes:
        """All that the escrow and its jobs hold now, one after the other: as it is, and decrypted with any key of all.

        Among the keys is the contract's run key, as long as there is one.
        """
        escrow = self.consortium.directory / "escrow"
        deposits = [each.identity for made in self.consortium.deposits.values() for each in made]
        run = [path.read_text() for path in (escrow / "vault" / "keys").glob(digest[7:])]
        keys = [x25519.Identity.from_str(each) for each in deposits + run]
        keys += [bank.identity.age for bank in self.consortium.banks.values()]
        files = [path for root in (escrow, self.folder / "jobs") for path in root.rglob("*") if path.is_file()]
        contents = []
        for path in (*files, self.folder / "escrow.log"):
            with suppress(FileNotFoundError):  # it was removed meanwhile
                contents.append(path.read_bytes())
        for each in list(contents):
            with suppress(pyrage.DecryptError):
                contents.append(pyrage.decrypt(each, keys))
        return b"".join(contents)

    def left(self) -> list[Path]:
        """What is in memory of north's nodes."""
        base = memory_root(self.home)
        return [each for root in base.parent.glob(f"{base.name}-node*") for each in root.iterdir()]


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    town = Town(tmp_path)
    try:
        yield town
    finally:
        town.stop()
        town.close()
        assert town.left() == []


def test_rows_stay_at_home_and_the_model_is_released(town: Town) -> None:
    """Nothing of a row is in what the node says, whose line is tapped, or anywhere at the escrow, opened with all keys.

    What the escrow was given of harbour's rows, which do not stay at home, is found there in the same way.
    """
    digest = town.propose("harbour", "north")
    consortium = town.consortium
    every = [each for made in consortium.deposits.values() for each in made]
    trains = [consortium.deposits[name][0] for name in ("north", "harbour")]
    north, harbour = (Secret.of(train, [each for each in every if each != train]) for train in trains)
    held = credentials(consortium.banks["north"], clock())
    shown = Authority.open(consortium.directory / "escrow").server(clock())
    town.serve()
    town.gates.shut(4)
    where = connection(town.home)
    with Tap(where.address, shown, held, town.folder) as tap:
        remember(town.home, Connection(tap.address, where.enrolment))
        with town.node("join", digest[7:15]) as node:
            node.until("round", round=4)
            amid = town.opened(digest)
            town.gates.open(4)
            ending = node.end()
    town.stop()  # so that all is done that follows a release
    assert (ending["exit_code"], ending["data"]["state"], ending["data"]["verdict"]) == (0, "released", "released")
    assert node.kinds().count("begun") == 1
    assert node.rounds() == [1, 2, 3, 4]
    assert digest.encode() in tap.heard
    assert "slices" in harbour.seen_in(amid)
    assert [north.seen_in(each) for each in (bytes(tap.heard), amid, town.opened(digest))] == [set(), set(), set()]


def test_a_node_that_is_stopped_leaves_nothing_and_goes_on_when_it_is_started_again(town: Town) -> None:
    digest = town.propose("harbour", "north")
    town.serve()
    town.gates.shut(2)
    with town.node("join", digest[7:]) as node:
        node.until("round", round=2)
        node.receives(signal.SIGHUP, signal.SIGTERM, signal.SIGINT)  # nobody's patience leaves plaintext
        assert node.end()["data"]["code"] == "interrupted"
    assert town.left() == []
    town.gates.take_away(2)
    with town.node("join", digest[7:]) as node:
        assert node.end()["data"]["state"] == "released"
    assert node.rounds() == [2, 3, 4]


def test_a_node_that_is_killed_in_any_round_goes_on_there_to_the_same_model(
    town: Town, call: Callable[..., tuple[int, str, str]]
) -> None:
    """In round 0, before the first, it had answered nothing yet: that costs no attempt.

    Whoever goes on need not be the same command: one of them is `party start`.
    """
    undisturbed = town.propose("harbour", "north", rounds=3, title="Undisturbed")
    digest = town.propose("harbour", "north", rounds=3)
    town.serve()
    with town.node("join", undisturbed[7:]) as node:
        assert node.end()["data"]["state"] == "released"
    for number, attempt in enumerate((1, 1, 2, 3)):
        town.gates.shut(number)
        with town.node(*(("start",) if number == 2 else ("join", digest[7:]))) as node:
            assert node.until("begun")["attempt"] == attempt
            until(lambda: town.left() != [], seconds=SECONDS)
            if number:
                node.until("round", round=number)
            node.kill()
        assert node.rounds() == ([max(number - 1, 1), number] if number > 1 else [1] * number)
        assert town.left() != []
        town.gates.take_away(number)
    with town.node("join", digest[7:]) as node:
        assert node.end()["data"]["state"] == "released"
    assert node.rounds() == [3]
    models = []
    for each in (undisturbed, digest):
        into = town.folder / each[7:15]
        code, _, err = call("release", "fetch", each, "--into", into, "--home", town.home)
        assert code == 0, err
        models.append((into / GRAPH).read_bytes())
    assert models[0] == models[1]


def test_an_escrow_that_is_killed_finds_its_nodes_again(town: Town) -> None:
    digest = town.propose("harbour", "north")
    town.serve()
    town.gates.shut(3)
    with town.node("join", digest[7:]) as node:
        node.until("round", round=3)
        town.stop(signal.SIGKILL)
        node.until("reconnecting")
        town.gates.take_away(3)
        town.serve()
        assert node.end()["data"]["state"] == "released"
    assert node.rounds() == [1, 2, 3, 3, 4]  # it goes on at the last whole round, with a new worker


def test_a_connection_that_is_cut_costs_neither_worker_nor_attempt(town: Town) -> None:
    digest = town.propose("harbour", "north")
    town.serve()
    town.gates.shut(1, 3)
    where = connection(town.home)
    with CutLine(where.address, []) as line:
        remember(town.home, Connection(line.address, where.enrolment))
        with town.node("join", digest[7:]) as node:
            for number in (1, 3):
                node.until("round", round=number)
                line.cut()
                node.until("reconnecting")
                town.gates.open(number)
            assert node.end()["data"]["state"] == "released"
    assert node.kinds().count("begun") == 1
    assert node.rounds() == [1, 2, 3, 4]


def test_other_rows_than_were_committed_are_refused_before_anything_is_answered(town: Town) -> None:
    digest = town.propose("harbour", "north")
    train, _ = town.consortium.deposits["north"]
    other = Deposit.load(next(town.consortium.banks["harbour"].folder.glob(f"{commitment(town, 'harbour')}.json")))
    theirs = pyrage.decrypt(other.path.read_bytes(), [x25519.Identity.from_str(other.identity)])
    mine = x25519.Identity.from_str(train.identity).to_public()
    train.path.write_bytes(pyrage.encrypt(theirs, [mine]))
    town.serve()
    with town.node("join", digest[7:]) as node:
        ending = node.end()
    assert (ending["exit_code"], ending["data"]["state"], ending["data"]["reason"]) == (
        1,
        "failed",
        "commitment-mismatch",
    )
    assert [told["code"] for told in node.told if told["kind"] == "failed"] == ["commitment-mismatch"]
    assert "round" not in node.kinds()


def commitment(town: Town, bank: str) -> str:
    return town.consortium.deposits[bank][0].commitment.removeprefix("sha256-salted:")


def test_what_was_not_approved_here_or_is_other_code_is_never_run(
    town: Town, call: Callable[..., tuple[int, str, str]]
) -> None:
    digest = town.propose("harbour")
    approved = town.propose("harbour", "north", title="Approved")
    banks = town.consortium.banks

    def refused(*words: str, bank: str = "north") -> str:
        _, out, _ = call("join", *words, "--home", banks[bank].home, "--format", "jsonl")
        (envelope,) = out.splitlines()  # so it told nothing before it was refused
        return str(json.loads(envelope)["data"]["code"])

    assert refused(digest) == "approval-missing"
    assert refused("sha256:" + 64 * "0") == "contract-unknown"
    assert refused(approved, "--sealing", "gvisor") == "usage"
    assert refused(approved) == "worker-unknown"  # this process has another one than the escrow of these tests
    assert refused(approved, bank="harbour") == "node-refused"
    train, _ = town.consortium.deposits["north"]
    train.path.rename(train.path.with_suffix(".away"))
    assert refused(approved) == "deposit-unknown"


def test_started_once_it_joins_whatever_is_approved(town: Town) -> None:
    first = town.propose("harbour", "north", title="First")
    town.propose("harbour", title="Not approved here")
    second = town.propose("harbour", "north", title="Second")
    town.serve()
    town.gates.shut(1)
    with town.node("start", "--at-once", "1") as node:
        node.until("started")
        assert node.until("queued")["contract"] in {first, second}
        with town.node("join", first) as another:
            assert another.end()["data"]["code"] == "node-busy"
        town.gates.open(1)
        ended = [node.until("ended") for _ in range(2)]
        signal_elsewhere(node.process.pid, signal.SIGTERM)  # which thread gets it is the system's choice
        assert node.end()["data"] == {"joined": 2}
    assert {each["contract"]: each["state"] for each in ended} == {first: "released", second: "released"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what belongs to another user")
def test_what_another_user_put_into_memory_is_left_alone_and_told(tmp_path: Path) -> None:
    base = memory_root(tmp_path)
    mine, theirs = base.with_name(f"{base.name}-node"), base.with_name(f"{base.name}-node-container-x")
    computation = JointTraining.model_validate(
        {
            "kind": "joint-training",
            "worker": code_digest(package_folders("models", "contracts")),
            "model": {"family": "logistic"},
            "method": {"name": "fedavg"},
            "sealing": "none",
        },
        by_alias=True,
    )
    try:
        for each in (mine, theirs):
            each.mkdir()
            os.chown(each, 65534, 65534)
        with Premises.opened(tmp_path) as premises, pytest.raises(EscrowError) as caught:
            premises.runtime(computation)
        assert theirs.exists()
        mine.rmdir()
        with Premises.opened(tmp_path) as premises:
            assert premises.runtime(computation).sealing == "none"
    finally:
        theirs.rmdir()
        if mine.exists():
            mine.rmdir()
    assert caught.value.code == "runtime-unfit"
    assert "another user" in caught.value.message


def test_no_contract_is_run_less_sealed_than_it_says(tmp_path: Path) -> None:
    computation = JointTraining.model_validate(
        {
            "kind": "joint-training",
            "worker": "sha256:" + 64 * "0",
            "model": {"family": "logistic"},
            "method": {"name": "fedavg"},
            "sealing": "container",
        },
        by_alias=True,
    )
    with Premises.opened(tmp_path) as premises, pytest.raises(EscrowError) as caught:
        premises.runtime(computation, "none")
    assert caught.value.code == "usage"
