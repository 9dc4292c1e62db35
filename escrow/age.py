"""age files as streams (https://age-encryption.org/v1), in memory that does not depend on their size.

An error of the file or key has a catalogued code; an error of the reader or writer comes through as it was.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Protocol

import pyrage
from pyrage import x25519

from contracts.errors import EscrowError


class Writer(Protocol):
    """Something that takes bytes."""

    def write(self, data: bytes, /) -> int | None:
        """Take all of `data`, or say how much of it."""

    def flush(self) -> None:
        """Pass on what was taken."""


class Reader(Protocol):
    """Something that gives bytes."""

    def read(self, size: int, /) -> bytes:
        """Give at most `size` bytes; none at the end."""


class _Guarded:
    """A reader and writer whose own error is remembered.

    pyrage reports it as a broken file, and drops it altogether if it happens in the last write: without this a full
    disk would look like a complete file.
    """

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self._reader, self._writer = reader, writer
        self.error: Exception | None = None

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.error = error
            raise

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        if self.error is not None:
            raise self.error

    def read(self, size: int) -> bytes:
        with self._kept():
            return self._reader.read(size)

    def write(self, data: bytes) -> int | None:
        with self._kept():
            return self._writer.write(data)

    def flush(self) -> None:
        with self._kept():
            self._writer.flush()


def seal_stream(reader: Reader, writer: Writer, recipient: str) -> None:
    """Encrypt everything from `reader` to the age recipient `age1…`, in memory that does not depend on the size.

    `vault-sealed` if the recipient is not one.
    """
    key = recipient_of(recipient)
    guarded = _Guarded(reader, writer)
    with guarded:
        pyrage.encrypt_io(guarded, guarded, [key])


def unseal_stream(reader: Reader, writer: Writer, identity: str) -> None:
    """Decrypt an age file with the identity `AGE-SECRET-KEY-1…`, in memory that does not depend on the size.

    Each 64 KiB is authenticated before it is written, but only the end shows that nothing was cut off: on any error
    the caller discards what was written. `vault-sealed` if the identity does not open the file, `blob-corrupt` if the
    file was changed, cut or never was an age file. Errors of `reader` and `writer` pass through.
    """
    guarded = _Guarded(reader, writer)
    try:
        with guarded:
            pyrage.decrypt_io(guarded, guarded, [identity_of(identity)])
    except (pyrage.DecryptError, OSError) as error:
        if error is guarded.error:
            raise
        if str(error) == "No matching keys found":
            raise EscrowError("vault-sealed", "This key does not open the file.") from error
        raise EscrowError("blob-corrupt", "The encrypted file is damaged or incomplete.") from error


def unseal_bytes(ciphertext: bytes, identity: str) -> bytes:
    """Decrypt a short age file, such as a sealed data key; errors as `unseal_stream`."""
    plaintext = BytesIO()
    unseal_stream(BytesIO(ciphertext), plaintext, identity)
    return plaintext.getvalue()


def recipient_of(text: str) -> x25519.Recipient:
    """Parse `age1…`; `vault-sealed` if it is not one."""
    try:
        return x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        raise EscrowError(
            "vault-sealed", "This is not an age recipient.", "Give a key that starts with age1."
        ) from None


def identity_of(text: str) -> x25519.Identity:
    """Parse `AGE-SECRET-KEY-1…`; `vault-sealed` if it is not one."""
    try:
        return x25519.Identity.from_str(text)
    except pyrage.IdentityError:
        # without the cause: nothing of a secret may reach a log
        raise EscrowError("vault-sealed", "This is not an age identity.") from None
