"""The ledger as a Merkle tree: append, prove, check. Its heads are signed as `contracts.notes` has it.

Rules:
1. Leaves and inner nodes are hashed apart (prefix 0 and 1), so no entry can pose as a node (RFC 6962, section 2.1).
2. An entry keeps the hashes of all complete subtrees that end with it. So the tree only ever grows by rows, and a proof
   asks for all its nodes at once.

Nodes are named (level, index): the root of the complete subtree over entries [index · 2^level, (index + 1) · 2^level).

Source: RFC 9162, section 2.1.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from hashlib import sha256
from typing import Final, NoReturn, Self

from contracts.errors import EscrowError

HASH_BYTES: Final = 32

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
