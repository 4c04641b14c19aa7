"""Plain calls: those from Python with nothing special about them (plain tensors, no tracing, transform, mode, autocast
or profiler). They do not go through torch's dispatcher: a plan that was made when its sizes were first met is run at
once.

A call that was seen before is known again by its weights and the size of its images: what was found out about the last
one is kept, with a guard that tells whether it still holds. Guards are made at the second time, so that weights which
are made anew for each call do not pay for them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .. import precision
from ..precision import get_precision
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
from .compute import forward, run_forward, run_input_gradient, run_weight_gradient, weight_gradient
from .guards import guard_of
from .layout import is_nhwc
from .operators import forward_op, input_gradient_op, weight_gradient_op
from .plans import MOST_PLANS, Plan, forward_plan, input_gradient_plan, settings, weight_gradient_plan


class _Seen:
    """A call that was looked at, and what was found."""

    __slots__ = (
        "backward", "biased", "check", "dilation", "exactness", "groups", "learns", "padding", "plan", "recorded",
        "stride", "threads",
    )  # fmt: skip

    check: Callable[..., bool] | None
    """Whether input, weights and bias, where there is one, are such as they were."""
    biased: bool
    stride: Any
    padding: Any
    dilation: Any
    groups: Any
    """The arguments themselves, not their like: 1, 1.0 and True are all equal."""
    learns: bool
    """Whether a tensor requires a gradient, so that it matters whether gradients are recorded."""
    recorded: bool
    """Whether this call is."""
    threads: int
    exactness: str
    plan: Plan
    backward: _Backward | None
    """What was found in its last backward pass."""


_seen: dict[tuple[int, Sizes], _Seen | None] = {}
"""The last call with each weight tensor, by its id, and each size of images; None where there was but one. Ids come
back: what is found is a guess, and the guard decides."""


def plain_call(
    x: Tensor, w: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: Any
) -> Tensor | None:
    """The convolution, if there is nothing about the call that the dispatcher would have to see to; None otherwise, and
    for everything that is unusual or wrong."""
    seen = _seen.get((id(w), x.shape)) if type(x) in _PLAIN_TYPES else None
    if (
        seen is None
        or stride is not seen.stride
        or padding is not seen.padding
        or dilation is not seen.dilation
        or groups is not seen.groups
        or (bias is not None) is not seen.biased
        or not (seen.check(x, w, bias) if seen.biased else seen.check(x, w))  # type: ignore[misc]
        or (seen.learns and _is_grad_enabled() is not seen.recorded)
        or _get_num_threads() != seen.threads
        or precision._current != seen.exactness
        or _forward_ad._current_level >= 0
        or _is_mode_enabled()
        or _is_profiled()
    ):
        seen = _look(x, w, bias, stride, padding, dilation, groups)
        if seen is None:
            return None
    if seen.recorded:
        y: Tensor = _apply(x, w, bias, seen)
        return y
    return run_forward(seen.plan, x, w, bias)


def _look(
    x: Tensor, w: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: Any
) -> _Seen | None:
    """A call that was not seen before, or not like this; None if it is none of the plain ones."""
    if not _is_plain(x, w, bias):
        return None
    if not (_is_exact(stride) and _is_exact(padding) and _is_exact(dilation) and type(groups) is int):
        return None
    enabled = torch.is_grad_enabled()
    try:
        plan = _plain_plan(
            x.dtype, x.shape, x.stride(), w.dtype, w.shape, w.stride(),
            None if bias is None else (bias.dtype, bias.shape, bias.stride()),
            stride, padding, dilation, groups, *settings(), not (enabled and w.requires_grad),
        )  # fmt: skip
    except CannotLoad:
        return None  # the operators know what to do
    if plan is None:
        return None
    seen = _Seen()
    seen.biased, seen.plan, seen.backward = bias is not None, plan, None
    seen.stride, seen.padding, seen.dilation, seen.groups = stride, padding, dilation, groups
    seen.learns = x.requires_grad or w.requires_grad or (bias is not None and bias.requires_grad)
    seen.recorded = enabled and seen.learns
    seen.threads, seen.exactness = _get_num_threads(), get_precision()
    seen.check = None
    key = id(w), x.shape
    if key in _seen:
        seen.check = guard_of(x, w) if bias is None else guard_of(x, w, bias)
    elif len(_seen) >= MOST_PLANS:
        _seen.clear()
    _seen[key] = None if seen.check is None else seen
    return seen


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


_is_grad_enabled, _get_num_threads = torch.is_grad_enabled, torch.get_num_threads
_is_mode_enabled, _is_profiled = torch._C._is_torch_function_mode_enabled, torch._C._autograd._profiler_enabled
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


def are_plain(tensors: Sequence[Tensor]) -> bool:
    """The same of any number of tensors but for profilers, which may look on."""
    return (
        all(type(t) in _PLAIN_TYPES and _keys(t).raw_repr() in _PLAIN_TENSORS for t in tensors)
        and (_included().raw_repr(), _excluded().raw_repr()) in _PLAIN_STATES
        and is_quiet()
    )


def is_quiet() -> bool:
    """Whether there are no tangents, and nobody has asked torch to be told of its functions."""
    return _forward_ad._current_level < 0 and not _is_mode_enabled()


class _Backward:
    """A backward pass that was looked at, and what was found."""

    __slots__ = ("check", "exactness", "for_w", "for_x", "threads")

    check: Callable[..., bool]
    """Whether input, weights and the output's gradient are such as they were."""
    threads: int
    exactness: str
    for_x: Plan | None
    for_w: Plan | None


class _Convolution(torch.autograd.Function):
    """The derivative of a plain call. A derivative of it in turn is left to the operators."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, seen: _Seen) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.seen = seen
        return run_forward(seen.plan, x, w, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, w = ctx.saved_tensors
        seen: _Seen = ctx.seen
        for_x, for_w, for_bias, _ = ctx.needs_input_grad
        dx = dw = None
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            known = None
        else:
            known = seen.backward
            if (
                known is None
                or not known.check(x, w, g)
                or _get_num_threads() != known.threads
                or precision._current != known.exactness
                or _forward_ad._current_level >= 0
                or _is_mode_enabled()
                or _is_profiled()
                or (for_x and known.for_x is None)
                or (for_w and known.for_w is None)
            ):
                known = seen.backward = _look_back(seen, x, w, g, for_x, for_w)
        if known is not None:
            if for_x:
                dx = run_input_gradient(known.for_x, g, w, None)  # type: ignore[arg-type]
            if for_w:
                dw = run_weight_gradient(known.for_w, x, g)  # type: ignore[arg-type]
        else:
            plan = seen.plan
            if for_x:
                dx = input_gradient_op(g, w, x.shape[2:], *plan.geometry, plan.channels_last)
            if for_w:
                dw = weight_gradient_op(x, g, w.shape[2:], *plan.geometry, plan.channels_last)
        return dx, dw, g.sum((0, 2, 3)) if for_bias else None, None


def _look_back(seen: _Seen, x: Tensor, w: Tensor, g: Tensor, for_x: bool, for_w: bool) -> _Backward | None:
    """A backward pass that was not seen before, or not like this; None if the operators have to see to it."""
    plan = seen.plan
    if not _is_plain(x, w, g) or g.dtype != plan.dtype:
        return None
    found = _Backward()
    found.threads, found.exactness = _get_num_threads(), get_precision()
    found.for_x = found.for_w = None
    try:
        if for_x:
            found.for_x = input_gradient_plan(
                plan.dtype, g.shape, g.stride(), w.shape, w.stride(), x.shape[2:], plan.geometry, plan.channels_last,
                False, *settings(), not w.requires_grad,
            )  # fmt: skip
        if for_w:
            found.for_w = weight_gradient_plan(
                plan.dtype, x.shape, x.stride(), g.shape, g.stride(), w.shape[2:], plan.geometry, plan.channels_last,
                *settings(),
            )  # fmt: skip
    except CannotLoad:
        return None
    found.check = (seen.backward and guard_of(x, w, g)) or _never
    return found


def _never(*_: Tensor) -> bool:
    """The guard where there is none."""
    return False


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
