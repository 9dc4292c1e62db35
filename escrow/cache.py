"""Records that were read or written lately, parsed: what a statement needs costs no SQL, however large its contract.

A ledger has one writer, so what that writer committed last is what stands. Readers run beside it, and none may be given
a mixture of before and after:

1. What was read is kept only if nothing was committed since before it was read.
2. What one commit changed appears at once. While it goes on, what is here is the state before it.
3. A commit whose outcome is unknown empties the cache.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

from contracts.records import Key, Record

AT_MOST: Final = 8 << 20
"""Bytes of documents; parsed, they take some seven times as much memory."""


NODES_AT_MOST: Final = 1 << 14
"""Entries whose hashes are kept: some 3 MiB."""


class Kept(NamedTuple):
    """A record and the length of its document in bytes."""

    record: Record
    size: int


class Cache:
    """Records by key, the least recently used leaving first. Safe for threads."""

    def __init__(self, at_most: int = AT_MOST) -> None:
        self._at_most = at_most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, Kept] = OrderedDict()
        self._size = 0
        self._stamp = 0  # odd while a commit is under way

    def stamp(self) -> int:
        """The state that reading starts from; see `put`."""
        with self._lock:
            return self._stamp

    def get(self, keys: Iterable[Key]) -> tuple[int, dict[Key, Record]]:
        """The stamp, and those of the named records that are here, all of one state."""
        with self._lock:
            return self._stamp, self._get(keys)

    def unchanged(self, stamp: int, keys: Iterable[Key]) -> dict[Key, Record]:
        """Those of the named records that are here and the same as when the stamp was given."""
        with self._lock:
            return self._get(keys) if self._current(stamp) else {}

    def put(self, stamp: int, loaded: Mapping[Key, Kept]) -> bool:
        """Keep what was read after `stamp` was given; whether it is of the same state as what was here then."""
        with self._lock:
            if not self._current(stamp):
                return False
            self._replace(loaded)
            return True

    @contextmanager
    def committing(self, changed: Mapping[Key, Kept]) -> Iterator[None]:
        """Under it stands the commit that changes these records."""
        with self._lock:
            self._stamp += 1
        try:
            yield
        except BaseException:
            changed = {}
            self.clear()
            raise
        finally:
            with self._lock:
                self._stamp += 1
                self._replace(changed)

    def clear(self) -> None:
        """Forget everything; what is being read meanwhile is not kept either."""
        with self._lock:
            self._stamp += 2
            self._kept.clear()
            self._size = 0

    def _current(self, stamp: int) -> bool:
        return stamp == self._stamp and stamp % 2 == 0

    def _get(self, keys: Iterable[Key]) -> dict[Key, Record]:
        found = {}
        for key in keys:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                found[key] = kept.record
        return found

    def _replace(self, records: Mapping[Key, Kept]) -> None:
        for key, kept in records.items():
            old = self._kept.pop(key, None)
            self._size += kept.size - (old.size if old else 0)
            self._kept[key] = kept
        while self._size > self._at_most:
            _, oldest = self._kept.popitem(last=False)
            self._size -= oldest.size


class Nodes:
    """The tree's hashes by the entry at which they end. They never change, so what is here is right. Thread-safe."""

    def __init__(self, at_most: int = NODES_AT_MOST) -> None:
        self._at_most = at_most
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def get(self, positions: Iterable[int]) -> dict[int, bytes]:
        """Those that are here."""
        found = {}
        with self._lock:
            for position in positions:
                if (hashes := self._kept.get(position)) is not None:
                    self._kept.move_to_end(position)
                    found[position] = hashes
        return found

    def put(self, committed: Mapping[int, bytes]) -> None:
        """Keep the hashes of committed entries."""
        with self._lock:
            self._kept.update(committed)
            while len(self._kept) > self._at_most:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()


__all__ = ["Cache", "Kept", "Nodes"]
