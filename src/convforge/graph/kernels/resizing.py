"""Images of another size: every output pixel is made of the pixels of one, two or four rows and columns of the input.

Which rows and columns, and how much of each, is worked out beforehand, a table an axis. So padding by reflection and by
repetition is the same kernel, of one row and column.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from ...native.ir import I64, Arguments, Function, Int, Value, kernel, tasks
from ...native.program import Place, Step, code, step
from ...native.target import DTYPE_BYTES, Target
from ..tensor import Tensor
from .loops import worth

_ARGUMENTS = Arguments(
    "x x_n x_c x_h x_w y y_n y_c y_h y_w images channels out_height out_width rows columns row_shares column_shares"
)


def resizing(
    taps: int, tables: Sequence[Place], x: Tensor, y: Tensor, dtype: str, target: Target, threads: int
) -> tuple[Step, ...]:
    """y = x resized. `tables` are where the rows and the columns lie that each is made of, as int64, `taps` of them one
    behind the other, and their shares as numbers of the dtype, which do not count where there is one."""
    images, channels, height, width = y.shape
    numbers = x.steps("x") | y.steps("y")
    numbers |= {"images": images, "channels": channels, "out_height": height, "out_width": width}
    names = ("rows", "columns", "row_shares", "column_shares")
    at = {"x": x.place(DTYPE_BYTES[dtype]), "y": y.place(DTYPE_BYTES[dtype])} | dict(zip(names, tables, strict=True))
    beside = x.strides[1] == y.strides[1] == 1
    kernels = code(_build, ("resize",), dtype, target, taps, beside)
    return (step(kernels["resize"], worth(threads, y.numbers * 3), _ARGUMENTS, numbers, at),)


def _build(module: ir.Module, dtype: str, target: Target, taps: int, beside: bool) -> None:
    lanes = target.lanes(dtype) if beside else 1
    f, a = kernel(module, "resize", dtype, _ARGUMENTS)
    with tasks(f, a["images"] * a["out_height"]) as task:
        image, row = task.index // a["out_height"], task.index % a["out_height"]
        y_row = f.address(a["y"]).at(image * a["y_n"] + row * a["y_h"])
        x = f.address(a["x"]).at(image * a["x_n"])

        def of(axis: str, index: Int) -> tuple[list[Int], list[Value]]:
            """Places, and their shares in every lane."""
            places = [f.address(a[f"{axis}s"], I64).at(index * taps + n).integer() for n in range(taps)]
            shares = [f.address(a[f"{axis}_shares"]).at(index * taps + n).scalar() for n in range(taps)]
            return places, [f.splat(share, lanes) for share in shares]

        rows, down = of("row", row)
        with f.loop(a["out_width"]) as column:
            columns, across = of("column", column.index)
            corners = [[x.at(r * a["x_h"] + c * a["x_w"]) for c in columns] for r in rows]
            y = y_row.at(column.index * a["y_w"])

            def channels(number: Int, mask: Value | None) -> None:
                channel = number * lanes
                loaded = [[f.load(at.at(channel * a["x_c"]), lanes, mask) for at in line] for line in corners]
                lines = [_sum(f, line, across) for line in loaded]
                f.store(y.at(channel * a["y_c"]), _sum(f, lines, down), mask)

            if beside:
                f.each_vector(a["channels"], lanes, channels)
            else:
                with f.loop(a["channels"]) as channel:
                    channels(channel.index, None)
    f.done()


def _sum(f: Function, values: list[Value], shares: list[Value]) -> Value:
    """Σ share · value; a single one as it is."""
    if len(values) == 1:
        return values[0]
    total, *others = (f.vector(value) * f.vector(share) for value, share in zip(values, shares, strict=True))
    for other in others:
        total = total + other
    return total.value
