"""Operators' arguments, as nodes take them."""

from __future__ import annotations

from typing import Any

from ...spec import Pair
from .builder import Cannot, Value


def pair(value: Any, usual: Pair | None = None) -> Pair:
    """torch's integer or list of one or two, as (vertical, horizontal); an empty list is `usual`."""
    items = [value] if isinstance(value, int) else list(value)
    if not items and usual is not None:
        return usual
    if len(items) == 1:
        items = items * 2
    if len(items) != 2:
        raise Cannot(f"is over {len(items)} axes, and only two-dimensional ones are known")
    return known(items[0]), known(items[1])


def known(size: Any) -> int:
    """An integer; raises `Cannot` where it depends on the input's size."""
    if isinstance(size, bool) or not isinstance(size, int):
        raise Cannot(f"takes a number that depends on the input's size, {size}")
    return size


def axis_of(x: Value, axis: int) -> int:
    """Counted from the front."""
    return axis % x.rank if x.rank else 0


def images(x: Value) -> Value:
    if x.rank != 4:
        raise Cannot(f"takes images of shape (N, C, H, W), not {x.rank} axes")
    return x


def same(a: Any, b: Any) -> bool:
    """Whether two sizes are the same whatever the input's size, without asking torch to assume that they are."""
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int) and a == b
    return bool(a.node.expr == b.node.expr)
