"""What takes rows and columns of images, most of it by tables: pooling, resizing, borders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import operations as ops
from ..kernels.copying import copying
from ..kernels.elementwise import elementwise
from ..kernels.pooling import Windows
from ..kernels.pooling import pooling as pooling_steps
from ..kernels.resizing import resizing
from ..kernels.sampling import sampling
from ..kernels.smoothing import beside, smoothing
from ..kernels.unpooling import unpooling as unpooling_steps
from ..nodes import Node
from ..tensor import Tensor
from .base import CannotLower, Lowering


def pooling(lowering: Lowering, index: int, node: Node) -> None:
    operation = node.operation
    assert isinstance(operation, ops.Pooling | ops.AdaptivePooling)
    x, y = lowering.home(node.inputs[0]), lowering.result(node)
    _pooled(lowering, node, operation, operation.kind, (0, 0, 0, 0), x, y)


def pooling_places(lowering: Lowering, index: int, node: Node) -> None:
    operation = node.operation
    assert isinstance(operation, ops.PoolingPlaces)
    x, y = lowering.home(node.inputs[0]), lowering.result(node)
    _pooled(lowering, node, operation.pooling, "place", operation.steps(x.shape), x, y)


def _pooled(
    lowering: Lowering, node: Node, operation: ops.Pooling | ops.AdaptivePooling, kind: str, places: Sequence[int],
    x: Tensor, y: Tensor,
) -> None:  # fmt: skip
    windows = [Windows.of(operation, axis, x.shape[2 + axis], y.shape[2 + axis]) for axis in (0, 1)]
    arrays = [*(w.places for w in windows), *(w.shares(lowering.dtype) for w in windows)]
    tables = [(lowering.store.array(array), 0) for array in arrays]
    how = lowering.dtype, lowering.target, lowering.threads
    steps = pooling_steps(kind, windows, tables, x, y, *how, places)
    lowering.line(node.output, node.operation.name, "pooling", steps, (x, y))


def unpooling(lowering: Lowering, index: int, node: Node) -> None:
    assert isinstance(node.operation, ops.Unpooling)
    x, places, y = *(lowering.home(name) for name in node.inputs[:2]), lowering.result(node)
    steps = unpooling_steps(x, places, y, lowering.dtype, lowering.target, lowering.threads)
    lowering.line(node.output, node.operation.name, "unpooling", steps, (x, places, y))


def grid_sample(lowering: Lowering, index: int, node: Node) -> None:
    operation = node.operation
    assert isinstance(operation, ops.GridSample)
    x, grid, y = *(lowering.home(name) for name in node.inputs), lowering.result(node)
    steps = sampling(operation, x, grid, y, lowering.dtype, lowering.target, lowering.threads)
    lowering.line(node.output, f"{operation.mode} grid sample", "sampling", steps, (x, grid, y))


def resize(lowering: Lowering, index: int, node: Node) -> None:
    operation = node.operation
    assert isinstance(operation, ops.Resize)
    x, y = lowering.home(node.inputs[0]), lowering.result(node)
    lines = [operation.taps(axis, x.shape[2 + axis], y.shape[2 + axis]) for axis in (0, 1)]
    if operation.antialias:
        _smoothed(lowering, f"{operation.mode} resize", lines, x, y)
    else:
        _taken(lowering, f"{operation.mode} resize", lines, x, y)


Taken: TypeAlias = tuple[NDArray[np.int64], NDArray[Any]]
"""Along an axis, for each output row: the rows of the input that it is made of, and how much of each."""


def _taken(lowering: Lowering, what: str, lines: list[Taken], x: Tensor, y: Tensor) -> None:
    """y of x's rows and columns."""
    shares = [np.asarray(share, lowering.dtype) for _, share in lines]
    tables = [(lowering.store.array(array), 0) for array in (*(rows for rows, _ in lines), *shares)]
    taps = shares[0].shape[1]
    steps = resizing(taps, tables, x, y, lowering.dtype, lowering.target, lowering.threads)
    lowering.line("", what, "resizing", steps, (x, y))


def _smoothed(lowering: Lowering, what: str, lines: list[Taken], x: Tensor, y: Tensor) -> None:
    """y of sums of x's columns, and then of rows of those."""
    across = lowering.temporary((*x.shape[:3], y.shape[3]), images=True)
    for order, (rows, shares), of, to in (((0, 1, 3, 2), lines[1], x, across), ((0, 1, 2, 3), lines[0], across, y)):
        places, weights = beside(rows, shares)
        tables = [(lowering.store.array(array), 0) for array in (places, np.asarray(weights, lowering.dtype))]
        how = lowering.dtype, lowering.target, lowering.threads
        steps = smoothing(weights.shape[1], tables, of.transposed(order), to.transposed(order), *how)
        lowering.line("", what, "smoothing", steps, (of, to))


def pad(lowering: Lowering, index: int, node: Node) -> None:
    assert isinstance(node.operation, ops.Pad)
    _pad(lowering, lowering.home(node.inputs[0]), lowering.result(node), node.operation)


def padded(lowering: Lowering, x: Tensor, operation: ops.Pad) -> Tensor:
    """A copy of images with a border."""
    y = lowering.temporary(operation.shape(x.shape), images=True)
    _pad(lowering, x, y, operation)
    return y


def _pad(lowering: Lowering, x: Tensor, y: Tensor, operation: ops.Pad) -> None:
    how = lowering.dtype, lowering.target, lowering.threads
    if operation.mode == "constant":
        inside = y
        for axis, (before, _) in enumerate(operation.pads):
            inside = inside.sliced(axis, range(before, before + x.shape[axis]))
        steps = (*elementwise(((f"={operation.value!r}", ()),), [], y, *how), *copying(x, inside, *how))
        lowering.line("", "pad", "copied", steps, (x, y))
        return
    if len(x.shape) != 4 or any(map(any, operation.pads[:2])):
        raise CannotLower(f"there is no kernel for a {operation.mode} pad of other axes than height and width.")
    mode: Any = operation.mode
    rows = [np.pad(np.arange(x.shape[axis]), operation.pads[axis], mode=mode)[:, None] for axis in (2, 3)]
    _taken(lowering, f"{mode} pad", [(each, np.ones(each.shape)) for each in rows], x, y)
