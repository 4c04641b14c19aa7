"""What moves numbers or nothing: concat, slice, transpose, expand, reshape."""

from __future__ import annotations

from ...native.program import Step
from .. import operations as ops
from ..kernels.copying import copying
from ..nodes import Node
from ..tensor import Tensor
from .base import Lowering


def concat(lowering: Lowering, index: int, node: Node) -> None:
    operation = node.operation
    assert isinstance(operation, ops.Concat)
    whole = lowering.result(node)
    steps: tuple[Step, ...] = ()
    copied: list[Tensor] = []
    for name, rows in lowering.parts(node):
        part, home = whole.sliced(operation.axis % len(whole.shape), rows), lowering.home(name)
        if (home.slot, home.offset) != (part.slot, part.offset) or not home.same_places(part):
            steps += copying(home, part, lowering.dtype, lowering.target, lowering.threads)
            copied += home, part
    lowering.line(node.output, operation.name, "copied" if steps else "in place", steps, copied)


def slice_(lowering: Lowering, index: int, node: Node) -> None:
    operation, x = node.operation, lowering.home(node.inputs[0])
    assert isinstance(operation, ops.Slice)
    axis = operation.axis % len(x.shape)
    _view(lowering, node, x.sliced(axis, operation.rows(x.shape[axis])))


def transpose(lowering: Lowering, index: int, node: Node) -> None:
    assert isinstance(node.operation, ops.Transpose)
    _view(lowering, node, lowering.home(node.inputs[0]).transposed(node.operation.order))


def expand(lowering: Lowering, index: int, node: Node) -> None:
    _view(lowering, node, lowering.home(node.inputs[0]).expanded(lowering.shapes[node.output]))


def reshape(lowering: Lowering, index: int, node: Node) -> None:
    x, shape = lowering.home(node.inputs[0]), lowering.shapes[node.output]
    view = x.reshaped(shape) or lowering.dense(x).reshaped(shape)
    assert view is not None, "dense numbers have every shape"
    _view(lowering, node, view)


def _view(lowering: Lowering, node: Node, view: Tensor) -> None:
    """A node's result lies there already, or has to be copied to where it was to go."""
    to = lowering.placed.get(node.output)
    lowering.homes[node.output] = view if to is None else lowering.copied(view, to, node.output)
