"""Run keys: made once, kept on the local disk, and erased for good."""

import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pyrage
import pytest
from pyrage import x25519

from escrow.age import unseal_bytes
from escrow.keys import Keys

RUN = "run-1"
Refused = Callable[[str], AbstractContextManager[None]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def keys(folder: Path) -> Keys:
    return Keys(folder)


def sealed(data: bytes, recipient: str) -> bytes:
    return bytes(pyrage.encrypt(data, [x25519.Recipient.from_str(recipient)]))


def test_a_key_is_made_once_and_outlives_the_process(keys: Keys, folder: Path) -> None:
    recipient = keys.open(RUN)
    assert recipient.startswith("age1")
    assert Keys(folder).open(RUN) == recipient
    assert unseal_bytes(sealed(b"key", recipient), keys.identity(RUN)) == b"key"


def test_each_run_has_its_own_key(keys: Keys, refused: Refused) -> None:
    ciphertext = sealed(b"data", keys.open(RUN))
    keys.open("run-2")
    with refused("vault-sealed"):
        unseal_bytes(ciphertext, keys.identity("run-2"))


def test_nobody_else_can_read_a_key(keys: Keys, folder: Path) -> None:
    keys.open(RUN)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / RUN)] == [0o700, 0o600]


def test_an_erased_key_leaves_no_bytes_and_never_comes_back(keys: Keys, folder: Path, refused: Refused) -> None:
    keys.open(RUN)
    secret = keys.identity(RUN).encode()
    keys.erase(RUN)
    keys.erase(RUN)
    for use in (keys.identity, keys.open, Keys(folder).open):
        with refused("vault-sealed"):
            use(RUN)
    assert all(secret not in path.read_bytes() for path in folder.iterdir())


def test_a_name_may_be_erased_before_its_key_was_ever_made(keys: Keys, refused: Refused) -> None:
    keys.erase(RUN)
    with refused("vault-sealed"):
        keys.open(RUN)


def test_erasing_overwrites_the_bytes_in_place(keys: Keys, folder: Path, tmp_path: Path) -> None:
    keys.open(RUN)
    os.link(folder / RUN, tmp_path / "same-blocks")
    keys.erase(RUN)
    assert set((tmp_path / "same-blocks").read_bytes()) == {0}


def test_a_key_that_was_never_opened_opens_nothing(keys: Keys, refused: Refused) -> None:
    with refused("vault-sealed"):
        keys.identity(RUN)
    with pytest.raises(ValueError, match="name of a run"):
        keys.open("../escape")


def test_sweep_completes_an_erasure_and_removes_unfinished_keys(keys: Keys, folder: Path, refused: Refused) -> None:
    keys.open(RUN)
    recipient = keys.open("kept")
    os.link(folder / "kept", folder / "linked-but-not-unlinked.new")
    (folder / "half.new").write_bytes(b"AGE-SECRET-KEY-1")
    (folder / f"{RUN}.erased").write_bytes(b"")  # as if killed before the key itself was overwritten
    with refused("vault-sealed"):
        keys.identity(RUN)
    keys.sweep()
    assert sorted(path.name for path in folder.iterdir()) == ["kept", f"{RUN}.erased"]
    assert keys.open("kept") == recipient
