"""A disk without room: the caller is told so, nothing is half stored, and with room it goes on."""

import errno
import resource
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from contracts.canonical import digest
from contracts.errors import EscrowError
from contracts.protocol import escrow_pb2 as pb
from escrow.audit import audit
from parties.certificates import new_request
from parties.deposit import seal_table
from parties.identity import Identity
from scenarios import tiny
from scenarios.consortium import ORIGIN, Consortium, Wire
from tests import wire as line


@pytest.fixture
def wire() -> Wire:
    return "grpc"


@pytest.fixture
def no_room() -> Iterator[Callable[[int], Any]]:
    """Lets no file of this process grow beyond a size; the kernel refuses, with an error of its own."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    yield limited
    signal.signal(signal.SIGXFSZ, handler)


class Upload:
    """Bytes on their way in."""

    def __init__(self, size: int) -> None:
        self.token, self.content = secrets.token_hex(16), secrets.token_bytes(size)
        self.offsets: list[int] = []

    def chunks(self, offset: int) -> Iterator[bytes]:
        self.offsets.append(offset)
        for start in range(offset, len(self.content), 1 << 16):
            yield self.content[start : start + (1 << 16)]

    def digest(self) -> str:
        return digest(self.content)


def full(consortium: Consortium, *, pages: int) -> None:
    """Let the database have so many pages more than it has."""
    with consortium.core.ledger.database.turn() as connection:
        has = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {has + pages}")
        connection.rollback()


def test_a_statement_that_finds_no_room_is_refused_and_stands_nowhere(consortium: Consortium) -> None:
    north = consortium.banks["north"]
    tiny.proposed(consortium)
    full(consortium, pages=0)
    stood: list[str] = []

    def fill() -> None:
        for number in range(500):
            stood.append(tiny.proposed(consortium, title=f"Contract {number}"))  # noqa: PERF401 - kept when it fails

    with pytest.raises(EscrowError) as caught:
        fill()
    assert caught.value.code == "storage-full"
    assert caught.value.hint
    size = consortium.core.ledger.size()
    shown = {view.digest for view in north.escrow.contracts()}
    assert set(stood) <= shown
    assert len(north.escrow.entries(0, size)) <= size  # what stands can still be read
    full(consortium, pages=10_000)
    again = tiny.proposed(consortium, title=f"Contract {len(stood)}")
    consortium.approve(again)
    assert north.view(again).state == "approved"
    consortium.core.ledger.close()
    assert len(audit(consortium.directory / "escrow")) == 4


def test_what_follows_a_statement_follows_when_it_is_sent_again(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proposal stands, though there is no room for the contract's run key: its sender is not refused."""

    def full_disk(name: str) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", name)

    contract = consortium.contract(consortium.draft(model={"family": "logistic"}, method={"name": "pooled"}))
    with monkeypatch.context() as without_room:
        without_room.setattr(consortium.core.vault, "open_run_key", full_disk)
        consortium.propose(contract)
    north, size = consortium.banks["north"], consortium.core.ledger.size()
    assert north.view(contract.digest()).state == "proposed"
    consortium.propose(contract)
    assert north.view(contract.digest()).state == "open"
    assert consortium.core.ledger.size() == size + 1  # the run key, and no second proposal
    consortium.approve(contract.digest())


def test_an_upload_that_finds_no_room_goes_on_when_there_is_some(
    consortium: Consortium, no_room: Callable[[int], Any], refused: Any
) -> None:
    north, upload = consortium.banks["north"], Upload(4 << 20)
    size = consortium.core.ledger.size()
    with no_room(1 << 20), refused("storage-full"):
        north.escrow.deposit(upload)
    assert not consortium.core.vault.has(upload.digest())
    assert consortium.core.ledger.size() == size
    assert north.escrow.deposit(upload) == upload.digest()
    assert upload.offsets[0] == 0 < upload.offsets[-1] <= 1 << 20
    assert consortium.core.vault.read(upload.digest()) == upload.content


def test_a_statement_on_a_full_disk_is_refused(consortium: Consortium, no_room: Callable[[int], Any]) -> None:
    """Whatever file it is that cannot grow, the caller gets a code, and the ledger is whole."""
    north = consortium.banks["north"]
    contract = tiny.proposed(consortium)
    new = seal_table(tiny.tables(0, "north", banks=2)[0], "train", tiny.SCHEMA, north.folder)
    north.escrow.deposit(new)
    size, before = consortium.core.ledger.size(), north.head()
    largest = max(path.stat().st_size for path in (consortium.directory / "escrow").glob("ledger.db-wal"))
    with no_room(largest), pytest.raises(EscrowError) as caught:
        north.submit(new.statement(consortium.core.origin, "north"))
    assert caught.value.code == "database-unreachable"  # the kernel's error is not that of a full disk
    assert (consortium.core.ledger.size(), north.head()) == (size, before)
    assert new.commitment not in {view.commitment for view in north.escrow.deposits()}
    north.submit(new.statement(consortium.core.origin, "north"))
    assert new.commitment in {view.commitment for view in north.escrow.deposits()}
    assert north.view(contract).state == "open"


def test_a_request_to_be_admitted_on_a_full_disk_is_refused(
    consortium: Consortium, no_room: Callable[[int], Any], tmp_path: Path
) -> None:
    newcomer = Identity.create(tmp_path / "newcomer", "newcomer")
    asked = pb.EnrolRequest(
        request=newcomer.request(ORIGIN).to_bytes(), certificate=new_request(tmp_path / "newcomer", newcomer, ORIGIN)
    )
    assert consortium.server is not None
    with line.enrolment(consortium) as stub:
        with no_room(10):
            refused = line.refusal_of(lambda: stub.Enrol(asked))
        assert refused.code == "storage-full"
        assert consortium.server.requests.waiting() == []
        assert not stub.Enrol(asked).admitted
    assert [each.name for each in consortium.server.requests.waiting()] == ["newcomer"]
