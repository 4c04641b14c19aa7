"""Weights that stay in their file: arrays over its mapped memory, whose pages the system brings when they are read.

Read they are when they are packed, and after that for a new size of images or another file at most. `let_go` gives the
pages back, so that a network takes the memory of its packed constants and not that of its file besides. A file that
somebody writes to meanwhile has other numbers, or is shorter, and reading beyond its end would end the process; so
`still` looks first.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary, finalize

import numpy as np
from numpy.typing import NDArray

from .deferred import Constant, Deferred
from .operations.base import GraphError

Array = NDArray[Any]


class _File(mmap.mmap):
    """A file's memory, and how the file was when it was mapped."""

    name: str
    handle: int
    stamp: tuple[int, ...]


_files: WeakValueDictionary[tuple[int, ...], _File] = WeakValueDictionary()
"""Those that there are arrays of: a file with many weights is mapped once."""


def mapped(path: Path) -> memoryview:
    """The bytes of a file. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        stamp, size = _stamp(file.fileno()), os.fstat(file.fileno()).st_size
        if not size or not hasattr(mmap, "MADV_DONTNEED"):  # Windows, which lets nobody replace a file that is mapped
            return memoryview(file.read())
        found = _files.get(stamp)
        if found is None:
            found = _files[stamp] = _File(file.fileno(), size, access=mmap.ACCESS_READ)
            found.name, found.stamp, found.handle = str(path), stamp, os.dup(file.fileno())
            finalize(found, os.close, found.handle)
        return memoryview(found)


def still(array: Constant) -> Array:
    """The array, computed if it was deferred. Raises `GraphError` where it lies in a file, or is computed of what lies
    there, that has been written to since it was mapped."""
    if isinstance(array, Deferred):
        for source in array.sources:
            still(source)
        return np.asarray(array)
    _, file = _origin(array)
    if file is not None and _stamp(file.handle) != file.stamp:
        raise GraphError(
            f"{file.name} has been written to since it was loaded, and its weights are needed again: load it "
            "again, and put new files in the place of old ones in one step."
        )
    return array


def let_go(array: Constant) -> None:
    """Give back the memory of an array that lies in a file, or is computed of such; it comes again when the array is
    read."""
    if isinstance(array, Deferred):
        for source in array.sources:
            let_go(source)
        return
    whole, file = _origin(array)
    if file is not None and whole.size:
        first = whole.ctypes.data - np.frombuffer(file, np.uint8).ctypes.data
        page = first // mmap.PAGESIZE * mmap.PAGESIZE
        file.madvise(mmap.MADV_DONTNEED, page, first + whole.nbytes - page)


def in_file(array: Array) -> bool:
    """Whether an array's numbers lie in a file, and not in memory of the process."""
    return _origin(array)[1] is not None


def _origin(array: Array) -> tuple[Array, _File | None]:
    """The array that this is a view of, and the file that it lies in."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    owner: Any = array.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    return array, owner if isinstance(owner, _File) else None


def _stamp(handle: int) -> tuple[int, ...]:
    status = os.fstat(handle)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
