"""Memory that several threads take at once, kept within a budget, and given back to the system afterwards."""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """Bytes that may be in use at the same time. Who wants more than are left waits, in the order of arrival.

    Args:
        most: bytes. Who needs more than all of them waits until nobody else has any, and then has them alone.

    >>> budget = Budget(most=100)
    >>> with budget.take(60):
    ...     budget.used
    60
    >>> budget.used
    0
    """

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """`size` bytes, inside the block. Not re-entrant: a thread that has some must not ask for more."""
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            # The first that waits is the next, lest many small ones keep a large one waiting for ever.
            try:
                self._changed.wait_for(lambda: self._waiting[0] is turn and self._fits(size))
                self.used += size
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self.used -= size
                self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return self.used == 0 or self.used + size <= self.most


def give_back() -> None:
    """Return what was freed to the system; where the C library is not glibc, it is left to decide that itself.

    glibc keeps what a thread has freed for later allocations of that thread, so that a pool of threads would hold as
    many large pictures' memory as it has threads. This takes milliseconds: it is for after large work.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return
    trim(0)
