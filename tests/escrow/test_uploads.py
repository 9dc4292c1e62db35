"""Uploads: whatever breaks off goes on, whatever is wrong or too much is refused, and nothing enters the vault half."""

import hashlib
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from escrow.blobs import Blobs, ObjectBlobs
from escrow.uploads import UploadLimits, Uploads
from escrow.vault import WAIT, Vault

BANK, OTHER = "north", "harbour"
MIB = 1 << 20
DATA = bytes(range(256)) * 40
Refused = Callable[[str], AbstractContextManager[None]]


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def pieces(data: bytes, size: int = 1000) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def cut_off(data: bytes) -> Iterator[bytes]:
    """Chunks of which the last never comes."""
    yield from pieces(data)
    raise ConnectionError("line cut")


def unread() -> Iterator[bytes]:
    """Chunks that nobody may ask for."""
    raise AssertionError("nothing had to be sent")
    yield b""


def files_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


class Side:
    """The escrow's side of uploads, which may be started again."""

    def __init__(self, root: Path, blobs: Blobs, limits: UploadLimits | None = None) -> None:
        self.root, self.blobs, self.limits = root, blobs, limits
        self.start()

    def start(self) -> None:
        self.vault = Vault(self.root / "vault", self.blobs)
        self.uploads = Uploads(self.root / "uploads", self.vault, self.limits)

    def send(
        self,
        data: bytes,
        *,
        token: str,
        offset: int = 0,
        chunks: Iterable[bytes] | None = None,
        digest: Callable[[], str] | None = None,
        party: str = BANK,
    ) -> str:
        """Send `data` from `offset` on, or `chunks` in its stead."""
        chunks = pieces(data[offset:]) if chunks is None else chunks
        return self.uploads.receive(party, token, offset, chunks, digest or (lambda: digest_of(data)))

    def break_off(self, data: bytes, *, token: str, offset: int = 0, party: str = BANK) -> None:
        with pytest.raises(ConnectionError):
            self.send(data, token=token, offset=offset, chunks=cut_off(data[offset:]), party=party)


@pytest.fixture
def side(tmp_path: Path, blobs: Blobs) -> Side:
    return Side(tmp_path, blobs)


@pytest.fixture
def small(tmp_path: Path, blobs: Blobs) -> Side:
    """With room for little."""
    limits = UploadLimits(file_bytes=8_000, staged_bytes=10_000, unstated_bytes=12_000, files=4, simultaneous=2)
    return Side(tmp_path, blobs, limits)


@pytest.fixture
def token() -> str:
    return secrets.token_hex(16)


# whole, in pieces, again


@pytest.mark.parametrize("size", [0, 1, len(DATA)])
def test_a_file_that_arrives_enters_the_vault(side: Side, token: str, size: int) -> None:
    assert side.uploads.received(BANK, token) == 0
    digest = side.send(DATA[:size], token=token)
    assert digest == digest_of(DATA[:size])
    assert side.vault.read(digest) == DATA[:size]
    assert side.uploads.received(BANK, token) == size


def test_an_upload_goes_on_where_it_was_cut_off_also_after_a_restart(side: Side, token: str) -> None:
    side.break_off(DATA[:4000], token=token)
    side.start()
    side.break_off(DATA[:7000], token=token, offset=4000)
    assert (side.uploads.received(BANK, token), list(side.blobs.all())) == (7000, [])
    assert side.vault.read(side.send(DATA, token=token, offset=7000)) == DATA


def test_what_lies_beyond_the_offset_is_replaced(side: Side, token: str) -> None:
    side.break_off(DATA[:2000] + b"of another file" * 1000, token=token)
    assert side.vault.read(side.send(DATA, token=token, offset=2000)) == DATA


@pytest.mark.parametrize("offset", [-1, 4001])
def test_an_upload_cannot_leave_a_gap(side: Side, token: str, refused: Refused, offset: int) -> None:
    side.break_off(DATA[:4000], token=token)
    with refused("upload-refused"):
        side.send(DATA, token=token, offset=offset, chunks=unread())
    assert side.uploads.received(BANK, token) == 4000


def test_a_completed_upload_is_not_sent_twice(side: Side, token: str) -> None:
    digest = side.send(DATA, token=token)
    for _ in range(2):
        assert side.uploads.received(BANK, token) == len(DATA)
        assert side.send(DATA, token=token, chunks=unread()) == digest
        side.start()


def test_a_completed_upload_whose_blob_is_gone_is_sent_anew(side: Side, token: str) -> None:
    digest = side.send(DATA, token=token)
    side.vault.delete(digest)
    assert side.uploads.received(BANK, token) == 0
    assert side.send(DATA, token=token) == digest
    assert side.vault.read(digest) == DATA


def test_bytes_of_another_digest_are_refused_and_deleted(
    side: Side, token: str, tmp_path: Path, refused: Refused
) -> None:
    with refused("blob-refused"):
        side.send(DATA, token=token, digest=lambda: digest_of(b"other"))
    assert side.uploads.received(BANK, token) == 0
    assert (files_below(tmp_path), list(side.blobs.all())) == ([], [])


def test_bytes_that_rotted_while_they_waited_are_noticed(
    side: Side, token: str, tmp_path: Path, refused: Refused
) -> None:
    side.break_off(DATA[:4000], token=token)
    (path,) = files_below(tmp_path)
    path.write_bytes(bytes(4000))
    with refused("blob-refused"):
        side.send(DATA, token=token, offset=4000)


def test_a_sender_that_never_says_the_digest_keeps_what_it_sent(side: Side, token: str) -> None:
    def never() -> str:
        raise ConnectionError("line cut before the end")

    with pytest.raises(ConnectionError):
        side.send(DATA, token=token, digest=never)
    assert side.uploads.received(BANK, token) == len(DATA)
    assert list(side.blobs.all()) == []
    assert side.vault.read(side.send(DATA, token=token, offset=len(DATA), chunks=())) == DATA


steps = st.lists(st.tuples(st.floats(0, 1), st.lists(st.integers(0, 3000), max_size=4), st.booleans()), max_size=6)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=steps, size=st.integers(0, 6000))
def test_however_an_upload_is_cut_and_resumed_the_file_is_whole(
    side: Side, steps: list[tuple[float, list[int], bool]], size: int
) -> None:
    """Each step goes back to some part of what is there, sends some chunks, and perhaps meets a new start."""
    data, token = (secrets.token_bytes(8) + DATA)[:size], secrets.token_hex(16)
    for back, sizes, restart in steps:
        offset = at = int(back * side.uploads.received(BANK, token))
        sent = []
        for each in sizes:
            sent.append(data[at : at + each])
            at += len(sent[-1])
        side.break_off(data[:at], token=token, offset=offset)
        assert side.uploads.received(BANK, token) == at
        if restart:
            side.start()
    there = side.uploads.received(BANK, token)
    assert side.vault.read(side.send(data, token=token, offset=there)) == data
    side.vault.delete(digest_of(data))  # short files may repeat


# parties apart


def test_uploads_of_two_parties_with_one_token_do_not_meet(side: Side, token: str) -> None:
    side.break_off(DATA[:4000], token=token)
    assert side.uploads.received(OTHER, token) == 0
    assert side.send(b"theirs", token=token, party=OTHER) == digest_of(b"theirs")
    assert side.uploads.received(BANK, token) == 4000


@pytest.mark.parametrize("odd", ["", "a" * 31, "A" * 32, "a" * 32 + "\n", "../" + "a" * 29])
def test_an_odd_token_names_no_upload(side: Side, refused: Refused, odd: str, tmp_path: Path) -> None:
    with refused("upload-refused"):
        side.send(DATA, token=odd)
    with refused("upload-refused"):
        side.uploads.received(BANK, odd)
    with pytest.raises(ValueError, match="name of a party"):
        side.uploads.received("../north", "a" * 32)
    assert files_below(tmp_path) == []


# a party's share


def test_one_upload_is_received_once_at_a_time(side: Side, token: str, refused: Refused) -> None:
    def meanwhile() -> Iterator[bytes]:
        yield DATA
        with refused("upload-busy"):
            side.send(DATA, token=token, chunks=unread())

    assert side.vault.read(side.send(DATA, token=token, chunks=meanwhile())) == DATA


def test_a_party_sends_a_few_files_at_once(small: Side, refused: Refused) -> None:
    def third() -> Iterator[bytes]:
        with refused("quota-exceeded"):
            small.send(b"3", token="3" * 32, chunks=unread())
        small.send(b"another party's", token="3" * 32, party=OTHER)
        yield b"2"

    def second() -> Iterator[bytes]:
        small.send(b"2", token="2" * 32, chunks=third())
        yield b"1"

    small.send(b"1", token="1" * 32, chunks=second())
    small.send(b"3", token="3" * 32)
    assert len(list(small.blobs.all())) == 4


def test_a_file_that_is_too_large_is_refused_and_deleted(small: Side, token: str, refused: Refused) -> None:
    with refused("quota-exceeded"):
        small.send(DATA[:8001], token=token)
    assert small.uploads.received(BANK, token) == 0
    small.send(DATA[:8000], token=token)


def test_an_endless_file_is_refused(small: Side, token: str, refused: Refused) -> None:
    with refused("quota-exceeded"):
        small.send(b"", token=token, chunks=iter(lambda: bytes(100), b""))


def test_incomplete_uploads_have_so_many_bytes_together_also_after_a_restart(small: Side, refused: Refused) -> None:
    small.break_off(DATA[:6000], token="1" * 32)
    small.start()
    with refused("quota-exceeded"):
        small.send(DATA[:5000], token="2" * 32)
    assert small.uploads.received(BANK, "2" * 32) == 4000  # as much as there was room for
    small.send(DATA[:5000], token="2" * 32, party=OTHER)
    small.send(DATA[:6000], token="1" * 32, offset=6000)
    small.send(DATA[:5000], token="2" * 32, offset=4000)


def test_completed_uploads_that_nothing_names_fill_a_partys_share(small: Side, refused: Refused) -> None:
    digests = [small.send(bytes([number]) * 6000, token=str(number) * 32) for number in (1, 2)]
    small.start()
    with refused("quota-exceeded"):
        small.send(DATA[:1], token="3" * 32, chunks=unread())
    assert small.send(bytes([1]) * 6000, token="1" * 32, chunks=unread()) == digests[0]
    small.uploads.sweep(time.time(), [digests[0]])
    small.send(DATA[:1], token="3" * 32)


def test_a_party_begins_so_many_uploads(small: Side, refused: Refused) -> None:
    for number in range(4):
        small.break_off(b"", token=str(number) * 32)
    with refused("quota-exceeded"):
        small.send(b"x", token="4" * 32)
    small.send(b"x", token="3" * 32)


# what is left


def test_uploads_that_nothing_happened_to_are_forgotten(side: Side, tmp_path: Path) -> None:
    side.break_off(DATA[:4000], token="1" * 32)
    side.send(DATA, token="2" * 32)
    now = time.time()
    side.uploads.sweep(now + WAIT - 60, ())
    assert [side.uploads.received(BANK, each * 32) for each in "12"] == [4000, len(DATA)]
    side.uploads.sweep(now + WAIT + 60, ())
    assert [side.uploads.received(BANK, each * 32) for each in "12"] == [0, 0]
    assert files_below(tmp_path / "uploads") == []
    assert side.vault.has(digest_of(DATA))  # which is `Vault.unclaimed`'s to tell


def test_who_sent_a_file_is_remembered_until_it_is_forgotten(side: Side, token: str) -> None:
    assert not side.uploads.sent(BANK, digest_of(DATA))
    side.send(DATA, token=token)
    for _ in range(2):
        assert side.uploads.sent(BANK, digest_of(DATA))
        assert not side.uploads.sent(OTHER, digest_of(DATA))
        side.uploads.sweep(time.time(), {digest_of(DATA)})  # stated
        side.start()
    side.uploads.sweep(time.time() + WAIT + 1, ())
    assert not side.uploads.sent(BANK, digest_of(DATA))


def test_an_upload_that_goes_on_is_never_swept_away(side: Side, token: str) -> None:
    def meanwhile() -> Iterator[bytes]:
        yield DATA[:4000]
        side.uploads.sweep(time.time() + 2 * WAIT, ())
        yield DATA[4000:]

    assert side.vault.read(side.send(DATA, token=token, chunks=meanwhile())) == DATA


def test_only_the_owner_can_read_what_is_staged(side: Side, token: str, tmp_path: Path) -> None:
    side.break_off(DATA, token=token)
    side.send(DATA, token="1" * 32)
    modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in (tmp_path / "uploads").rglob("*")}
    assert modes == {(True, 0o700), (False, 0o600)}


# crashes, full disks, lost storage

RECEIVE = """
import hashlib, resource, sys
from pathlib import Path
from contracts.errors import EscrowError
from escrow.uploads import Uploads
from escrow.vault import Vault

root, token, stop, room = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
data = [bytes([number]) * 65536 for number in range(64)]
def chunks(start):
    for number in range(start, 64):
        if number == stop:
            print("stopped", flush=True)
            sys.stdin.read()
        yield data[number]
def digest():
    return "sha256:" + hashlib.sha256(b"".join(data)).hexdigest()
if room:
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
uploads = Uploads(root / "uploads", Vault(root / "vault"))
there = uploads.received("north", token)
print(there, flush=True)
try:
    print(uploads.receive("north", token, there - there % 65536, chunks(there // 65536), digest))
except EscrowError as error:
    print(error.code)
"""
WHOLE = b"".join(bytes([number]) * 65536 for number in range(64))


def child(root: Path, token: str, *, stop: int = 64, room: int = 0) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", RECEIVE, str(root), token, str(stop), str(room)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_an_upload_outlives_sigkill(tmp_path: Path, token: str) -> None:
    arrived = 0
    for stop in (5, 6, 40):
        with child(tmp_path, token, stop=stop) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == f"{arrived}\n"
            assert process.stdout.readline() == "stopped\n"
            process.kill()
            assert process.wait(60) == -signal.SIGKILL
        arrived = stop * 65536
    assert files_below(tmp_path / "vault") == []
    with child(tmp_path, token) as process:
        assert process.communicate()[0] == f"{arrived}\n{digest_of(WHOLE)}\n"
    assert Vault(tmp_path / "vault").read(digest_of(WHOLE)) == WHOLE


def test_an_upload_killed_at_any_moment_goes_on(tmp_path: Path, token: str) -> None:
    vault = Vault(tmp_path / "vault")
    for pause in (0.0, 0.001, 0.002, 0.004, 0.008):
        with child(tmp_path, token) as process, suppress(ProcessLookupError):
            assert process.stdout is not None
            process.stdout.readline()
            with suppress(subprocess.TimeoutExpired):
                process.wait(pause)  # the moment of the kill is what is tried here
            process.kill()
        assert not vault.has(digest_of(WHOLE)) or vault.read(digest_of(WHOLE)) == WHOLE
    uploads = Uploads(tmp_path / "uploads", vault)
    there = uploads.received(BANK, token)
    assert uploads.receive(BANK, token, there, pieces(WHOLE[there:]), lambda: digest_of(WHOLE)) == digest_of(WHOLE)
    assert vault.read(digest_of(WHOLE)) == WHOLE


def test_a_full_disk_keeps_what_found_room_and_the_upload_goes_on_later(tmp_path: Path, token: str) -> None:
    room = 10 * 65536 + 1000
    with child(tmp_path, token, room=room) as process:
        assert process.communicate()[0] == "0\nstorage-full\n"
    vault = Vault(tmp_path / "vault")
    uploads = Uploads(tmp_path / "uploads", vault)
    assert (uploads.received(BANK, token), files_below(tmp_path / "vault")) == (room, [])
    assert uploads.receive(BANK, token, room, pieces(WHOLE[room:], MIB), lambda: digest_of(WHOLE)) == digest_of(WHOLE)
    assert vault.read(digest_of(WHOLE)) == WHOLE


@pytest.fixture
def restored(
    storage: Any, cut_line: Callable[[int], Any], reach: Callable[[tuple[str, int]], None]
) -> Callable[[], None]:
    """The storage cannot be reached until this is called."""
    cut_line(0).cut()
    return lambda: reach(storage.address)


def test_storage_that_is_lost_at_the_end_costs_no_byte(
    tmp_path: Path, token: str, bucket: str, restored: Callable[[], None], refused: Refused
) -> None:
    with refused("storage-unreachable"):
        Side(tmp_path, ObjectBlobs(bucket, patience=timedelta(0))).send(DATA, token=token)
    restored()
    side = Side(tmp_path, ObjectBlobs(bucket, patience=timedelta(0)))
    assert (side.uploads.received(BANK, token), list(side.blobs.all())) == (len(DATA), [])
    assert side.vault.read(side.send(DATA, token=token, offset=len(DATA), chunks=())) == DATA


def test_receiving_takes_little_memory(tmp_path: Path) -> None:
    script = """
import hashlib, re, sys
from pathlib import Path
from escrow.uploads import Uploads
from escrow.vault import Vault
def peak():
    return int(re.search(r"VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1]) // 1024
root, sha = Path(sys.argv[1]), hashlib.sha256()
uploads = Uploads(root / "uploads", Vault(root / "vault"))
def chunks():
    for number in range(128):
        chunk = bytes([number]) * (1 << 20)
        sha.update(chunk)
        yield chunk
before = peak()
uploads.receive("north", "0" * 32, 0, chunks(), lambda: f"sha256:{sha.hexdigest()}")
print(peak() - before)
"""
    grown = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, check=True, text=True)
    assert int(grown.stdout) < 16  # MiB, for 128 MiB
