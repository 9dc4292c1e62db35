"""The database behind the ledger, SQLite or PostgreSQL: connections, one writer, and errors that a person can read.

1. One process writes. On PostgreSQL an advisory lock sees to it, held by the session that writes: whoever lost the
   session lost the lock with it, and cannot commit either. On SQLite it is the lock of the escrow's directory.
2. Writers take turns, and a writer on SQLite locks at once: what it has read cannot change before it writes.
3. A database that cannot be reached is an `EscrowError`, and the next call connects again. On PostgreSQL a machine that
   is gone is noticed within a minute, and a statement has a minute. Not bounded is a server that keeps its connections
   and answers nothing, not even that the statement's time is over. What the URL itself says of these goes first.
4. The password in a URL stands in no error and in no representation. Once others are served, errors do not say where
   the database is either: only their cause does, which does not travel.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy import exc as sql
from sqlalchemy.pool import NullPool

from contracts.errors import EscrowError

SQLITE: Final = ("sqlite", "sqlite+pysqlite")
POSTGRESQL: Final = "postgresql+psycopg"
_WRITER: Final = int.from_bytes(b"escrow/1")  # of the advisory lock
_CONNECTIONS: Final = 16  # kept open; as many again under load
_FULL: Final = ("SQLITE_FULL", "53100")  # the latter is PostgreSQL's disk_full
_LATER: Final = "Try again; whether a statement was stored is told by sending it once more."
_SERVER_GIVES_UP: Final = (
    "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3 -c statement_timeout=60s"
)
"""The server ends the session of a writer whose machine is gone, and with it the writer's lock, within a minute."""
_WE_GIVE_UP: Final = {
    "connect_timeout": "10",
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",  # milliseconds that what was sent may stay unacknowledged
}
"""And so do we with a server whose machine is gone: the other writers wait for the one that talks to it."""


class Database:
    """One database at a URL. Safe for threads."""

    def __init__(self, url: str) -> None:
        """Nothing is connected yet.

        Raises:
            EscrowError: `database-unsupported` for a URL of another kind.
        """
        found = parsed(url)
        self._shown = shown(found)
        self._secrets = _secrets(found)
        self.engine = _engine(found)
        self.discreet = False  # whether errors go to others than the operator
        self._turn = threading.Lock()
        self._writer: Connection | None = None  # kept open: taking one from the pool costs half an insert

    def __repr__(self) -> str:
        return f"Database({self._shown})"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees what is committed.

        Raises:
            EscrowError: `database-unreachable`.
        """
        with self._told(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """The database as it stands now, in one transaction that cannot write; a file that nobody serves is not even
        touched, for it may lie on a medium that takes no writing.

        Raises:
            EscrowError: `escrow-missing` if the file is not there, `database-unreachable` for a server.
            sqlalchemy.exc.DBAPIError: what the file holds cannot be read.
        """
        if self.engine.dialect.name == "sqlite":
            with _reader(Path(self.engine.url.database or "")).begin() as connection:
                yield connection
        else:
            frozen = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            with self._told(), self.engine.execution_options(**frozen).begin() as connection:
                yield connection

    @contextmanager
    def turn(self) -> Iterator[Connection]:
        """The one connection that writes, outside a transaction; no other writer comes between.

        Raises:
            EscrowError: `database-unreachable`, or `escrow-busy` if another process writes to the database.
        """
        with self._turn, self._told():
            if self._writer is None:
                self._writer = self._connected()
            try:
                yield self._writer
            finally:
                if self._writer.invalidated or self._writer.get_transaction():  # a commit that failed leaves it open
                    self._drop()

    def close(self) -> None:
        """Give every connection back."""
        with self._turn:
            self._drop()
        self.engine.dispose()

    def _connected(self) -> Connection:
        connection = self.engine.connect().execution_options(write=True)
        try:
            self._lock(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _lock(self, connection: Connection) -> None:
        if connection.dialect.name == "sqlite":
            return
        with connection.begin():
            free = connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _WRITER})
        if not free:
            raise EscrowError("escrow-busy", f"Another escrow writes to {self._shown}.")

    def _drop(self) -> None:
        """Close the writer's session, not only its place in the pool: that alone would keep the lock."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                self._unlock(writer)
            finally:
                writer.invalidate()
                writer.close()

    def _unlock(self, writer: Connection) -> None:
        """Give the lock back while the server still listens: it ends a closed session, and frees its lock, only in its
        own time, and until then whoever opens the database next, we ourselves perhaps, would find it taken.
        """
        if writer.dialect.name == "sqlite" or writer.invalidated:
            return
        with suppress(sql.DBAPIError):  # the connection is lost: its lock goes with it
            writer.rollback()
            with writer.begin():
                writer.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _WRITER})

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sql.DBAPIError, sql.TimeoutError) as error:
            if not _unreachable(error):
                raise
            reason = self._reason(error)
            raise self._failure(error, reason) from ConnectionError(reason)

    def _failure(self, error: Exception, sentence: str) -> EscrowError:
        original = getattr(error, "orig", error)
        if getattr(original, "sqlite_errorname", getattr(original, "sqlstate", None)) in _FULL:
            hint = "Ask the operator for room, then try again."
            return EscrowError("storage-full", "The escrow's database has no room for this.", hint)
        if self.discreet:
            return EscrowError("database-unreachable", "The escrow cannot use its database at present.", _LATER)
        return EscrowError("database-unreachable", sentence)

    def _reason(self, error: Exception) -> str:
        """What only the operator may read, and without the password."""
        reason = str(getattr(error, "orig", error)).partition("\n")[0].rstrip(".").replace(". ", "; ")
        for secret in self._secrets:
            reason = reason.replace(secret, "***")
        return f"The database {self._shown} cannot be used: {reason}."


def parsed(url: str) -> URL:
    """The URL of a database that a ledger can live in.

    Raises:
        EscrowError: `database-unsupported`.
    """
    try:
        found = make_url(url)
    except (sql.ArgumentError, ValueError):
        raise EscrowError("database-unsupported", "The database's URL cannot be read.") from None
    if found.drivername not in (*SQLITE, POSTGRESQL):
        raise EscrowError("database-unsupported", f"A ledger cannot live in {found.drivername}.")
    return found


def shown(url: URL) -> str:
    """The URL as people may see it: without password, and without its query, which may hold one."""
    return url.set(query={}, password=None).render_as_string()


def _secrets(url: URL) -> list[str]:
    return [each for each in (url.password, url.query.get("password")) if isinstance(each, str) and each]


def _unreachable(error: Exception) -> bool:
    """Whether the database failed us, and not we it."""
    if isinstance(error, sql.OperationalError | sql.InterfaceError | sql.TimeoutError):
        return True
    lost = isinstance(error, sql.DBAPIError) and error.connection_invalidated
    return lost or type(error) is sql.DatabaseError  # what SQLite says of a file that is no database


def _engine(url: URL) -> Engine:
    settings: dict[str, Any] = {"pool_size": _CONNECTIONS, "max_overflow": _CONNECTIONS, "hide_parameters": True}
    if url.drivername in SQLITE:
        return _sqlite(create_engine(url, **settings))
    ours = {**_WE_GIVE_UP, "application_name": "model-escrow", "options": _SERVER_GIVES_UP}
    return create_engine(
        url, connect_args={name: each for name, each in ours.items() if name not in url.query}, **settings
    )


def _reader(path: Path) -> Engine:
    if not path.is_file():
        raise EscrowError("escrow-missing", f"{path} is not there.")
    mode = "mode=ro" if path.with_name(path.name + "-wal").exists() else "immutable=1"  # a served file has a log
    address = f"file:{quote(str(path.resolve()))}?{mode}"
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(address, uri=True), poolclass=NullPool)
    return _begins(engine)


def _sqlite(engine: Engine) -> Engine:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: object) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    return _begins(engine)


def _begins(engine: Engine) -> Engine:
    """The driver must not begin transactions by itself: it would do so before it writes, and we have read by then."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("write", False)
        connection.connection.cursor().execute("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


__all__ = ["Database", "parsed", "shown"]
