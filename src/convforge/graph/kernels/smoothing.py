"""Images made smaller so that every row counts: each output row is a weighted sum of rows beside each other, any number
of them. Columns are the same with height and width exchanged.

Which rows and how much of each is worked out beforehand, as for `resizing`, whose kernel has its few taps written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from ...native.ir import I64, Arguments, Int, Value, kernel, tasks
from ...native.program import Place, Step, code, step
from ...native.target import DTYPE_BYTES, Target
from ..tensor import Tensor
from .loops import each_channel, worth

_ARGUMENTS = Arguments("x x_n x_c x_h x_w y y_n y_c y_h y_w images channels out_height out_width taps rows row_shares")
_VECTORS = 4
"""Of channels, whose sums are in registers at the same time."""


def beside(rows: NDArray[np.int64], shares: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """The pairs (first row, how many), and the shares of these: of `rows` `(out, taps)` in ascending order, those that
    have a share; where a row comes several times, it has their sum."""
    first, last = (np.array([of[share != 0][end] for of, share in zip(rows, shares, strict=True)]) for end in (0, -1))
    summed = np.zeros((len(rows), int((last - first).max()) + 1))
    for out, (of, share) in enumerate(zip(rows, shares, strict=True)):
        there = share != 0
        np.add.at(summed[out], of[there] - first[out], share[there])
    return np.stack([first, last - first + 1], 1), summed


def smoothing(
    taps: int, tables: Sequence[Place], x: Tensor, y: Tensor, dtype: str, target: Target, threads: int
) -> tuple[Step, ...]:
    """Each row of y a sum of x's. `tables` are where the pairs (first row, how many) lie, as int64, and the shares as
    numbers of the dtype, `taps` of them for each output row, of which the first ones count."""
    if x.strides[1] == y.strides[1] == 1 and x.strides[3] == y.strides[3] == x.shape[1]:
        # Pixels without gaps: a row is one vector.
        x, y = (replace(t, shape=_joined(t.shape), strides=(*t.strides[:3], 0)) for t in (x, y))
    images, channels, height, width = y.shape
    numbers = x.steps("x") | y.steps("y")
    numbers |= {"images": images, "channels": channels, "out_height": height, "out_width": width, "taps": taps}
    at = {"x": x.place(DTYPE_BYTES[dtype]), "y": y.place(DTYPE_BYTES[dtype])}
    at |= dict(zip(("rows", "row_shares"), tables, strict=True))
    side_by_side = x.strides[1] == y.strides[1] == 1
    kernels = code(_build, ("smooth",), dtype, target, side_by_side)
    return (step(kernels["smooth"], worth(threads, y.numbers * (taps + 1)), _ARGUMENTS, numbers, at),)


def _joined(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    n, c, h, w = shape
    return n, w * c, h, 1


def _build(module: ir.Module, dtype: str, target: Target, side_by_side: bool) -> None:
    lanes = target.lanes(dtype) if side_by_side else 1
    f, a = kernel(module, "smooth", dtype, _ARGUMENTS)
    with tasks(f, a["images"] * a["out_height"]) as task:
        image, row = task.index // a["out_height"], task.index % a["out_height"]
        first, count = (f.address(a["rows"], I64).at(row * 2 + n).integer() for n in range(2))
        shares = f.address(a["row_shares"]).at(row * a["taps"])
        x_row = f.address(a["x"]).at(image * a["x_n"] + first * a["x_h"])
        y_row = f.address(a["y"]).at(image * a["y_n"] + row * a["y_h"])
        with f.loop(a["out_width"]) as column:
            x, y = x_row.at(column.index * a["x_w"]), y_row.at(column.index * a["y_w"])

            def channels(channel: Int, vectors: int, mask: Value | None) -> None:
                here = x.at(channel * a["x_c"])
                with f.loop(count, carry=[f.zeros(lanes)] * vectors) as tap:
                    share = f.splat(shares.at(tap.index).scalar(), lanes)
                    line = here.at(tap.index * a["x_h"])
                    values = [f.load(line.at(a["x_c"] * (n * lanes)), lanes, mask) for n in range(vectors)]
                    tap.carry([f.fma(value, share, s) for value, s in zip(values, tap.values, strict=True)])
                for n, total in enumerate(tap.values):
                    f.store(y.at((channel + n * lanes) * a["y_c"]), total, mask)

            each_channel(f, a["channels"], lanes, side_by_side, _VECTORS, channels)
    f.done()
