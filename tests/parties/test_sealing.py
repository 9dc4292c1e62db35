"""One pass from plaintext to ciphertext: committed, encrypted, saved, and read by an uploader while it grows."""

import io
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyrage
import pytest
from pyrage import x25519

from contracts.canonical import commitment, digest
from parties.sealing import CHUNK, Deposit, Sealing, saved
from scenarios import tiny


def sealing(plaintext: Any, folder: Path) -> Sealing:
    return Sealing(plaintext, folder, part="holdout", schema=tiny.SCHEMA, rows=10, positives=3)


class Slow(io.RawIOBase):
    """A plaintext that comes in steps, each of which is asked for and then waited for."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)
        self.asked, self.step = threading.Semaphore(0), threading.Semaphore(0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.asked.release()
        self.step.acquire()
        return self._file.readinto(buffer)

    def free(self) -> None:
        self.step.release(1 << 20)


def opened(deposit: Deposit, ciphertext: bytes) -> bytes:
    return pyrage.decrypt(ciphertext, [x25519.Identity.from_str(deposit.identity)])


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, 3 * CHUNK + 17])
@pytest.mark.parametrize("started", [False, True])
def test_what_is_sent_is_what_is_kept(tmp_path: Path, size: int, started: bool) -> None:
    content = secrets.token_bytes(size)
    upload = sealing(io.BytesIO(content), tmp_path / "deposits")
    if started:
        upload.start()
    else:
        upload.finish()
    sent = b"".join(upload.chunks(0))
    deposit = upload.finish()
    assert digest(sent) == deposit.blob == upload.digest()
    assert len(sent) == deposit.size == deposit.path.stat().st_size
    assert opened(deposit, sent) == content
    assert commitment(bytes.fromhex(deposit.salt), digest(content)) == deposit.commitment
    assert deposit.token == upload.token
    assert {path.suffix for path in (tmp_path / "deposits").iterdir()} == {".age", ".json"}
    assert saved(tmp_path / "deposits", (deposit.commitment,)) == {deposit.commitment: deposit}
    for path in (tmp_path / "deposits").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("offset", [0, 1, CHUNK, 2 * CHUNK + 5])
def test_an_upload_goes_on_anywhere_while_the_file_still_grows(tmp_path: Path, offset: int) -> None:
    content = secrets.token_bytes(4 * CHUNK)
    plaintext = Slow(content)
    upload = sealing(plaintext, tmp_path).start()
    sent: list[bytes] = []
    reader = threading.Thread(target=lambda: sent.extend(upload.chunks(offset)))
    reader.start()
    plaintext.free()
    reader.join(20)
    deposit = upload.finish()
    assert b"".join(sent) == deposit.path.read_bytes()[offset:]


def test_a_first_chunk_comes_before_the_file_is_whole(tmp_path: Path) -> None:
    plaintext = Slow(secrets.token_bytes(4 * CHUNK))
    upload = sealing(plaintext, tmp_path).start()
    chunks = upload.chunks(0)
    first: list[bytes] = []
    reader = threading.Thread(target=lambda: first.append(next(chunks)))
    reader.start()
    while plaintext.asked.acquire(timeout=20) and next(tmp_path.glob("*.partial")).stat().st_size < CHUNK:
        plaintext.step.release()
    reader.join(20)
    assert first[0]
    assert upload.failed() is None
    assert not list(tmp_path.glob("*.age"))
    plaintext.free()
    rest = list(chunks)
    assert digest(first[0] + b"".join(rest)) == upload.finish().blob


class Failing(Slow):
    """A plaintext whose disk fails after so many bytes."""

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        if count == 0:
            raise OSError("the disk is gone")
        return count


@pytest.mark.parametrize("size", [0, 3 * CHUNK])
def test_a_plaintext_that_fails_leaves_nothing_and_tells_everyone(tmp_path: Path, size: int) -> None:
    plaintext = Failing(bytes(size))
    plaintext.free()
    upload = sealing(plaintext, tmp_path).start()
    for call in (lambda: list(upload.chunks(0)), upload.digest, upload.finish):
        with pytest.raises(OSError, match="the disk is gone"):
            call()
    assert isinstance(upload.failed(), OSError)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No file that is opened by its descriptor takes anything."""
    honest = os.fdopen

    def fdopen(descriptor: int, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if mode != "wb":
            return honest(descriptor, mode, *rest, **named)
        os.close(descriptor)
        return honest(os.open("/dev/full", os.O_WRONLY), mode, *rest, **named)

    monkeypatch.setattr("parties.sealing.os.fdopen", fdopen)
    yield
    monkeypatch.undo()


@pytest.mark.parametrize("size", [0, 10, 3 * CHUNK])
def test_a_full_disk_at_home_is_told_and_leaves_nothing(tmp_path: Path, full_disk: None, size: int) -> None:
    upload = sealing(io.BytesIO(bytes(size)), tmp_path)
    with pytest.raises(OSError, match="No space left"):
        upload.finish()
    assert list(tmp_path.iterdir()) == []


def test_two_sealings_of_one_file_have_nothing_in_common(tmp_path: Path) -> None:
    first, second = (sealing(io.BytesIO(b"rows"), tmp_path).finish() for _ in range(2))
    for name in ("commitment", "blob", "identity", "salt", "token", "path"):
        assert getattr(first, name) != getattr(second, name)


def test_secrets_do_not_show(tmp_path: Path) -> None:
    deposit = sealing(io.BytesIO(b"rows"), tmp_path).finish()
    assert deposit.identity not in repr(deposit)
    assert deposit.salt not in repr(deposit)
