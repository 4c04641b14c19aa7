"""Nodes that do nothing: dead ends, identities, what is computed twice."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..nodes import (
    Binary,
    Concat,
    Expand,
    Graph,
    Node,
    Pad,
    Pooling,
    Reshape,
    Resize,
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
            key = node.operation, node.inputs
            if seen.get(key) not in draft.nodes:  # where two moves became one, the first of them is there no more
                seen[key] = output
            same = seen[key]
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
    if len(node.inputs) == 1 and draft.same_shape(x, node.output):
        rule = _RULES.get(type(operation))
        return x if rule is not None and rule(operation, len(draft.shapes[x])) else None
    if isinstance(operation, Binary):
        return _arithmetic(draft, node, operation)
    return None


_EVERYTHING = Unary("clip", (-math.inf, math.inf))
_RULES: dict[type, Callable[[Any, int], bool]] = {
    Unary: lambda o, rank: o.kind == "identity" or o == _EVERYTHING,
    Reshape: lambda o, rank: True,
    Transpose: lambda o, rank: list(o.order) == list(range(rank)),
    Slice: lambda o, rank: o.step == 1,
    Pad: lambda o, rank: True,
    Concat: lambda o, rank: True,
    Expand: lambda o, rank: True,
    Pooling: lambda o, rank: o.kernel == (1, 1) and o.stride == (1, 1) and o.pads == ((0, 0), (0, 0)),
    Resize: lambda o, rank: o.scales == (1.0, 1.0),
}
"""Which operations of one input do nothing, given that the result's shape is the input's, and of which rank."""


def _arithmetic(draft: Draft, node: Node, operation: Binary) -> str | None:
    """x + 0, x − 0, x · 1, x / 1, x ^ 1."""
    neutral = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0, "pow": 1.0}.get(operation.kind)
    x, other = node.inputs
    for kept, number, turned in ((x, other, False), (other, x, True)):
        if turned and operation.kind not in ("add", "mul"):
            continue
        if neutral is not None and draft.same_shape(kept, node.output) and draft.number(number) == neutral:
            return kept
    return None
