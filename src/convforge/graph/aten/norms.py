"""Norms, by given and by computed statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..nodes import BatchNorm, Binary, GroupNorm, LayerNorm, Reduce, Reshape, Unary
from .arguments import known
from .builder import Arguments, Builder, Cannot, Converter, Value


def _affine(b: Builder, a: Arguments, sizes: Sequence[Any]) -> list[Value | str]:
    """Scale and shift; ones and zeros where the norm has none."""
    shape = [known(size) for size in sizes]
    given = (a["weight"], np.ones), (a["bias"], np.zeros)
    return [b.constant(usual(shape, np.float32)) if value is None else value for value, usual in given]


def _batch_norm(b: Builder, a: Arguments) -> Any:
    if a["training"] and a["running_mean"] is not None:
        raise Cannot("in training mode changes its statistics: call eval() first")
    x, channels = a["input"], a["input"].sizes[1:2]
    scale, shift = _affine(b, a, channels)
    if a["running_mean"] is not None:
        return b.add(BatchNorm(a["eps"]), x, scale, shift, a["running_mean"], a["running_var"])
    axes = tuple(axis for axis in range(x.rank) if axis != 1)
    mean = b.add(Reduce("mean", axes), x)
    centred = b.add(Binary("sub"), x, mean)
    variance = b.add(Reduce("mean", axes), b.add(Unary("square"), centred))
    flat = Reshape((-1,))
    return b.add(BatchNorm(a["eps"]), x, scale, shift, b.add(flat, mean), b.add(flat, variance))


def _layer_norm(b: Builder, a: Arguments) -> Any:
    sizes = a["normalized_shape"]
    return b.add(LayerNorm(len(sizes), a["eps"]), a["input"], *_affine(b, a, sizes))


def _rms_norm(b: Builder, a: Arguments) -> Any:
    """x / √(mean of x² + eps) · weight, over the last axes."""
    x, axes = a["input"], tuple(range(-len(a["normalized_shape"]), 0))
    eps = a["usual_eps"] if a["eps"] is None else a["eps"]
    mean = b.add(Reduce("mean", axes), b.add(Unary("square"), x))
    scale = b.add(Unary("rsqrt"), b.add(Binary("add"), mean, b.operand(eps)))
    normalised = b.add(Binary("mul"), x, scale)
    return normalised if a["weight"] is None else b.add(Binary("mul"), normalised, a["weight"])


def _group_norm(b: Builder, a: Arguments) -> Any:
    x = a["input"]
    return b.add(GroupNorm(known(a["num_groups"]), a["eps"]), x, *_affine(b, a, x.sizes[1:2]))


def _instance_norm(b: Builder, a: Arguments) -> Any:
    if not a["use_input_stats"]:
        return _batch_norm(b, a | {"training": False})
    return _group_norm(b, a | {"num_groups": a["input"].sizes[1]})


CONVERTERS: dict[str, Converter] = {
    "batch_norm": _batch_norm,
    "native_batch_norm": lambda b, a: [_batch_norm(b, a), None, None],
    "_native_batch_norm_legit_no_training": lambda b, a: [_batch_norm(b, a | {"training": False}), None, None],
    "layer_norm": _layer_norm,
    "native_layer_norm": lambda b, a: [_layer_norm(b, a), None, None],
    "group_norm": _group_norm,
    "rms_norm": _rms_norm,
    "instance_norm": _instance_norm,
}
