"""A lock for each name, for APIs that can only read a set, change it and write it back."""

import asyncio
from weakref import WeakValueDictionary


class NameLocks:
    """Gives everybody who wants the same name at once the same lock, and keeps none that nobody has."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, name: str) -> asyncio.Lock:
        """Return the lock of a name."""
        return self._locks.setdefault(name, asyncio.Lock())
