"""One bank with a large file: `python -m scenarios.benchmarks.sender HOME`.

It deposits the file as a bank does, and does apart what no deposit can do without: encrypting it, and sending so many
bytes.
"""

import hashlib
import sys
import time
from functools import partial
from pathlib import Path

import pyrage
from pyrage import x25519

from parties.sealing import CHUNK, Sealing
from scenarios.benchmarks import bare
from scenarios.benchmarks.banks import SCHEMA, enter
from scenarios.benchmarks.child import serve


class Sender:
    """What the bank in a home is asked for; everything is timed here, in seconds."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def deposit(self, file: str) -> float:
        """Seal a file, upload it at the same time, and state it."""
        with enter(self._home) as bank, Path(file).open("rb") as plaintext:
            begin = time.perf_counter()
            deposit = bank.client.send(Sealing(plaintext, bank.client.folder, part="train", schema=SCHEMA, rows=1))
            passed = time.perf_counter() - begin
        deposit.path.unlink()
        return passed

    def encrypt(self, file: str) -> float:
        """Encrypt a file, and throw the ciphertext away."""
        with Path(file).open("rb") as plaintext:
            begin = time.perf_counter()
            pyrage.encrypt_io(plaintext, _Sink(), [x25519.Identity.generate().to_public()])
            return time.perf_counter() - begin

    def hash(self, file: str) -> float:
        """Hash a file."""
        with Path(file).open("rb") as content:
            begin = time.perf_counter()
            hashlib.file_digest(content, "sha256")
            return time.perf_counter() - begin

    def stream(self, file: str, address: str, authorities: str) -> float:
        """Send a file over a bare stream."""
        size = Path(file).stat().st_size
        with Path(file).open("rb") as content:
            begin = time.perf_counter()
            arrived = bare.stream(address, authorities.encode(), iter(partial(content.read, CHUNK), b""))
            passed = time.perf_counter() - begin
        if arrived != size:
            raise RuntimeError(f"{arrived} of {size} bytes arrived")
        return passed


class _Sink:
    """Takes everything and keeps nothing."""

    def write(self, data: bytes) -> int:
        return len(data)

    def flush(self) -> None:
        pass


if __name__ == "__main__":
    sender = Sender(Path(sys.argv[1]))
    serve(None, {name: getattr(sender, name) for name in ("deposit", "encrypt", "hash", "stream")})
