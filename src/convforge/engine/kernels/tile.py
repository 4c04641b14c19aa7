"""The register tile: the one product that nearly all algorithms share.

A tile of R rows × V vectors of sums is held in registers. Each step loads V vectors, broadcasts R numbers and does R·V
multiply-adds. On AVX-512 (two FMAs and two loads a cycle) a step of 14×2 is 28 FMAs, 14 cycles, against 16 loads,
8 cycles: the multipliers are the limit, as they should be. The 28 independent sums also cover the FMA's latency of four
cycles, for which 8 are enough; so tiles down to 4 rows still run at full rate, and a row of 15 pixels is done as 8 + 7.

Vectors are output channels. What is summed differs, so there are three loops around the step:

- `forward_tiles`: rows are output pixels, the sum runs over taps and input channels;
- `gradient_tiles`: rows are weights (a tap and an input channel), the sum runs over pixels;
- `product_tiles`: a plain matrix product, for Winograd's.

Tiles may be `lanewise`, for depthwise convolution: there each lane has an input channel of its own, so the input is
loaded as vectors instead of being broadcast. A step then has 28 + 2 loads for 28 FMAs and takes 15 cycles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from llvmlite import ir

from ...native.ir import Function, Int, Loop, Pointer, Value
from ...native.target import DTYPE_BYTES, LINE, Target
from .functions import apply, is_long


def filled(outputs: Int, lanes: int) -> Int:
    """A panel's output channels with the lanes that are filled up: whole vectors."""
    return (outputs + (lanes - 1)) // lanes * lanes


ASKED_FOR, PAST_CACHES = 1, 2
"""What becomes of a tile's output besides its being stored."""

STEPS = 4
"""Of a round of the innermost loop."""
_PLACES_A_POINTER = 3


Number = TypeVar("Number", int, Int)


def lines_a_round(rows: Number, dtype: str) -> Number:
    """Cache lines that a tile of `forward_tiles` asks for in a round: as many as it has input, had each of its rows
    whole lines."""
    return (rows * (STEPS * DTYPE_BYTES[dtype]) + (LINE - 1)) // LINE


def asked_ahead(
    following: Pointer, numbers: Int, first: Int, rows: Int, all_rows: Int, products: Int, lines: Int | int = 1
) -> tuple[Pointer, Int, Int]:
    """Which of the `numbers` that are needed next, from `following` on, a tile asks for, while it sums so many
    products: the share of its `rows` from the `first` on, of all that are multiplied by the same weights. Where they
    begin, how far apart it asks, with so many `lines` a round, and how far on the next tile begins."""
    a_row, requests = numbers // all_rows.at_least(1) + 1, (products // STEPS).at_least(1) * lines
    return following.at(first * a_row), (rows * a_row + requests - 1) // requests, rows * a_row


@dataclass(frozen=True, slots=True)
class Tile:
    """Sums in registers while code for them is generated."""

    rows: int
    vectors: int
    lanes: int
    lanewise: bool = False
    steps: int = 1
    """Of a round of the innermost loop."""
    mask_registers: bool = False
    """Whether a masked load or store is as quick as a whole one."""

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return self.vectors * self.lanes

    @property
    def places(self) -> list[tuple[int, int]]:
        """Row and vector of each sum."""
        return [(r, v) for r in range(self.rows) for v in range(self.vectors)]

    def filled_with(self, row: list[Value]) -> list[Value]:
        """Sums that begin with the same vectors in every row."""
        return [row[v] for _, v in self.places]

    @contextmanager
    def run(self, f: Function, first: list[Pointer]) -> Iterator[tuple[Loop, list[Pointer]]]:
        """A loop over the `many` tiles of a call, whose body carries these pointers on from tile to tile."""
        with f.loop(f.integer("many"), carry=first) as each:
            yield each, each.values

    def multiply(self, f: Function, x: Callable[[int], Pointer], w: Pointer, sums: list[Value]) -> list[Value]:
        """One step: sums[r, v] + x(r) · w[v], where lanewise x has vectors like w."""
        weights = [w.at(v * self.lanes).vector(self.lanes) for v in range(self.vectors)]
        results = []
        # Row by row, so that one register after the other serves as the broadcast input.
        for r in range(self.rows):
            here = x(r)
            if self.lanewise:
                inputs = [here.at(v * self.lanes).vector(self.lanes) for v in range(self.vectors)]
            else:
                inputs = [f.splat(here.scalar(), self.lanes)] * self.vectors
            results += [f.fma(inputs[v], weights[v], sums[r * self.vectors + v]) for v in range(self.vectors)]
        return results

    def multiply_run(
        self,
        f: Function,
        x: Pointer,
        distance: Int,
        w: Pointer,
        count: Int,
        sums: list[Value],
        ahead: tuple[Pointer, Int, int] | None = None,
        transposed: bool = False,
    ) -> tuple[Pointer, list[Value]]:
        """`count` steps: sums[r, v] + Σ_l x[r·distance + l] · w[l, v], or where `transposed` x[r + l·distance]; and
        where w ends. Each round asks for cache lines: `ahead` says from where on, how far apart, how many.

        Several steps a round, for their own instructions are what a core that is shared by two hardware threads has too
        few slots for: at four a round the 12 multiply-adds of a 6×2 tile take 24 instructions instead of 29, and where
        the other thread was busy 1×1, 3×3 and strided layers took 12 to 20 % less time. Places that are `distance`
        apart are three to a pointer (a load of x86 adds it once or twice, and a constant, for the places side by side).
        """
        if self.lanewise or self.steps == 1:
            return self._multiply_rest(f, x, distance, w, 0, count, sums, transposed)
        apart = self.steps if transposed else self.rows
        starts = [x.at(distance * n) for n in range(0, apart, _PLACES_A_POINTER)]
        further = distance * self.steps if transposed else self.steps
        line, line_step, lines = ahead or (x, f.const(0), 0)
        whole, moving = count // self.steps * self.steps, [w, *starts, *([line] if ahead else [])]
        with f.loop(whole, step=self.steps, carry=[*moving, *sums]) as c:
            (w, *places), sums = c.values[: len(moving)], c.values[len(moving) :]
            line = places.pop() if ahead else line
            for n in range(lines):
                f.prefetch(line.at(line_step * n))
            for step in range(self.steps):

                def place(r: int, step: int = step, places: list[Pointer] = places) -> Pointer:
                    far, near = (step, r) if transposed else (r, step)
                    return places[far // _PLACES_A_POINTER].at(distance * (far % _PLACES_A_POINTER)).at(near)

                sums = self.multiply(f, place, w.at(step * self.width), sums)
            following = [w.at(self.steps * self.width), *(place.at(further) for place in places)]
            following += [line.at(line_step * lines)] if ahead else []
            c.carry([*(pointer.unexplained() for pointer in following), *sums])
        w, sums = c.values[0], c.values[len(moving) :]
        return self._multiply_rest(f, x, distance, w, whole, count, sums, transposed)

    def _multiply_rest(
        self, f: Function, x: Pointer, distance: Int, w: Pointer, first: Int | int, count: Int, sums: list[Value],
        transposed: bool,
    ) -> tuple[Pointer, list[Value]]:  # fmt: skip
        """The steps from `first` on, one by one."""
        step, row_step = (distance, 1) if transposed else (1, distance)
        with f.loop(count, start=first, carry=[w, *sums]) as c:
            (w, *sums), here = c.values, x.at(c.index * step)
            sums = self.multiply(f, lambda r: here.at(row_step * r), w, sums)
            c.carry([w.at(self.width), *sums])
        w, *sums = c.values
        return w, sums

    def masks(self, f: Function, channels: Int) -> list[Value]:
        """Of each vector, the lanes below `channels`."""
        return [f.first_lanes(channels - v * self.lanes, self.lanes) for v in range(self.vectors)]

    def store(
        self,
        f: Function,
        sums: list[Value],
        to: tuple[Pointer, Int | int],
        base: tuple[Pointer, Int | int],
        has_base: Value,
        channels: Int | None = None,
        finish: Callable[[list[Value]], list[Value]] | None = None,
        past_caches: Value | None = None,
    ) -> None:
        """The sums, with what stands at `base` added to them where there is one, and finished, go `to` where they
        belong; both are an address and the distance between rows. Of each row the first `channels` numbers, or all;
        rows of whole, aligned vectors go `past_caches` where that is said.

        Partial vectors are loaded and stored under a mask; that costs nothing in the inner loop. Where the CPU has
        registers for masks, all vectors are: a sixth less code to make, at the same speed.
        """

        def with_base(masks: Sequence[Value | None]) -> list[Value]:
            before = [f.load(base[0].at(base[1] * r + v * self.lanes), self.lanes, masks[v]) for r, v in self.places]
            return [f.add(total, number) for total, number in zip(sums, before, strict=True)]

        def put(sums: list[Value], masks: Sequence[Value | None]) -> None:
            for (r, v), total in zip(self.places, sums, strict=True):
                f.store(to[0].at(to[1] * r + v * self.lanes), total, masks[v])

        no_masks = [None] * self.vectors
        if channels is None:
            sums = f.only_if(has_base, sums, lambda: with_base(no_masks))
            put(sums, no_masks)
            return
        masks = self.masks(f, channels)
        whole, cut = channels.compare(">=", self.width), channels.compare("<", self.width)

        def put_far(sums: list[Value], otherwise: Callable[[], None]) -> None:
            if past_caches is None:
                otherwise()
                return
            with f.if_else(f.all_of(past_caches, whole)) as (past, near):
                with past:
                    for (r, v), total in zip(self.places, sums, strict=True):
                        f.put_past_caches(to[0].at(to[1] * r + v * self.lanes), total)
                with near:
                    otherwise()

        if self.mask_registers:
            sums = f.only_if(has_base, sums, lambda: with_base(masks))
            sums = finish(sums) if finish else sums
            put_far(sums, lambda: put(sums, masks))
            return
        sums = f.only_if(f.all_of(has_base, whole), sums, lambda: with_base(no_masks))
        sums = f.only_if(f.all_of(has_base, cut), sums, lambda: with_base(masks))
        sums = finish(sums) if finish else sums
        with f.if_else(whole) as (full, partial):
            with full:
                put_far(sums, lambda: put(sums, no_masks))
            with partial:
                put(sums, masks)


class Tiles:
    """A function for a run of tiles of every size that can be needed, and the call of the one that is."""

    def __init__(self, most_rows: int, target: Target, dtype: str, make: Callable[[Tile], Function], lanewise: bool):
        self.most_rows, self.lanes = most_rows, target.lanes(dtype)
        # Of whole panels only: fewer vectors are for the last output channels, and code takes time to make.
        panel, steps = target.tile_vectors, STEPS if target.x86 else 1
        self._made = {
            self._selector(r, v): make(
                Tile(r, v, self.lanes, lanewise, steps if v == panel else 1, target.mask_registers)
            )
            for v in range(1, target.tile_vectors + 1)
            for r in range(1, most_rows + 1)
        }

    def _selector(self, rows: int, vectors: int) -> int:
        return (vectors - 1) * self.most_rows + rows

    def call(self, f: Function, rows: Int, width: Int, **arguments: Int | Pointer | int) -> None:
        """Tiles of so many rows, and of as many whole vectors as make up `width`."""
        f.dispatch((width // self.lanes - 1) * self.most_rows + rows, self._made, **arguments)


def forward_tiles(module: ir.Module, dtype: str, target: Target, lanewise: bool = False, activation: str = "") -> Tiles:
    """Sums for `many` tiles, one behind the other, each of so many neighbouring output pixels and vectors of output
    channels. Of a tile:

        y[r, :] = base[r, :] + bias
                  + Σ_u Σ_v Σ_l  x[r·pixel_step + u·x_u + v·x_v + l] · w[(u·v_count + v)·length + l, :]

    A run of `length` numbers lies side by side in x: the channels of one pixel, or, where pixels touch, the channels of
    a whole row of taps; `u` and `v` count the runs. That `pixel_step` is a number of the call, not of the code, costs
    an addition a row and step, which the integer units do beside the multipliers; in return one compiled tile serves
    every convolution.

    `bias` is where the sums begin: the bias, or zeros. `base` is what they are added to: y itself when a part of the
    sum was done before, a residual, or nothing (base_step 0). Of the vectors' lanes, the first `channels` are stored.
    When the sum is `finished` (1, else 0), the activation is applied to what is stored. On the way, what is needed next
    and may come from memory is asked for, from `ahead` on, `lines_a_round` at a time, `ahead_step` numbers apart, by
    the next tile from `ahead_tile` further on; and the pixels that the next tile writes, where the `output` is
    `ASKED_FOR`. One that goes `PAST_CACHES` lies where vectors are aligned.
    """

    finish_stored = _finishing(module, dtype, target.lanes(dtype), activation) if is_long(activation) else None

    def make(tile: Tile) -> Function:
        names = "many *x x_u x_v u_count v_count length *w *y y_step *bias *base base_step channels pixel_step finished"
        name = f"forward_{tile.rows}x{tile.vectors}"
        f = Function(module, name, f"{names} *ahead ahead_step ahead_tile output", dtype, internal=True)
        w, bias = f.pointers("w bias")
        x_u, x_v, u_count, v_count, length = f.integers("x_u x_v u_count v_count length")
        y_step, base_step, channels, pixel_step = f.integers("y_step base_step channels pixel_step")
        finished, ahead_step = f.integers("finished ahead_step")
        lines = lines_a_round(tile.rows, dtype)
        ahead_run = length // STEPS * lines * ahead_step
        masks = tile.masks(f, channels)
        biases = [f.load_masked(bias.at(v * tile.lanes), tile.lanes, masks[v]) for v in range(tile.vectors)]

        def finish(sums: list[Value]) -> list[Value]:
            return f.only_if(finished.compare("!=", 0), sums, lambda: [apply(f, activation, total) for total in sums])

        with tile.run(f, f.pointers("x y base ahead")) as (each, (x, y, base, ahead)):
            with f.if_(f.integer("output").compare("==", ASKED_FOR)), f.loop(tile.rows) as row:
                for v in range(tile.vectors):
                    f.prefetch(y.at(y_step * (row.index + tile.rows) + v * tile.lanes), write=True)
            with f.loop(u_count, carry=[w, *tile.filled_with(biases)]) as tap_row:
                with f.loop(v_count, carry=tap_row.values) as tap_run:
                    run = x.at(tap_row.index * x_u + tap_run.index * x_v)
                    weights, *sums = tap_run.values
                    asked = ahead.at((tap_row.index * v_count + tap_run.index) * ahead_run), ahead_step, lines
                    weights, sums = tile.multiply_run(f, run, pixel_step, weights, length, sums, asked)
                    tap_run.carry([weights, *sums])
                tap_row.carry(tap_run.values)
            tile.store(
                f, tap_row.values[1:], (y, y_step), (base, base_step), base_step.compare("!=", 0), channels,
                finish if activation and not finish_stored else None,
                f.integer("output").compare("==", PAST_CACHES),
            )  # fmt: skip
            if finish_stored:
                with f.if_(finished.compare("!=", 0)):
                    f.call(finish_stored, y=y, y_step=y_step, rows=tile.rows, channels=channels.at_most(tile.width))
            steps = pixel_step * tile.rows, y_step * tile.rows, base_step * tile.rows, f.integer("ahead_tile")
            each.carry([pointer.at(step) for pointer, step in zip((x, y, base, ahead), steps, strict=True)])
        f.done()
        return f

    return Tiles(target.tile_rows, target, dtype, make, lanewise)


def _finishing(module: ir.Module, dtype: str, lanes: int, activation: str) -> Function:
    """A long activation of what a tile has just stored. To call it with a tile's sums in registers would send all of
    them through the stack for each: 19 cycles a vector for SiLU, and 15 so."""
    f = Function(module, "finish", "*y y_step rows channels", dtype, internal=True)
    y, y_step = f.pointer("y"), f.integer("y_step")
    with f.loop(f.integer("rows")) as row:

        def vector(number: Int, mask: Value | None) -> None:
            place = y.at(row.index * y_step + number * lanes)
            f.store(place, apply(f, activation, f.load(place, lanes, mask), written_out=True), mask)

        f.each_vector(f.integer("channels"), lanes, vector)
    f.done()
    return f


def gradient_tiles(module: ir.Module, dtype: str, target: Target, lanewise: bool = False) -> Tiles:
    """Adds to the gradients of `many` tiles of neighbouring weights, one behind the other, and vectors of output
    channels. Of a tile:

        dw[r, :] += Σ_p Σ_q  x[r·row_step + p·x_p + q·x_q] · dy[p·q_count + q, :]

    The rows are neighbours in x (row_step 1) or, lanewise, taps that are row_step apart. Rows of dy are dense; those of
    dw are dw_step apart. Where `add` is 0, dw is not read, and begins with these sums. Of the vectors' lanes, the first
    `channels` are stored.
    """

    def make(tile: Tile) -> Function:
        name = f"gradient_{tile.rows}x{tile.vectors}"
        names = "many *x x_p x_q p_count q_count *dy *dw row_step dw_step channels add"
        f = Function(module, name, names, dtype, internal=True)
        x_p, x_q, p_count, q_count, dw_step, channels, add = f.integers("x_p x_q p_count q_count dw_step channels add")
        zeros = tile.filled_with([f.zeros(tile.lanes)] * tile.vectors)
        with tile.run(f, f.pointers("x dw")) as (each, (x, dw)):
            with f.loop(p_count, carry=[f.pointer("dy"), *zeros]) as p:
                (dy_row, *sums), row = p.values, x.at(p.index * x_p)
                if lanewise:
                    with f.loop(q_count, carry=[row, dy_row, *sums]) as q:
                        pixel, dy_row, *sums = q.values
                        sums = tile.multiply(f, lambda r: pixel.at(f.integer("row_step") * r), dy_row, sums)
                        q.carry([pixel.at(x_q), dy_row.at(tile.width), *sums])
                    p.carry(q.values[1:])
                else:
                    dy_row, sums = tile.multiply_run(f, row, x_q, dy_row, q_count, sums, transposed=True)
                    p.carry([dy_row, *sums])
            tile.store(f, p.values[1:], (dw, dw_step), (dw, dw_step), add.compare("!=", 0), channels)
            each.carry([x.at(f.integer("row_step") * tile.rows), dw.at(dw_step * tile.rows)])
        f.done()
        return f

    return Tiles(target.tile_rows, target, dtype, make, lanewise)


def product_tiles(module: ir.Module, dtype: str, target: Target, most_rows: int = 0, transposed: bool = False) -> Tiles:
    """`many` tiles of a plain matrix product, one below the other, each of at most so many rows. Of a tile:

        y[r, :] = Σ_l  x[r·step + l] · w[l, :]        (+ y[r, :] where `add` is not 0)

    Rows of w and y are dense. Where x is `transposed`, its numbers are at x[r + l·step]; else what is needed next is
    asked for, from `ahead` on, as in `forward_tiles`.
    """

    def make(tile: Tile) -> Function:
        name = f"product_{tile.rows}x{tile.vectors}"
        more = "" if transposed else " *ahead ahead_step ahead_tile"
        f = Function(module, name, f"many *x step *w count *y add{more}", dtype, internal=True)
        step, count, add = f.integers("step count add")
        zeros = tile.filled_with([f.zeros(tile.lanes)] * tile.vectors)
        with tile.run(f, f.pointers("x y" if transposed else "x y ahead")) as (each, (x, y, *ahead)):
            asked = None if transposed else (ahead[0], f.integer("ahead_step"), lines_a_round(tile.rows, dtype))
            _, sums = tile.multiply_run(f, x, step, f.pointer("w"), count, zeros, asked, transposed)
            tile.store(f, sums, (y, tile.width), (y, tile.width), add.compare("!=", 0))
            following = [x.at(tile.rows if transposed else step * tile.rows), y.at(tile.width * tile.rows)]
            following += [line.at(f.integer("ahead_tile")) for line in ahead]
            each.carry([pointer.value for pointer in following])
        f.done()
        return f

    return Tiles(most_rows or target.tile_rows, target, dtype, make, lanewise=False)
