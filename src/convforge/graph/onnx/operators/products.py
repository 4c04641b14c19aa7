"""Convolutions, their transposes, and products of matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ....spec import Conv2dSpec, Pair, kernel_extent
from ...nodes import Binary, Convolution, Linear, MatMul, Shape, Transpose, TransposedConvolution
from ..attributes import Attributes, Cannot
from ..values import Known, Made, Value
from .common import Converter, Inputs, given, optional, rank
from .windows import Rows, sizes_must_stay, window_sides

if TYPE_CHECKING:
    from ..reading import Reading


def _weights(r: Reading, a: Attributes, rows: Rows, w: Value) -> tuple[Value, Shape]:
    """Kernels of an image, and their shape, which is always the same."""
    if rank(w) != rows.axes + 2:
        raise Cannot(f"has kernels of {rank(w) - 2} axes for an input of {rows.axes}")
    w = rows.image(w)
    shape = r.same(w.shapes)
    kernel = a.ints("kernel_shape", rows.axes)
    if kernel is not None and rows.pair(kernel, 1) != shape[2:]:
        raise Cannot(f"says that its kernel is {kernel}, and its weights have the shape {shape}")
    return w, shape


def _conv(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    rows = Rows(r, given(inputs, 0))
    w, (out, per_group, *kernel) = _weights(r, a, rows, given(inputs, 1))
    stride, dilation = rows.pair(a.ints("strides", rows.axes), 1), rows.pair(a.ints("dilations", rows.axes), 1)
    groups = a.integer("group", 1)
    extent = cast(Pair, tuple(kernel))
    sides = window_sides(a, rows, extent, stride, dilation, by_rule=True)
    bias = optional(inputs, 2)
    spec = Conv2dSpec(per_group * groups, out, extent, stride, sides, dilation, groups)
    return rows.back(r.add(Convolution(spec, bias=bias is not None), rows.x, w, *(() if bias is None else (bias,))))


def _conv_transpose(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    rows = Rows(r, given(inputs, 0))
    w, (channels, per_group, *kernel) = _weights(r, a, rows, given(inputs, 1))
    extent = cast(Pair, tuple(kernel))
    stride, dilation = rows.pair(a.ints("strides", rows.axes), 1), rows.pair(a.ints("dilations", rows.axes), 1)
    groups, more = a.integer("group", 1), rows.pair(a.ints("output_padding", rows.axes), 0)
    rule, pads, wanted = a.text("auto_pad", "NOTSET"), a.ints("pads", 2 * rows.axes), a.ints("output_shape")
    if rule not in ("NOTSET", "", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise Cannot(f"has the padding {rule!r}, which is not known")
    if wanted is None and not rule.startswith("SAME"):
        sides = rows.sides(pads or (0,) * 2 * rows.axes) if rule != "VALID" else ((0, 0), (0, 0))
    else:
        if wanted is not None:
            sizes_must_stay(rows.x.shapes, (0, 1))
            wanted = rows.pair(wanted[-rows.axes :], 1)
        pairs = []
        for axis in (0, 1):
            # SAME makes stride times the size, so what is cut off does not depend on it.
            size = rows.x.shapes[0][2 + axis]
            whole = (size - 1) * stride[axis] + kernel_extent(extent[axis], dilation[axis]) + more[axis]
            cut = whole - (size * stride[axis] if wanted is None else wanted[axis])
            if cut < 0:  # larger than its kernels reach: what is missing comes behind
                more, cut = (more[0] - (1 - axis) * cut, more[1] - axis * cut), 0
            pairs.append((cut // 2, cut - cut // 2) if rule == "SAME_UPPER" else (cut - cut // 2, cut // 2))
        sides = (pairs[0], pairs[1])
    bias = optional(inputs, 2)
    spec = Conv2dSpec(per_group * groups, channels, extent, stride, sides, dilation, groups)
    operation = TransposedConvolution(spec, more, bias=bias is not None)
    return rows.back(r.add(operation, rows.x, w, *(() if bias is None else (bias,))))


def _gemm(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    """alpha · A · B + beta · C."""
    x, w, bias = given(inputs, 0), given(inputs, 1), optional(inputs, 2)
    alpha, beta = a.number("alpha", 1.0), a.number("beta", 1.0)
    turned, stands = a.flag("transA", False), a.flag("transB", False)
    a.ignore("broadcast")
    if rank(x) != 2 or rank(w) != 2:
        raise Cannot(f"multiplies matrices, not {x.shapes[0]} with {w.shapes[0]}")
    if turned:
        x = r.add(Transpose((1, 0)), x)
    if isinstance(w, Known) and isinstance(x, Made):
        array = r.same(w.arrays)
        array = array if stands else array.T
        linear = r.constant(array if alpha == 1.0 else _times(r, array, alpha))
        if bias is not None and isinstance(bias, Known):
            by_output = _along_outputs(r.same(bias.arrays), array.shape[0])
            if by_output is not None:
                by_output = by_output if beta == 1.0 else _times(r, by_output, beta)
                return r.add(Linear(bias=True), x, linear, r.constant(by_output))
        y: Value = r.add(Linear(), x, linear)
    else:
        y = r.add(MatMul(), x, r.add(Transpose((1, 0)), w) if stands else w)
        if alpha != 1.0:
            y = r.add(Binary("mul"), y, r.constant(alpha))
    if bias is None or beta == 0.0:
        return y
    return r.add(Binary("add"), y, bias if beta == 1.0 else r.add(Binary("mul"), bias, r.constant(beta)))


def _times(r: Reading, array: np.ndarray[Any, Any], factor: float) -> np.ndarray[Any, Any]:
    r.spend(array.shape)
    product: np.ndarray[Any, Any] = array * np.asarray(factor, array.dtype)
    return product


def _along_outputs(bias: np.ndarray[Any, Any], outputs: int) -> np.ndarray[Any, Any] | None:
    """A bias that is the same in every row, as one number an output."""
    if bias.ndim > 2 or (bias.ndim == 2 and bias.shape[0] != 1) or (bias.ndim and bias.shape[-1] not in (1, outputs)):
        return None
    return np.broadcast_to(bias.reshape(-1), (outputs,))


def _matmul(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    x, w = given(inputs, 0), given(inputs, 1)
    if not rank(x) or not rank(w):
        raise Cannot(f"multiplies matrices, not {x.shapes[0]} with {w.shapes[0]}")
    if isinstance(w, Known) and isinstance(x, Made) and rank(w) == 2:
        return r.add(Linear(), x, r.constant(r.same(w.arrays).T))
    row, column = rank(x) == 1, rank(w) == 1
    if row:
        x = r.reshape(x, [(1, *shape) for shape in x.shapes])
    if column:
        w = r.reshape(w, [(*shape, 1) for shape in w.shapes])
    y: Value = r.add(MatMul(), x, w)
    if row:
        y = r.reshape(y, [(*shape[:-2], shape[-1]) for shape in y.shapes])
    return r.reshape(y, [shape[:-1] for shape in y.shapes]) if column else y


OPERATORS: dict[str, Converter] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
