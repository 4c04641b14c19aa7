"""The register-tiled inner kernels that the algorithms share.

A tile of R rows × V vectors of sums is held in registers. Each step loads V vectors, broadcasts R numbers and does R·V
multiply-adds. On AVX-512 (two FMAs and two loads a cycle) a step of 14×2 is 28 FMAs, 14 cycles, against 16 loads,
8 cycles: the multipliers are the limit, as they should be. The 28 independent sums also cover the FMA's latency of four
cycles, for which 8 are enough; so tiles down to 4 rows still run at full rate, and a row of 15 pixels is done as 8 + 7.

There are two kernels, because a convolution sums over two different things:

- `forward_tile`: rows are output pixels, vectors are output channels, the sum runs over taps and input channels;
- `gradient_tile`: rows are weights (a tap and an input channel), vectors are output channels, the sum runs over pixels.

Both exist `lanewise` as well, for depthwise convolution: there each lane has an input channel of its own, so the input
is loaded as vectors instead of being broadcast. A step then has 28 + 2 loads for 28 FMAs and takes 15 cycles.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from ..target import Target
from .epilogue import apply
from .ir import I64, PTR, Function, Int, Pointer, Value


def forward_tile(
    module: ir.Module, dtype: str, target: Target, rows: int, vectors: int, lanewise: bool = False, activation: str = ""
) -> Function:
    """Sums for `rows` neighbouring output pixels and `vectors` vectors of output channels.

        y[r, :] = base[r, :] + b + Σ_u Σ_v Σ_l  x[r·pixel_step + u·x_u + v·x_v + l] · w[(u·V_count + v)·length + l, :]

    A run of `length` numbers lies side by side in x: the channels of one pixel, or, where pixels touch, the channels of
    a whole row of taps; `u` and `v` count the runs. That `pixel_step` is a number of the call, not of the code, costs
    an addition a row and step, which the integer units do beside the multipliers; in return one compiled tile serves
    every convolution.

    Arguments: x, x_u, x_v, u_count, v_count, length, w, y, y_step, bias, base, base_step, channels, pixel_step,
    finished, ahead_step. `bias` is b, or zeros: where the sums begin. `base` is what they are added to: y itself when a
    part of the sum was done before, a residual, or nothing (base_step 0). Of the vectors' lanes, the first `channels`
    are stored.
    When the sum is `finished` (1, else 0), the activation is applied to what is stored. Each step asks for the cache
    line `ahead_step` numbers further on behind the tile: where a pixel is one run and pixels touch, a cache line a step
    is the next tile's input just in time, which counts where the input comes from memory. 0 asks for nothing new.
    """
    lanes = target.lanes(dtype)
    name = f"forward_{rows}x{vectors}"
    types = [PTR, I64, I64, I64, I64, I64, PTR, PTR, I64, PTR, PTR, I64, I64, I64, I64, I64]
    f = Function(module, name, types, dtype, internal=True)
    x, w, y, bias, base = (f.pointer(n) for n in (0, 6, 7, 9, 10))
    x_u, x_v, u_count, v_count, length, y_step, base_step, channels, pixel_step, finished, ahead_step = (
        f.integer(n) for n in (1, 2, 3, 4, 5, 8, 11, 12, 13, 14, 15)
    )
    tile = [(r, v) for r in range(rows) for v in range(vectors)]

    # Partial vectors are loaded and stored under a mask; that costs nothing in the inner loop.
    masks = [f.first_lanes(channels - v * lanes, lanes) for v in range(vectors)]
    biases = [f.load_masked(bias.at(v * lanes), lanes, masks[v]) for v in range(vectors)]
    sums: list[Value] = [biases[v] for _, v in tile]
    step = vectors * lanes
    with f.loop(u_count, carry=[w.value, *sums]) as tap_row:
        with f.loop(v_count, carry=tap_row.values) as tap_run:
            run = x.at(tap_row.index * x_u + tap_run.index * x_v)
            ahead = run.at(pixel_step * rows)
            with f.loop(length, carry=tap_run.values) as c:
                weight_row, *sums = c.values
                f.prefetch(ahead.at(c.index * ahead_step))
                c.carry(
                    [
                        _at(f, weight_row, step),
                        *_products(f, run.at(c.index), pixel_step, weight_row, lanes, tile, sums, lanewise),
                    ]
                )
            tap_run.carry(c.values)
        tap_row.carry(tap_run.values)
    _, *sums = tap_row.values
    whole, cut, has_base = channels.compare(">=", step), channels.compare("<", step), base_step.compare("!=", 0)
    places = [base.at(base_step * r + v * lanes) for r, v in tile]

    def with_base(load: Callable[[Pointer, int], Value]) -> list[Value]:
        before = [load(place, v) for place, (_, v) in zip(places, tile, strict=True)]
        return [f.add(total, number) for total, number in zip(sums, before, strict=True)]

    sums = f.only_if(f.all_of(has_base, whole), sums, lambda: with_base(lambda place, v: place.vector(lanes)))
    sums = f.only_if(f.all_of(has_base, cut), sums, lambda: with_base(lambda p, v: f.load_masked(p, lanes, masks[v])))
    if activation:
        sums = f.only_if(finished.compare("!=", 0), sums, lambda: [apply(f, activation, total) for total in sums])
    with f.if_else(whole) as (full, partial):
        with full:
            for (r, v), total in zip(tile, sums, strict=True):
                y.at(y_step * r + v * lanes).put(total)
        with partial:
            for (r, v), total in zip(tile, sums, strict=True):
                f.put_masked(y.at(y_step * r + v * lanes), total, masks[v])
    f.done()
    return f


def gradient_tile(
    module: ir.Module, dtype: str, target: Target, rows: int, vectors: int, lanewise: bool = False
) -> Function:
    """Adds to the gradients of `rows` neighbouring weights × `vectors` vectors of output channels.

        dw[r, :] += Σ_p Σ_q  x[r·row_step + p·x_p + q·x_q] · dy[p·q_count + q, :]

    The rows are neighbours in x (row_step 1) or, lanewise, taps that are row_step apart.

    Arguments: x, x_p, x_q, p_count, q_count, dy, dw, row_step, dw_step, channels, add. Rows of dy are `vectors` vectors
    long and dense; those of dw are dw_step apart. Where `add` is 0, dw is not read, and begins with these sums. Of the
    vectors' lanes, the first `channels` are stored.
    """
    lanes = target.lanes(dtype)
    name = f"gradient_{rows}x{vectors}"
    f = Function(module, name, [PTR, I64, I64, I64, I64, PTR, PTR, I64, I64, I64, I64], dtype, internal=True)
    row_step = f.integer(7) if lanewise else 1
    x, dy, dw = f.pointer(0), f.pointer(5), f.pointer(6)
    x_p, x_q, p_count, q_count, dw_step, channels, more = (f.integer(n) for n in (1, 2, 3, 4, 8, 9, 10))
    tile = [(r, v) for r in range(rows) for v in range(vectors)]
    step = vectors * lanes

    sums: list[Value] = [f.zeros(lanes) for _ in tile]
    with f.loop(p_count, carry=[dy.value, *sums]) as p:
        with f.loop(q_count, carry=[x.at(p.index * x_p).value, *p.values]) as q:
            pixel, dy_row, *sums = q.values
            products = _products(f, Pointer(f.builder, pixel, f.float), row_step, dy_row, lanes, tile, sums, lanewise)
            q.carry([_at(f, pixel, x_q), _at(f, dy_row, step), *products])
        p.carry(q.values[1:])
    _, *sums = p.values
    adding = more.compare("!=", 0)
    with f.if_else(channels.compare(">=", step)) as (full, partial):
        with full, f.if_else(adding) as (added, begun):
            with added:
                for (r, v), total in zip(tile, sums, strict=True):
                    here = dw.at(dw_step * r + v * lanes)
                    here.put(f.add(here.vector(lanes), total))
            with begun:
                for (r, v), total in zip(tile, sums, strict=True):
                    dw.at(dw_step * r + v * lanes).put(total)
        with partial:
            stored = [f.first_lanes(channels - v * lanes, lanes) for v in range(vectors)]
            read = [f.builder.and_(mask, f.splat(adding, lanes)) for mask in stored]
            for (r, v), total in zip(tile, sums, strict=True):
                here = dw.at(dw_step * r + v * lanes)
                f.put_masked(here, f.add(f.load_masked(here, lanes, read[v]), total), stored[v])
    f.done()
    return f


def product_tile(module: ir.Module, dtype: str, target: Target, rows: int, vectors: int) -> Function:
    """A tile of a plain matrix product.

        y[r, :] = Σ_l  x[r·row_step + l·step] · w[l, :]        (+ y[r, :] where `add` is not 0)

    Arguments: x, row_step, step, w, count, y, add. Rows of w and y are `vectors` vectors long and dense.
    """
    lanes = target.lanes(dtype)
    f = Function(module, f"product_{rows}x{vectors}", [PTR, I64, I64, PTR, I64, PTR, I64], dtype, internal=True)
    x, w, y = f.pointer(0), f.pointer(3), f.pointer(5)
    row_step, step, count, add = (f.integer(n) for n in (1, 2, 4, 6))
    tile = [(r, v) for r in range(rows) for v in range(vectors)]
    with f.loop(count, carry=[x.value, w.value, *(f.zeros(lanes) for _ in tile)]) as c:
        here, weights, *sums = c.values
        products = _products(f, Pointer(f.builder, here, f.float), row_step, weights, lanes, tile, sums, False)
        c.carry([_at(f, here, step), _at(f, weights, vectors * lanes), *products])
    _, _, *sums = c.values
    with f.if_else(add.compare("!=", 0)) as (more, alone):
        with more:
            for n, total in enumerate(sums):
                y.at(n * lanes).put(f.add(total, y.at(n * lanes).vector(lanes)))
        with alone:
            for n, total in enumerate(sums):
                y.at(n * lanes).put(total)
    f.done()
    return f


def _products(
    f: Function,
    x: Pointer,
    row_step: Int | int,
    w: Value,
    lanes: int,
    tile: list[tuple[int, int]],
    sums: list[Value],
    lanewise: bool,
) -> list[Value]:
    """One step of a tile: sums[r, v] + x[r·row_step] · w[v], where lanewise x has vectors like w."""
    vectors = 1 + max(v for _, v in tile)
    weights = [Pointer(f.builder, w, f.float).at(v * lanes).vector(lanes) for v in range(vectors)]
    results = []
    # Row by row, so that one register after the other serves as the broadcast input.
    for row in range(len(tile) // vectors):
        here = x.at(row_step * row)
        if lanewise:
            inputs = [here.at(v * lanes).vector(lanes) for v in range(vectors)]
        else:
            inputs = [f.splat(here.scalar(), lanes)] * vectors
        results += [f.fma(inputs[v], weights[v], sums[row * vectors + v]) for v in range(vectors)]
    return results


def _at(f: Function, address: Value, offset: Int | int) -> Value:
    return Pointer(f.builder, address, f.float).at(offset).value
