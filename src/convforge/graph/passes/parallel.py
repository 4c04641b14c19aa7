"""Convolutions of the same input whose results are added are one: its kernels are the sum of theirs.

    w ⋆ x + v ⋆ x  =  (w + v) ⋆ x

Networks that are trained with parallel branches (RepVGG, MobileOne, FastViT: 3×3, 1×1 and a batch norm of the input
beside each other) become the plain chains of convolutions that their authors run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...spec import Conv2dSpec, Pair
from ..deferred import Constant
from ..nodes import Binary, Convolution, Graph
from .draft import Draft, as_stored


@dataclass(frozen=True)
class _Branch:
    """A convolution of x. Where `x` is multiplied and added to only, it has 1×1 kernels with one number each."""

    x: str
    spec: Conv2dSpec
    w: NDArray[np.float64]
    bias: NDArray[np.float64]
    stored: Constant
    """An array in the number format that the weights have."""


def merge(graph: Graph) -> Graph:
    """Sums of convolutions of one input as one convolution, where its kernels are no larger than the largest."""
    draft = Draft(graph)
    for output in list(draft.nodes):
        node = draft.nodes.get(output)
        if node is None or not isinstance(node.operation, Binary) or node.operation.kind != "add":
            continue
        first, second = (_convolution(draft, name) for name in node.inputs)
        if first is None and second is not None:
            first = _factors(draft, node.inputs[0], second)
        elif first is not None and second is None:
            second = _factors(draft, node.inputs[1], first)
        both = _sum(first, second) if first is not None and second is not None else None
        if both is None or draft.shapes[node.inputs[0]] != draft.shapes[node.inputs[1]]:
            continue
        before = node.inputs
        w = draft.constant(as_stored(both.w, both.stored), f"{output}.w")
        bias = draft.constant(as_stored(both.bias, both.stored), f"{output}.bias")
        draft.put(Convolution(both.spec, bias=True), (both.x, w, bias), output)
        for name in before:
            draft.drop_unread(name)
    return draft.done()


def _convolution(draft: Draft, name: str) -> _Branch | None:
    node = draft.made_by(name, Convolution)
    if node is None or not isinstance(node.operation, Convolution) or not draft.read_once(name):
        return None
    operation = node.operation
    spec = operation.spec
    plain = spec.padding_mode == "zeros" and not isinstance(spec.padding, str)
    if not plain or operation.residual or operation.activation is not None:
        return None
    if any(i not in draft.constants for i in node.inputs[1:]):
        return None
    w, *bias = (draft.constants[i] for i in node.inputs[1:])
    zeros = np.zeros(spec.out_channels)
    return _Branch(node.inputs[0], spec, w.astype(np.float64), bias[0].astype(np.float64) if bias else zeros, w)


def _factors(draft: Draft, name: str, beside: _Branch) -> _Branch | None:
    """x · scale + shift, as batch norm is, beside a convolution with as many channels in as out."""
    channels = beside.spec.in_channels
    shift = np.zeros(channels)
    found = _with_numbers(draft, name, "add", channels)
    if found is not None:
        name, shift = found
    scaled = _with_numbers(draft, name, "mul", channels)
    if scaled is None or scaled[0] != beside.x or beside.spec.out_channels != channels:
        return None
    spec = Conv2dSpec(channels, channels, 1, groups=beside.spec.groups)
    w = np.zeros(spec.weight_shape)
    w[np.arange(channels), np.arange(channels) % w.shape[1], 0, 0] = scaled[1]
    return _Branch(beside.x, spec, w, shift, beside.stored)


def _with_numbers(draft: Draft, name: str, kind: str, channels: int) -> tuple[str, NDArray[np.float64]] | None:
    """What is multiplied or added to by one number a channel, and the numbers."""
    node = draft.made_by(name, Binary)
    if node is None or node.operation != Binary(kind) or not draft.read_once(name):
        return None
    x, numbers = node.inputs
    if draft.shapes.get(numbers) != (channels, 1, 1) or numbers not in draft.constants:
        return None
    return x, draft.constants[numbers].reshape(-1).astype(np.float64)


def _sum(one: _Branch, other: _Branch) -> _Branch | None:
    large, small = (one, other) if one.w.size >= other.w.size else (other, one)
    alike = (large.x, large.spec.stride, large.spec.groups) == (small.x, small.spec.stride, small.spec.groups)
    if not alike or large.spec.out_channels != small.spec.out_channels:
        return None
    places = [_place(large.spec, small.spec, axis) for axis in (0, 1)]
    rows, columns = places
    if rows is None or columns is None:
        return None
    w = large.w.copy()
    w[:, :, rows[0] : rows[1], columns[0] : columns[1]] += small.w
    return replace(large, w=w, bias=large.bias + small.bias)


def _place(large: Conv2dSpec, small: Conv2dSpec, axis: int) -> Pair | None:
    """Where the small kernel lies in the large one along an axis; None where it does not."""
    kernel, gap = small.kernel_size[axis], large.dilation[axis]
    if kernel > 1 and small.dilation[axis] != gap:
        return None
    first, rest = divmod(_before(large, axis) - _before(small, axis), gap)
    if rest or first < 0 or first + kernel > large.kernel_size[axis]:
        return None
    return first, first + kernel


def _before(spec: Conv2dSpec, axis: int) -> int:
    return spec.sides((0, 0))[axis][0]
