"""Reshapes that mean the same for other batch and image sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..nodes import Axes, Reshape
from .arguments import same
from .builder import Builder, Cannot, Value


def reshaped(b: Builder, x: Value, sizes: Sequence[Any]) -> str:
    """A reshape that means the same for other batch and image sizes: see `reshape_sizes`."""
    return b.add(Reshape(reshape_sizes(x.sizes, sizes)), x)


def reshape_sizes(before: Sequence[Any], after: Sequence[Any]) -> tuple[int | Axes, ...]:
    """Sizes for `Reshape`. Axes are taken together until their products agree; within such a group at most one size
    depends on the input, and it is the group's product divided by the others.

    >>> reshape_sizes((2, 8, 7, 7), (2, 392)), reshape_sizes((6, 4), (2, 3, 2, 2))
    ((2, 392), (2, 3, 2, 2))
    """
    result: list[int | Axes] = []
    i = j = 0
    while j < len(after):
        first, start = i, j
        taken, made = (before[i] if i < len(before) else 1), after[j]
        i, j = i + 1, j + 1
        while not same(taken, made):
            # Without a symbol on both sides, the smaller one grows; symbols grow together with what they stand beside.
            grow_before = j >= len(after) or (i < len(before) and _smaller(taken, made))
            if grow_before and i < len(before):
                taken, i = taken * before[i], i + 1
            elif j < len(after):
                made, j = made * after[j], j + 1
            else:
                raise Cannot(f"makes the sizes {tuple(after)} of {tuple(before)} in a way that is not understood")
        result += _group(first, min(i, len(before)), after[start:j], start)
    return tuple(result)


def _smaller(a: Any, b: Any) -> bool:
    return _hint(a) < _hint(b)


def _hint(size: Any) -> int:
    """The size that a symbol had in the example."""
    return size if isinstance(size, int) else int(size.node.hint)


def _group(first: int, stop: int, sizes: Sequence[Any], at: int) -> list[int | Axes]:
    open_ones = [size for size in sizes if not isinstance(size, int)]
    if len(open_ones) > 1:
        raise Cannot(f"splits an axis into {tuple(sizes)}, of which several depend on the input's size")
    over = math.prod(size for size in sizes if isinstance(size, int))
    kept = len(sizes) == 1 and first == at and stop == first + 1
    return [size if isinstance(size, int) else 0 if kept else Axes(first, stop, over) for size in sizes]


def as_row(b: Builder, x: Value) -> Value:
    """(N, C, L) as images of one row, (N, C, 1, L)."""
    return Value(b.add(Reshape((0, 0, 1, Axes(2, 3))), x), (*x.sizes[:2], 1, x.sizes[2]))


def row_of(b: Builder, image: str) -> str:
    return b.add(Reshape((0, 0, Axes(3, 4))), image)
