"""The engine as torch operators, and `conv2d`, the function with torch's signature.

Three operators are closed under differentiation, so any order of derivative is made of them (⋆: a convolution):

    conv2d(x, w)                  ∂/∂x: conv2d_input_gradient(g, w)      ∂/∂w: conv2d_weight_gradient(x, g)
    conv2d_input_gradient(g, w)   ∂/∂g: conv2d(v, w)                     ∂/∂w: conv2d_weight_gradient(v, g)
    conv2d_weight_gradient(x, g)  ∂/∂x: conv2d_input_gradient(g, v)      ∂/∂g: conv2d(x, v)

What the engine does not take (other devices, complex or integer numbers, arguments that are wrong) goes to torch's own
`conv2d`, which computes it or raises the error that torch's users know.

A call from Python with nothing special about it (plain tensors, no tracing, transform, mode, autocast or profiler) does
not go through torch's dispatcher: a plan that was made when its sizes were first met is run at once.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ..spec import PADDING_RULES, Sides
from . import by_torch, kept
from .arguments import Sizes, as_geometry, as_pair, out_size, resolve_padding, sizes_fit
from .by_engine import CannotLoad, Prepared
from .layout import (
    check_memory,
    in_format,
    is_channels_last,
    located,
    memory_format,
)
from .plans import MOST_PLANS, Plan, forward_plan, input_gradient_plan, settings, weight_gradient_plan

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
    if not torch.compiler.is_compiling():
        at_once = _plain_call(input, weight, bias, stride, padding, dilation, groups)
        if at_once is not None:
            return at_once
    tensors = (input, weight) if bias is None else (input, weight, bias)
    if has_torch_function(tensors):
        overridden: Tensor = handle_torch_function(
            conv2d, tensors, input, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups
        )
        return overridden
    steps, gaps = as_pair(stride), as_pair(dilation)
    if steps is None or gaps is None or not all(isinstance(t, Tensor) for t in tensors):
        return by_torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return _traced(input, weight, bias, steps, padding, gaps, groups)
    if weight.dim() != 4 or input.dim() not in (3, 4):
        return by_torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    sides = resolve_padding(padding, (input.shape[-2], input.shape[-1]), weight.shape[2:], steps, gaps)
    if sides is None or not _engine_takes(input, weight, bias, steps, sides, gaps, groups):
        ours = sides is not None and isinstance(padding, str) and padding not in ("valid", "same")
        return by_torch.conv2d(input, weight, bias, stride, sides if ours else padding, dilation, groups)
    image = input if input.dim() == 4 else input.unsqueeze(0)
    if weight.requires_grad and not torch.is_grad_enabled():
        weight = weight.detach()  # the kernels cannot ask whether it is being trained: gradients are always off there
    y: Tensor = _forward_op(image, weight, bias, steps, [*sides[0], *sides[1]], gaps, groups)
    return y if input.dim() == 4 else y.squeeze(0)


def _traced(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: Any,
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """The plain operator, for `torch.jit.trace`. To a trace sizes are tensors; that it holds for this size only, where
    'same_ceil' depends on it, is what torch warns of here."""
    if padding in PADDING_RULES and padding not in ("valid", "same"):
        with warnings.catch_warnings():  # a trace keeps the weights, so their size is no news to anybody
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
            kernel = (int(w.shape[2]), int(w.shape[3]))
        size = (int(x.shape[-2]), int(x.shape[-1])) if padding == "same_ceil" and max(stride) > 1 else kernel
        padding = resolve_padding(padding, size, kernel, stride, dilation)
    return by_torch.conv2d(x, w, bias, stride, padding, dilation, groups)


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
    return sizes_fit(x.shape, w.shape, None if bias is None else bias.shape, stride, sides, dilation, groups)


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
        check_memory(x, w, bias)
        wide = _forward(x.float(), _wide(w), None if bias is None else bias.float(), stride, pads, dilation, groups)
        return wide.to(x.dtype)
    dtype = _common_dtype(x, w)
    if bias is not None:
        if bias.dtype != dtype or bias.shape != (w.shape[0],):
            raise RuntimeError(f"the bias must be {w.shape[0]} numbers of {dtype}, not {bias.shape}, {bias.dtype}.")
        if not bias.is_contiguous():
            check_memory(bias)
            bias = bias.contiguous()
    geometry = as_geometry(stride, pads, dilation, groups)
    keep = not w.requires_grad
    try:
        plan = forward_plan(
            dtype, x.shape, x.stride(), w.shape, w.stride(), bias is not None, geometry, *settings(), keep
        )
    except CannotLoad as problem:
        by_torch.warn_that_code_cannot_be_loaded(problem)
        y = by_torch.conv2d(x, w, bias, stride, ((pads[0], pads[1]), (pads[2], pads[3])), dilation, groups)
        return in_format(y, is_channels_last(x) or is_channels_last(w))
    return _run_forward(plan, x, w, bias)


def _run_forward(plan: Plan, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    y, prepared = plan.output(), plan.prepared
    if prepared is not None:
        x_at, _ = located(x, plan.extents[0], plan.itemsize)
        packed, w_at, alive = _weights(plan, prepared, w)
        b_at = 0 if bias is None else located(bias, plan.shape[1] * plan.itemsize, plan.itemsize)[0]
        prepared.run(packed, x_at, w_at, y.data_ptr(), b_at)
        del alive  # the packed weights are needed until here
    return y


def _wide(w: Tensor) -> Tensor:
    """16-bit weights as the kernels take them: made anew for each call, so there is no use in keeping their form."""
    return w.float().requires_grad_()


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


def _input_gradient(
    g: Tensor, w: Tensor, size: Any, stride: Any, pads: Any, dilation: Any, groups: int, channels_last: bool
) -> Tensor:
    if g.dtype.itemsize == 2:
        check_memory(g, w)
        return _input_gradient(g.float(), _wide(w), size, stride, pads, dilation, groups, channels_last).to(g.dtype)
    dtype, geometry = _common_dtype(g, w), as_geometry(stride, pads, dilation, groups)
    try:
        plan = input_gradient_plan(
            dtype, g.shape, g.stride(), w.shape, w.stride(), tuple(size), geometry, channels_last, *settings(),
            not w.requires_grad,
        )  # fmt: skip
    except CannotLoad as problem:
        by_torch.warn_that_code_cannot_be_loaded(problem)
        return in_format(by_torch.input_gradient(g, w, size, stride, pads, dilation, groups), channels_last)
    dx, prepared = plan.output(), plan.prepared
    if prepared is None:
        return dx.zero_()
    g_at, _ = located(g, plan.extents[0], plan.itemsize)
    packed, w_at, alive = _weights(plan, prepared, w)
    prepared.run(packed, dx.data_ptr(), w_at, g_at)
    del alive
    return dx


def _weight_gradient(
    x: Tensor, g: Tensor, kernel: Any, stride: Any, pads: Any, dilation: Any, groups: int, channels_last: bool
) -> Tensor:
    if x.dtype.itemsize == 2:
        check_memory(x, g)
        return _weight_gradient(x.float(), g.float(), kernel, stride, pads, dilation, groups, channels_last).to(x.dtype)
    dtype, geometry = _common_dtype(x, g), as_geometry(stride, pads, dilation, groups)
    try:
        plan = weight_gradient_plan(
            dtype, x.shape, x.stride(), g.shape, g.stride(), tuple(kernel), geometry, channels_last, *settings()
        )
    except CannotLoad as problem:
        by_torch.warn_that_code_cannot_be_loaded(problem)
        return in_format(by_torch.weight_gradient(x, g, kernel, stride, pads, dilation, groups), channels_last)
    dw, prepared = plan.output(), plan.prepared
    if prepared is None:
        return dw.zero_()
    x_at, _ = located(x, plan.extents[0], plan.itemsize)
    g_at, _ = located(g, plan.extents[1], plan.itemsize)
    prepared.run(0, x_at, dw.data_ptr(), g_at)
    return dw


def _common_dtype(a: Tensor, b: Tensor) -> torch.dtype:
    if a.dtype != b.dtype:
        raise RuntimeError(f"convforge's operators take tensors of one dtype, not {a.dtype} and {b.dtype}.")
    return a.dtype


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


def _empty(like: Tensor, shape: Sequence[int], channels_last: bool) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format(channels_last))


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


# ---------------------------------------------------------------------------------------------------------------------
# Plain calls
# ---------------------------------------------------------------------------------------------------------------------


def _plain_call(
    x: Tensor, w: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: Any
) -> Tensor | None:
    """The convolution, if there is nothing about the call that the dispatcher would have to see to; None otherwise, and
    for everything that is unusual or wrong."""
    if not _is_plain(x, w, bias):
        return None
    if not (_is_exact(stride) and _is_exact(padding) and _is_exact(dilation) and type(groups) is int):
        return None
    recorded = torch.is_grad_enabled()
    try:
        plan = _plain_plan(
            x.dtype, x.shape, x.stride(), w.dtype, w.shape, w.stride(),
            None if bias is None else (bias.dtype, bias.shape, bias.stride()),
            stride, padding, dilation, groups, *settings(), not (recorded and w.requires_grad),
        )  # fmt: skip
    except CannotLoad:
        return None  # the operators know what to do
    if plan is None:
        return None
    if recorded and (x.requires_grad or w.requires_grad or (bias is not None and bias.requires_grad)):
        y: Tensor = _apply(x, w, bias, plan)
        return y
    return _run_forward(plan, x, w, bias)


@lru_cache(MOST_PLANS)
def _plain_plan(
    x_dtype: torch.dtype,
    x_shape: Sizes,
    x_strides: Sizes,
    w_dtype: torch.dtype,
    w_shape: Sizes,
    w_strides: Sizes,
    bias: tuple[torch.dtype, Sizes, Sizes] | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    threads: int,
    exact: bool,
    keep: bool,
) -> Plan | None:
    if x_dtype not in (torch.float32, torch.float64) or w_dtype != x_dtype:
        return None
    if len(x_shape) != 4 or len(w_shape) != 4 or (bias and (bias[0] != x_dtype or bias[2] != (1,))):
        return None
    steps, gaps = as_pair(stride), as_pair(dilation)
    sides = steps and gaps and resolve_padding(padding, x_shape[2:], w_shape[2:], steps, gaps)
    if not (steps and gaps and sides):
        return None
    if not sizes_fit(x_shape, w_shape, bias[1] if bias else None, steps, sides, gaps, groups):
        return None
    geometry = (steps, (*sides[0], *sides[1]), gaps, groups)
    return forward_plan(
        x_dtype, x_shape, x_strides, w_shape, w_strides, bias is not None, geometry, threads, exact, keep
    )


def _is_exact(argument: Any) -> bool:
    """Whether it is a word, an integer, a pair of integers or pairs of them. (To a table of plans 1, 1.0 and True would
    all be the same.)"""
    kind = type(argument)
    if kind is int or kind is str:
        return True
    if kind is not tuple or len(argument) != 2:
        return False
    first, second = argument
    if type(first) is int and type(second) is int:
        return True
    return type(first) is tuple and type(second) is tuple and _is_exact(first) and _is_exact(second)


_keys, _included, _excluded = (
    torch._C._dispatch_keys,
    torch._C._dispatch_tls_local_include_set,
    torch._C._dispatch_tls_local_exclude_set,
)


def _plain_keys() -> tuple[frozenset[int], frozenset[tuple[int, int]]]:
    """What the dispatcher knows of plain tensors and of a thread in which nothing is set, in inference mode or not."""
    tensors, states = set(), set()

    def note() -> None:  # on a thread of its own, since it may be under autocast that we are imported
        for inference in (False, True):
            with torch.inference_mode(inference):
                tensors.add(_keys(torch.empty(0)).raw_repr())
                states.add((_included().raw_repr(), _excluded().raw_repr()))

    thread = threading.Thread(target=note)
    thread.start()
    thread.join()
    return frozenset(tensors), frozenset(states)


_PLAIN_TENSORS, _PLAIN_STATES = _plain_keys()
_PLAIN_TYPES = frozenset({Tensor, torch.nn.Parameter})
_forward_ad: Any = torch.autograd.forward_ad


def _is_plain(a: Tensor, b: Tensor, c: Tensor | None) -> bool:
    """Whether they are torch's own dense tensors on the CPU, and whether the dispatcher has nothing to do but to call
    the kernel: no subclass, mode, transform, tracer, autocast, profiler, tangent, or negation yet to be done."""
    return (
        type(a) in _PLAIN_TYPES
        and type(b) in _PLAIN_TYPES
        and (c is None or (type(c) in _PLAIN_TYPES and _keys(c).raw_repr() in _PLAIN_TENSORS))
        and _keys(a).raw_repr() in _PLAIN_TENSORS
        and _keys(b).raw_repr() in _PLAIN_TENSORS
        and (_included().raw_repr(), _excluded().raw_repr()) in _PLAIN_STATES
        and _forward_ad._current_level < 0
        and not torch._C._is_torch_function_mode_enabled()
        and not torch._C._autograd._profiler_enabled()
    )


class _Convolution(torch.autograd.Function):
    """The derivative of a plain call. A derivative of it in turn is left to the operators."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, plan: Plan) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.plan = plan
        return _run_forward(plan, x, w, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, w = ctx.saved_tensors
        plan: Plan = ctx.plan
        for_x, for_w, for_bias, _ = ctx.needs_input_grad
        plain = not torch.compiler.is_compiling() and not torch.is_grad_enabled() and _is_plain(x, w, g)
        dx = dw = None
        if for_x:
            of_input = _input_gradient if plain else _input_gradient_op
            dx = of_input(g, w, x.shape[2:], *plan.geometry, plan.channels_last)
        if for_w:
            of_weight = _weight_gradient if plain else _weight_gradient_op
            dw = of_weight(x, g, w.shape[2:], *plan.geometry, plan.channels_last)
        return dx, dw, g.sum((0, 2, 3)) if for_bias else None, None


# Function.apply without its questions about functorch, which a plain call has answered.
_apply: Any = super(torch.autograd.Function, _Convolution).apply
