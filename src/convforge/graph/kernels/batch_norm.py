"""Batch norm as it is trained, with what follows it:

    y = activation((x − mean) / √(var + eps) · weight + bias + residual)

in two passes over memory, and its gradients in two.

Images have their channels side by side, so they are a table of rows (pixels) and channels, and every statistic is one
number a column. The table is cut into blocks of rows, which depend on its size alone: the results have the same bits
however many threads there are.

Forward: (1) each block's means, and the squares of what is left; (2) of all blocks together, in float64, by Chan's,
Golub's and LeVeque's formula for joining two samples; (3) normalise, add, activate.

Backward, with g the gradient behind the activation, h before it, and x̂ = (x − mean) · rstd: (1) each block's Σ h and
Σ h·(x − mean), where h is computed from x on the way, or, where there is a residual, written down as its gradient;
(2) of all blocks, which are the gradients of bias and weight; (3) dx = rstd · weight · (h − mean of h − x̂ · mean of
h·x̂).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from llvmlite import ir

from ...engine.kernels.functions import apply
from ...native.ir import Arguments, Function, Int, Pointer, Value, Vector, kernel, tasks
from ...native.program import Layout, Program, code, step
from ...native.target import DTYPE_BYTES, Target
from ...spec import ceil_div
from .loops import worth

ACTIVATIONS = ("", "relu", "relu6", "silu", "hardswish")
"""Those whose derivative is known here. Behind a residual only the first two: ReLU's derivative can be told from what
it has made."""

_BLOCK_BYTES = 64 << 10
"""Of a block, so that what is read twice is found in L2 the second time."""
_MOST_ROWS = 256
"""Of a block: sums of more numbers would lose digits."""
_LEAST_ROWS = 32
"""Fewer would make the blocks' sums a large part of what is moved."""
_ROWS = 4
"""That are read at a time: a sum in memory is touched once for so many numbers."""

_AHEAD, _AHEAD_WRITTEN = 2048, 1024
"""Bytes: how far ahead numbers that come from memory, or go there, are asked for. The CPU's own prefetchers follow two
or three streams of a thread at two thirds of what memory gives."""

SAVED = ("mean", "rstd", "scale", "shift")
"""What the forward program keeps for the backward one, a row of channels each: y = (x − mean)·scale + shift."""

FORWARD_BUFFERS = (
    "x", "residual", "y", "weight", "bias", "saved", "running_mean", "running_var", "work", "momentum",
)  # fmt: skip
"""What a forward program takes addresses of. `saved` is written, and of a batch's own statistics `running_mean` and
`running_var` are updated. In the place of an address of the momentum it takes the momentum itself, as `bits`."""
BACKWARD_BUFFERS = ("g", "x", "y", "dx", "dh", "saved", "dweight", "dbias", "work")
"""What a backward program takes addresses of. `y` is what the forward one wrote, and `dh` where the residual's gradient
goes; both are only used where there are a residual and an activation: without one, the gradient is `g` itself."""

_FORWARD = Arguments(f"{' '.join(FORWARD_BUFFERS)} eps rows channels block")
_BACKWARD = Arguments(f"{' '.join(BACKWARD_BUFFERS)} means slopes rows channels block")


def bits(number: float) -> int:
    """A number as 64 bits, for a program of integers."""
    (found,) = struct.unpack("<q", struct.pack("<d", number))
    return int(found)


@dataclass(frozen=True)
class Normalisation:
    """What is done to a table of `rows` pixels with `channels` numbers each.

    Args:
        affine: whether there are weight and bias.
        running: whether there are running statistics.
        fixed: whether these are what it is normalised by; else the batch's own are, and they are updated.
    """

    rows: int
    channels: int
    dtype: str
    eps: float
    activation: str = ""
    residual: bool = False
    affine: bool = True
    running: bool = True
    fixed: bool = False

    @property
    def block(self) -> int:
        """Rows of a block."""
        most = _BLOCK_BYTES // (self.channels * DTYPE_BYTES[self.dtype]) // _ROWS * _ROWS
        return max(_LEAST_ROWS, min(_MOST_ROWS, most))

    @property
    def sums_bytes(self) -> int:
        """Of the blocks' sums: two rows of channels each."""
        return 2 * ceil_div(self.rows, self.block) * self.channels * DTYPE_BYTES[self.dtype]

    @property
    def numbers(self) -> dict[str, int]:
        """Those of a kernel's call."""
        return {"eps": bits(self.eps), "rows": self.rows, "channels": self.channels, "block": self.block}


def forward(of: Normalisation, target: Target, threads: int) -> Program:
    """The statistics, and the normalised table."""
    names = ("fixed", "normalise") if of.fixed else ("statistics", "join", "normalise")
    how = of.activation, of.residual, of.affine, of.running, of.fixed
    kernels = code(_build_forward, names, of.dtype, target, *how)
    at = {name: (name, 0) for name in FORWARD_BUFFERS}
    threads = worth(threads, of.rows * of.channels)
    steps = tuple(step(kernels[name], threads, _FORWARD, of.numbers, at) for name in names)
    return Program(steps, 0 if of.fixed else of.sums_bytes, FORWARD_BUFFERS)


def backward(of: Normalisation, target: Target, threads: int) -> Program:
    """The gradients of the table, weight, bias and residual."""
    layout = Layout()
    at = {name: (name, 0) for name in BACKWARD_BUFFERS} | {"work": ("work", layout.take(of.sums_bytes))}
    at |= {name: ("work", layout.take(of.channels * DTYPE_BYTES[of.dtype])) for name in ("means", "slopes")}
    names = ("reduce", "join", "spread")
    kernels = code(_build_backward, names, of.dtype, target, of.activation, of.residual, of.fixed)
    threads = worth(threads, of.rows * of.channels)
    steps = tuple(step(kernels[name], threads, _BACKWARD, of.numbers, at) for name in names)
    return Program(steps, layout.size, BACKWARD_BUFFERS)


# ---------------------------------------------------------------------------------------------------------------------
# Blocks of rows, vectors of channels
# ---------------------------------------------------------------------------------------------------------------------

_DOUBLE = ir.DoubleType()


class _Columns:
    """A vector of channels: what stands there in any row. `wide` is the same in float64."""

    def __init__(self, f: Function, lanes: int, number: Int, mask: Value | None) -> None:
        self.f, self.lanes, self.first, self.mask = f, lanes, number * lanes, mask

    def load(self, row: Pointer) -> Vector:
        return self.f.vector(self.f.load(row.at(self.first), self.lanes, self.mask))

    def store(self, row: Pointer, values: Vector) -> None:
        self.f.store(row.at(self.first), values.value, self.mask)

    def stream(self, row: Pointer) -> Vector:
        """`load`, where each number is needed once: those further on are asked for."""
        self.f.prefetch(row.at(self.first + _AHEAD // DTYPE_BYTES[self.f.dtype]))
        return self.load(row)

    def stream_out(self, row: Pointer, values: Vector) -> None:
        """`store`, likewise."""
        self.f.prefetch(row.at(self.first + _AHEAD_WRITTEN // DTYPE_BYTES[self.f.dtype]), write=True)
        self.store(row, values)

    def clear(self, *rows: Pointer) -> None:
        for row in rows:
            self.store(row, self.f.vector(self.f.zeros(self.lanes)))

    def add(self, row: Pointer, values: Sequence[Vector]) -> None:
        """To what stands in a row; by halves, so that no sum waits for all before it."""
        while len(values) > 1:
            values = [one + other for one, other in zip(values[::2], values[1::2], strict=True)]
        self.store(row, self.load(row) + values[0])

    def load_wide(self, row: Pointer) -> Vector:
        values = self.load(row).value
        return self.f.vector(values if self.f.dtype == "float64" else self.f.builder.fpext(values, self._wide))

    def store_wide(self, row: Pointer, values: Vector) -> None:
        narrow = ir.VectorType(self.f.float, self.lanes)
        value = values.value
        self.store(row, self.f.vector(value if self.f.dtype == "float64" else self.f.builder.fptrunc(value, narrow)))

    def wide(self, number: float) -> Vector:
        return self.f.vector(ir.Constant(self._wide, [number] * self.lanes))

    def number(self, number: Int) -> Vector:
        """An integer in every lane, wide."""
        return self.f.vector(self.f.splat(self.f.builder.sitofp(number.value, _DOUBLE), self.lanes))

    @property
    def _wide(self) -> ir.VectorType:
        return ir.VectorType(_DOUBLE, self.lanes)


def _block_count(a: dict[str, Int]) -> Int:
    return (a["rows"] + a["block"] - 1) // a["block"]


def _rows_of(block: Int, a: dict[str, Int]) -> Int:
    return (a["rows"] - block * a["block"]).at_most(a["block"])


@contextmanager
def _blocks(f: Function, a: dict[str, Int], *, backwards: bool) -> Iterator[tuple[Int, Int, Int]]:
    """Blocks as tasks: each one's number, first row, and rows. `backwards` begins with what was written last before,
    which is what may still be in the caches."""
    count = _block_count(a)
    with tasks(f, count) as task:
        block = count - 1 - task.index if backwards else task.index
        yield block, block * a["block"], _rows_of(block, a)


@contextmanager
def _column_tasks(f: Function, a: dict[str, Int], lanes: int) -> Iterator[_Columns]:
    """Vectors of channels as tasks."""
    with tasks(f, (a["channels"] + lanes - 1) // lanes) as task:
        yield _Columns(f, lanes, task.index, f.first_lanes(a["channels"] - task.index * lanes, lanes))


def _each_column(f: Function, channels: Int, lanes: int, body: Callable[[_Columns], None]) -> None:
    f.each_vector(channels, lanes, lambda number, mask: body(_Columns(f, lanes, number, mask)))


def _each_few_rows(
    f: Function, rows: Int, channels: Int, lanes: int, body: Callable[[_Columns, Int, int], None]
) -> None:
    """`body(vector of channels, first row, how many rows)` for a few rows at a time, until all are done."""
    whole = rows // _ROWS * _ROWS
    with f.loop(whole, step=_ROWS) as few:
        _each_column(f, channels, lanes, lambda at: body(at, few.index, _ROWS))
    with f.loop(rows, start=whole) as one:
        _each_column(f, channels, lanes, lambda at: body(at, one.index, 1))


def _saved(f: Function, a: dict[str, Int]) -> list[Pointer]:
    """Its rows."""
    return [f.address(a["saved"]).at(a["channels"] * row) for row in range(len(SAVED))]


# ---------------------------------------------------------------------------------------------------------------------
# Forward
# ---------------------------------------------------------------------------------------------------------------------


def _build_forward(
    module: ir.Module, dtype: str, target: Target, activation: str, residual: bool, affine: bool, running: bool,
    fixed: bool,
) -> None:  # fmt: skip
    lanes = target.lanes(dtype)
    if fixed:
        _fixed(module, dtype, lanes, affine)
    else:
        _statistics(module, dtype, lanes)
        _join_statistics(module, dtype, lanes, affine, running)
    _normalise(module, dtype, lanes, activation, residual)


def _statistics(module: ir.Module, dtype: str, lanes: int) -> None:
    """Of each block: the means, and the sums of the squares of what is left. The second time it is read from L2."""
    f, a = kernel(module, "statistics", dtype, _FORWARD)
    channels = a["channels"]
    with _blocks(f, a, backwards=True) as (block, first, rows):
        x, means = f.address(a["x"]).at(first * channels), f.address(a["work"]).at(block * channels * 2)
        squares = means.at(channels)
        count = f.splat(f.builder.sitofp(rows.value, f.float), lanes)

        def add(at: _Columns, row: Int, few: int) -> None:
            # Less the first row, or sums of numbers far from zero would lose the digits that variance is made of.
            start = at.load(x)
            at.add(means, [at.stream(x.at((row + n) * channels)) - start for n in range(few)])

        def divide(at: _Columns) -> None:
            at.store(means, at.load(means) / f.vector(count) + at.load(x))

        def add_squares(at: _Columns, row: Int, few: int) -> None:
            mean = at.load(means)
            apart = [at.load(x.at((row + n) * channels)) - mean for n in range(few)]
            at.add(squares, [d * d for d in apart])

        _each_column(f, channels, lanes, lambda at: at.clear(means, squares))
        _each_few_rows(f, rows, channels, lanes, add)
        _each_column(f, channels, lanes, divide)
        _each_few_rows(f, rows, channels, lanes, add_squares)
    f.done()


def _join_statistics(module: ir.Module, dtype: str, lanes: int, affine: bool, running: bool) -> None:
    """Of all blocks: n is a block's rows, m its means, s its squares, N all rows. M = Σ n·m / N, and the squares of
    what M leaves are Σ s + n·(m − M)²."""
    f, a = kernel(module, "join", dtype, _FORWARD)
    channels, momentum = a["channels"], f.builder.bitcast(a["momentum"].value, _DOUBLE)
    with _column_tasks(f, a, lanes) as at:
        work, nothing = f.address(a["work"]), at.wide(0.0)
        with f.loop(_block_count(a), carry=[nothing.value]) as each:
            mean = at.load_wide(work.at(each.index * channels * 2))
            each.carry([mean.fma(at.number(_rows_of(each.index, a)), f.vector(each.values[0])).value])
        all_rows = at.number(a["rows"])
        total = f.vector(each.values[0]) / all_rows
        with f.loop(_block_count(a), carry=[nothing.value]) as each:
            means = work.at(each.index * channels * 2)
            apart = at.load_wide(means) - total
            squares = f.vector(each.values[0]) + at.load_wide(means.at(channels))
            each.carry([(apart * apart).fma(at.number(_rows_of(each.index, a)), squares).value])
        squares = f.vector(each.values[0])
        _save(f, a, at, total, squares / all_rows, affine)
        if running:
            for name, new in (("running_mean", total), ("running_var", squares / (all_rows - 1.0))):
                old = at.load_wide(f.address(a[name]))
                at.store_wide(f.address(a[name]), (new - old).fma(f.vector(f.splat(momentum, lanes)), old))
    f.done()


def _fixed(module: ir.Module, dtype: str, lanes: int, affine: bool) -> None:
    """The running statistics in the place of the batch's."""
    f, a = kernel(module, "fixed", dtype, _FORWARD)
    with _column_tasks(f, a, lanes) as at:
        mean, variance = (at.load_wide(f.address(a[name])) for name in ("running_mean", "running_var"))
        _save(f, a, at, mean, variance, affine)
    f.done()


def _save(f: Function, a: dict[str, Int], at: _Columns, mean: Vector, variance: Vector, affine: bool) -> None:
    eps = f.vector(f.splat(f.builder.bitcast(a["eps"].value, _DOUBLE), at.lanes))
    rstd = 1.0 / (variance + eps).by_llvm("sqrt")
    scale, shift = rstd, at.wide(0.0)
    if affine:
        scale, shift = rstd * at.load_wide(f.address(a["weight"])), at.load_wide(f.address(a["bias"]))
    for row, value in enumerate((mean, rstd, scale, shift)):
        at.store_wide(f.address(a["saved"]).at(a["channels"] * row), value)


def _normalise(module: ir.Module, dtype: str, lanes: int, activation: str, residual: bool) -> None:
    f, a = kernel(module, "normalise", dtype, _FORWARD)
    channels = a["channels"]
    mean, _, scale, shift = _saved(f, a)
    with _blocks(f, a, backwards=False) as (_, first, rows):
        x, y, other = (f.address(a[name]).at(first * channels) for name in ("x", "y", "residual"))

        def body(at: _Columns, row: Int, few: int) -> None:
            saved = at.load(mean), at.load(scale), at.load(shift)
            for n in range(few):
                here = (row + n) * channels
                value = _normalised(at.stream(x.at(here)), *saved)
                if residual:
                    value = value + at.stream(other.at(here))
                at.stream_out(y.at(here), f.vector(apply(f, activation, value.value)))

        _each_few_rows(f, rows, channels, lanes, body)
    f.done()


def _normalised(x: Vector, mean: Vector, scale: Vector, shift: Vector) -> Vector:
    """The same bits wherever it is computed, so that the way back knows what an activation was given."""
    return (x - mean).fma(scale, shift)


# ---------------------------------------------------------------------------------------------------------------------
# Backward
# ---------------------------------------------------------------------------------------------------------------------


def _build_backward(
    module: ir.Module, dtype: str, target: Target, activation: str, residual: bool, fixed: bool
) -> None:
    lanes = target.lanes(dtype)
    _reduce(module, dtype, lanes, activation, residual)
    _join_gradients(module, dtype, lanes, fixed)
    _spread(module, dtype, lanes, activation, residual)


def _reduce(module: ir.Module, dtype: str, lanes: int, activation: str, residual: bool) -> None:
    """Of each block: Σ h and Σ h·(x − mean)."""
    f, a = kernel(module, "reduce", dtype, _BACKWARD)
    channels = a["channels"]
    mean, _, scale, shift = _saved(f, a)
    with _blocks(f, a, backwards=True) as (block, first, rows):
        g, x, y, dh = (f.address(a[name]).at(first * channels) for name in ("g", "x", "y", "dh"))
        sums = f.address(a["work"]).at(block * channels * 2)
        products = sums.at(channels)

        def body(at: _Columns, row: Int, few: int) -> None:
            saved = at.load(mean), at.load(scale), at.load(shift)
            found = []
            for n in range(few):
                here = (row + n) * channels
                value, h = at.stream(x.at(here)), at.stream(g.at(here))
                if activation and residual:
                    h = _before(f, activation, h, at.stream(y.at(here)))
                    at.stream_out(dh.at(here), h)
                elif activation:
                    h = _before(f, activation, h, _normalised(value, *saved))
                found.append((h, h * (value - saved[0])))
            at.add(sums, [h for h, _ in found])
            at.add(products, [product for _, product in found])

        _each_column(f, channels, lanes, lambda at: at.clear(sums, products))
        _each_few_rows(f, rows, channels, lanes, body)
    f.done()


def _join_gradients(module: ir.Module, dtype: str, lanes: int, fixed: bool) -> None:
    """Of all blocks: the gradients of weight and bias, and what they take from dx, which is nothing where statistics do
    not depend on the batch."""
    f, a = kernel(module, "join", dtype, _BACKWARD)
    channels = a["channels"]
    _, rstds, _, _ = _saved(f, a)
    with _column_tasks(f, a, lanes) as at:
        work, nothing = f.address(a["work"]), at.wide(0.0)
        with f.loop(_block_count(a), carry=[nothing.value] * 2) as each:
            sums = work.at(each.index * channels * 2)
            rows = (sums, sums.at(channels))
            each.carry([f.add(old, at.load_wide(row).value) for old, row in zip(each.values, rows, strict=True)])
        total, products = (f.vector(value) for value in each.values)
        rstd, all_rows = at.load_wide(rstds), at.number(a["rows"])
        at.store_wide(f.address(a["dbias"]), total)
        at.store_wide(f.address(a["dweight"]), products * rstd)
        at.store_wide(f.address(a["means"]), nothing if fixed else total / all_rows)
        at.store_wide(f.address(a["slopes"]), nothing if fixed else products * rstd * rstd / all_rows)
    f.done()


def _spread(module: ir.Module, dtype: str, lanes: int, activation: str, residual: bool) -> None:
    """dx = scale · (h − mean of h − (x − mean) · slope)."""
    f, a = kernel(module, "spread", dtype, _BACKWARD)
    channels = a["channels"]
    mean, _, scale, shift = _saved(f, a)
    with _blocks(f, a, backwards=False) as (_, first, rows):
        written = "dh" if activation and residual else "g"
        behind, x, dx = (f.address(a[name]).at(first * channels) for name in (written, "x", "dx"))

        def body(at: _Columns, row: Int, few: int) -> None:
            saved = at.load(mean), at.load(scale), at.load(shift)
            mean_of_h, slope = (at.load(f.address(a[name])) for name in ("means", "slopes"))
            for n in range(few):
                here = (row + n) * channels
                value, h = at.stream(x.at(here)), at.stream(behind.at(here))
                if activation and not residual:
                    h = _before(f, activation, h, _normalised(value, *saved))
                at.stream_out(dx.at(here), (h - mean_of_h - (value - saved[0]) * slope) * saved[1])

        _each_few_rows(f, rows, channels, lanes, body)
    f.done()


def _before(f: Function, activation: str, g: Vector, value: Vector) -> Vector:
    """The gradient before the activation, from that behind it and the value before it (for ReLU, behind it will do)."""
    b, nothing = f.builder, g.like(0.0)
    if activation == "relu":
        return nothing.where(b.fcmp_ordered("<=", value.value, nothing.value), g)
    if activation == "relu6":
        below = b.fcmp_ordered("<=", value.value, nothing.value)
        return nothing.where(b.or_(below, b.fcmp_ordered(">=", value.value, value.like(6.0).value)), g)
    if activation == "silu":
        gate = f.vector(apply(f, "sigmoid", value.value))
        return g * gate * (value * (1.0 - gate) + 1.0)
    slope = value.like(1.0).where(value.above(3.0), value.fma(1 / 3, 0.5))  # of hard-swish
    return nothing.where(value.below(-3.0), g * slope)
