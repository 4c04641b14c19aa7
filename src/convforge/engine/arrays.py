"""Which NumPy arrays the kernels may work on. They know addresses and distances in whole numbers of an array's dtype,
write without asking, and read inputs at any time while they write: what does not suit them is copied or refused here,
before anything is read or written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_MOST_WORK = 100_000
"""To find out whether two arrays share memory can take for ever; layouts of images take some ten steps."""


def whole_steps(array: Array) -> bool:
    """Whether address and strides are multiples of the item size. Those of a field of a structured array may not be."""
    steps = (step for size, step in zip(array.shape, array.strides, strict=True) if size > 1)
    return address(array) % array.itemsize == 0 and all(step % array.itemsize == 0 for step in steps)


def readable(array: Array) -> Array:
    """The array, or where the kernels cannot step through it, a copy."""
    return array if whole_steps(array) else array.copy(order="C")


def check_output(array: Array, name: str, dtype: np.dtype[Any], inputs: Mapping[str, Array]) -> None:
    """Raises `ValueError` where writing into an array would go wrong, or would change one of the inputs."""
    if array.dtype != dtype:
        raise TypeError(f"{name} must be {dtype} like the inputs, not {array.dtype}.")
    if not array.flags.writeable:
        raise ValueError(f"{name} is read-only: pass an array that can be written to.")
    check_steps(array, name)
    if not array.size:
        return
    if _lies_over_itself(array):
        raise ValueError(
            f"{name} must have a place in memory for each of its numbers, but those of shape {array.shape} with "
            f"strides {array.strides} lie over each other: pass a copy."
        )
    for other, values in inputs.items():
        if _share_memory(array, values):
            raise ValueError(f"{name} shares memory with {other}, which is read while {name} is written: pass a copy.")


def check_steps(array: Array, name: str) -> None:
    """Raises `ValueError` where the kernels cannot step through an array that is not theirs to copy."""
    if not whole_steps(array):
        raise ValueError(
            f"{name} must lie at multiples of its item size, {array.itemsize} bytes, but its address is "
            f"{address(array)} and its strides are {array.strides}: pass a copy."
        )


def address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _lies_over_itself(array: Array) -> bool:
    """Whether each axis does not step over all that lies within the axes of smaller steps: so do all layouts that
    slices, transpositions and flips of an array have."""
    axes = sorted((abs(step), size) for size, step in zip(array.shape, array.strides, strict=True) if size > 1)
    inside = array.itemsize
    for step, size in axes:
        if step < inside:
            return True
        inside += (size - 1) * step
    return False


def _share_memory(a: Array, b: Array) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        # NumPy's stub knows two special values only; any number may be passed.
        return np.shares_memory(a, b, max_work=_MOST_WORK)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True
