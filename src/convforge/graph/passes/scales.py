"""Factors and summands that are constants go into the weights and biases of the product before or behind them.

(w ⋆ x + b) · s  =  (s·w) ⋆ x + s·b          w ⋆ (s·x)      =  (w·s) ⋆ x
(w ⋆ x + b) + t  =  w ⋆ x + (b + t)          w ⋆ (x + t)    =  w ⋆ x + Σ w·t      where no zeros stand beyond x
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..nodes import Binary, Convolution, Graph, Linear, Node, Transpose, TransposedConvolution
from .draft import Draft, as_stored

Product: TypeAlias = Convolution | Linear | TransposedConvolution
PRODUCTS = (Convolution, Linear, TransposedConvolution)


def fold(graph: Graph) -> Graph:
    """Without the multiplications and additions of constants that a neighbouring product can do."""
    draft = Draft(graph)
    for output in list(draft.nodes):
        node = draft.nodes.get(output)
        if node is None:
            continue
        if isinstance(node.operation, Binary):
            _below_transpose(draft, node)
            _into_before(draft, draft.nodes[output])
        elif isinstance(node.operation, PRODUCTS):
            _take_before(draft, node, node.operation)
    return draft.done()


def _constant_operand(draft: Draft, node: Node) -> tuple[str, str, NDArray[Any]] | None:
    """(kind, x, the constant) of arithmetic with a constant, as "mul" or "add"; None where it is neither."""
    kind, (x, other) = node.operation.name, node.inputs
    if x in draft.constants and kind in ("add", "mul"):
        x, other = other, x
    if other not in draft.constants or x in draft.constants or not draft.same_shape(x, node.output):
        return None
    array = np.asarray(draft.constants[other])
    if kind == "sub":
        return "add", x, -array
    if kind == "div" and np.all(array):
        return "mul", x, as_stored(1 / array.astype(np.float64), array)
    return (kind, x, array) if kind in ("add", "mul") else None


def _by_channel(array: NDArray[Any], channels: int, rank: int, axis: int) -> NDArray[np.float64] | None:
    """One number a channel where the constant is that, for channels along this axis of so many."""
    whole = array.reshape((1,) * (rank - array.ndim) + array.shape)
    if any(size != 1 for a, size in enumerate(whole.shape) if a != axis):
        return None
    return np.broadcast_to(whole.reshape(-1).astype(np.float64), (channels,))


def _channel_axis(operation: Product, rank: int) -> int:
    return rank - 1 if isinstance(operation, Linear) else 1


# ---------------------------------------------------------------------------------------------------------------------
# Into the product before
# ---------------------------------------------------------------------------------------------------------------------


def _below_transpose(draft: Draft, node: Node) -> None:
    """transpose(x) · s as transpose(x · s'), where a product makes x."""
    found = _constant_operand(draft, node)
    moved = draft.made_by(found[1], Transpose) if found else None
    if found is None or moved is None or not draft.read_once(moved.output):
        return
    if draft.made_by(moved.inputs[0], PRODUCTS) is None:
        return
    assert isinstance(moved.operation, Transpose)
    kind, _, array = found
    order = moved.operation.order
    whole = array.reshape((1,) * (len(order) - array.ndim) + array.shape)
    name = draft.constant(whole.transpose(np.argsort(order)), f"{node.output}.turned")
    inner = draft.put_before(node.output, Binary(kind), (moved.inputs[0], name), f"{node.output}.below")
    draft.put(moved.operation, (inner,), node.output)
    draft.drop_unread(moved.output)
    _into_before(draft, draft.nodes[inner])


def _into_before(draft: Draft, node: Node) -> None:
    found = _constant_operand(draft, node) if isinstance(node.operation, Binary) else None
    before = draft.made_by(found[1], PRODUCTS) if found else None
    if found is None or before is None or not draft.read_once(before.output):
        return
    operation: Any = before.operation
    if operation.activation is not None or getattr(operation, "residual", False):
        return
    kind, x, array = found
    shape = draft.shapes[x]
    axis = _channel_axis(operation, len(shape))
    numbers = _by_channel(array, shape[axis], len(shape), axis)
    if numbers is None:
        return
    given = dict(zip(operation.operands, before.inputs, strict=True))
    if any(name not in draft.constants for what, name in given.items() if what != "x"):
        return
    w = draft.constants[given["w"]]
    bias = draft.constants[given["bias"]].astype(np.float64) if operation.bias else np.zeros(numbers.shape)
    if kind == "mul":
        given["w"] = draft.computed(partial(_scaled_results, operation, numbers=numbers), w, given["w"])
        bias = bias * numbers
    else:
        bias = bias + numbers
    has_bias = bool(operation.bias or kind == "add")
    inputs = [given["x"], given["w"]]
    if has_bias:
        inputs.append(draft.constant(as_stored(bias, w), f"{node.output}.bias"))
    draft.put(replace(operation, bias=has_bias), tuple(inputs), node.output)
    draft.drop_unread(before.output)


def _scaled_results(operation: Product, w: NDArray[Any], numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights with which every channel of the result is so many times as large."""
    if isinstance(operation, TransposedConvolution):  # (in, out/g, k, k), where in is split into groups
        spec = operation.spec
        grouped = w.reshape(spec.groups, -1, *w.shape[1:]) * numbers.reshape(spec.groups, 1, -1, 1, 1)
        scaled: NDArray[np.float64] = grouped.reshape(w.shape)
        return scaled
    return w * numbers.reshape(-1, *(1,) * (w.ndim - 1))


# ---------------------------------------------------------------------------------------------------------------------
# Into the product behind
# ---------------------------------------------------------------------------------------------------------------------


def _take_before(draft: Draft, node: Node, operation: Product) -> None:
    """What is multiplied or added to a product's input becomes its own, as long as there is something."""
    while isinstance(operation, Convolution | Linear):
        before = draft.made_by(node.inputs[0], Binary)
        found = _constant_operand(draft, before) if before is not None else None
        if before is None or found is None or not draft.read_once(before.output):
            return
        kind, x, array = found
        shape = draft.shapes[x]
        axis = _channel_axis(operation, len(shape))
        numbers = _by_channel(array, shape[axis], len(shape), axis)
        w = draft.constants.get(node.inputs[1])
        bias = draft.constants.get(node.inputs[2]) if operation.bias else None
        if numbers is None or w is None or (operation.bias and bias is None):
            return
        by_input = _for_weights(operation, numbers)
        inputs = list(node.inputs)
        inputs[0] = x
        if kind == "mul":
            inputs[1] = draft.computed(partial(np.multiply, by_input), w, inputs[1])
        else:
            if isinstance(operation, Convolution) and _zeros_beyond(operation, shape):
                return
            summand = np.multiply(w, by_input).sum(axis=tuple(range(1, w.ndim)))
            summand = summand if bias is None else summand + bias
            name = draft.constant(as_stored(summand, w), f"{node.output}.bias")
            inputs[2 : 3 if operation.bias else 2] = [name]
            operation = replace(operation, bias=True)
        draft.put(operation, tuple(inputs), node.output)
        draft.drop_unread(before.output)
        node = draft.nodes[node.output]


def _zeros_beyond(operation: Convolution, shape: tuple[int, ...]) -> bool:
    sides = operation.spec.sides((shape[2], shape[3]))
    return operation.spec.padding_mode == "zeros" and (
        operation.spec.padding == "same_ceil" or any(side for pair in sides for side in pair)
    )


def _for_weights(operation: Convolution | Linear, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """One number an input channel, as it meets the weights."""
    if isinstance(operation, Linear):
        return numbers
    spec = operation.spec
    by_group = numbers.reshape(spec.groups, 1, -1)  # the group's input channels, for each of its output channels
    many = np.repeat(by_group, spec.out_channels // spec.groups, axis=1)
    return many.reshape(spec.out_channels, -1, 1, 1)
