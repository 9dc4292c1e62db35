"""A database of any age comes to the tables of today, with everything filled in, or is refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select, text
from support import World

import escrow.migrations
from contracts.entries import steps
from escrow.engine import Database
from escrow.ledger import Ledger
from escrow.migrations import migrate
from escrow.rows import store_steps
from escrow.tables import ENTRIES, METADATA, RECORDS, REVISION, record_row
from tests import ledgers

BEFORE_EVENTS = "0001"


def scripts(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(escrow.migrations.__file__).parent))
    config.attributes["connection"] = connection
    return config


@contextmanager
def writing(url: str) -> Iterator[Connection]:
    database = Database(url)
    try:
        with database.turn() as connection, connection.begin():
            yield connection
    finally:
        database.close()


def rows(url: str) -> dict[str, list[Any]]:
    """Everything that stands in the tables."""
    with writing(url) as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]
            for table in METADATA.sorted_tables
        }


def differences(url: str) -> list[Any]:
    """Between a database and the tables as the code has them."""
    with writing(url) as connection:
        return list(compare_metadata(MigrationContext.configure(connection), METADATA))


def as_first_released(url: str, world: World) -> None:
    """Make a database as the first release left it: entries and records, and nothing else."""
    with writing(url) as connection:
        command.upgrade(scripts(connection), BEFORE_EVENTS)
        known = inspect(connection).get_columns("records")
        for step in steps(world.leaves, {}):
            position, nodes = step.entry.index, b"".join(step.nodes)
            envelope = f"sha256:{position:064}"
            row = {"position": position, "envelope": envelope, "time": step.entry.time, "leaf": step.data}
            connection.execute(ENTRIES.insert(), {**row, "nodes": nodes})
        for record in world.records.values():
            row = record_row(record)
            connection.execute(RECORDS.insert(), {column["name"]: row[column["name"]] for column in known})


def test_a_fresh_database_has_the_tables_of_today_at_once(database_url: str) -> None:
    Ledger(database_url).close()
    assert differences(database_url) == []
    with writing(database_url) as connection:
        assert MigrationContext.configure(connection).get_current_revision() == REVISION


def test_the_last_migration_leads_to_the_tables_of_today() -> None:
    assert ScriptDirectory.from_config(scripts()).get_heads() == [REVISION]


def test_migrating_an_empty_database_makes_the_same_tables(database_url: str) -> None:
    with writing(database_url) as connection:
        command.upgrade(scripts(connection), "head")
    assert differences(database_url) == []


@pytest.mark.parametrize("stamped", [True, False])
def test_an_older_database_is_brought_up_to_date_with_all_that_stood_in_it(
    database_url: str, stamped: bool, tmp_path: Path
) -> None:
    world = ledgers.busy()
    as_first_released(database_url, world)
    if not stamped:
        with writing(database_url) as connection:
            connection.execute(text("DROP TABLE alembic_version"))
    ledger = Ledger(database_url)
    assert ledger.documents() == world.documents
    assert list(ledger.leaves()) == world.leaves
    ledger.close()
    assert differences(database_url) == []

    fresh = f"sqlite:///{tmp_path / 'fresh.db'}"
    ledger = Ledger(fresh)
    ledgers.fill(ledger, world)
    ledger.close()
    migrated, made = rows(database_url), rows(fresh)
    assert len(made["events"]) > 10
    assert len(made["members"]) == 12
    assert {name: each for name, each in migrated.items() if name != "entries"} == {
        name: each for name, each in made.items() if name != "entries"
    }


def test_an_older_database_that_cannot_be_replayed_stays_as_it_is(database_url: str, refused: Any) -> None:
    world = ledgers.busy()
    as_first_released(database_url, world)
    with writing(database_url) as connection:
        connection.execute(ENTRIES.delete().where(ENTRIES.c.position == 5))
    with refused("ledger-tampered"):
        Ledger(database_url)
    with writing(database_url) as connection:
        assert MigrationContext.configure(connection).get_current_revision() == BEFORE_EVENTS
        assert set(inspect(connection).get_table_names()) == {"alembic_version", "entries", "records"}
        assert connection.execute(select(ENTRIES.c.position)).all()


def test_a_newer_database_is_refused_and_left_alone(database_url: str, refused: Any) -> None:
    Ledger(database_url).close()
    with writing(database_url) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    before = rows(database_url)
    with refused("database-newer"):
        Ledger(database_url)
    assert rows(database_url) == before


def test_a_database_of_somebody_elses_tables_gets_ours_beside_them(database_url: str) -> None:
    with writing(database_url) as connection:
        connection.execute(text("CREATE TABLE theirs (number INTEGER)"))
    with writing(database_url) as connection:
        migrate(connection)
        assert set(inspect(connection).get_table_names()) == {"theirs", "alembic_version", *METADATA.tables}
        store_steps(connection, list(steps(ledgers.busy().leaves, {})))
