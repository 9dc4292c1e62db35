"""Several files as one: an uncompressed tar archive (POSIX.1-1988 ustar) that depends on names and contents alone.

Reading is strict: sizes are read and everything else is compared with what `pack` would have written, so links, owners,
times, odd names and extensions never get anywhere near a tar reader, and nothing is returned unless all is exact.
"""

import re
from collections.abc import Callable, Mapping
from tarfile import BLOCKSIZE, USTAR_FORMAT, TarInfo

from contracts.errors import EscrowError


def pack(files: Mapping[str, bytes]) -> bytes:
    """Header, content and padding of each file in the order of the names, then two blocks of zeros."""
    parts = []
    for name, content in sorted(files.items()):
        header = TarInfo(name)  # mode 0644, owner 0, time 0 unless told otherwise
        header.size = len(content)
        parts += [header.tobuf(USTAR_FORMAT), content, bytes(-len(content) % BLOCKSIZE)]
    return b"".join([*parts, bytes(2 * BLOCKSIZE)])


def unpack(data: bytes, limits: Mapping[str, int] | Callable[[str], int]) -> dict[str, bytes]:
    """The files of an archive.

    Args:
        data: what `pack` gave.
        limits: the names that may be in it and the most bytes of each, or a function that tells the most bytes of a
            name, less than none where it may not be.

    Raises:
        EscrowError: `archive-invalid` for any bytes that `pack` cannot give, another name, or a file too large.
    """
    files: dict[str, bytes] = {}
    most = limits if callable(limits) else lambda name: limits.get(name, -1)
    at = 0
    while at < len(data) - 2 * BLOCKSIZE:
        name = data[at : at + 100].rstrip(b"\0").decode("ascii", "replace")
        octal = data[at + 124 : at + 135]
        size = int(octal, 8) if re.fullmatch(rb"[0-7]{11}", octal) else -1
        if not 0 <= size <= most(name):
            raise EscrowError("archive-invalid", "The archive holds a file that does not belong there or is too large.")
        files[name] = data[at + BLOCKSIZE : at + BLOCKSIZE + size]
        at += BLOCKSIZE + size + -size % BLOCKSIZE
    if pack(files) != data:
        raise EscrowError("archive-invalid", "The archive is damaged or was not made by this program.")
    return files
