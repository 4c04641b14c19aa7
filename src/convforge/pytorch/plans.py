"""A pass over tensors of certain sizes, planned once: what runs it, what it writes to, what memory it reads.

Plans depend on sizes, layouts and settings alone, and are found again by them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor

from ..precision import get_precision
from . import by_engine
from .arguments import Geometry, Sizes, out_size
from .by_engine import Prepared, Problem
from .layout import dense_strides, empty_strided, extent_of, is_nhwc

MOST_PLANS = 4096
"""Of each pass, the plans that were used last."""

_Laid: TypeAlias = tuple[Sizes, Sizes]
"""A tensor's shape and strides."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One of the passes, as far as it depends on sizes, layouts and settings alone, and what it writes to."""

    prepared: Prepared | None
    """None where there is nothing to compute: the tensors are empty."""
    dtype: torch.dtype
    shape: Sizes
    strides: Sizes
    geometry: Geometry
    channels_last: bool
    itemsize: int
    extents: tuple[int, int]
    """Bytes from the first to behind the last number of the two tensors that are read."""
    keep: bool = False
    """Whether the weights are not being trained, so that their packed form may be kept."""

    def output(self) -> Tensor:
        y: Tensor = empty_strided(self.shape, self.strides, self.dtype)
        return y


def settings() -> tuple[int, bool]:
    """Threads, and whether products must not be rearranged."""
    return torch.get_num_threads(), get_precision() == "exact"


@lru_cache(MOST_PLANS)
def forward_plan(
    dtype: torch.dtype,
    x_shape: Sizes,
    x_strides: Sizes,
    w_shape: Sizes,
    w_strides: Sizes,
    bias: bool,
    geometry: Geometry,
    threads: int,
    exact: bool,
    keep: bool,
) -> Plan:
    """Reads input and weights."""
    channels_last = is_nhwc(x_shape, x_strides) or is_nhwc(w_shape, w_strides)
    y_shape = (x_shape[0], w_shape[0], *out_size(x_shape, w_shape, *geometry[:3]))
    x, w, y = (x_shape, x_strides), (w_shape, w_strides), (y_shape, dense_strides(y_shape, channels_last))

    def prepare(problem: Problem) -> Prepared:
        return by_engine.forward(problem, threads, bias, exact, keep)

    return _plan(prepare, dtype, x, w, y, geometry, channels_last, reads=(x, w), writes=y, keep=keep)


@lru_cache(MOST_PLANS)
def input_gradient_plan(
    dtype: torch.dtype,
    g_shape: Sizes,
    g_strides: Sizes,
    w_shape: Sizes,
    w_strides: Sizes,
    size: Sizes,
    geometry: Geometry,
    channels_last: bool,
    bias: bool,
    threads: int,
    exact: bool,
    keep: bool,
) -> Plan:
    """Reads the output's gradient and the weights. With a bias it is a transposed convolution, of that output."""
    x_shape = (g_shape[0], w_shape[1] * geometry[3], *size)
    x, w, g = (x_shape, dense_strides(x_shape, channels_last)), (w_shape, w_strides), (g_shape, g_strides)

    def prepare(problem: Problem) -> Prepared:
        return by_engine.input_gradient(problem, threads, bias, exact, keep)

    return _plan(prepare, dtype, x, w, g, geometry, channels_last, reads=(g, w), writes=x, keep=keep)


@lru_cache(MOST_PLANS)
def weight_gradient_plan(
    dtype: torch.dtype,
    x_shape: Sizes,
    x_strides: Sizes,
    g_shape: Sizes,
    g_strides: Sizes,
    kernel: Sizes,
    geometry: Geometry,
    channels_last: bool,
    threads: int,
    exact: bool,
) -> Plan:
    """Reads the input and the output's gradient."""
    w_shape = (g_shape[1], x_shape[1] // geometry[3], *kernel)
    x, w, g = (x_shape, x_strides), (w_shape, dense_strides(w_shape, channels_last)), (g_shape, g_strides)

    def prepare(problem: Problem) -> Prepared:
        return by_engine.weight_gradient(problem, threads, exact)

    return _plan(prepare, dtype, x, w, g, geometry, channels_last, reads=(x, g), writes=w, keep=False)


def _plan(
    prepare: Callable[[Problem], Prepared],
    dtype: torch.dtype,
    x: _Laid,
    w: _Laid,
    y: _Laid,
    geometry: Geometry,
    channels_last: bool,
    reads: tuple[_Laid, _Laid],
    writes: _Laid,
    keep: bool,
) -> Plan:
    """The end of all three: whether there is anything to compute, and whether a packed form of the weights `w`, which
    are then the second that is read, is worth keeping and theirs alone (without numbers of others between them)."""
    problem = by_engine.problem(dtype, x[0], w[0], y[0], geometry, x[1], w[1], y[1])
    prepared = prepare(problem) if prod(y[0]) else None
    first, second = (extent_of(shape, strides, dtype) for shape, strides in reads)
    keep = keep and prepared is not None and prepared.packed_bytes > 0 and second == prod(w[0]) * dtype.itemsize
    return Plan(prepared, dtype, *writes, geometry, channels_last, dtype.itemsize, (first, second), keep)
