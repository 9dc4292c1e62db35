"""One file committed and encrypted in one pass, in memory that does not depend on its size.

A file may be sent while it is still being encrypted: the uploader reads the growing ciphertext from the bank's own disk
and so may begin again from any place. What opens the file is saved as soon as the ciphertext is whole.
"""

import hashlib
import io
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, Self

import pyrage
from pyrage import x25519

from contracts.canonical import SALT_BYTES, canonical, commitment, encode_base64
from contracts.errors import EscrowError
from contracts.proceedings import term_digest
from contracts.schema import Schema
from contracts.statements import DataDeposited
from contracts.terms import Digest

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Part = Literal["train", "holdout", "incumbent", "table", "capsule"]
CHUNK: Final = 1 << 18
BLOCK: Final = 1 << 17  # of plaintext: pyrage asks for 8 KiB at a time, and hashing so little at once takes longer


@dataclass(frozen=True)
class Deposit:
    """One committed and encrypted file, and the secrets that open it; also an upload (`contracts.api.Upload`)."""

    part: Part
    commitment: str
    schema: Digest | None  # of what a joint training uses
    rows: int | None
    positives: int | None
    blob: Digest
    size: int
    token: str  # of its upload
    path: Path  # of the ciphertext
    identity: str = field(repr=False)  # age secret key
    salt: str = field(repr=False)  # hex
    kept: bool = False  # it is committed to, and never sent

    def statement(self, ledger: str, party: str) -> DataDeposited:
        """What the party states of it."""
        return DataDeposited(
            ledger=ledger,
            party=party,
            part=self.part,
            commitment=self.commitment,
            data_schema=self.schema,
            rows=self.rows,
            positives=self.positives,
            blob=None if self.kept else self.blob,
            size=0 if self.kept else self.size,
        )

    def digest(self) -> Digest:
        """Of the ciphertext."""
        return self.blob

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        """The ciphertext from an offset on."""
        with self.path.open("rb") as file:
            file.seek(offset)
            while chunk := file.read(CHUNK):
                yield chunk

    def open_into(self, file: BinaryIO) -> None:
        """Write the plaintext into an open file. Only the end shows that nothing was cut off.

        Raises:
            EscrowError: `file-unreadable` if the ciphertext is not at home, `blob-corrupt` if it was changed.
        """
        writer = _Writer(file)
        try:
            with self.path.open("rb") as ciphertext:
                pyrage.decrypt_io(ciphertext, writer, [x25519.Identity.from_str(self.identity)])
        except (pyrage.DecryptError, OSError) as error:
            if error is writer.error:
                raise
            if isinstance(error, FileNotFoundError):
                raise EscrowError("file-unreadable", f"The deposit's file {self.path.name} is not at home.") from None
            raise EscrowError("blob-corrupt", f"The deposit's file {self.path.name} is damaged.") from error
        if writer.error is not None:
            raise writer.error

    def sealed_key(self, run_recipient: str) -> str:
        """What opens the deposit, encrypted to a run key; base64, as an approval carries it."""
        opened = canonical({"identity": self.identity, "salt": self.salt})
        return encode_base64(pyrage.encrypt(opened, [x25519.Recipient.from_str(run_recipient)]))

    def save(self) -> None:
        """Keep the secrets beside the ciphertext, mode 0600."""
        path = self.path.with_name(f"{_stem(self.commitment)}.json")
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump({**asdict(self), "path": self.path.name}, file)
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def load(cls, path: Path) -> Self:
        """A deposit that was saved."""
        about = json.loads(path.read_text())
        return cls(**{**about, "path": path.parent / about["path"]})


def saved(folder: Path, commitments: tuple[str, ...]) -> dict[str, Deposit]:
    """The deposits kept in `folder` under these commitments.

    Raises:
        EscrowError: `deposit-unknown` if one is not there.
    """
    found = {}
    for each in commitments:
        path = folder / f"{_stem(each)}.json"
        if not path.is_file():
            raise EscrowError("deposit-unknown", f"The secrets of the deposit {each} are not in {folder}.")
        found[each] = Deposit.load(path)
    return found


class Sealing:
    """A file on its way from plaintext to ciphertext; an upload (`contracts.api.Upload`) once it was started."""

    def __init__(
        self,
        plaintext: BinaryIO,
        folder: Path,
        *,
        part: Part,
        schema: Schema | None = None,
        rows: int | None = None,
        positives: int | None = None,
        kept: bool = False,
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.token = secrets.token_hex(16)
        self.kept = kept
        self._plaintext, self._folder = plaintext, folder
        by = None if schema is None else term_digest(schema)
        self._about = {"part": part, "schema": by, "rows": rows, "positives": positives, "kept": kept}
        self._ciphertext = folder / f"{self.token}.partial"
        self._done: Future[Deposit] = Future()
        self._written = _Written()

    def start(self) -> Self:
        """Encrypt in a thread of its own."""
        self._written.started = True
        threading.Thread(target=self._run, name="sealing", daemon=True).start()
        return self

    def finish(self) -> Deposit:
        """Encrypt here and now, unless it was started; the deposit, with its secrets saved."""
        if not self._written.started:
            self._run()
        return self._done.result()

    def digest(self) -> Digest:
        """Of the ciphertext; waits until it is whole."""
        return self._done.result().blob

    def chunks(self, offset: int) -> Iterator[bytes]:
        """The ciphertext from an offset on, as it is written."""
        self._written.past(0)
        with self._open() as file:
            file.seek(offset)
            while self._written.past(offset + CHUNK - 1):
                while chunk := file.read(CHUNK):
                    offset += len(chunk)
                    yield chunk
            yield from iter(partial(file.read, CHUNK), b"")
        self._done.result()

    def failed(self) -> BaseException | None:
        """What kept the file from being encrypted, if that is why an upload broke off."""
        return self._done.exception() if self._done.done() else None

    def _open(self) -> BinaryIO:
        try:
            return self._ciphertext.open("rb")
        except FileNotFoundError:  # it is whole, and has its own name
            return self._done.result().path.open("rb")

    def _run(self) -> None:
        try:
            self._done.set_result(self._sealed())
        except BaseException as error:  # noqa: BLE001 - whoever waits for the deposit gets it
            self._ciphertext.unlink(missing_ok=True)
            self._done.set_exception(error)
        finally:
            self._written.end()

    def _sealed(self) -> Deposit:
        self._written.started = True
        identity, salt = x25519.Identity.generate(), secrets.token_bytes(SALT_BYTES)
        reader = _Reader(self._plaintext)
        descriptor = os.open(self._ciphertext, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            writer = _Writer(file, self._written.now)
            try:
                pyrage.encrypt_io(io.BufferedReader(reader, BLOCK), writer, [identity.to_public()])
            finally:
                # pyrage calls a failing disk a broken file, and says nothing if it fails in the last write
                if (error := reader.error or writer.error) is not None:
                    raise error
            os.fsync(file.fileno())
            bound = commitment(salt, f"sha256:{reader.hash.hexdigest()}")
        path = self._folder / f"{_stem(bound)}.age"
        self._ciphertext.rename(path)
        deposit = Deposit(
            **self._about,  # type: ignore[arg-type]
            commitment=bound,
            blob=f"sha256:{writer.hash.hexdigest()}",
            size=writer.size,
            token=self.token,
            path=path,
            identity=str(identity),
            salt=salt.hex(),
        )
        deposit.save()
        return deposit


class _Written:
    """How far the ciphertext has come, for whoever waits for more of it."""

    def __init__(self) -> None:
        self.started = False
        self._change = threading.Condition()
        self._size, self._told, self._over = 0, 0, False

    def now(self, size: int) -> None:
        """So many bytes are in the file; who waits is woken for a chunk's worth."""
        if size - self._told >= CHUNK:
            with self._change:
                self._size = self._told = size
                self._change.notify_all()

    def end(self) -> None:
        """There will be no more."""
        with self._change:
            self._over = True
            self._change.notify_all()

    def past(self, size: int) -> bool:
        """Wait until more than `size` bytes are there; False if there never will be, as far as was told."""
        with self._change:
            self._change.wait_for(lambda: self._size > size or self._over)
            return self._size > size and not self._over


class _Reader(io.RawIOBase):
    """The plaintext, hashed as it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.error: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)
        try:
            data = self._file.read(len(view))
        except Exception as error:
            self.error = error
            raise
        self.hash.update(data)
        view[: len(data)] = data
        return len(data)


class _Writer:
    """What is written, hashed and counted as it is."""

    def __init__(self, file: BinaryIO | io.FileIO, told: Callable[[int], None] = lambda _: None) -> None:
        self._file, self._told = file, told
        self.hash, self.size = hashlib.sha256(), 0
        self.error: Exception | None = None

    def write(self, data: bytes) -> int:
        try:
            written = self._file.write(data)
        except Exception as error:
            self.error = error
            raise
        self.hash.update(memoryview(data)[:written])
        self.size += written
        self._told(self.size)
        return written

    def flush(self) -> None:
        """Nothing is held back."""


def _stem(bound: str) -> str:
    return bound.removeprefix("sha256-salted:")
