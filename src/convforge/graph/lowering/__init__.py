"""From a graph to the steps that run it: which kernel, which algorithm, and where every value lies.

`base.py` keeps what has been decided; what is done for each operation is in `products.py` (what multiplies with
weights), `windows.py` (pooling, resizing, sampling, borders), `numbers.py` (number by number and along axes) and
`views.py` (what moves numbers or nothing).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...native.program import Step
from .. import operations as ops
from ..nodes import Node
from . import numbers, products, views, windows
from .base import CannotLower, Line, Lowering, moved

__all__ = ["CannotLower", "Line", "Lowered", "Lowering", "lower", "moved"]

_LOWERINGS: dict[type[ops.Operation], Callable[[Lowering, int, Node], None]] = {
    ops.Convolution: products.convolution,
    ops.TransposedConvolution: products.transposed_convolution,
    ops.Linear: products.linear,
    ops.MatMul: products.matmul,
    ops.Pooling: windows.pooling,
    ops.AdaptivePooling: windows.pooling,
    ops.PoolingPlaces: windows.pooling_places,
    ops.Unpooling: windows.unpooling,
    ops.Resize: windows.resize,
    ops.GridSample: windows.grid_sample,
    ops.Pad: windows.pad,
    ops.Unary: numbers.elementwise,
    ops.Binary: numbers.elementwise,
    ops.PRelu: numbers.elementwise,
    ops.Compare: numbers.elementwise,
    ops.Where: numbers.elementwise,
    ops.BatchNorm: numbers.batch_norm,
    ops.Reduce: numbers.reduce,
    ops.Softmax: numbers.softmax,
    ops.Concat: views.concat,
    ops.Slice: views.slice_,
    ops.Transpose: views.transpose,
    ops.Expand: views.expand,
    ops.Reshape: views.reshape,
}


@dataclass(frozen=True, slots=True)
class Lowered:
    """A graph as steps: what was made of each node, in order; the bytes of each slot that is neither an input, an
    output nor a constant; and how many bytes of zeros the kernels want to read."""

    lines: tuple[Line, ...]
    slots: dict[str, int]
    zeros: int

    @property
    def steps(self) -> tuple[Step, ...]:
        """All of them, in order."""
        return tuple(step for line in self.lines for step in line.steps)


def lower(lowering: Lowering) -> Lowered:
    """The steps of its graph.

    Raises `CannotLower` where there is no kernel for a node.
    """
    graph = lowering.graph
    for index, node in enumerate(graph.nodes):
        one = _LOWERINGS.get(type(node.operation))
        if one is None:
            raise CannotLower(f"there is no kernel for {node.operation.name} (node {node.output!r}).")
        one(lowering, index, node)
    for number, name in enumerate(graph.outputs):
        home = lowering.home(name)
        if home != lowering.results[number]:
            lowering.copied(home, lowering.results[number], name)
    return Lowered(tuple(lowering.lines), lowering.slots, lowering.zeros)
