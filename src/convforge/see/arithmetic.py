"""The products and sums behind one number of a feature map, written out: nothing is hidden and nothing rearranged.

    y[k, r, c] = b[k] + Σ_c' Σᵢ Σⱼ w[k, c', i, j] · x[first + c', r·s + i·d − p, c·s + j·d − p]

with c' over the input channels of k's group, and zeros (or what the padding mode says) where x has no such pixel. All
of it in float64, in which the product of two float32 numbers is exact.

Stride, padding, dilation and groups may be changed, to see what they do. With other groups the kernels stay what they
are: of its kernel, an output channel keeps the weights for the input channels of its new group. A grouped layer is
thus a dense one from which the weights between groups were struck out, and a group that is merged with others gets
zeros for their channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..reference import padded_index
from ..spec import Conv2dSpec, Pair, Sides, kernel_extent

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Unit:
    """One output number with everything that it is made of.

    Args:
        spec: the layer's, or the changed one.
        output_shape: (K, H_out, W_out).
        channels: the input channels that it reads: those of its group.
        rows, columns: where the kernel lies on the input; positions outside are padding.
        row_sources, column_sources: the input's row or column that stands there; -1 is a padded zero.
        patch, kernel, products: `(C/g, k, k)`, float64.
        bias, total: float64; `total` is the bias and all products.
    """

    spec: Conv2dSpec
    output_shape: tuple[int, int, int]
    channels: range
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    row_sources: tuple[int, ...]
    column_sources: tuple[int, ...]
    patch: Array
    kernel: Array
    products: Array
    bias: float
    total: float

    @property
    def sums(self) -> Array:
        """The products summed over the kernel, one number an input channel."""
        with np.errstate(invalid="ignore", over="ignore"):
            summed: Array = self.products.sum((1, 2))
        return summed

    @property
    def magnitude(self) -> float:
        """Σ|products| + |bias|: what rounding errors are to be measured by, for a total may be small by cancelling."""
        return float(np.abs(self.products).sum() + abs(self.bias))


def unit(
    spec: Conv2dSpec,
    x: NDArray[Any],
    weight: NDArray[Any],
    bias: NDArray[Any] | None,
    channel: int,
    row: int,
    column: int,
    original_groups: int | None = None,
) -> Unit:
    """What the number at `row`, `column` of output channel `channel` is made of.

    Args:
        spec: of the convolution, changed or not.
        x: its input, `(C, H, W)`.
        weight: its kernels, `(K, C / original groups, k, k)`.
        bias: `(K,)`, or None.
        channel, row, column: of the output.
        original_groups: the groups that `weight` was made for, where `spec` has others.

    Raises:
        SpecError: if the kernel does not fit, with the formula filled in.
        UserError: if there is no such output number.

    >>> made = unit(Conv2dSpec(1, 1, 3), np.arange(49.0).reshape(1, 7, 7), np.ones((1, 1, 3, 3)), None, 0, 1, 2)
    >>> made.rows, made.columns, made.total
    ((1, 2, 3), (2, 3, 4), 153.0)
    """
    size = (x.shape[1], x.shape[2])
    height, width = spec.output_size(size)
    for name, value, most in (("channel", channel, spec.out_channels), ("row", row, height), ("column", column, width)):
        if not 0 <= value < most:
            raise UserError(
                f"there is no {name} {value}: the output is {spec.out_channels}×{height}×{width}, and counting "
                "starts at 0."
            )
    (rows, row_sources), (columns, column_sources) = (
        _positions(spec, size, axis, place) for axis, place in ((0, row), (1, column))
    )
    channels = group_channels(spec, channel)
    inside = np.asarray(x[channels.start : channels.stop], np.float64)[:, row_sources][:, :, column_sources]
    border = np.logical_or.outer(row_sources < 0, column_sources < 0)
    patch: Array = np.where(border, 0.0, inside)
    kernel = kernel_of(spec, weight, channel, original_groups or spec.groups)
    with np.errstate(invalid="ignore", over="ignore"):  # a network may have weights that are not finite
        products = patch * kernel
        summed = float(products.sum())
    added = 0.0 if bias is None else float(bias[channel])
    return Unit(
        spec=spec,
        output_shape=(spec.out_channels, height, width),
        channels=channels,
        rows=tuple(rows.tolist()),
        columns=tuple(columns.tolist()),
        row_sources=tuple(row_sources.tolist()),
        column_sources=tuple(column_sources.tolist()),
        patch=patch,
        kernel=kernel,
        products=products,
        bias=added,
        total=summed + added,
    )


@dataclass(frozen=True)
class WeightGradient:
    """Where the gradient of one weight comes from: it met the numbers `met` of the input, one at each position of the
    output, `(H_out, W_out)`, and each is multiplied with the gradient that came back to that position.

        ∂L/∂w[k, c, i, j] = Σ_r Σ_c  ∂L/∂y[k, r, c] · x[c', r·s + i·d − p, c·s + j·d − p]
    """

    met: Array
    incoming: Array

    @property
    def products(self) -> Array:
        products: Array = self.met * self.incoming
        return products

    @property
    def total(self) -> float:
        return float(self.products.sum())


def weight_gradient(
    spec: Conv2dSpec, x: NDArray[Any], incoming: NDArray[Any], channel: int, read: int, row: int, column: int
) -> WeightGradient:
    """The products behind the gradient of a weight.

    Args:
        spec: of the convolution.
        x: its input, `(C, H, W)`.
        incoming: the gradient by its output, `(K, H_out, W_out)`.
        channel: of the output, whose kernel the weight is in.
        read: which of the input channels of its group the weight is for, from 0.
        row, column: in the kernel.

    Raises:
        UserError: if there is no such weight.

    >>> one = weight_gradient(Conv2dSpec(1, 1, 2), np.arange(4.0).reshape(1, 2, 2), np.full((1, 1, 1), 5.0), 0, 0, 1, 0)
    >>> one.met, one.total
    (array([[2.]]), 10.0)
    """
    channels = group_channels(spec, channel) if channel < spec.out_channels else range(0)
    shape = (spec.out_channels, len(channels), *spec.kernel_size)
    if not channels or any(not 0 <= at < most for at, most in zip((channel, read, row, column), shape, strict=True)):
        raise UserError(
            f"there is no weight {channel}, {read}, {row}, {column}: there are {'×'.join(str(n) for n in shape)}, and "
            "counting starts at 0."
        )
    size = (x.shape[1], x.shape[2])
    rows, columns = (_met(spec, size, axis, at, incoming.shape[1 + axis]) for axis, at in ((0, row), (1, column)))
    numbers = np.asarray(x[channels[read]], np.float64)[rows][:, columns]
    met: Array = np.where(np.logical_or.outer(rows < 0, columns < 0), 0.0, numbers)
    return WeightGradient(met, np.asarray(incoming[channel], np.float64))


def _met(spec: Conv2dSpec, size: Pair, axis: int, tap: int, count: int) -> NDArray[np.int64]:
    """The input's row (or column) that a row of the kernel meets at each position of the output; -1 is a zero."""
    start = tap * spec.dilation[axis]
    places = np.arange(start, start + (count - 1) * spec.stride[axis] + 1, spec.stride[axis])
    return padded_index(size[axis], spec.sides(size)[axis], spec.padding_mode)[places]


def group_channels(spec: Conv2dSpec, channel: int) -> range:
    """The input channels that an output channel reads.

    >>> group_channels(Conv2dSpec(8, 4, 3, groups=2), 3)
    range(4, 8)
    """
    per_group = spec.in_channels // spec.groups
    first = channel // (spec.out_channels // spec.groups) * per_group
    return range(first, first + per_group)


def kernel_of(spec: Conv2dSpec, weight: NDArray[Any], channel: int, original_groups: int) -> Array:
    """The kernel of an output channel for the input channels of its group, `(C/g, k, k)`, where `weight` was made for
    `original_groups`."""
    before = group_channels(changed(spec, groups=original_groups), channel)
    whole = np.zeros((spec.in_channels, *spec.kernel_size))
    whole[before.start : before.stop] = weight[channel]
    now = group_channels(spec, channel)
    kernel: Array = whole[now.start : now.stop]
    return kernel


def changed(
    spec: Conv2dSpec,
    stride: Pair | None = None,
    padding: Sequence[Sequence[int]] | str | None = None,
    dilation: Pair | None = None,
    groups: int | None = None,
) -> Conv2dSpec:
    """The spec with some of its settings replaced.

    Raises:
        SpecError: if they do not go together.

    >>> changed(Conv2dSpec(4, 4, 3), stride=(2, 2), groups=4).groups
    4
    """
    return Conv2dSpec(
        spec.in_channels,
        spec.out_channels,
        spec.kernel_size,
        spec.stride if stride is None else stride,
        spec.padding if padding is None else padding,
        spec.dilation if dilation is None else dilation,
        spec.groups if groups is None else groups,
        spec.bias,
        spec.padding_mode,
    )


def size_formula(spec: Conv2dSpec, size: Pair) -> tuple[str, str]:
    """How height and width of the output come about, with the numbers filled in.

    >>> size_formula(Conv2dSpec(3, 8, 3, stride=2, padding=1), (224, 224))[0]
    '⌊(224 + 1 + 1 − 1·(3 − 1) − 1) / 2⌋ + 1 = 112'
    """
    sides, out = spec.sides(size), spec.output_size(size)
    vertical, horizontal = (_formula(spec, sides, size[a], out[a], a) for a in (0, 1))
    return vertical, horizontal


def _formula(spec: Conv2dSpec, sides: Sides, size: int, out: int, axis: int) -> str:
    before, after = sides[axis]
    extent = f"{spec.dilation[axis]}·({spec.kernel_size[axis]} − 1) − 1"
    return f"⌊({size} + {before} + {after} − {extent}) / {spec.stride[axis]}⌋ + 1 = {out}"


def _positions(spec: Conv2dSpec, size: Pair, axis: int, place: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the kernel's rows (or columns) lie, and which of the input's stand there (-1: a padded zero)."""
    before, _ = sides = spec.sides(size)[axis]
    start = place * spec.stride[axis]
    taps = np.arange(start, start + kernel_extent(spec.kernel_size[axis], spec.dilation[axis]), spec.dilation[axis])
    return taps - before, padded_index(size[axis], sides, spec.padding_mode)[taps]
