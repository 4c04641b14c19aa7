"""What a convolution is told besides its tensors: in the many forms that a call may have, and in the one that the
operators take, where padding is (top, bottom, left, right)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch

from ..spec import PADDING_RULES, Sides, as_padding, output_size, same_ceil_pad, transposed_output_size

Sizes: TypeAlias = tuple[int, ...]
Geometry: TypeAlias = tuple[Sizes, Sizes, Sizes, int]
"""Stride, padding, dilation, groups."""


def resolve_padding(
    padding: Any, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Sides | None:
    """Any form of padding as `((top, bottom), (left, right))`; None for what torch should refuse in its own words."""
    pair = as_pair(padding)
    if pair is not None:
        return (pair[0], pair[0]), (pair[1], pair[1])
    by_side = isinstance(padding, Sequence) and len(padding) == 2 and not isinstance(padding, str)
    if not by_side and padding not in PADDING_RULES:
        return None
    steps, gaps, extent = ((pair[0], pair[1]) for pair in (stride, dilation, kernel))
    known = as_padding(padding, extent, steps, gaps)
    if not isinstance(known, str):
        return known
    vertical, horizontal = (same_ceil_pad(size[a], kernel[a], stride[a], dilation[a]) for a in (0, 1))
    return vertical, horizontal


def as_pair(value: Any) -> tuple[int, int] | None:
    """An integer or integers as (vertical, horizontal); None for anything else."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) == 1:
            return (value[0], value[0]) if _is_integer(value[0]) else None
        return (value[0], value[1]) if len(value) == 2 and _is_integer(value[0]) and _is_integer(value[1]) else None
    return (value, value) if _is_integer(value) else None


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)


def sizes_fit(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    bias_shape: Sequence[int] | None,
    stride: Any,
    sides: Sides,
    dilation: Any,
    groups: int,
) -> bool:
    """Whether there is such a convolution, and something in it to compute: torch sees to everything else."""
    channels, (outs, per_group, kh, kw) = x_shape[-3], w_shape
    if not isinstance(groups, int) or groups < 1 or outs % groups or channels != per_group * groups or outs == 0:
        return False
    if bias_shape is not None and (len(bias_shape) != 1 or bias_shape[0] != outs):
        return False
    if min(*stride, *dilation) < 1 or min(*sides[0], *sides[1]) < 0:
        return False
    if channels == 0 or kh == 0 or kw == 0 or x_shape[-2] == 0 or x_shape[-1] == 0:
        return False
    if len(x_shape) == 4 and x_shape[0] == 0:
        return False
    return all(output_size(x_shape[a - 2], w_shape[a + 2], stride[a], sides[a], dilation[a]) >= 1 for a in (0, 1))


def transposed_sizes_fit(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    bias_shape: Sequence[int] | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    dilation: Any,
    groups: int,
) -> bool:
    """Whether there is such a transposed convolution, and something in it to compute: torch sees to everything else."""
    ins, per_group, kh, kw = w_shape
    if not isinstance(groups, int) or groups < 1 or ins % groups or x_shape[-3] != ins or 0 in (ins, per_group, kh, kw):
        return False
    if bias_shape is not None and (len(bias_shape) != 1 or bias_shape[0] != per_group * groups):
        return False
    if min(*stride, *dilation) < 1 or min(*padding, *output_padding) < 0:
        return False
    if x_shape[-2] == 0 or x_shape[-1] == 0 or (len(x_shape) == 4 and x_shape[0] == 0):
        return False
    if any(output_padding[a] >= max(stride[a], dilation[a]) for a in (0, 1)):
        return False
    return min(transposed_size(x_shape, w_shape, stride, padding, output_padding, dilation)) >= 1


def transposed_size(
    x_shape: Sequence[int], w_shape: Sequence[int], stride: Any, padding: Any, output_padding: Any, dilation: Any
) -> tuple[int, int]:
    """Height and width of the output of a transposed convolution."""
    height, width = (
        transposed_output_size(
            x_shape[a - 2], w_shape[a + 2], stride[a], (padding[a], padding[a]), dilation[a], output_padding[a]
        )
        for a in (0, 1)
    )
    return height, width


def transposed_pads(stride: Any, padding: Any, output_padding: Any) -> list[int]:
    """The padding of the convolution whose input gradient it is, as the operators take it.

    Of the rows that output padding adds, a convolution at this stride overlooks up to stride − 1; of more than those,
    which torch takes where the dilation is larger still, it has to be told: as padding after that is less than before,
    or even crops.
    """
    after = [padding[a] - output_padding[a] // stride[a] * stride[a] for a in (0, 1)]
    return [padding[0], after[0], padding[1], after[1]]


def as_geometry(stride: Sequence[int], pads: Sequence[int], dilation: Sequence[int], groups: int) -> Geometry:
    """As plans are found by: the lists that the dispatcher hands over cannot be hashed."""
    return tuple(stride), tuple(pads), tuple(dilation), groups


def out_size(x: Sequence[int], w: Sequence[int], stride: Any, pads: Any, dilation: Any) -> tuple[int, int]:
    """Height and width of the output, of the shapes of input and weights."""
    height, width = (
        output_size(x[2 + a], w[2 + a], stride[a], (pads[2 * a], pads[2 * a + 1]), dilation[a]) for a in (0, 1)
    )
    return height, width
