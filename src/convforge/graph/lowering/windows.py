"""What takes rows and columns of images by tables: pooling, resizing, borders."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import operations as ops
from ..kernels.copying import copying
from ..kernels.elementwise import elementwise
from ..kernels.pooling import Windows
from ..kernels.pooling import pooling as pooling_steps
from ..kernels.resizing import resizing
from ..nodes import Node
from ..tensor import Tensor
from .base import CannotLower, Lowering


def pooling(lowering: Lowering, index: int, node: Node) -> None:
    operation = node.operation
    assert isinstance(operation, ops.Pooling | ops.AdaptivePooling)
    x, y = lowering.home(node.inputs[0]), lowering.result(node)
    windows = [Windows.of(operation, axis, x.shape[2 + axis], y.shape[2 + axis]) for axis in (0, 1)]
    arrays = [*(w.places for w in windows), *(w.shares(lowering.dtype) for w in windows)]
    tables = [(lowering.store.array(array), 0) for array in arrays]
    steps = pooling_steps(operation.kind, windows, tables, x, y, lowering.dtype, lowering.target, lowering.threads)
    lowering.line(node.output, operation.name, "pooling", steps, (x, y))


def resize(lowering: Lowering, index: int, node: Node) -> None:
    operation = node.operation
    assert isinstance(operation, ops.Resize)
    x, y = lowering.home(node.inputs[0]), lowering.result(node)
    lines = [operation.taps(axis, x.shape[2 + axis], y.shape[2 + axis]) for axis in (0, 1)]
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
