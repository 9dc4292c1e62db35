"""What is kept of a training's rounds: encrypted, whole or not at all, and nothing once the run was destroyed."""

import threading
from io import BytesIO
from pathlib import Path

import pytest
from pyrage import x25519

from escrow.checkpoints import FOLDER, Checkpoints
from escrow.runstore import RunStore, forget

CONTRACT = "sha256:" + 64 * "c"
DIGESTS = {number: f"sha256:{number:064d}" for number in range(3)}


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore.of(tmp_path, CONTRACT, 1, str(x25519.Identity.generate()))


@pytest.fixture
def kept(store: RunStore) -> Checkpoints:
    """Of a run whose first attempt has begun."""
    made = Checkpoints(store, threading.RLock())
    assert made.begin() == 1
    return made


def content(of: Checkpoints) -> bytes | None:
    last = of.last()
    if last is None:
        return None
    written = BytesIO()
    last.write(written)
    return written.getvalue()


def files(store: RunStore) -> list[Path]:
    return sorted(path for path in (store.root / FOLDER).rglob("*") if path.is_file())


def test_the_last_round_is_what_another_process_finds(kept: Checkpoints, store: RunStore) -> None:
    assert kept.last() is None
    for number in range(3):
        kept.keep([f"state {number}".encode()], {each: DIGESTS[each] for each in range(number + 1)})
    again = Checkpoints(store, threading.RLock())
    last = again.last()
    assert last is not None
    assert last.rounds == DIGESTS
    assert content(again) == b"state 2"
    assert len(files(store)) == 1  # the rounds before are gone
    assert again.begin() == 2
    again.keep([b"anew"], DIGESTS)  # a later attempt counts, though it is not as far
    assert content(again) == b"anew"


def test_on_the_disk_it_is_ciphertext_of_the_escrows_user_alone(kept: Checkpoints, store: RunStore) -> None:
    kept.keep([b"secret weights" * 10_000], DIGESTS)
    for path in files(store):
        assert path.read_bytes().startswith(b"age-encryption.org/v1\n")
        assert b"secret" not in path.read_bytes()
    assert (store.root / FOLDER).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("left", [0, 100, -1])
def test_one_that_was_cut_is_none(kept: Checkpoints, store: RunStore, left: int) -> None:
    kept.keep([b"line\nstate" * 100_000], DIGESTS)
    assert content(kept) == b"line\nstate" * 100_000
    (path,) = files(store)
    path.write_bytes(path.read_bytes()[:left])
    assert kept.last() is None
    kept.keep([b"again"], DIGESTS)
    assert content(kept) == b"again"


def test_one_that_only_began_is_none(kept: Checkpoints, store: RunStore) -> None:
    kept.keep([b"whole"], DIGESTS)
    files(store)[0].with_name("incoming").write_bytes(b"cut off by SIGKILL")
    assert content(kept) == b"whole"
    kept.keep([b"next"], DIGESTS)
    assert content(kept) == b"next"


def test_another_key_does_not_open_it(kept: Checkpoints, store: RunStore) -> None:
    kept.keep([b"state"], DIGESTS)
    other = RunStore(store.root, str(x25519.Identity.generate()))
    assert Checkpoints(other, threading.RLock()).last() is None


def test_nothing_is_kept_of_a_run_that_was_destroyed(kept: Checkpoints, store: RunStore, tmp_path: Path) -> None:
    kept.keep([b"state"], DIGESTS)
    forget(tmp_path, CONTRACT, but_logs=True)
    kept.keep([b"too late"], DIGESTS)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert kept.last() is None


def test_losses_and_attempts_are_counted_over_processes(kept: Checkpoints, store: RunStore) -> None:
    assert kept.lose() == 1
    again = Checkpoints(store, threading.RLock())
    assert (again.begin(), again.lose(), again.begin()) == (2, 2, 3)
