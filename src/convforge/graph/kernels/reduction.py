"""Sums, means, largest and smallest numbers along axes.

The axes are ordered as (kept, reduced, side by side): a result for each of the first and of the last, in vectors along
the last where it lies side by side, as the channels of images do; else in vectors along the innermost of the reduced
where that does; else number by number.
"""

from __future__ import annotations

from llvmlite import ir

from ...native.ir import Arguments, Function, Int, Pointer, Value, kernel, tasks
from ...native.program import Step, code, step
from ...native.target import DTYPE_BYTES, Target
from ..tensor import Tensor
from .loops import Rows, worth

_ARGUMENTS = Arguments(
    "x y outer0 outer1 x_0 x_1 y_0 y_1 reduced0 reduced1 reduced2 x_r0 x_r1 x_r2 inner x_i y_i count"
)
_VECTORS = 4


def reduction(
    kind: str, axes: tuple[int, ...], x: Tensor, y: Tensor, dtype: str, target: Target, threads: int
) -> tuple[Step, ...]:
    """y = x reduced along these axes; y has x's other axes, perhaps with size 1 in place of these.

    Raises `ValueError` where the kept axes do not make three loops or fewer.
    """
    if not y.numbers:
        return ()
    reduced = {axis % len(x.shape) for axis in axes}
    kept = [axis for axis in range(len(x.shape)) if axis not in reduced]
    y_axes = kept if len(y.shape) == len(x.shape) else list(range(len(kept)))
    of_x = Tensor(x.slot, tuple(x.shape[a] for a in kept), tuple(x.strides[a] for a in kept))
    of_y = Tensor(y.slot, of_x.shape, tuple(y.strides[a] for a in y_axes))
    outer = Rows.of((of_x, of_y), depth=3)
    through = Tensor(x.slot, tuple(x.shape[a] for a in sorted(reduced)), tuple(x.strides[a] for a in sorted(reduced)))
    inner = Rows.of((through,), depth=3)
    numbers = {
        "outer0": outer.sizes[0], "outer1": outer.sizes[1], "inner": outer.sizes[2], "count": through.numbers,
        "x_0": outer.strides[0][0], "x_1": outer.strides[0][1], "x_i": outer.strides[0][2],
        "y_0": outer.strides[1][0], "y_1": outer.strides[1][1], "y_i": outer.strides[1][2],
    }  # fmt: skip
    numbers |= {f"reduced{n}": size for n, size in enumerate(inner.sizes)}
    numbers |= {f"x_r{n}": step for n, step in enumerate(inner.strides[0])}
    if outer.strides[0][2] == outer.strides[1][2] == 1:
        mode = "beside"
    else:
        mode = "along" if inner.strides[0][2] == 1 else "apart"
    at = {"x": x.place(DTYPE_BYTES[dtype]), "y": y.place(DTYPE_BYTES[dtype])}
    kernels = code(_build, ("reduce",), dtype, target, kind, mode)
    return (step(kernels["reduce"], worth(threads, x.numbers), _ARGUMENTS, numbers, at),)


_NOTHING = {"mean": 0.0, "sum": 0.0, "max": float("-inf"), "min": float("inf"), "prod": 1.0}


def _join(f: Function, kind: str, a: Value, b: Value) -> Value:
    if kind in ("max", "min"):
        return f.vector(a).by_llvm(f"{kind}imum", f.vector(b)).value
    return f.builder.fmul(a, b) if kind == "prod" else f.add(a, b)


def _build(module: ir.Module, dtype: str, target: Target, kind: str, mode: str) -> None:
    lanes = target.lanes(dtype)
    f, a = kernel(module, "reduce", dtype, _ARGUMENTS)
    width = {"beside": _VECTORS * lanes, "along": 1, "apart": 1}[mode]
    blocks = (a["inner"] + width - 1) // width
    with tasks(f, a["outer0"] * a["outer1"] * blocks) as task:
        outer, first = task.index // blocks, task.index % blocks * width
        i, j = outer // a["outer1"], outer % a["outer1"]
        x = f.address(a["x"]).at(i * a["x_0"] + j * a["x_1"] + first * a["x_i"])
        y = f.address(a["y"]).at(i * a["y_0"] + j * a["y_1"] + first * a["y_i"])
        if mode == "beside":
            left = a["inner"] - first
            with f.if_else(left.compare(">=", width)) as (whole, cut):
                with whole:
                    for n, value in enumerate(_reduced(f, a, kind, x, lanes, _VECTORS, None)):
                        y.at(n * lanes).put(value)
                with cut:

                    def vector(number: Int, mask: Value | None) -> None:
                        (value,) = _reduced(f, a, kind, x.at(number * lanes), lanes, 1, mask)
                        f.store(y.at(number * lanes), value, mask)

                    f.each_vector(left, lanes, vector)
        else:
            y.put(_along(f, a, kind, x, lanes if mode == "along" else 1))
    f.done()


def _reduced(
    f: Function, a: dict[str, Int], kind: str, x: Pointer, lanes: int, vectors: int, mask: Value | None
) -> list[Value]:
    start = [f.splat(ir.Constant(f.float, _NOTHING[kind]), lanes)] * vectors
    with f.loop(a["reduced0"], carry=start) as r0, f.loop(a["reduced1"], carry=r0.values) as r1:
        line = x.at(r0.index * a["x_r0"] + r1.index * a["x_r1"])
        with f.loop(a["reduced2"], carry=r1.values) as r2:
            at = line.at(r2.index * a["x_r2"])
            values = [f.load(at.at(n * lanes), lanes, mask) for n in range(vectors)]
            r2.carry([_join(f, kind, old, new) for old, new in zip(r2.values, values, strict=True)])
        r1.carry(r2.values)
        r0.carry(r1.values)
    return [_finished(f, a, kind, value) for value in r0.values]


def _finished(f: Function, a: dict[str, Int], kind: str, value: Value) -> Value:
    if kind != "mean":
        return value
    count = f.builder.sitofp(a["count"].value, f.float)
    if not isinstance(value.type, ir.VectorType):
        return f.builder.fdiv(value, count)
    return f.builder.fdiv(value, f.splat(count, value.type.count))


def _along(f: Function, a: dict[str, Int], kind: str, x: Pointer, lanes: int) -> Value:
    """One result: vectors along the innermost reduced axis, whose lanes are joined at the end."""
    nothing = ir.Constant(f.float, _NOTHING[kind])
    whole = a["reduced2"] // lanes * lanes
    with f.loop(a["reduced0"], carry=[f.splat(nothing, lanes)]) as r0, f.loop(a["reduced1"], carry=r0.values) as r1:
        line = x.at(r0.index * a["x_r0"] + r1.index * a["x_r1"])
        if lanes == 1:
            with f.loop(a["reduced2"], carry=r1.values) as r2:
                value = f.splat(line.at(r2.index * a["x_r2"]).scalar(), 1)
                r2.carry([_join(f, kind, r2.values[0], value)])
            r1.carry(r2.values)
        else:
            with f.loop(whole, step=lanes, carry=r1.values) as r2:
                r2.carry([_join(f, kind, r2.values[0], line.at(r2.index).vector(lanes))])
            rest = a["reduced2"] - whole

            def last(values: list[Value] = r2.values, line: Pointer = line) -> list[Value]:
                mask = f.first_lanes(rest, lanes)
                vector = f.load_masked(line.at(whole), lanes, mask)
                vector = f.builder.select(mask, vector, f.splat(nothing, lanes))
                return [_join(f, kind, values[0], vector)]

            r1.carry(f.only_if(rest.compare(">", 0), r2.values, last))
        r0.carry(r1.values)
    return _finished(f, a, kind, joined_lanes(f, kind, r0.values[0]))


def joined_lanes(f: Function, kind: str, vector: Value) -> Value:
    """One number of a vector's lanes, halved again and again."""
    lanes = vector.type.count
    while lanes > 1:
        lanes //= 2
        low, high = (f.shuffle(vector, vector, range(first, first + lanes)) for first in (0, lanes))
        vector = _join(f, kind, low, high)
    return f.builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))
