"""The ledger on SQL: one transaction a statement, the same number of SQL statements for any number of parties."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from support import LEDGER, World

from contracts import statements as st
from contracts.canonical import encode_base64
from contracts.entries import read_leaf, replay, steps
from contracts.errors import EscrowError
from contracts.notes import parse_note
from contracts.records import CaseRecord, DepositRecord, Key
from contracts.signing import Ed25519Signer, sign
from contracts.transparency import leaf_hash, verify_consistency, verify_inclusion
from escrow.ledger import Happened, Ledger
from escrow.tables import METADATA
from scenarios import tiny
from scenarios.consortium import ORIGIN, Consortium
from tests import ledgers


@contextmanager
def counted(ledger: Ledger) -> Iterator[list[str]]:
    """The SQL statements that are sent meanwhile; one with many rows is one."""
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(ledger.database.engine, "before_cursor_execute", note)
    yield sent
    event.remove(ledger.database.engine, "before_cursor_execute", note)


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    ledger = Ledger(database_url)
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


def room(ledger: Ledger, more: int) -> None:
    """Let the database's file grow by some pages and no further."""
    with ledger.database.turn() as connection:
        pages = connection.exec_driver_sql("SELECT page_count FROM pragma_page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + more}")
        connection.commit()


def test_a_full_disk_leaves_neither_entry_nor_record(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    world = ledgers.busy()
    failures = []
    for data in world.leaves:
        room(ledger, 0)
        before = (ledger.size(), ledger.documents(), ledger.checkpoint(LEDGER))
        try:
            ledger.append(*read_leaf(data))
        except EscrowError as error:
            failures.append(error.code)
            assert (ledger.size(), ledger.documents(), ledger.checkpoint(LEDGER)) == before
            room(ledger, 100)
            ledger.append(*read_leaf(data))
    assert set(failures) == {"storage-full"}
    assert list(ledger.leaves()) == world.leaves
    assert ledger.documents() == world.documents
    ledger.close()


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


def test_there_is_no_proof_beyond_the_ledger(ledger: Ledger, signer: Ed25519Signer, refused: Any) -> None:
    for each in admissions(signer, 2):
        ledger.append(each, 1)
    asked = [lambda: ledger.inclusion(0, 4), lambda: ledger.inclusion(3, 3), lambda: ledger.inclusion(-1, 3)]
    asked += [lambda: ledger.consistency(1, 4), lambda: ledger.consistency(3, 2), lambda: ledger.root(2**70)]
    for ask in asked:
        with refused("proof-invalid"):
            ask()
    assert list(ledger.leaves(2**70)) == []
    assert len(list(ledger.leaves(-5, 2**70))) == 3


def test_a_statement_whose_commit_was_never_answered_is_proved_when_it_is_sent_again(
    ledger: Ledger, signer: Ed25519Signer, refused: Any
) -> None:
    *before, last = admissions(signer, 4)
    for each in before:
        ledger.append(each, 10)
    with ledgers.answer_lost(), refused("database-unreachable"):
        ledger.append(last, 10)
    again = ledger.append(last, 20)
    assert (again.index, again.time, ledger.size()) == (4, 10, 5)
    proof = ledger.inclusion(again.index, ledger.size())
    leaf = next(ledger.leaves(again.index))
    verify_inclusion(leaf_hash(leaf), again.index, ledger.size(), proof, ledger.checkpoint(ORIGIN).root)


def test_entries_that_another_object_wrote_are_noticed(tmp_path: Path, signer: Ed25519Signer) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    first, second = Ledger(url), Ledger(url)
    for number, each in enumerate(admissions(signer, 8)):
        assert (first, second)[number % 2].append(each, 1).index == number
    assert replay(first.leaves()).tree.root() == first.checkpoint(ORIGIN).root
    first.close()
    second.close()


def test_a_head_is_signed_once(ledger: Ledger, signer: Ed25519Signer) -> None:
    signed: list[bytes] = []

    class Counting:
        public, key_id = signer.public, signer.key_id

        def sign(self, message: bytes) -> bytes:
            signed.append(message)
            return signer.sign(message)

    opened, admitted = admissions(signer, 1)
    ledger.append(opened, 1)
    counting = Counting()
    with counted(ledger) as sent:
        heads = {ledger.head(ORIGIN, counting) for _ in range(3)} | {ledger.head(ORIGIN, signer)}
    assert (len(heads), len(signed), sent) == (1, 1, [])
    ledger.append(admitted, 1)
    assert ledger.head(ORIGIN, counting) not in heads
    assert parse_note(ledger.head(ORIGIN, counting), {ORIGIN: signer.public}) == ledger.checkpoint(ORIGIN)


def test_what_was_written_lately_is_read_without_sql(ledger: Ledger) -> None:
    world = ledgers.busy()
    ledgers.fill(ledger, world)
    with counted(ledger) as sent:
        assert ledger.records(*world.records) == world.records
    assert sent == []


@pytest.fixture
def busy(ledger: Ledger) -> World:
    world = ledgers.busy()
    ledgers.fill(ledger, world)
    return world


def concerning(world: World, party: str) -> list[Happened]:
    """What happened to a party's contracts, by the replay."""
    return [
        Happened(step.entry.index, step.entry.time, step.entry.statement.kind, record.digest)  # type: ignore[attr-defined]
        for step in steps(world.leaves, {})
        for record in sorted(step.changed, key=lambda record: record.key())
        if isinstance(record, CaseRecord) and party in record.contract.names()
    ]


def test_a_party_is_told_all_and_only_what_concerns_its_contracts(ledger: Ledger, busy: World) -> None:
    for party in ledgers.banks(4):
        whole = concerning(busy, party)
        assert ledger.events(party, 0, 10**6) == whole
        for since in (-1, *range(len(busy.leaves) + 2), 2**70):
            assert ledger.events(party, since, 10**6) == [each for each in whole if each.index >= since]
    assert ledger.events("bank-3", 0, 100) == []


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_pages_of_events_join_without_gap_or_repetition(ledger: Ledger, busy: World, limit: int) -> None:
    for party in ledgers.banks(3):
        joined: list[Happened] = []
        while page := ledger.events(party, joined[-1].index + 1 if joined else 0, limit):
            assert len({each.index for each in page}) <= limit
            joined += page
        assert joined == concerning(busy, party)
    [*_, revoked] = [each.index for each in joined if each.kind == "data-revoked"]
    assert len([each for each in joined if each.index == revoked]) == 2, "one entry halted two contracts"


def test_a_party_finds_its_contracts_and_deposits(ledger: Ledger, busy: World) -> None:
    for party in ledgers.banks(4):
        cases = [r for r in busy.records.values() if isinstance(r, CaseRecord) and party in r.contract.names()]
        deposits = [r for r in busy.records.values() if isinstance(r, DepositRecord) and r.stated.party == party]
        with counted(ledger) as sent:
            assert ledger.cases(party) == sorted(cases, key=lambda case: case.digest)
            assert ledger.deposits(party) == sorted(deposits, key=lambda deposit: deposit.stated.commitment)
        assert len(sent) == 2
    rejected = ledger.all("case", states=["rejected"])
    assert [case.contract.title for case in rejected if isinstance(case, CaseRecord)] == ["second"]


def test_a_ledger_that_is_opened_again_says_the_same(database_url: str) -> None:
    world = ledgers.busy()
    for data in world.leaves:
        ledger = Ledger(database_url)
        ledger.append(*read_leaf(data))
        ledger.close()
    ledger = Ledger(database_url)
    assert ledger.documents() == world.documents
    assert ledger.records(*world.records) == world.records
    assert ledger.events("bank-2", 0, 100) == concerning(world, "bank-2")
    ledger.close()


def test_what_is_asked_for_is_found_by_an_index(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledgers.fill(ledger, ledgers.busy())
    asked: list[tuple[str, Any]] = []
    event.listen(
        ledger.database.engine, "before_cursor_execute", lambda _c, _k, text, values, *_: asked.append((text, values))
    )
    ledger.events("bank-1", 3, 10)
    ledger.cases("bank-1")
    ledger.deposits("bank-1")
    ledger.inclusion(3, 9)
    with ledger.database.reading() as connection:
        for text, values in asked.copy():
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)]
            assert not [line for line in plan if line.split()[:1] == ["SCAN"] and line.split()[1] in METADATA.tables]
    ledger.close()


def test_readers_never_see_half_of_a_statement(ledger: Ledger) -> None:
    names = ledgers.banks(2)
    world = ledgers.founded(names)
    digests = [ledgers.agreement(names, title=str(number)).digest() for number in range(12)]
    for number, digest in enumerate(digests):
        ledgers.proposed(world, names, str(number))
        world.submit(st.ContractWithdrawn(ledger=LEDGER, party=names[0], contract=digest))
    keys = [Key("party", name) for name in names]
    done, begun = threading.Event(), threading.Barrier(4)

    def read_on() -> None:
        begun.wait()
        while True:
            for digest in digests:
                found = ledger.records(*keys, Key("case", digest))
                case = found.get(Key("case", digest))
                listed = {digest in found[key].contracts for key in keys if key in found}  # type: ignore[attr-defined]
                if len(found) >= 2:
                    assert listed == {isinstance(case, CaseRecord) and not case.ended}
            if done.is_set():
                return

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read_on) for _ in range(3)]
        begun.wait()
        for data in world.leaves:
            ledger.append(*read_leaf(data))
            ledger._cache.clear()  # so that reading mixes memory and database
        done.set()
        for reader in readers:
            reader.result()
    assert ledger.documents() == world.documents


def test_the_sql_of_a_statement_does_not_depend_on_the_number_of_parties(database_url: str, tmp_path: Path) -> None:
    counts: list[list[tuple[str, int]]] = []
    for count in (2, 20):
        names = ledgers.banks(count)
        world = ledgers.founded(names)
        begun = len(world.leaves)
        digest = ledgers.proposed(world, names)
        world.approve(digest, *names)
        world.run(digest)
        ledger = Ledger(database_url if count == 2 else f"sqlite:///{tmp_path / 'many.db'}")
        found: dict[str, set[int]] = {}
        for data in world.leaves:
            envelope, time = read_leaf(data)
            with counted(ledger) as sent:
                index = ledger.append(envelope, time).index
            if index >= begun:
                found.setdefault(st.read(envelope.payload).kind, set()).add(len(sent))  # type: ignore[attr-defined]
        ledger.close()
        counts.append(sorted((kind, max(each)) for kind, each in found.items()))
    assert counts[0] == counts[1]
    assert dict(counts[0])["contract-approved"] <= 5


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
