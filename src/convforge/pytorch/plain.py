"""Plain calls: those from Python with nothing special about them (plain tensors, no tracing, transform, mode, autocast
or profiler). They do not go through torch's dispatcher: a plan that was made when its sizes were first met is run at
once.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .arguments import (
    Sizes,
    as_pair,
    resolve_padding,
    sizes_fit,
    transposed_pads,
    transposed_size,
    transposed_sizes_fit,
)
from .by_engine import CannotLoad
from .compute import forward, input_gradient, run_forward, run_input_gradient, weight_gradient
from .layout import is_nhwc
from .operators import forward_op, input_gradient_op, weight_gradient_op
from .plans import MOST_PLANS, Plan, forward_plan, input_gradient_plan, settings


def plain_call(
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
    return run_forward(plan, x, w, bias)


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
    if not _is_planned(x_dtype, x_shape, w_dtype, w_shape, bias):
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


def plain_transposed_call(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
) -> Tensor | None:
    """`plain_call` for the transposed convolution."""
    if not _is_plain(x, w, bias):
        return None
    if type(output_padding) is list:  # as torch's module hands it over
        output_padding = tuple(output_padding)
    pairs = (stride, padding, output_padding, dilation)
    if not (all(map(_is_exact, pairs)) and type(groups) is int):
        return None
    recorded = torch.is_grad_enabled()
    try:
        plan = _plain_transposed_plan(
            x.dtype, x.shape, x.stride(), w.dtype, w.shape, w.stride(),
            None if bias is None else (bias.dtype, bias.shape, bias.stride()),
            *pairs, groups, *settings(), not (recorded and w.requires_grad),
        )  # fmt: skip
    except CannotLoad:
        return None
    if plan is None:
        return None
    if recorded and (x.requires_grad or w.requires_grad or (bias is not None and bias.requires_grad)):
        y: Tensor = _apply_transposed(x, w, bias, plan)
        return y
    return run_input_gradient(plan, x, w, bias)


@lru_cache(MOST_PLANS)
def _plain_transposed_plan(
    x_dtype: torch.dtype,
    x_shape: Sizes,
    x_strides: Sizes,
    w_dtype: torch.dtype,
    w_shape: Sizes,
    w_strides: Sizes,
    bias: tuple[torch.dtype, Sizes, Sizes] | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    dilation: Any,
    groups: int,
    threads: int,
    exact: bool,
    keep: bool,
) -> Plan | None:
    if not _is_planned(x_dtype, x_shape, w_dtype, w_shape, bias):
        return None
    steps, pads, more, gaps = as_pair(stride), as_pair(padding), as_pair(output_padding), as_pair(dilation)
    if not (steps and pads and more and gaps):
        return None
    if not transposed_sizes_fit(x_shape, w_shape, bias[1] if bias else None, steps, pads, more, gaps, groups):
        return None
    size = transposed_size(x_shape, w_shape, steps, pads, more, gaps)
    geometry = (steps, tuple(transposed_pads(steps, pads, more)), gaps, groups)
    channels_last = is_nhwc(x_shape, x_strides) or is_nhwc(w_shape, w_strides)
    return input_gradient_plan(
        x_dtype, x_shape, x_strides, w_shape, w_strides, size, geometry, channels_last, bias is not None, threads,
        exact, keep,
    )  # fmt: skip


def _is_planned(
    x_dtype: torch.dtype,
    x_shape: Sizes,
    w_dtype: torch.dtype,
    w_shape: Sizes,
    bias: tuple[torch.dtype, Sizes, Sizes] | None,
) -> bool:
    """Whether such tensors go the short way: the engine's own numbers, a batch of images, a bias without gaps."""
    if x_dtype not in (torch.float32, torch.float64) or w_dtype != x_dtype:
        return False
    return len(x_shape) == len(w_shape) == 4 and (bias is None or (bias[0] == x_dtype and bias[2] == (1,)))


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
        return run_forward(plan, x, w, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, w = ctx.saved_tensors
        plan: Plan = ctx.plan
        for_x, for_w, for_bias, _ = ctx.needs_input_grad
        plain = not torch.compiler.is_compiling() and not torch.is_grad_enabled() and _is_plain(x, w, g)
        dx = dw = None
        if for_x:
            of_input = input_gradient if plain else input_gradient_op
            dx = of_input(g, w, x.shape[2:], *plan.geometry, plan.channels_last)
        if for_w:
            of_weight = weight_gradient if plain else weight_gradient_op
            dw = of_weight(x, g, w.shape[2:], *plan.geometry, plan.channels_last)
        return dx, dw, g.sum((0, 2, 3)) if for_bias else None, None


class _Transposed(torch.autograd.Function):
    """The same of a transposed convolution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, plan: Plan) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.plan = plan
        return run_input_gradient(plan, x, w, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, w = ctx.saved_tensors
        plan: Plan = ctx.plan
        for_x, for_w, for_bias, _ = ctx.needs_input_grad
        plain = not torch.compiler.is_compiling() and not torch.is_grad_enabled() and _is_plain(x, w, g)
        dx = dw = None
        if for_x:
            of_input = forward if plain else forward_op
            dx = of_input(g, w, None, *plan.geometry)
        if for_w:
            of_weight = weight_gradient if plain else weight_gradient_op
            dw = of_weight(g, x, w.shape[2:], *plan.geometry, plan.channels_last)
        return dx, dw, g.sum((0, 2, 3)) if for_bias else None, None


# Function.apply without its questions about functorch, which a plain call has answered.
_apply: Any = super(torch.autograd.Function, _Convolution).apply
_apply_transposed: Any = super(torch.autograd.Function, _Transposed).apply
