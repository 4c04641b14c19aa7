"""What is computed of sizes and constants while a file is read: ONNX's operators in NumPy.

Sizes are computed like any other numbers in ONNX, and so are weights at times (transposed, joined, dequantised). A file
may ask for more than there is memory: a `Budget` is kept of the numbers that are made of those that the file holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .attributes import Attributes, Cannot, integers
from .files import array_of, numpy_type

Array: TypeAlias = NDArray[Any]


class Budget:
    """How many numbers may be made, or gone through, while a file is read that has so many."""

    def __init__(self, held: int) -> None:
        self._left = 2**22 + 8 * held

    def take(self, shape: Sequence[int]) -> None:
        """For an array that is to be made. Raises `Cannot` where it would be too much."""
        self._left -= math.prod(shape)
        if self._left < 0 or any(size < 0 for size in shape):
            raise Cannot(
                f"computes a constant of shape {tuple(shape)}: with those before, far more numbers than the file holds"
            )


Fold: TypeAlias = Callable[..., Any]


def fold(kind: str, budget: Budget, attributes: Attributes, inputs: Sequence[Array | None]) -> list[Array]:
    """An operator of known numbers."""
    try:
        with np.errstate(all="ignore"):
            made = FOLDED[kind](budget, attributes, *inputs)
    except (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError, AttributeError, MemoryError) as error:
        shapes = ", ".join("nothing" if a is None else str(a.shape) for a in inputs)
        raise Cannot(f"cannot be computed of constants of shape {shapes}: {error}") from None
    return [np.asarray(array) for array in (made if isinstance(made, list) else [made])]


# ---------------------------------------------------------------------------------------------------------------------
# Number by number
# ---------------------------------------------------------------------------------------------------------------------


def _each(function: Callable[..., Any]) -> Fold:
    """Of one array, or of several that are broadcast."""

    def folded(budget: Budget, a: Attributes, *arrays: Array) -> Array:
        budget.take(np.broadcast_shapes(*(array.shape for array in arrays)))
        made = np.asarray(function(*arrays))
        same = arrays[0].dtype
        return made if made.dtype.kind == "b" or same.kind == "b" else made.astype(same, copy=False)

    return folded


def _chain(function: Callable[[Any, Any], Any]) -> Fold:
    """Of any number of arrays, one after the other."""

    def folded(budget: Budget, a: Attributes, *arrays: Array) -> Array:
        if not arrays:
            raise Cannot("has no input")
        total = arrays[0]
        for array in arrays[1:]:
            budget.take(np.broadcast_shapes(total.shape, array.shape))
            total = np.asarray(function(total, array))
        return total

    return folded


def _divide(x: Array, y: Array) -> Array:
    if x.dtype.kind == "f":
        return np.asarray(x / y)
    if not np.all(y):
        raise Cannot("divides by zero")
    return np.asarray(np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y)))  # towards zero, as in C


def _mod(budget: Budget, a: Attributes, x: Array, y: Array) -> Array:
    remainder = np.fmod if a.flag("fmod", False) else np.mod
    return np.asarray(_each(remainder)(budget, a, x, y))


def _power(x: Array, y: Array) -> Array:
    return np.asarray(np.power(x.astype(np.float64), y)) if x.dtype.kind == "f" or np.any(y < 0) else np.power(x, y)


def _where(budget: Budget, a: Attributes, condition: Array, x: Array, y: Array) -> Array:
    budget.take(np.broadcast_shapes(condition.shape, x.shape, y.shape))
    return np.where(condition, x, y)


def _cast(budget: Budget, a: Attributes, x: Array) -> Array:
    a.ignore("saturate", "round_mode")
    to = numpy_type(a.integer("to", 0))
    if x.dtype == to:
        return x
    budget.take(x.shape)
    return x.astype(to)


# ---------------------------------------------------------------------------------------------------------------------
# Sizes and axes
# ---------------------------------------------------------------------------------------------------------------------


def _shape(budget: Budget, a: Attributes, x: Array) -> Array:
    return np.array(x.shape[a.integer("start", 0) : a.integer("end", x.ndim)], np.int64)


def _size(budget: Budget, a: Attributes, x: Array) -> Array:
    return np.array(math.prod(x.shape), np.int64)


def axes_of(a: Attributes, given: Array | None, rank: int) -> tuple[int, ...] | None:
    """Axes from an attribute or, later, from an input; counted from the front; None where there are none."""
    axes = a.ints("axes") if given is None else integers(given, "axes")
    if axes is None:
        return None
    if any(not -rank <= axis < rank for axis in axes) or len({axis % rank for axis in axes}) < len(axes):
        raise Cannot(f"has the axes {axes}, and its input has {rank}")
    return tuple(axis % rank for axis in axes)


def squeezed(shape: Sequence[int], axes: Sequence[int] | None) -> tuple[int, ...]:
    """The sizes without those axes, or without all that are 1."""
    gone = [axis for axis, size in enumerate(shape) if size == 1] if axes is None else axes
    if any(shape[axis] != 1 for axis in gone):
        raise Cannot(f"leaves out axes {tuple(gone)} of {tuple(shape)}, which are not all of size 1")
    return tuple(size for axis, size in enumerate(shape) if axis not in gone)


def unsqueezed(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    """The sizes with 1 at those axes of the result."""
    rest = iter(shape)
    return tuple(1 if axis in axes else next(rest) for axis in range(len(shape) + len(axes)))


def reshaped(shape: Sequence[int], wanted: Sequence[int], allow_zero: bool) -> tuple[int, ...]:
    """ONNX's `Reshape`: 0 is the size that is there, −1 what is left."""
    sizes = list(wanted)
    for axis, size in enumerate(sizes):
        if size == 0 and not allow_zero:
            if axis >= len(shape):
                raise Cannot(f"keeps axis {axis} of {tuple(shape)}")
            sizes[axis] = shape[axis]
    if sizes.count(-1) == 1:
        rest = math.prod(size for size in sizes if size != -1)
        if not rest or math.prod(shape) % rest:
            raise Cannot(f"cannot make {tuple(wanted)} of {tuple(shape)}")
        sizes[sizes.index(-1)] = math.prod(shape) // rest
    if any(size < 0 for size in sizes) or math.prod(sizes) != math.prod(shape):
        raise Cannot(f"cannot make {tuple(wanted)} of {tuple(shape)}")
    return tuple(sizes)


def _reshape(budget: Budget, a: Attributes, x: Array, sizes: Array | None = None) -> Array:
    wanted = a.ints("shape") if sizes is None else integers(sizes, "sizes")
    budget.take(x.shape)  # repeated numbers are copied
    return x.reshape(reshaped(x.shape, wanted or (), a.flag("allowzero", False)))


def _squeeze(budget: Budget, a: Attributes, x: Array, axes: Array | None = None) -> Array:
    return x.reshape(squeezed(x.shape, axes_of(a, axes, x.ndim)))


def _unsqueeze(budget: Budget, a: Attributes, x: Array, axes: Array | None = None) -> Array:
    count = len(a.ints("axes") or ()) if axes is None else axes.size
    return x.reshape(unsqueezed(x.shape, axes_of(a, axes, x.ndim + count) or ()))


def _transpose(budget: Budget, a: Attributes, x: Array) -> Array:
    return x.transpose(a.ints("perm", x.ndim) or range(x.ndim)[::-1])


def _flatten(budget: Budget, a: Attributes, x: Array) -> Array:
    axis = a.integer("axis", 1)
    axis += x.ndim if axis < 0 else 0
    budget.take(x.shape)
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _expand(budget: Budget, a: Attributes, x: Array, sizes: Array) -> Array:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, integers(sizes, "sizes")))


def _tile(budget: Budget, a: Attributes, x: Array, repeats: Array) -> Array:
    times = integers(repeats, "repeats")
    budget.take([size * many for size, many in zip(x.shape, times, strict=True)])
    return np.tile(x, times)


def _concat(budget: Budget, a: Attributes, *arrays: Array) -> Array:
    budget.take([sum(array.size for array in arrays)])
    return np.concatenate(arrays, a.integer("axis", 0))


def _gather(budget: Budget, a: Attributes, x: Array, indices: Array) -> Array:
    axis = a.integer("axis", 0)
    axis += x.ndim if axis < 0 else 0
    budget.take([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])
    return np.take(x, indices, axis)


def slices(
    a: Attributes, rank: int, starts: Array | None, ends: Array | None, axes: Array | None, steps: Array | None
) -> list[tuple[int, int, int, int]]:
    """What `Slice` asks for, from attributes or inputs: (axis, start, stop, step) each."""
    first = a.ints("starts") if starts is None else integers(starts, "starts")
    last = a.ints("ends") if ends is None else integers(ends, "ends")
    if first is None or last is None or len(first) != len(last):
        raise Cannot("needs as many starts as ends")
    along = axes_of(a, axes, rank)
    along = tuple(range(len(first))) if along is None else along
    step = (1,) * len(first) if steps is None else integers(steps, "steps")
    if not len(along) == len(step) == len(first) or 0 in step or len(first) > rank:
        raise Cannot(f"needs an axis and a step that is not 0 for each of its {len(first)} starts")
    return list(zip(along, first, last, step, strict=True))


def _slice(budget: Budget, a: Attributes, x: Array, *bounds: Array | None) -> Array:
    starts, ends, axes, steps = (*bounds, None, None, None, None)[:4]
    for axis, start, stop, step in slices(a, x.ndim, starts, ends, axes, steps):
        rows = slice(start, stop, step)
        x = x[(slice(None),) * axis + (rows,)]
    return x


def _range(budget: Budget, a: Attributes, start: Array, limit: Array, delta: Array) -> Array:
    first, last, step = start.item(), limit.item(), delta.item()
    budget.take([max(0, math.ceil((last - first) / step))])
    return np.arange(first, last, step, dtype=start.dtype)


def _split(budget: Budget, a: Attributes, x: Array, sizes: Array | None = None) -> list[Array]:
    axis = a.integer("axis", 0)
    parts = a.ints("split") if sizes is None else integers(sizes, "sizes")
    count = a.integer("num_outputs", 0)
    if parts is None:
        if not 0 < count <= x.shape[axis]:
            raise Cannot("does not say into how many parts")
        whole = -(-x.shape[axis] // count)
        parts = tuple(min(whole, x.shape[axis] - i * whole) for i in range(count))
    return list(np.split(x, np.cumsum(parts)[:-1], axis))


# ---------------------------------------------------------------------------------------------------------------------
# Constants, and sums of several
# ---------------------------------------------------------------------------------------------------------------------


def _constant(budget: Budget, a: Attributes) -> Array:
    tensor = a.tensor("value")
    if tensor is not None:
        if tensor.data_location == 1:
            raise Cannot("has a constant that lies in another file")
        return array_of(tensor, None)
    if "value_float" in a:
        return np.array(a.number("value_float", 0.0), np.float32)
    if "value_int" in a:
        return np.array(a.integer("value_int", 0), np.int64)
    if "value_floats" in a:
        return np.array(a.floats("value_floats"), np.float32)
    if "value_ints" in a:
        return np.array(a.ints("value_ints"), np.int64)
    raise Cannot("is a constant of a kind that is not known, text or sparse")


def _constant_of_shape(budget: Budget, a: Attributes, sizes: Array) -> Array:
    tensor = a.tensor("value")
    value = np.zeros(1, np.float32) if tensor is None else array_of(tensor, None)
    if value.size != 1:
        raise Cannot(f"takes one number, not {value.size}")
    shape = integers(sizes, "sizes")
    if any(size < 0 for size in shape):
        raise Cannot(f"cannot make the shape {shape}")
    return np.broadcast_to(value.reshape(()), shape)  # no memory, however large


def _reduction(function: Callable[..., Any]) -> Fold:
    def folded(budget: Budget, a: Attributes, x: Array, axes: Array | None = None) -> Array:
        along, keep = axes_of(a, axes, x.ndim), a.flag("keepdims", True)
        if not along:
            if a.flag("noop_with_empty_axes", False):
                return x
            along = None
        budget.take(x.shape)
        return np.asarray(function(x, axis=along, keepdims=keep)).astype(x.dtype)

    return folded


def _dequantize(budget: Budget, a: Attributes, x: Array, scale: Array, zero: Array | None = None) -> Array:
    axis, block = a.integer("axis", 1), a.integer("block_size", 0)
    a.ignore("output_dtype")
    if block:
        raise Cannot("has scales by block, which are not known")
    budget.take(x.shape)
    if scale.ndim == 1 and scale.size > 1:
        sizes = [1] * x.ndim
        sizes[axis] = -1
        scale, zero = scale.reshape(sizes), None if zero is None else zero.reshape(sizes)
    whole = x.astype(np.float32) if zero is None else x.astype(np.float32) - zero.astype(np.float32)
    return whole * scale.astype(np.float32)


def _cast_like(budget: Budget, a: Attributes, x: Array, like: Array) -> Array:
    a.ignore("saturate", "round_mode")
    budget.take(x.shape)
    return x.astype(like.dtype)


def _triangle(budget: Budget, a: Attributes, x: Array, k: Array | None = None) -> Array:
    budget.take(x.shape)
    keep = np.triu if a.flag("upper", True) else np.tril
    return keep(x, 0 if k is None else int(k.item()))


def _identity(budget: Budget, a: Attributes, x: Array) -> Array:
    return x


OF_SHAPES = frozenset({"Shape", "Size"})
"""What asks for no more than the shape of its input, and so is known even where the numbers are not."""

FOLDED: dict[str, Fold] = {
    "Abs": _each(np.abs),
    "Add": _each(np.add),
    "And": _each(np.logical_and),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _each(np.ceil),
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DequantizeLinear": _dequantize,
    "Div": _each(_divide),
    "Equal": _each(np.equal),
    "Exp": _each(np.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _each(np.floor),
    "Gather": _gather,
    "Greater": _each(np.greater),
    "GreaterOrEqual": _each(np.greater_equal),
    "Identity": _identity,
    "Less": _each(np.less),
    "LessOrEqual": _each(np.less_equal),
    "Log": _each(np.log),
    "Max": _chain(np.maximum),
    "Min": _chain(np.minimum),
    "Mod": _mod,
    "Mul": _each(np.multiply),
    "Neg": _each(np.negative),
    "Not": _each(np.logical_not),
    "Or": _each(np.logical_or),
    "Pow": _each(_power),
    "Range": _range,
    "Reciprocal": _each(np.reciprocal),
    "ReduceMax": _reduction(np.max),
    "ReduceMean": _reduction(np.mean),
    "ReduceMin": _reduction(np.min),
    "ReduceProd": _reduction(np.prod),
    "ReduceSum": _reduction(np.sum),
    "Reshape": _reshape,
    "Round": _each(np.round),
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Sqrt": _each(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _each(np.subtract),
    "Sum": _chain(np.add),
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
    "Xor": _each(np.logical_xor),
}
