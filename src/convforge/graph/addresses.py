"""Where an array's numbers lie, in a fifth of the time that NumPy takes to say it."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FIRST_FIELD = object.__basicsize__
"""In an array, the address of its numbers follows what all objects begin with (`PyArrayObject_fields`, part of NumPy's
C interface)."""


def _stands_there() -> bool:
    """Whether it does here, found out on memory that is an array's own."""
    if np.ndarray.__basicsize__ < _FIRST_FIELD + ctypes.sizeof(ctypes.c_void_p):
        return False
    arrays = [np.empty(size, np.float32)[size // 2 :] for size in (2, 6, 1000)]
    return all(_at_first_field(array) == array.ctypes.data for array in arrays)


def _at_first_field(array: NDArray[Any]) -> int:
    address: int = ctypes.c_void_p.from_address(id(array) + _FIRST_FIELD).value or 0
    return address


def _by_numpy(array: NDArray[Any]) -> int:
    return int(array.ctypes.data)


address_of = _at_first_field if _stands_there() else _by_numpy
"""The address of an array's first number."""
