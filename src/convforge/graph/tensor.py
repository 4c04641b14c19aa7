"""Where the numbers of a value lie: a slot of memory, an offset, and a step along each axis."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

from .operations.base import Shape

Strides = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of memory. Offset and strides count numbers, not bytes; the slot is a name for a block of memory that a
    program knows (an input, an output, the constants, a part of the arena)."""

    slot: str
    shape: Shape
    strides: Strides
    offset: int = 0

    @classmethod
    def dense(cls, slot: str, shape: Shape) -> Tensor:
        """Row after row, the last axis's numbers side by side."""
        return cls(slot, shape, row_major(shape))

    @classmethod
    def nhwc(cls, slot: str, shape: Shape) -> Tensor:
        """Images `(N, C, H, W)` with the channels of a pixel side by side; other shapes dense."""
        return cls(slot, shape, channels_last(shape))

    def sliced(self, axis: int, rows: range) -> Tensor:
        """Some of the rows along an axis."""
        sizes, steps = list(self.shape), list(self.strides)
        first = rows[0] if len(rows) else 0
        offset = self.offset + first * steps[axis]
        sizes[axis] = len(rows)
        steps[axis] *= rows.step
        return replace(self, shape=tuple(sizes), strides=tuple(steps), offset=offset)

    def transposed(self, order: tuple[int, ...]) -> Tensor:
        """Axis i is axis `order[i]` of this one."""
        return replace(self, shape=tuple(self.shape[a] for a in order), strides=tuple(self.strides[a] for a in order))

    def expanded(self, shape: Shape) -> Tensor:
        """Repeated by broadcasting: missing axes in front and axes of size 1 have step 0."""
        missing = len(shape) - len(self.shape)
        sizes, steps = (1,) * missing + self.shape, (0,) * missing + self.strides
        strides = tuple(
            0 if size == 1 and wanted != 1 else step for size, step, wanted in zip(sizes, steps, shape, strict=True)
        )
        return replace(self, shape=shape, strides=strides)

    def reshaped(self, shape: Shape) -> Tensor | None:
        """The same numbers in the same order with other sizes; None where they would have to be moved for it.

        Both shapes are cut into the shortest pieces with equal products. Within a piece, the old axes must lie in each
        other without gaps; then the new ones do, from the piece's smallest step upwards.
        """
        old = [(size, step) for size, step in zip(self.shape, self.strides, strict=True) if size != 1]
        if not math.prod(shape):
            return Tensor(self.slot, shape, row_major(shape), self.offset)
        steps: list[int] = []
        axis = 0
        at = 0
        while axis < len(shape):
            new, product = [shape[axis]], shape[axis]
            axis += 1
            mine, total = [], 1
            while total != product:
                if total < product:
                    mine.append(old[at])
                    total *= old[at][0]
                    at += 1
                else:
                    new.append(shape[axis])
                    product *= shape[axis]
                    axis += 1
            for (_, outer), (size, inner) in pairwise(mine):
                if outer != size * inner:
                    return None
            step = mine[-1][1] if mine else 1
            inside: list[int] = []
            for size in reversed(new):
                inside.append(step)
                step *= size
            steps += reversed(inside)
        return Tensor(self.slot, shape, tuple(steps), self.offset)

    def steps(self, name: str) -> dict[str, int]:
        """Of images, what kernels are told: `x_n`, `x_c`, `x_h` and `x_w` for the name x."""
        return {f"{name}_{axis}": step for axis, step in zip("nchw", self.strides, strict=True)}

    def place(self, size: int) -> tuple[str, int]:
        """Its first number's address, where one has so many bytes: the slot, and the offset in bytes."""
        return self.slot, self.offset * size

    @property
    def numbers(self) -> int:
        """How many it has."""
        return math.prod(self.shape)

    @property
    def different(self) -> int:
        """How many that are not the same one again, by a step of 0."""
        return math.prod(size for size, step in zip(self.shape, self.strides, strict=True) if step)

    def same_places(self, other: Tensor) -> bool:
        """Whether number i of both lies equally far from the beginning."""
        axes = zip(self.shape, self.strides, other.strides, strict=True)
        return self.shape == other.shape and all(a == b for size, a, b in axes if size != 1)


def row_major(shape: Shape) -> Strides:
    """The strides of a dense array.

    >>> row_major((2, 3, 4))
    (12, 4, 1)
    """
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def channels_last(shape: Shape) -> Strides:
    """Those of images `(N, C, H, W)` with channels side by side.

    >>> channels_last((2, 3, 5, 7))
    (105, 1, 21, 3)
    """
    if len(shape) != 4:
        return row_major(shape)
    _, c, h, w = shape
    return h * w * c, 1, w * c, c
