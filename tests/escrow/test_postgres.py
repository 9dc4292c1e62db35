"""A ledger on a PostgreSQL server: one writer, lost connections, nothing told that is secret; and its audit."""

import json
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql
from sqlalchemy import text
from support import LEDGER, World

from contracts.entries import read_leaf
from contracts.errors import EscrowError
from contracts.notes import Checkpoint, sign_note
from escrow.audit import audit
from escrow.engine import Database
from escrow.ledger import Ledger
from tests import ledgers
from tests.servers import Postgres, free_port
from tests.wire import until


@pytest.fixture
def world() -> World:
    return ledgers.busy()


@pytest.fixture
def ledger(postgres: str) -> Iterator[Ledger]:
    ledger = Ledger(postgres)
    yield ledger
    ledger.close()


@pytest.fixture
def cut(postgres_server: Postgres, postgres: str) -> Callable[[], None]:
    """Ends every connection to the database, as a network or a restart would; they have ended when it returns."""
    name = postgres.rpartition("/")[2]
    sessions = "FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'"
    end, left = (sql.SQL(f"SELECT {what} {sessions}") for what in ("pg_terminate_backend(pid)", "pid"))

    def ended() -> None:
        postgres_server.execute(end, name)
        until(lambda: postgres_server.execute(left, name) == [])

    return ended


def test_a_second_writer_is_refused_until_the_first_is_gone(ledger: Ledger, postgres: str, refused: Any) -> None:
    with refused("escrow-busy"):
        Ledger(postgres)
    ledger.close()
    second = Ledger(postgres)
    second.close()


def test_a_writer_that_left_keeps_nobody_waiting_however_late_the_server_notices(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session stays, as if the server had not come to end it yet; also of a writer that left a transaction open."""
    database, sessions = Database(postgres), []

    def stays(session: Any) -> None:
        sessions.append(session)

    monkeypatch.setattr(database.engine.dialect, "do_close", stays)
    monkeypatch.setattr(database.engine.dialect, "do_terminate", stays)
    try:
        with database.turn() as connection:
            connection.execute(text("SELECT 1"))
        with database.turn() as connection, connection.begin():
            connection.execute(text("SELECT 1"))
        database.close()
        Ledger(postgres).close()
        assert len(sessions) == 2
    finally:
        for each in sessions:
            each.close()


def test_a_lost_connection_is_told_and_the_next_call_connects_again(
    ledger: Ledger, world: World, cut: Callable[[], None], refused: Any
) -> None:
    half = len(world.leaves) // 2
    for data in world.leaves[:half]:
        ledger.append(*read_leaf(data))
    list(ledger.leaves())
    cut()
    with refused("database-unreachable"):
        ledger.append(*read_leaf(world.leaves[half]))
    with refused("database-unreachable"):
        while True:  # one call for each connection that was open to read at most, for they are all given up at once
            ledger.documents()
            cut()
    ledgers.fill(ledger, world)
    assert list(ledger.leaves()) == world.leaves
    assert ledger.documents() == world.documents


def test_a_connection_lost_within_a_statement_leaves_nothing_of_it(
    ledger: Ledger, world: World, cut: Callable[[], None], refused: Any
) -> None:
    for data in world.leaves:
        with refused("database-unreachable"), ledger.writing() as connection:
            connection.execute(text("DELETE FROM entries"))
            cut()
        ledger.append(*read_leaf(data))
    assert list(ledger.leaves()) == world.leaves
    assert ledger.documents() == world.documents


def test_a_statement_has_a_minute_and_a_dead_server_is_noticed(postgres: str, refused: Any) -> None:
    database = Database(postgres)
    try:
        with database.reading() as connection:
            assert connection.scalar(text("SHOW statement_timeout")) == "1min"
            asked = connection.connection.dbapi_connection.info.get_parameters()  # type: ignore[union-attr]
    finally:
        database.close()
    assert {name: asked[name] for name in ("keepalives_idle", "keepalives_interval", "keepalives_count")} == {
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "3",
    }
    assert (asked["tcp_user_timeout"], asked["connect_timeout"]) == ("30000", "10")
    hasty = Database(f"{postgres}?options=-c%20statement_timeout%3D1000")
    try:
        with refused("database-unreachable"), hasty.turn() as connection:
            connection.execute(text("SELECT pg_sleep(30)"))
        with hasty.turn() as connection:  # and the next call is served
            assert connection.scalar(text("SELECT 1")) == 1
    finally:
        hasty.close()


def test_a_server_that_is_restarted_is_found_again(
    ledger: Ledger, world: World, postgres_server: Postgres, refused: Any
) -> None:
    ledger.append(*read_leaf(world.leaves[0]))
    postgres_server.stop()
    try:
        for _ in range(2):
            with refused("database-unreachable"):
                ledger.append(*read_leaf(world.leaves[1]))
        with refused("database-unreachable"):
            ledger.documents()
    finally:
        postgres_server.start()
    ledgers.fill(ledger, world)
    assert ledger.documents() == world.documents


def test_a_writer_that_lost_its_place_to_another_writes_no_more(
    ledger: Ledger, world: World, postgres: str, cut: Callable[[], None], refused: Any
) -> None:
    ledger.append(*read_leaf(world.leaves[0]))
    cut()
    second = Ledger(postgres)
    with refused("database-unreachable"):
        ledger.append(*read_leaf(world.leaves[1]))
    with refused("escrow-busy"):
        ledger.append(*read_leaf(world.leaves[1]))
    ledgers.fill(second, world)
    second.close()
    assert ledger.append(*read_leaf(world.leaves[3])).index == 3  # stands there by the other's hand
    assert ledger.records(*world.records) == world.records


def test_the_password_is_told_nowhere(postgres: str, postgres_server: Postgres, tmp_path: Path) -> None:
    plain = postgres.replace(postgres_server.password, "correct-horse")
    asked = plain.replace("escrow:correct-horse@", "escrow@") + "?password=correct-horse"
    closed = plain.replace(str(postgres_server.port), str(free_port()))
    for url in (plain, asked, closed, f"mysql{plain}", plain.replace("+psycopg", ""), f"{plain}:port:x"):
        with pytest.raises(EscrowError) as caught:
            Ledger(url)
        assert caught.value.code in {"database-unreachable", "database-unsupported"}
        assert "correct-horse" not in "".join(traceback.format_exception(caught.value)).replace(url, "")
        assert "correct-horse" not in repr(caught.value)
    database = Database(plain)
    assert "correct-horse" not in f"{database!r} {database.engine!r} {vars(database)['_shown']}"
    database.close()


def test_where_the_database_is_is_told_to_the_operator_alone(
    ledger: Ledger, world: World, postgres: str, cut: Callable[[], None]
) -> None:
    name = postgres.rpartition("/")[2]
    ledger.append(*read_leaf(world.leaves[0]))
    cut()
    with pytest.raises(EscrowError) as caught:
        ledger.append(*read_leaf(world.leaves[1]))
    for part in (name, "127.0.0.1", "escrow:"):
        assert part not in caught.value.diagnostics()
    assert name in str(caught.value.__cause__)


def test_times_beyond_2038_fit(ledger: Ledger, world: World) -> None:
    envelope, _ = read_leaf(world.leaves[0])
    assert ledger.append(envelope, 2**40).time == 2**40
    assert read_leaf(next(ledger.leaves())).time == 2**40


def test_threads_read_while_one_writes(ledger: Ledger, world: World) -> None:
    heads: list[Checkpoint] = []
    done, begun = threading.Event(), threading.Barrier(4)

    def read_on() -> None:
        begun.wait()
        while True:
            head = ledger.checkpoint(LEDGER)
            assert len(list(ledger.leaves(0, head.size))) == head.size
            assert ledger.root(head.size) == head.root
            heads.append(head)
            if done.is_set():
                return

    readers = [threading.Thread(target=read_on) for _ in range(3)]
    for reader in readers:
        reader.start()
    begun.wait()
    ledgers.fill(ledger, world)
    done.set()
    for reader in readers:
        reader.join()
    assert len(heads) >= len(readers)


@pytest.fixture
def directory(tmp_path: Path, ledger: Ledger, world: World, postgres: str) -> Path:
    """Of an escrow whose ledger lies on the server and goes on."""
    ledgers.fill(ledger, world)
    about = {"origin": LEDGER, "public-key": world.escrow.public, "database": postgres}
    (tmp_path / "escrow.json").write_text(json.dumps(about))
    return tmp_path


def test_a_ledger_in_use_on_a_server_can_be_checked(directory: Path, ledger: Ledger, world: World) -> None:
    head = ledger.head(LEDGER, world.escrow)
    assert [number for number, _ in audit(directory, {"north": head})] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE entries SET leaf = decode(replace(encode(leaf, 'escape'), 'a', 'b'), 'escape') WHERE position = 7",
        "UPDATE entries SET nodes = decode(repeat('00', length(nodes)), 'hex') WHERE position = 7",
        "DELETE FROM entries WHERE position = 5",
        "UPDATE records SET state = 'released' WHERE kind = 'case'",
        "UPDATE records SET owner = 'bank-1' WHERE kind = 'deposit'",
        "DELETE FROM events WHERE position = (SELECT max(position) FROM events)",
        "INSERT INTO members SELECT 'bank-9', contract FROM members WHERE party = 'bank-0'",
        "DROP TABLE events",
    ],
)
def test_edited_tables_on_a_server_are_found(directory: Path, ledger: Ledger, change: str, refused: Any) -> None:
    with ledger.writing() as connection:
        connection.execute(text(change))
    with refused("ledger-tampered"):
        audit(directory)


def test_a_server_that_does_not_answer_is_not_taken_for_a_tampered_ledger(
    directory: Path, postgres_server: Postgres, postgres: str, refused: Any
) -> None:
    about = json.loads((directory / "escrow.json").read_text())
    about["database"] = postgres.replace(str(postgres_server.port), str(free_port()))
    (directory / "escrow.json").write_text(json.dumps(about))
    with refused("database-unreachable"):
        audit(directory)


def test_a_head_that_the_ledger_does_not_reach_is_found(directory: Path, world: World, refused: Any) -> None:
    beyond = sign_note(Checkpoint(LEDGER, 10**6, bytes(32)), LEDGER, world.escrow)
    with refused("ledger-tampered"):
        audit(directory, {"north": beyond})
