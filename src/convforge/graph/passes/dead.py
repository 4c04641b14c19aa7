"""Nodes that do nothing: dead ends, identities, what is computed twice."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..nodes import (
    END,
    Axes,
    Binary,
    Concat,
    Expand,
    Graph,
    Node,
    Pad,
    Pooling,
    Reshape,
    Resize,
    Shape,
    Slice,
    Transpose,
    Unary,
)
from .draft import Draft


def remove(graph: Graph) -> Graph:
    """Without dead ends, identities and repetitions. Outputs keep their order, and may get other names."""
    draft = Draft(graph)
    for node in reversed(graph.nodes):
        draft.drop_unread(node.output)
    seen: dict[tuple[object, tuple[str, ...]], str] = {}
    for output in list(draft.nodes):
        node = draft.nodes[output]
        _join_moves(draft, node)
        node = draft.nodes[output]
        same = _identity(draft, node)
        if same is None:
            same = seen.setdefault((node.operation, node.inputs), output)
        if same != output:
            draft.instead(output, same)
    return draft.done()


def _join_moves(draft: Draft, node: Node) -> None:
    """A transpose of a transpose is one, a reshape of a reshape the second alone where its sizes do not ask for the
    first one's."""
    operation = node.operation
    before = draft.made_by(node.inputs[0], type(operation)) if node.inputs else None
    if before is None:
        return
    if isinstance(operation, Transpose) and isinstance(before.operation, Transpose):
        joined = Transpose(tuple(before.operation.order[axis] for axis in operation.order))
        draft.put(joined, before.inputs, node.output)
    elif isinstance(operation, Reshape) and all(isinstance(size, int) and size for size in operation.sizes):
        draft.put(operation, before.inputs, node.output)
    else:
        return
    draft.drop_unread(before.output)


def _identity(draft: Draft, node: Node) -> str | None:
    """Which of its inputs a node returns as it is."""
    x, operation = node.inputs[0], node.operation
    if draft.shapes[x] == draft.shapes[node.output] and len(node.inputs) == 1:
        rules: dict[type, Callable[[Any, Shape], bool]] = {
            Unary: _unary,
            Reshape: _reshape,
            Transpose: lambda o, s: list(o.order) == list(range(len(s))),
            Slice: _slice,
            Pad: lambda o, s: not any(side for pair in o.pads for side in pair),
            Concat: lambda o, s: True,
            Expand: lambda o, s: all(size == 1 or axis for axis, size in enumerate(o.sizes)),
            Pooling: lambda o, s: o.kernel == (1, 1) and o.stride == (1, 1) and o.pads == ((0, 0), (0, 0)),
            Resize: lambda o, s: o.scales == (1.0, 1.0),
        }
        rule = rules.get(type(operation))
        return x if rule is not None and rule(operation, draft.shapes[x]) else None
    if isinstance(operation, Binary):
        return _arithmetic(draft, node, operation)
    return None


def _unary(operation: Unary, shape: Shape) -> bool:
    everything = operation.kind == "clip" and operation.parameters == (-math.inf, math.inf)
    return operation.kind == "identity" or everything


def _reshape(operation: Reshape, shape: Shape) -> bool:
    """Whether every axis keeps its size, for another batch, too."""
    kept = [
        size in (0, -1) or size == Axes(axis, axis + 1) or (axis > 0 and isinstance(size, int))
        for axis, size in enumerate(operation.sizes)
    ]
    return all(kept)


def _slice(operation: Slice, shape: Shape) -> bool:
    axis = operation.axis % len(shape)
    whole = operation.stop == END or (axis > 0 and operation.stop == shape[axis])
    return operation.start == 0 and operation.step == 1 and whole


def _arithmetic(draft: Draft, node: Node, operation: Binary) -> str | None:
    """x + 0, x − 0, x · 1, x / 1, x ^ 1."""
    neutral = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0, "pow": 1.0}.get(operation.kind)
    x, other = node.inputs
    for kept, number, turned in ((x, other, False), (other, x, True)):
        if turned and operation.kind not in ("add", "mul"):
            continue
        same_shape = draft.shapes[kept] == draft.shapes[node.output]
        if neutral is not None and same_shape and draft.number(number) == neutral:
            return kept
    return None
