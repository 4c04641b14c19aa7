"""PyTorch's operators as nodes: one function an operator, found by its name.

`CONVERTERS["relu"]` takes a `Builder` and the operator's arguments by the names of its schema, in which tensors are
`Value`s, and returns the value that it makes, or several. Nothing here needs torch itself. What an operator asks for
that the nodes do not have raises `Cannot`, the end of a sentence that begins with the operator's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..spec import Conv2dSpec, Pair, SpecError
from .nodes import (
    END,
    AdaptivePooling,
    Axes,
    BatchNorm,
    Binary,
    Compare,
    Concat,
    Convolution,
    Expand,
    GroupNorm,
    LayerNorm,
    Linear,
    MatMul,
    Node,
    Operation,
    Pad,
    Pooling,
    PRelu,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Take,
    Transpose,
    TransposedConvolution,
    Unary,
    Where,
)


class Cannot(Exception):
    """Why an operator has no node: the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class Value:
    """What stands for a tensor: the name of a value of the graph, and its sizes, which are integers or, where they
    may change from call to call, torch's symbols."""

    name: str
    sizes: tuple[Any, ...]

    @property
    def rank(self) -> int:
        return len(self.sizes)


Arguments: TypeAlias = dict[str, Any]
Converter: TypeAlias = Callable[["Builder", Arguments], Any]


@dataclass
class Builder:
    """Nodes and constants as they come. `about` is the name of what is being converted; the last value it makes gets
    that name, others get it with a number behind."""

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    about: str = ""
    _numbers: int = 0

    def add(self, operation: Operation, *inputs: Value | str) -> str:
        """A node, and the name of what it makes."""
        self._numbers += 1
        output = f"{self.about}.{self._numbers}"
        self.nodes.append(Node(operation, tuple(i if isinstance(i, str) else i.name for i in inputs), output))
        return output

    def constant(self, array: Any) -> str:
        """A number or an array that the network contains, without a parameter of the model behind it."""
        self._numbers += 1
        name = f"{self.about}.{self._numbers}"
        self.constants[name] = np.asarray(array)
        return name

    def operand(self, x: Value | float | str) -> str:
        """A tensor or a number as a value."""
        if isinstance(x, Value):
            return x.name
        if isinstance(x, str):
            return x
        if isinstance(x, bool | int | float):
            return self.constant(float(x))
        raise Cannot(f"takes a number that depends on the input's size, {x}")


# ---------------------------------------------------------------------------------------------------------------------
# Reading arguments
# ---------------------------------------------------------------------------------------------------------------------


def pair(value: Any, usual: Pair | None = None) -> Pair:
    """torch's integer or list of one or two, as (vertical, horizontal); an empty list is `usual`."""
    items = [value] if isinstance(value, int) else list(value)
    if not items and usual is not None:
        return usual
    if len(items) == 1:
        items = items * 2
    if len(items) != 2:
        raise Cannot(f"is over {len(items)} axes, and only two-dimensional ones are known")
    return known(items[0]), known(items[1])


def known(size: Any) -> int:
    """An integer; raises `Cannot` where it depends on the input's size."""
    if isinstance(size, bool) or not isinstance(size, int):
        raise Cannot(f"takes a number that depends on the input's size, {size}")
    return size


def axis_of(x: Value, axis: int) -> int:
    """Counted from the front."""
    return axis % x.rank if x.rank else 0


def images(x: Value) -> Value:
    if x.rank != 4:
        raise Cannot(f"takes images of shape (N, C, H, W), not {x.rank} axes")
    return x


def same(a: Any, b: Any) -> bool:
    """Whether two sizes are the same whatever the input's size, without asking torch to assume that they are."""
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int) and a == b
    return bool(a.node.expr == b.node.expr)


# ---------------------------------------------------------------------------------------------------------------------
# Shapes
# ---------------------------------------------------------------------------------------------------------------------


def reshaped(b: Builder, x: Value, sizes: Sequence[Any]) -> str:
    """A reshape that means the same for other batch and image sizes: see `reshape_sizes`."""
    return b.add(Reshape(reshape_sizes(x.sizes, sizes)), x)


def reshape_sizes(before: Sequence[Any], after: Sequence[Any]) -> tuple[int | Axes, ...]:
    """Sizes for `Reshape`. Axes are taken together until their products agree; within such a group at most one size
    depends on the input, and it is the group's product divided by the others.

    >>> reshape_sizes((2, 8, 7, 7), (2, 392)), reshape_sizes((6, 4), (2, 3, 2, 2))
    ((2, 392), (2, 3, 2, 2))
    """
    result: list[int | Axes] = []
    i = j = 0
    while j < len(after):
        first, start = i, j
        taken, made = (before[i] if i < len(before) else 1), after[j]
        i, j = i + 1, j + 1
        while not same(taken, made):
            # Without a symbol on both sides, the smaller one grows; symbols grow together with what they stand beside.
            grow_before = j >= len(after) or (i < len(before) and _smaller(taken, made))
            if grow_before and i < len(before):
                taken, i = taken * before[i], i + 1
            elif j < len(after):
                made, j = made * after[j], j + 1
            else:
                raise Cannot(f"makes the sizes {tuple(after)} of {tuple(before)} in a way that is not understood")
        result += _group(first, min(i, len(before)), after[start:j], start)
    return tuple(result)


def _smaller(a: Any, b: Any) -> bool:
    return _hint(a) < _hint(b)


def _hint(size: Any) -> int:
    """The size that a symbol had in the example."""
    return size if isinstance(size, int) else int(size.node.hint)


def _group(first: int, stop: int, sizes: Sequence[Any], at: int) -> list[int | Axes]:
    open_ones = [size for size in sizes if not isinstance(size, int)]
    if len(open_ones) > 1:
        raise Cannot(f"splits an axis into {tuple(sizes)}, of which several depend on the input's size")
    over = math.prod(size for size in sizes if isinstance(size, int))
    kept = len(sizes) == 1 and first == at and stop == first + 1
    return [size if isinstance(size, int) else 0 if kept else Axes(first, stop, over) for size in sizes]


def _view(b: Builder, a: Arguments) -> Any:
    return reshaped(b, a["self"], a["result"].sizes)


def _transpose(b: Builder, x: Value, order: Sequence[int]) -> Any:
    return b.add(Transpose(tuple(order)), x)


def _swap(b: Builder, a: Arguments) -> Any:
    x = a["self"]
    order = list(range(x.rank))
    one, other = axis_of(x, a["dim0"]), axis_of(x, a["dim1"])
    order[one], order[other] = order[other], order[one]
    return _transpose(b, x, order)


def _permute(b: Builder, a: Arguments) -> Any:
    return _transpose(b, a["self"], [axis_of(a["self"], axis) for axis in a["dims"]])


def _movedim(b: Builder, a: Arguments) -> Any:
    x, one = a["self"], isinstance(a["source"], int)
    source = [axis_of(x, s) for s in ([a["source"]] if one else a["source"])]
    target = [axis_of(x, t) for t in ([a["destination"]] if one else a["destination"])]
    rest = iter(axis for axis in range(x.rank) if axis not in source)
    return _transpose(b, x, [source[target.index(i)] if i in target else next(rest) for i in range(x.rank)])


def _t(b: Builder, a: Arguments) -> Any:
    return _transpose(b, a["self"], range(a["self"].rank)[::-1])


def _matrices_turned(b: Builder, a: Arguments) -> Any:
    return _swap(b, a | {"dim0": -2, "dim1": -1})


def _expand(b: Builder, a: Arguments) -> Any:
    x, sizes = a["self"], a["result"].sizes
    before = (1,) * (len(sizes) - x.rank) + x.sizes
    wanted = [1 if same(old, new) else known(new) for old, new in zip(before, sizes, strict=True)]
    return b.add(Expand(tuple(wanted)), x)


def _repeat(b: Builder, a: Arguments) -> Any:
    x, times = a["self"], [known(t) for t in a["repeats"]]
    name = x.name
    if len(times) > x.rank:
        name = reshaped(b, x, (1,) * (len(times) - x.rank) + x.sizes)
    for axis, many in enumerate(times):
        if many != 1:
            name = b.add(Concat(axis), *[name] * many)
    return name


def _slice(b: Builder, a: Arguments) -> Any:
    start, stop = a["start"], a["end"]
    x = a["self"]
    axis = axis_of(x, a["dim"])
    if stop is not None and not isinstance(stop, int) and same(stop, x.sizes[axis]):
        stop = None  # to the end, whatever that is
    start = 0 if start is None else known(start)
    return b.add(Slice(axis, start, END if stop is None else known(stop), known(a["step"])), x)


def _narrow(b: Builder, a: Arguments) -> Any:
    start = known(a["start"])
    return b.add(Slice(axis_of(a["self"], a["dim"]), start, start + known(a["length"])), a["self"])


def _select(b: Builder, a: Arguments) -> Any:
    x, index = a["self"], known(a["index"])
    return _row(b, x, axis_of(x, a["dim"]), index)


def _row(b: Builder, x: Value, axis: int, index: int) -> str:
    """One position along an axis, which goes."""
    row = b.add(Slice(axis, index, index + 1 or END), x)
    return reshaped(b, Value(row, (*x.sizes[:axis], 1, *x.sizes[axis + 1 :])), (*x.sizes[:axis], *x.sizes[axis + 1 :]))


def _index(b: Builder, a: Arguments) -> Any:
    """x[:, rows, columns]: axes side by side, by whole numbers or masks that are the same at every call."""
    x, given = a["self"], [(axis, rows) for axis, rows in enumerate(a["indices"]) if rows is not None]
    first = given[0][0]
    behind = first + len(given)
    if [axis for axis, _ in given] != list(range(first, behind)):
        raise Cannot("along axes that do not lie side by side is not known")
    if any(rows.name not in b.constants for _, rows in given):
        raise Cannot("by numbers that depend on the input is not known")
    arrays = [_rows(b.constants[rows.name]) for _, rows in given]
    grid = np.broadcast_shapes(*(array.shape for array in arrays))
    before, after = x.sizes[:first], x.sizes[behind:]
    if _is_outer(arrays, len(grid)):  # one axis after the other
        name = x.name
        for n, array in enumerate(arrays):
            name = b.add(Take(first + n), name, b.constant(array.reshape(-1)))
        taken = Value(name, (*before, *(array.size for array in arrays), *after))
        return reshaped(b, taken, (*before, *grid, *after))
    sizes = [known(size) for size in x.sizes[first:behind]]
    rows = [np.broadcast_to(array, grid) % size for array, size in zip(arrays, sizes, strict=True)]
    merged = reshaped(b, x, (*before, math.prod(sizes), *after))
    return b.add(Take(first), merged, b.constant(np.ravel_multi_index(tuple(rows), tuple(sizes))))


def _rows(given: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers, of a mask those that it takes."""
    if given.dtype != bool:
        return given.astype(np.int64)
    if given.ndim != 1:
        raise Cannot("by a mask of several axes is not known")
    return np.flatnonzero(given)


def _is_outer(arrays: Sequence[NDArray[Any]], rank: int) -> bool:
    """Whether each array varies along axes of its own, behind those of the one before."""
    along = [rank - array.ndim + axis for array in arrays for axis, size in enumerate(array.shape) if size != 1]
    return all(one < other for one, other in pairwise(along))


def _index_select(b: Builder, a: Arguments) -> Any:
    x = a["self"]
    return _index(b, a | {"indices": [None] * axis_of(x, a["dim"]) + [a["index"]]})


def _split(b: Builder, a: Arguments) -> Any:
    x = a["self"]
    axis, starts = axis_of(x, a["dim"]), 0
    parts = []
    for part in a["result"]:  # sizes as torch has worked them out: split, split_with_sizes, chunk
        stop = starts + known(part.sizes[axis])
        parts.append(b.add(Slice(axis, starts, stop), x))
        starts = stop
    return parts


def _unbind(b: Builder, a: Arguments) -> Any:
    x = a["self"]
    return [_row(b, x, axis_of(x, a["dim"]), i) for i in range(len(a["result"]))]


def _cat(b: Builder, a: Arguments) -> Any:
    tensors = [t for t in a["tensors"] if t.sizes != (0,)]  # torch leaves empty ones out
    return b.add(Concat(axis_of(tensors[0], a["dim"])), *tensors)


def _stack(b: Builder, a: Arguments) -> Any:
    tensors, axis = a["tensors"], a["dim"] % (a["tensors"][0].rank + 1)
    return b.add(Concat(axis), *(reshaped(b, t, (*t.sizes[:axis], 1, *t.sizes[axis:])) for t in tensors))


def _roll(b: Builder, a: Arguments) -> Any:
    x, name = a["self"], a["self"].name
    if not a["dims"]:
        raise Cannot("without axes is not known")
    for shift, dim in zip(a["shifts"], a["dims"], strict=True):
        axis = axis_of(x, dim)
        steps = known(shift) % known(x.sizes[axis])
        if steps:
            name = b.add(Concat(axis), b.add(Slice(axis, -steps), name), b.add(Slice(axis, 0, -steps), name))
    return name


def _flip(b: Builder, a: Arguments) -> Any:
    name = a["self"].name
    for dim in a["dims"]:
        name = b.add(Slice(axis_of(a["self"], dim), -1, -END, -1), name)
    return name


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _padded(b: Builder, x: Value, sides: Sequence[Any], mode: str, value: float) -> str:
    """torch's sides: two numbers an axis, the last axis first; negative ones cut off."""
    pads = [(0, 0)] * x.rank
    for i in range(len(sides) // 2):
        pads[x.rank - 1 - i] = (known(sides[2 * i]), known(sides[2 * i + 1]))
    if x.rank == 3 and mode != "constant" and not any(map(any, pads[:2])):
        return _row_of(b, _padded(b, _as_row(b, x), sides, mode, value))
    name = x.name
    for axis, (before, after) in enumerate(pads):
        if before < 0 or after < 0:
            name = b.add(Slice(axis, max(0, -before), min(0, after) or END), name)
    return b.add(Pad(tuple((max(0, p), max(0, q)) for p, q in pads), _PAD_MODES[mode], value), name)


def _pad(b: Builder, a: Arguments) -> Any:
    return _padded(b, a["self"], a["pad"], a["mode"], float(a["value"] or 0.0))


def _mode_pad(mode: str) -> Converter:
    return lambda b, a: _padded(b, a["self"], a["padding"], mode, 0.0)


def _pixel_shuffle(b: Builder, a: Arguments) -> Any:
    x, r = images(a["self"]), known(a["upscale_factor"])
    n, c, h, w = x.sizes
    return _through(b, x, (n, c // (r * r), r, r, h, w), (0, 1, 4, 2, 5, 3), a["result"].sizes)


def _pixel_unshuffle(b: Builder, a: Arguments) -> Any:
    x, r = images(a["self"]), known(a["downscale_factor"])
    n, c, h, w = x.sizes
    return _through(b, x, (n, c, h // r, r, w // r, r), (0, 1, 3, 5, 2, 4), a["result"].sizes)


def _channel_shuffle(b: Builder, a: Arguments) -> Any:
    x, groups = images(a["self"]), known(a["groups"])
    n, c, h, w = x.sizes
    return _through(b, x, (n, groups, c // groups, h, w), (0, 2, 1, 3, 4), x.sizes)


def _through(b: Builder, x: Value, split: Sequence[Any], order: Sequence[int], merged: Sequence[Any]) -> str:
    """Axes split, put into another order, and merged again."""
    apart = Value(reshaped(b, x, split), tuple(split))
    turned = Value(_transpose(b, apart, order), tuple(split[axis] for axis in order))
    return reshaped(b, turned, merged)


# ---------------------------------------------------------------------------------------------------------------------
# Products
# ---------------------------------------------------------------------------------------------------------------------


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


def _as_row(b: Builder, x: Value) -> Value:
    """(N, C, L) as images of one row, (N, C, 1, L)."""
    return Value(b.add(Reshape((0, 0, 1, Axes(2, 3))), x), (*x.sizes[:2], 1, x.sizes[2]))


def _row_of(b: Builder, image: str) -> str:
    return b.add(Reshape((0, 0, Axes(3, 4))), image)


def _convolution(b: Builder, a: Arguments) -> Any:
    x, w, bias = a["input"], a["weight"], a.get("bias")
    stride, padding, dilation = a["stride"], a["padding"], a["dilation"]
    given = [t for t in (w, bias) if t is not None]
    if w.rank == 3:
        sides = padding if isinstance(padding, str) else [0, *padding]
        kernel = _as_row(b, w)
        spec = _spec(kernel, [1, *stride], sides, [1, *dilation], a["groups"])
        return _row_of(b, b.add(Convolution(spec, bias is not None), _as_row(b, x), kernel, *given[1:]))
    return b.add(Convolution(_spec(w, stride, padding, dilation, a["groups"]), bias is not None), images(x), *given)


def _transposed(b: Builder, a: Arguments) -> Any:
    x, w, bias = a["input"], a["weight"], a["bias"]
    if w.rank == 3:
        padded = {"stride": [1, *a["stride"]], "padding": [0, *a["padding"]], "dilation": [1, *a["dilation"]]}
        padded |= {"output_padding": [0, *a["output_padding"]]}
        return _row_of(b, _transposed(b, a | padded | {"input": _as_row(b, x), "weight": _as_row(b, w)}))
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


# ---------------------------------------------------------------------------------------------------------------------
# Norms
# ---------------------------------------------------------------------------------------------------------------------


def _affine(b: Builder, a: Arguments, sizes: Sequence[Any]) -> list[Value | str]:
    """Scale and shift; ones and zeros where the norm has none."""
    shape = [known(size) for size in sizes]
    given = (a["weight"], np.ones), (a["bias"], np.zeros)
    return [b.constant(usual(shape, np.float32)) if value is None else value for value, usual in given]


def _batch_norm(b: Builder, a: Arguments) -> Any:
    if a["training"] and a["running_mean"] is not None:
        raise Cannot("in training mode changes its statistics: call eval() first")
    x, channels = a["input"], a["input"].sizes[1:2]
    scale, shift = _affine(b, a, channels)
    if a["running_mean"] is not None:
        return b.add(BatchNorm(a["eps"]), x, scale, shift, a["running_mean"], a["running_var"])
    axes = tuple(axis for axis in range(x.rank) if axis != 1)
    mean = b.add(Reduce("mean", axes), x)
    centred = b.add(Binary("sub"), x, mean)
    variance = b.add(Reduce("mean", axes), b.add(Unary("square"), centred))
    flat = Reshape((-1,))
    return b.add(BatchNorm(a["eps"]), x, scale, shift, b.add(flat, mean), b.add(flat, variance))


def _layer_norm(b: Builder, a: Arguments) -> Any:
    sizes = a["normalized_shape"]
    return b.add(LayerNorm(len(sizes), a["eps"]), a["input"], *_affine(b, a, sizes))


def _rms_norm(b: Builder, a: Arguments) -> Any:
    """x / √(mean of x² + eps) · weight, over the last axes."""
    x, axes = a["input"], tuple(range(-len(a["normalized_shape"]), 0))
    eps = a["usual_eps"] if a["eps"] is None else a["eps"]
    mean = b.add(Reduce("mean", axes), b.add(Unary("square"), x))
    scale = b.add(Unary("rsqrt"), b.add(Binary("add"), mean, b.operand(eps)))
    normalised = b.add(Binary("mul"), x, scale)
    return normalised if a["weight"] is None else b.add(Binary("mul"), normalised, a["weight"])


def _group_norm(b: Builder, a: Arguments) -> Any:
    x = a["input"]
    return b.add(GroupNorm(known(a["num_groups"]), a["eps"]), x, *_affine(b, a, x.sizes[1:2]))


def _instance_norm(b: Builder, a: Arguments) -> Any:
    if not a["use_input_stats"]:
        return _batch_norm(b, a | {"training": False})
    return _group_norm(b, a | {"num_groups": a["input"].sizes[1]})


# ---------------------------------------------------------------------------------------------------------------------
# Pooling and reductions
# ---------------------------------------------------------------------------------------------------------------------


def _pooling(kind: str) -> Converter:
    def convert(b: Builder, a: Arguments) -> Any:
        x, kernel = images(a["self"]), pair(a["kernel_size"])
        top, left = pair(a["padding"])
        pool = Pooling(
            kind,
            kernel,
            pair(a["stride"], usual=kernel),
            ((top, top), (left, left)),
            pair(a.get("dilation", 1)),
            a.get("count_include_pad", True),
            a["ceil_mode"],
        )
        divisor = a.get("divisor_override")
        if divisor is None:
            return b.add(pool, x)
        if pool.ceil:
            raise Cannot("with a divisor and rounded-up sizes is not known")
        counted = Pooling(pool.kind, pool.kernel, pool.stride, pool.pads, count_padding=True)
        return b.add(Binary("mul"), b.add(counted, x), b.operand(kernel[0] * kernel[1] / divisor))

    return convert


def _largest_of_rows(b: Builder, a: Arguments) -> Any:
    x, kernel = a["self"], list(a["kernel_size"])
    if x.rank != 3:
        raise Cannot(f"takes rows of shape (N, C, L), not {x.rank} axes")
    asked: dict[str, Any] = {
        "kernel_size": [1, *kernel],
        "stride": [1, *(a["stride"] or kernel)],
        "padding": [0, *a["padding"]],
    }
    asked |= {"dilation": [1, *a["dilation"]], "self": _as_row(b, x)}
    return _row_of(b, _pooling("max")(b, a | asked))


def _average_of_neighbours(b: Builder, a: Arguments) -> Any:
    """`avg_pool3d` along one axis, one number further each time: the means that `local_response_norm` takes."""
    x, kernel = a["self"], [known(k) for k in a["kernel_size"]]
    usual = {"stride": [1, 1, 1], "padding": [0, 0, 0]}
    if x.rank != 5 or kernel[1:] != [1, 1] or any(list(a[name]) != value for name, value in usual.items()):
        raise Cannot("is over three axes, and only two-dimensional ones are known")
    count = known(x.sizes[2]) - kernel[0] + 1
    total, *others = (b.add(Slice(2, first, first + count), x) for first in range(kernel[0]))
    for other in others:
        total = b.add(Binary("add"), total, other)
    return b.add(Binary("mul"), total, b.operand(1 / kernel[0]))


def _adaptive(kind: str) -> Converter:
    def convert(b: Builder, a: Arguments) -> Any:
        x = images(a["self"])
        asked = [a["output_size"]] if isinstance(a["output_size"], int) else list(a["output_size"])
        size = pair(asked)
        if size == (1, 1):
            return b.add(Reduce("mean" if kind == "average" else "max", (2, 3)), x)
        if all(same(*sizes) for sizes in zip(size, x.sizes[2:], strict=True)):
            return x.name
        return b.add(AdaptivePooling(kind, size), x)

    return convert


def _reduce(kind: str) -> Converter:
    def convert(b: Builder, a: Arguments) -> Any:
        x, dims = a["self"], a.get("dim")
        dims = [dims] if isinstance(dims, int) else list(dims or range(x.rank))
        axes = tuple(sorted(axis_of(x, axis) for axis in dims))
        return b.add(Reduce(kind, axes, bool(a.get("keepdim", False))), x)

    return convert


def _largest(kind: str) -> Converter:
    """`max` and `min`: of two tensors, of all numbers, or along an axis, with indices that have no node."""
    reduce, binary = _reduce(kind), _binary(kind)
    return lambda b, a: binary(b, a) if "other" in a else [reduce(b, a), None] if "dim" in a else reduce(b, a)


def _variance(b: Builder, a: Arguments) -> Any:
    x = a["self"]
    axes = tuple(sorted(axis_of(x, axis) for axis in (a.get("dim") or range(x.rank))))
    count = math.prod(x.sizes[axis] for axis in axes)
    correction = a.get("correction", int(a.get("unbiased", True)))
    correction = 1 if correction is None else correction
    centred = b.add(Binary("sub"), x, b.add(Reduce("mean", axes), x))
    variance = b.add(Reduce("mean", axes, a.get("keepdim", False)), b.add(Unary("square"), centred))
    if correction:
        variance = b.add(Binary("mul"), variance, b.operand(known(count) / (known(count) - correction)))
    return variance


def _var_mean(b: Builder, a: Arguments) -> Any:
    return [_variance(b, a), _reduce("mean")(b, a)]


def _norm(b: Builder, a: Arguments) -> Any:
    order, reduce = a.get("ord", a.get("p", 2)), _reduce("sum")
    order = 2 if order is None else order
    if order == 1:
        return reduce(b, a | {"self": _made(a, b.add(Unary("abs"), a["self"]))})
    if order != 2:
        raise Cannot(f"of order {order} is not known")
    return b.add(Unary("sqrt"), reduce(b, a | {"self": _made(a, b.add(Unary("square"), a["self"]))}))


def _made(a: Arguments, name: str) -> Value:
    return Value(name, a["self"].sizes)


# ---------------------------------------------------------------------------------------------------------------------
# Number by number
# ---------------------------------------------------------------------------------------------------------------------


def _unary(kind: str, *parameters: str) -> Converter:
    return lambda b, a: b.add(Unary(kind, tuple(float(a[p]) for p in parameters)), a["self"])


def _binary(kind: str) -> Converter:
    def convert(b: Builder, a: Arguments) -> Any:
        x, other = b.operand(a["self"]), b.operand(a["other"])
        if a.get("rounding_mode") is not None:
            raise Cannot(f"with rounding_mode={a['rounding_mode']!r} is not known")
        if a.get("alpha", 1) != 1:
            other = b.add(Binary("mul"), other, b.operand(a["alpha"]))
        return b.add(Binary(kind), x, other)

    return convert


def _rsub(b: Builder, a: Arguments) -> Any:
    return _binary("sub")(b, a | {"self": a["other"], "other": a["self"]})


def _clamp(b: Builder, a: Arguments) -> Any:
    low, high = a.get("min"), a.get("max")
    if isinstance(low, Value) or isinstance(high, Value):
        name = a["self"].name
        for kind, limit in (("max", low), ("min", high)):
            if limit is not None:
                name = b.add(Binary(kind), name, limit)
        return name
    return b.add(Unary("clip", (-math.inf if low is None else low, math.inf if high is None else high)), a["self"])


def _hardtanh(b: Builder, a: Arguments) -> Any:
    return b.add(Unary("clip", (a["min_val"], a["max_val"])), a["self"])


def _elu(b: Builder, a: Arguments) -> Any:
    return b.add(Unary("elu", (a["alpha"], a["scale"], a["input_scale"])), a["self"])


def _selu(b: Builder, a: Arguments) -> Any:
    return b.add(Unary("elu", (1.6732632423543772848170429916717, 1.0507009873554804934193349852946)), a["self"])


def _celu(b: Builder, a: Arguments) -> Any:
    return b.add(Unary("elu", (a["alpha"], 1.0, 1 / a["alpha"])), a["self"])


def _gelu(b: Builder, a: Arguments) -> Any:
    return b.add(Unary("gelu_tanh" if a["approximate"] == "tanh" else "gelu"), a["self"])


def _prelu(b: Builder, a: Arguments) -> Any:
    x, slope = a["self"], a["weight"]
    if slope.rank == 1 and x.rank > 2:
        slope = b.add(Reshape((-1, *(1,) * (x.rank - 2))), slope)
    return b.add(PRelu(), x, slope)


def _softmax(log: bool) -> Converter:
    return lambda b, a: b.add(Softmax(axis_of(a["self"], a["dim"]), log), a["self"])


def _addc(kind: str) -> Converter:
    """self + value · tensor1 · tensor2, or divided by it."""

    def convert(b: Builder, a: Arguments) -> Any:
        made = b.add(Binary(kind), a["tensor1"], a["tensor2"])
        if a["value"] != 1:
            made = b.add(Binary("mul"), made, b.operand(a["value"]))
        return b.add(Binary("add"), a["self"], made)

    return convert


def _lerp(b: Builder, a: Arguments) -> Any:
    share = b.add(Binary("mul"), b.add(Binary("sub"), a["end"], a["self"]), b.operand(a["weight"]))
    return b.add(Binary("add"), a["self"], share)


def _power(b: Builder, a: Arguments) -> Any:
    exponent = a["exponent"]
    if exponent == 2:
        return b.add(Unary("square"), a["self"])
    if exponent == 0.5:
        return b.add(Unary("sqrt"), a["self"])
    return b.add(Binary("pow"), b.operand(a["self"]), b.operand(exponent))


def _glu(b: Builder, a: Arguments) -> Any:
    x = a["self"]
    axis = axis_of(x, a["dim"])
    half = known(x.sizes[axis]) // 2
    gate = b.add(Unary("sigmoid"), b.add(Slice(axis, half), x))
    return b.add(Binary("mul"), b.add(Slice(axis, 0, half), x), gate)


def _compare(kind: str) -> Converter:
    return lambda b, a: b.add(Compare(kind), b.operand(a["self"]), b.operand(a["other"]))


def _both(b: Builder, a: Arguments) -> Any:
    return b.add(Binary("mul"), _truth(b, a["self"]), _truth(b, a["other"]))


def _either(b: Builder, a: Arguments) -> Any:
    return b.add(Binary("max"), _truth(b, a["self"]), _truth(b, a["other"]))


def _one_of_both(b: Builder, a: Arguments) -> Any:
    return b.add(Compare("not_equal"), _truth(b, a["self"]), _truth(b, a["other"]))


def _truth(b: Builder, x: Value) -> str:
    """1 where a number is not 0."""
    return b.add(Compare("not_equal"), x, b.operand(0.0))


def _not(b: Builder, a: Arguments) -> Any:
    return b.add(Compare("equal"), a["self"], b.operand(0.0))


def _where(b: Builder, a: Arguments) -> Any:
    return b.add(Where(), a["condition"], b.operand(a["self"]), b.operand(a["other"]))


def _masked_fill(b: Builder, a: Arguments) -> Any:
    return b.add(Where(), a["mask"], b.operand(a["value"]), a["self"])


def _threshold(b: Builder, a: Arguments) -> Any:
    """x above the threshold, a number elsewhere; NaN stays NaN."""
    low = b.add(Compare("less_equal"), a["self"], b.operand(a["threshold"]))
    return b.add(Where(), low, b.operand(a["value"]), a["self"])


def _hardshrink(b: Builder, a: Arguments) -> Any:
    """0 where |x| ≤ λ."""
    small = b.add(Compare("less_equal"), b.add(Unary("abs"), a["self"]), b.operand(a["lambd"]))
    return b.add(Where(), small, b.operand(0.0), a["self"])


def _softshrink(b: Builder, a: Arguments) -> Any:
    """x moved by λ towards 0, and 0 within λ of it."""
    limit = float(a["lambd"])
    return b.add(Binary("sub"), a["self"], b.add(Unary("clip", (-limit, limit)), a["self"]))


def _leaky_mean(b: Builder, a: Arguments) -> Any:
    """Slopes are drawn in training, and their mean is taken else."""
    if a["training"]:
        raise Cannot("in training mode draws random numbers: call eval() first")
    return b.add(Unary("leaky_relu", ((float(a["lower"]) + float(a["upper"])) / 2,)), a["self"])


def _scaled(kind: str, factor: float) -> Converter:
    """A function times a number: logarithms to other bases."""
    return lambda b, a: b.add(Binary("mul"), b.add(Unary(kind), a["self"]), b.operand(factor))


def _truncated(b: Builder, a: Arguments) -> str:
    """Towards zero."""
    negative = b.add(Compare("less"), a["self"], b.operand(0.0))
    return b.add(Where(), negative, b.add(Unary("ceil"), a["self"]), b.add(Unary("floor"), a["self"]))


def _is_nan(b: Builder, a: Arguments) -> str:
    return b.add(Compare("not_equal"), a["self"], a["self"])


def _any(b: Builder, a: Arguments) -> Any:
    """Whether one number of them is not 0, NaN included."""
    return _reduce("max")(b, a | {"self": Value(_truth(b, a["self"]), a["self"].sizes)})


def _resize(mode: str, coordinates: str, rounding: str = "floor") -> Converter:
    def convert(b: Builder, a: Arguments) -> Any:
        x = images(a["input"] if "input" in a else a["self"])
        points = "align_corners" if a.get("align_corners") else coordinates
        scales = a.get("scale_factors") or [a.get("scales_h"), a.get("scales_w")]
        if None not in scales and len(scales) == 2:
            return b.add(Resize(None, (float(scales[0]), float(scales[1])), mode, points, rounding), x)
        return b.add(Resize(pair(a["result"].sizes[2:]), None, mode, points, rounding), x)

    return convert


def _itself(b: Builder, a: Arguments) -> Any:
    return (a["self"] if "self" in a else a["input"]).name


def _dropout(b: Builder, a: Arguments) -> Any:
    if a["train"] and a["p"]:
        raise Cannot("in training mode draws random numbers: call eval() first")
    return _itself(b, a)


TRUTHS: dict[str, Converter] = {
    "eq": _compare("equal"),
    "ne": _compare("not_equal"),
    "lt": _compare("less"),
    "le": _compare("less_equal"),
    "gt": _compare("greater"),
    "ge": _compare("greater_equal"),
    **dict.fromkeys(("logical_and", "bitwise_and"), _both),
    **dict.fromkeys(("logical_or", "bitwise_or"), _either),
    **dict.fromkeys(("logical_xor", "bitwise_xor"), _one_of_both),
    **dict.fromkeys(("logical_not", "bitwise_not"), _not),
    "isnan": _is_nan,
    "any": _any,
}
"""What makes truth values, which are 1 and 0 in our graphs."""

CONVERTERS: dict[str, Converter] = {
    **TRUTHS,
    # products
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
    # norms
    "batch_norm": _batch_norm,
    "native_batch_norm": lambda b, a: [_batch_norm(b, a), None, None],
    "_native_batch_norm_legit_no_training": lambda b, a: [_batch_norm(b, a | {"training": False}), None, None],
    "layer_norm": _layer_norm,
    "native_layer_norm": lambda b, a: [_layer_norm(b, a), None, None],
    "group_norm": _group_norm,
    "rms_norm": _rms_norm,
    "instance_norm": _instance_norm,
    # pooling and reductions
    "max_pool1d": _largest_of_rows,
    "max_pool2d": _pooling("max"),
    "max_pool2d_with_indices": lambda b, a: [_pooling("max")(b, a), None],
    "avg_pool2d": _pooling("average"),
    "avg_pool3d": _average_of_neighbours,
    "adaptive_avg_pool2d": _adaptive("average"),
    "_adaptive_avg_pool2d": _adaptive("average"),
    "adaptive_max_pool2d": lambda b, a: [_adaptive("max")(b, a), None],
    "mean": _reduce("mean"),
    "sum": _reduce("sum"),
    "prod": _reduce("prod"),
    "amax": _reduce("max"),
    "amin": _reduce("min"),
    "max": _largest("max"),
    "min": _largest("min"),
    "var": _variance,
    "var_mean": _var_mean,
    "std": lambda b, a: b.add(Unary("sqrt"), _variance(b, a)),
    "std_mean": lambda b, a: [b.add(Unary("sqrt"), _variance(b, a)), _reduce("mean")(b, a)],
    "norm": _norm,
    "linalg_vector_norm": _norm,
    # number by number
    **{kind: _unary(kind) for kind in ("relu", "relu6", "sigmoid", "log_sigmoid", "hardsigmoid", "hardswish", "silu")},
    **{kind: _unary(kind) for kind in ("mish", "softsign", "tanh", "exp", "log", "sqrt", "rsqrt", "square", "neg")},
    **{kind: _unary(kind) for kind in ("abs", "reciprocal", "erf", "sin", "cos", "sign", "floor", "ceil", "round")},
    "leaky_relu": _unary("leaky_relu", "negative_slope"),
    "softplus": _unary("softplus", "beta"),
    "hardtanh": _hardtanh,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "clip": _clamp,
    "elu": _elu,
    "selu": _selu,
    "celu": _celu,
    "gelu": _gelu,
    "glu": _glu,
    "prelu": _prelu,
    **dict.fromkeys(("softmax", "_softmax"), _softmax(False)),
    **dict.fromkeys(("log_softmax", "_log_softmax"), _softmax(True)),
    "add": _binary("add"),
    "sub": _binary("sub"),
    "rsub": _rsub,
    "mul": _binary("mul"),
    "div": _binary("div"),
    "maximum": _binary("max"),
    "minimum": _binary("min"),
    "pow": _power,
    "addcmul": _addc("mul"),
    "addcdiv": _addc("div"),
    "lerp": _lerp,
    "rrelu": _leaky_mean,
    "log2": _scaled("log", 1 / math.log(2)),
    "log10": _scaled("log", 1 / math.log(10)),
    "exp2": lambda b, a: b.add(Binary("pow"), b.operand(2.0), a["self"]),
    "trunc": _truncated,
    "frac": lambda b, a: b.add(Binary("sub"), a["self"], _truncated(b, a)),
    "tan": lambda b, a: b.add(Binary("div"), b.add(Unary("sin"), a["self"]), b.add(Unary("cos"), a["self"])),
    "where": _where,
    "masked_fill": _masked_fill,
    "threshold": _threshold,
    "hardshrink": _hardshrink,
    "softshrink": _softshrink,
    # moves
    **dict.fromkeys(("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view"), _view),
    "view_as": _view,
    "reshape_as": _view,
    "transpose": _swap,
    "swapaxes": _swap,
    "permute": _permute,
    "movedim": _movedim,
    "t": _t,
    **dict.fromkeys(("mT", "mH"), _matrices_turned),
    "numpy_T": _t,
    "expand": _expand,
    "expand_as": _expand,
    "repeat": _repeat,
    "slice": _slice,
    "narrow": _narrow,
    "select": _select,
    **dict.fromkeys(("index", "_unsafe_index"), _index),
    "index_select": _index_select,
    "split": _split,
    "split_with_sizes": _split,
    "chunk": _split,
    "unbind": _unbind,
    "cat": _cat,
    "concat": _cat,
    "concatenate": _cat,
    "stack": _stack,
    "roll": _roll,
    "flip": _flip,
    "pad": _pad,
    "constant_pad_nd": lambda b, a: _padded(b, a["self"], a["pad"], "constant", float(a["value"])),
    "reflection_pad2d": _mode_pad("reflect"),
    "replication_pad2d": _mode_pad("replicate"),
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": _channel_shuffle,
    "upsample_nearest2d": _resize("nearest", "asymmetric"),
    "_upsample_nearest_exact2d": _resize("nearest", "half_pixel", "round_prefer_ceil"),
    "upsample_bilinear2d": _resize("bilinear", "half_pixel"),
    "upsample_bicubic2d": _resize("bicubic", "half_pixel"),
    # what is nothing in eval mode
    **dict.fromkeys(("contiguous", "clone", "detach", "alias", "lift_fresh_copy", "to", "_to_copy"), _itself),
    **dict.fromkeys(("type_as", "positive", "_assert_tensor_metadata", "resolve_conj", "resolve_neg"), _itself),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), _dropout),
}
