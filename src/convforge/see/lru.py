"""What was computed or read once, kept up to a number of bytes; what was not used for longest goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """A dictionary that never holds more than `most` bytes. Threads may share it.

    Args:
        most: bytes; a value larger than that is not kept at all.
        size: the bytes of a value.

    >>> kept = Kept(most=4, size=len)
    >>> kept.put("a", b"12"), kept.put("b", b"34"), kept.put("c", b"5")
    (b'12', b'34', b'5')
    >>> kept.get("a"), kept.get("b"), kept.bytes
    (None, b'34', 3)
    """

    def __init__(self, most: int, size: Callable[[Value], int]) -> None:
        self.most, self.bytes = most, 0
        self._size = size
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable) -> Value | None:
        """The value, if it is still there."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: Value) -> Value:
        """Keep the value, and give it back."""
        size = self._size(value)
        with self._lock:
            self.bytes -= self._values.pop(key, (None, 0))[1]
            if size <= self.most:
                self._values[key] = (value, size)
                self.bytes += size
            while self.bytes > self.most:
                self.bytes -= self._values.popitem(last=False)[1][1]
        return value

    def find(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value, made if it is not there. Threads that ask for it meanwhile wait for it, and do not make it again.

        >>> kept = Kept(most=4, size=len)
        >>> kept.find("a", lambda: b"12"), kept.find("a", lambda: b"34")
        (b'12', b'12')
        """
        with self._lock:
            made = self._making.setdefault(key, threading.Lock())
        try:
            with made:
                value = self.get(key)
                return self.put(key, make()) if value is None else value
        finally:
            with self._lock:
                self._making.pop(key, None)
