"""Consortia for the tests of the escrow, the banks' side and the attacks on both.

Whole runs use real child processes of the real runtime with a worker that trains in a blink (`escrow/quick_worker.py`).
A test marked `wires` meets the escrow twice: by calls in its own process, and over gRPC and mutual TLS.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

from contracts.canonical import parse
from contracts.errors import EscrowError
from contracts.gate import Decision, Evidence, decide
from escrow.runtime.base import Output
from escrow.runtime.job import Job
from escrow.runtime.process import ProcessRuntime
from escrow.server import Ports
from parties.release import fetch
from scenarios import tiny
from scenarios.consortium import Consortium, Wire
from tests.engine import engine, image, memory, sealing, workers_image  # noqa: F401 - fixtures
from tests.servers import Postgres, free_ports, postgres_programs

WORKER = Path(__file__).parent / "escrow" / "quick_worker.py"

# How long an example takes is no property of what is tested, and who breaks nothing must not meet a new example that
# fails: every run has the same ones. For others: pytest --hypothesis-profile=default.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


class QuickRuntime(ProcessRuntime):
    """The process runtime with the quick worker; keeps the evidence, as an operator without sealing could."""

    def __init__(self, root: Path, *, capacity: int = 2) -> None:
        super().__init__(root, command=(sys.executable, str(WORKER)), packages=(), capacity=capacity)
        self.evidence: dict[str, dict[str, object]] = {}

    def collect(self, job: Job) -> Mapping[str, Output]:
        found = super().collect(job)
        if job.spec["role"] == "evaluate":
            document = parse(found["evidence.json"].read())
            assert isinstance(document, dict)
            self.evidence[str(job.spec["contract"])] = document
        return found


def decision(consortium: Consortium, digest: str, *, run: int = 1) -> Decision:
    """What the run's evidence says, which nobody but the operator of an unsealed escrow can know."""
    runtime = consortium.core.runtime
    assert isinstance(runtime, QuickRuntime)
    evidence = Evidence.model_validate({**runtime.evidence[digest], "run": run})
    return decide(consortium.core.runs.case(digest).contract, evidence, run=run)


@contextmanager
def refusal(code: str) -> Iterator[None]:
    with pytest.raises(EscrowError) as caught:
        yield
    assert caught.value.code == code, caught.value.message


@pytest.fixture(scope="session")
def refused() -> Callable[[str], AbstractContextManager[None]]:
    """`with refused(code):` what stands under it is refused with that code."""
    return refusal


@pytest.fixture(scope="session")
def outcome() -> Callable[..., Decision]:
    return decision


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "wires: play the test in process and over the network")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "wire" in metafunc.fixturenames and metafunc.definition.get_closest_marker("wires"):
        metafunc.parametrize("wire", ["process", "grpc"])


@pytest.fixture
def wire() -> Wire:
    """How the banks reach the escrow."""
    return "process"


@pytest.fixture
def clock(wire: Wire) -> tiny.Clock:
    """A clock that stands still; TLS believes only one that is right."""
    return tiny.Clock() if wire == "process" else tiny.Clock(int(time.time()))


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[QuickRuntime]:
    with QuickRuntime(tmp_path / "jobs") as runtime:
        yield runtime


Found = Callable[..., Consortium]


@pytest.fixture
def found(tmp_path: Path, runtime: QuickRuntime, clock: tiny.Clock, wire: Wire) -> Iterator[Found]:
    """Makes a consortium of two banks, or of others, with tables of their own."""
    made: list[Consortium] = []

    def make(**others: object) -> Consortium:
        ports = Ports("127.0.0.1", *free_ports(2))  # an escrow that is started again finds them free
        given: dict[str, object] = {"banks": ("north", "harbour"), "wire": wire, "ports": ports, **others}
        made.append(tiny.founded(tmp_path / "consortium", runtime, clock, **given))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for consortium in made:
        consortium.close()


@pytest.fixture
def consortium(found: Found) -> Consortium:
    """Two banks, nothing proposed."""
    return found()


@pytest.fixture(scope="session")
def _played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A contract of two banks that was released, and one that was withheld."""
    folder = tmp_path_factory.mktemp("played")
    with QuickRuntime(folder / "jobs") as runtime:
        consortium = tiny.founded(folder / "consortium", runtime, tiny.Clock(), banks=("north", "harbour"))
        released = tiny.approved(consortium)
        assert consortium.core.run(released).state == "released"
        for name, bank in consortium.banks.items():
            fetch(bank, released, folder / "releases" / name)
        beyond = [
            {"kind": "gain", "party": "north", "metric": "average-precision", "more-than": 0.0},
            {"kind": "floor", "party": "harbour", "metric": "average-precision", "at-least": 0.999},
        ]
        withheld = tiny.approved(consortium, release=beyond)
        assert consortium.core.run(withheld).state == "withheld"
        consortium.core.close()
    (folder / "released").write_text(released)
    (folder / "withheld").write_text(withheld)
    return folder


class Played:
    """A private copy of what was played: `consortium/`, `releases/NAME/`, and the contracts' digests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.escrow = folder / "consortium" / "escrow"
        self.releases = folder / "releases"
        self.released = (folder / "released").read_text()
        self.withheld = (folder / "withheld").read_text()

    def bank(self, name: str) -> Path:
        return self.folder / "consortium" / "banks" / name

    def heads(self) -> dict[str, str]:
        return {path.parent.name: path.read_text() for path in self.folder.glob("consortium/banks/*/head.note")}


@pytest.fixture
def played(_played: Path, tmp_path: Path) -> Played:
    shutil.copytree(_played, tmp_path / "played")
    return Played(tmp_path / "played")


@pytest.fixture
def replayed(played: Played, runtime: QuickRuntime, clock: tiny.Clock) -> Iterator[Consortium]:
    """The played consortium with its escrow started again."""
    consortium = tiny.reopened(played.folder / "consortium", runtime, clock)
    yield consortium
    consortium.core.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL server that is this test process's own."""
    programs = postgres_programs()
    if programs is None:
        missing = "PostgreSQL is not installed: run .ci/packages."
        if os.environ.get("ESCROW_REQUIRE_SERVERS") == "1":
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    server = Postgres(programs)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        server.remove()


@pytest.fixture
def postgres(postgres_server: Postgres) -> Iterator[str]:
    """The URL of a fresh database."""
    name = postgres_server.database()
    yield postgres_server.url(name)
    postgres_server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of either kind: a ledger behaves alike on both."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    return str(request.getfixturevalue("postgres"))
