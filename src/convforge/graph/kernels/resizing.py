"""Images of another size: every output pixel is made of the pixels of two rows and two columns of the input.

Which rows and columns, and the second one's share, is worked out beforehand, a table an axis; the nearest neighbour is
one with the share 0. So padding by reflection and by repetition is the same kernel.
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
    linear: bool, tables: Sequence[Place], x: Tensor, y: Tensor, dtype: str, target: Target, threads: int
) -> tuple[Step, ...]:
    """y = x resized. `tables` are where the pairs (first, second) of rows and of columns lie, as int64, and the second
    ones' shares, as numbers of the dtype; not `linear`: the first ones alone count."""
    images, channels, height, width = y.shape
    numbers = x.steps("x") | y.steps("y")
    numbers |= {"images": images, "channels": channels, "out_height": height, "out_width": width}
    names = ("rows", "columns", "row_shares", "column_shares")
    at = {"x": x.place(DTYPE_BYTES[dtype]), "y": y.place(DTYPE_BYTES[dtype])} | dict(zip(names, tables, strict=True))
    beside = x.strides[1] == y.strides[1] == 1
    kernels = code(_build, ("resize",), dtype, target, linear, beside)
    return (step(kernels["resize"], worth(threads, y.numbers * 3), _ARGUMENTS, numbers, at),)


def _build(module: ir.Module, dtype: str, target: Target, linear: bool, beside: bool) -> None:
    lanes = target.lanes(dtype) if beside else 1
    f, a = kernel(module, "resize", dtype, _ARGUMENTS)
    with tasks(f, a["images"] * a["out_height"]) as task:
        image, row = task.index // a["out_height"], task.index % a["out_height"]
        y_row = f.address(a["y"]).at(image * a["y_n"] + row * a["y_h"])
        x = f.address(a["x"]).at(image * a["x_n"])
        taken = 2 if linear else 1
        rows = [f.address(a["rows"], I64).at(row * 2 + n).integer() for n in range(taken)]
        down = f.splat(f.address(a["row_shares"]).at(row).scalar(), lanes)
        with f.loop(a["out_width"]) as column:
            columns = [f.address(a["columns"], I64).at(column.index * 2 + n).integer() for n in range(taken)]
            across = f.splat(f.address(a["column_shares"]).at(column.index).scalar(), lanes)
            corners = [[x.at(r * a["x_h"] + c * a["x_w"]) for c in columns] for r in rows]
            y = y_row.at(column.index * a["y_w"])

            def channels(number: Int, mask: Value | None) -> None:
                channel = number * lanes
                loaded = [[f.load(at.at(channel * a["x_c"]), lanes, mask) for at in line] for line in corners]
                lines = [_between(f, line, across) for line in loaded]
                f.store(y.at(channel * a["y_c"]), _between(f, lines, down), mask)

            if beside:
                f.each_vector(a["channels"], lanes, channels)
            else:
                with f.loop(a["channels"]) as channel:
                    channels(channel.index, None)
    f.done()


def _between(f: Function, values: list[Value], share: Value) -> Value:
    """(1 − share) · first + share · second, which is the first where there is no second."""
    if len(values) == 1:
        return values[0]
    first, second = (f.vector(value) for value in values)
    return ((1.0 - f.vector(share)) * first + f.vector(share) * second).value
