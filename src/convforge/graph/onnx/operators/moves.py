"""What moves numbers and computes none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ....spec import ceil_div
from ...nodes import END, Concat, Pad, Shape, Slice, Take, Transpose
from ..attributes import Attributes, Cannot, integers
from ..folding import axes_of, reshaped, slices, squeezed, unsqueezed
from ..values import Known, Value, Varies
from .common import Converter, Inputs, axis_of, expanded, given, optional, rank

if TYPE_CHECKING:
    from ..reading import Reading


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
        for probe, asked in enumerate(every):
            found = [cut[1:] for cut in asked if cut[0] == axis]
            if len(found) != 1:
                raise Varies(probe)
            cuts.append(found[0])
        if any(cut != cuts[0] for cut in cuts):  # sizes of the image, perhaps, and so its ends
            cuts = [_to_the_ends(*cut, shape[axis]) for cut, shape in zip(cuts, x.shapes, strict=True)]
        start, stop, step = r.same(cuts)
        if abs(stop) >= _NO_SIZE:
            stop = END if stop > 0 else -END
        if (start, stop, step) != (0, END, 1):
            x = r.add(Slice(axis, start, stop, step), x)
    return x


_NO_SIZE = 2**31 - 1
"""From here on a number stands for the end, whatever the size."""


def _to_the_ends(start: int, stop: int, step: int, size: int) -> tuple[int, int, int]:
    """The same rows of so many, with what reaches an end said so that it does for any size."""
    if step > 0:
        return max(start, 0) if start < -size else start, END if stop >= size else stop, step
    return -1 if start >= size - 1 else start, -END if stop < -size else stop, step


def _gather(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    """Rows whose numbers are known: all, one, or a run of them, or a few."""
    x, known = given(inputs, 0), r.arrays(optional(inputs, 1), "indices")
    axis = axis_of(x, a.integer("axis", 0))
    if all(_is_all(rows, shape[axis]) for rows, shape in zip(known, x.shapes, strict=True)):
        return r.reshape(x, [(*s[:axis], *rows.shape, *s[axis + 1 :]) for s, rows in zip(x.shapes, known, strict=True)])
    indices = r.same(known)
    if indices.dtype.kind not in "iu" or not 0 < indices.size <= _MOST_ROWS:
        raise Cannot(f"takes indices of shape {indices.shape} and {indices.dtype}, and up to {_MOST_ROWS} are known")
    rows = [int(i) for i in indices.reshape(-1)]
    size = x.shapes[0][axis]
    if any(not -size <= row < size for row in rows):
        raise Cannot(f"takes rows {rows} of {size}")
    run = _run(axis, rows)
    y = r.add(run, x) if run else r.add(Concat(axis), *(r.add(_row(axis, row), x) for row in rows))
    return r.reshape(y, [(*shape[:axis], *indices.shape, *shape[axis + 1 :]) for shape in x.shapes])


def _is_all(rows: np.ndarray[Any, Any], size: int) -> bool:
    """Whether these are all of so many rows in their order, as torch's `as_strided` takes what is contiguous."""
    return rows.dtype.kind in "iu" and rows.size == size and np.array_equal(rows.reshape(-1), np.arange(size))


def _gather_nd(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    """Numbers whose places along the first axes are known, which are the rows of those axes merged."""
    x, indices = given(inputs, 0), r.array(optional(inputs, 1), "indices")
    if a.integer("batch_dims", 0):
        raise Cannot("takes other numbers for each row of a batch (batch_dims), which is not known")
    axes = indices.shape[-1] if indices.ndim else 0
    if indices.dtype.kind not in "iu" or not 0 < axes <= rank(x) or not indices.size:
        raise Cannot(f"takes indices of shape {indices.shape} and {indices.dtype} from {x.shapes[0]}")
    r.spend(indices.shape)
    sizes = r.same([shape[:axes] for shape in x.shapes])
    if (indices < -np.array(sizes)).any() or (indices >= np.array(sizes)).any():
        raise Cannot(f"takes numbers that {x.shapes[0]} does not have")
    rows = np.ravel_multi_index(tuple(np.moveaxis(indices % np.array(sizes), -1, 0)), sizes)
    if rows.size > _MOST_ROWS:
        raise Cannot(f"takes indices of shape {indices.shape}, and up to {_MOST_ROWS} are known")
    merged = r.reshape(x, [(math.prod(sizes), *shape[axes:]) for shape in x.shapes])
    taken = r.add(Take(0), merged, r.constant(rows.reshape(-1)))
    return r.reshape(taken, [(*rows.shape, *shape[axes:]) for shape in x.shapes])


_MOST_ROWS = 1024


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
    return expanded(r, x, shapes)


def _tile(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    """Each axis beside a new one that is repeated, and both merged: (a, b) → (1, a, 1, b) → (r, a, s, b) → (ra, sb)."""
    x = given(inputs, 0)
    times = integers(r.array(optional(inputs, 1), "repeats"), "repeats")
    if len(times) != rank(x) or min(times, default=1) < 1:
        raise Cannot(f"repeats {x.shapes[0]} {times} times")
    apart = r.reshape(x, [tuple(n for size in shape for n in (1, size)) for shape in x.shapes])
    wide = [tuple(n for many, size in zip(times, shape, strict=True) for n in (many, size)) for shape in x.shapes]
    return r.reshape(
        expanded(r, apart, wide), [tuple(m * n for m, n in zip(times, shape, strict=True)) for shape in x.shapes]
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


OPERATORS: dict[str, Converter] = {
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
