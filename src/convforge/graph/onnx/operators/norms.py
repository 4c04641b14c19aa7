"""Normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...nodes import BatchNorm, Binary, GroupNorm, LayerNorm, LocalResponseNorm, Reduce, Unary
from ..attributes import Attributes, Cannot
from ..values import Value
from .common import Converter, Inputs, axis_of, expanded, given, optional, rank

if TYPE_CHECKING:
    from ..reading import Reading


def _batch_norm(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    a.ignore("momentum", "consumed_inputs", "is_test")
    if a.flag("training_mode", False):
        raise Cannot("is in training mode: export the network in eval mode")
    if not a.flag("spatial", True):
        raise Cannot("has statistics of every pixel (spatial=0), which are not known")
    return r.add(BatchNorm(a.number("epsilon", 1e-5)), *(given(inputs, i) for i in range(5)))


def _instance_norm(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    a.ignore("consumed_inputs")
    x = given(inputs, 0)
    if rank(x) < 3:
        raise Cannot(f"takes (N, C, …), not {x.shapes[0]}")
    channels = r.same([shape[1] for shape in x.shapes])
    return r.add(GroupNorm(channels, a.number("epsilon", 1e-5)), x, given(inputs, 1), given(inputs, 2))


def _group_norm(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    a.ignore("stash_type")
    x, groups = given(inputs, 0), a.integer("num_groups", 0)
    if rank(x) < 2 or groups < 1:
        raise Cannot(f"cannot split {x.shapes[0]} into {groups} groups")
    channels = r.same([shape[1] for shape in x.shapes])
    both = []
    for value in (given(inputs, 1), given(inputs, 2)):
        if a.opset < 21 and value.shapes[0] == (groups,) != (channels,):  # one a group, as it was at first
            turned = r.reshape(value, [(groups, 1)] * len(value.shapes))
            wide = expanded(r, turned, [(groups, channels // groups)] * len(value.shapes))
            value = r.reshape(wide, [(channels,)] * len(value.shapes))
        both.append(value)
    return r.add(GroupNorm(groups, a.number("epsilon", 1e-5)), x, *both)


def _layer_norm(r: Reading, a: Attributes, inputs: Inputs) -> list[Value | None]:
    a.ignore("stash_type")
    x = given(inputs, 0)
    axes = rank(x) - axis_of(x, a.integer("axis", -1))
    shape = r.same([shape[-axes:] for shape in x.shapes])
    scale, shift = given(inputs, 1), optional(inputs, 2)
    shift = r.constant(np.broadcast_to(np.float32(0), shape)) if shift is None else shift
    both = [expanded(r, value, [shape] * len(value.shapes)) for value in (scale, shift)]
    eps = a.number("epsilon", 1e-5)
    statistics: list[Value | None] = [None, None]
    if any(r.wanted[1:]):
        along = tuple(range(rank(x) - axes, rank(x)))
        mean = r.add(Reduce("mean", along), x)
        variance = r.add(Reduce("mean", along), r.add(Unary("square"), r.add(Binary("sub"), x, mean)))
        statistics = [mean, r.add(Unary("rsqrt"), r.add(Binary("add"), variance, r.constant(eps)))]
    return [r.add(LayerNorm(axes, eps), x, *both), *statistics]


def _rms_norm(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    a.ignore("stash_type")
    x, scale = given(inputs, 0), given(inputs, 1)
    axes = tuple(range(axis_of(x, a.integer("axis", -1)), rank(x)))
    mean = r.add(Reduce("mean", axes), r.add(Unary("square"), x))
    factor = r.add(Unary("rsqrt"), r.add(Binary("add"), mean, r.constant(a.number("epsilon", 1e-5))))
    return r.add(Binary("mul"), r.add(Binary("mul"), x, factor), scale)


def _lp_norm(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    x, power = given(inputs, 0), a.integer("p", 2)
    axes = (axis_of(x, a.integer("axis", -1)),)
    if power not in (1, 2):
        raise Cannot(f"has p={power}, and 1 and 2 are known")
    norm: Value = r.add(Reduce("sum", axes), r.add(Unary("abs" if power == 1 else "square"), x))
    norm = norm if power == 1 else r.add(Unary("sqrt"), norm)
    return r.add(Binary("div"), x, r.add(Binary("max"), norm, r.constant(1e-30)))  # zeros stay zeros


def _mean_variance_norm(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    x = given(inputs, 0)
    axes = tuple(axis_of(x, axis) for axis in a.ints("axes") or (0, 2, 3))
    apart = r.add(Binary("sub"), x, r.add(Reduce("mean", axes), x))
    variance = r.add(Reduce("mean", axes), r.add(Unary("square"), apart))
    spread = r.add(Binary("add"), r.add(Unary("sqrt"), variance), r.constant(1e-9))
    return r.add(Binary("div"), apart, spread)


def _local_response_norm(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    size = a.integer("size", 0)
    x = given(inputs, 0)
    if not 0 < size <= 2 * max(shape[1] for shape in x.shapes if len(shape) > 1) + 1:
        raise Cannot(f"is over {size} channels of {x.shapes[0]}")
    alpha, beta, k = a.number("alpha", 1e-4), a.number("beta", 0.75), a.number("bias", 1.0)
    return r.add(LocalResponseNorm(size, alpha, beta, k), x)


OPERATORS: dict[str, Converter] = {
    "BatchNormalization": _batch_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response_norm,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    "MeanVarianceNormalization": _mean_variance_norm,
    "RMSNormalization": _rms_norm,
}
