"""ONNX's operators as nodes: one function an operator, found by its name.

`OPERATORS["Relu"]` takes the `Reading`, a node's attributes and its inputs (None for one that is left out), and returns
the value that it makes, or several. What a node asks for that our graphs do not have raises `Cannot`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from ...spec import Conv2dSpec, Pair, Sides, ceil_div, kernel_extent, same_ceil_pad
from ..nodes import (
    END,
    BatchNorm,
    Binary,
    Concat,
    Convolution,
    Expand,
    GroupNorm,
    LayerNorm,
    Linear,
    LocalResponseNorm,
    MatMul,
    Pad,
    Pooling,
    PRelu,
    Reduce,
    Resize,
    Shape,
    Slice,
    Softmax,
    Transpose,
    TransposedConvolution,
    Unary,
)
from .attributes import Attributes, Cannot, integers
from .files import FLOATING, type_name
from .folding import axes_of, reshaped, slices, squeezed, unsqueezed
from .values import Known, Made, Value, Varies

if TYPE_CHECKING:
    from .reading import Reading

Inputs: TypeAlias = Sequence[Value | None]
Converter: TypeAlias = Callable[["Reading", Attributes, Inputs], Any]


def given(inputs: Inputs, position: int) -> Value:
    """An input that must be there."""
    value = optional(inputs, position)
    if value is None:
        raise Cannot(f"needs {position + 1} inputs")
    return value


def optional(inputs: Inputs, position: int) -> Value | None:
    return inputs[position] if position < len(inputs) else None


def rank(x: Value) -> int:
    return len(x.shapes[0])


def axis_of(x: Value, axis: int) -> int:
    """Counted from the front."""
    if not -rank(x) <= axis < rank(x):
        raise Cannot(f"has axis {axis}, and its input has {rank(x)} axes")
    return axis % rank(x)


# ---------------------------------------------------------------------------------------------------------------------
# Number by number
# ---------------------------------------------------------------------------------------------------------------------


def _function(kind: str, *parameters: tuple[str, float]) -> Converter:
    """A function of each number, its parameters by the names of ONNX's attributes with their usual values."""

    def convert(r: Reading, a: Attributes, inputs: Inputs) -> Value:
        a.ignore("consumed_inputs")
        return r.add(Unary(kind, tuple(a.number(name, usual) for name, usual in parameters)), given(inputs, 0))

    return convert


def _selu(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    alpha, gamma = a.number("alpha", 1.6732632423543772), a.number("gamma", 1.0507009873554805)
    return r.add(Unary("elu", (alpha, gamma)), given(inputs, 0))


def _celu(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    alpha = a.number("alpha", 1.0)
    return r.add(Unary("elu", (alpha, 1.0, 1 / alpha)), given(inputs, 0))


def _gelu(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    kinds = {"none": "gelu", "tanh": "gelu_tanh"}
    approximate = a.text("approximate", "none")
    if approximate not in kinds:
        raise Cannot(f"has the approximation {approximate!r}, which is not known")
    return r.add(Unary(kinds[approximate]), given(inputs, 0))


def _swish(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    x, alpha = given(inputs, 0), a.number("alpha", 1.0)
    if alpha == 1.0:
        return r.add(Unary("silu"), x)
    return r.add(Binary("mul"), x, r.add(Unary("sigmoid"), r.add(Binary("mul"), x, r.constant(alpha))))


def _clip(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    x = given(inputs, 0)
    limits: list[Value | float] = []
    for position, (name, usual) in enumerate((("min", -math.inf), ("max", math.inf)), 1):
        limit = optional(inputs, position)
        number = a.number(name, usual)
        limits.append(number if limit is None else r.array(limit, name).item() if isinstance(limit, Known) else limit)
    low, high = limits
    if isinstance(low, float | int) and isinstance(high, float | int):
        return r.add(_clipped(float(low), float(high)), x)
    for kind, bound in (("max", low), ("min", high)):
        x = r.add(Binary(kind), x, r.constant(bound) if isinstance(bound, float | int) else bound)
    return x


def _clipped(low: float, high: float) -> Unary:
    if (low, high) == (0.0, math.inf):
        return Unary("relu")
    return Unary("relu6") if (low, high) == (0.0, 6.0) else Unary("clip", (low, high))


def _cast(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    a.ignore("saturate", "round_mode")
    to = a.integer("to", 0)
    if to not in FLOATING:
        raise Cannot(f"makes {type_name(to)} of what the network computes, which has floating-point numbers only")
    return given(inputs, 0)


def _same(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    return given(inputs, 0)


def _cast_like(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    """To the type of another input; what the network computes has floating-point numbers already."""
    a.ignore("saturate", "round_mode")
    x, like = given(inputs, 0), given(inputs, 1)
    if isinstance(like, Known) and like.arrays[0].dtype.kind != "f":
        raise Cannot(f"makes {like.arrays[0].dtype} of what the network computes")
    return Known(tuple(array.astype(np.float32) for array in x.arrays)) if isinstance(x, Known) else x


def _dropout(r: Reading, a: Attributes, inputs: Inputs) -> list[Value]:
    a.ignore("ratio", "seed", "is_test")
    training = optional(inputs, 2)
    if training is not None and r.array(training, "training_mode").item():
        raise Cannot("is in training mode: export the network in eval mode")
    x = given(inputs, 0)
    return [x, Known(tuple(np.broadcast_to(np.True_, shape) for shape in x.shapes))]


def _binary(kind: str) -> Converter:
    def convert(r: Reading, a: Attributes, inputs: Inputs) -> Value:
        x, other = given(inputs, 0), given(inputs, 1)
        if a.opset < 7:
            a.ignore("consumed_inputs", "broadcast")
            if "axis" in a:  # the second operand's first axis lies on this one of the first's
                behind = rank(x) - axis_of(x, a.integer("axis", 0)) - rank(other)
                other = r.reshape(other, [(*shape, *(1,) * behind) for shape in other.shapes])
        return r.add(Binary(kind), x, other)

    return convert


def _chain(kind: str) -> Converter:
    def convert(r: Reading, a: Attributes, inputs: Inputs) -> Value:
        a.ignore("consumed_inputs")
        total = given(inputs, 0)
        for i in range(1, len(inputs)):
            total = r.add(Binary(kind), total, given(inputs, i))
        return total

    return convert


def _mean(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    return r.add(Binary("div"), _chain("add")(r, a, inputs), r.constant(float(len(inputs))))


def _prelu(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    x, slope = given(inputs, 0), given(inputs, 1)
    if a.opset < 7 and rank(slope) == 1 and rank(x) > 2:  # one a channel
        slope = r.reshape(slope, [(*shape, *(1,) * (rank(x) - 2)) for shape in slope.shapes])
    return r.add(PRelu(), x, slope)


def _where(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    """Where the condition is the same for all numbers. Any other would need a node of its own."""
    condition, x, other = r.array(inputs[0], "the condition"), given(inputs, 1), given(inputs, 2)
    if condition.all() or not condition.any():
        chosen = x if condition.all() else other
        shapes = [
            np.broadcast_shapes(condition.shape, one, two) for one, two in zip(x.shapes, other.shapes, strict=True)
        ]
        return _expanded(r, chosen, shapes)
    raise Cannot("chooses number by number, which is not known")


# ---------------------------------------------------------------------------------------------------------------------
# Products
# ---------------------------------------------------------------------------------------------------------------------


class _Rows:
    """Rows `(N, C, L)` as images `(N, C, 1, L)`, and back again; images stay as they are."""

    def __init__(self, r: Reading, x: Value) -> None:
        self._r, self.rows = r, rank(x) == 3
        if rank(x) not in (3, 4):
            raise Cannot(f"is over {rank(x) - 2} axes, and known are images (N, C, H, W) and rows (N, C, L)")
        self.axes = rank(x) - 2
        self.x = self.image(x)

    def image(self, x: Value) -> Value:
        if not self.rows:
            return x
        return self._r.reshape(x, [(*shape[:2], 1, shape[2]) for shape in x.shapes])

    def back(self, y: Value) -> Value:
        return self._r.reshape(y, [(*shape[:2], shape[3]) for shape in y.shapes]) if self.rows else y

    def pair(self, numbers: Sequence[int] | None, usual: int) -> Pair:
        """Numbers by axis as (vertical, horizontal)."""
        if numbers is None:
            return usual, usual
        return (usual, numbers[0]) if self.rows else (numbers[0], numbers[1])

    def sides(self, pads: Sequence[int]) -> Sides:
        """ONNX's order, all that is before and then all that is after, as sides."""
        if self.rows:
            return (0, 0), (pads[0], pads[1])
        return (pads[0], pads[2]), (pads[1], pads[3])


def _window_sides(
    r: Reading, a: Attributes, rows: _Rows, kernel: Pair, stride: Pair, dilation: Pair, by_rule: bool
) -> Sides | str:
    """Padding, as numbers; or, for a convolution, by the rule that it follows for any size."""
    rule, pads = a.text("auto_pad", "NOTSET"), a.ints("pads", 2 * rows.axes)
    if rule in ("NOTSET", ""):
        return rows.sides(pads or (0,) * 2 * rows.axes)
    if rule == "VALID":
        return (0, 0), (0, 0)
    if rule not in ("SAME_UPPER", "SAME_LOWER"):
        raise Cannot(f"has the padding {rule!r}, which is not known")
    if rule == "SAME_UPPER" and by_rule:
        return "same_ceil"
    _sizes_must_stay(rows.x.shapes, [axis for axis in (0, 1) if stride[axis] > 1])
    _, _, height, width = rows.x.shapes[0]
    vertical, horizontal = (
        same_ceil_pad(size, kernel[axis], stride[axis], dilation[axis]) for axis, size in enumerate((height, width))
    )
    if rule == "SAME_LOWER":
        vertical, horizontal = vertical[::-1], horizontal[::-1]
    return vertical, horizontal


def _sizes_must_stay(shapes: Sequence[Shape], axes: Sequence[int]) -> None:
    """What follows depends on the height (0) or width (1) in a way that a node cannot say."""
    for probe, shape in enumerate(shapes):
        if any(shape[2 + axis] != shapes[0][2 + axis] for axis in axes):
            raise Varies(probe)


def _weights(r: Reading, a: Attributes, rows: _Rows, w: Value) -> tuple[Value, Shape]:
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
    rows = _Rows(r, given(inputs, 0))
    w, (out, per_group, *kernel) = _weights(r, a, rows, given(inputs, 1))
    stride, dilation = rows.pair(a.ints("strides", rows.axes), 1), rows.pair(a.ints("dilations", rows.axes), 1)
    groups = a.integer("group", 1)
    extent = cast(Pair, tuple(kernel))
    sides = _window_sides(r, a, rows, extent, stride, dilation, by_rule=True)
    bias = optional(inputs, 2)
    spec = Conv2dSpec(per_group * groups, out, extent, stride, sides, dilation, groups)
    return rows.back(r.add(Convolution(spec, bias=bias is not None), rows.x, w, *(() if bias is None else (bias,))))


def _conv_transpose(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    rows = _Rows(r, given(inputs, 0))
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
            _sizes_must_stay(rows.x.shapes, (0, 1))
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
        linear = r.constant(array if alpha == 1.0 else array * np.asarray(alpha, array.dtype))
        if bias is not None and isinstance(bias, Known):
            by_output = _along_outputs(r.same(bias.arrays), array.shape[0])
            if by_output is not None:
                by_output = by_output if beta == 1.0 else by_output * np.asarray(beta, by_output.dtype)
                return r.add(Linear(bias=True), x, linear, r.constant(by_output))
        y: Value = r.add(Linear(), x, linear)
    else:
        y = r.add(MatMul(), x, r.add(Transpose((1, 0)), w) if stands else w)
        if alpha != 1.0:
            y = r.add(Binary("mul"), y, r.constant(alpha))
    if bias is None or beta == 0.0:
        return y
    return r.add(Binary("add"), y, bias if beta == 1.0 else r.add(Binary("mul"), bias, r.constant(beta)))


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


# ---------------------------------------------------------------------------------------------------------------------
# Pooling, and reductions
# ---------------------------------------------------------------------------------------------------------------------


def _pool(kind: str) -> Converter:
    def convert(r: Reading, a: Attributes, inputs: Inputs) -> Value:
        rows = _Rows(r, given(inputs, 0))
        shape = a.ints("kernel_shape", rows.axes)
        if shape is None:
            raise Cannot("does not say how large its windows are")
        a.ignore("storage_order")  # of the second output
        kernel, stride = rows.pair(shape, 1), rows.pair(a.ints("strides", rows.axes), 1)
        dilation = rows.pair(a.ints("dilations", rows.axes), 1)
        if min(*kernel, *stride, *dilation) < 1:
            raise Cannot(
                f"has windows of {kernel} with stride {stride} and dilation {dilation}: all must be at least 1"
            )
        sides = _window_sides(r, a, rows, kernel, stride, dilation, by_rule=False)
        assert not isinstance(sides, str)
        if min(min(pair) for pair in sides) < 0:
            raise Cannot(f"has padding of {sides}, and none may be below 0")
        for axis in (0, 1):
            extent = kernel_extent(kernel[axis], dilation[axis])
            if max(sides[axis]) >= extent:
                raise Cannot(
                    f"has padding of {max(sides[axis])} under windows of {extent}, some of which see nothing else"
                )
        counting = kind == "average" and a.flag("count_include_pad", False)
        ceil = a.flag("ceil_mode", False)
        return rows.back(r.add(Pooling(kind, kernel, stride, sides, dilation, counting, ceil), rows.x))

    return convert


def _global(kind: str) -> Converter:
    def convert(r: Reading, a: Attributes, inputs: Inputs) -> Value:
        x = given(inputs, 0)
        if rank(x) < 3:
            raise Cannot(f"takes (N, C, H, W), not {x.shapes[0]}")
        return r.add(Reduce(kind, tuple(range(2, rank(x)))), x)

    return convert


def _reduce(kind: str, before: str = "", after: str = "") -> Converter:
    """A reduction, perhaps of a function of each number, and a function of it."""

    def convert(r: Reading, a: Attributes, inputs: Inputs) -> Value:
        x = given(inputs, 0)
        axes = _reduced_axes(r, a, inputs)
        keep = a.flag("keepdims", True)
        if axes is None:
            return x
        if before:
            x = r.add(Unary(before), x)
        y = r.add(Reduce(kind, axes, keep), x)
        return r.add(Unary(after), y) if after else y

    return convert


def _reduced_axes(r: Reading, a: Attributes, inputs: Inputs) -> tuple[int, ...] | None:
    """All axes where none are given, or None where that means that there is nothing to do."""
    x, where = given(inputs, 0), optional(inputs, 1)
    axes = axes_of(a, None if where is None else r.array(where, "axes"), rank(x))
    nothing = a.flag("noop_with_empty_axes", False)
    return axes or (None if nothing else tuple(range(rank(x))))


def _log_sum_exp(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    """The largest is taken out first, so that no exponential is too large."""
    x, axes = given(inputs, 0), _reduced_axes(r, a, inputs)
    keep = a.flag("keepdims", True)
    if axes is None:
        return x
    largest = r.add(Reduce("max", axes), x)
    shifted = r.add(Unary("exp"), r.add(Binary("sub"), x, largest))
    total = r.add(Binary("add"), r.add(Unary("log"), r.add(Reduce("sum", axes), shifted)), largest)
    if keep:
        return total
    return r.reshape(total, [tuple(n for i, n in enumerate(shape) if i not in axes) for shape in total.shapes])


def _softmax(log: bool) -> Converter:
    def convert(r: Reading, a: Attributes, inputs: Inputs) -> Value:
        x = given(inputs, 0)
        if a.opset >= 13:
            return r.add(Softmax(axis_of(x, a.integer("axis", -1)), log), x)
        axis = a.integer("axis", 1)
        axis = axis_of(x, axis) if axis != rank(x) else axis
        if all(math.prod(shape[axis + 1 :]) == 1 for shape in x.shapes) and axis < rank(x):
            return r.add(Softmax(axis, log), x)
        # All that follows the axis belongs together.
        flat = r.reshape(x, [(math.prod(shape[:axis]), math.prod(shape[axis:])) for shape in x.shapes])
        return r.reshape(r.add(Softmax(1, log), flat), x.shapes)

    return convert


# ---------------------------------------------------------------------------------------------------------------------
# Normalisation
# ---------------------------------------------------------------------------------------------------------------------


def _batch_norm(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    a.ignore("momentum", "consumed_inputs", "is_test")
    if a.flag("training_mode", False):
        raise Cannot("is in training mode: export the network in eval mode")
    if not a.flag("spatial", True):
        raise Cannot("has statistics of every pixel (spatial=0), which are not known")
    return r.add(BatchNorm(a.number("epsilon", 1e-5)), *(given(inputs, i) for i in range(5)))


def _instance_norm(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    a.ignore("consumed_inputs")
    x = given(inputs, 0)
    if rank(x) < 3:
        raise Cannot(f"takes (N, C, …), not {x.shapes[0]}")
    channels = r.same([shape[1] for shape in x.shapes])
    return r.add(GroupNorm(channels, a.number("epsilon", 1e-5)), x, given(inputs, 1), given(inputs, 2))


def _group_norm(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    a.ignore("stash_type")
    x, groups = given(inputs, 0), a.integer("num_groups", 0)
    if rank(x) < 2 or groups < 1:
        raise Cannot(f"cannot split {x.shapes[0]} into {groups} groups")
    channels = r.same([shape[1] for shape in x.shapes])
    both = []
    for value in (given(inputs, 1), given(inputs, 2)):
        if a.opset < 21 and value.shapes[0] == (groups,) != (channels,):  # one a group, as it was at first
            turned = r.reshape(value, [(groups, 1)] * len(value.shapes))
            wide = _expanded(r, turned, [(groups, channels // groups)] * len(value.shapes))
            value = r.reshape(wide, [(channels,)] * len(value.shapes))
        both.append(value)
    return r.add(GroupNorm(groups, a.number("epsilon", 1e-5)), x, *both)


def _layer_norm(r: Reading, a: Attributes, inputs: Inputs) -> list[Value | None]:
    a.ignore("stash_type")
    x = given(inputs, 0)
    axes = rank(x) - axis_of(x, a.integer("axis", -1))
    shape = r.same([shape[-axes:] for shape in x.shapes])
    scale, shift = given(inputs, 1), optional(inputs, 2)
    shift = r.constant(np.zeros(shape, np.float32)) if shift is None else shift
    both = [_expanded(r, value, [shape] * len(value.shapes)) for value in (scale, shift)]
    eps = a.number("epsilon", 1e-5)
    statistics: list[Value | None] = [None, None]
    if any(r.wanted[1:]):
        along = tuple(range(rank(x) - axes, rank(x)))
        mean = r.add(Reduce("mean", along), x)
        variance = r.add(Reduce("mean", along), r.add(Unary("square"), r.add(Binary("sub"), x, mean)))
        statistics = [mean, r.add(Unary("rsqrt"), r.add(Binary("add"), variance, r.constant(eps)))]
    return [r.add(LayerNorm(axes, eps), x, *both), *statistics]


def _rms_norm(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    a.ignore("stash_type")
    x, scale = given(inputs, 0), given(inputs, 1)
    axes = tuple(range(axis_of(x, a.integer("axis", -1)), rank(x)))
    mean = r.add(Reduce("mean", axes), r.add(Unary("square"), x))
    factor = r.add(Unary("rsqrt"), r.add(Binary("add"), mean, r.constant(a.number("epsilon", 1e-5))))
    return r.add(Binary("mul"), r.add(Binary("mul"), x, factor), scale)


def _lp_norm(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    x, power = given(inputs, 0), a.integer("p", 2)
    axes = (axis_of(x, a.integer("axis", -1)),)
    if power not in (1, 2):
        raise Cannot(f"has p={power}, and 1 and 2 are known")
    norm: Value = r.add(Reduce("sum", axes), r.add(Unary("abs" if power == 1 else "square"), x))
    norm = norm if power == 1 else r.add(Unary("sqrt"), norm)
    return r.add(Binary("div"), x, r.add(Binary("max"), norm, r.constant(1e-30)))  # zeros stay zeros


def _local_response_norm(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    size = a.integer("size", 0)
    x = given(inputs, 0)
    if not 0 < size <= 2 * max(shape[1] for shape in x.shapes if len(shape) > 1) + 1:
        raise Cannot(f"is over {size} channels of {x.shapes[0]}")
    alpha, beta, k = a.number("alpha", 1e-4), a.number("beta", 0.75), a.number("bias", 1.0)
    return r.add(LocalResponseNorm(size, alpha, beta, k), x)


# ---------------------------------------------------------------------------------------------------------------------
# Moves
# ---------------------------------------------------------------------------------------------------------------------


def _reshape(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    x = given(inputs, 0)
    zero = a.flag("allowzero", False)
    if a.opset < 5 or "shape" in a:
        sizes: Sequence[tuple[int, ...]] = [a.ints("shape") or ()] * len(x.shapes)
    else:
        sizes = [integers(array, "sizes") for array in r.arrays(optional(inputs, 1), "sizes")]
    targets: list[tuple[int, ...]] = []
    for probe, (shape, wanted) in enumerate(zip(x.shapes, sizes, strict=True)):
        try:
            targets.append(reshaped(shape, wanted, zero))
        except Cannot:
            if probe:
                raise Varies(probe, cannot_say=False) from None
            raise
    return r.reshape(x, targets)


def _flatten(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    x, axis = given(inputs, 0), a.integer("axis", 1)
    axis = axis if axis == rank(x) else axis_of(x, axis)
    return r.reshape(x, [(math.prod(shape[:axis]), math.prod(shape[axis:])) for shape in x.shapes])


def _squeeze(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    x, where = given(inputs, 0), optional(inputs, 1)
    axes = axes_of(a, None if where is None else r.array(where, "axes"), rank(x))
    if axes is None:  # all that are 1, of the sizes that were asked for
        axes = tuple(axis for axis, size in enumerate(x.shapes[0]) if size == 1)
        _nothing_else(x.shapes, axes)
    targets = [squeezed(x.shapes[0], axes)]
    for probe, shape in enumerate(x.shapes[1:], 1):
        try:
            targets.append(squeezed(shape, axes))
        except Cannot:
            raise Varies(probe) from None
    return r.reshape(x, targets)


def _nothing_else(shapes: Sequence[Shape], axes: Sequence[int]) -> None:
    for probe, shape in enumerate(shapes):
        if any((size == 1) != (axis in axes) for axis, size in enumerate(shape)):
            raise Varies(probe)


def _unsqueeze(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    x, where = given(inputs, 0), optional(inputs, 1)
    array = None if where is None else r.array(where, "axes")
    count = len(a.ints("axes") or ()) if array is None else array.size
    axes = axes_of(a, array, rank(x) + count) or ()
    return r.reshape(x, [unsqueezed(shape, axes) for shape in x.shapes])


def _transpose(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    x = given(inputs, 0)
    return r.add(Transpose(a.ints("perm", rank(x)) or tuple(range(rank(x)))[::-1]), x)


def _concat(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    values = [given(inputs, i) for i in range(len(inputs))]
    values = [v for v in values if all(math.prod(shape) for shape in v.shapes)] or values
    return r.add(Concat(axis_of(given(values, 0), a.integer("axis", 1))), *values)


def _split(r: Reading, a: Attributes, inputs: Inputs) -> list[Value]:
    x, where = given(inputs, 0), optional(inputs, 1)
    axis = axis_of(x, a.integer("axis", 0))
    size = r.same([shape[axis] for shape in x.shapes])
    parts = a.ints("split") if where is None else integers(r.array(where, "the parts"), "the parts")
    count = a.integer("num_outputs", 0) or len(r.wanted)
    if parts is None:
        whole = ceil_div(size, count)
        parts = tuple(max(0, min(whole, size - i * whole)) for i in range(count))
    if sum(parts) != size or min(parts, default=0) < 0:
        raise Cannot(f"cuts {size} rows into {parts}")
    made: list[Value] = []
    start = 0
    for part in parts:
        if part:
            made.append(r.add(Slice(axis, start, start + part), x))
        else:  # of no rows: it may be joined to others
            made.append(Known(tuple(np.zeros((*shape[:axis], 0, *shape[axis + 1 :])) for shape in x.shapes)))
        start += part
    return made


def _slice(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    x: Value = given(inputs, 0)
    bounds = [optional(inputs, position) for position in range(1, 5)]
    known = [[None if b is None else r.arrays(b, "bounds")[probe] for b in bounds] for probe in range(len(x.shapes))]
    every = [slices(a, rank(x), *arrays) for arrays in known]
    for axis, _, _, _ in every[0]:
        cuts = []
        for probe, (shape, asked) in enumerate(zip(x.shapes, every, strict=True)):
            found = [cut for cut in asked if cut[0] == axis]
            if len(found) != 1:
                raise Varies(probe)
            _, start, stop, step = found[0]
            # Beyond either end is all of it, whatever the size; what counts from the end stays as it is.
            beyond = (stop >= shape[axis]) if step > 0 else (stop < -shape[axis])
            start = -1 if step < 0 and start >= shape[axis] - 1 else 0 if step > 0 and start < -shape[axis] else start
            cuts.append((start, (END if step > 0 else -END) if beyond else stop, step))
        start, stop, step = r.same(cuts)
        if (start, stop, step) != (0, END, 1):
            x = r.add(Slice(axis, start, stop, step), x)
    return x


def _gather(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    """Rows whose numbers are known: one, or a run of them, or a few."""
    x, indices = given(inputs, 0), r.array(optional(inputs, 1), "indices")
    axis = axis_of(x, a.integer("axis", 0))
    size = (
        r.same([shape[axis] for shape in x.shapes])
        if np.any(indices >= 0) and np.any(indices < 0)
        else x.shapes[0][axis]
    )
    if indices.dtype.kind not in "iu" or not indices.size:
        raise Cannot(f"takes indices of shape {indices.shape} and {indices.dtype}, and whole numbers are known")
    rows = [int(i) for i in indices.reshape(-1)]
    if any(not -size <= row < size for row in rows):
        raise Cannot(f"takes rows {rows} of {size}")
    run = _run(axis, rows)
    if run is not None:
        y = r.add(run, x)
    else:
        if len(rows) > _MOST_ROWS:
            raise Cannot(f"takes {len(rows)} rows in no order, and up to {_MOST_ROWS} are known")
        y = r.add(Concat(axis), *(r.add(_row(axis, row), x) for row in rows))
    return r.reshape(y, [(*shape[:axis], *indices.shape, *shape[axis + 1 :]) for shape in x.shapes])


_MOST_ROWS = 256


def _row(axis: int, row: int) -> Slice:
    return Slice(axis, row, row + 1 or END)


def _run(axis: int, rows: Sequence[int]) -> Slice | None:
    """Rows that follow each other at equal distances."""
    if len(rows) == 1:
        return _row(axis, rows[0])
    step = rows[1] - rows[0]
    if not step or any(after - before != step for before, after in pairwise(rows)):
        return None
    if (rows[0] < 0) != (rows[-1] < 0):
        return None
    end = rows[-1] + (1 if step > 0 else -1)
    if step > 0:
        return Slice(axis, rows[0], end or END, step)
    return Slice(axis, rows[0], -END if rows[-1] == 0 else end, step)


def _pad(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    x: Value = given(inputs, 0)
    mode, usual = a.text("mode", "constant"), a.number("value", 0.0)
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise Cannot(f"has the mode {mode!r}, which is not known")
    where, what = optional(inputs, 1), optional(inputs, 2)
    pads = (
        (a.ints("pads") or a.ints("paddings")) if where is None else integers(r.array(where, "pads"), "pads")
    )  # fmt: skip
    value = usual if what is None else float(r.array(what, "the value").item())
    along = optional(inputs, 3)
    axes = range(rank(x)) if along is None else axes_of(a, r.array(along, "axes"), rank(x)) or ()
    if pads is None or len(pads) != 2 * len(axes):
        raise Cannot(f"needs two numbers for each of {len(axes)} axes, not {pads}")
    sides = {axis: (pads[i], pads[len(axes) + i]) for i, axis in enumerate(axes)}
    for axis, (before, after) in sides.items():
        if before < 0 or after < 0:
            x = r.add(Slice(axis, max(0, -before), min(0, after) or END), x)
    more = tuple((max(0, sides.get(axis, (0, 0))[0]), max(0, sides.get(axis, (0, 0))[1])) for axis in range(rank(x)))
    return r.add(Pad(more, mode, value if mode == "constant" else 0.0), x) if any(map(any, more)) else x


def _expand(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    x = given(inputs, 0)
    sizes = [integers(array, "sizes") for array in r.arrays(optional(inputs, 1), "sizes")]
    shapes: list[Shape] = []
    for probe, (shape, wanted) in enumerate(zip(x.shapes, sizes, strict=True)):
        try:
            shapes.append(np.broadcast_shapes(shape, wanted))
        except ValueError:
            if probe:
                raise Varies(probe, cannot_say=False) from None
            raise Cannot(f"cannot broadcast {shape} to {wanted}") from None
    return _expanded(r, x, shapes)


def _expanded(r: Reading, x: Value, shapes: Sequence[Shape]) -> Value:
    """x repeated to these shapes, one a probe."""
    if all(shape == wanted for shape, wanted in zip(x.shapes, shapes, strict=True)):
        return x
    if isinstance(x, Known):
        return Known(tuple(np.broadcast_to(array, shape) for array, shape in zip(x.arrays, shapes, strict=True)))
    front = r.same([len(shape) for shape in shapes]) - rank(x)
    sizes = []
    for axis in range(front + rank(x)):
        own = [shape[axis - front] if axis >= front else 0 for shape in x.shapes]
        wanted = [shape[axis] for shape in shapes]
        sizes.append(1 if own == wanted else r.same(wanted))
    return r.add(Expand(tuple(sizes)), x)


def _tile(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    """Each axis beside a new one that is repeated, and both merged: (a, b) → (1, a, 1, b) → (r, a, s, b) → (ra, sb)."""
    x = given(inputs, 0)
    times = integers(r.array(optional(inputs, 1), "repeats"), "repeats")
    if len(times) != rank(x) or min(times, default=1) < 1:
        raise Cannot(f"repeats {x.shapes[0]} {times} times")
    apart = r.reshape(x, [tuple(n for size in shape for n in (1, size)) for shape in x.shapes])
    wide = [tuple(n for many, size in zip(times, shape, strict=True) for n in (many, size)) for shape in x.shapes]
    return r.reshape(
        _expanded(r, apart, wide), [tuple(m * n for m, n in zip(times, shape, strict=True)) for shape in x.shapes]
    )


def _through(r: Reading, x: Value, split: Any, order: Sequence[int], merged: Any) -> Value:
    """Axes split, put into another order, and merged again; `split` and `merged` of a shape (n, c, h, w)."""
    if rank(x) != 4:
        raise Cannot(f"takes images (N, C, H, W), not {x.shapes[0]}")
    for probe, (n, c, h, w) in enumerate(x.shapes):
        if math.prod(split(n, c, h, w)) != n * c * h * w:
            if probe:
                raise Varies(probe, cannot_say=False)
            raise Cannot(f"cannot split {(n, c, h, w)} into {split(n, c, h, w)}")
    apart = r.reshape(x, [split(*shape) for shape in x.shapes])
    return r.reshape(r.add(Transpose(tuple(order)), apart), [merged(*shape) for shape in x.shapes])


def _depth_to_space(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    b, mode = a.integer("blocksize", 0), a.text("mode", "DCR")
    if b < 1 or mode not in ("DCR", "CRD"):
        raise Cannot(f"has blocks of {b} in the order {mode!r}, which is not known")

    def merged(n: int, c: int, h: int, w: int) -> Shape:
        return n, c // b**2, h * b, w * b

    if mode == "DCR":
        return _through(r, given(inputs, 0), lambda n, c, h, w: (n, b, b, c // b**2, h, w), (0, 3, 4, 1, 5, 2), merged)
    return _through(r, given(inputs, 0), lambda n, c, h, w: (n, c // b**2, b, b, h, w), (0, 1, 4, 2, 5, 3), merged)


def _space_to_depth(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    b = a.integer("blocksize", 0)
    mode = a.text("mode", "DCR")
    if b < 1 or mode not in ("DCR", "CRD"):
        raise Cannot(f"has blocks of {b} in the order {mode!r}, which is not known")
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return _through(
        r, given(inputs, 0), lambda n, c, h, w: (n, c, h // b, b, w // b, b), order,
        lambda n, c, h, w: (n, c * b**2, h // b, w // b),
    )  # fmt: skip


def _resize(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    """From version 11 on; the one before, and `Upsample`, take scales and the simplest coordinates only."""
    x = given(inputs, 0)
    if a.opset < 11 or a.operator == "Upsample":
        scales = a.floats("scales") if len(inputs) < 2 else tuple(r.array(inputs[1], "scales").reshape(-1).tolist())
        return _resized(r, x, a.text("mode", "nearest"), "asymmetric", "floor", scales, None, None)
    mode, coordinates = a.text("mode", "nearest"), a.text("coordinate_transformation_mode", "half_pixel")
    rounding = a.text("nearest_mode", "round_prefer_floor")
    if a.flag("antialias", False):
        raise Cannot("smooths what it makes smaller (antialias=1), which is not known")
    policy = a.text("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        raise Cannot(f"keeps the aspect ratio ({policy!r}), which is not known")
    a.ignore("cubic_coeff_a", "exclude_outside", "extrapolation_value")  # of other modes and coordinates
    axes = a.ints("axes")
    sizes = optional(inputs, 3)
    if sizes is not None:
        wanted = [integers(array, "sizes") for array in r.arrays(sizes, "sizes")]
        return _resized(r, x, mode, coordinates, rounding, None, wanted, axes)
    factors = tuple(r.array(optional(inputs, 2), "scales").reshape(-1).tolist())
    return _resized(r, x, mode, coordinates, rounding, factors, None, axes)


def _resized(
    r: Reading,
    x: Value,
    mode: str,
    coordinates: str,
    rounding: str,
    scales: Sequence[float] | None,
    sizes: Sequence[Sequence[int]] | None,
    axes: Sequence[int] | None,
) -> Value:
    rows = _Rows(r, x)
    along = list(range(rank(x))) if axes is None else [axis_of(x, axis) for axis in axes]
    modes = {"nearest": "nearest", "linear": "bilinear", "bilinear": "bilinear"}
    if mode not in modes:
        raise Cannot(f"has the mode {mode!r}: known are nearest and linear")
    if coordinates not in ("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"):
        raise Cannot(f"has coordinates {coordinates!r}, which are not known")
    how: dict[str, Any] = {"mode": modes[mode], "coordinates": coordinates}
    if mode == "nearest":
        how["rounding"] = rounding
    if len(along) != len(scales if scales is not None else sizes[0] if sizes else ()):
        raise Cannot(f"needs a number for each of {len(along)} axes")
    if scales is not None:
        by_axis = dict(zip(along, (float(scale) for scale in scales), strict=True))
        if any(by_axis.get(axis, 1.0) != 1.0 for axis in (0, 1)) or not all(s > 0 and s < 2**31 for s in scales):
            raise Cannot(f"has the scales {tuple(scales)}, and only height and width can change")
        pair = (by_axis.get(2, 1.0), by_axis.get(3, 1.0)) if not rows.rows else (1.0, by_axis.get(2, 1.0))
        return rows.back(r.add(Resize(scales=pair, **how), rows.x))
    asked = [dict(zip(along, wanted, strict=True)) for wanted in sizes or ()]
    targets: list[Pair] = []
    for probe, (by, shape) in enumerate(zip(asked, x.shapes, strict=True)):
        if any(by.get(axis, shape[axis]) != shape[axis] for axis in (0, 1)):
            if probe:
                raise Varies(probe)
            raise Cannot(f"makes sizes {by} of {shape}, and only height and width can change")
        full = [by.get(axis, shape[axis]) for axis in range(2, rank(x))]
        targets.append((1, full[0]) if rows.rows else (full[0], full[1]))
    if all(target == targets[0] for target in targets):
        return rows.back(r.add(Resize(size=targets[0], **how), rows.x))
    # Another size for another input: a whole multiple of it, or the size of another image of the network.
    ratios = [(t[0] / shape[2], t[1] / shape[3]) for t, shape in zip(targets, rows.x.shapes, strict=True)]
    if all(ratio == ratios[0] for ratio in ratios) and all(q >= 1 and q == int(q) for q in ratios[0]):
        return rows.back(r.add(Resize(scales=ratios[0], **how), rows.x))
    like = r.image_of(targets)
    if like is not None and not rows.rows:
        return r.add(Resize(like=True, **how), rows.x, like)
    return rows.back(r.add(Resize(size=r.same(targets), **how), rows.x))


OPERATORS: dict[str, Converter] = {
    "Abs": _function("abs"),
    "Add": _binary("add"),
    "AveragePool": _pool("average"),
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _function("ceil"),
    "Celu": _celu,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Cos": _function("cos"),
    "DepthToSpace": _depth_to_space,
    "Div": _binary("div"),
    "Dropout": _dropout,
    "Elu": _function("elu", ("alpha", 1.0)),
    "Erf": _function("erf"),
    "Exp": _function("exp"),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _function("floor"),
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global("mean"),
    "GlobalMaxPool": _global("max"),
    "GroupNormalization": _group_norm,
    "HardSigmoid": _function("hardsigmoid", ("alpha", 0.2), ("beta", 0.5)),
    "HardSwish": _function("hardswish"),
    "Identity": _same,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _function("leaky_relu", ("alpha", 0.01)),
    "Log": _function("log"),
    "LogSoftmax": _softmax(log=True),
    "LpNormalization": _lp_norm,
    "MatMul": _matmul,
    "Max": _chain("max"),
    "MaxPool": _pool("max"),
    "Mean": _mean,
    "Min": _chain("min"),
    "Mish": _function("mish"),
    "Mul": _binary("mul"),
    "Neg": _function("neg"),
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": _binary("pow"),
    "RMSNormalization": _rms_norm,
    "Reciprocal": _function("reciprocal"),
    "ReduceL1": _reduce("sum", before="abs"),
    "ReduceL2": _reduce("sum", before="square", after="sqrt"),
    "ReduceLogSum": _reduce("sum", after="log"),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _reduce("max"),
    "ReduceMean": _reduce("mean"),
    "ReduceMin": _reduce("min"),
    "ReduceProd": _reduce("prod"),
    "ReduceSum": _reduce("sum"),
    "ReduceSumSquare": _reduce("sum", before="square"),
    "Relu": _function("relu"),
    "Reshape": _reshape,
    "Resize": _resize,
    "Round": _function("round"),
    "Selu": _selu,
    "Sigmoid": _function("sigmoid"),
    "Sign": _function("sign"),
    "Sin": _function("sin"),
    "Slice": _slice,
    "Softmax": _softmax(log=False),
    "Softplus": _function("softplus"),
    "Softsign": _function("softsign"),
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Sqrt": _function("sqrt"),
    "Squeeze": _squeeze,
    "Sub": _binary("sub"),
    "Sum": _chain("add"),
    "Swish": _swish,
    "Tanh": _function("tanh"),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Upsample": _resize,
    "Where": _where,
}
