"""What takes rows of tensors, and puts tensors together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..nodes import END, Concat, Slice, Take
from .arguments import axis_of, known, same
from .builder import Arguments, Builder, Cannot, Converter, Value
from .shapes import reshaped


def _slice(b: Builder, a: Arguments) -> Any:
    start, stop = a["start"], a["end"]
    x = a["self"]
    axis = axis_of(x, a["dim"])
    if stop is not None and not isinstance(stop, int) and same(stop, x.sizes[axis]):
        stop = None  # to the end, whatever that is
    start = 0 if start is None else known(start)
    return b.add(Slice(axis, start, END if stop is None else known(stop), known(a["step"])), x)


def _narrow(b: Builder, a: Arguments) -> Any:
    start = known(a["start"])
    return b.add(Slice(axis_of(a["self"], a["dim"]), start, start + known(a["length"])), a["self"])


def _select(b: Builder, a: Arguments) -> Any:
    x, index = a["self"], known(a["index"])
    return _row(b, x, axis_of(x, a["dim"]), index)


def _row(b: Builder, x: Value, axis: int, index: int) -> str:
    """One position along an axis, which goes."""
    row = b.add(Slice(axis, index, index + 1 or END), x)
    return reshaped(b, Value(row, (*x.sizes[:axis], 1, *x.sizes[axis + 1 :])), (*x.sizes[:axis], *x.sizes[axis + 1 :]))


def _index(b: Builder, a: Arguments) -> Any:
    """x[:, rows, columns]: axes side by side, by whole numbers or masks that are the same at every call."""
    x, given = a["self"], [(axis, rows) for axis, rows in enumerate(a["indices"]) if rows is not None]
    first = given[0][0]
    behind = first + len(given)
    if [axis for axis, _ in given] != list(range(first, behind)):
        raise Cannot("along axes that do not lie side by side is not known")
    if any(rows.name not in b.constants for _, rows in given):
        raise Cannot("by numbers that depend on the input is not known")
    arrays = [_rows(b.constants[rows.name]) for _, rows in given]
    grid = np.broadcast_shapes(*(array.shape for array in arrays))
    before, after = x.sizes[:first], x.sizes[behind:]
    if _is_outer(arrays, len(grid)):  # one axis after the other
        name = x.name
        for n, array in enumerate(arrays):
            name = b.add(Take(first + n), name, b.constant(array.reshape(-1)))
        taken = Value(name, (*before, *(array.size for array in arrays), *after))
        return reshaped(b, taken, (*before, *grid, *after))
    sizes = [known(size) for size in x.sizes[first:behind]]
    rows = [np.broadcast_to(array, grid) % size for array, size in zip(arrays, sizes, strict=True)]
    merged = reshaped(b, x, (*before, math.prod(sizes), *after))
    return b.add(Take(first), merged, b.constant(np.ravel_multi_index(tuple(rows), tuple(sizes))))


def _rows(given: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers, of a mask those that it takes."""
    if given.dtype != bool:
        return given.astype(np.int64)
    if given.ndim != 1:
        raise Cannot("by a mask of several axes is not known")
    return np.flatnonzero(given)


def _is_outer(arrays: Sequence[NDArray[Any]], rank: int) -> bool:
    """Whether each array varies along axes of its own, behind those of the one before."""
    along = [rank - array.ndim + axis for array in arrays for axis, size in enumerate(array.shape) if size != 1]
    return all(one < other for one, other in pairwise(along))


def _index_select(b: Builder, a: Arguments) -> Any:
    x = a["self"]
    return _index(b, a | {"indices": [None] * axis_of(x, a["dim"]) + [a["index"]]})


def _split(b: Builder, a: Arguments) -> Any:
    x = a["self"]
    axis, starts = axis_of(x, a["dim"]), 0
    parts = []
    for part in a["result"]:  # sizes as torch has worked them out: split, split_with_sizes, chunk
        stop = starts + known(part.sizes[axis])
        parts.append(b.add(Slice(axis, starts, stop), x))
        starts = stop
    return parts


def _unbind(b: Builder, a: Arguments) -> Any:
    x = a["self"]
    return [_row(b, x, axis_of(x, a["dim"]), i) for i in range(len(a["result"]))]


def _cat(b: Builder, a: Arguments) -> Any:
    tensors = [t for t in a["tensors"] if t.sizes != (0,)]  # torch leaves empty ones out
    return b.add(Concat(axis_of(tensors[0], a["dim"])), *tensors)


def _stack(b: Builder, a: Arguments) -> Any:
    tensors, axis = a["tensors"], a["dim"] % (a["tensors"][0].rank + 1)
    return b.add(Concat(axis), *(reshaped(b, t, (*t.sizes[:axis], 1, *t.sizes[axis:])) for t in tensors))


def _roll(b: Builder, a: Arguments) -> Any:
    x, name = a["self"], a["self"].name
    if not a["dims"]:
        raise Cannot("without axes is not known")
    for shift, dim in zip(a["shifts"], a["dims"], strict=True):
        axis = axis_of(x, dim)
        steps = known(shift) % known(x.sizes[axis])
        if steps:
            name = b.add(Concat(axis), b.add(Slice(axis, -steps), name), b.add(Slice(axis, 0, -steps), name))
    return name


def _flip(b: Builder, a: Arguments) -> Any:
    name = a["self"].name
    for dim in a["dims"]:
        name = b.add(Slice(axis_of(a["self"], dim), -1, -END, -1), name)
    return name


CONVERTERS: dict[str, Converter] = {
    "slice": _slice,
    "narrow": _narrow,
    "select": _select,
    **dict.fromkeys(("index", "_unsafe_index"), _index),
    "index_select": _index_select,
    "split": _split,
    "split_with_sizes": _split,
    "chunk": _split,
    "unbind": _unbind,
    "cat": _cat,
    "concat": _cat,
    "concatenate": _cat,
    "stack": _stack,
    "roll": _roll,
    "flip": _flip,
}
