"""Convolutions, their transposes, products of matrices, and attention."""

from __future__ import annotations

import math
from typing import Any

from ...spec import Conv2dSpec, SpecError
from ..nodes import Binary, Convolution, Linear, MatMul, Softmax, Transpose, TransposedConvolution
from .arguments import images, known, pair
from .builder import Arguments, Builder, Cannot, Converter, Value
from .shapes import as_row, row_of


def _spec(w: Value, stride: Any, padding: Any, dilation: Any, groups: int, transposed: bool = False) -> Conv2dSpec:
    if w.rank != 4:
        raise Cannot(f"is over {w.rank - 2} axes, and only two-dimensional ones are known")
    out, per_group, kh, kw = (known(size) for size in w.sizes)
    sides: Any = padding if isinstance(padding, str) else [known(p) for p in padding]
    if len(sides) == 4 and not isinstance(padding, str):  # our own operator: top, bottom, left, right
        sides = [sides[:2], sides[2:]]
    try:
        return Conv2dSpec(per_group * groups, out, (kh, kw), pair(stride), sides, pair(dilation), groups)
    except SpecError as error:
        raise Cannot(f"cannot be: {error}") from None


def _convolution(b: Builder, a: Arguments) -> Any:
    x, w, bias = a["input"], a["weight"], a.get("bias")
    stride, padding, dilation = a["stride"], a["padding"], a["dilation"]
    given = [t for t in (w, bias) if t is not None]
    if w.rank == 3:
        sides = padding if isinstance(padding, str) else [0, *padding]
        kernel = as_row(b, w)
        spec = _spec(kernel, [1, *stride], sides, [1, *dilation], a["groups"])
        return row_of(b, b.add(Convolution(spec, bias is not None), as_row(b, x), kernel, *given[1:]))
    return b.add(Convolution(_spec(w, stride, padding, dilation, a["groups"]), bias is not None), images(x), *given)


def _transposed(b: Builder, a: Arguments) -> Any:
    x, w, bias = a["input"], a["weight"], a["bias"]
    if w.rank == 3:
        padded = {"stride": [1, *a["stride"]], "padding": [0, *a["padding"]], "dilation": [1, *a["dilation"]]}
        padded |= {"output_padding": [0, *a["output_padding"]]}
        return row_of(b, _transposed(b, a | padded | {"input": as_row(b, x), "weight": as_row(b, w)}))
    images(x)
    spec = _spec(w, a["stride"], a["padding"], a["dilation"], a["groups"])
    operation = TransposedConvolution(spec, pair(a["output_padding"]), bias is not None)
    return b.add(operation, x, w, *([] if bias is None else [bias]))


def _either_convolution(b: Builder, a: Arguments) -> Any:
    """The operator that torch has behind all of its convolutions."""
    return (_transposed if a["transposed"] else _convolution)(b, a)


def _linear(b: Builder, a: Arguments) -> Any:
    bias = a["bias"]
    return b.add(Linear(bias is not None), a["input"], a["weight"], *([] if bias is None else [bias]))


def _addmm(b: Builder, a: Arguments) -> Any:
    """beta · self + alpha · mat1 · mat2."""
    made = _times(b, b.add(MatMul(), a["mat1"], a["mat2"]), a["alpha"])
    return b.add(Binary("add"), made, _times(b, a["self"].name, a["beta"]))


def _times(b: Builder, name: str, factor: float) -> str:
    return name if factor == 1 else b.add(Binary("mul"), name, b.operand(factor))


def _matmul(b: Builder, a: Arguments) -> Any:
    x, other = a["self"], a.get("other") or a["mat2"]
    if min(x.rank, other.rank) < 2:
        raise Cannot("with vectors is not known")
    return b.add(MatMul(), x, other)


def _attention(b: Builder, a: Arguments) -> Any:
    q, k, v = a["query"], a["key"], a["value"]
    if a["is_causal"] or a["enable_gqa"] or a["dropout_p"]:
        raise Cannot("with a causal mask, shared heads or dropout is not known")
    scale = a["scale"] if a["scale"] is not None else 1 / math.sqrt(known(q.sizes[-1]))
    order = (*range(k.rank - 2), k.rank - 1, k.rank - 2)
    scores = b.add(Binary("mul"), b.add(MatMul(), q, b.add(Transpose(order), k)), b.operand(scale))
    if a["attn_mask"] is not None:
        scores = b.add(Binary("add"), scores, a["attn_mask"])
    return b.add(MatMul(), b.add(Softmax(-1), scores), v)


CONVERTERS: dict[str, Converter] = {
    "conv1d": _convolution,
    "conv2d": _convolution,
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d"), _transposed),
    "convolution": _either_convolution,
    "linear": _linear,
    "addmm": _addmm,
    "mm": _matmul,
    "bmm": _matmul,
    "matmul": _matmul,
    "scaled_dot_product_attention": _attention,
}
