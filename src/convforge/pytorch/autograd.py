"""The derivatives of the operators.

Three operators are closed under differentiation, so any order of derivative is made of them (⋆: a convolution):

    conv2d(x, w)                  ∂/∂x: conv2d_input_gradient(g, w)      ∂/∂w: conv2d_weight_gradient(x, g)
    conv2d_input_gradient(g, w)   ∂/∂g: conv2d(v, w)                     ∂/∂w: conv2d_weight_gradient(v, g)
    conv2d_weight_gradient(x, g)  ∂/∂x: conv2d_input_gradient(g, v)      ∂/∂g: conv2d(x, v)

A fourth, conv_transpose2d(x, w), is the second with a bias, and has its derivatives.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .definitions import forward_op, input_gradient_op, weight_gradient_op
from .layout import is_channels_last


def save_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, w, bias, *ctx.geometry = inputs
    ctx.save_for_backward(x, w)
    ctx.has_bias = bias is not None
    ctx.channels_last = is_channels_last(x) or is_channels_last(w)  # an output of 1×1 would not tell


def forward_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    x, w = ctx.saved_tensors
    dx = dw = db = None
    if ctx.needs_input_grad[0]:
        dx = input_gradient_op(g, w, x.shape[2:], *ctx.geometry, ctx.channels_last)
    if ctx.needs_input_grad[1]:
        dw = weight_gradient_op(x, g, w.shape[2:], *ctx.geometry, ctx.channels_last)
    if ctx.has_bias and ctx.needs_input_grad[2]:
        db = g.sum((0, 2, 3))
    return dx, dw, db, None, None, None, None


def save_input_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    g, w, _, *ctx.geometry, ctx.channels_last = inputs
    ctx.save_for_backward(g, w)


def input_gradient_backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:
    g, w = ctx.saved_tensors
    dg = dw = None
    if ctx.needs_input_grad[0]:
        dg = forward_op(v, w, None, *ctx.geometry)
    if ctx.needs_input_grad[1]:
        dw = weight_gradient_op(v, g, w.shape[2:], *ctx.geometry, ctx.channels_last)
    return dg, dw, None, None, None, None, None, None


def save_weight_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, g, _, *ctx.geometry, ctx.channels_last = inputs
    ctx.save_for_backward(x, g)


def weight_gradient_backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:
    x, g = ctx.saved_tensors
    dx = dg = None
    if ctx.needs_input_grad[0]:
        dx = input_gradient_op(g, v, x.shape[2:], *ctx.geometry, ctx.channels_last)
    if ctx.needs_input_grad[1]:
        dg = forward_op(x, v, None, *ctx.geometry)
    return dx, dg, None, None, None, None, None, None


def save_transposed(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, w, bias, _, *ctx.geometry = inputs
    ctx.save_for_backward(x, w)
    ctx.has_bias = bias is not None
    ctx.channels_last = is_channels_last(x) or is_channels_last(w)


def transposed_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    x, w = ctx.saved_tensors
    dx = dw = db = None
    if ctx.needs_input_grad[0]:
        dx = forward_op(g, w, None, *ctx.geometry)
    if ctx.needs_input_grad[1]:
        dw = weight_gradient_op(g, x, w.shape[2:], *ctx.geometry, ctx.channels_last)
    if ctx.has_bias and ctx.needs_input_grad[2]:
        db = g.sum((0, 2, 3))
    return dx, dw, db, None, None, None, None, None
