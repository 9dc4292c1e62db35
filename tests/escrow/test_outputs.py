"""What a dead worker left is read as an archive of which nothing is believed."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from escrow.runtime.outputs import Received, receive

ONE = tarfile.REGTYPE


def archive(*members: tarfile.TarInfo | tuple[str, bytes]) -> bytes:
    """An archive as the engine makes it, but with any members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(special("results", tarfile.DIRTYPE))
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member, io.BytesIO(b"x" * member.size))
            else:
                info = tarfile.TarInfo(f"results/{member[0]}")
                info.size, info.mode, info.mtime, info.uid = len(member[1]), 0o4777, 1_700_000_000, 0
                tar.addfile(info, io.BytesIO(member[1]))
    return file.getvalue()


def special(name: str, kind: bytes, link: str = "", *, size: int = 0, **pax: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.pax_headers = kind, link, size, pax
    return info


def pieces(data: bytes, size: int = 1000) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def read(data: bytes, into: Path, *wanted: str, limit_mib: int = 1, files: int = 100) -> Received:
    return receive(pieces(data), wanted, into, limit_mib=limit_mib, files=files)


def test_wanted_files_are_stored_and_nothing_of_what_the_worker_said_about_them(tmp_path: Path) -> None:
    data = archive(
        ("a.bin", b"A" * 5000), special("results/sub", tarfile.DIRTYPE), ("sub/b.bin", b"B"), ("c.bin", b"C")
    )
    found = read(data, tmp_path, "a.bin", "sub/b.bin", "never.bin")
    assert (found.stored, found.refused, found.full) == ({"a.bin", "sub/b.bin"}, {}, False)
    assert (tmp_path / "a.bin").read_bytes() == b"A" * 5000
    assert (tmp_path / "sub/b.bin").read_bytes() == b"B"
    about = (tmp_path / "a.bin").stat()
    assert (about.st_mode & 0o7777, about.st_mtime) == (0o600, 0)
    assert {path.name for path in tmp_path.rglob("*")} == {"a.bin", "sub", "b.bin"}


@pytest.mark.parametrize(
    "member",
    [
        special("results/out", tarfile.SYMTYPE, "/etc/passwd"),
        special("results/out", tarfile.LNKTYPE, "results/other"),
        special("results/out", tarfile.DIRTYPE),
        special("results/out", tarfile.FIFOTYPE),
        special("results/out", tarfile.CHRTYPE),
        special("results/out", tarfile.BLKTYPE),
        special("results/out", tarfile.CONTTYPE),
        special("results/out", ONE, size=512, **{"GNU.sparse.map": "0,1", "GNU.sparse.size": "1000000000000"}),
    ],
    ids=lambda info: info.type.decode(),
)
def test_whatever_is_no_regular_file_is_refused_and_not_written(tmp_path: Path, member: tarfile.TarInfo) -> None:
    found = read(archive(("other", b"x"), member), tmp_path, "out")
    assert (set(found.refused), found.stored) == ({"out"}, frozenset())
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_turns_out_to_have_a_second_name_is_taken_back(tmp_path: Path) -> None:
    data = archive(("out", b"x"), special("results/elsewhere", tarfile.LNKTYPE, "results/out"))
    assert "second name" in read(data, tmp_path, "out").refused["out"]
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    assert set(read(archive(("out", b"x"), ("out", b"y")), tmp_path, "out").refused) == {"out"}
    assert list(tmp_path.iterdir()) == []


def test_a_link_on_the_way_is_refused(tmp_path: Path) -> None:
    data = archive(special("results/sub", tarfile.SYMTYPE, "/etc"))
    assert set(read(data, tmp_path, "sub/out", "other").refused) == {"sub/out"}


@pytest.mark.parametrize(
    "name", ["../out", "/out", "a/../out", "./out", "out\n", "out ", "OUT", "ou\u0442", "x/out", ""]
)
def test_an_odd_name_is_another_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    found = read(archive((name, b"x")), tmp_path / "in", "out")
    assert (found.stored, found.refused) == (frozenset(), {})
    assert [path.name for path in tmp_path.rglob("*")] == ["in"]


def test_more_bytes_than_there_was_room_for_are_not_read(tmp_path: Path) -> None:
    """A file with holes is as long in an archive as it says, so ten thousand of them would never end."""
    read_so_far = 0

    def endless() -> Iterator[bytes]:
        nonlocal read_so_far
        header = special("results/hole", ONE, size=1 << 40).tobuf()
        yield archive()[:512] + header
        while True:
            read_so_far += 1 << 16
            yield bytes(1 << 16)

    found = receive(endless(), ["out"], tmp_path, limit_mib=1, files=10)
    assert found.full
    assert set(found.refused) == {"out"}
    assert read_so_far < 2 << 20


def test_more_files_than_there_was_room_for_are_not_read(tmp_path: Path) -> None:
    data = archive(*((f"f{number}", b"") for number in range(50)), ("out", b"x"))
    assert read(data, tmp_path, "out", files=52).stored == {"out"}
    (tmp_path / "out").unlink()
    found = read(data, tmp_path, "out", files=51)
    assert found.full
    assert set(found.refused) == {"out"}


def test_a_worker_that_used_all_its_room_is_noticed(tmp_path: Path) -> None:
    assert read(archive(("a", bytes(1 << 20))), tmp_path).full
    assert not read(archive(("a", bytes(1 << 19))), tmp_path).full


def test_a_stream_that_is_cut_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(tarfile.TarError):
        read(archive(("out", b"x" * 5000))[:3000], tmp_path, "out")
