"""A lock for each of many names, of which none is kept that nobody uses."""

import threading
from weakref import WeakValueDictionary


class Locks:
    """Re-entrant locks by name; each is forgotten with the last thread that holds or awaits it."""

    def __init__(self) -> None:
        self._table = threading.Lock()
        self._locks: WeakValueDictionary[str, threading.RLock] = WeakValueDictionary()

    def of(self, name: str) -> threading.RLock:
        """The lock of `name`."""
        with self._table:
            return self._locks.setdefault(name, threading.RLock())

    def names(self) -> frozenset[str]:
        """Whose locks are held or awaited."""
        with self._table:
            return frozenset(self._locks)
