"""Images of another size: nearest neighbours, linear and cubic interpolation, along each axis by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...spec import Pair
from .base import Array, GraphError, Operation, Shape, four_axes

MODES = ("nearest", "bilinear", "bicubic")
COORDINATES = ("asymmetric", "half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "align_corners")
ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
}


def keys(d: Array, a: float) -> Array:
    """How much of a row at distance d cubic interpolation takes (R. Keys, 1981), by its parameter a."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


@dataclass(frozen=True)
class Resize(Operation):
    """An image of another size: exactly one of `size` `(H, W)`, `scales` (the size is ⌊H · scale⌋), and `like`, with
    which a second input has the size.

    `coordinates` says which point x of the input row i of the output is, with scale = given or H_out / H: "asymmetric"
    i / scale, "half_pixel" (i + ½) / scale − ½, "pytorch_half_pixel" the same but 0 for a single row,
    "half_pixel_symmetric" the same but moved so that what is lost by rounding H · scale is lost on both sides,
    "align_corners" i · (H − 1) / (H_out − 1). The nearest row is ROUNDINGS of x, linear interpolation is between its
    two neighbours, cubic one of its four (`keys`), with `cubic` as its parameter a.
    torch's 'nearest' is "asymmetric" and "floor", its 'nearest-exact' "half_pixel" and "round_prefer_ceil", its
    'bilinear' and 'bicubic' "half_pixel". Beyond the edge it is repeated, or where `inside` says so the rows that there
    are have all the weight.

    With `antialias`, linear and cubic interpolation to fewer rows take them from a neighbourhood that is wider by as
    much, so that each row counts: torch's, with `inside`, and that of Pillow and ONNX.
    """

    size: Pair | None = None
    scales: tuple[float, float] | None = None
    mode: str = "nearest"
    coordinates: str = "asymmetric"
    rounding: str = "floor"
    like: bool = False
    cubic: float = -0.75
    antialias: bool = False
    inside: bool = False

    def __post_init__(self) -> None:
        if (self.size is not None) + (self.scales is not None) + self.like != 1:
            raise GraphError("Resize takes one of a size, scales, and another image's size.")
        if self.scales and not all(0 < scale < math.inf for scale in self.scales):
            raise GraphError(f"Resize takes scales above 0, not {self.scales}.")
        allowed: dict[str, tuple[str, Collection[str]]] = {
            "mode": (self.mode, MODES),
            "coordinates": (self.coordinates, COORDINATES),
            "rounding": (self.rounding, ROUNDINGS),
        }
        for what, (value, known) in allowed.items():
            if value not in known:
                raise GraphError(f"Resize has no {what} {value!r}: it may be one of {', '.join(known)}.")
        if self.antialias and self.mode == "nearest":
            raise GraphError("Resize smooths by linear or cubic interpolation, and nearest neighbours have none.")

    @property
    def operands(self) -> tuple[str, ...]:
        return ("x", "like") if self.like else ("x",)

    def _shape(self, *inputs: Shape) -> Shape:
        n, c, h, w = four_axes(inputs[0], self.name)
        size = four_axes(inputs[1], self.name)[2:] if self.like else self.size or self._scaled((h, w))
        if min(size) < 1:
            raise GraphError(f"Resize makes nothing of a {h}×{w} input: its output would be {size[0]}×{size[1]}.")
        return n, c, *size

    def _scaled(self, size: Pair) -> Pair:
        vertical, horizontal = self.scales or (1.0, 1.0)
        return math.floor(size[0] * vertical), math.floor(size[1] * horizontal)

    def points(self, axis: int, size: int, out: int) -> Array:
        """Where each of `out` rows lies in the input's `size` along axis 0 (down) or 1 (across)."""
        rows = np.arange(out, dtype=np.float64)
        if self.coordinates == "align_corners":
            return rows * (size - 1) / (out - 1) if out > 1 else rows
        if self.coordinates == "pytorch_half_pixel" and out == 1:
            return rows
        half = 0.0 if self.coordinates == "asymmetric" else 0.5
        # Multiplied first: the quotient is exact where it is a whole number, and rounding it down is safe.
        scaled = (rows + half) / self.scales[axis] if self.scales else (rows + half) * size / out
        points: Array = scaled - half
        if self.coordinates == "half_pixel_symmetric" and self.scales:
            points += size / 2 * (1 - out / (self.scales[axis] * size))
        return points

    def taps(self, axis: int, size: int, out: int) -> tuple[NDArray[np.int64], Array]:
        """The rows of the input that each row of the output is made of, and how much of each: both `(out, taps)`."""
        points = self.points(axis, size, out)
        if self.mode == "nearest":
            rows, shares = ROUNDINGS[self.rounding](points)[:, None], np.ones((out, 1))
        elif self.antialias:
            # Distances are measured in rows of the smaller of both images.
            scale = min(self.scales[axis] if self.scales else out / size, 1.0)
            reach = math.ceil((2 if self.mode == "bicubic" else 1) / scale)
            rows = np.floor(points)[:, None] + np.arange(1 - reach, reach + 1)
            distances = np.abs(rows - points[:, None]) * scale
            shares = keys(distances, self.cubic) if self.mode == "bicubic" else np.maximum(1 - distances, 0)
            shares /= shares.sum(1, keepdims=True)
        elif self.mode == "bilinear":
            points = np.clip(points, 0, size - 1)
            first = np.floor(points)
            share = points - first
            rows, shares = np.stack([first, first + 1], 1), np.stack([1 - share, share], 1)
        else:
            first = np.floor(points)
            share = points - first
            rows = first[:, None] + np.arange(-1, 3)
            shares = keys(np.stack([1 + share, share, 1 - share, 2 - share], 1), self.cubic)
        if self.inside and self.mode != "nearest":
            shares = np.where((rows < 0) | (rows >= size), 0.0, shares)
            shares /= shares.sum(1, keepdims=True)
        return np.clip(rows, 0, size - 1).astype(np.int64), shares

    def compute(self, *inputs: Array) -> Array:
        x = inputs[0]
        out = self.shape(*(i.shape for i in inputs))[2:]
        for axis in (0, 1):
            rows, shares = self.taps(axis, x.shape[2 + axis], out[axis])
            beside = (-1, *(1,) * (1 - axis))
            pairs = [(of, share.reshape(beside)) for of, share in zip(rows.T, shares.T, strict=True)]
            x = np.sum([self._taken(np.take(x, of, axis=2 + axis), share) for of, share in pairs], axis=0)
        return x

    def _taken(self, rows: Array, share: Array) -> Array:
        if self.antialias:  # a row without a share is not taken, whatever stands there
            rows = np.where(share == 0, 0.0, rows)
        return rows * share
