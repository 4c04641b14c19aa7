"""What takes many numbers together: pooling, and reductions along axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...spec import Pair, Sides, ceil_div, kernel_extent, output_size
from .base import Array, GraphError, Operation, Shape, agree, an_axis, at_least, four_axes


@dataclass(frozen=True)
class Pooling(Operation):
    """The largest number or the mean of each window.

    Beyond the border stands nothing for the largest. The mean counts the padded zeros where `count_padding` says so.
    With `ceil`, sizes are rounded up where the last window begins inside the image or the padding before it, as torch
    and ONNX have it; rows beyond the padding are not counted by the mean.
    """

    kind: str  # "max" or "average"
    kernel: Pair
    stride: Pair
    pads: Sides = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    count_padding: bool = True
    ceil: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("max", "average"):
            raise GraphError(f"pooling is 'max' or 'average', not {self.kind!r}.")
        at_least(self.name, "kernels, strides and dilations", 1, *self.kernel, *self.stride, *self.dilation)
        at_least(self.name, "padding", 0, *(side for pair in self.pads for side in pair))

    @property
    def name(self) -> str:
        return f"{self.kind} pooling"

    def output_size(self, size: Pair) -> Pair:
        """`(H_out, W_out)` for an input of `(H, W)`."""
        height, width = (self._along(axis, size[axis]) for axis in (0, 1))
        return height, width

    def _along(self, axis: int, size: int) -> int:
        kernel, stride, pad, gap = self.kernel[axis], self.stride[axis], self.pads[axis], self.dilation[axis]
        if not self.ceil:
            return output_size(size, kernel, stride, pad, gap)
        out = ceil_div(size + sum(pad) - kernel_extent(kernel, gap), stride) + 1
        return out - 1 if (out - 1) * stride >= size + pad[0] else out

    def _shape(self, *inputs: Shape) -> Shape:
        n, c, h, w = four_axes(inputs[0], self.name)
        out = self.output_size((h, w))
        if min(out) < 1:
            kernel = f"{self.kernel[0]}×{self.kernel[1]}"
            raise GraphError(f"{self.name} over {kernel} does not fit a {h}×{w} input.")
        return n, c, *out

    def compute(self, *inputs: Array) -> Array:
        x = inputs[0]
        if self.kind == "max":
            largest: Array = self._taps(x, -np.inf).max(axis=0)
            return largest
        total: Array = self._taps(x, 0.0).sum(axis=0)
        counted = np.ones((1, 1, *x.shape[2:]))
        if self.count_padding:  # the padding counts, what `ceil` reads beyond it does not
            counted = np.pad(counted, ((0, 0), (0, 0), *self.pads), constant_values=1.0)
            bare = Pooling("average", self.kernel, self.stride, dilation=self.dilation, ceil=self.ceil)
            count = bare._taps(counted, 0.0, self.output_size((x.shape[2], x.shape[3])))
        else:
            count = self._taps(counted, 0.0)
        mean: Array = total / count.sum(axis=0)
        return mean

    def _taps(self, x: Array, beyond: float, out: Pair | None = None) -> Array:
        """What each position of the kernel meets: `(positions, N, C, H_out, W_out)`."""
        out = out or self.output_size((x.shape[2], x.shape[3]))
        reach = [(out[a] - 1) * self.stride[a] + kernel_extent(self.kernel[a], self.dilation[a]) for a in (0, 1)]
        before = [self.pads[a][0] for a in (0, 1)]
        after = [max(0, reach[a] - before[a] - x.shape[2 + a]) for a in (0, 1)]
        sides = [(before[a], after[a]) for a in (0, 1)]
        padded = np.pad(x, ((0, 0), (0, 0), *sides), constant_values=beyond)
        (sv, sh), (dv, dh) = self.stride, self.dilation
        return np.stack(
            [
                padded[:, :, i * dv :: sv, j * dh :: sh][:, :, : out[0], : out[1]]
                for i in range(self.kernel[0])
                for j in range(self.kernel[1])
            ]
        )


EXACT = 2**24
"""The whole numbers that float32 has without gaps."""


@dataclass(frozen=True)
class PoolingPlaces(Operation):
    """Where the largest number of each window stands, as a number: row · W + column of its image, of equal ones the
    first; `Unpooling` puts numbers back there. torch calls them indices.

    With `whole` the images and channels before it count, too, as in ONNX; with `columns_first` it is row + column · H.
    """

    pooling: Pooling
    whole: bool = False
    columns_first: bool = False

    def __post_init__(self) -> None:
        if self.pooling.kind != "max":
            raise GraphError(f"places are of the largest numbers, and {self.name} takes no {self.pooling.name}.")

    @property
    def name(self) -> str:
        return "pooling places"

    def steps(self, shape: Shape) -> Shape:
        """By how much the number grows with the image, the channel, the row and the column."""
        _, c, h, w = four_axes(shape, self.name)
        row, column = (1, h) if self.columns_first else (w, 1)
        return (c * h * w, h * w, row, column) if self.whole else (0, 0, row, column)

    def _shape(self, *inputs: Shape) -> Shape:
        n, c, h, w = four_axes(inputs[0], self.name)
        count = n * c * h * w if self.whole else h * w
        if count > EXACT:
            raise GraphError(
                f"{self.name} of {inputs[0]} would count to {count:,}, and numbers are exact to {EXACT:,}."
            )
        return self.pooling.shape(*inputs)

    def compute(self, *inputs: Array) -> Array:
        x = inputs[0]
        steps = self.steps(x.shape)
        standing = np.zeros((1, 1, *x.shape[2:]))
        for axis, step in enumerate(steps):
            beside = tuple(x.shape[axis] if a == axis else 1 for a in range(4))
            standing = standing + step * np.arange(x.shape[axis]).reshape(beside)
        values = self.pooling._taps(x, -np.inf)
        places = self.pooling._taps(standing, -1.0)  # beyond the border there is none
        best, found = np.full(values.shape[1:], -np.inf), np.full(values.shape[1:], -1.0)
        for value, place in zip(values, np.broadcast_to(places, values.shape), strict=True):
            better = (place >= 0) & ((found < 0) | (value > best) | np.isnan(value))
            best, found = np.where(better, value, best), np.where(better, place, found)
        return found


@dataclass(frozen=True)
class Unpooling(Operation):
    """An image of zeros in which each number of x stands at its place, of several at the same one the last: row · W +
    column of an image of `size` `(H, W)`, or of the size that a third input has where `like` says so.

    Places count from 0 again behind each image and channel.
    """

    size: Pair | None = None
    like: bool = False

    def __post_init__(self) -> None:
        if (self.size is not None) + self.like != 1:
            raise GraphError("Unpooling takes one of a size and another image's size.")
        if self.size is not None:
            at_least(self.name, "a size", 1, *self.size)

    @property
    def operands(self) -> tuple[str, ...]:
        return ("x", "places", "like") if self.like else ("x", "places")

    def _shape(self, *inputs: Shape) -> Shape:
        n, c, *_ = four_axes(inputs[0], self.name)
        agree(self.name, "places", inputs[1], inputs[0])
        h, w = self.size or four_axes(inputs[2], self.name)[2:]
        return n, c, h, w

    def compute(self, *inputs: Array) -> Array:
        x, places = inputs[:2]
        shape = self.shape(*(i.shape for i in inputs))
        if places.size and not (places >= 0).all():
            raise GraphError(f"{self.name} has no place {places.min():g}.")
        result = np.zeros((shape[0] * shape[1], shape[2] * shape[3]))
        numbers = places.astype(np.int64).reshape(len(result), -1) % result.shape[1]
        for image, at, values in zip(result, numbers, x.reshape(len(result), -1), strict=True):
            image[at] = values
        return result.reshape(shape)


@dataclass(frozen=True)
class AdaptivePooling(Operation):
    """Pooling to a size of the output: window i covers rows ⌊i·H/out⌋ to ⌈(i + 1)·H/out⌉, which may overlap."""

    kind: str  # "max" or "average"
    size: Pair

    def __post_init__(self) -> None:
        if self.kind not in ("max", "average"):
            raise GraphError(f"pooling is 'max' or 'average', not {self.kind!r}.")
        at_least(self.name, "a size", 1, *self.size)

    def plain(self, size: Pair) -> Pooling | None:
        """The plain pooling that it is for an input of `(H, W)`, where all windows are alike."""
        if any(size[a] % self.size[a] for a in (0, 1)):
            return None
        kernel = (size[0] // self.size[0], size[1] // self.size[1])
        return Pooling(self.kind, kernel, kernel)

    def windows(self, axis: int, size: int) -> list[tuple[int, int]]:
        """First row and the one after the last of each window along axis 0 (down) or 1 (across)."""
        out = self.size[axis]
        return [(i * size // out, ceil_div((i + 1) * size, out)) for i in range(out)]

    def _shape(self, *inputs: Shape) -> Shape:
        n, c, h, w = four_axes(inputs[0], self.name)
        if min(h, w) < 1:
            raise GraphError(f"{self.name} needs an image, not {inputs[0]}.")
        return n, c, *self.size

    def compute(self, *inputs: Array) -> Array:
        x = inputs[0]
        result = np.empty((*x.shape[:2], *self.size))
        for row, (top, bottom) in enumerate(self.windows(0, x.shape[2])):
            for column, (left, right) in enumerate(self.windows(1, x.shape[3])):
                window = x[:, :, top:bottom, left:right]
                result[:, :, row, column] = window.max((2, 3)) if self.kind == "max" else window.mean((2, 3))
        return result


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "mean": np.mean,
    "sum": np.sum,
    "max": np.max,
    "min": np.min,
    "prod": np.prod,
}


@dataclass(frozen=True)
class Reduce(Operation):
    """Along some axes, the mean, sum, largest or smallest number, or product; `keep` leaves each axis with size 1.

    Global average pooling is `Reduce("mean", (2, 3), keep=True)`.
    """

    kind: str
    axes: tuple[int, ...]
    keep: bool = True

    def __post_init__(self) -> None:
        if self.kind not in REDUCTIONS:
            raise GraphError(f"there is no reduction {self.kind!r}: it may be one of {', '.join(REDUCTIONS)}.")

    @property
    def name(self) -> str:
        return f"reduce {self.kind}"

    def _shape(self, *inputs: Shape) -> Shape:
        x = inputs[0]
        axes = {an_axis(axis, len(x), self.name) for axis in self.axes}
        if len(axes) < len(self.axes):
            raise GraphError(f"{self.name} has an axis twice in {self.axes}.")
        if self.kind in ("mean", "max", "min") and math.prod(x[axis] for axis in axes) == 0:
            raise GraphError(f"{self.name} along {self.axes} has nothing to take in {x}.")
        if self.keep:
            return tuple(1 if axis in axes else size for axis, size in enumerate(x))
        return tuple(size for axis, size in enumerate(x) if axis not in axes)

    def compute(self, *inputs: Array) -> Array:
        result: Array = np.asarray(REDUCTIONS[self.kind](inputs[0], axis=self.axes, keepdims=self.keep), np.float64)
        return result
