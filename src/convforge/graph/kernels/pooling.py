"""Pooling of images: the largest number or the mean of each window, channels side by side in vectors.

Where windows begin and how many rows and columns of them are inside the image is worked out beforehand, a table an
axis. So plain and adaptive pooling are the same kernel, and it knows nothing of padding. Where the largest number
stands is another kind of it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from ...native.ir import I64, Arguments, Function, Int, Pointer, Value, everywhere, kernel, tasks
from ...native.program import Place, Step, code, step
from ...native.target import DTYPE_BYTES, Target
from ...spec import ceil_div
from ..operations import AdaptivePooling, Pooling
from ..tensor import Tensor
from .loops import each_channel, worth

_ARGUMENTS = Arguments(
    "x x_n x_c x_h x_w y y_n y_c y_h y_w images channels out_height out_width row_step column_step rows columns "
    "row_shares column_shares image_place channel_place row_place column_place row_places column_places"
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
    threads: int, places: Sequence[int] = (0, 0, 0, 0),
) -> tuple[Step, ...]:  # fmt: skip
    """y = x pooled: the "max" or the "average" of each window, or the "place" of the largest number, which grows with
    the image, channel, row and column by `places`. `tables` are where the windows' places and shares lie, down and
    across: (places, places, shares, shares)."""
    numbers = x.steps("x") | y.steps("y")
    numbers |= dict(zip(("image_place", "channel_place", "row_place", "column_place"), places, strict=True))
    numbers |= {"row_places": windows[0].gap * places[2], "column_places": windows[1].gap * places[3]}
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
            place = image * a["image_place"] + first_row * a["row_place"] + first * a["column_place"]
            window = _KINDS[kind](f, a, x_row.at(first * a["x_w"]), rows, columns, share, place, lanes)
            y = y_row.at(column.index * a["y_w"])

            def channels(first: Int, vectors: int, mask: Value | None) -> None:
                for n, result in enumerate(window.pooled(first, vectors, mask)):
                    f.store(y.at((first + n * lanes) * a["y_c"]), result, mask)

            each_channel(f, a["channels"], lanes, beside, _VECTORS, channels)
    f.done()


@dataclass(frozen=True)
class _Window(ABC):
    """One window, in IR. `place` is its first pixel's number, where pixels have one."""

    f: Function
    a: dict[str, Int]
    x: Pointer
    rows: Int
    columns: Int
    share: Value
    place: Int
    lanes: int

    def pooled(self, channel: Int, vectors: int, mask: Value | None) -> list[Value]:
        """So many vectors of channels, from this one on."""
        f, a, lanes = self.f, self.a, self.lanes
        here = self.x.at(channel * a["x_c"])
        with f.loop(self.rows, carry=self.start(vectors)) as row:
            line = here.at(row.index * a["row_step"])
            with f.loop(self.columns, carry=row.values) as column:
                at = line.at(column.index * a["column_step"])
                values = [f.load(at.at(a["x_c"] * (n * lanes)), lanes, mask) for n in range(vectors)]
                column.carry(self.joined(column.values, values, row.index, column.index))
            row.carry(column.values)
        return self.result(row.values, channel)

    @abstractmethod
    def start(self, vectors: int) -> list[Value]:
        """Before the first pixel."""

    @abstractmethod
    def joined(self, old: list[Value], new: list[Value], row: Int, column: Int) -> list[Value]:
        """With a pixel more, at this row and column of the window."""

    def result(self, values: list[Value], channel: Int) -> list[Value]:
        """After the last one."""
        return values


class _Largest(_Window):
    def start(self, vectors: int) -> list[Value]:
        return [everywhere(self.f.float, self.lanes, -math.inf)] * vectors

    def joined(self, old: list[Value], new: list[Value], row: Int, column: Int) -> list[Value]:
        f = self.f  # NaN wins
        return [f.vector(a).by_llvm("maximum", f.vector(b)).value for a, b in zip(old, new, strict=True)]


class _Mean(_Window):
    def start(self, vectors: int) -> list[Value]:
        return [self.f.zeros(self.lanes)] * vectors

    def joined(self, old: list[Value], new: list[Value], row: Int, column: Int) -> list[Value]:
        return [self.f.add(a, b) for a, b in zip(old, new, strict=True)]

    def result(self, values: list[Value], channel: Int) -> list[Value]:
        share = self.f.splat(self.share, self.lanes)
        return [self.f.builder.fmul(total, share) for total in values]


class _Standing(_Window):
    """Where the largest number is: the largest ones so far, and behind them their places in the first channel."""

    def start(self, vectors: int) -> list[Value]:
        return [everywhere(self.f.float, self.lanes, -math.inf)] * vectors + [self._number(self.place)] * vectors

    def joined(self, old: list[Value], new: list[Value], row: Int, column: Int) -> list[Value]:
        b, best, places = self.f.builder, old[: len(new)], old[len(new) :]
        here = self._number(self.place + row * self.a["row_places"] + column * self.a["column_places"])
        larger = [b.fcmp_ordered(">", value, most) for value, most in zip(new, best, strict=True)]
        better = [b.or_(yes, b.fcmp_unordered("uno", value, value)) for yes, value in zip(larger, new, strict=True)]
        return [b.select(*each) for each in zip(better, new, best, strict=True)] + [
            b.select(yes, here, place) for yes, place in zip(better, places, strict=True)
        ]

    def result(self, values: list[Value], channel: Int) -> list[Value]:
        f, lanes, places = self.f, self.lanes, values[len(values) // 2 :]
        step = self._number(self.a["channel_place"])
        lane = f.builder.fmul(ir.Constant(step.type, [float(n) for n in range(lanes)]), step)
        first = [self._number((channel + n * lanes) * self.a["channel_place"]) for n in range(len(places))]
        return [f.add(place, f.add(start, lane)) for place, start in zip(places, first, strict=True)]

    def _number(self, value: Int) -> Value:
        return self.f.splat(self.f.builder.sitofp(value.value, self.f.float), self.lanes)


_KINDS: dict[str, Callable[..., _Window]] = {"max": _Largest, "average": _Mean, "place": _Standing}
