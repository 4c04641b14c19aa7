"""Pooling, reductions, and softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ....spec import kernel_extent
from ...nodes import Binary, Pad, Pooling, PoolingPlaces, Reduce, Shape, Slice, Softmax, Unary, Unpooling
from ..attributes import Attributes, Cannot, integers
from ..folding import axes_of
from ..values import Made, Value, Varies
from .common import Converter, Inputs, axis_of, given, optional, rank
from .windows import Rows, window_sides

if TYPE_CHECKING:
    from ..reading import Reading


def _pool(kind: str) -> Converter:
    def convert(r: Reading, a: Attributes, inputs: Inputs) -> Value | list[Value]:
        if kind == "average" and rank(given(inputs, 0)) == 5:
            return _of_neighbours(r, a, given(inputs, 0))
        rows = Rows(r, given(inputs, 0))
        shape = a.ints("kernel_shape", rows.axes)
        if shape is None:
            raise Cannot("does not say how large its windows are")
        columns_first = a.flag("storage_order", False)  # of the second output
        kernel, stride = rows.pair(shape, 1), rows.pair(a.ints("strides", rows.axes), 1)
        dilation = rows.pair(a.ints("dilations", rows.axes), 1)
        if min(*kernel, *stride, *dilation) < 1:
            raise Cannot(
                f"has windows of {kernel} with stride {stride} and dilation {dilation}: all must be at least 1"
            )
        counting = kind == "average" and a.flag("count_include_pad", False)
        extents = [kernel_extent(kernel[axis], dilation[axis]) for axis in (0, 1)]
        # Windows of two that pad to ⌈H / stride⌉ have nothing before and at most one row behind, whatever the size:
        # that is where rounding up begins the last window.
        small = a.text("auto_pad", "") == "SAME_UPPER" and not counting
        by_ceil = [axis for axis in (0, 1) if small and stride[axis] > 1 and extents[axis] <= 2]
        sides = window_sides(a, rows, kernel, stride, dilation, by_rule=False, by_ceil=by_ceil)
        assert not isinstance(sides, str)
        if min(min(pair) for pair in sides) < 0:
            raise Cannot(f"has padding of {sides}, and none may be below 0")
        for axis in (0, 1):
            if max(sides[axis]) >= extents[axis]:
                raise Cannot(
                    f"has padding of {max(sides[axis])} for windows of {extents[axis]}, some of which see nothing else"
                )
        ceil = a.flag("ceil_mode", False) or bool(by_ceil)
        pooling = Pooling(kind, kernel, stride, sides, dilation, counting, ceil)
        pooled = rows.back(r.add(pooling, rows.x))
        if len(r.wanted) < 2 or not r.wanted[1]:
            return pooled
        return [pooled, rows.back(r.add(PoolingPlaces(pooling, _counts_all(r), columns_first), rows.x))]

    return convert


def _counts_all(r: Reading) -> bool:
    """Whether the places of the node in hand must be ONNX's, which count all pixels of all images: numbers that are
    soon too large to be exact. To put pixels back, their places in their own image will do."""
    place, nodes = r.wanted[1], r.file.nodes
    readers = [node.op_type for node in nodes if place in node.input]
    unseen = any(node.op_type == "If" for node in nodes)
    return place in r.file.outputs or unseen or not readers or set(readers) != {"MaxUnpool"}


def _unpool(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    """Places are those of the image that was pooled, where the network has it in the size that is asked for; else of
    the smallest image that pools to x, behind which zeros stand."""
    x, places = given(inputs, 0), given(inputs, 1)
    rows = Rows(r, x)
    shape = a.ints("kernel_shape", rows.axes)
    if shape is None:
        raise Cannot("does not say how large its windows are")
    kernel, stride = rows.pair(shape, 1), rows.pair(a.ints("strides", rows.axes), 1)
    sides = rows.sides(a.ints("pads", 2 * rows.axes) or (0,) * 2 * rows.axes)
    least = [tuple((s[2 + i] - 1) * stride[i] - sum(sides[i]) + kernel[i] for i in (0, 1)) for s in rows.x.shapes]
    pooled = _pooled_sizes(r, places)
    if optional(inputs, 2) is None:
        if pooled not in (None, least):
            (h, w), (high, wide) = least[0], (pooled or least)[0]
            raise Cannot(f"makes {h}×{w} pixels of those of an image of {high}×{wide}: it needs an output_shape")
        return rows.back(_unpooled(r, rows, places, least))
    asked = [integers(array, "sizes") for array in r.arrays(optional(inputs, 2), "sizes")]
    for probe, (size, s) in enumerate(zip(asked, x.shapes, strict=True)):
        if len(size) != len(s) or size[:2] != s[:2]:
            if probe:
                raise Varies(probe)
            raise Cannot(f"makes {size} of {s}, and only height and width can change")
    wanted = [rows.pair(size[-rows.axes :], 1) for size in asked]
    if pooled == wanted:
        return rows.back(_unpooled(r, rows, places, wanted))
    more = r.same([(w[0] - s[0], w[1] - s[1]) for w, s in zip(wanted, least, strict=True)])
    if min(more) < 0:
        raise Cannot(f"makes {wanted[0]} pixels of those of {least[0]}")
    border = Pad(((0, 0), (0, 0), (0, more[0]), (0, more[1])))
    return rows.back(r.add(border, _unpooled(r, rows, places, least)))


def _pooled_sizes(r: Reading, places: Value) -> list[Shape] | None:
    """Of the images that these places are of, for each probe."""
    for node in r.nodes:
        if isinstance(places, Made) and node.output == places.name and isinstance(node.operation, PoolingPlaces):
            for value in r.values.values():
                if isinstance(value, Made) and value.name == node.inputs[0]:
                    return [shape[2:] for shape in value.shapes]
    return None


def _unpooled(r: Reading, rows: Rows, places: Value, sizes: Sequence[Shape]) -> Value:
    like = r.image_of(sizes) if any(size != sizes[0] for size in sizes) else None
    if like is not None:
        return r.add(Unpooling(like=True), rows.x, rows.image(places), like)
    height, width = r.same(sizes)
    return r.add(Unpooling((height, width)), rows.x, rows.image(places))


def _of_neighbours(r: Reading, a: Attributes, x: Value) -> Value:
    """Means along the first of three axes, one number further each time: how torch writes a local response norm."""
    kernel, count = a.ints("kernel_shape", 3) or (), x.shapes[0][2]
    a.ignore("count_include_pad")  # there is no padding
    plain = {"strides": (1, 1, 1), "dilations": (1, 1, 1), "pads": (0,) * 6}
    usual = all((a.ints(name) or value) == value for name, value in plain.items())
    usual &= a.text("auto_pad", "NOTSET") in ("NOTSET", "VALID", "") and not a.flag("ceil_mode", False)
    if not usual or kernel[1:] != (1, 1) or not 1 <= kernel[0] <= count:
        raise Cannot("is over 3 axes, and known are images (N, C, H, W) and rows (N, C, L)")
    count = r.same([shape[2] for shape in x.shapes]) - kernel[0] + 1
    total, *others = (r.add(Slice(2, first, first + count), x) for first in range(kernel[0]))
    for other in others:
        total = r.add(Binary("add"), total, other)
    return r.add(Binary("mul"), total, r.constant(1 / kernel[0]))


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


OPERATORS: dict[str, Converter] = {
    "AveragePool": _pool("average"),
    "GlobalAveragePool": _global("mean"),
    "GlobalMaxPool": _global("max"),
    "LogSoftmax": _softmax(log=True),
    "MaxPool": _pool("max"),
    "MaxUnpool": _unpool,
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
    "Softmax": _softmax(log=False),
}
