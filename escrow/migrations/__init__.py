"""How a database of any age gets the tables of today: made at once if it is empty, else changed revision by revision.

There is no way back: an escrow that meets a database of a later revision refuses it.
"""

from pathlib import Path
from typing import Final

from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table, inspect, select

from contracts.errors import EscrowError
from escrow.tables import ENTRIES, METADATA, REVISION

UNSTAMPED: Final = "0001"  # the tables as they were before revisions were counted
_STAMP: Final = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def revision(connection: Connection) -> str | None:
    """The revision of the ledger's tables in a database, None if there are none."""
    tables = inspect(connection)
    if tables.has_table(_STAMP.name):
        return connection.scalar(select(_STAMP.c.version_num))
    return UNSTAMPED if tables.has_table(ENTRIES.name) else None


def migrate(connection: Connection) -> None:
    """Give a database the tables of today, all or nothing.

    Args:
        connection: in a transaction, with nobody else writing.

    Raises:
        EscrowError: `database-newer` for a revision that is not known here; `ledger-tampered` if an older one has
            entries that cannot be replayed.
    """
    found = revision(connection)
    if found is None:
        METADATA.create_all(connection)
        _STAMP.create(connection)
        connection.execute(_STAMP.insert(), {"version_num": REVISION})
    elif found != REVISION:
        _upgrade(connection, found)


def require_current(connection: Connection) -> None:
    """Check that a database, which is only to be read, has the tables of today.

    Raises:
        EscrowError: `ledger-tampered` if it has none, `database-older` or `database-newer`.
    """
    found = revision(connection)
    if found is None:
        raise EscrowError("ledger-tampered", "The database holds no ledger.")
    if found != REVISION:
        code = "database-older" if found < REVISION else "database-newer"
        raise EscrowError(code, f"The database is of revision {found}, and this version reads {REVISION}.")


def _upgrade(connection: Connection, found: str) -> None:
    from alembic import command  # noqa: PLC0415 - hardly ever needed, and slow to import
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found not in known:
        raise EscrowError("database-newer", f"The database is of revision {found}, which this version does not know.")
    if not inspect(connection).has_table(_STAMP.name):
        command.stamp(config, UNSTAMPED)
    command.upgrade(config, REVISION)


__all__ = ["migrate", "require_current", "revision"]
