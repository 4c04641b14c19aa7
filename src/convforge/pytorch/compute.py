"""What the operators do with tensors on the CPU: find the plan of their sizes, and run it on their addresses.

16-bit numbers are computed in float32, or by PyTorch where that is faster (`sixteen.py`). Where machine code cannot be
loaded, PyTorch computes, with one warning.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import by_torch, kept
from .arguments import as_geometry
from .by_engine import CannotLoad, Prepared
from .layout import check_memory, empty_strided, in_format, is_channels_last, located
from .plans import Plan, forward_plan, input_gradient_plan, settings, weight_gradient_plan
from .sixteen import torch_is_faster


def forward(x: Tensor, w: Tensor, bias: Tensor | None, stride: Any, pads: Any, dilation: Any, groups: int) -> Tensor:
    """y = x ⋆ w + bias."""
    if x.dtype.itemsize == 2:
        check_memory(x, w, bias)
        if torch_is_faster(x.dtype):
            return _forward_by_torch(x, w, bias, stride, pads, dilation, groups)
        wide = forward(x.float(), _wide(w), None if bias is None else bias.float(), stride, pads, dilation, groups)
        return wide.to(x.dtype)
    dtype = _common_dtype(x, w)
    bias = _checked(bias, w.shape[0], dtype)
    geometry = as_geometry(stride, pads, dilation, groups)
    keep = not w.requires_grad
    try:
        plan = forward_plan(
            dtype, x.shape, x.stride(), w.shape, w.stride(), bias is not None, geometry, *settings(), keep
        )
    except CannotLoad as problem:
        by_torch.warn_that_code_cannot_be_loaded(problem)
        return _forward_by_torch(x, w, bias, stride, pads, dilation, groups)
    return run_forward(plan, x, w, bias)


def _forward_by_torch(
    x: Tensor, w: Tensor, bias: Tensor | None, stride: Any, pads: Any, dilation: Any, groups: int
) -> Tensor:
    y = by_torch.conv2d(x, w, bias, stride, ((pads[0], pads[1]), (pads[2], pads[3])), dilation, groups)
    return in_format(y, is_channels_last(x) or is_channels_last(w))


def run_forward(plan: Plan, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """A planned forward pass, over tensors of the sizes that it was planned for."""
    y: Tensor = empty_strided(plan.shape, plan.strides, plan.dtype)
    prepared = plan.prepared
    if prepared is not None:
        x_at, _ = located(x, plan.extents[0], plan.itemsize)
        packed, w_at, alive = _weights(plan, prepared, w)
        b_at = 0 if bias is None else located(bias, plan.shape[1] * plan.itemsize, plan.itemsize)[0]
        prepared.run(packed, x_at, w_at, y.data_ptr(), b_at)
        del alive  # the packed weights are needed until here
    return y


def input_gradient(
    g: Tensor, w: Tensor, size: Any, stride: Any, pads: Any, dilation: Any, groups: int, channels_last: bool
) -> Tensor:
    """x's gradient, of this height and width, from y's."""
    if g.dtype.itemsize == 2:
        check_memory(g, w)
        if torch_is_faster(g.dtype):
            return in_format(by_torch.input_gradient(g, w, size, stride, pads, dilation, groups), channels_last)
        return input_gradient(g.float(), _wide(w), size, stride, pads, dilation, groups, channels_last).to(g.dtype)
    dtype, geometry = _common_dtype(g, w), as_geometry(stride, pads, dilation, groups)
    try:
        plan = input_gradient_plan(
            dtype, g.shape, g.stride(), w.shape, w.stride(), tuple(size), geometry, channels_last, False, *settings(),
            not w.requires_grad,
        )  # fmt: skip
    except CannotLoad as problem:
        by_torch.warn_that_code_cannot_be_loaded(problem)
        return in_format(by_torch.input_gradient(g, w, size, stride, pads, dilation, groups), channels_last)
    return run_input_gradient(plan, g, w, None)


def run_input_gradient(plan: Plan, g: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """A planned input gradient or transposed convolution, over tensors of the sizes that it was planned for."""
    dx, prepared = plan.output(), plan.prepared
    if prepared is None:
        return dx.zero_()
    g_at, _ = located(g, plan.extents[0], plan.itemsize)
    packed, w_at, alive = _weights(plan, prepared, w)
    b_at = 0 if bias is None else located(bias, plan.shape[1] * plan.itemsize, plan.itemsize)[0]
    prepared.run(packed, dx.data_ptr(), w_at, g_at, b_at)
    del alive
    return dx


def transposed(
    x: Tensor, w: Tensor, bias: Tensor | None, size: Any, stride: Any, pads: Any, dilation: Any, groups: int
) -> Tensor:
    """The transposed convolution: what a convolution that makes x has for an input gradient, of this height and width;
    with a bias, or without."""
    channels_last = is_channels_last(x) or is_channels_last(w)
    geometry = as_geometry(stride, pads, dilation, groups)
    if x.dtype.itemsize == 2:
        check_memory(x, w, bias)
        if torch_is_faster(x.dtype):
            return in_format(by_torch.transposed(x, w, bias, size, *geometry), channels_last)
        wide = transposed(x.float(), _wide(w), None if bias is None else bias.float(), size, *geometry)
        return wide.to(x.dtype)
    dtype = _common_dtype(x, w)
    bias = _checked(bias, w.shape[1] * groups, dtype)
    try:
        plan = input_gradient_plan(
            dtype, x.shape, x.stride(), w.shape, w.stride(), tuple(size), geometry, channels_last, bias is not None,
            *settings(), not w.requires_grad,
        )  # fmt: skip
    except CannotLoad as problem:
        by_torch.warn_that_code_cannot_be_loaded(problem)
        return in_format(by_torch.transposed(x, w, bias, size, *geometry), channels_last)
    return run_input_gradient(plan, x, w, bias)


def weight_gradient(
    x: Tensor, g: Tensor, kernel: Any, stride: Any, pads: Any, dilation: Any, groups: int, channels_last: bool
) -> Tensor:
    """w's gradient, of kernels of this height and width, from y's."""
    if x.dtype.itemsize == 2:
        check_memory(x, g)
        if torch_is_faster(x.dtype):
            return in_format(by_torch.weight_gradient(x, g, kernel, stride, pads, dilation, groups), channels_last)
        return weight_gradient(x.float(), g.float(), kernel, stride, pads, dilation, groups, channels_last).to(x.dtype)
    dtype, geometry = _common_dtype(x, g), as_geometry(stride, pads, dilation, groups)
    try:
        plan = weight_gradient_plan(
            dtype, x.shape, x.stride(), g.shape, g.stride(), tuple(kernel), geometry, channels_last, *settings()
        )
    except CannotLoad as problem:
        by_torch.warn_that_code_cannot_be_loaded(problem)
        return in_format(by_torch.weight_gradient(x, g, kernel, stride, pads, dilation, groups), channels_last)
    return run_weight_gradient(plan, x, g)


def run_weight_gradient(plan: Plan, x: Tensor, g: Tensor) -> Tensor:
    """A planned weight gradient, over tensors of the sizes that it was planned for."""
    dw, prepared = plan.output(), plan.prepared
    if prepared is None:
        return dw.zero_()
    x_at, _ = located(x, plan.extents[0], plan.itemsize)
    g_at, _ = located(g, plan.extents[1], plan.itemsize)
    prepared.run(0, x_at, dw.data_ptr(), g_at)
    return dw


def _weights(plan: Plan, prepared: Prepared, w: Tensor) -> tuple[int, int, object]:
    """Where the weights' packed form lies, if it is kept, where the weights do, and what keeps the form alive."""
    extent = plan.extents[1]
    address, storage = located(w, extent, plan.itemsize)
    if not plan.keep:
        if kept.promised:
            kept.thaw(w)
        return 0, address, None
    packed, alive = kept.packed(w, storage, address, extent, prepared)
    return packed, address, alive


def _checked(bias: Tensor | None, channels: int, dtype: torch.dtype) -> Tensor | None:
    """A bias as the kernels take it: one number a channel, side by side."""
    if bias is None:
        return None
    if bias.dtype != dtype or bias.shape != (channels,):
        raise RuntimeError(f"the bias must be {channels} numbers of {dtype}, not {bias.shape}, {bias.dtype}.")
    if not bias.is_contiguous():
        check_memory(bias)
        bias = bias.contiguous()
    return bias


def _wide(w: Tensor) -> Tensor:
    """16-bit weights as the kernels take them: made anew for each call, so there is no use in keeping their form."""
    return w.float().requires_grad_()


def _common_dtype(a: Tensor, b: Tensor) -> torch.dtype:
    if a.dtype != b.dtype:
        raise RuntimeError(f"convforge's operators take tensors of one dtype, not {a.dtype} and {b.dtype}.")
    return a.dtype
