"""The operators, whole: what they do on the CPU, to fake tensors and under autocast, and their derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import autograd, compute
from .arguments import out_size
from .definitions import forward_op, input_gradient_op, library, transposed_op, weight_gradient_op
from .layout import is_channels_last, memory_format

__all__ = ["forward_op", "input_gradient_op", "transposed_op", "weight_gradient_op"]

# What comes out, without computing it: for tracing with fake tensors.


def _forward_fake(
    x: Tensor, w: Tensor, bias: Tensor | None, stride: Any, pads: Any, dilation: Any, groups: int
) -> Tensor:
    out = out_size(x.shape, w.shape, stride, pads, dilation)
    return _empty(x, (x.shape[0], w.shape[0], *out), is_channels_last(x) or is_channels_last(w))


def _input_gradient_fake(
    g: Tensor, w: Tensor, size: Any, stride: Any, pads: Any, dilation: Any, groups: int, channels_last: bool
) -> Tensor:
    return _empty(g, (g.shape[0], w.shape[1] * groups, *size), channels_last)


def _weight_gradient_fake(
    x: Tensor, g: Tensor, kernel: Any, stride: Any, pads: Any, dilation: Any, groups: int, channels_last: bool
) -> Tensor:
    return _empty(x, (g.shape[1], x.shape[1] // groups, *kernel), channels_last)


def _transposed_fake(
    x: Tensor, w: Tensor, bias: Tensor | None, size: Any, stride: Any, pads: Any, dilation: Any, groups: int
) -> Tensor:
    return _empty(x, (x.shape[0], w.shape[1] * groups, *size), is_channels_last(x) or is_channels_last(w))


def _empty(like: Tensor, shape: Sequence[int], channels_last: bool) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format(channels_last))


_OPERATORS: tuple[tuple[str, Any, Any, Any, Any], ...] = (
    ("conv2d", compute.forward, _forward_fake, autograd.forward_backward, autograd.save_forward),
    ("conv2d_input_gradient", compute.input_gradient, _input_gradient_fake,
     autograd.input_gradient_backward, autograd.save_input_gradient),
    ("conv2d_weight_gradient", compute.weight_gradient, _weight_gradient_fake,
     autograd.weight_gradient_backward, autograd.save_weight_gradient),
    ("conv_transpose2d", compute.transposed, _transposed_fake, autograd.transposed_backward, autograd.save_transposed),
)  # fmt: skip
for _name, _cpu, _fake, _backward, _save in _OPERATORS:
    library.impl(_name, _cpu, "CPU")
    torch.library.register_fake(f"convforge::{_name}", _fake, lib=library)
    torch.library.register_autograd(f"convforge::{_name}", _backward, setup_context=_save, lib=library)


def _autocast(operator: Any, x: Tensor, w: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    """As torch's convolution under autocast. (`torch.library.register_autocast` knows one dtype only.)"""
    dtype = torch.get_autocast_dtype("cpu")
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)):
        narrow = [t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in (x, w, bias)]
        y: Tensor = operator(*narrow, *geometry)
        return y


library.impl("conv2d", partial(_autocast, forward_op), "AutocastCPU")
library.impl("conv_transpose2d", partial(_autocast, transposed_op), "AutocastCPU")
