"""Pooling of images: the largest number or the mean of each window, channels side by side in vectors.

Where windows begin and how many rows and columns of them are inside the image is worked out beforehand, a table an
axis. So plain and adaptive pooling are the same kernel, and it knows nothing of padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from ...native.ir import I64, Arguments, Function, Int, Pointer, Value, kernel, tasks
from ...native.program import Place, Step, code, step
from ...native.target import DTYPE_BYTES, Target
from ...spec import ceil_div
from ..operations import AdaptivePooling, Pooling
from ..tensor import Tensor
from .loops import worth

_ARGUMENTS = Arguments(
    "x x_n x_c x_h x_w y y_n y_c y_h y_w images channels out_height out_width row_step column_step rows columns "
    "row_shares column_shares"
)
_VECTORS = 4
"""Of channels, whose results are in registers at the same time."""


@dataclass(frozen=True)
class Windows:
    """Along one axis, for each output: where its window begins, how many rows are inside the image, and the factor by
    which a mean is divided; `gap` rows apart."""

    first: tuple[int, ...]
    count: tuple[int, ...]
    divisor: tuple[int, ...]
    gap: int

    @classmethod
    def of(cls, operation: Pooling | AdaptivePooling, axis: int, size: int, out: int) -> Windows:
        """Of a pooling along axis 0 (down) or 1 (across)."""
        if isinstance(operation, AdaptivePooling):
            windows = operation.windows(axis, size)
            count = tuple(end - first for first, end in windows)
            return cls(tuple(first for first, _ in windows), count, count, 1)
        kernel, stride, gap = operation.kernel[axis], operation.stride[axis], operation.dilation[axis]
        before, after = operation.pads[axis]
        begins = [i * stride - before for i in range(out)]
        outside = [ceil_div(max(0, -begin), gap) for begin in begins]
        inside = [
            max(0, min(kernel, ceil_div(size - begin, gap)) - skip) for begin, skip in zip(begins, outside, strict=True)
        ]
        # What `ceil` reads beyond the padding does not count.
        padded = [min(kernel, ceil_div(size + after - begin, gap)) for begin in begins]
        first = tuple(begin + skip * gap for begin, skip in zip(begins, outside, strict=True))
        return cls(first, tuple(inside), tuple(padded if operation.count_padding else inside), gap)

    @property
    def places(self) -> NDArray[np.int64]:
        """The pairs (first, count), for the kernel."""
        return np.array(list(zip(self.first, self.count, strict=True)), np.int64)

    def shares(self, dtype: str) -> NDArray[np.floating]:
        """1 / divisor."""
        return (1 / np.maximum(np.array(self.divisor, np.float64), 1)).astype(dtype)


def pooling(
    kind: str, windows: Sequence[Windows], tables: Sequence[Place], x: Tensor, y: Tensor, dtype: str, target: Target,
    threads: int,
) -> tuple[Step, ...]:  # fmt: skip
    """y = x pooled. `tables` are where the windows' places and shares lie, down and across: (places, places, shares,
    shares)."""
    numbers = {
        f"{name}_{axis}": step for name, t in (("x", x), ("y", y)) for axis, step in zip("nchw", t.strides, strict=True)
    }
    images, channels, height, width = y.shape
    numbers |= {"images": images, "channels": channels, "out_height": height, "out_width": width}
    numbers |= {"row_step": windows[0].gap * x.strides[2], "column_step": windows[1].gap * x.strides[3]}
    names = ("rows", "columns", "row_shares", "column_shares")
    at = {"x": x.place(DTYPE_BYTES[dtype]), "y": y.place(DTYPE_BYTES[dtype])} | dict(zip(names, tables, strict=True))
    beside = x.strides[1] == y.strides[1] == 1 or channels == 1
    kernels = code(_build, ("pool",), dtype, target, kind, beside)
    taps = max(windows[0].count, default=0) * max(windows[1].count, default=0)
    return (step(kernels["pool"], worth(threads, y.numbers * (taps + 1)), _ARGUMENTS, numbers, at),)


def _build(module: ir.Module, dtype: str, target: Target, kind: str, beside: bool) -> None:
    lanes = target.lanes(dtype) if beside else 1
    f, a = kernel(module, "pool", dtype, _ARGUMENTS)
    with tasks(f, a["images"] * a["out_height"]) as task:
        image, row = task.index // a["out_height"], task.index % a["out_height"]
        first_row, rows = (f.address(a["rows"], I64).at(row * 2 + n).integer() for n in range(2))
        x_row = f.address(a["x"]).at(image * a["x_n"] + first_row * a["x_h"])
        y_row = f.address(a["y"]).at(image * a["y_n"] + row * a["y_h"])
        row_share = f.address(a["row_shares"]).at(row).scalar()
        with f.loop(a["out_width"]) as column:
            first, columns = (f.address(a["columns"], I64).at(column.index * 2 + n).integer() for n in range(2))
            share = f.builder.fmul(row_share, f.address(a["column_shares"]).at(column.index).scalar())
            window = _Window(f, a, x_row.at(first * a["x_w"]), rows, columns, kind, share, lanes)
            y = y_row.at(column.index * a["y_w"])
            wide = a["channels"] // (_VECTORS * lanes) * (_VECTORS * lanes)
            with f.loop(wide, step=_VECTORS * lanes) as block:
                results = window.pooled(block.index, _VECTORS, None)
                for n, result in enumerate(results):
                    y.at((block.index + n * lanes) * a["y_c"]).put(result)

            def one(number: Int, mask: Value | None) -> None:
                channel = number * lanes + wide
                (result,) = window.pooled(channel, 1, mask)
                f.store(y.at(channel * a["y_c"]), result, mask)

            if beside:
                f.each_vector(a["channels"] - wide, lanes, one)
            else:
                with f.loop(a["channels"] - wide) as channel:
                    one(channel.index, None)
    f.done()


@dataclass(frozen=True)
class _Window:
    """One window, in IR."""

    f: Function
    a: dict[str, Int]
    x: Pointer
    rows: Int
    columns: Int
    kind: str
    share: Value
    lanes: int

    def pooled(self, channel: Int, vectors: int, mask: Value | None) -> list[Value]:
        """So many vectors of channels, from this one on."""
        f, a, lanes = self.f, self.a, self.lanes
        nothing = float("-inf") if self.kind == "max" else 0.0
        start = [f.splat(ir.Constant(f.float, nothing), lanes)] * vectors
        here = self.x.at(channel * a["x_c"])
        with f.loop(self.rows, carry=start) as row:
            line = here.at(row.index * a["row_step"])
            with f.loop(self.columns, carry=row.values) as column:
                at = line.at(column.index * a["column_step"])
                values = [f.load(at.at(a["x_c"] * (n * lanes)), lanes, mask) for n in range(vectors)]
                column.carry([self._joined(old, new) for old, new in zip(column.values, values, strict=True)])
            row.carry(column.values)
        if self.kind == "max":
            return row.values
        share = f.splat(self.share, lanes)
        return [f.builder.fmul(total, share) for total in row.values]

    def _joined(self, old: Value, new: Value) -> Value:
        f = self.f
        if self.kind == "max":  # NaN wins
            return f.vector(old).by_llvm("maximum", f.vector(new)).value
        return f.add(old, new)
