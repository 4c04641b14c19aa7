"""The transforms of Winograd's convolution as code: pixels to factors of products, sums of products to pixels.

Both sides work on vectors: a patch is p×p vectors (of channels), each anywhere in memory, and a matrix is applied to
its columns and then to its rows,

    spread:   p×p pixels → n×n values, at regular distances            M X Mᵀ
    gather:   n×n values, at regular distances → p×p pixels (+ bias)   M X Mᵀ

Where a patch's pixels are, a table of p·p addresses says, filled by `locate`. For pixels outside the image it holds
the address of a row of zeros (to read) or of a line that nobody reads (to write). So borders, ragged edges, cropping
and any stride between pixels need no code of their own, and an address loaded beside each vector costs nothing that
counts.

The matrices are full of equal and opposite entries, because the points come in pairs ±a (see `cook_toom.py`):
`combine` computes what two rows, or two columns, have in common once. Bᵀ takes 16 vector operations instead of 26, Aᵀ
13 instead of 18; a 6×6 patch is 12 such products for each vector of channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from llvmlite import ir

from ...native.ir import I64, Function, Int, Value, everywhere
from .cook_toom import Matrix
from .functions import apply

Element = Callable[[int, int], Value]


def combine(f: Function, matrix: Sequence[Sequence[float]], vectors: Sequence[Value]) -> list[Value]:
    """`matrix` times a column of vectors, zeros and ones for nothing and what is common to two rows or columns once."""
    if len(matrix) < len(vectors):
        matrix, vectors = _with_sums(f, matrix, vectors)
        return [weighted_sum(f, zip(row, vectors, strict=True)) for row in matrix]
    results: dict[int, Value] = {}
    for i, row in enumerate(matrix):
        if i in results:
            continue
        mirror = next((k for k in range(i + 1, len(matrix)) if _mirrored(row, matrix[k])), None)
        if mirror is None:
            results[i] = weighted_sum(f, zip(row, vectors, strict=True))
        else:
            same = [a == b for a, b in zip(row, matrix[mirror], strict=True)]
            even, odd = (
                weighted_sum(f, [(a, v) for a, v, s in zip(row, vectors, same, strict=True) if s is both])
                for both in (True, False)
            )
            results[i], results[mirror] = f.builder.fadd(even, odd), f.builder.fsub(even, odd)
    return [results[i] for i in range(len(matrix))]


def _mirrored(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether they are equal but for some signs."""
    signs = {p == q for p, q in zip(a, b, strict=True) if p or q}
    return signs == {True, False} and all(abs(p) == abs(q) for p, q in zip(a, b, strict=True))


def _with_sums(
    f: Function, matrix: Sequence[Sequence[float]], vectors: Sequence[Value]
) -> tuple[Sequence[Sequence[float]], Sequence[Value]]:
    """The same product with the sum and the difference of two vectors in their place, where their columns are equal but
    for signs: each row needs one of the two."""
    columns, together = dict(enumerate(zip(*matrix, strict=True))), list[tuple[Sequence[float], Value]]()
    while columns:
        j, column = next(iter(columns.items()))
        del columns[j]
        k = next((k for k, other in columns.items() if list(map(abs, other)) == list(map(abs, column))), None)
        if k is None:
            together.append((column, vectors[j]))
            continue
        pair = list(zip(column, columns.pop(k), strict=True))
        together.append(([p if p == q else 0 for p, q in pair], f.builder.fadd(vectors[j], vectors[k])))
        together.append(([p if p != q else 0 for p, q in pair], f.builder.fsub(vectors[j], vectors[k])))
    return list(zip(*(column for column, _ in together), strict=True)), [vector for _, vector in together]


def weighted_sum(f: Function, terms: Iterable[tuple[float, Value]]) -> Value:
    """Σ factor · vector, beginning with a factor of one where there is one: that costs nothing."""
    terms = sorted((t for t in terms if t[0]), key=lambda t: t[0] != 1)
    (factor, total), *rest = terms
    if factor != 1:
        total = f.builder.fmul(_constant(total, factor), total)
    for factor, vector in rest:
        if factor == 1:
            total = f.builder.fadd(total, vector)
        elif factor == -1:
            total = f.builder.fsub(total, vector)
        else:
            total = f.fma(_constant(vector, factor), vector, total)
    return total


def _constant(like: Value, number: float) -> Value:
    return everywhere(like.type.element, like.type.count, number)


def on_both_axes(f: Function, matrix: Matrix, size: int, element: Element) -> list[list[Value]]:
    """M X Mᵀ for the size×size patch of vectors X that `element(i, j)` loads."""
    numbers = [[float(entry) for entry in row] for row in matrix]
    columns = [combine(f, numbers, [element(i, j) for i in range(size)]) for j in range(size)]
    return [combine(f, numbers, [column[i] for column in columns]) for i in range(len(matrix))]


def locate_function(module: ir.Module, dtype: str, size: int) -> Function:
    """`locate(table, x, x_h, x_w, top, height, left, width, outside, gap_h, gap_w)`: a size×size patch's addresses.

    `x` is pixel (0, 0) of the image; the patch begins at (top, left), and its pixels are gap_h and gap_w apart. Those
    outside height × width get the address `outside`.
    """
    names = "*table *x x_h x_w top height left width *outside gap_h gap_w"
    f = Function(module, f"locate_{size}", names, dtype, internal=True)
    table, x, outside = f.pointer("table", I64), f.pointer("x"), f.pointer("outside")
    x_h, x_w, top, height, left, width = f.integers("x_h x_w top height left width")
    gap_h, gap_w = f.integers("gap_h gap_w")
    columns = [left + gap_w * j for j in range(size)]
    inside = [f.all_of(column.compare(">=", 0), column.compare("<", width)) for column in columns]
    for i in range(size):
        row = top + gap_h * i
        row_inside = f.all_of(row.compare(">=", 0), row.compare("<", height))
        here = x.at(row * x_h)
        for j in range(size):
            pixel = f.pick(f.all_of(row_inside, inside[j]), here.at(columns[j] * x_w), outside)
            table.at(i * size + j).put(f.builder.ptrtoint(pixel.value, I64))
    f.done()
    return f


def spread_function(
    module: ir.Module, dtype: str, lanes: int, matrix: Matrix, *, past_caches: bool = False
) -> Function:
    """`spread(table, channels, out, step, vector_step, following)`: value ξ of vector v to out[ξ·step + v·vector_step].

    Lanes beyond the last channel become zeros. `following` is the table of the patch that comes after this one and is
    asked for meanwhile. Where values go `past_caches`, `out` and the steps are whole vectors.
    """
    size = len(matrix[0])
    name = f"spread_{len(matrix)}x{size}" + ("_past_caches" if past_caches else "")
    f = Function(module, name, "*table channels *out step vector_step *following", dtype, internal=True)
    table, out, following = f.pointer("table", I64), f.pointer("out"), f.pointer("following", I64)
    channels, step, vector_step = f.integers("channels step vector_step")

    def vector(v: Int, mask: Value | None) -> None:
        def element(i: int, j: int) -> Value:
            return f.load(f.address(table.at(i * size + j).integer()).at(v * lanes), lanes, mask)

        for n in range(size * size):
            f.prefetch(f.address(following.at(n).integer()).at(v * lanes))
        to = out.at(v * vector_step)
        for i, row in enumerate(on_both_axes(f, matrix, size, element)):
            for j, value in enumerate(row):
                there = to.at(step * (i * len(matrix) + j))
                if past_caches:
                    f.put_past_caches(there, value)
                else:
                    there.put(value)

    f.each_vector(channels, lanes, vector)
    f.done()
    return f


NO_RESIDUAL = 1
"""In place of a distance: numbers are never one byte apart."""


def gather_function(module: ir.Module, dtype: str, lanes: int, matrix: Matrix, activation: str = "") -> Function:
    """`gather(table, channels, values, step, base, following, residual, outside)`:
    pixels = activation(M X Mᵀ + base + r), from vectors at values[ξ·step + …].

    `base` is one number a channel; lanes beyond `channels` are not stored. r lies `residual` bytes from each pixel but
    those `outside`, or is nothing (`NO_RESIDUAL`).
    """
    size, count = len(matrix), len(matrix[0])
    names = "*table channels *values step *base *following residual outside"
    f = Function(module, f"gather_{count}x{size}", names, dtype, internal=True)
    table, following = f.pointer("table", I64), f.pointer("following", I64)
    values, base = f.pointers("values base")
    channels, step, residual, outside = f.integers("channels step residual outside")

    def vector(v: Int, mask: Value | None, residuals: bool = False) -> None:
        def element(i: int, j: int) -> Value:
            return values.at(step * (i * count + j) + v * lanes).vector(lanes)

        for n in range(size * size):
            f.prefetch(f.address(following.at(n).integer()).at(v * lanes), write=True)
        added = f.load(base.at(v * lanes), lanes, mask)
        for i, row in enumerate(on_both_axes(f, matrix, count, element)):
            for j, value in enumerate(row):
                pixel = table.at(i * size + j).integer()
                value = f.add(value, added)
                if residuals:
                    there = f.choose(pixel.compare("==", outside), outside, pixel + residual)
                    value = f.add(value, f.load(f.address(there).at(v * lanes), lanes, mask))
                f.store(f.address(pixel).at(v * lanes), apply(f, activation, value), mask)

    with f.if_else(residual.compare("==", NO_RESIDUAL)) as (without, with_residual):
        with without:
            f.each_vector(channels, lanes, vector)
        with with_residual:
            f.each_vector(channels, lanes, partial(vector, residuals=True))
    f.done()
    return f
