"""Real servers for the tests, started from what the machine has installed and ended with the tests."""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import psycopg
from psycopg import sql

_PROGRAMS = Path("/usr/lib/postgresql")
_USER = "postgres"  # the server refuses to run as root
_SECONDS = 300  # that no program should need; to make a database takes half a minute where much else goes on
_WAIT = ("--wait", f"--timeout={_SECONDS}")


def postgres_programs() -> Path | None:
    """The directory of the newest PostgreSQL that Debian's packages installed."""
    found = sorted(_PROGRAMS.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on, nor is given by the system before they are used, or used again.

    They lie below those that the system hands out by itself, from 32768 on.
    """
    ports: list[int] = []
    with ExitStack() as taken:  # until all are found, so that none is found twice
        while len(ports) < count:
            port = secrets.choice(range(10_000, 32_768))
            with suppress(OSError):
                taken.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
    return ports


def free_port() -> int:
    """One such port."""
    return free_ports(1)[0]


class Postgres:
    """A PostgreSQL server with a directory of its own, reached on loopback with a password."""

    def __init__(self, programs: Path) -> None:
        # Not under pytest's own directory: that is root's alone, and the server runs as somebody else.
        self.folder = Path(tempfile.mkdtemp(prefix="escrow-postgres-"))
        self.password = secrets.token_hex(16)
        self.port = free_port()
        self._programs = programs
        self._made = 0
        (self.folder / "password").write_text(self.password)
        if os.geteuid() == 0:
            for path in (self.folder, self.folder / "password"):
                shutil.chown(path, _USER, pwd.getpwnam(_USER).pw_gid)
        given = ("--username=escrow", "--auth=scram-sha-256", f"--pwfile={self.folder / 'password'}", "--encoding=UTF8")
        self._run("initdb", *given, "--no-sync", "--no-instructions")

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = (
            f"-c port={self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
            " -c fsync=off -c full_page_writes=off -c max_connections=100"
        )
        self._run("pg_ctl", "start", *_WAIT, f"--log={self.folder / 'log'}", f"--options={settings}")

    def stop(self) -> None:
        """End it at once, as a crash would, and wait until it is gone."""
        self._run("pg_ctl", "stop", *_WAIT, "--mode=immediate")

    def remove(self) -> None:
        """Leave nothing behind; it was stopped before."""
        shutil.rmtree(self.folder)

    def url(self, database: str) -> str:
        """What a ledger opens."""
        return f"postgresql+psycopg://escrow:{self.password}@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """A new database."""
        self._made += 1
        name = f"ledger_{self._made}"
        self.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name

    def execute(self, statement: sql.Composed | sql.SQL, *values: object) -> list[tuple[object, ...]]:
        """Run a statement as the server's administrator; its rows, if it has any."""
        about = {"host": "127.0.0.1", "port": self.port, "user": "escrow", "password": self.password}
        with psycopg.connect(dbname="postgres", autocommit=True, **about) as connection:  # type: ignore[arg-type]
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def _run(self, program: str, *words: str) -> None:
        user = _USER if os.geteuid() == 0 else None
        groups: list[str] | None = [] if user else None
        subprocess.run(
            [self._programs / program, f"--pgdata={self.folder / 'data'}", *words],
            check=True,
            cwd=self.folder,
            user=user,
            group=user,
            extra_groups=groups,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pipe would stay open as long as the server runs
            timeout=_SECONDS,
        )
