"""What an escrow needs of its machine, checked one by one: each check says what it found, or what is wrong and what to
do. Nothing is repaired, and nothing is left behind.

What only the other kind of executor needs (see `escrow.sealing`) is looked at as well, and noted where it is missing:
only what this escrow itself needs can be wrong.
"""

import hashlib
import json
import os
import resource
import secrets
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from contracts.errors import EscrowError
from escrow import containers, home, rows
from escrow.authority import Authority
from escrow.blobs import blobs_at
from escrow.certificates import days_left
from escrow.channel import serves
from escrow.containers import Note
from escrow.disk import private
from escrow.engine import Database
from escrow.migrations import require_current
from escrow.runtime.process import code_digest, package_folders
from escrow.sealing import Seal

GIB: Final = 1 << 30
ROOM_AT_LEAST: Final = 2 * GIB
MEMORY_AT_LEAST: Final = GIB
FILES_AT_LEAST: Final = 4096  # each connection takes one
CERTIFICATE_DAYS_AT_LEAST: Final = 14
AUTHORITY_DAYS_AT_LEAST: Final = 180
_SECRET: Final = ("key.pem", "escrow.json", "tls/authority.pem", "tls/server.pem")
_TRAINING: Final = ("torch", "flwr", "sklearn", "onnx", "skl2onnx")


Mark = Literal["ok", "note", "wrong"]
"""How a check came out; a note is worth knowing, and keeps nothing from working."""


@dataclass(frozen=True)
class Check:
    """One check: what it is about, how it came out, what was found, and what to do if not all is well."""

    name: str
    mark: Mark
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Patient:
    """An escrow that is looked at, and where it is meant to listen."""

    directory: Path
    now: int  # whole seconds since 1970
    host: str
    ports: dict[str, int]
    seal: Seal


def examine(patient: Patient) -> Iterator[Check]:
    """Every check, in order; each is made whatever the others found.

    Raises:
        EscrowError: `escrow-missing` if there is no escrow to look at.
    """
    home.open_key(patient.directory)
    for name, check in _CHECKS.items():
        yield _made(name, check, patient)


def _made(name: str, check: Callable[[Patient], str | Note], patient: Patient) -> Check:
    try:
        found = check(patient)
    except EscrowError as error:
        return Check(name, _gravity(name, patient.seal), error.message, error.hint)
    except OSError as error:
        return Check(name, "wrong", f"{error.filename or 'the system'}: {error.strerror}.", "Correct it.")
    return Check(name, "ok", found) if isinstance(found, str) else Check(name, "note", *found)


def _gravity(name: str, seal: Seal) -> Mark:
    """How grave it is that a check failed."""
    unneeded = _SEALED_ONLY if seal.sealing == "none" else _UNSEALED_ONLY
    return "note" if name in unneeded else "wrong"


def _wrong(found: str, advice: str) -> EscrowError:
    return EscrowError("usage", found, advice)


def _directory(patient: Patient) -> str:
    for path in (patient.directory, *(patient.directory / name for name in _SECRET)):
        if not path.exists():
            continue
        found = path.stat()
        if found.st_uid != os.geteuid():
            raise _wrong(f"{path} belongs to another user.", "Run this command as the escrow's own user.")
        if stat.S_IMODE(found.st_mode) & 0o077:
            mode = "700" if path.is_dir() else "600"
            raise _wrong(f"Others can open {path}.", f"chmod {mode} {path}, and think about who may have read it.")
    return "it and its keys are for its owner alone"


def _database(patient: Patient) -> str:
    database = Database(home.database_url(patient.directory))
    try:
        with database.reading() as connection:
            require_current(connection)
            last = connection.execute(rows.LAST).first()
    finally:
        database.close()
    return f"{database!r} answers, its tables are current, {last.position + 1 if last else 0} entries"


def _clock(patient: Patient) -> str:
    database = Database(home.database_url(patient.directory))
    try:
        with database.reading() as connection:
            last = connection.execute(rows.LAST).first()
    finally:
        database.close()
    shown = datetime.fromtimestamp(patient.now, UTC).isoformat()
    if last and last.time > patient.now:
        raise _wrong(f"It is {shown} here, before the ledger's last entry.", "Set the clock; use a time service.")
    return f"{shown}, not before the ledger's last entry"


def _storage(patient: Patient) -> str:
    url = home.blobs_url(patient.directory)
    blobs = blobs_at(url, patient.directory / "vault" / "blobs")
    content = secrets.token_bytes(64)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    probe = private(patient.directory / "vault" / "incoming") / digest[-32:]
    try:
        probe.write_bytes(content)
        blobs.adopt(probe, digest)
        with blobs.open(digest) as file:
            same = file.read() == content
    finally:
        probe.unlink(missing_ok=True)
        blobs.delete(digest)
    if not same:
        raise _wrong("What was stored came back changed.", "Do not use this storage.")
    return f"a file was stored, read and deleted {'in object storage' if url else 'on the disk'}"


def _room(patient: Patient) -> str:
    usage = shutil.disk_usage(patient.directory)
    if usage.free < ROOM_AT_LEAST:
        raise _wrong(f"{usage.free / GIB:.1f} GiB are free.", "Make room: an escrow without any takes no deposits.")
    return f"{usage.free / GIB:.0f} of {usage.total / GIB:.0f} GiB are free"


def _certificates(patient: Patient) -> str:
    days = days_left(Authority.open(patient.directory), patient.now)
    if days["authority"] < AUTHORITY_DAYS_AT_LEAST:
        raise _wrong(f"The authority ends in {days['authority']:.0f} days.", "escrow certificate rotate")
    if days["server"] < CERTIFICATE_DAYS_AT_LEAST:
        raise _wrong(f"The server's certificate ends in {days['server']:.0f} days.", "Look at the log of the escrow.")
    return f"the authority lasts {days['authority']:.0f} days, the server's certificate {days['server']:.0f}"


def _ports(patient: Patient) -> str:
    if serves(patient.directory):
        found = json.loads((patient.directory / "serving.json").read_text())
        places = [(found["host"], found["main"]), (found["host"], found["enrolment"]), ("127.0.0.1", found["metrics"])]
        for host, port in places:
            try:
                socket.create_connection((host, port), timeout=5).close()
            except OSError:
                raise _wrong(f"The escrow serves, but nothing answers at {host}:{port}.", "Look at its log.") from None
        return f"the escrow answers at {', '.join(f'{host}:{port}' for host, port in places)}"
    for name, port in patient.ports.items():
        host = "127.0.0.1" if name == "metrics" else patient.host
        try:
            socket.create_server((host, port), family=_family(host)).close()
        except OSError as error:
            raise _wrong(f"Nothing can listen on {host}:{port}: {error.strerror}.", "Choose another port.") from None
    return f"free: {', '.join(f'{name} {port}' for name, port in patient.ports.items())}"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _files(_: Patient) -> str:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        return "as many files as it likes may be open"
    if hard < FILES_AT_LEAST:
        advice = (
            f"Let it open {FILES_AT_LEAST} at least: LimitNOFILE=65536 in its unit, or ulimit -Hn before its start."
        )
        raise _wrong(f"Only {hard} files may be open, and each connection takes one.", advice)
    return f"{hard} files may be open"


def _worker(_: Patient) -> str:
    missing = [name for name in _TRAINING if find_spec(name) is None]
    if missing:
        raise _wrong(f"Plain processes cannot import {', '.join(missing)}.", "pip install 'model-escrow[escrow]'")
    return f"plain processes would run {code_digest(package_folders('models', 'contracts'))}"


def _memory(patient: Patient) -> str | Note:
    root = patient.seal.jobs(patient.directory)
    free = shutil.disk_usage(root.parent).free
    if root.parent not in _mounted("tmpfs"):
        raise _wrong(f"Jobs would keep plaintext on the disk, in {root}.", "Mount a tmpfs at /dev/shm.")
    if free < MEMORY_AT_LEAST:
        raise _wrong(f"{free / GIB:.1f} GiB are free in {root.parent}.", "mount -o remount,size=8G /dev/shm")
    if len(Path("/proc/swaps").read_text().splitlines()) > 1:
        return Note("This machine may write memory, and so plaintext, to its swap.", "Encrypt the swap, or swapoff -a.")
    return f"jobs have {free / GIB:.0f} GiB of memory at {root}"


def _crashes(_: Patient) -> str | Note:
    """What the kernel does with what a worker leaves when it crashes; see core(5) and proc_sys_debug(5)."""
    found = {}
    if Path("/proc/sys/kernel/core_pattern").read_text().startswith(("|", "@")):
        found["sysctl kernel.core_pattern=core"] = "A worker that crashes on purpose can hand its memory to a program."
    trace = Path("/proc/sys/debug/exception-trace")  # not every kernel has it
    if trace.exists() and trace.read_text().strip() != "0":
        said = "A worker that crashes leaves its name, addresses and 64 bytes of its code in the kernel's log."
        found["sysctl debug.exception-trace=0"] = said
    if found:
        return Note(" ".join(found.values()), "; ".join(found))
    return "a worker that crashes leaves no core, and in the kernel's log no word of its own"


def _mounted(kind: str) -> set[Path]:
    """Where file systems of a kind are mounted; see proc_pid_mountinfo(5)."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {Path(fields[4]) for fields in lines if fields[fields.index("-") + 1] == kind}


_CHECKS: Final[dict[str, Callable[[Patient], str | Note]]] = {
    "directory": _directory,
    "database": _database,
    "clock": _clock,
    "storage": _storage,
    "room": _room,
    "certificates": _certificates,
    "ports": _ports,
    "files": _files,
    "memory": _memory,
    "crashes": _crashes,
    "worker": _worker,
    "engine": lambda _: containers.engine_answers(),
    "limits": lambda _: containers.limits_hold(),
    "runtimes": lambda patient: containers.runtimes_there(patient.seal.sealing),
    "image": lambda patient: containers.image_there(patient.seal.image),
}
_UNSEALED_ONLY: Final = frozenset({"worker"})
_SEALED_ONLY: Final = frozenset({"engine", "limits", "runtimes", "image"})

__all__ = ["Check", "Patient", "examine"]
