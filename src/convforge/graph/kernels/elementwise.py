"""Number by number: y = an expression of as many tensors as it needs, in one pass over memory.

Any strides will do; those of size 0 repeat a number or a row (broadcasting). A tensor without inputs is filled.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeAlias

from llvmlite import ir

from ...engine.kernels.functions import apply
from ...native.ir import Arguments, Function, Int, Pointer, Value, kernel, tasks
from ...native.program import Step, code, step
from ...native.target import DTYPE_BYTES, Target
from ..tensor import Tensor
from .loops import Rows, worth

Expression: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
"""Steps, each of which is computed from inputs (0 …) and the steps before it (counted on from the inputs): a function
of one of them by its name (`functions.spelled`), arithmetic between several (`ARITHMETIC`), or a number ("=0.5") of
none. The last one is the result."""


def _maximum(f: Function, a: Value, b: Value) -> Value:
    return f.vector(a).by_llvm("maximum", f.vector(b)).value


def _minimum(f: Function, a: Value, b: Value) -> Value:
    return f.vector(a).by_llvm("minimum", f.vector(b)).value


def _prelu(f: Function, x: Value, slope: Value) -> Value:
    return (f.vector(x) * f.vector(slope)).where(f.vector(x).below(0.0), f.vector(x)).value


def _where(f: Function, condition: Value, x: Value, other: Value) -> Value:
    chosen = f.builder.fcmp_unordered("!=", condition, f.vector(condition).like(0.0).value)
    return f.builder.select(chosen, x, other)


def _compare(relation: str) -> Callable[[Function, Value, Value], Value]:
    """1 or 0."""

    def compared(f: Function, a: Value, b: Value) -> Value:
        one = f.vector(a).like(1.0)
        how = f.builder.fcmp_unordered if relation == "!=" else f.builder.fcmp_ordered
        return one.where(how(relation, a, b), 0.0).value

    return compared


ARITHMETIC: dict[str, Callable[..., Value]] = {
    "add": lambda f, a, b: f.builder.fadd(a, b),
    "sub": lambda f, a, b: f.builder.fsub(a, b),
    "mul": lambda f, a, b: f.builder.fmul(a, b),
    "div": lambda f, a, b: f.builder.fdiv(a, b),
    "max": _maximum,
    "min": _minimum,
    "pow": lambda f, a, b: f.vector(a).by_llvm("pow", f.vector(b)).value,
    "prelu": _prelu,
    "where": _where,
    "equal": _compare("=="),
    "not_equal": _compare("!="),
    "less": _compare("<"),
    "less_equal": _compare("<="),
    "greater": _compare(">"),
    "greater_equal": _compare(">="),
}


def elementwise(
    expression: Expression, inputs: Sequence[Tensor], y: Tensor, dtype: str, target: Target, threads: int
) -> tuple[Step, ...]:
    """y = expression(inputs), each of which broadcasts to y's shape."""
    if not y.numbers:
        return ()
    tensors = (y, *(x.expanded(y.shape) for x in inputs))
    if sum(size != 1 for size in y.shape) > 4:
        try:
            Rows.of(tensors)
        except ValueError:  # an axis too many: a step for each of its rows
            axis = min((size, a) for a, size in enumerate(y.shape) if size != 1)[1]
            parts = [[t.sliced(axis, range(row, row + 1)) for t in tensors] for row in range(y.shape[axis])]
            steps = [elementwise(expression, given, part, dtype, target, threads) for part, *given in parts]
            return tuple(itertools.chain.from_iterable(steps))
    rows = Rows.of(tensors)
    modes = tuple({0: "same", 1: "beside"}.get(strides[-1], "apart") for strides in rows.strides)
    if modes[0] == "same":
        modes = ("beside", *modes[1:])
    names = [f"t{n}" for n in range(len(tensors))]
    rows_a_task, piece = rows.cut
    numbers = {"rows_a_task": rows_a_task, "piece": piece}
    numbers |= {f"size{axis}": size for axis, size in enumerate(rows.sizes)}
    for name, strides in zip(names, rows.strides, strict=True):
        numbers |= {f"{name}_{axis}": stride for axis, stride in enumerate(strides)}
    at = {name: t.place(DTYPE_BYTES[dtype]) for name, t in zip(names, tensors, strict=True)}
    kernels = code(_build, ("elementwise",), dtype, target, expression, modes)
    team = min(worth(threads, y.numbers * len(tensors)), rows.tasks)
    return (step(kernels["elementwise"], team, _arguments(len(tensors)), numbers, at),)


def _arguments(tensors: int) -> Arguments:
    each = " ".join(f"t{n} t{n}_0 t{n}_1 t{n}_2 t{n}_3" for n in range(tensors))
    return Arguments(f"size0 size1 size2 size3 rows_a_task piece {each}")


def _build(module: ir.Module, dtype: str, target: Target, expression: Expression, modes: tuple[str, ...]) -> None:
    lanes = target.lanes(dtype)
    f, a = kernel(module, "elementwise", dtype, _arguments(len(modes)))
    row_blocks = (a["size2"] + a["rows_a_task"] - 1) // a["rows_a_task"]
    pieces = (a["size3"] + a["piece"] - 1) // a["piece"]
    with tasks(f, a["size0"] * a["size1"] * row_blocks * pieces) as task:
        rest, first = task.index // pieces, task.index % pieces * a["piece"]
        block, outer = rest % row_blocks, rest // row_blocks
        begin, count = block * a["rows_a_task"], (a["size3"] - first).at_most(a["piece"])
        end = (begin + a["rows_a_task"]).at_most(a["size2"])
        with f.loop(end, start=begin) as row:
            at = []
            for n in range(len(modes)):
                i, j = outer // a["size1"], outer % a["size1"]
                offset = i * a[f"t{n}_0"] + j * a[f"t{n}_1"] + row.index * a[f"t{n}_2"] + first * a[f"t{n}_3"]
                at.append(f.address(a[f"t{n}"]).at(offset))
            _row(f, a, expression, modes, at, count, lanes)
    f.done()


def _row(
    f: Function, a: dict[str, Int], expression: Expression, modes: tuple[str, ...], at: list[Pointer], count: Int,
    lanes: int,
) -> None:  # fmt: skip
    repeated = {n: f.splat(at[n].scalar(), lanes) for n, mode in enumerate(modes) if n and mode == "same"}

    def vectors(number: Int, mask: Value | None) -> None:
        given = [repeated.get(n) or f.load(at[n].at(number * lanes), lanes, mask) for n in range(1, len(modes))]
        f.store(at[0].at(number * lanes), evaluate(f, expression, given, lanes), mask)

    if "apart" not in modes:
        f.each_vector(count, lanes, vectors)
        return
    with f.loop(count) as one:  # numbers that lie apart: one by one
        given = [f.splat(at[n].at(one.index * a[f"t{n}_3"]).scalar(), 1) for n in range(1, len(modes))]
        result = evaluate(f, expression, given, 1)
        at[0].at(one.index * a["t0_3"]).put(f.builder.extract_element(result, ir.Constant(ir.IntType(32), 0)))


def evaluate(f: Function, expression: Expression, given: list[Value], lanes: int) -> Value:
    """The expression of vectors."""
    values = list(given)
    for word, operands in expression:
        if word.startswith("="):
            values.append(f.splat(ir.Constant(f.float, float(word[1:])), lanes))
        elif len(operands) == 1:
            values.append(apply(f, word, values[operands[0]]))
        else:
            values.append(ARITHMETIC[word](f, *(values[n] for n in operands)))
    return values[-1]
