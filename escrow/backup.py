"""An escrow as one archive, made while it serves, and an escrow made of such an archive.

Rules:
1. The ledger is copied first, then what it names. An encrypted file was there before its statement, never changes, and
   none is cleared away while a backup is made. So every file that the copied ledger needs is in the archive, however
   long the copying takes.
2. Run keys and what runs have made so far are copied after the ledger. If a contract ended meanwhile they are missing:
   in the restored escrow it fails closed. The other order could bring back a key that the ledger says was erased.
3. Restoring keeps only the keys of contracts that the restored ledger says are unfinished.
4. An archive is hostile until it is proven: members have the known names, every statement is verified against the key
   in the archive, every encrypted file against its name. The key of the escrow is written last: cut short, there is no
   escrow.

An archive holds the escrow's key and the keys of unfinished runs, so it has mode 0600 and belongs where the escrow's
directory could stand. Encrypted files in object storage are not in it.
"""

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from contracts.errors import EscrowError
from contracts.lifecycle import TERMINAL, State
from contracts.notes import Checkpoint
from contracts.records import CaseRecord
from contracts.signing import Ed25519Signer
from escrow import home, transfer
from escrow.core import Core
from escrow.disk import arriving, full_disk_refused, private, write_whole
from escrow.housekeeping import needed
from escrow.ledger import Ledger
from escrow.runs import key_name

LEDGER: Final = "ledger.jsonl"
_ABOUT, _KEY = "escrow.json", "key.pem"
_KEYS: Final = "vault/keys"
_BLOBS: Final = "vault/blobs"
_FOLDERS: Final = ("tls", "requests", "runs", _BLOBS, _KEYS)
_MEMBER: Final = re.compile(r"(tls|requests|runs|vault/blobs|vault/keys)(/[A-Za-z0-9=_][A-Za-z0-9._=-]*){1,4}")
_ERASED: Final = ".erased"  # marks the name of a key that never comes back
_SMALL: Final = 1 << 20  # bytes of the files that are read into memory
_CHUNK: Final = 1 << 20


class Restored(NamedTuple):
    """What a restored escrow has."""

    origin: str
    fingerprint: str
    head: Checkpoint
    files: int  # encrypted files that came with the archive
    missing: int  # files that the ledger needs and the archive lacks; 0 if they lie in object storage
    keys: int  # of unfinished runs


def back_up(core: Core, path: Path) -> dict[str, Any]:
    """Write an archive of an escrow that this process has open; what is in it.

    Raises:
        EscrowError: `file-unwritable`, `storage-full`.
    """
    ledger = path.with_name(f"{path.name}.ledger")
    try:
        head = transfer.backup(core.ledger, ledger, core.origin, core.signer)
        with arriving(path) as file:
            counted = _write(core.directory, ledger, file)
    finally:
        ledger.unlink(missing_ok=True)
    elsewhere = home.blobs_url(core.directory) is not None
    return {
        "file": str(path),
        "entries": head.size,
        "files": counted[_BLOBS],
        "keys": counted[_KEYS],
        "object-storage": elsewhere,
    }


def _write(directory: Path, ledger: Path, file: IO[bytes]) -> dict[str, int]:
    """The archive; how many files of each folder are in it."""
    counted = dict.fromkeys(_FOLDERS, 0)
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, ledger, LEDGER)
        for folder in _FOLDERS:
            for path in sorted((directory / folder).rglob("*")):
                name = path.relative_to(directory).as_posix()
                if path.is_file() and _MEMBER.fullmatch(name) and not name.endswith((".new", ".partial")):
                    counted[folder] += _add(archive, path, name)
        for name in (_ABOUT, _KEY):
            _add(archive, directory / name, name)
    return counted


def _add(archive: tarfile.TarFile, path: Path, name: str) -> bool:
    """Add a file, and say so, unless it was removed since it was listed."""
    try:
        with path.open("rb") as file:
            member = tarfile.TarInfo(name)
            member.size, member.mode = os.fstat(file.fileno()).st_size, 0o600
            archive.addfile(member, file)
    except FileNotFoundError:
        return False
    return True


def restore(path: Path, directory: Path, database: str | None = None) -> Restored:
    """Make an escrow of an archive.

    Args:
        path: the archive.
        directory: new or empty.
        database: SQLAlchemy URL of an empty database for the ledger; a file in the directory if None.

    Raises:
        EscrowError: `escrow-exists` if the directory holds anything, `file-unreadable`, `archive-invalid`,
            `blob-corrupt`, `storage-full`, or as `escrow.transfer.restore`.
    """
    if directory.exists() and any(directory.iterdir()):
        raise EscrowError("escrow-exists", f"{directory} is not empty.", "Choose an empty directory.")
    try:
        with path.open("rb") as file, full_disk_refused():
            return _restored(file, directory, database)
    except tarfile.TarError:
        raise _invalid("The file is not an archive of an escrow.") from None
    except OSError as error:
        raise EscrowError("file-unreadable", f"{path} cannot be restored: {error.strerror}.") from None


def _restored(file: IO[bytes], directory: Path, database: str | None) -> Restored:
    private(directory)
    small: dict[str, bytes] = {}
    for name, content in _members(file):
        if name in {_ABOUT, _KEY}:
            small[name] = content.read(_SMALL)
        else:
            _extract(directory, name, content)
    about, signer = _identity(small)
    about.pop("database", None)
    write_whole(directory / _ABOUT, json.dumps(about | ({"database": database} if database else {})).encode())
    ledger = directory / LEDGER
    if not ledger.is_file():
        raise _invalid("The archive holds no ledger.")
    with ledger.open("rb") as source:
        head = transfer.restore(home.database_url(directory), source, about["origin"], signer.public)
    ledger.unlink()
    files = {f"sha256:{path.name}" for path in (directory / _BLOBS).glob("*")}
    opened = Ledger(home.database_url(directory))
    try:
        keys = _drop_keys(directory, opened)
        missing = len(needed(opened) - files) if "blobs" not in about else 0
    finally:
        opened.close()
    write_whole(directory / _KEY, small[_KEY])
    return Restored(about["origin"], signer.key_id, head, len(files), missing, keys)


def _members(file: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            known = member.name in {LEDGER, _ABOUT, _KEY} or _MEMBER.fullmatch(member.name)
            content = archive.extractfile(member) if member.isreg() and known else None
            if content is None:
                raise _invalid("The archive holds something that no backup of an escrow has.")
            with content:
                yield member.name, content


def _extract(directory: Path, name: str, content: IO[bytes]) -> None:
    """Write one file; encrypted ones are checked against their names."""
    path = directory / name
    for folder in reversed(path.relative_to(directory).parents):
        private(directory / folder)
    digest = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    if path.parent == directory / _BLOBS and digest.hexdigest() != path.name:
        raise EscrowError(
            "blob-corrupt", f"The archive's copy of sha256:{path.name} is damaged.", "Use another backup."
        )


def _identity(small: dict[str, bytes]) -> tuple[dict[str, str], Ed25519Signer]:
    """What the archive says of the escrow, and its key, which belong together."""
    try:
        about = json.loads(small[_ABOUT])
        signer = Ed25519Signer.from_pem(small[_KEY])
        texts = all(isinstance(each, str) for each in about.values())
        same = about["public-key"] == signer.public and "origin" in about
    except (KeyError, ValueError, AttributeError, TypeError):
        texts = same = False
    if not (texts and same):
        raise _invalid("The archive does not hold an escrow's key and what belongs to it.")
    return about, signer


def _drop_keys(directory: Path, ledger: Ledger) -> int:
    """Remove the run keys that no unfinished contract of the restored ledger has; how many are left."""
    states = [state for state in State if state not in TERMINAL]
    cases = [each for each in ledger.all("case", states=states) if isinstance(each, CaseRecord)]
    unfinished, left = {key_name(case.digest) for case in cases}, 0
    for path in (directory / _KEYS).glob("*"):
        if path.name in unfinished:
            left += 1
        elif path.suffix != _ERASED:
            path.unlink()
    return left


def _invalid(sentence: str) -> EscrowError:
    return EscrowError("archive-invalid", sentence, "Use another backup; rely on nothing of this one.")


__all__ = ["LEDGER", "Restored", "back_up", "restore"]
