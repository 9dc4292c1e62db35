"""The ledger as a Merkle tree: append, prove, check; and its heads as signed notes.

Rules:
1. Leaves and inner nodes are hashed apart (prefix 0 and 1), so no entry can pose as a node (RFC 6962, section 2.1).
2. An entry keeps the hashes of all complete subtrees that end with it. So the tree only ever grows by rows, and a proof
   asks for all its nodes at once.
3. A checkpoint is three lines: origin, size, root. It stands only under a signature of a key that the reader knows.
4. Lines of unknown keys are ignored; a line of a known key that fails, or stands twice, refuses the whole note.

Nodes are named (level, index): the root of the complete subtree over entries [index · 2^level, (index + 1) · 2^level).

Sources: RFC 9162, section 2.1; C2SP signed-note, tlog-checkpoint and tlog-cosignature.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from hashlib import sha256
from typing import Final, NamedTuple, NoReturn, Self

from contracts.canonical import decode_base64, encode_base64
from contracts.errors import EscrowError
from contracts.signing import PublicKey, Signer, public_bytes, verify_bytes

HASH_BYTES: Final = 32

_NOTE_KEY: Final = b"\x01"  # an Ed25519 signature over the text
_COSIGNATURE_KEY: Final = b"\x04"  # an Ed25519 signature over a time and the text
_TIME_BYTES: Final = 8
_NAME: Final = r"[^\x00-\x20\s+]{1,256}"
_LINE: Final = re.compile(rf"— ({_NAME}) ([A-Za-z0-9+/]+={{0,2}})")
_CHECKPOINT: Final = re.compile(r"([!-~]{1,256})\n(0|[1-9][0-9]{0,18})\n([A-Za-z0-9+/]{43}=)\n")

Node = tuple[int, int]
"""A complete subtree: (level, index)."""

Fetch = Callable[[Sequence[Node]], Sequence[bytes]]
"""Gives the hashes of the named nodes, in their order. Called at most once for each proof."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of an entry: 32 bytes."""
    return sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node from its two children: 32 bytes."""
    return sha256(b"\1" + left + right).digest()


def empty_root() -> bytes:
    """The root of the tree without entries: 32 bytes."""
    return sha256().digest()


def node_row(level: int, index: int) -> tuple[int, int]:
    """Where a node's hash stands: (entry, position among that entry's hashes)."""
    return ((index + 1) << level) - 1, level


@dataclass(frozen=True)
class Tree:
    """The right edge of a tree: all that appending needs.

    `frontier` holds the root of one complete subtree for each bit set in `size`, the largest first.
    """

    size: int = 0
    frontier: tuple[bytes, ...] = ()

    @classmethod
    def restore(cls, size: int, fetch: Fetch) -> Self:
        """The tree of the first `size` entries, from stored hashes."""
        nodes = _cover(0, size)
        return cls(size, tuple(_fetched(nodes, fetch)))

    def append(self, leaf: bytes) -> "tuple[Tree, tuple[bytes, ...]]":
        """Add an entry by its leaf hash.

        Returns:
            The new tree, and the hashes to keep with the entry: of the complete subtrees that end with it, at levels
            0 (the leaf itself), 1, … k, where k is the number of trailing ones of the old size.
        """
        closed = _trailing_ones(self.size)
        new = [leaf]
        for left in reversed(self.frontier[len(self.frontier) - closed :]):
            new.append(node_hash(left, new[-1]))
        return Tree(self.size + 1, (*self.frontier[: len(self.frontier) - closed], new[-1])), tuple(new)

    def root(self) -> bytes:
        """The root over all entries: 32 bytes."""
        return _join(self.frontier) if self.frontier else empty_root()


def inclusion_proof(index: int, size: int, fetch: Fetch) -> tuple[bytes, ...]:
    """The proof that entry `index` stands in the tree of the first `size` entries (RFC 9162, section 2.1.3.1).

    Raises:
        EscrowError: `proof-invalid` if there is no such entry.
    """
    if not 0 <= index < size:
        _refuse(f"Entry {index} is not among the first {size} entries.")
    siblings = []
    low, high = 0, size
    while high - low > 1:
        middle = _split(low, high)
        if index < middle:
            siblings.append((middle, high))
            high = middle
        else:
            siblings.append((low, middle))
            low = middle
    return _hashes(reversed(siblings), fetch)


def consistency_proof(old: int, new: int, fetch: Fetch) -> tuple[bytes, ...]:
    """The proof that the tree of size `new` extends the tree of size `old` (RFC 9162, section 2.1.4.1).

    Empty when nothing needs a proof: for `old` equal to `new`, and for the empty tree, which every tree extends.

    Raises:
        EscrowError: `proof-invalid` if `old` is negative or beyond `new`.
    """
    if not 0 <= old <= new:
        _refuse(f"A ledger of {new} entries cannot extend one of {old}.")
    if old == 0:
        return ()
    ranges = []
    low, high = 0, new
    while high != old:
        middle = _split(low, high)
        if old <= middle:
            ranges.append((middle, high))
            high = middle
        else:
            ranges.append((low, middle))
            low = middle
    if low:
        ranges.append((low, high))
    return _hashes(reversed(ranges), fetch)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that a leaf hash stands at `index` in the tree of this size and root (RFC 9162, section 2.1.3.2).

    Raises:
        EscrowError: `proof-invalid`.
    """
    _check_hashes([leaf, root, *proof])
    if not 0 <= index < size:
        _refuse(f"Entry {index} is not among the first {size} entries.")
    sides = _left_siblings(index, size - 1)
    if len(proof) != len(sides):
        _refuse("The inclusion proof has the wrong length.")
    computed = leaf
    for sibling, left in zip(proof, sides, strict=True):
        computed = node_hash(sibling, computed) if left else node_hash(computed, sibling)
    if computed != root:
        _refuse("The inclusion proof does not lead to the root.")


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the new tree extends the old one: no entry changed, moved or gone (RFC 9162, section 2.1.4.2).

    Raises:
        EscrowError: `proof-invalid`.
    """
    _check_hashes([old_root, new_root, *proof])
    if not 0 <= old_size <= new_size:
        _refuse(f"A ledger of {new_size} entries cannot extend one of {old_size}.")
    if old_size == 0 and old_root != empty_root():
        _refuse("The root of an empty ledger is another.")
    if old_size in (0, new_size):
        if proof or (old_size == new_size and old_root != new_root):
            _refuse("The ledger was rewritten: same size, another root.")
        return
    shared = _trailing_ones(old_size - 1)
    sides = _left_siblings((old_size - 1) >> shared, (new_size - 1) >> shared)
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]  # a complete old tree is itself a node
    if len(path) != 1 + len(sides):
        _refuse("The consistency proof has the wrong length.")
    old = new = path[0]
    for sibling, left in zip(path[1:], sides, strict=True):
        if left:
            old = node_hash(sibling, old)
        new = node_hash(sibling, new) if left else node_hash(new, sibling)
    if (old, new) != (old_root, new_root):
        _refuse("The consistency proof does not join the two roots.")


def _left_siblings(node: int, last: int) -> list[bool]:
    """For each hash of a proof, from the bottom up, whether it stands to the left of the way to the root.

    `node` and `last` are indices on the lowest level of the proof: RFC 9162's fn and sn.
    """
    sides = []
    while last:
        left = bool(node & 1) or node == last
        if left:
            while node and not node & 1:  # at the right edge: no sibling up to the next left one
                node, last = node >> 1, last >> 1
        sides.append(left)
        node, last = node >> 1, last >> 1
    return sides


def _trailing_ones(number: int) -> int:
    return (~number & (number + 1)).bit_length() - 1


def _split(low: int, high: int) -> int:
    """Where a subtree parts: the left side has the largest power of two that is less than its size."""
    return low + (1 << (high - low - 1).bit_length() - 1)


def _cover(low: int, high: int) -> list[Node]:
    """The complete subtrees, largest first, of a range whose `low` is aligned to its size, as in any subtree."""
    nodes = []
    while low < high:
        level = (high - low).bit_length() - 1
        nodes.append((level, low >> level))
        low += 1 << level
    return nodes


def _join(hashes: Sequence[bytes]) -> bytes:
    """The root over complete subtrees, the largest first."""
    return reduce(lambda right, left: node_hash(left, right), reversed(hashes))


def _hashes(ranges: Iterable[tuple[int, int]], fetch: Fetch) -> tuple[bytes, ...]:
    covers = [_cover(low, high) for low, high in ranges]
    found = iter(_fetched([node for cover in covers for node in cover], fetch))
    return tuple(_join([next(found) for _ in cover]) for cover in covers)


def _fetched(nodes: Sequence[Node], fetch: Fetch) -> Sequence[bytes]:
    hashes = fetch(nodes) if nodes else ()
    if len(hashes) != len(nodes):
        _refuse("The ledger lacks hashes that the proof needs.")
    return hashes


def _check_hashes(hashes: Iterable[bytes]) -> None:
    if any(len(each) != HASH_BYTES for each in hashes):
        _refuse(f"A hash of a proof has {HASH_BYTES} bytes.")


def _refuse(message: str) -> NoReturn:
    raise EscrowError("proof-invalid", message)


@dataclass(frozen=True)
class Checkpoint:
    """A head of the ledger.

    Attributes:
        origin: which ledger, a URL without scheme.
        size: number of entries.
        root: root hash over them, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The three lines that are signed (C2SP tlog-checkpoint, without extension lines).

        Raises:
            EscrowError: `checkpoint-invalid` if a field cannot stand there.
        """
        text = f"{self.origin}\n{self.size}\n{encode_base64(self.root)}\n"
        _checkpoint(text)
        return text


def sign_note(checkpoint: Checkpoint, name: str, signer: Signer) -> str:
    """The checkpoint as a note signed under a key name, by convention the ledger's origin."""
    text = checkpoint.text()
    return f"{text}\n{_line(name, signer, _NOTE_KEY, signer.sign(text.encode()))}"


def parse_note(note: str, keys: Mapping[str, PublicKey]) -> Checkpoint:
    """The checkpoint of a note that at least one of the known keys signed.

    Steps: 1. the note is well formed; 2. every line of a known key fits the text, and each key has at most one;
    3. there is such a line.

    Args:
        note: the note's text.
        keys: public keys by key name.

    Raises:
        EscrowError: `checkpoint-invalid` for a malformed note, `signature-invalid` for a missing or failing line.
    """
    text, lines = _read_note(note)
    signatures = _of_known_keys(lines, keys, _NOTE_KEY)
    if not signatures:
        raise EscrowError("signature-invalid", "No known key signed the checkpoint.")
    for name, signature in signatures.items():
        verify_bytes(text.encode(), signature, keys[name])
    return _checkpoint(text)


def cosign(note: str, name: str, signer: Signer, time: int) -> str:
    """The note with a witness's line: by `time` (POSIX seconds) it saw this checkpoint and none that contradicts it.

    The caller has checked the note's signature and its consistency with what the witness saw before.
    """
    text, _ = _read_note(note)
    signature = signer.sign(_cosigned(text, time))
    return note + _line(name, signer, _COSIGNATURE_KEY, time.to_bytes(_TIME_BYTES, "big") + signature)


def cosigned_times(note: str, witnesses: Mapping[str, PublicKey]) -> dict[str, int]:
    """When (POSIX seconds) each known witness that cosigned the note did so. The ledger's own line is not checked.

    Raises:
        EscrowError: `checkpoint-invalid` for a malformed note, `signature-invalid` for a known witness's failing line.
    """
    text, lines = _read_note(note)
    times = {}
    for name, stamped in _of_known_keys(lines, witnesses, _COSIGNATURE_KEY).items():
        times[name] = int.from_bytes(stamped[:_TIME_BYTES], "big")
        verify_bytes(_cosigned(text, times[name]), stamped[_TIME_BYTES:], witnesses[name])
    return times


class _Line(NamedTuple):
    name: str
    key: bytes  # 4 bytes
    signature: bytes


def _checkpoint(text: str) -> Checkpoint:
    found = _CHECKPOINT.fullmatch(text)
    if not found:
        raise _malformed()
    return Checkpoint(found[1], int(found[2]), _decoded(found[3]))


def _read_note(note: str) -> tuple[str, list[_Line]]:
    """The signed text and the signature lines of a well-formed note."""
    text, blank, signatures = note.partition("\n\n")
    if not blank or not signatures.endswith("\n"):
        raise _malformed()
    text += "\n"
    _checkpoint(text)
    return text, [_read_line(line) for line in signatures[:-1].split("\n")]


def _read_line(line: str) -> _Line:
    found = _LINE.fullmatch(line)
    if not found:
        raise _malformed()
    data = _decoded(found[2])
    return _Line(found[1], data[:4], data[4:])


def _decoded(text: str) -> bytes:
    try:
        return decode_base64(text)
    except EscrowError:
        raise _malformed() from None


def _malformed() -> EscrowError:
    return EscrowError("checkpoint-invalid", "The checkpoint is malformed.")


def _of_known_keys(lines: Iterable[_Line], keys: Mapping[str, PublicKey], kind: bytes) -> dict[str, bytes]:
    """What each known key signed, by key name; refuses a second line of the same key."""
    known = {(name, _short_id(name, public_bytes(public), kind)) for name, public in keys.items()}
    signatures: dict[str, bytes] = {}
    for line in lines:
        if (line.name, line.key) not in known:
            continue
        if line.name in signatures:
            raise EscrowError("signature-invalid", "A key signed the checkpoint twice.")
        signatures[line.name] = line.signature
    return signatures


def _line(name: str, signer: Signer, kind: bytes, signature: bytes) -> str:
    if not re.fullmatch(_NAME, name):
        raise EscrowError("checkpoint-invalid", "A key name has no space, plus or control character.")
    data = _short_id(name, public_bytes(signer.public), kind) + signature
    return f"— {name} {encode_base64(data)}\n"


def _short_id(name: str, public: bytes, kind: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + kind + public).digest()[:4]


def _cosigned(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()
