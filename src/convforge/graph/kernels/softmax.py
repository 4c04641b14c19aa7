"""Softmax along an axis whose numbers lie side by side, or its logarithm.

    y = e^(x − m) / Σ e^(x − m),  m = max x

With the largest number taken off, no exponential is above 1, and the sum is at least 1.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from ...engine.kernels.functions import apply
from ...native.ir import Arguments, Function, Int, Value, kernel, tasks
from ...native.program import Step, code, step
from ...native.target import DTYPE_BYTES, Target
from ..tensor import Tensor
from .loops import Rows, worth
from .reduction import joined_lanes

_ARGUMENTS = Arguments("x y size0 size1 size2 x_0 x_1 x_2 y_0 y_1 y_2 length")


def softmax(log: bool, axis: int, x: Tensor, y: Tensor, dtype: str, target: Target, threads: int) -> tuple[Step, ...]:
    """y = softmax of x along the axis, over which both step one number at a time.

    Raises `ValueError` where the other axes do not make three loops or fewer.
    """
    others = [a for a in range(len(x.shape)) if a != axis % len(x.shape)]
    of_x, of_y = (
        Tensor(t.slot, tuple(t.shape[a] for a in others), tuple(t.strides[a] for a in others)) for t in (x, y)
    )
    rows = Rows.of((of_x, of_y), depth=3)
    numbers = {f"size{n}": size for n, size in enumerate(rows.sizes)} | {"length": x.shape[axis]}
    for name, strides in zip("xy", rows.strides, strict=True):
        numbers |= {f"{name}_{n}": stride for n, stride in enumerate(strides)}
    at = {"x": x.place(DTYPE_BYTES[dtype]), "y": y.place(DTYPE_BYTES[dtype])}
    kernels = code(_build, ("softmax",), dtype, target, log)
    return (step(kernels["softmax"], worth(threads, 8 * y.numbers), _ARGUMENTS, numbers, at),)


def _build(module: ir.Module, dtype: str, target: Target, log: bool) -> None:
    lanes = target.lanes(dtype)
    f, a = kernel(module, "softmax", dtype, _ARGUMENTS)
    least = ir.Constant(f.float, float("-inf"))
    with tasks(f, a["size0"] * a["size1"] * a["size2"]) as task:
        rest, k = task.index // a["size2"], task.index % a["size2"]
        i, j = rest // a["size1"], rest % a["size1"]
        x, y = (f.address(a[name]).at(i * a[f"{name}_0"] + j * a[f"{name}_1"] + k * a[f"{name}_2"]) for name in "xy")
        largest = _over(f, a["length"], lanes, least, "max", lambda at, mask: f.load(x.at(at), lanes, mask))
        shift = f.splat(largest, lanes)

        def power(at: Int, mask: Value | None) -> Value:
            value = f.builder.fsub(f.load(x.at(at), lanes, mask), shift)
            result = apply(f, "exp", value)
            if not log:
                f.store(y.at(at), result, mask)
            return result

        total = _over(f, a["length"], lanes, ir.Constant(f.float, 0.0), "sum", power)
        if log:
            (logarithm,) = [apply(f, "log", f.splat(total, lanes))]

        def finish(number: Int, mask: Value | None) -> None:
            at = number * lanes
            if log:
                value = f.builder.fsub(f.load(x.at(at), lanes, mask), shift)
                f.store(y.at(at), f.builder.fsub(value, logarithm), mask)
            else:
                value = f.load(y.at(at), lanes, mask)
                f.store(y.at(at), f.builder.fdiv(value, f.splat(total, lanes)), mask)

        f.each_vector(a["length"], lanes, finish)
    f.done()


def _over(
    f: Function, length: Int, lanes: int, start: Value, kind: str, values: Callable[[Int, Value | None], Value]
) -> Value:
    """The largest or the sum of a row's values, which `values(place, mask)` writes the code for."""

    def join(old: Value, new: Value) -> Value:
        return f.vector(old).by_llvm("maximum", f.vector(new)).value if kind == "max" else f.add(old, new)

    whole = length // lanes * lanes
    with f.loop(whole, step=lanes, carry=[f.splat(start, lanes)]) as part:
        part.carry([join(part.values[0], values(part.index, None))])
    rest = length - whole

    def last() -> list[Value]:
        mask = f.first_lanes(rest, lanes)
        value = f.builder.select(mask, values(whole, mask), f.splat(start, lanes))
        return [join(part.values[0], value)]

    return joined_lanes(f, kind, f.only_if(rest.compare(">", 0), part.values, last)[0])
