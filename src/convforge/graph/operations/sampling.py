"""Images read at points that other numbers say: torch's `grid_sample`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array, GraphError, Operation, Shape, four_axes
from .resize import keys

MODES = ("nearest", "bilinear", "bicubic")
BEYOND = ("zeros", "border", "reflection")
CUBIC = -0.75
"""The parameter of cubic interpolation, torch's and ONNX's."""


@dataclass(frozen=True)
class GridSample(Operation):
    """Pixels of x `(N, C, H, W)` at the points of a grid `(N, H_out, W_out, 2)`: column and row, from −1 to 1.

    With `align_corners` −1 and 1 are the middles of the first and the last pixel, without it their outer edges. The
    nearest pixel (of two equally near ones the even), two or four each way are taken. `beyond` says what is outside:
    zeros, the pixel at the border, or the image reflected at −1 and 1. A point that is NaN makes NaN.
    """

    mode: str = "bilinear"
    beyond: str = "zeros"
    align_corners: bool = False

    def __post_init__(self) -> None:
        for what, value, known in (("mode", self.mode, MODES), ("padding", self.beyond, BEYOND)):
            if value not in known:
                raise GraphError(f"GridSample has no {what} {value!r}: it may be one of {', '.join(known)}.")

    @property
    def operands(self) -> tuple[str, ...]:
        return "x", "grid"

    def _shape(self, *inputs: Shape) -> Shape:
        n, c, h, w = four_axes(inputs[0], self.name)
        if len(inputs[1]) != 4 or inputs[1][0] != n or inputs[1][3] != 2:
            raise GraphError(f"GridSample takes a grid of shape ({n}, H_out, W_out, 2), not {inputs[1]}.")
        if min(h, w) < 1:
            raise GraphError(f"GridSample needs an image, not {inputs[0]}.")
        return n, c, *inputs[1][1:3]

    def compute(self, *inputs: Array) -> Array:
        x, grid = inputs
        images = np.arange(len(x)).reshape(-1, 1, 1)
        result = np.zeros((len(x), *grid.shape[1:3], x.shape[1]))
        for row, down in self._taps(grid[..., 1], x.shape[2]):
            for column, across in self._taps(grid[..., 0], x.shape[3]):
                there = (row >= 0) & (column >= 0)
                pixels = x.transpose(0, 2, 3, 1)[images, np.maximum(row, 0), np.maximum(column, 0)]
                result += np.where(there[..., None], pixels, 0.0) * (down * across)[..., None]
        return np.ascontiguousarray(result.transpose(0, 3, 1, 2))

    def _taps(self, points: Array, size: int) -> list[tuple[Array, Array]]:
        """Rows of so many, −1 where there is none, and how much of each is taken."""
        points = (points + 1) / 2 * (size - 1) if self.align_corners else ((points + 1) * size - 1) / 2
        if self.mode != "bicubic":
            points = self._inside(points, size)
        first = np.rint(points) if self.mode == "nearest" else np.floor(points)
        share = points - first
        if self.mode == "nearest":
            pairs = [(first, np.where(np.isnan(points), np.nan, 1.0))]
        elif self.mode == "bilinear":
            pairs = [(first, 1 - share), (first + 1, share)]
        else:
            pairs = [(self._inside(first + n, size), keys(abs(share - n), CUBIC)) for n in range(-1, 3)]
        return [(_whole(row, size), weight) for row, weight in pairs]

    def _inside(self, points: Array, size: int) -> Array:
        """Points beyond the border brought back where it is repeated or reflected."""
        if self.beyond == "zeros":
            return points
        if self.beyond == "reflection":
            low, span = (0.0, size - 1.0) if self.align_corners else (-0.5, float(size))
            away = abs(points - low)
            away = away - np.floor(away / (2 * span)) * (2 * span) if span else away * 0
            points = np.minimum(away, 2 * span - away) + low
        return np.clip(points, 0, size - 1)


def middles_of(height: int, width: int, align_corners: bool) -> Array:
    """Column, row and 1 of each pixel of an image, `(height · width, 3)`: times a matrix of 2×3 they are the points of
    a `GridSample` that turns and moves it, torch's `affine_grid`."""
    rows, columns = (
        np.linspace(-1, 1, size) * (1.0 if align_corners else (size - 1) / size) if size > 1 else np.zeros(1)
        for size in (height, width)
    )
    return np.stack([*np.meshgrid(columns, rows), np.ones((height, width))], 2).reshape(-1, 3)


def _whole(rows: Array, size: int) -> Array:
    there = (rows >= 0) & (rows < size)
    return np.where(there, rows, -1).astype(np.int64)
