"""`batch_norm(x, …)`, with what a network does to it next: activation(batch_norm(x) + residual), forward and backward
in two passes over memory each.

Images in channels_last, plain tensors of float32 or float64, go to the engine. Everything else is put together from
torch's own functions: other memory formats and types, autocast, tracing, transforms, derivatives of derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import by_engine, by_torch
from .arguments import Sizes
from .by_engine import CannotLoad, NormPlan
from .layout import dense_strides, empty_strided, extent_of, in_format, located
from .plain import are_plain
from .plans import MOST_PLANS

__all__ = ["ACTIVATIONS", "batch_norm"]

ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "": lambda y: y,
    "relu": torch.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
}
"""By torch. Behind a residual there may be a ReLU, or nothing."""

_torchs_batch_norm = F.batch_norm


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    activation: str = "",
) -> Tensor:
    """activation(`torch.nn.functional.batch_norm(…)` + residual), of images `(N, C, H, W)` or what else torch takes."""
    if not torch.compiler.is_compiling():
        plan = _planned(input, running_mean, running_var, weight, bias, training, eps, residual, activation)
        if plan is not None:
            y: Tensor = _apply(input, residual, weight, bias, running_mean, running_var, momentum, plan)
            return y
    y = _torchs_batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return ACTIVATIONS[activation](y if residual is None else y + residual)


def _planned(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    eps: float,
    residual: Tensor | None,
    activation: str,
) -> NormPlan | None:
    """How the engine does it; None where torch does."""
    tensors = [t for t in (x, residual, weight, bias, mean, var) if t is not None]
    if not are_plain(tensors):
        return None
    if x.dim() != 4 or not _is_table(x.shape, x.stride()):
        return None
    if residual is not None and (residual.shape != x.shape or not _is_table(x.shape, residual.stride())):
        return None
    by_channel = (weight, bias, mean, var)
    shape = (x.shape[1],)
    if any(t is not None and (t.shape != shape or t.stride() != (1,)) for t in by_channel):
        return None
    if any(t.dtype != x.dtype for t in tensors):
        return None
    if (weight is None) is not (bias is None) or (mean is None) is not (var is None):
        return None
    try:
        return _plan(
            x.dtype, tuple(x.shape), float(eps), activation, residual is not None, weight is not None,
            mean is not None, not training, torch.get_num_threads(),
        )  # fmt: skip
    except CannotLoad as problem:
        by_torch.warn_that_code_cannot_be_loaded(problem)
        return None


@lru_cache(MOST_PLANS)
def _plan(
    dtype: torch.dtype,
    shape: Sizes,
    eps: float,
    activation: str,
    residual: bool,
    affine: bool,
    running: bool,
    fixed: bool,
    threads: int,
) -> NormPlan | None:
    rows = shape[0] * shape[2] * shape[3]
    if dtype not in (torch.float32, torch.float64) or not math.prod(shape):
        return None
    if (rows < 2 and not fixed) or (fixed and not running):  # which torch has something to say about
        return None
    name = "float32" if dtype == torch.float32 else "float64"
    return by_engine.norm(rows, shape[1], name, eps, activation, residual, affine, running, fixed, threads)


def _is_table(shape: Sizes, strides: Sizes) -> bool:
    """Whether the channels of each pixel lie side by side, and the pixels one behind the other."""
    pairs = zip(shape, strides, dense_strides(shape, True), strict=True)
    return all(size == 1 or step == dense for size, step, dense in pairs)


class _Norm(torch.autograd.Function):
    """On the engine."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor | None,
        var: Tensor | None,
        momentum: float,
        plan: NormPlan,
    ) -> Tensor:
        y: Tensor = empty_strided(tuple(x.shape), x.stride(), x.dtype)
        saved = torch.empty(plan.saved, dtype=x.dtype)
        at = _at(x), _at(residual), y.data_ptr(), _at(weight), _at(bias), saved.data_ptr(), _at(mean), _at(var)
        plan.forward(*at, momentum=momentum)
        ctx.save_for_backward(x, weight, y if plan.masked_by_output else None)
        ctx.saved, ctx.bias, ctx.plan = saved, bias, plan
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        if g is None:
            return (None,) * 8
        x, weight, y = ctx.saved_tensors
        plan: NormPlan = ctx.plan
        if torch.is_grad_enabled() or not are_plain([g, x]) or g.dtype != x.dtype:
            return (*_gradients_by_torch(ctx, g, x, weight, y), None, None, None, None)
        if not _is_table(g.shape, g.stride()):
            g = in_format(g, True)
            if not _is_table(g.shape, g.stride()):
                g = g.clone(memory_format=torch.channels_last)
        dx: Tensor = empty_strided(tuple(x.shape), x.stride(), x.dtype)
        dh: Tensor = empty_strided(tuple(x.shape), x.stride(), x.dtype) if plan.masked_by_output else g
        dweight, dbias = torch.empty((2, x.shape[1]), dtype=x.dtype)
        plan.backward(_at(g), _at(x), _at(y), dx.data_ptr(), dh.data_ptr(), _at(ctx.saved), _at(dweight), _at(dbias))
        needs = ctx.needs_input_grad
        return (
            dx,
            dh if needs[1] else None,
            dweight if needs[2] else None,
            dbias if needs[3] else None,
            None,
            None,
            None,
            None,
        )


# Function.apply without its questions about functorch, which plain tensors have answered.
_apply: Any = super(torch.autograd.Function, _Norm).apply


def _at(t: Tensor | None) -> int:
    """Its address; 0 where there is none. Raises where its memory does not hold it."""
    return 0 if t is None else located(t, extent_of(t.shape, t.stride(), t.dtype), t.itemsize)[0]


def _gradients_by_torch(
    ctx: Any, g: Tensor, x: Tensor, weight: Tensor | None, y: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Of input, residual, weight and bias, by operations that have derivatives."""
    plan: NormPlan = ctx.plan
    mean, rstd = ctx.saved[:2, :, None, None]
    with torch.enable_grad():
        if plan.fixed:
            value = (x - mean) * rstd
            value = value if weight is None else value * weight[:, None, None] + ctx.bias[:, None, None]
        else:
            value = _torchs_batch_norm(x, None, None, weight, ctx.bias, True, 0.0, plan.eps)
        h = g if y is None else g * (y > 0)
        if not plan.residual:
            value = ACTIVATIONS[plan.activation](value)
        given: dict[int, Any] = {0: x, 2: weight, 3: ctx.bias}
        wanted = {n: t for n, t in given.items() if ctx.needs_input_grad[n]}
        found = torch.autograd.grad(value, list(wanted.values()), h, create_graph=torch.is_grad_enabled())
    by_number = dict(zip(wanted, found, strict=True))
    return by_number.get(0), h if ctx.needs_input_grad[1] else None, by_number.get(2), by_number.get(3)
