"""Memory with a page directly before it or directly behind it that cannot be touched: a stray access is a SIGSEGV."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
from oracle import embed

Array = np.ndarray[Any, Any]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_NONE = 0


def _protect(address: int, size: int, how: int) -> None:
    if _libc.mprotect(address, size, how):
        raise OSError(ctypes.get_errno(), "mprotect")


class Fenced:
    """`size` bytes, at the end of their pages or at the beginning; there, the page beyond cannot be touched."""

    def __init__(self, size: int, at_end: bool, alignment: int = 1) -> None:
        page = mmap.PAGESIZE
        self.size, self._room = size, -(-size // page) * page
        self._map = mmap.mmap(-1, self._room + 2 * page)
        self._first = ctypes.addressof(ctypes.c_char.from_buffer(self._map)) + page
        self._bytes = np.frombuffer(self._map, np.uint8, self._room, page)
        self._bytes[:] = 0xFF  # NaN, in every format
        _protect(self._first - page, page, _NONE)
        _protect(self._first + self._room, page, _NONE)
        offset = self._room + -size // alignment * alignment if at_end else 0
        self.address = self._first + offset
        self.bytes = self._bytes[offset : offset + size]
        self.beside = [self._bytes[:offset], self._bytes[offset + size :]]

    def seal(self) -> None:
        """From now on it can be read only."""
        if self._room:
            _protect(self._first, self._room, mmap.PROT_READ)

    def check(self) -> None:
        """Nothing was written into the rest of the pages."""
        assert all((part == 0xFF).all() for part in self.beside), "something was written beside the memory"


def fenced_view(values: Array, layout: str, around: float, at_end: bool) -> tuple[Fenced, Array]:
    """`values` as a view of the given layout (see `oracle.embed`), whose first number is the first of its memory and
    whose last is the last; between them lies `around`."""
    buffer, view = embed(values, layout, around)
    steps = [(size - 1) * step for size, step in zip(view.shape, view.strides, strict=True)]
    below, above = -sum(s for s in steps if s < 0), sum(s for s in steps if s > 0) + view.itemsize
    start = view.__array_interface__["data"][0] - below - buffer.__array_interface__["data"][0]
    memory = Fenced(below + above, at_end)
    memory.bytes[:] = buffer.view(np.uint8)[start : start + below + above]
    whole = memory.bytes.view(values.dtype)
    inside = np.lib.stride_tricks.as_strided(whole[below // view.itemsize :], view.shape, view.strides)
    return memory, inside
