"""Blobs behave alike on the local disk and on S3-compatible storage: whole or not there, never half."""

import hashlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from escrow.blobs import Blobs, LocalBlobs, ObjectBlobs, blobs_at

MIB = 1 << 20
ABSENT = f"sha256:{'0' * 64}"
Refused = Callable[[str], AbstractContextManager[None]]


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def offered(tmp_path: Path) -> Callable[[bytes], Path]:
    """Makes a file that is to be adopted."""
    (tmp_path / "incoming").mkdir()

    def make(data: bytes) -> Path:
        path = tmp_path / "incoming" / secrets.token_hex(4)
        path.write_bytes(data)
        path.chmod(0o600)
        return path

    return make


Offered = Callable[[bytes], Path]


@pytest.mark.parametrize("size", [0, 1, 20 * MIB + 1])
def test_a_file_is_moved_in_and_read_back(blobs: Blobs, offered: Offered, size: int) -> None:
    data = os.urandom(size)
    path, digest = offered(data), digest_of(data)
    blobs.adopt(path, digest)
    assert not path.exists()
    assert (blobs.has(digest), blobs.size(digest), list(blobs.all())) == (True, size, [digest])
    with blobs.open(digest) as reader:
        assert reader.read() == data


def test_a_reader_reads_in_pieces_from_anywhere(blobs: Blobs, offered: Offered) -> None:
    data = os.urandom(9 * MIB)
    blobs.adopt(offered(data), digest_of(data))
    with blobs.open(digest_of(data)) as reader:
        assert b"".join(iter(lambda: reader.read(700_001), b"")) == data
        assert reader.seek(8 * MIB - 3) == 8 * MIB - 3
        assert reader.read(6) == data[8 * MIB - 3 : 8 * MIB + 3]
        assert reader.tell() == 8 * MIB + 3
        reader.seek(-2, os.SEEK_END)
        assert reader.read(9) == data[-2:]


def test_a_blob_that_is_there_may_be_adopted_again(blobs: Blobs, offered: Offered) -> None:
    for _ in range(2):
        blobs.adopt(offered(b"same"), digest_of(b"same"))
    assert list(blobs.all()) == [digest_of(b"same")]


def test_what_is_not_there_is_missing_and_may_be_deleted(blobs: Blobs, offered: Offered, refused: Refused) -> None:
    blobs.adopt(offered(b"x"), digest_of(b"x"))
    for digest in (digest_of(b"x"), ABSENT):
        blobs.delete(digest)
        assert not blobs.has(digest)
        for use in (blobs.open, blobs.size):
            with refused("blob-missing"):
                use(digest)
    assert list(blobs.all()) == []


@pytest.mark.parametrize("name", ["", "sha256:../../etc/passwd", f"sha256:{'A' * 64}", f"sha256:{'a' * 63}\n"])
def test_an_odd_digest_names_no_blob(blobs: Blobs, offered: Offered, refused: Refused, name: str) -> None:
    for use in (blobs.open, blobs.has, blobs.delete, lambda name: blobs.adopt(offered(b"x"), name)):
        with refused("blob-missing"):
            use(name)
    assert list(blobs.all()) == []


def test_blobs_are_listed_by_their_age_since_they_were_adopted(blobs: Blobs, offered: Offered) -> None:
    path = offered(b"x")
    os.utime(path, (0, 0))
    before = time.time() - 60
    blobs.adopt(path, digest_of(b"x"))
    assert list(blobs.all(before=before)) == []
    assert list(blobs.all(before=time.time() + 60)) == [digest_of(b"x")]


def test_without_a_url_blobs_lie_in_the_folder(tmp_path: Path, bucket: str) -> None:
    assert isinstance(blobs_at(None, tmp_path / "blobs"), LocalBlobs)
    assert isinstance(blobs_at(bucket, tmp_path / "none"), ObjectBlobs)
    assert not (tmp_path / "none").exists()


def test_objects_are_listed_page_by_page_and_nothing_else_is(
    storage: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")  # a page of the server's, else of 1,000
    prefix = bucket.removeprefix("s3://vault/")
    for number in range(35):
        storage.client.put_object(Bucket="vault", Key=f"{prefix}/{number:064x}", Body=b"")
    storage.client.put_object(Bucket="vault", Key=f"{prefix}/a-note-of-the-operator", Body=b"")
    storage.client.put_object(Bucket="vault", Key=f"{prefix}-2/{1:064x}", Body=b"")
    assert sorted(ObjectBlobs(bucket).all()) == [f"sha256:{number:064x}" for number in range(35)]


# storage that fails


def test_an_upload_that_breaks_off_leaves_no_blob_and_may_be_repeated(
    storage: Any, bucket: str, cut_line: Callable[[int], Any], offered: Offered, refused: Refused
) -> None:
    data = os.urandom(24 * MIB)
    line = cut_line(10 * MIB)
    over_the_line = ObjectBlobs(bucket, patience=timedelta(0))
    cutter = threading.Thread(target=lambda: line.stalled.wait(60) and line.cut())
    cutter.start()
    path = offered(data)
    with refused("storage-unreachable"):
        over_the_line.adopt(path, digest_of(data))
    cutter.join()
    assert path.read_bytes() == data
    assert not [key for key in storage.objects() if key.endswith(digest_of(data).removeprefix("sha256:"))]


ADOPT = """
import sys
from pathlib import Path
from escrow.blobs import ObjectBlobs
ObjectBlobs(sys.argv[1]).adopt(Path(sys.argv[2]), sys.argv[3])
"""


def test_an_upload_that_is_killed_leaves_no_blob_and_may_be_repeated(
    storage: Any,
    bucket: str,
    cut_line: Callable[[int], Any],
    reach: Callable[[tuple[str, int]], None],
    offered: Offered,
) -> None:
    data = os.urandom(24 * MIB)
    path, digest = offered(data), digest_of(data)
    line = cut_line(10 * MIB)
    with subprocess.Popen([sys.executable, "-c", ADOPT, bucket, str(path), digest]) as child:
        assert line.stalled.wait(60)
        child.kill()
        assert child.wait(60) == -signal.SIGKILL
    reach(storage.address)
    blobs = ObjectBlobs(bucket)
    assert (blobs.has(digest), list(blobs.all())) == (False, [])
    blobs.adopt(path, digest)
    with blobs.open(digest) as reader:
        assert reader.read() == data


@pytest.fixture(params=["nobody listens", "no such bucket", "http is not allowed"])
def faulty(
    request: pytest.FixtureRequest, bucket: str, cut_line: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> str:
    """The URL of storage that cannot be used."""
    if request.param == "no such bucket":
        return bucket.replace("vault", "elsewhere")
    if request.param == "nobody listens":
        cut_line(0).cut()
    else:
        monkeypatch.delenv("AWS_ALLOW_HTTP")
    return bucket


def test_storage_that_cannot_be_used_is_never_a_missing_blob(faulty: str, offered: Offered, refused: Refused) -> None:
    blobs, path = ObjectBlobs(faulty, patience=timedelta(0)), offered(b"x")
    with refused("storage-unreachable"):
        blobs.adopt(path, digest_of(b"x"))
    with refused("storage-unreachable"):
        list(blobs.all())
    if (
        "elsewhere" not in faulty
    ):  # an absent bucket, which S3 does not tell from a missing object when one is asked for
        with refused("storage-unreachable"):
            blobs.has(ABSENT)
    assert path.exists()


@pytest.mark.parametrize("url", ["vault", "http://vault/x", "s3://", "s3://Vault", "s3://vault/../x?y"])
def test_another_kind_of_url_is_refused(tmp_path: Path, refused: Refused, url: str) -> None:
    with refused("usage"):
        blobs_at(url, tmp_path)


PEAK = """
import re, sys
from pathlib import Path
from escrow.blobs import ObjectBlobs
def peak():
    return int(re.search(r"VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1]) // 1024
blobs, before = ObjectBlobs(sys.argv[1]), peak()
blobs.adopt(Path(sys.argv[2]), sys.argv[3])
stored = peak()
with blobs.open(sys.argv[3]) as reader:
    while reader.read(1 << 20):
        pass
print(stored - before, peak() - before)
"""


def test_a_large_object_takes_little_memory(bucket: str, offered: Offered) -> None:
    data = bytes(112 * MIB)
    command = [sys.executable, "-c", PEAK, bucket, str(offered(data)), digest_of(data)]
    grown = subprocess.run(command, capture_output=True, check=True, text=True)
    assert max(map(int, grown.stdout.split())) < 72  # MiB: four parts of 8 MiB under way, and what surrounds them
