"""An archive depends on names and contents alone, and nothing but what was packed is ever unpacked."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs
from support import refused

from contracts.archive import pack, unpack

LIMITS = {"a.json": 2000, "b.onnx": 2000, "c.md": 0}
FILES = {"a.json": b"{}", "b.onnx": b"\0" * 600}
CONTENTS = hs.fixed_dictionaries(
    {}, optional={"a.json": hs.binary(max_size=1100), "b.onnx": hs.binary(max_size=1100), "c.md": hs.just(b"")}
)


@settings(max_examples=50)
@given(CONTENTS)
def test_what_was_packed_is_unpacked(files: dict[str, bytes]) -> None:
    packed = pack(files)
    assert unpack(packed, LIMITS) == files
    assert pack(dict(reversed(files.items()))) == packed


def test_the_archive_is_a_plain_tar() -> None:
    with tarfile.open(fileobj=io.BytesIO(pack(FILES))) as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == sorted(FILES)
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.isreg()) for m in members} == {
            (0, 0, 0, "", "", 0o644, True)
        }
        assert [archive.extractfile(m).read() for m in members] == [FILES[m.name] for m in members]  # type: ignore[union-attr]


@settings(max_examples=200)
@given(hs.integers(0, len(pack(FILES)) - 1), hs.integers(1, 255))
def test_one_changed_byte_is_refused_or_is_content(at: int, by: int) -> None:
    spoilt = bytearray(pack(FILES))
    spoilt[at] ^= by
    content = [range(512, 514), range(1536, 2136)]
    if any(at in place for place in content):
        assert unpack(bytes(spoilt), LIMITS) != FILES
    else:
        with refused("archive-invalid"):
            unpack(bytes(spoilt), LIMITS)


@pytest.mark.parametrize("cut", [1, 511, 512, 1024, 1025, 2000])
def test_a_short_or_long_archive_is_refused(cut: int) -> None:
    packed = pack(FILES)
    for spoilt in (packed[:-cut], packed + bytes(cut), bytes(cut) + packed, packed + packed, b""):
        with refused("archive-invalid"):
            unpack(spoilt, LIMITS)


@pytest.mark.parametrize("name", ["d.json", "../a.json", "/a.json", "a.json/", "./a.json", "A.JSON"])
def test_a_name_that_does_not_belong_there_is_refused(name: str) -> None:
    with refused("archive-invalid"):
        unpack(pack({name: b""}), LIMITS)


def test_a_file_beyond_its_limit_is_refused() -> None:
    assert unpack(pack({"a.json": bytes(2000)}), LIMITS)
    with refused("archive-invalid"):
        unpack(pack({"a.json": bytes(2001)}), LIMITS)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_devices_and_directories_are_refused(kind: bytes) -> None:
    member = tarfile.TarInfo("a.json")
    member.type, member.linkname = kind, "/etc/passwd"
    with refused("archive-invalid"):
        unpack(member.tobuf(tarfile.USTAR_FORMAT) + bytes(1024), LIMITS)


def test_the_same_name_twice_or_in_another_order_is_refused() -> None:
    one, two = pack({"a.json": b"1"})[:1024], pack({"b.onnx": b"2"})[:1024]
    assert unpack(one + two + bytes(1024), LIMITS)
    for spoilt in (one + one, two + one):
        with refused("archive-invalid"):
            unpack(spoilt + bytes(1024), LIMITS)


def test_times_and_owners_cannot_carry_anything() -> None:
    member = tarfile.TarInfo("a.json")
    for attribute, value in (("mtime", 1), ("uid", 1), ("uname", "north"), ("mode", 0o600)):
        spoilt = tarfile.TarInfo("a.json")
        setattr(spoilt, attribute, value)
        with refused("archive-invalid"):
            unpack(spoilt.tobuf(tarfile.USTAR_FORMAT) + bytes(1024), LIMITS)
    assert unpack(member.tobuf(tarfile.USTAR_FORMAT) + bytes(1024), LIMITS) == {"a.json": b""}
