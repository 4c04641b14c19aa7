"""A transposed convolution as the ordinary convolution that it is: over maps that zeros have spread apart.

With stride s, s − 1 zeros stand between neighbours of the input. Over that a kernel slides one by one, turned by 180°
and with its channels exchanged, with d·(k − 1) − p padding around and the output padding after it (Dumoulin & Visin, "A
guide to convolution arithmetic for deep learning", 2016). So each of its numbers has a patch, a kernel and products.
"""

from __future__ import annotations

from torch import Tensor

from ..spec import Conv2dSpec, Pair, kernel_extent


def turned(weight: Tensor, groups: int) -> Tensor:
    """The weight `(C, K/g, k, k)` of a transposed convolution as that of the ordinary one, `(K, C/g, k, k)`.

    >>> import torch
    >>> turned(torch.arange(6.0).reshape(1, 2, 1, 3), 1)[:, 0, 0].tolist()
    [[2.0, 1.0, 0.0], [5.0, 4.0, 3.0]]
    """
    channels, per_group, *kernel = weight.shape
    parts = weight.reshape(groups, channels // groups, per_group, *kernel).transpose(1, 2)
    return parts.reshape(groups * per_group, channels // groups, *kernel).flip(2, 3)


def spread(maps: Tensor, stride: Pair) -> Tensor:
    """Maps `(N, C, H, W)` with zeros between their numbers.

    >>> import torch
    >>> spread(torch.ones(1, 1, 1, 2), (1, 3))[0, 0].tolist()
    [[1.0, 0.0, 0.0, 1.0]]
    """
    height, width = ((size - 1) * step + 1 for size, step in zip(maps.shape[2:], stride, strict=True))
    wide = maps.new_zeros((*maps.shape[:2], height, width))
    wide[:, :, :: stride[0], :: stride[1]] = maps
    return wide


def as_convolution(
    channels: int, weight: Tensor, padding: Pair, output_padding: Pair, dilation: Pair, groups: int, bias: bool
) -> Conv2dSpec | None:
    """The settings of the ordinary convolution over the maps that were spread; None where it would cut maps off (more
    padding than the kernel reaches)."""
    kernel = (weight.shape[2], weight.shape[3])
    around = [kernel_extent(kernel[axis], dilation[axis]) - 1 - padding[axis] for axis in (0, 1)]
    if min(around) < 0:
        return None
    sides = ((around[0], around[0] + output_padding[0]), (around[1], around[1] + output_padding[1]))
    return Conv2dSpec(channels, weight.shape[1] * groups, kernel, 1, sides, dilation, groups, bias)
