"""Grouped convolution with few channels a group, depthwise among them: lanes run over the channels of many groups.

What it computes, for a group of D input and O output channels, with x zero outside the image:

    y[n, p, q, k]  = bias[k] + Σᵢ Σⱼ Σ_c  x[n, p·s + i·d − pad, q·s + j − pad, c] · w[k, c, i, j]
    dx[n, h, w, c] = Σᵢ Σⱼ Σ_k  dy[n, (h + pad − i·d)/s, (w + pad − j)/s, k] · w[k, c, i, j]    whole quotients only

When it applies: few channels a group; at least a vector of channels, side by side in memory on both sides (NHWC); taps
of a row side by side. `direct.py` fills a vector with the outputs of one group, so with 4 of them 12 of 16 lanes idle.

A vector of outputs is whole groups instead, 4 groups of 4. The inputs they meet are one vector as well, and what lane l
needs of it for its channel c is a shuffle, (l // O)·D + c, made once and used for all taps and outputs that meet that
input. Depthwise (D = O = 1) needs none.

Depthwise has nine multiply-adds an output: a number must be neither copied nor loaded nine times. So x is read where it
lies, and a register tile is a piece of one output row, in which neighbouring outputs share inputs:

    unit = (image, chunk of channels, output row)   shared out among the threads, in bands of rows if they come out even
        list the tap rows that are inside the image: the address of the input row, the row of weights
        for a tile of the row
            for a vector of channels
                for a listed row, for a channel of the group   registers: the tile's sums and a row of weights
                    each input is loaded once and meets every output and tap that it belongs to

For 3×3 at stride 1 and 8 outputs that is 10 + 3 loads for 24 multiply-adds, 6.5 cycles of loads beside 12. The list of
rows turns the border above and below into fewer rows, and the same tile serves any kernel height and dilation of rows,
and the input gradient: there the rows are those whose tap meets output row h, and the tile's pattern of (output, input,
tap) is the transposed one. At stride 2 it writes even and odd columns side by side, so dx is written once, front to
back. Only tiles at the left and right border look where each column lies; columns outside are read from a zero vector.

Depthwise moves 8 bytes for 9 multiply-adds, so from L3 outwards memory sets the pace. Each tile asks for the rows that
the next output row adds (one; `stride` of them forward), while it computes: at 16×32×112×112 that took 3.9 → 1.9 ms.
Where input and output together exceed L3, the output goes past the caches, so that its lines are not read before they
are written: 1.9 → 1.3 ms.

The last vector of channels ends where the channels end and overlaps its neighbour; only where there is a residual,
which may be the result itself, are stores masked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from ...spec import ceil_div, round_up
from .. import traffic
from ..kernels.blocks import thread_scratch
from ..kernels.functions import apply
from ..kernels.ir import I64, Arguments, Function, Int, Pointer, Value, kernel, share, tasks
from ..kernels.transforms import NO_RESIDUAL
from ..nest import Held, Inner, Level, Nest, RegisterTile, TileStep, largest_tile, shared_out
from ..plan import Job, Plan, Refusal
from ..program import LINE, Layout, Prepared, Program, code, step
from ..target import Target
from .groups import Group

PACK = Arguments("w w_g w_k w_c w_i w_j channels kernel_h weights")

SLIDE = Arguments(
    "x x_n x_h x_w y y_n y_h y_w images channels height width out_height out_width chunk chunks "
    "kernel_h row_h row_0 row_i row_m left weights bias bias_step residual zeros scratch scratch_bytes past_caches"
    # tap i of output row h meets input row (h·row_h + row_0 + i·row_i) / row_m, where that is whole
)


def plan(job: Job, groups: Callable[[Job], Group | Refusal]) -> Plan | Refusal:
    """The forward pass and the input gradient, of groups of few channels or of one, which needs no shuffles."""
    group = groups(job)
    if isinstance(group, Refusal):
        return group
    cut = Cut.of(job, group)
    return Grouped(job, cycles(job, cut), cut)


@dataclass(frozen=True, slots=True)
class Cut:
    """How the result of one pass is cut into units and tiles: `channels` of it, in images of `height` × `width`."""

    group: Group
    channels: int
    vectors: int
    height: int
    width: int
    taps: int
    """Products that are summed for one output."""
    pattern: tuple[str, int, int, int]
    """Direction, taps of a row, stride, phase: `_pattern`."""
    chunk: int

    @classmethod
    def of(cls, job: Job, group: Group) -> Cut:
        s = job.problem.forward()
        v, h = s.vertical, s.horizontal
        _, channels, height, width = job.problem.x_shape if job.backward else job.problem.y_shape
        vectors, taps = ceil_div(channels, job.lanes), v.kernel * h.kernel * group.depth
        chunk = _chunk(vectors, s.images * height, job.threads, taps * job.lanes * job.size, job.target)
        pattern = ("forward", h.kernel, h.stride, 0)
        if job.backward:
            pattern = ("backward", h.kernel, h.stride, h.pad % h.stride)
        return cls(group, channels, vectors, height, width, taps, pattern, chunk)

    @property
    def chunks(self) -> int:
        return ceil_div(self.vectors, self.chunk)

    def tiles(self, target: Target) -> tuple[int, int]:
        """Tiles of a row, and outputs of the largest of them."""
        direction, kernel, stride, _ = self.pattern
        unit = stride if direction == "backward" else 1
        units, most = ceil_div(self.width, unit), _most_units(target, kernel, stride, direction)
        return ceil_div(units, most), min(largest_tile(units, most) * unit, self.width)

    def step(self, outputs: int, lanes: int) -> TileStep:
        """What a tile of so many outputs takes for one listed row."""
        direction, kernel, stride, phase = self.pattern
        products, _ = _pattern(direction, kernel, stride, phase, outputs)
        inputs, weights = len({m for _, m, _ in products}), len({j for _, _, j in products})
        depth = self.group.depth
        read = weights * (depth - 1) + inputs * self.group.loads(lanes, depth)
        return TileStep(len(products) * depth, weights, read)


# What the model of cycles is made of, measured on one core of Zen 5.
_CYCLES_A_SHUFFLE = 0.5


def cycles(job: Job, cut: Cut) -> float:
    """What it takes: the steps of all tiles, and x's and y's way through the caches, which does not hide behind them;
    where the weights are not kept, packing them as well."""
    s, target, lanes, size = job.problem.forward(), job.target, job.lanes, job.size
    group, (count, outputs) = cut.group, cut.tiles(target)
    rows = s.vertical.kernel / (s.vertical.stride if job.backward else 1)
    tile = RegisterTile.of(target, job.dtype, (outputs, ""), (1, ""), step=cut.step(outputs, lanes))
    row = tile.cycles
    if group.depth > 1 and group.outputs < lanes:
        row += tile.multiply_adds / s.horizontal.kernel * _CYCLES_A_SHUFFLE
    computing = s.images * cut.height * cut.vectors * count * rows * row
    packing = 0.0 if job.kept else traffic.packing(cut.vectors * cut.taps * lanes * size, job.threads, target)
    together = traffic.bytes_of(job.problem)
    written = s.images * cut.channels * cut.height * cut.width * size
    moving = traffic.cycles(together - written, written, together, target, past_caches=together > target.l3_bytes)
    return (computing + moving) / job.threads + packing


@dataclass(frozen=True)
class Grouped(Plan):
    """The forward pass or the input gradient: rows of the image × chunks of channels."""

    cut: Cut

    @property
    def nest(self) -> Nest:
        job, cut, lanes, size = self.job, self.cut, self.job.lanes, self.job.size
        s = job.problem.forward()
        count, outputs = cut.tiles(job.target)
        rows = ceil_div(s.vertical.kernel, s.vertical.stride if job.backward else 1)
        units = [Level(s.images, "image"), Level(cut.height, "row"), Level(cut.chunks, "chunk", "of channels")]
        levels = (
            shared_out("unit", job.threads, units, 3, "list the rows of taps that meet the image there"),
            Level(count, "tile", f"of at most {outputs} pixels of the row"),
            Level(cut.chunk, "vector", f"of {lanes} channels"),
            Level(rows, "listed row", "of taps, or fewer"),
        )
        weights, read = cut.taps * lanes * size, job.problem.y_shape if job.backward else job.problem.x_shape
        held = (
            Held("all weights, packed", cut.vectors * weights),
            Held("weights of a chunk of channels", cut.chunk * weights, "L1"),
            Held("the input rows of an output row", s.vertical.kernel * read[1] * read[3] * size),
        )
        form = "inside" if cut.group.depth == 1 else "border"
        step = cut.step(outputs, lanes)
        return Nest(
            levels,
            RegisterTile.of(job.target, job.dtype, (outputs, "result pixels"), (1, "result channels"), step=step),
            held,
            Inner(build, f"tile_{outputs}_{form}", (cut.group, *cut.pattern)),
        )

    def prepared(self, name: str) -> Prepared:
        job, cut, size, lanes = self.job, self.cut, self.job.size, self.job.lanes
        s = job.problem.forward()
        v, h = s.vertical, s.horizontal
        if job.backward:
            s = s.exchanged()
            rows = {"row_h": 1, "row_0": v.pad, "row_i": -v.dilation, "row_m": v.stride, "left": h.pad}
        else:
            rows = {"row_h": v.stride, "row_0": -v.pad, "row_i": v.dilation, "row_m": 1, "left": -h.pad}
        numbers = job.numbers(s) | rows
        # The vectors stored are all aligned where the first one is; whether that is so, the kernel sees.
        aligned = all(number % lanes == 0 for number in (cut.channels, s.y_n, s.vertical.y_step, s.horizontal.y_step))
        past_caches = aligned and traffic.bytes_of(job.problem) > job.target.l3_bytes and not job.finish.residual
        layout = Layout()
        scratch_bytes = round_up((v.kernel + v.stride) * 16, LINE)  # the list of rows
        scratch = layout.take(scratch_bytes * job.threads)
        parameters = (cut.group, *cut.pattern, job.finish.activation)
        kernels = code(build, ("pack", "slide"), job.dtype, job.target, *parameters)
        numbers |= {
            "channels": cut.channels, "chunk": cut.chunk, "chunks": cut.chunks, "scratch_bytes": scratch_bytes,
            "past_caches": int(past_caches),
        }  # fmt: skip
        at = job.places(s) | {"weights": ("packed", 0), "scratch": ("work", scratch)}
        return Prepared(
            name,
            job.threads,
            Program((step(kernels["slide"], job.threads, SLIDE, numbers, at),), layout.size),
            Program((step(kernels["pack"], job.threads, PACK, numbers, at),)),
            cut.vectors * cut.taps * lanes * size,
        )


_ROWS_A_THREAD = 8
"""From so many on it does not matter that one thread has a row more than another."""


def _chunk(vectors: int, rows: int, threads: int, weights_bytes: int, target: Target) -> int:
    """Vectors of channels of one unit: as many as have their weights in half of L1, fewer where there are so few rows
    that threads would wait for each other."""
    chunks = ceil_div(vectors, max(1, target.l1_bytes // 2 // weights_bytes))
    while chunks < vectors and rows % threads and rows * chunks < _ROWS_A_THREAD * threads:
        chunks += 1
    return ceil_div(vectors, chunks)


Pattern = list[tuple[int, int, int]]
"""Products of a tile: (output, input, tap of the row)."""


def _pattern(direction: str, width: int, stride: int, phase: int, outputs: int) -> tuple[Pattern, int]:
    """What is multiplied in a tile of so many outputs, and where its first input lies.

    Forward, output q meets inputs q·s + j, the first of them at q₀·s − pad. Backward, with u = w + pad = s·t + phase of
    the tile's first output, output u + r meets the inputs (u + r − j)/s that are whole; they are counted from the
    smallest one, t + `first`.
    """
    if direction == "forward":
        return [(q, q * stride + j, j) for q in range(outputs) for j in range(width)], 0
    met = [(r, (phase + r - j) // stride, j) for r in range(outputs) for j in range(width)]
    met = [(r, q, j) for r, q, j in met if q * stride + j == phase + r]
    first = math.ceil((phase - (width - 1)) / stride)
    return [(r, q - first, j) for r, q, j in met], first


def _most_units(target: Target, width: int, stride: int, direction: str) -> int:
    """Outputs of a tile (backward: `stride` times as many): sums, a row of weights and one input are in registers.
    Eight sums cover the latency of the multiply-adds."""
    room = min(8, target.registers - width - 2)
    return max(1, room // stride if direction == "backward" else room)


def build(
    module: ir.Module,
    dtype: str,
    target: Target,
    group: Group,
    direction: str,
    width: int,
    stride: int,
    phase: int,
    activation: str = "",
) -> None:
    """Adds the kernels `pack` and `slide` to the module."""
    lanes = target.lanes(dtype)
    _pack(module, dtype, target, group, width)
    unit = stride if direction == "backward" else 1
    most = _most_units(target, width, stride, direction) * unit
    # To look where a column lies costs little beside several channels of products: then one form of the tile will do.
    guards = (False, True) if group.depth == 1 else (True,)

    def tile_of(n: int, guarded: bool) -> Function:
        pattern, _ = _pattern(direction, width, stride, phase, n)
        return _tile(module, dtype, target, group, n, pattern, width, guarded, activation)

    tiles = {guarded: {n: tile_of(n, guarded) for n in range(1, most + 1)} for guarded in guards}

    f, a = kernel(module, "slide", dtype, SLIDE)
    rows = f.address(thread_scratch(f, a), I64)
    vectors = (a["channels"] + (lanes - 1)) // lanes
    # By rows, so that threads meet at one row and not at each pixel, where the CPU's prefetch for one thread's stores
    # takes the lines of the other's; by channels where rows would leave a thread without enough to do.
    all_rows, (thread, threads) = a["images"] * a["out_height"], f.integers("thread threads")
    by_rows = f.any_of((all_rows % threads).compare("==", 0), all_rows.compare(">=", threads * _ROWS_A_THREAD))
    first, end = share(all_rows * f.choose(by_rows, 1, a["chunks"]), thread, threads)
    aligned = (a["y"] % target.vector_bytes).compare("==", 0)
    past_caches = f.choose(aligned, a["past_caches"], 0)
    distance = f.choose(a["residual"].compare("!=", 0), a["residual"] - a["y"], NO_RESIDUAL)
    with f.loop(a["images"] * a["chunks"]) as part, f.loop(*_band(f, a, part.index, by_rows, first, end)) as each:
        row, chunk, image = each.index, part.index % a["chunks"], part.index // a["chunks"]
        x = f.address(a["x"]).at(image * a["x_n"])
        y = f.address(a["y"]).at(image * a["y_n"] + row * a["y_h"])
        first_vector = chunk * a["chunk"]
        end_vector = (first_vector + a["chunk"]).at_most(vectors)
        count = _list_rows(f, a, row, x, rows, width * group.depth * lanes)
        ahead = _list_next_rows(f, a, row, x, rows.at(count * 2), direction)

        units = (a["out_width"] + (unit - 1)) // unit
        tile_count = (units + (most // unit - 1)) // (most // unit)
        with f.loop(tile_count) as tile:
            q = tile.index * units // tile_count * unit
            q_end = ((tile.index + 1) * units // tile_count * unit).at_most(a["out_width"])
            n = q_end - q
            if direction == "backward":
                column = (q + a["left"]) // stride + _pattern(direction, width, stride, phase, 1)[1]
                inputs = (n + (stride - 1)) // stride + (width - 1) // stride + 1  # or fewer
            else:
                column = q * stride + a["left"]
                inputs = (n - 1) * stride + width
            inside = f.all_of(column.compare(">=", 0), (column + inputs).compare("<=", a["width"]))
            arguments: dict[str, Int | Pointer | int] = {
                "rows": rows, "count": count, "x_w": a["x_w"], "column": column, "width": a["width"],
                "zeros": a["zeros"], "y": y.at(q * a["y_w"]), "y_w": a["y_w"], "weights": a["weights"],
                "kernel_h": a["kernel_h"], "bias": a["bias"], "bias_step": a["bias_step"], "first": first_vector,
                "end": end_vector, "channels": a["channels"], "ahead": ahead, "past_caches": past_caches,
                "distance": distance,
            }  # fmt: skip
            with f.if_else(inside) as (yes, no):
                with yes:
                    f.dispatch(n, tiles[guards[0]], **arguments)
                with no:
                    f.dispatch(n, tiles[True], **arguments)
    f.done()


def _band(f: Function, a: dict[str, Int], part: Int, by_rows: Value, first: Int, end: Int) -> tuple[Int, Int]:
    """Which rows of a part (image, chunk) are among those from `first` to before `end`: until where, and from where."""
    before = f.choose(by_rows, part // a["chunks"], part) * a["out_height"]
    return (end - before).at_most(a["out_height"]), (first - before).at_least(0)


def _list_rows(f: Function, a: dict[str, Int], row: Int, x: Pointer, rows: Pointer, row_weights: int) -> Int:
    """Writes (address of the input row, where its weights begin) for each tap row that meets the image; how many."""
    with f.loop(a["kernel_h"], carry=[f.const(0).value]) as tap:
        count = Int(f.builder, tap.values[0])
        scaled = row * a["row_h"] + a["row_0"] + tap.index * a["row_i"]
        met = scaled // a["row_m"]
        here = rows.at(count * 2)
        here.put(f.builder.ptrtoint(x.at(met * a["x_h"]).value, I64))
        here.at(1).put((tap.index * row_weights).value)
        inside = f.all_of(
            scaled.compare(">=", 0), (met * a["row_m"]).compare("==", scaled), met.compare("<", a["height"])
        )
        tap.carry([f.choose(inside, count + 1, count).value])
    return Int(f.builder, tap.values[0])


def _list_next_rows(f: Function, a: dict[str, Int], row: Int, x: Pointer, rows: Pointer, direction: str) -> Int:
    """Writes the addresses of the input rows that the next output row adds to this one's; how many. Those outside the
    image are as good as any: they are asked for, not read."""
    if direction == "forward":  # the last tap's row, and as many before it as the kernel moves on
        last = (row + 1) * a["row_h"] + a["row_0"] + (a["kernel_h"] - 1) * a["row_i"]
        with f.loop(a["row_h"]) as back:
            address = x.at((last - back.index) * a["x_h"])
            rows.at(back.index * 2).put(f.builder.ptrtoint(address.value, I64))
        return a["row_h"]
    scaled = (row + 1) * a["row_h"] + a["row_0"]  # the first tap's row, where there is one
    met = scaled // a["row_m"]
    rows.put(f.builder.ptrtoint(x.at(met * a["x_h"]).value, I64))
    return f.choose((met * a["row_m"]).compare("==", scaled), 1, 0)


def _tile(
    module: ir.Module,
    dtype: str,
    target: Target,
    group: Group,
    outputs: int,
    pattern: Pattern,
    width: int,
    guarded: bool,
    activation: str,
) -> Function:
    """`outputs` neighbouring outputs of a row, over the vectors of channels from `first` to before `end`; `guarded`
    where columns may be outside. `distance` is in bytes from y to the residual, or `NO_RESIDUAL`."""
    lanes = target.lanes(dtype)
    names = (
        "*rows count x_w column width zeros *y y_w weights kernel_h bias bias_step first end channels "
        "ahead past_caches distance"
    )
    f = Function(module, f"tile_{outputs}_{'border' if guarded else 'inside'}", names, dtype, internal=True)
    rows, y = f.pointer("rows", I64), f.pointer("y")
    count, x_w, column, x_width, zeros, y_w = f.integers("count x_w column width zeros y_w")
    weights, kernel_h, bias, bias_step = f.integers("weights kernel_h bias bias_step")
    first, end, channels, ahead, past_caches, distance = f.integers("first end channels ahead past_caches distance")
    with f.loop(end, start=first) as vector:
        channel = (vector.index * lanes).at_most(channels - lanes)
        base = f.address(bias).at(channel * bias_step).vector(lanes)
        first_input = group.first_input(channel)
        own_weights = f.address(weights).at(vector.index * kernel_h * (width * group.depth * lanes))
        with f.loop(count, carry=[base] * outputs) as row:
            x = f.address(rows.at(row.index * 2).integer()).at(first_input + column * x_w)
            w = own_weights.at(rows.at(row.index * 2 + 1).integer())
            inputs = {}
            for m in sorted({m for _, m, _ in pattern}):
                here = x.at(x_w * m)
                if guarded:
                    at = column + m
                    inside = f.all_of(at.compare(">=", 0), at.compare("<", x_width))
                    here = f.pick(inside, here, f.address(zeros))
                inputs[m] = here, group.load(here, lanes)
            sums = list(row.values)
            for c in range(group.depth):
                held = {j: w.at((c * width + j) * lanes).vector(lanes) for j in sorted({j for _, _, j in pattern})}
                for m, (here, loaded) in inputs.items():
                    number = group.spread(f, here, loaded, c, lanes)
                    for r, met, j in pattern:
                        if met == m:
                            sums[r] = f.fma(number, held[j], sums[r])
            row.carry(sums)
        sums = row.values
        columns = 1 + max((m for _, m, _ in pattern), default=0)
        with f.if_((vector.index % (LINE // target.vector_bytes)).compare("==", 0)), f.loop(ahead) as row:
            # Where a row is one piece, in the order of memory, which the hardware's own prefetching then follows.
            one_piece = f.all_of(x_w.compare("==", channels), first.compare("==", 0))
            piece = f.choose(one_piece, vector.index * columns * lanes, first_input) + column * x_w
            x = f.address(rows.at((count + row.index) * 2).integer()).at(piece)
            line = f.choose(one_piece, lanes, x_w)
            for m in range(columns):
                f.prefetch(x.at(line * m))
        places = [y.at(y_w * r + channel) for r in range(outputs)]
        has_residual = distance.compare("!=", NO_RESIDUAL)

        def with_residual() -> list[Value]:
            return [
                f.add(total, f.address(place.number() + distance).vector(lanes))
                for place, total in zip(places, sums, strict=True)
            ]

        sums = f.only_if(has_residual, sums, with_residual)
        if activation:
            sums = [apply(f, activation, total) for total in sums]
        with f.if_else(past_caches.compare("!=", 0)) as (past, normally):
            with past:
                for place, total in zip(places, sums, strict=True):
                    f.put_past_caches(place, total)
            with normally, f.if_else(has_residual) as (once, again):
                with once:  # the residual may be y: what the neighbouring vector has stored is not to be added to
                    fresh = f.lanes_from(vector.index * lanes - channel, lanes)
                    for place, total in zip(places, sums, strict=True):
                        f.put_masked(place, total, fresh)
                with again:
                    for place, total in zip(places, sums, strict=True):
                        place.put(total)
    f.done()
    return f


def _pack(module: ir.Module, dtype: str, target: Target, group: Group, width: int) -> None:
    """Weights of any layout as [vector][i][c][j][lane]; the last vector overlaps its neighbour."""
    lanes = target.lanes(dtype)
    f, a = kernel(module, "pack", dtype, PACK)
    taps = a["kernel_h"] * width
    one_piece = f.all_of(a["w_j"].compare("==", 1), a["w_i"].compare("==", width))
    with tasks(f, (a["channels"] + (lanes - 1)) // lanes * group.depth) as task:
        vector, c = task.index // group.depth, task.index % group.depth
        channel = (vector * lanes).at_most(a["channels"] - lanes)
        start = channel // group.outputs * a["w_g"] + channel % group.outputs * a["w_k"]
        w = f.address(a["w"]).at(start + c * a["w_c"])
        own = [w.at(a["w_g"] * (lane // group.outputs) + a["w_k"] * (lane % group.outputs)) for lane in range(lanes)]
        packed = f.address(a["weights"]).at((vector * taps * group.depth + c * width) * lanes)
        with f.if_else(one_piece) as (turned, scattered):
            with turned, f.loop(taps, step=lanes) as tap:  # `lanes` channels × `lanes` taps at a time through registers
                left = taps - tap.index
                mask = f.first_lanes(left, lanes)
                rows = [f.load_masked(own[lane].at(tap.index), lanes, mask) for lane in range(lanes)]
                for offset, column in enumerate(f.transposed(rows)):
                    i, j = (tap.index + offset) // width, (tap.index + offset) % width
                    with f.if_(left.compare(">", offset)):
                        packed.at((i * (group.depth * width) + j) * lanes).put(column)
            with scattered, f.loop(a["kernel_h"]) as row, f.loop(width) as column:
                tap_offset = row.index * a["w_i"] + column.index * a["w_j"]
                to = packed.at((row.index * (group.depth * width) + column.index) * lanes)
                for lane in range(lanes):
                    to.at(lane).put(own[lane].at(tap_offset).scalar())
    f.done()
