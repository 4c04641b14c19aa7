"""PyTorch's own convolution and its gradients: for what the engine does not take.

The functions are bound when this module is loaded, so that a program may put `convforge.conv2d` in the place of
`torch.nn.functional.conv2d`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .arguments import transposed_size

_conv2d = torch.conv2d
conv_transpose2d = torch.conv_transpose2d
_pad = torch.nn.functional.pad
_backward = torch.ops.aten.convolution_backward.default


def conv2d(x: Tensor, w: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    """The forward pass. Padding is torch's, or `((top, bottom), (left, right))`: where the sides differ, which torch
    cannot, the input is padded before."""
    if isinstance(padding, (tuple, list)) and len(padding) == 2 and isinstance(padding[0], (tuple, list)):
        (top, bottom), (left, right) = padding
        if top == bottom and left == right:
            return _conv2d(x, w, bias, stride, (top, left), dilation, groups)
        return _conv2d(_pad(x, (left, right, top, bottom)), w, bias, stride, 0, dilation, groups)
    return _conv2d(x, w, bias, stride, padding, dilation, groups)


def transposed(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    size: Sequence[int],
    stride: Any,
    pads: Sequence[int],
    dilation: Any,
    groups: int,
) -> Tensor:
    """The transposed convolution, to an output of this height and width."""
    padding = (pads[0], pads[2])
    least = transposed_size(x.shape, w.shape, stride, padding, (0, 0), dilation)
    more = (size[0] - least[0], size[1] - least[1])
    if all(0 <= more[a] < max(stride[a], dilation[a]) for a in (0, 1)):
        return conv_transpose2d(x, w, bias, stride, padding, more, groups, dilation)
    y = input_gradient(x, w, size, stride, pads, dilation, groups)
    return y if bias is None else y + bias[:, None, None]


def input_gradient(
    g: Tensor, w: Tensor, size: Sequence[int], stride: Any, pads: Sequence[int], dilation: Any, groups: int
) -> Tensor:
    """∂loss/∂x of an x of this height and width; `pads` is (top, bottom, left, right)."""
    top, bottom, left, right = pads
    height, width = size
    if top == bottom and left == right:
        x = w.new_empty(()).expand(g.shape[0], w.shape[1] * groups, height, width)
        return _gradients(g, x, w, stride, dilation, groups, 0, (top, left))
    padded = w.new_empty(()).expand(g.shape[0], w.shape[1] * groups, top + height + bottom, left + width + right)
    dx: Tensor = _gradients(g, padded, w, stride, dilation, groups, 0)
    return _pad(dx, (-left, -right, -top, -bottom)).contiguous()


def weight_gradient(
    x: Tensor, g: Tensor, kernel: Sequence[int], stride: Any, pads: Sequence[int], dilation: Any, groups: int
) -> Tensor:
    """∂loss/∂w of kernels of this height and width."""
    top, bottom, left, right = pads
    w = x.new_empty(()).expand(g.shape[1], x.shape[1] // groups, *kernel)
    if top == bottom and left == right:
        return _gradients(g, x, w, stride, dilation, groups, 1, (top, left))
    return _gradients(g, _pad(x, (left, right, top, bottom)), w, stride, dilation, groups, 1)


def _gradients(
    g: Tensor,
    x: Tensor,
    w: Tensor,
    stride: Any,
    dilation: Any,
    groups: int,
    which: int,
    padding: tuple[int, int] = (0, 0),
) -> Tensor:
    wanted = [n == which for n in range(3)]
    how = list(stride), list(padding), list(dilation), False, [0, 0], groups
    gradient: Tensor = _backward(g, x, w, None, *how, wanted)[which]
    return gradient


@cache
def _warn(problem: str) -> None:
    warnings.warn(f"convforge hands convolutions over to PyTorch: {problem}", RuntimeWarning, stacklevel=4)


def warn_that_code_cannot_be_loaded(problem: Exception) -> None:
    """Once a program for each reason: everything is right, and slower than it should be."""
    _warn(str(problem))
