"""The ledger on SQL: one transaction a statement, the same number of SQL statements for any number of parties."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from contracts import statements as st
from contracts.canonical import encode_base64
from contracts.entries import replay
from contracts.signing import Ed25519Signer, sign
from contracts.transparency import leaf_hash, verify_consistency, verify_inclusion
from escrow.ledger import Ledger
from scenarios import tiny
from scenarios.consortium import ORIGIN, Consortium


@contextmanager
def counted(ledger: Ledger) -> Iterator[list[str]]:
    """The SQL statements that are sent meanwhile; one with many rows is one."""
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(ledger._engine, "before_cursor_execute", note)
    yield sent
    event.remove(ledger._engine, "before_cursor_execute", note)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield ledger
    ledger.close()


@pytest.fixture
def signer() -> Ed25519Signer:
    return Ed25519Signer.from_seed(bytes(32))


def admissions(signer: Ed25519Signer, count: int) -> Iterator[Any]:
    yield sign(st.LedgerOpened(ledger=ORIGIN, public_key=signer.public).payload(), signer)
    for number in range(count):
        key = Ed25519Signer.from_seed(number.to_bytes(32, "big"))
        asked = st.EnrolmentRequest(
            ledger=ORIGIN, name=f"bank-{number}", role="party", public_key=key.public, recipient="age1" + 20 * "q"
        )
        signature = sign(asked.payload(), key).signatures[0].sig
        yield sign(st.PartyAdmitted(ledger=ORIGIN, request=asked, signature=encode_base64(signature)).payload(), signer)


def test_replay_equals_the_read_tables(played: Any) -> None:
    ledger = Ledger(f"sqlite:///{played.escrow / 'ledger.db'}")
    replayed = replay(ledger.leaves())
    assert {key: record.document() for key, record in replayed.records.items()} == ledger.documents()
    assert replayed.tree.root() == ledger.checkpoint(ORIGIN).root
    assert {key.kind for key in replayed.records} == {"ledger", "party", "deposit", "case"}
    ledger.close()


def test_a_statement_stands_once(ledger: Ledger, signer: Ed25519Signer) -> None:
    envelopes = list(admissions(signer, 3))
    first = [ledger.append(each, 10) for each in envelopes]
    again = [ledger.append(each, 20) for each in envelopes]
    assert [(each.index, each.time) for each in first] == [(each.index, each.time) for each in again]
    assert all(each.changed for each in first)
    assert not any(each.changed for each in again)
    assert ledger.size() == 4


def test_time_never_runs_backwards(ledger: Ledger, signer: Ed25519Signer) -> None:
    times = [ledger.append(each, now).time for each, now in zip(admissions(signer, 3), (10, 30, 20, 40), strict=True)]
    assert times == [10, 30, 30, 40]


def test_a_refused_statement_stores_nothing(ledger: Ledger, signer: Ed25519Signer, refused: Any) -> None:
    for each in admissions(signer, 2):
        ledger.append(each, 10)
    before = (ledger.size(), ledger.documents(), ledger.checkpoint(ORIGIN))
    with refused("contract-unknown"):
        ledger.append(sign(st.ContractExpired(ledger=ORIGIN, contract="sha256:" + 64 * "0").payload(), signer), 11)
    with refused("signature-invalid"):
        stranger = Ed25519Signer.from_seed(bytes(range(32)))
        ledger.append(sign(st.PartyRevoked(ledger=ORIGIN, name="bank-1").payload(), stranger), 11)
    assert (ledger.size(), ledger.documents(), ledger.checkpoint(ORIGIN)) == before


def test_a_failing_write_leaves_neither_entry_nor_record(
    ledger: Ledger, signer: Ed25519Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, admitted = admissions(signer, 1)
    ledger.append(opened, 10)
    before = (ledger.size(), ledger.documents())

    def full(*_: object) -> None:
        raise OSError("no space left on the device")

    with monkeypatch.context() as patch:
        patch.setattr("escrow.ledger._store", full)
        with pytest.raises(OSError, match="no space"):
            ledger.append(admitted, 10)
    assert (ledger.size(), ledger.documents()) == before
    assert ledger.append(admitted, 10).index == 1


def test_writers_in_many_threads_take_turns(ledger: Ledger, signer: Ed25519Signer) -> None:
    opened, *rest = admissions(signer, 40)
    ledger.append(opened, 1)
    start = threading.Barrier(4)

    def write(part: int) -> list[int]:
        start.wait()
        return [ledger.append(each, 1).index for each in rest[part::4]]

    with ThreadPoolExecutor(4) as pool:
        indexes = [index for part in pool.map(write, range(4)) for index in part]
    assert sorted(indexes) == list(range(1, 41))
    assert replay(ledger.leaves()).tree.root() == ledger.checkpoint(ORIGIN).root


def test_proofs_hold_for_every_entry_and_every_pair_of_heads(ledger: Ledger, signer: Ed25519Signer) -> None:
    heads = [ledger.checkpoint(ORIGIN)]
    for each in admissions(signer, 10):
        ledger.append(each, 1)
        heads.append(ledger.checkpoint(ORIGIN))
    for index, data in enumerate(ledger.leaves()):
        for head in heads[index + 1 :]:
            verify_inclusion(leaf_hash(data), index, head.size, ledger.inclusion(index, head.size), head.root)
    for new in heads:
        for old in heads[: new.size + 1]:
            proof = ledger.consistency(old.size, new.size)
            verify_consistency(old.size, old.root, new.size, new.root, proof)


def test_another_object_on_the_same_database_goes_on(tmp_path: Path, signer: Ed25519Signer) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    first, second = Ledger(url), Ledger(url)
    for number, each in enumerate(admissions(signer, 8)):
        assert (first, second)[number % 2].append(each, 1).index == number
    assert first.checkpoint(ORIGIN) == second.checkpoint(ORIGIN)
    assert replay(first.leaves()).tree.root() == first.checkpoint(ORIGIN).root
    first.close()
    second.close()


def verbs(consortium: Consortium) -> dict[str, int]:
    """How many SQL statements each verb takes, on a contract of all banks."""
    counts: dict[str, int] = {}

    def count(name: str, do: Callable[[], object]) -> None:
        with counted(consortium.core.ledger) as sent:
            do()
        counts[name] = len(sent)

    north = next(iter(consortium.banks.values()))
    document = consortium.draft(model={"family": "logistic"}, method={"name": "pooled"})
    contract = consortium.contract(document)
    digest = contract.digest()
    count("propose", lambda: north.propose(contract))
    count("approve", lambda: north.approve(digest))
    count("view", lambda: north.view(digest))
    count("contracts", north.escrow.contracts)
    count("deposits", north.escrow.deposits)
    count("directory", north.escrow.directory)
    count("entries", lambda: north.escrow.entries(0, 100))
    count("head", north.escrow.head)
    count("inclusion", lambda: north.escrow.inclusion(0, 8))
    count("consistency", lambda: north.escrow.consistency(8, 9))
    for name in list(consortium.banks)[1:]:
        consortium.approve(digest, name)
    start = st.RunStarted(ledger=ORIGIN, contract=digest, run=1)
    count("start a run", lambda: consortium.core.state(start))
    count("halt", lambda: north.halt(digest))
    count("revoke", lambda: north.revoke(north.escrow.deposits()[0].commitment))
    return counts


def test_the_number_of_sql_statements_does_not_depend_on_the_number_of_parties(tmp_path: Path, runtime: Any) -> None:
    counts = []
    for banks in (2, 10):
        names = [f"bank-{number}" for number in range(banks)]
        consortium = tiny.founded(tmp_path / str(banks), runtime, tiny.Clock(), banks=names)
        counts.append(verbs(consortium))
        consortium.core.ledger.close()
        consortium.core.lock.release()
    assert counts[0] == counts[1]
    assert max(counts[0].values()) < 40
