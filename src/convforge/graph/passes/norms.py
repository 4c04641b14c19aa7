"""Norms whose statistics are the input's, spelled out: means, differences, squares and products."""

from __future__ import annotations

import numpy as np

from ..nodes import (
    Binary,
    Expand,
    Graph,
    GroupNorm,
    LayerNorm,
    LocalResponseNorm,
    Node,
    Operation,
    Pad,
    Reduce,
    Reshape,
    Slice,
    Unary,
)
from .draft import Draft


def spell(graph: Graph) -> Graph:
    """Layer, group and local response norms as the arithmetic that they are."""
    draft = Draft(graph)
    for node in graph.nodes:
        if isinstance(node.operation, LayerNorm):
            _layer(draft, node, node.operation)
        elif isinstance(node.operation, GroupNorm):
            _group(draft, node, node.operation)
        elif isinstance(node.operation, LocalResponseNorm):
            _response(draft, node, node.operation)
    return draft.done()


class _Before:
    """New nodes before one, in their order."""

    def __init__(self, draft: Draft, node: Node) -> None:
        self.draft, self.output = draft, node.output

    def __call__(self, operation: Operation, *inputs: str) -> str:
        about = f"{self.output}.{operation.name}".replace(" ", ".")
        return self.draft.put_before(self.output, operation, inputs, about)

    def number(self, value: float) -> str:
        return self.draft.constant(np.array(value), f"{self.output}.number")

    def scaled(self, centred: str, variance: str, eps: float) -> str:
        """centred / √(variance + eps)"""
        return self(Binary("mul"), centred, self(Unary("rsqrt"), self(Binary("add"), variance, self.number(eps))))


def _layer(draft: Draft, node: Node, operation: LayerNorm) -> None:
    new, (x, scale, shift) = _Before(draft, node), node.inputs
    mean = Reduce("mean", tuple(range(-operation.axes, 0)))
    centred = new(Binary("sub"), x, new(mean, x))
    normalised = new.scaled(centred, new(mean, new(Unary("square"), centred)), operation.eps)
    draft.put(Binary("add"), (new(Binary("mul"), normalised, scale), shift), node.output)


def _group(draft: Draft, node: Node, operation: GroupNorm) -> None:
    new, (x, scale, shift) = _Before(draft, node), node.inputs
    rank, channels = len(draft.shapes[x]), draft.shapes[x][1]
    group = channels // operation.groups
    one = (1,) * (rank - 2)
    by_channel = Reshape((-1, *one))

    def mean(of: str) -> str:
        """Of each group, as one number a channel `(N, C, 1, …)`: of the channels, and of their means."""
        if operation.groups == 1:
            return new(Reduce("mean", tuple(range(1, rank))), of)
        per_channel = new(Reduce("mean", tuple(range(2, rank))), of) if rank > 2 else of
        if group == 1:
            return per_channel
        of_group = new(Reduce("mean", (2,)), new(Reshape((0, operation.groups, group, -1)), per_channel))
        repeated = new(Expand((1, 1, group, 1)), of_group)
        return new(Reshape((0, channels, *one)), repeated)

    centred = new(Binary("sub"), x, mean(x))
    normalised = new.scaled(centred, mean(new(Unary("square"), centred)), operation.eps)
    product = new(Binary("mul"), normalised, new(by_channel, scale))
    draft.put(Binary("add"), (product, new(by_channel, shift)), node.output)


def _response(draft: Draft, node: Node, operation: LocalResponseNorm) -> None:
    new, (x,) = _Before(draft, node), node.inputs
    channels, before = draft.shapes[x][1], operation.before or 0
    border = Pad(((0, 0), (before, operation.size - 1 - before), (0, 0), (0, 0)))
    squares = new(border, new(Unary("square"), x))
    total = new(Slice(1, 0, channels), squares)
    for first in range(1, operation.size):
        total = new(Binary("add"), total, new(Slice(1, first, first + channels), squares))
    scaled = new(Binary("mul"), total, new.number(operation.alpha / operation.size))
    divisor = new(Binary("pow"), new(Binary("add"), scaled, new.number(operation.k)), new.number(operation.beta))
    draft.put(Binary("div"), (x, divisor), node.output)
