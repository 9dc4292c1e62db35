"""A ledger as one file, for those who have no database: its signed head on the first line, then a leaf on each.

Rules:
1. Leaves are canonical JSON, so none holds a line break: a line is a leaf, byte for byte, and ends with one.
2. The head tells how many leaves follow and what root they have: a file that was cut short, or grew, is refused.
3. No line is read further than the largest leaf can be.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, Protocol

from contracts.canonical import canonical, parse
from contracts.entries import Replayed, replay
from contracts.errors import EscrowError
from contracts.notes import Checkpoint, parse_note
from contracts.signing import MAX_ENVELOPE_BYTES, PublicKey
from contracts.transparency import Tree

FORMAT: Final = "model-escrow/ledger/1"
MAX_LINE: Final = MAX_ENVELOPE_BYTES + 64  # a leaf adds its time to an envelope


class Sink(Protocol):
    """What is written to: a binary file."""

    def write(self, data: bytes, /) -> object:
        """Write all of the bytes."""
        ...


class Source(Protocol):
    """What is read from: a binary file."""

    def readline(self, limit: int, /) -> bytes:
        """The next line with its end, or its first `limit` bytes; nothing at the end of the file."""
        ...


class Opened(NamedTuple):
    """A file whose first line was read."""

    note: str  # the signed head; nobody has checked it yet
    leaves: Iterator[bytes]


def write(file: Sink, leaves: Iterable[bytes], note: str) -> None:
    """Write a ledger: exactly the leaves that its head, a signed note, speaks of."""
    file.write(canonical({"format": FORMAT, "head": note}) + b"\n")
    for data in leaves:
        file.write(data + b"\n")


def read(file: Source) -> Opened:
    """The head and the leaves, none of them checked: see `verified`.

    Raises:
        EscrowError: `export-invalid` for another kind of file, and, while the leaves are read, for one that was cut.
    """
    first = _line(file)
    try:
        document = parse(first or b"")
    except EscrowError:
        raise _invalid() from None
    match document:
        case {"format": str(form), "head": str(note), **nothing_else} if form == FORMAT and not nothing_else:
            return Opened(note, _lines(file))
    raise _invalid()


def verified(file: Source, origin: str, key: PublicKey) -> tuple[Checkpoint, Replayed]:
    """The head of an exported ledger and what its entries come to, everything checked: the head was signed with the
    ledger's key, every entry is what the rules permit, and they are all the entries that the head speaks of.

    Args:
        file: what `write` wrote.
        origin: of the ledger.
        key: its pinned public key.

    Raises:
        EscrowError: `export-invalid`, `checkpoint-invalid`, `signature-invalid` or `ledger-tampered`.
    """
    opened = read(file)
    checkpoint = head(opened, origin, key)
    replayed = replay(opened.leaves, key=key)
    fits(checkpoint, replayed.tree)
    return checkpoint, replayed


def head(opened: Opened, origin: str, key: PublicKey) -> Checkpoint:
    """The head of a file, signed with the ledger's key.

    Raises:
        EscrowError: `checkpoint-invalid` or `signature-invalid`, or `ledger-tampered` for another ledger's.
    """
    checkpoint = parse_note(opened.note, {origin: key})
    if checkpoint.origin != origin:
        raise EscrowError("ledger-tampered", "The head is of another ledger.")
    return checkpoint


def fits(checkpoint: Checkpoint, tree: Tree) -> None:
    """Check that the entries of a tree are those that a head speaks of, all of them and no more.

    Raises:
        EscrowError: `ledger-tampered`.
    """
    if (checkpoint.size, checkpoint.root) != (tree.size, tree.root()):
        raise EscrowError(
            "ledger-tampered", f"The {tree.size} entries are not the {checkpoint.size} that the head was signed for."
        )


def _lines(file: Source) -> Iterator[bytes]:
    while (line := _line(file)) is not None:
        yield line


def _line(file: Source) -> bytes | None:
    """The next line without its end, None at the end of the file."""
    line = file.readline(MAX_LINE + 1)
    if not line:
        return None
    if not line.endswith(b"\n"):
        raise _invalid("The file was cut short, or a line is longer than any entry.")
    return line[:-1]


def _invalid(sentence: str = "The file is not an exported ledger.") -> EscrowError:
    return EscrowError("export-invalid", sentence)


__all__ = ["FORMAT", "MAX_LINE", "Opened", "fits", "head", "read", "verified", "write"]
