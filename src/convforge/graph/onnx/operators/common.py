"""What the operators share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ...nodes import Expand, Shape
from ..attributes import Attributes, Cannot
from ..values import Known, Value

if TYPE_CHECKING:
    from ..reading import Reading


Inputs: TypeAlias = Sequence[Value | None]
Converter: TypeAlias = Callable[["Reading", Attributes, Inputs], Any]


def given(inputs: Inputs, position: int) -> Value:
    """An input that must be there."""
    value = optional(inputs, position)
    if value is None:
        raise Cannot(f"needs {position + 1} inputs")
    return value


def optional(inputs: Inputs, position: int) -> Value | None:
    return inputs[position] if position < len(inputs) else None


def rank(x: Value) -> int:
    return len(x.shapes[0])


def axis_of(x: Value, axis: int) -> int:
    """Counted from the front."""
    if not -rank(x) <= axis < rank(x):
        raise Cannot(f"has axis {axis}, and its input has {rank(x)} axes")
    return axis % rank(x)


def expanded(r: Reading, x: Value, shapes: Sequence[Shape]) -> Value:
    """x repeated to these shapes, one a probe."""
    if all(shape == wanted for shape, wanted in zip(x.shapes, shapes, strict=True)):
        return x
    if isinstance(x, Known):
        return Known(tuple(np.broadcast_to(array, shape) for array, shape in zip(x.arrays, shapes, strict=True)))
    front = r.same([len(shape) for shape in shapes]) - rank(x)
    sizes = []
    for axis in range(front + rank(x)):
        own = [shape[axis - front] if axis >= front else 0 for shape in x.shapes]
        wanted = [shape[axis] for shape in shapes]
        sizes.append(1 if own == wanted else r.same(wanted))
    return r.add(Expand(tuple(sizes)), x)
