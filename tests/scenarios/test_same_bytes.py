"""A contract's jobs make the same bytes as plain processes, sealed, and sealed with one of them killed in mid-training.

Sealed they are split as the product splits them: each party's rows apart, and whoever talks over the escrow's relay.
"""

import io
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import docker
import pytest

from contracts.computation import JointTraining
from contracts.contract import Contract
from contracts.frames import HEADER
from contracts.package import GRAPH, MANIFEST
from escrow.core import clock
from escrow.gangs import RunningGang, TrainingAttempt
from escrow.jobs import assembled, stage_gangs
from escrow.nodes import Nodes
from escrow.runtime.base import Runtime, Sealing
from escrow.runtime.confinement import Names
from escrow.runtime.docker import ContainerRuntime
from escrow.runtime.images.engine import runtimes
from escrow.runtime.job import Job
from escrow.runtime.process import ProcessRuntime
from escrow.sealing import Seal
from escrow.stagejobs import Deposited, Gang
from models.table import write_prepared
from parties import nodes as banknodes
from parties import premises
from parties.conditions import Conditions, Session
from parties.premises import Premises
from parties.release import fetch
from scenarios import tiny
from scenarios.consortium import Consortium
from tests.engine import leftovers
from tests.escrow.pretended import nothing_left

pytestmark = pytest.mark.engine

BANKS = ("north", "harbour")
KILLED, IN_ROUND = "harbour", 2
FEDAVG = {"name": "fedavg", "rounds": 3}
PATIENCE = 300.0  # seconds that no stage should need

Made = Mapping[str, Mapping[str, bytes]]


# what the jobs of a contract make


def performed(runtime: Runtime, contract: Contract, like: Contract) -> Made:
    """The raw outputs of a contract's stages, with the seed and the digest of another, which are all that differs."""
    made: dict[str, dict[str, bytes]] = {}
    for stage in contract.stages():
        gangs = stage_gangs(contract, stage, 1)
        with ThreadPoolExecutor(len(gangs) or 1) as threads:
            parts = [threads.submit(played, runtime, stage, gang, like, made) for gang in gangs]
        made[stage] = {name: output for part in parts for name, output in part.result().items()}
    return made


def played(runtime: Runtime, stage: str, gang: Gang, like: Contract, made: Made) -> Mapping[str, bytes]:
    """What one gang makes of the tables and of what earlier stages have made."""
    lead = stage_gangs(like, "train", 1)[0].lead.spec
    common = {name: lead[name] for name in ("seed", "contract")}
    attempt = TrainingAttempt(like.digest(), 1, 1, Nodes(), nullcontext, lambda *_: None)
    running = RunningGang(runtime, stage, gang, {job.name: f"{stage}-{job.name}" for job in gang.jobs}, attempt)
    jobs = []
    for job_id, each in running.members:
        inputs = {
            path: table(path) if isinstance(need, Deposited) else made[need.stage][need.name]
            for path, need in each.inputs.items()
        }
        spec = {**each.spec, **common} if "seed" in each.spec else each.spec
        jobs.append(Job(job_id, spec, inputs, tuple(each.outputs), party=each.party, door=each.door))
    try:
        running.start(jobs)
        assert runtime.wait([running.lead], seconds=PATIENCE)
        return running.outputs()
    finally:
        running.end()


def table(path: str) -> bytes:
    """A bank's prepared table, by the name that it has as an input."""
    party, part = path.removesuffix(".parquet").split("/")
    tables = dict(zip(("train", "holdout"), tiny.tables(BANKS.index(party), party, banks=len(BANKS)), strict=True))
    written = io.BytesIO()
    write_prepared(written, tables[part])
    return written.getvalue()


def sealed(sealing: Sealing, image: str, contract: Contract, folder: Path, engine: docker.DockerClient) -> Made:
    """What a contract's jobs make sealed; none of them is left anywhere."""
    if sealing == "gvisor" and "runsc" not in runtimes(engine):
        pytest.skip("the container engine has no runsc")
    seal = Seal(sealing, image)
    with seal.runtime(folder) as runtime:
        made = performed(runtime, contract, contract)
        assert list(seal.jobs(folder).iterdir()) == []
        assert leftovers(engine, seal.jobs(folder)) == []
    return made


def require_same(apart: Made, together: Made, contract: Contract) -> None:
    """See that jobs apart made what one process for all makes: the model, the own models, the evidence."""
    train = {name: content for name, content in apart["train"].items() if not name.startswith("own/")}
    owns = {name.removeprefix("own/"): apart["train"][name] for name in apart["train"].keys() - train.keys()}
    assert apart["prepare"] == together["prepare"]
    assert set(train) == {GRAPH, MANIFEST}
    assert train == together["train"]
    assert set(together["baseline"]) == {f"{bank}/{name}" for bank in BANKS for name in (*train, "baseline.json")}
    assert {**owns, **apart["baseline"]} == together["baseline"]
    evidence = assembled(contract, "evaluate", apart["evaluate"])
    assert evidence == {"evidence.json": together["evaluate"]["evaluate.json"]}


# an escrow of which a container is killed


class Killing(ContainerRuntime):
    """Containers of which one is killed, as the machine might, when it is asked in a round.

    Attributes:
        times: how often that is still to happen.
    """

    def __init__(self, root: Path, image: str) -> None:
        super().__init__(root, image=image)
        self.times = 0
        self._lines: list[threading.Thread] = []

    def link(self, job_id: str, *, seconds: float) -> socket.socket:
        """The stream to a worker; that to the one who may be killed is read along."""
        worker = super().link(job_id, seconds=seconds)
        if not job_id.endswith(f"-train-client-{KILLED}"):
            return worker
        near, far = socket.socketpair()
        self._lines.append(threading.Thread(target=self._carry, args=(job_id, near, worker), name="line"))
        self._lines[-1].start()
        return far

    def _carry(self, job_id: str, near: socket.socket, worker: socket.socket) -> None:
        with near, worker, suppress(OSError):  # whoever leaves closes
            while header := near.recv(HEADER.size, socket.MSG_WAITALL):
                if HEADER.unpack(header)[1] == IN_ROUND and self.times:
                    self.times -= 1
                    self._client.api.kill(Names(self._name, job_id).worker)
                    self.wait([job_id])
                    return
                carry(header, near, worker)
                carry(worker.recv(HEADER.size, socket.MSG_WAITALL), worker, near)

    def close(self) -> None:
        """See `Runtime.close`."""
        for line in self._lines:
            line.join()
        super().close()


def carry(header: bytes, source: socket.socket, target: socket.socket) -> None:
    """Carry the frame of which only the header was read."""
    if len(header) < HEADER.size:
        raise ConnectionResetError
    target.sendall(header + source.recv(HEADER.unpack(header)[2], socket.MSG_WAITALL))


@dataclass(frozen=True)
class World:
    """Two banks and an escrow whose containers may be killed.

    Attributes:
        consortium: all of them.
        runtime: the escrow's.
        folder: where a test may put what it makes.
    """

    consortium: Consortium
    runtime: Killing
    folder: Path

    def unsealed(self, method: Mapping[str, Any], like: Contract) -> Made:
        """What plain processes make of a contract, which see all rows together."""
        with ProcessRuntime(self.folder / "plain") as processes:
            return performed(processes, drafted(self.consortium, "none", method), like)


def drafted(consortium: Consortium, sealing: Sealing, method: Mapping[str, Any], **limits: int) -> Contract:
    """A contract about a small net whose jobs are sealed so, and which is released whatever the net has learned."""
    net = {"family": "mlp", "hidden": [8], "epochs": 2}
    modest = {"kind": "floor", "metric": "average-precision", "at-least": 0.0}
    document = consortium.draft(model=net, method=method, release=[{**modest, "party": each} for each in BANKS])
    computation = {**document["computation"], "sealing": sealing}
    terms = {"computation": computation, "limits": {**document["limits"], **limits}}
    return consortium.contract({**document, **terms})


def agreed(consortium: Consortium, contract: Contract) -> str:
    """The digest of a contract that every bank has approved."""
    digest = consortium.propose(contract)
    consortium.approve(digest)
    return digest


@pytest.fixture(scope="module")
def world(worker_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("same-bytes")
    with Killing(Seal("container").jobs(folder), worker_image) as runtime:
        consortium = tiny.founded(folder / "consortium", runtime, tiny.Clock(), banks=BANKS)
        yield World(consortium, runtime, folder)
        consortium.close()


@pytest.fixture(scope="module")
def rounds(world: World) -> tuple[Contract, Made]:
    """A training in rounds that may lose somebody once, and what plain processes make of it."""
    contract = drafted(world.consortium, "container", FEDAVG, retries=1)
    return contract, world.unsealed(FEDAVG, contract)


def nobody_left(world: World, engine: docker.DockerClient) -> None:
    """See that of a run no container, no volume and no file is left."""
    nothing_left(world.consortium)
    assert leftovers(engine, world.runtime.root) == []


# the tests


@pytest.mark.parametrize("sealing", ["container", "gvisor"])
def test_trained_in_rounds_over_the_relay(
    world: World, rounds: tuple[Contract, Made], sealing: Sealing, worker_image: str, engine: docker.DockerClient
) -> None:
    contract, unsealed = rounds
    assert [len(gang.jobs) for gang in stage_gangs(contract, "train", 1)] == [3]
    require_same(sealed(sealing, worker_image, contract, world.folder, engine), unsealed, contract)


def test_pooled(world: World, worker_image: str, engine: docker.DockerClient) -> None:
    method = {"name": "pooled"}
    contract = drafted(world.consortium, "container", method)
    made = sealed("container", worker_image, contract, world.folder, engine)
    require_same(made, world.unsealed(method, contract), contract)


def test_killed_in_mid_training_and_tried_again(
    world: World, rounds: tuple[Contract, Made], engine: docker.DockerClient, tmp_path: Path
) -> None:
    contract, unsealed = rounds
    world.runtime.times, told = 1, list[str]()
    digest = agreed(world.consortium, contract)
    assert world.consortium.core.run(digest, lambda _, words: told.append(words)).state == "released"
    assert (world.runtime.times, told.count("attempt 1 was lost, the next one begins")) == (0, 1)
    nobody_left(world, engine)
    released = fetch(world.consortium.banks["north"], digest, tmp_path / "release")
    assert {name: (released / name).read_bytes() for name in (GRAPH, MANIFEST)} == unsealed["train"]


def test_killed_in_mid_training_without_a_retry_the_run_ends_and_names_whose_worker_it_was(
    world: World, engine: docker.DockerClient, caplog: pytest.LogCaptureFixture
) -> None:
    world.runtime.times = 1
    digest = agreed(world.consortium, drafted(world.consortium, "container", FEDAVG, retries=0))
    case = world.consortium.core.run(digest)
    assert (case.state, case.reason, world.runtime.times) == ("failed", "worker-lost", 0)
    logged = [record.getMessage() for record in caplog.records if record.name == "escrow.runs"]
    assert logged == [f"run-fault contract={digest} run=1 party={KILLED} code=worker-lost"]
    nobody_left(world, engine)


def test_a_bank_may_seal_its_own_client_though_the_contract_does_not(
    world: World, worker_image: str, engine: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(premises, "IMAGE", worker_image)
    with ProcessRuntime(tmp_path / "jobs") as processes, ExitStack() as ending:
        consortium = tiny.founded(tmp_path / "consortium", processes, clock, banks=BANKS, at_home=("north",))  # type: ignore[arg-type]
        ending.callback(consortium.close)
        north = consortium.banks["north"]
        there = ending.enter_context(Premises.opened(north.home))
        ran: list[Runtime] = []

        def own(contract: Contract) -> Runtime:
            ran.append(there.runtime(cast("JointTraining", contract.computation), "container"))
            return ran[-1]

        nodes = banknodes.Nodes(Conditions(lambda: Session(north, lambda: None), own, clock, lambda _: None), print)
        ending.callback(nodes.stop)
        contract = drafted(consortium, "none", FEDAVG)
        digest = agreed(consortium, contract)
        nodes.add(digest)
        assert consortium.core.run(digest).state == "released"
        assert {each.sealing for each in ran} == {"container"}
        released = fetch(north, digest, tmp_path / "release")
    unsealed = world.unsealed(FEDAVG, contract)
    assert {name: (released / name).read_bytes() for name in (GRAPH, MANIFEST)} == unsealed["train"]
    assert [left for runtime in ran for left in leftovers(engine, runtime.root)] == []
