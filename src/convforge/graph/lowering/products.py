"""What multiplies with weights: each is a convolution, or the input gradient of one.

A linear layer is a convolution of one row of pixels with 1×1 kernels; so is a product of matrices, whose second one is
then the weights. An addition before the activation takes the place of the summand that is no longer needed.
"""

from __future__ import annotations

import math

import numpy as np

from ...engine.geometry import Problem
from ...engine.kernels.epilogue import Epilogue
from ...engine.kernels.functions import spelled
from ...engine.passes import prepare
from ...engine.plan import Pass
from ...native.program import Place
from .. import operations as ops
from ..kernels.elementwise import Expression, elementwise
from ..nodes import Node
from ..tensor import Tensor, row_major
from .base import Lowering, moved
from .windows import padded

_PADS = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
"""Padding modes, by the names that `Pad` has for them."""


def convolution(lowering: Lowering, index: int, node: Node) -> None:
    operation = node.operation
    assert isinstance(operation, ops.Convolution)
    names, spec = dict(zip(operation.operands, node.inputs, strict=True)), operation.spec
    x = lowering.readable(lowering.home(names["x"]))
    (top, bottom), (left, right) = spec.sides((x.shape[2], x.shape[3]))
    if spec.padding_mode != "zeros" and any((top, bottom, left, right)):
        border = ops.Pad(((0, 0), (0, 0), (top, bottom), (left, right)), _PADS[spec.padding_mode])
        x, top, left = padded(lowering, x, border), 0, 0
    residual = names.get("residual")
    y, beside = _with_residual(lowering, index, node, residual, x)
    word, apart = _word(operation.activation), residual is not None and beside is None
    w = lowering.shapes[names["w"]]
    problem = Problem(
        lowering.dtype, _four(x.shape), _four(w), _four(y.shape), spec.stride, (top, left), spec.dilation, spec.groups,
        _four(x.strides), _four(row_major(w)), _four(y.strides),
    )  # fmt: skip
    finish = Epilogue(operation.bias, "" if apart else word, beside is not None)
    _product(lowering, node.output, Pass.FORWARD, problem, finish, names, {"x": x, "y": y, "residual": beside})
    if residual is not None and apart:  # the summand lies elsewhere than the result: a pass of its own
        expression: Expression = (("add", (0, 1)), *(((word, (2,)),) if word else ()))
        given = [y, lowering.home(residual)]
        steps = elementwise(expression, given, y, lowering.dtype, lowering.target, lowering.threads)
        lowering.line(node.output, f"add, {word}", "elementwise", steps, (*given, y))


def _with_residual(
    lowering: Lowering, index: int, node: Node, residual: str | None, x: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Where the result of a convolution of x goes, and the residual, where it lies as the result does."""
    if residual is None:
        return lowering.result(node), None
    beside = lowering.home(residual)
    free = x.slot != beside.slot and lowering.replaceable(index, residual, lowering.shapes[node.output])
    if node.output not in lowering.placed and free:  # x is read again and again while results are written
        lowering.homes[node.output] = beside
        return beside, beside
    y = lowering.result(node)
    return y, beside if y.same_places(beside) else None


def transposed_convolution(lowering: Lowering, index: int, node: Node) -> None:
    operation = node.operation
    assert isinstance(operation, ops.TransposedConvolution)
    names, spec = dict(zip(operation.operands, node.inputs, strict=True)), operation.spec
    x, y, w = lowering.readable(lowering.home(names["x"])), lowering.result(node), lowering.shapes[names["w"]]
    (top, _), (left, _) = spec.sides((y.shape[2], y.shape[3]))
    problem = Problem(
        lowering.dtype, _four(y.shape), _four(w), _four(x.shape), spec.stride, (top, left), spec.dilation, spec.groups,
        _four(y.strides), _four(row_major(w)), _four(x.strides),
    )  # fmt: skip
    finish = Epilogue(operation.bias, _word(operation.activation))
    _product(lowering, node.output, Pass.INPUT_GRADIENT, problem, finish, names, {"x": y, "y": x})


def linear(lowering: Lowering, index: int, node: Node) -> None:
    operation = node.operation
    assert isinstance(operation, ops.Linear)
    names = dict(zip(operation.operands, node.inputs, strict=True))
    x, y, (outputs, channels) = lowering.home(names["x"]), lowering.result(node), lowering.shapes[names["w"]]
    rows = math.prod(y.shape[:-1])
    flat = x.reshaped((rows, channels)) or lowering.dense(x).reshaped((rows, channels))
    to = y.reshaped((rows, outputs)) or lowering.temporary((rows, outputs))
    assert flat is not None
    finish = Epilogue(operation.bias, _word(operation.activation))
    _matrix(lowering, node.output, flat, to, (channels, 1), finish, names)
    if to.slot != y.slot:
        lowering.copied(Tensor(to.slot, y.shape, row_major(y.shape)), y)


def matmul(lowering: Lowering, index: int, node: Node) -> None:
    """A step for each pair of matrices."""
    a, b, y = (*(lowering.home(name) for name in node.inputs), lowering.result(node))
    batches, (rows, channels), outputs = y.shape[:-2], a.shape[-2:], y.shape[-1]
    a, b = a.expanded((*batches, rows, channels)), b.expanded((*batches, channels, outputs))
    for number in np.ndindex(*batches):
        x, w, to = (_part(tensor, number) for tensor in (a, b, y))
        _matrix(lowering, node.output, x, to, (w.strides[1], w.strides[0]), Epilogue(), {}, w.place(lowering.size))


def _part(tensor: Tensor, number: tuple[int, ...]) -> Tensor:
    """A matrix of many."""
    offset = tensor.offset + sum(n * step for n, step in zip(number, tensor.strides, strict=False))
    return Tensor(tensor.slot, tensor.shape[-2:], tensor.strides[-2:], offset)


def _matrix(
    lowering: Lowering, output: str, x: Tensor, y: Tensor, w_strides: tuple[int, int], finish: Epilogue,
    names: dict[str, str], w: Place | None = None,
) -> None:  # fmt: skip
    """(rows, channels) times weights (outputs, channels)."""

    def row_of_pixels(matrix: Tensor) -> Tensor:
        (rows, numbers), (row, number) = matrix.shape, matrix.strides
        return Tensor(matrix.slot, (1, numbers, 1, rows), (rows * row, number, rows * row, row), matrix.offset)

    x, y = row_of_pixels(x), row_of_pixels(y)
    problem = Problem(
        lowering.dtype, _four(x.shape), (y.shape[1], x.shape[1], 1, 1), _four(y.shape), (1, 1), (0, 0), (1, 1), 1,
        _four(x.strides), (*w_strides, 1, 1), _four(y.strides),
    )  # fmt: skip
    _product(lowering, output, Pass.FORWARD, problem, finish, names, {"x": x, "y": y}, w)


def _product(
    lowering: Lowering, output: str, which: Pass, problem: Problem, finish: Epilogue, names: dict[str, str],
    tensors: dict[str, Tensor | None], w: Place | None = None,
) -> None:  # fmt: skip
    """The steps of a convolution: its weights packed beforehand where they are constants, else by a step. They are
    called as `names` says, or lie at `w`."""
    weights = lowering.graph.constants.get(names.get("w", ""))
    kept = weights is not None
    prepared = prepare(
        problem,
        which,
        lowering.threads,
        lowering.exact,
        kept=kept,
        finish=finish,
        target=lowering.target,
        cold=lowering.cold,
        spare=lowering.usual_activation,
    )
    steps = prepared.compute.steps if kept else (*prepared.weights.steps, *prepared.compute.steps)
    used = {name for step in steps for _, name, _ in step.addresses}
    lowering.zeros = max(lowering.zeros, prepared.zeros.nbytes)
    at = {name: tensor.place(lowering.size) for name, tensor in tensors.items() if tensor is not None}
    at["zeros"] = ("zeros", 0)
    if "work" in used:
        at["work"] = lowering.scratch("work", max(prepared.compute.work_bytes, prepared.weights.work_bytes)), 0
    if "bias" in used:
        at["bias"] = lowering.place(names["bias"])
    if weights is not None and prepared.weights.steps:
        # Steps that compute with packed weights have a place for the others, too, and do not read there.
        at["w"] = at["packed"] = lowering.store.packed(names["w"], weights, prepared), 0
    else:
        if "w" in used:
            at["w"] = w or lowering.place(names["w"])
        if "packed" in used:
            at["packed"] = lowering.scratch("packed", prepared.packed_bytes), 0
    words = _words(which, problem, finish)
    lowering.line(
        output, words, prepared.algorithm, tuple(moved(step, at) for step in steps), tensors.values(),
        math.prod(problem.w_shape), sum(s.macs for s in which.slidings(problem)), prepared.cycles,
    )  # fmt: skip


def _word(activation: ops.Unary | None) -> str:
    return spelled(activation.kind, activation.parameters) if activation else ""


def _words(which: Pass, problem: Problem, finish: Epilogue) -> str:
    """A convolution in a few words."""
    outputs, channels, height, width = problem.w_shape
    outputs, channels = (outputs, channels * problem.groups)
    kind = ""
    if which is Pass.INPUT_GRADIENT:
        kind, outputs, channels = "transposed ", channels, outputs
    stride = f" stride {problem.stride[0]}" if max(problem.stride) > 1 else ""
    groups = f" in {problem.groups} groups" if problem.groups > 1 else ""
    first = f"{kind}{height}×{width}{stride}, {channels}→{outputs}{groups}"
    rest = ["bias"] * finish.bias + ["add"] * finish.residual + [finish.activation] * bool(finish.activation)
    return ", ".join([first, *rest])


def _four(values: tuple[int, ...]) -> tuple[int, int, int, int]:
    a, b, c, d = values
    return a, b, c, d
