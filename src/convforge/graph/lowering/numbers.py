"""Number by number, and along axes: expressions, reductions, softmax.

Numbers that are computed from each other one by one are one pass over memory: a node whose only reader is of the same
kind is left for that one.
"""

from __future__ import annotations

from ...engine.kernels.functions import spelled
from .. import operations as ops
from ..kernels.elementwise import Expression
from ..kernels.elementwise import elementwise as elementwise_steps
from ..kernels.reduction import reduction
from ..kernels.softmax import softmax as softmax_steps
from ..nodes import Node
from .base import ELEMENTWISE, Lowering

_MOST_INPUTS = 6
"""Of an expression that is computed in one pass."""


def elementwise(lowering: Lowering, index: int, node: Node) -> None:
    lowering.pending[node.output] = _expression(lowering, node)
    if not _left_for_reader(lowering, node):
        lowering.compute_pending(node.output, index)


def _left_for_reader(lowering: Lowering, node: Node) -> bool:
    """Whether the only one that reads a node's result can compute it in passing."""
    kept = node.output in lowering.graph.outputs or node.output in lowering.placed
    if kept or lowering.readers[node.output] != 1 or len(lowering.pending[node.output][1]) >= _MOST_INPUTS:
        return False
    (reader,) = (other for other in lowering.graph.nodes if node.output in other.inputs)
    shapes = lowering.shapes[reader.output], lowering.shapes[node.output]
    return isinstance(reader.operation, ELEMENTWISE) and shapes[0] == shapes[1]


def _expression(lowering: Lowering, node: Node) -> tuple[Expression, tuple[str, ...]]:
    """What a node computes, with what was left for it, and from which values."""
    given = [lowering.pending.pop(name, ((), (name,))) for name in node.inputs]
    inputs = tuple(dict.fromkeys(name for _, names in given for name in names))
    steps: list[tuple[str, tuple[int, ...]]] = []
    operands: list[int] = []
    for expression, names in given:
        places = [inputs.index(name) for name in names]
        places += range(len(inputs) + len(steps), len(inputs) + len(steps) + len(expression))
        steps += [(word, tuple(places[n] for n in of)) for word, of in expression]
        operands.append(places[-1])
    return (*steps, (_word(node.operation), tuple(operands))), inputs


def _word(operation: ops.Operation) -> str:
    if isinstance(operation, ops.Unary):
        return spelled(operation.kind, operation.parameters)
    if isinstance(operation, ops.Binary | ops.Compare):
        return operation.kind
    return "where" if isinstance(operation, ops.Where) else "prelu"


def batch_norm(lowering: Lowering, index: int, node: Node) -> None:
    """(x − mean) / √(variance + eps) · scale + shift, of statistics that are computed; others were folded before."""
    operation = node.operation
    assert isinstance(operation, ops.BatchNorm)
    x, *by_channel = (lowering.home(name) for name in node.inputs)
    across = (x.shape[1], *(1,) * (len(x.shape) - 2))
    given = [x, *(numbers.reshaped(across) or numbers for numbers in by_channel)]
    expression: Expression = (
        ("sub", (0, 3)), (f"={operation.eps!r}", ()), ("add", (4, 6)), ("rsqrt", (7,)), ("mul", (5, 8)),
        ("mul", (9, 1)), ("add", (10, 2)),
    )  # fmt: skip
    y = lowering.result(node)
    steps = elementwise_steps(expression, given, y, lowering.dtype, lowering.target, lowering.threads)
    lowering.line(node.output, operation.name, "elementwise", steps, (*given, y))


def reduce(lowering: Lowering, index: int, node: Node) -> None:
    operation = node.operation
    assert isinstance(operation, ops.Reduce)
    x, y = lowering.home(node.inputs[0]), lowering.result(node)
    how = lowering.dtype, lowering.target, lowering.threads
    try:
        steps = reduction(operation.kind, operation.axes, x, y, *how)
    except ValueError:  # too many loops for the strides that x has
        steps = reduction(operation.kind, operation.axes, lowering.dense(x), y, *how)
    lowering.line(node.output, operation.name, "reduction", steps, (x, y))


def softmax(lowering: Lowering, index: int, node: Node) -> None:
    """Along an axis whose numbers lie side by side; else on a copy in which they do."""
    operation = node.operation
    assert isinstance(operation, ops.Softmax)
    x, y = lowering.home(node.inputs[0]), lowering.result(node)
    axis = operation.axis % len(x.shape)
    last = (*(a for a in range(len(x.shape)) if a != axis), axis)
    shape, back = tuple(x.shape[a] for a in last), tuple(last.index(a) for a in range(len(last)))
    of, to = (
        t if t.strides[axis] == 1 or t.shape[axis] == 1 else lowering.temporary(shape).transposed(back) for t in (x, y)
    )
    if of is not x:
        lowering.copied(x, of)
    steps = softmax_steps(operation.log, axis, of, to, lowering.dtype, lowering.target, lowering.threads)
    lowering.line(node.output, operation.name, "softmax", steps, (of, to))
    if to is not y:
        lowering.copied(to, y)
