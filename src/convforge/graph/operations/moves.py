"""What moves numbers and computes none: concat, slice, take, pad, reshape, transpose, expand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ...spec import Pair
from .base import Array, GraphError, Operation, Shape, an_axis

END = 2**63 - 1
"""A `Slice.stop` that is beyond any array."""


@dataclass(frozen=True)
class Concat(Operation):
    """Its inputs, one behind the other along an axis."""

    axis: int
    any_number = True

    def _shape(self, *inputs: Shape) -> Shape:
        first = inputs[0]
        axis = an_axis(self.axis, len(first), self.name)
        for other in inputs[1:]:
            if len(other) != len(first) or any(size != first[a] for a, size in enumerate(other) if a != axis):
                raise GraphError(f"Concat along axis {self.axis} needs equal sizes elsewhere, not {first} and {other}.")
        return *first[:axis], sum(shape[axis] for shape in inputs), *first[axis + 1 :]

    def compute(self, *inputs: Array) -> Array:
        return np.concatenate(inputs, axis=self.axis)


@dataclass(frozen=True)
class Slice(Operation):
    """x[start:stop:step] along one axis, with Python's meaning: negative numbers count from the end, what is beyond it
    is cut off."""

    axis: int
    start: int = 0
    stop: int = END
    step: int = 1

    def __post_init__(self) -> None:
        if self.step == 0:
            raise GraphError("Slice cannot have step 0.")

    def rows(self, size: int) -> range:
        """The rows that it takes of so many."""
        return range(*slice(self.start, self.stop, self.step).indices(size))

    def _shape(self, *inputs: Shape) -> Shape:
        x = inputs[0]
        axis = an_axis(self.axis, len(x), self.name)
        return *x[:axis], len(self.rows(x[axis])), *x[axis + 1 :]

    def compute(self, *inputs: Array) -> Array:
        return np.take(inputs[0], self.rows(inputs[0].shape[self.axis]), axis=self.axis)


@dataclass(frozen=True)
class Take(Operation):
    """Rows of x along an axis by their numbers, which may be negative: ONNX's Gather, torch's `index_select`.

    Inputs: x, and the numbers, whole ones in any number format, whose axes stand where the axis stood.
    """

    axis: int = 0

    @property
    def operands(self) -> tuple[str, ...]:
        return "x", "rows"

    def _shape(self, *inputs: Shape) -> Shape:
        x, rows = inputs
        axis = an_axis(self.axis, len(x), self.name)
        return *x[:axis], *rows, *x[axis + 1 :]

    def compute(self, *inputs: Array) -> Array:
        x, rows = inputs
        numbers = rows.astype(np.int64)
        size = x.shape[self.axis]
        if numbers.size and not (-size <= numbers.min() and numbers.max() < size):
            raise GraphError(f"Take has no rows {numbers.min()} to {numbers.max()} of {size}.")
        return np.take(x, numbers, axis=self.axis)


_NUMPY_PADS = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@dataclass(frozen=True)
class Pad(Operation):
    """A border: `(before, after)` for each axis, of a value, a reflection, the edge, or the opposite side."""

    pads: tuple[Pair, ...]
    mode: str = "constant"
    value: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in _NUMPY_PADS:
            raise GraphError(f"Pad takes a mode of {', '.join(_NUMPY_PADS)}, not {self.mode!r}.")
        if any(side < 0 for pair in self.pads for side in pair):
            raise GraphError(f"Pad only adds, and cannot take {self.pads}: use Slice to cut off.")

    def _shape(self, *inputs: Shape) -> Shape:
        x = inputs[0]
        if len(self.pads) != len(x):
            raise GraphError(f"Pad has sides for {len(self.pads)} axes, but its input has shape {x}.")
        least = {"reflect": 1, "edge": 0, "wrap": 0}.get(self.mode)
        for size, pair in zip(x, self.pads, strict=True):
            limit = {"reflect": size - 1, "wrap": size}.get(self.mode, max(pair))
            if max(pair) > limit or (least is not None and max(pair) and size <= least):
                raise GraphError(f"Pad of {max(pair)} with mode {self.mode!r} is too much for an axis of {size}.")
        return tuple(size + sum(pair) for size, pair in zip(x, self.pads, strict=True))

    def compute(self, *inputs: Array) -> Array:
        mode: Any = _NUMPY_PADS[self.mode]
        options: dict[str, Any] = {"constant_values": self.value} if self.mode == "constant" else {}
        padded: Array = np.pad(inputs[0], self.pads, mode=mode, **options)
        return padded


@dataclass(frozen=True)
class Axes:
    """A size that is made of the input's: the product of those along the axes `first` to `stop`, divided by `over`."""

    first: int
    stop: int
    over: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.stop or self.over < 1:
            raise GraphError(f"a size cannot be that along the axes {self.first} to {self.stop}, over {self.over}.")


Size: TypeAlias = "int | Axes"


@dataclass(frozen=True)
class Reshape(Operation):
    """The same numbers in the same order with other sizes: 0 is the input's size along the same axis, −1 what is left,
    `Axes` a product of the input's; so that another batch or image size has a meaning, too.

    >>> flat = Reshape((0, -1))
    >>> flat.shape((2, 8, 7, 7)), flat.shape((1, 8, 3, 3))
    ((2, 392), (1, 72))
    >>> shuffled = Reshape((0, 2, -1, Axes(2, 3), Axes(3, 4)))
    >>> shuffled.shape((5, 8, 7, 9))
    (5, 2, 4, 7, 9)
    """

    sizes: tuple[Size, ...]

    def __post_init__(self) -> None:
        if sum(size == -1 for size in self.sizes) > 1:
            raise GraphError(f"Reshape may leave one size open, not several as in {self.sizes}.")
        if any(isinstance(size, int) and size < -1 for size in self.sizes):
            raise GraphError(f"Reshape cannot make the sizes {self.sizes}.")

    def _shape(self, *inputs: Shape) -> Shape:
        x = inputs[0]
        sizes = [self._size(x, axis, size) for axis, size in enumerate(self.sizes)]
        known = math.prod(size for size in sizes if size != -1)
        if -1 in sizes and known and math.prod(x) % known == 0:
            sizes[sizes.index(-1)] = math.prod(x) // known
        if -1 in sizes or math.prod(sizes) != math.prod(x):
            raise GraphError(f"Reshape cannot make {self._asked()} of {x}.")
        return tuple(sizes)

    def _size(self, x: Shape, axis: int, size: Size) -> int:
        if isinstance(size, Axes):
            product = math.prod(x[size.first : size.stop])
            if size.stop > len(x) or product % size.over:
                raise GraphError(f"Reshape cannot make {self._asked()} of {x}.")
            return product // size.over
        if size == 0:
            if axis >= len(x):
                raise GraphError(f"Reshape keeps axis {axis}, but its input has shape {x}.")
            return x[axis]
        return size

    def _asked(self) -> str:
        words = [
            f"x[{s.first}:{s.stop}]" + (f"/{s.over}" if s.over > 1 else "") if isinstance(s, Axes) else str(s)
            for s in self.sizes
        ]
        return f"({', '.join(words)})"

    def compute(self, *inputs: Array) -> Array:
        return inputs[0].reshape(self.shape(inputs[0].shape))


@dataclass(frozen=True)
class Transpose(Operation):
    """Axis i of the result is axis `order[i]` of the input."""

    order: tuple[int, ...]

    def _shape(self, *inputs: Shape) -> Shape:
        x = inputs[0]
        if sorted(self.order) != list(range(len(x))):
            raise GraphError(f"Transpose to {self.order} does not fit an input of shape {x}.")
        return tuple(x[axis] for axis in self.order)

    def compute(self, *inputs: Array) -> Array:
        return inputs[0].transpose(self.order)


@dataclass(frozen=True)
class Expand(Operation):
    """Repeated by broadcasting: a size 1 stands for the input's own, and missing axes come in front, as in ONNX."""

    sizes: Shape

    def _shape(self, *inputs: Shape) -> Shape:
        try:
            return np.broadcast_shapes(inputs[0], self.sizes)
        except ValueError:
            raise GraphError(f"Expand cannot broadcast {inputs[0]} to {self.sizes}.") from None

    def compute(self, *inputs: Array) -> Array:
        return np.broadcast_to(inputs[0], self.shape(inputs[0].shape))
