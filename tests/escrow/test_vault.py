"""The vault: whole blobs or none, sealed to the right key only, keys that stay erased."""

import hashlib
import signal
import stat
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyrage import x25519

from contracts.errors import EscrowError
from escrow.blobs import Blobs
from escrow.vault import WAIT, Vault, seal_stream, unseal_bytes, unseal_stream

RUN = "run-1"
MIB = 1 << 20


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def files_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


@pytest.fixture
def vault(tmp_path: Path, blobs: Blobs) -> Vault:
    return Vault(tmp_path / "vault", blobs)


@pytest.fixture
def local(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "vault")


def refused(code: str):
    return pytest.raises(EscrowError, check=lambda error: error.code == code)


def sealed(data: bytes, recipient: str) -> bytes:
    out = BytesIO()
    seal_stream(BytesIO(data), out, recipient)
    return out.getvalue()


# blobs


def test_a_blob_is_stored_once_and_read_back(vault: Vault, blobs: Blobs) -> None:
    digest = vault.put([b"cipher", b"text"], expected=digest_of(b"ciphertext"), limit=10)
    assert vault.put([b"ciphertext"], limit=10) == digest == digest_of(b"ciphertext")
    assert vault.read(digest) == b"ciphertext"
    assert (vault.size(digest), vault.has(digest)) == (10, True)
    assert list(blobs.all()) == [digest]


def test_a_deleted_blob_is_gone_and_may_be_deleted_again(vault: Vault) -> None:
    digest = vault.put([b"x"], limit=1)
    vault.delete(digest)
    vault.delete(digest)
    assert not vault.has(digest)
    with refused("blob-missing"):
        vault.read(digest)


@pytest.mark.parametrize(("expected", "limit"), [(None, 3), (digest_of(b"other"), 100)])
def test_too_large_or_wrong_bytes_leave_nothing(
    vault: Vault, blobs: Blobs, tmp_path: Path, expected: str | None, limit: int
) -> None:
    with refused("blob-refused"):
        vault.put([b"ab", b"cd"], expected=expected, limit=limit)
    assert (files_below(tmp_path), list(blobs.all())) == ([], [])


def test_a_sender_that_breaks_off_leaves_nothing(vault: Vault, blobs: Blobs, tmp_path: Path) -> None:
    def chunks():
        yield b"first"
        raise ConnectionError("line cut")

    with pytest.raises(ConnectionError):
        vault.put(chunks(), limit=100)
    assert (files_below(tmp_path), list(blobs.all())) == ([], [])


@pytest.mark.parametrize("name", ["", "sha256:../../etc/passwd", f"sha256:{'A' * 64}", f"sha256:{'a' * 63}\n"])
def test_an_odd_digest_names_no_blob(vault: Vault, name: str) -> None:
    with refused("blob-missing"):
        vault.open(name)


def test_a_blob_that_rotted_on_disk_is_noticed(local: Vault, tmp_path: Path) -> None:
    digest = local.put([b"ciphertext"], limit=10)
    files_below(tmp_path)[0].write_bytes(b"ciphertexT")
    with refused("blob-corrupt"):
        local.read(digest)


def test_nobody_else_can_read_the_vault(local: Vault, tmp_path: Path) -> None:
    local.put([b"x"], limit=1)
    local.open_run_key(RUN)
    modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in (tmp_path / "vault").rglob("*")}
    assert modes == {(True, 0o700), (False, 0o600)}
    assert stat.S_IMODE((tmp_path / "vault").stat().st_mode) == 0o700


PUT_FOR_EVER = """
import sys
from pathlib import Path
from escrow.vault import Vault
vault = Vault(Path(sys.argv[1]))
def chunks():
    for number in range(64):
        if number == 32:
            print("half", flush=True)
            sys.stdin.read()
        yield bytes([number]) * 65536
vault.put(chunks(), limit=1 << 30)
"""


def test_a_put_that_was_killed_leaves_no_blob_and_sweep_removes_the_rest(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PUT_FOR_EVER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"half\n"
        child.kill()
        assert child.wait(60) == -signal.SIGKILL
    whole = b"".join(bytes([number]) * 65536 for number in range(64))
    vault = Vault(tmp_path)
    assert not vault.has(digest_of(whole))
    assert len(files_below(tmp_path)) == 1
    vault.sweep()
    assert files_below(tmp_path) == []
    assert vault.put([whole], limit=len(whole)) == digest_of(whole)


# sealing


@given(data=st.binary(max_size=300_000))
def test_what_was_sealed_opens_unchanged(data: bytes) -> None:
    key = x25519.Identity.generate()
    assert unseal_bytes(sealed(data, str(key.to_public())), str(key)) == data


def test_the_vault_seals_and_unseals_and_holds_no_plaintext(vault: Vault, tmp_path: Path) -> None:
    data = b"4929 1234 5678 9012 " * 10_000
    digest = vault.seal(BytesIO(data), vault.open_run_key(RUN), limit=MIB)
    out = BytesIO()
    vault.unseal(digest, vault.run_identity(RUN), out)
    assert out.getvalue() == data
    assert all(b"4929 1234" not in path.read_bytes() for path in files_below(tmp_path))


def test_sealing_more_than_the_limit_is_refused(vault: Vault, tmp_path: Path) -> None:
    recipient = str(x25519.Identity.generate().to_public())
    with refused("blob-refused"):
        vault.seal(BytesIO(bytes(MIB)), recipient, limit=MIB)
    assert files_below(tmp_path) == []


def test_another_key_opens_nothing() -> None:
    ciphertext = sealed(b"data", str(x25519.Identity.generate().to_public()))
    with refused("vault-sealed"):
        unseal_bytes(ciphertext, str(x25519.Identity.generate()))
    with refused("vault-sealed"):
        unseal_bytes(ciphertext, "AGE-SECRET-KEY-1NONSENSE")
    with refused("vault-sealed"):
        sealed(b"data", "age1nonsense")


@given(data=st.data())
def test_a_changed_or_cut_ciphertext_never_opens(data: st.DataObject) -> None:
    key = x25519.Identity.generate()
    ciphertext = bytearray(sealed(bytes(200_000), str(key.to_public())))
    where = data.draw(st.integers(0, 1 << 30)) % len(ciphertext)  # age pads its header at random
    if data.draw(st.booleans()):
        ciphertext[where] ^= data.draw(st.integers(1, 255))
    else:
        del ciphertext[where:]
    with pytest.raises(EscrowError) as caught:
        unseal_bytes(bytes(ciphertext), str(key))
    assert caught.value.code in {"blob-corrupt", "vault-sealed"}  # in the header, a change looks like another key


@pytest.mark.parametrize("size", [4, 200_000])
def test_a_full_disk_is_neither_missed_nor_reported_as_a_broken_blob(size: int) -> None:
    class Disk(BytesIO):
        def __init__(self, room: int) -> None:
            super().__init__()
            self.room = room

        def write(self, data: bytes, /) -> int:
            if self.tell() + len(data) > self.room:
                raise OSError(28, "No space left on device")
            return super().write(data)

    key = x25519.Identity.generate()
    ciphertext = sealed(bytes(size), str(key.to_public()))
    for room in (0, size // 2, size - 1):
        with pytest.raises(OSError, match="No space left"):
            unseal_stream(BytesIO(ciphertext), Disk(room), str(key))
        with pytest.raises(OSError, match="No space left"):
            seal_stream(BytesIO(bytes(size)), Disk(room), str(key.to_public()))


PEAK_OF_SEALING = """
import re
from pathlib import Path
from pyrage import x25519
from escrow.vault import seal_stream, unseal_stream

class Zeros:
    left = 256 << 20
    def read(self, size):
        size = min(size, self.left)
        self.left -= size
        return bytes(size)

class Pipe:
    def write(self, data):
        return len(data)
    def flush(self):
        pass

key = x25519.Identity.generate()
def peak():
    return int(re.search(r"VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1]) // 1024

before = peak()
seal_stream(Zeros(), Pipe(), str(key.to_public()))
print(peak() - before)
"""


def test_sealing_a_large_file_takes_little_memory() -> None:
    grown = subprocess.run([sys.executable, "-c", PEAK_OF_SEALING], capture_output=True, check=True, text=True)
    assert int(grown.stdout) < 16  # MiB, for 256 MiB of plaintext


# run keys and blobs together


def test_run_keys_stay_on_the_local_disk_wherever_the_blobs_lie(tmp_path: Path, blobs: Blobs) -> None:
    vault = Vault(tmp_path / "vault", blobs)
    digest = vault.seal(BytesIO(b"data"), vault.open_run_key(RUN), limit=MIB)
    assert list(blobs.all()) == [digest]
    assert [path.parent.name for path in files_below(tmp_path / "vault")] == ["keys"]
    assert Vault(tmp_path / "vault", blobs).run_identity(RUN) == vault.run_identity(RUN)
    vault.erase_run_key(RUN)
    with refused("vault-sealed"):
        vault.unseal(digest, vault.run_identity(RUN), BytesIO())


def test_sweep_completes_an_erasure(vault: Vault, tmp_path: Path) -> None:
    vault.open_run_key(RUN)
    (tmp_path / "vault" / "keys" / f"{RUN}.erased").touch()  # as if killed before the key itself was overwritten
    vault.sweep()
    assert [path.name for path in files_below(tmp_path)] == [f"{RUN}.erased"]


# blobs that nothing names


def test_a_blob_is_unclaimed_once_it_waited_long_enough_for_its_statement(vault: Vault) -> None:
    stated, revoked = (vault.put([name], limit=10) for name in (b"stated", b"revoked"))
    now = time.time()
    assert vault.unclaimed([stated], now + WAIT - 60) == ()
    assert vault.unclaimed([stated], now + WAIT + 60) == (revoked,)
    assert vault.unclaimed([], now + WAIT + 60) == tuple(sorted([stated, revoked]))
