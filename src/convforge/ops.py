"""The engine as torch operators, and `conv2d`, the function with torch's signature.

Three operators are closed under differentiation, so any order of derivative is made of them (⋆: a convolution):

    conv2d(x, w)                  ∂/∂x: conv2d_input_gradient(g, w)      ∂/∂w: conv2d_weight_gradient(x, g)
    conv2d_input_gradient(g, w)   ∂/∂g: conv2d(v, w)                     ∂/∂w: conv2d_weight_gradient(v, g)
    conv2d_weight_gradient(x, g)  ∂/∂x: conv2d_input_gradient(g, v)      ∂/∂g: conv2d(x, v)

What the engine does not take (other devices, complex or integer numbers, arguments that are wrong) goes to torch's own
`conv2d`, which computes it or raises the error that torch's users know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from .engine.geometry import Problem
from .engine.passes import prepare_forward, prepare_input_gradient, prepare_weight_gradient
from .precision import get_precision
from .spec import PADDING_RULES, Sides, as_padding, output_size, same_ceil_pad

# ---------------------------------------------------------------------------------------------------------------------
# The function
# ---------------------------------------------------------------------------------------------------------------------


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] | Sequence[Sequence[int]] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d` on convforge's engine: same arguments, shapes, errors, memory formats and gradients.

    Args:
        input: `(N, C, H, W)` or `(C, H, W)`.
        weight: `(K, C / groups, kernel height, kernel width)`.
        bias: `(K,)`, or None.
        stride, dilation: an integer or `(vertical, horizontal)`.
        padding: as in torch an integer, `(vertical, horizontal)`, 'valid' or 'same'; beyond torch
            `((top, bottom), (left, right))`, 'same_ceil' and 'same_half' (see `Conv2dSpec`).
        groups: how many independent convolutions the channels are split into.

    Returns:
        `(N, K, H_out, W_out)`, channels_last if the input or the weight is; H_out by `convforge.spec.output_size`.

    Raises:
        SpecError (a RuntimeError): for padding='same' with a stride, naming the two rules to choose from.
        RuntimeError: torch's own, for shapes and numbers that do not fit.

    >>> conv2d(torch.ones(1, 3, 7, 7), torch.ones(8, 3, 3, 3), stride=2).shape
    torch.Size([1, 8, 3, 3])
    """
    tensors = (input, weight) if bias is None else (input, weight, bias)
    if has_torch_function(tensors):
        overridden: Tensor = handle_torch_function(
            conv2d, tensors, input, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups
        )
        return overridden
    steps, gaps = _pair(stride), _pair(dilation)
    if steps is None or gaps is None or not all(isinstance(t, Tensor) for t in tensors):
        return _torch_conv2d(input, weight, bias, stride, padding, dilation, groups)
    if weight.dim() != 4 or input.dim() not in (3, 4):
        return _torch_conv2d(input, weight, bias, stride, padding, dilation, groups)
    sides = resolve_padding(padding, (input.shape[-2], input.shape[-1]), weight.shape[2:], steps, gaps)
    if sides is None or not _engine_takes(input, weight, bias, steps, sides, gaps, groups):
        ours = sides is not None and isinstance(padding, str) and padding not in ("valid", "same")
        return _torch_conv2d(input, weight, bias, stride, sides if ours else padding, dilation, groups)
    image = input if input.dim() == 4 else input.unsqueeze(0)
    y: Tensor = _forward_op(image, weight, bias, steps, [*sides[0], *sides[1]], gaps, groups)
    return y if input.dim() == 4 else y.squeeze(0)


def resolve_padding(
    padding: Any, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Sides | None:
    """Any form of padding as `((top, bottom), (left, right))`; None for what torch should refuse in its own words."""
    pair = _pair(padding)
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


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) == 1:
            return (value[0], value[0]) if _is_integer(value[0]) else None
        return (value[0], value[1]) if len(value) == 2 and _is_integer(value[0]) and _is_integer(value[1]) else None
    return (value, value) if _is_integer(value) else None


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)


_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})


def _engine_takes(
    x: Tensor, w: Tensor, bias: Tensor | None, stride: Any, sides: Sides, dilation: Any, groups: int
) -> bool:
    """Whether the operators can have it; if not, torch's own convolution knows what to do or to say."""
    tensors = (x, w) if bias is None else (x, w, bias)
    dtype = x.dtype
    if dtype not in _DTYPES:
        return False
    for t in tensors:
        if t.device.type != "cpu" or t.dtype != dtype or t.layout is not torch.strided:
            return False
    if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
        return False  # an exported program is for others: it holds the plain convolution
    if _under_functorch() or _has_tangent(tensors):
        return False  # vmap and forward-mode derivatives are torch's
    channels, (outs, per_group, kh, kw) = x.shape[-3], w.shape
    if not isinstance(groups, int) or groups < 1 or outs % groups or channels != per_group * groups or outs == 0:
        return False
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != outs):
        return False
    if min(*stride, *dilation) < 1 or min(*sides[0], *sides[1]) < 0:
        return False
    if (
        channels == 0
        or kh == 0
        or kw == 0
        or x.shape[-2] == 0
        or x.shape[-1] == 0
        or (x.dim() == 4 and x.shape[0] == 0)
    ):
        return False
    return all(output_size(x.shape[a - 2], w.shape[a + 2], stride[a], sides[a], dilation[a]) >= 1 for a in (0, 1))


def _under_functorch() -> bool:
    return bool(torch._C._are_functorch_transforms_active())


# A compiler asks while it traces and keeps the answer: the question itself is no part of the graph. (This is all that
# torch.compiler.assume_constant_result does, but for importing the whole compiler.)
_under_functorch._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _has_tangent(tensors: Sequence[Tensor]) -> bool:
    forward_ad: Any = torch.autograd.forward_ad
    if forward_ad._current_level < 0:
        return False
    return any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)


def _torch_conv2d(
    x: Tensor, w: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    """torch's own convolution; where the sides differ, which it cannot, on an input padded before."""
    if isinstance(padding, (tuple, list)) and len(padding) == 2 and isinstance(padding[0], (tuple, list)):
        (top, bottom), (left, right) = padding
        if top == bottom and left == right:
            return F.conv2d(x, w, bias, stride, (top, left), dilation, groups)
        return F.conv2d(F.pad(x, (left, right, top, bottom)), w, bias, stride, 0, dilation, groups)
    return F.conv2d(x, w, bias, stride, padding, dilation, groups)


# ---------------------------------------------------------------------------------------------------------------------
# The operators. `padding` is [top, bottom, left, right]; `channels_last` says which memory format the result has.
# ---------------------------------------------------------------------------------------------------------------------

_library: Any = torch.library.Library("convforge", "DEF")  # type: ignore[no-untyped-call]
_GEOMETRY = "SymInt[2] stride, SymInt[4] padding, SymInt[2] dilation, SymInt groups"
_library.define(f"conv2d(Tensor input, Tensor weight, Tensor? bias, {_GEOMETRY}) -> Tensor")
_library.define(
    f"conv2d_input_gradient(Tensor gradient, Tensor weight, SymInt[2] size, {_GEOMETRY}, bool channels_last) -> Tensor"
)
_library.define(
    f"conv2d_weight_gradient(Tensor input, Tensor gradient, SymInt[2] size, {_GEOMETRY}, bool channels_last) -> Tensor"
)
_forward_op = torch.ops.convforge.conv2d.default
_input_gradient_op = torch.ops.convforge.conv2d_input_gradient.default
_weight_gradient_op = torch.ops.convforge.conv2d_weight_gradient.default


def _forward(x: Tensor, w: Tensor, bias: Tensor | None, stride: Any, pads: Any, dilation: Any, groups: int) -> Tensor:
    if x.dtype.itemsize == 2:
        wide = _forward(x.float(), w.float(), None if bias is None else bias.float(), stride, pads, dilation, groups)
        return wide.to(x.dtype)
    y = _forward_fake(x, w, bias, stride, pads, dilation, groups)
    if y.numel():
        problem = _problem(x, w, y, stride, pads, dilation, groups)
        if bias is not None:
            if bias.dtype != x.dtype or bias.shape != (w.shape[0],):
                raise RuntimeError(
                    f"the bias must be {w.shape[0]} numbers of {x.dtype}, not {bias.shape}, {bias.dtype}."
                )
            bias = bias.contiguous()
        prepared = prepare_forward(problem, torch.get_num_threads(), bias is not None, get_precision() == "exact")
        prepared.run(x=x.data_ptr(), w=w.data_ptr(), y=y.data_ptr(), bias=0 if bias is None else bias.data_ptr())
    return y


def _input_gradient(
    g: Tensor, w: Tensor, size: Any, stride: Any, pads: Any, dilation: Any, groups: int, channels_last: bool
) -> Tensor:
    if g.dtype.itemsize == 2:
        return _input_gradient(g.float(), w.float(), size, stride, pads, dilation, groups, channels_last).to(g.dtype)
    dx = _input_gradient_fake(g, w, size, stride, pads, dilation, groups, channels_last)
    if not g.numel():
        return dx.zero_()
    problem = _problem(dx, w, g, stride, pads, dilation, groups)
    prepared = prepare_input_gradient(problem, torch.get_num_threads(), get_precision() == "exact")
    prepared.run(x=dx.data_ptr(), w=w.data_ptr(), y=g.data_ptr())
    return dx


def _weight_gradient(
    x: Tensor, g: Tensor, kernel: Any, stride: Any, pads: Any, dilation: Any, groups: int, channels_last: bool
) -> Tensor:
    if x.dtype.itemsize == 2:
        return _weight_gradient(x.float(), g.float(), kernel, stride, pads, dilation, groups, channels_last).to(x.dtype)
    dw = _weight_gradient_fake(x, g, kernel, stride, pads, dilation, groups, channels_last)
    if not g.numel():
        return dw.zero_()
    problem = _problem(x, dw, g, stride, pads, dilation, groups)
    prepared = prepare_weight_gradient(problem, torch.get_num_threads(), get_precision() == "exact")
    prepared.run(x=x.data_ptr(), w=dw.data_ptr(), y=g.data_ptr())
    return dw


def _problem(x: Tensor, w: Tensor, y: Tensor, stride: Any, pads: Any, dilation: Any, groups: int) -> Problem:
    if not x.dtype == w.dtype == y.dtype:
        raise RuntimeError(f"convforge's operators take tensors of one dtype, not {x.dtype}, {w.dtype} and {y.dtype}.")
    fits = (x.shape[0], x.shape[1], w.shape[0]) == (y.shape[0], w.shape[1] * groups, y.shape[1])
    fits = fits and w.shape[0] % groups == 0 and y.shape[2:] == _out_size(x, w, stride, pads, dilation)
    if not fits:  # the kernels would read or write beside the tensors
        raise RuntimeError(
            f"a convolution of input {tuple(x.shape)} with weight {tuple(w.shape)} at stride {tuple(stride)}, padding "
            f"{tuple(pads)}, dilation {tuple(dilation)}, groups {groups} does not give output {tuple(y.shape)}."
        )
    return Problem(
        dtype="float32" if x.dtype == torch.float32 else "float64",
        x_shape=tuple(x.shape),  # type: ignore[arg-type]
        w_shape=tuple(w.shape),  # type: ignore[arg-type]
        y_shape=tuple(y.shape),  # type: ignore[arg-type]
        stride=tuple(stride),
        pads=(pads[0], pads[2]),
        dilation=tuple(dilation),
        groups=groups,
        x_strides=x.stride(),  # type: ignore[arg-type]
        w_strides=w.stride(),  # type: ignore[arg-type]
        y_strides=y.stride(),  # type: ignore[arg-type]
    )


# What comes out, without computing it: for tracing with fake tensors, and as the buffer that the real ones write to.


def _forward_fake(
    x: Tensor, w: Tensor, bias: Tensor | None, stride: Any, pads: Any, dilation: Any, groups: int
) -> Tensor:
    out = _out_size(x, w, stride, pads, dilation)
    return _empty(x, (x.shape[0], w.shape[0], *out), is_channels_last(x) or is_channels_last(w))


def _out_size(x: Tensor, w: Tensor, stride: Any, pads: Any, dilation: Any) -> tuple[int, int]:
    height, width = (
        output_size(x.shape[2 + a], w.shape[2 + a], stride[a], (pads[2 * a], pads[2 * a + 1]), dilation[a])
        for a in (0, 1)
    )
    return height, width


def _input_gradient_fake(
    g: Tensor, w: Tensor, size: Any, stride: Any, pads: Any, dilation: Any, groups: int, channels_last: bool
) -> Tensor:
    return _empty(g, (g.shape[0], w.shape[1] * groups, *size), channels_last)


def _weight_gradient_fake(
    x: Tensor, g: Tensor, kernel: Any, stride: Any, pads: Any, dilation: Any, groups: int, channels_last: bool
) -> Tensor:
    return _empty(x, (g.shape[1], x.shape[1] // groups, *kernel), channels_last)


def _empty(like: Tensor, shape: Sequence[int], channels_last: bool) -> Tensor:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format)


def is_channels_last(t: Tensor) -> bool:
    """Whether torch would call this channels_last when it chooses an output's memory format: its strides are those of
    NHWC and of nothing else (the rule of `suggest_memory_format`)."""
    n, c, h, w = t.stride()
    if not c <= w <= h <= n or (n == c and n > 0 and t.shape[1] > 1):
        return False
    floor = 0
    for size, step, batch in ((t.shape[1], c, 0), (t.shape[3], w, 0), (t.shape[2], h, 0), (t.shape[0], n, 1)):
        if size == 0 or step < floor or (batch and floor == c):
            return False
        floor = step * size if size > 1 else step
    return c > 0


# --- derivatives ------------------------------------------------------------------------------------------------------


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, w, bias, *ctx.geometry = inputs
    ctx.save_for_backward(x, w)
    ctx.has_bias = bias is not None
    ctx.channels_last = is_channels_last(x) or is_channels_last(w)  # an output of 1×1 would not tell


def _forward_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    x, w = ctx.saved_tensors
    dx = dw = db = None
    if ctx.needs_input_grad[0]:
        dx = _input_gradient_op(g, w, x.shape[2:], *ctx.geometry, ctx.channels_last)
    if ctx.needs_input_grad[1]:
        dw = _weight_gradient_op(x, g, w.shape[2:], *ctx.geometry, ctx.channels_last)
    if ctx.has_bias and ctx.needs_input_grad[2]:
        db = g.sum((0, 2, 3))
    return dx, dw, db, None, None, None, None


def _save_input_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    g, w, _, *ctx.geometry, ctx.channels_last = inputs
    ctx.save_for_backward(g, w)


def _input_gradient_backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:
    g, w = ctx.saved_tensors
    dg = dw = None
    if ctx.needs_input_grad[0]:
        dg = _forward_op(v, w, None, *ctx.geometry)
    if ctx.needs_input_grad[1]:
        dw = _weight_gradient_op(v, g, w.shape[2:], *ctx.geometry, ctx.channels_last)
    return dg, dw, None, None, None, None, None, None


def _save_weight_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, g, _, *ctx.geometry, ctx.channels_last = inputs
    ctx.save_for_backward(x, g)


def _weight_gradient_backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:
    x, g = ctx.saved_tensors
    dx = dg = None
    if ctx.needs_input_grad[0]:
        dx = _input_gradient_op(g, v, x.shape[2:], *ctx.geometry, ctx.channels_last)
    if ctx.needs_input_grad[1]:
        dg = _forward_op(x, v, None, *ctx.geometry)
    return dx, dg, None, None, None, None, None, None


_OPERATORS: tuple[tuple[str, Any, Any, Any, Any], ...] = (
    ("conv2d", _forward, _forward_fake, _forward_backward, _save_forward),
    ("conv2d_input_gradient", _input_gradient, _input_gradient_fake, _input_gradient_backward, _save_input_gradient),
    (
        "conv2d_weight_gradient",
        _weight_gradient,
        _weight_gradient_fake,
        _weight_gradient_backward,
        _save_weight_gradient,
    ),
)
for _name, _cpu, _fake, _backward, _save in _OPERATORS:
    _library.impl(_name, _cpu, "CPU")
    torch.library.register_fake(f"convforge::{_name}", _fake, lib=_library)
    torch.library.register_autograd(f"convforge::{_name}", _backward, setup_context=_save, lib=_library)


def _autocast(x: Tensor, w: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    """As torch's convolution under autocast. (`torch.library.register_autocast` knows one dtype only.)"""
    dtype = torch.get_autocast_dtype("cpu")
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)):
        narrow = [t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in (x, w, bias)]
        y: Tensor = _forward_op(*narrow, *geometry)
        return y


_library.impl("conv2d", _autocast, "AutocastCPU")

__all__ = ["conv2d", "is_channels_last", "resolve_padding"]
