"""A file that arrives has its name when all of it is on the disk, and nobody else's name leads it elsewhere."""

import stat
from pathlib import Path

import pytest

from escrow.disk import arriving


def break_off(path: Path) -> None:
    with arriving(path) as file:
        file.write(b"half")
        raise ValueError("broken off")


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with arriving(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ValueError, match="broken off"):
        break_off(path)
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_what_somebody_laid_in_the_way_is_not_written_to(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"mine")
    (tmp_path / "file.partial").symlink_to(elsewhere)
    with arriving(tmp_path / "file") as file:
        file.write(b"secret")
    assert elsewhere.read_bytes() == b"mine"
    assert (tmp_path / "file").read_bytes() == b"secret"
