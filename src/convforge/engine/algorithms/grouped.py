"""Grouped convolution with few channels a group, depthwise among them: lanes run over the channels of many groups.

What it computes, for a group of D input and O output channels, with x zero outside the image:

    y[n, p, q, k]  = bias[k] + Σᵢ Σⱼ Σ_c  x[n, p·s + i·d − pad, q·s + j − pad, c] · w[k, c, i, j]
    dx[n, h, w, c] = Σᵢ Σⱼ Σ_k  dy[n, (h + pad − i·d)/s, (w + pad − j)/s, k] · w[k, c, i, j]    whole quotients only
    dw[k, c, i, j] = Σ_n Σ_p Σ_q  x[n, p·s + i·d − pad, q·s + j − pad, c] · dy[n, p, q, k]

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

The weight gradient holds the sums of a tile of weights in registers (all nine of 3×3 depthwise; a row of taps × 4
channels) while it passes over the pixels: lanes are output channels, dy is loaded as it is, and x spread as above.

The last vector of channels ends where the channels end and overlaps its neighbour, so no lane is ever masked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llvmlite import ir

from ...spec import ceil_div, round_up
from .. import target as targets
from .. import traffic
from ..describe import Description, Held, Inner, Tile, largest_tile, many
from ..describe import Loop as Level
from ..describe import Step as TileStep
from ..geometry import Problem
from ..kernels.ir import I32, I64, PTR, Arguments, Function, Int, Loop, Pointer, Value, kernel, share
from ..kernels.pack import fill_zeros
from ..prepared import LINE, Layout, Prepared, Program, code, step, worth
from ..target import DTYPE_BYTES, Target

WIDEST = 7
"""Taps of a row: as many weights are held in registers."""
LARGEST_STRIDE = 3
"""Each width and stride is compiled for itself, and these are the ones that networks have."""

_MOST_ROWS_AHEAD = 64
"""Of the input, which the next output row adds and is asked for."""

MOST_OUTPUTS, DEEPEST = 8, 16
"""Channels of a group: from 16 outputs on the direct algorithm is as fast."""

PACK = Arguments("w w_g w_k w_c w_i w_j channels kernel_h packed")

SLIDE = Arguments(
    "x x_n x_h x_w y y_n y_h y_w images channels height width out_height out_width chunk chunks "
    "kernel_h row_h row_0 row_i row_m left weights bias bias_step zeros scratch scratch_bytes past_caches"
    # tap i of output row h meets input row (h·row_h + row_0 + i·row_i) / row_m, where that is whole
)

CORRELATE = Arguments(
    "x x_n x_h x_w dy dy_n dy_h dy_w images channels height out_height out_width width kernel_h tap_rows stride_h "
    "dilation_h pad_top pad_left inside inside_end splits chunks block_rows parts zeros"
    # tap_rows: kernel_h, rounded up to whole tiles; inside … inside_end: outputs with all their columns in the image
)

COLLECT = Arguments("parts splits tap_rows kernel_h channels w w_k w_c w_i w_j")


@dataclass(frozen=True, slots=True)
class Group:
    """Channels of a group: `depth` of them are summed for each of `outputs`. Depthwise has one of both.

    The lanes of a vector of outputs belong to `lanes / outputs` groups, or all to one. Lane l meets as its channel c
    number l//outputs·depth + c of the inputs from the first of these groups on: a shuffle of what is loaded once, or,
    where all are of one group, a broadcast.
    """

    depth: int = 1
    outputs: int = 1

    def fits(self, lanes: int) -> bool:
        """Whole groups to a vector, whose inputs are two vectors at most; or whole vectors to a group."""
        whole = lanes % self.outputs == 0 and lanes // self.outputs * self.depth <= 2 * lanes
        return whole or self.outputs % lanes == 0

    def inputs(self, lanes: int) -> int:
        """Channels of input that a vector of outputs meets."""
        return max(1, lanes // self.outputs) * self.depth

    def first_input(self, channel: Int) -> Int:
        """Of the vector that begins at this output."""
        return channel if self.depth == self.outputs == 1 else channel // self.outputs * self.depth

    def load(self, x: Pointer, lanes: int) -> list[Value]:
        """What is loaded once for all channels of the groups."""
        if self.outputs >= lanes:
            return []
        count = self.inputs(lanes)
        return [x.vector(count)] if count <= lanes else [x.vector(lanes), x.at(lanes).vector(count - lanes)]

    def spread(self, f: Function, x: Pointer, loaded: list[Value], c: int, lanes: int) -> Value:
        """Channel c of its own group in every lane."""
        if self.outputs >= lanes:
            return f.splat(x.at(c).scalar(), lanes)
        if self.depth == self.outputs == 1:
            return loaded[0]
        low, high = (loaded * 2)[:2]
        if high.type.count < low.type.count:  # a shuffle takes two vectors of one size
            high = f.shuffle(high, high, [*range(high.type.count), *[0] * (low.type.count - high.type.count)])
        return f.shuffle(low, high, [lane // self.outputs * self.depth + c for lane in range(lanes)])


def fits(problem: Problem) -> bool:
    """Channels side by side, enough of them for a vector, and a row of taps for which there is a tile."""
    s = problem.forward()
    return (
        problem.x_strides[1] == problem.y_strides[1] == 1
        and min(problem.x_shape[1], problem.y_shape[1]) >= targets.current().lanes(problem.dtype)
        and s.horizontal.kernel <= WIDEST
        and s.horizontal.stride <= LARGEST_STRIDE
        and s.horizontal.dilation == 1
        and s.vertical.stride <= _MOST_ROWS_AHEAD
    )


def applies(problem: Problem, backward: bool, gradient_of_weights: bool) -> bool:
    """Few channels a group: with more of them `direct.py` fills its vectors, and shares each input among two."""
    lanes, group = targets.current().lanes(problem.dtype), _group(problem, backward)
    most = max(MOST_OUTPUTS // 2, min(lanes // 2, MOST_OUTPUTS)) if gradient_of_weights else MOST_OUTPUTS
    few = group.outputs <= most and group.depth <= DEEPEST
    return problem.groups > 1 and few and group.fits(lanes) and fits(problem)


def _group(problem: Problem, backward: bool) -> Group:
    """The group of one pass; the input gradient sums over what the forward pass computes."""
    depth, outputs = problem.w_shape[1], problem.w_shape[0] // problem.groups
    return Group(outputs, depth) if backward else Group(depth, outputs)


# ---------------------------------------------------------------------------------------------------------------------
# Forward pass and input gradient
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cut:
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
    def of(cls, problem: Problem, backward: bool, threads: int) -> _Cut:
        s, target = problem.forward(), targets.current()
        size, lanes = DTYPE_BYTES[problem.dtype], target.lanes(problem.dtype)
        v, h, group = s.vertical, s.horizontal, _group(problem, backward)
        _, channels, height, width = problem.x_shape if backward else problem.y_shape
        vectors, taps = ceil_div(channels, lanes), v.kernel * h.kernel * group.depth
        chunk = _chunk(vectors, s.images * height, worth(threads, s.macs), taps * lanes * size, target)
        pattern = ("backward", h.kernel, h.stride, h.pad % h.stride) if backward else ("forward", h.kernel, h.stride, 0)
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
        read = weights * (depth - 1) + inputs * _loads(self.group, lanes, depth)
        return TileStep(len(products) * depth, weights, read)


def _loads(group: Group, lanes: int, channels: int) -> int:
    """Loads of an input, for so many channels of its group."""
    return channels if group.outputs >= lanes else ceil_div(group.inputs(lanes), lanes)


# What the model of cycles is made of, measured on one core of Zen 5.
_CYCLES_A_SHUFFLE = 0.5


def cycles(problem: Problem, backward: bool, threads: int, kept: bool) -> float:
    """What the forward pass or, `backward`, the input gradient takes: the steps of all tiles, and x's and y's way
    through the caches, which does not hide behind them; where the weights are not `kept`, packing them as well."""
    s, target = problem.forward(), targets.current()
    size, lanes = DTYPE_BYTES[problem.dtype], target.lanes(problem.dtype)
    cut = _Cut.of(problem, backward, threads)
    group, (count, outputs) = cut.group, cut.tiles(target)
    rows = s.vertical.kernel / (s.vertical.stride if backward else 1)
    tile = Tile.of(target, problem.dtype, (outputs, ""), (1, ""), step=cut.step(outputs, lanes))
    row = tile.cycles
    if group.depth > 1 and group.outputs < lanes:
        row += tile.multiply_adds / s.horizontal.kernel * _CYCLES_A_SHUFFLE
    computing = s.images * cut.height * cut.vectors * count * rows * row
    packing = 0.0 if kept else traffic.packing(cut.vectors * cut.taps * lanes * size, threads)
    together = traffic.bytes_of(problem)
    written = s.images * cut.channels * cut.height * cut.width * size
    moving = traffic.cycles(together - written, written, together, target, past_caches=together > target.l3_bytes)
    return (computing + moving) / threads + packing


def describe(problem: Problem, backward: bool, threads: int) -> Description:
    """The loops of the forward pass or, `backward`, of the input gradient."""
    s, target = problem.forward(), targets.current()
    size, lanes = DTYPE_BYTES[problem.dtype], target.lanes(problem.dtype)
    cut, threads = _Cut.of(problem, backward, threads), worth(threads, s.macs)
    count, outputs = cut.tiles(target)
    rows = ceil_div(s.vertical.kernel, s.vertical.stride if backward else 1)
    units = [many(s.images, "image"), many(cut.height, "row"), many(cut.chunks, "chunk") + " of channels"]
    loops = (
        Level(
            s.images * cut.chunks * cut.height,
            "unit",
            f"shared out among {many(threads, 'thread')}: {' × '.join(units)}",
            "list the rows of taps that meet the image there",
        ),
        Level(count, "tile", f"of at most {outputs} pixels of the row"),
        Level(cut.chunk, "vector", f"of {lanes} channels"),
        Level(rows, "listed row", "of taps, or fewer"),
    )
    weights, read = cut.taps * lanes * size, problem.y_shape if backward else problem.x_shape
    held = (
        Held("all weights, packed", cut.vectors * weights),
        Held("weights of a chunk of channels", cut.chunk * weights, "L1"),
        Held("the input rows of an output row", s.vertical.kernel * read[1] * read[3] * size),
    )
    form = "inside" if cut.group.depth == 1 else "border"
    return Description(
        loops,
        Tile.of(
            target, problem.dtype, (outputs, "result pixels"), (1, "result channels"), step=cut.step(outputs, lanes)
        ),
        held,
        Inner(build, f"tile_{outputs}_{form}", (cut.group, *cut.pattern)),
    )


def prepare(name: str, problem: Problem, backward: bool, threads: int, bias: bool) -> Prepared:
    """The forward pass, or, `backward`, the input gradient."""
    s, target = problem.forward(), targets.current()
    size, lanes = DTYPE_BYTES[problem.dtype], target.lanes(problem.dtype)
    v, h = s.vertical, s.horizontal
    cut = _Cut.of(problem, backward, threads)
    group, channels, taps, vectors = cut.group, cut.channels, cut.taps, cut.vectors
    threads = worth(threads, s.macs)
    x = {"x_n": s.x_n, "x_h": v.x_step, "x_w": h.x_step, "height": v.size, "width": h.size}
    y = {"y_n": s.y_n, "y_h": v.y_step, "y_w": h.y_step, "out_height": v.out, "out_width": h.out}
    if backward:
        x, y = dict(zip(x, y.values(), strict=True)), dict(zip(y, x.values(), strict=True))
        rows = {"row_h": 1, "row_0": v.pad, "row_i": -v.dilation, "row_m": v.stride, "left": h.pad}
    else:
        rows = {"row_h": v.stride, "row_0": -v.pad, "row_i": v.dilation, "row_m": 1, "left": -h.pad}
    # The vectors stored are all aligned where the first one is; whether that is so, the kernel sees.
    aligned = all(number % lanes == 0 for number in (channels, y["y_n"], y["y_h"], y["y_w"]))
    past_caches = aligned and (math.prod(problem.x_shape) + math.prod(problem.y_shape)) * size > target.l3_bytes
    layout = Layout()
    scratch_bytes = round_up((v.kernel + v.stride) * 16, LINE)  # the list of rows
    scratch = layout.take(scratch_bytes * threads)
    kernels = code(build, ("pack", "slide"), problem.dtype, target, group, *cut.pattern)
    w_k, w_c = (s.w_c, s.w_k) if backward else (s.w_k, s.w_c)
    pack = {
        "w_g": s.w_g, "w_k": w_k, "w_c": w_c, "w_i": v.w_step, "w_j": h.w_step, "channels": channels,
        "kernel_h": v.kernel,
    }  # fmt: skip
    slide = x | y | rows | {
        "images": s.images, "channels": channels, "chunk": cut.chunk, "chunks": cut.chunks,
        "kernel_h": v.kernel, "bias_step": int(bias), "scratch_bytes": scratch_bytes,
        "past_caches": int(past_caches),
    }  # fmt: skip
    at = {
        "x": ("y" if backward else "x", 0),
        "y": ("x" if backward else "y", 0),
        "weights": ("packed", 0),
        "bias": ("bias" if bias else "zeros", 0),
        "zeros": ("zeros", 0),
        "scratch": ("work", scratch),
    }
    packing = step(kernels["pack"], PACK, pack, {"w": ("w", s.w_start * size), "packed": ("packed", 0)})
    return Prepared(
        name,
        threads,
        Program((step(kernels["slide"], SLIDE, slide, at),)),
        layout.size,
        Program((packing,)),
        vectors * taps * lanes * size,
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
    module: ir.Module, dtype: str, target: Target, group: Group, direction: str, width: int, stride: int, phase: int
) -> None:
    """Adds the kernels `pack` and `slide` to the module."""
    lanes = target.lanes(dtype)
    _pack(module, dtype, target, group, width)
    unit = stride if direction == "backward" else 1
    most = _most_units(target, width, stride, direction) * unit
    # To look where a column lies costs little beside several channels of products: then one form of the tile will do.
    guards = (False, True) if group.depth == 1 else (True,)
    tiles = {
        guarded: {
            n: _tile(module, dtype, target, group, n, _pattern(direction, width, stride, phase, n)[0], width, guarded)
            for n in range(1, most + 1)
        }
        for guarded in guards
    }

    f, array, thread, threads = kernel(module, "slide", dtype)
    a = SLIDE.read(array)
    rows = f.address(a["scratch"] + thread * a["scratch_bytes"], I64)
    vectors = (a["channels"] + (lanes - 1)) // lanes
    # By rows, so that threads meet at one row and not at each pixel, where the CPU's prefetch for one thread's stores
    # takes the lines of the other's; by channels where rows would leave a thread without enough to do.
    all_rows = a["images"] * a["out_height"]
    by_rows = f.any_of((all_rows % threads).compare("==", 0), all_rows.compare(">=", threads * _ROWS_A_THREAD))
    first, end = share(all_rows * f.choose(by_rows, 1, a["chunks"]), thread, threads)
    aligned = (a["y"] % target.vector_bytes).compare("==", 0)
    past_caches = f.choose(aligned, a["past_caches"], 0)
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
            arguments = (
                rows, count, a["x_w"], column, a["width"], a["zeros"], y.at(q * a["y_w"]), a["y_w"],
                a["weights"], a["kernel_h"], a["bias"], a["bias_step"], first_vector, end_vector, a["channels"],
                ahead, past_caches,
            )  # fmt: skip
            with f.if_else(inside) as (yes, no):
                with yes:
                    f.dispatch(n, tiles[guards[0]], *arguments)
                with no:
                    f.dispatch(n, tiles[True], *arguments)
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
) -> Function:
    """`outputs` neighbouring outputs of a row, over some vectors of channels; `guarded` where columns may be outside.

    Arguments: rows, count, x_w, column, width, zeros, y, y_w, weights, kernel_h, bias, bias_step, first vector, end
    vector, channels, ahead, past_caches.
    """
    lanes = target.lanes(dtype)
    types = [PTR, *[I64] * 5, PTR, *[I64] * 10]
    f = Function(module, f"tile_{outputs}_{'border' if guarded else 'inside'}", types, dtype, internal=True)
    rows, y = f.pointer(0, I64), f.pointer(6)
    (
        count,
        x_w,
        column,
        x_width,
        zeros,
        y_w,
        weights,
        kernel_h,
        bias,
        bias_step,
        first,
        end,
        channels,
        ahead,
        past_caches,
    ) = (f.integer(n) for n in (1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16))
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
        with f.if_else(past_caches.compare("!=", 0)) as (past, normally):
            with past:
                for r, total in enumerate(sums):
                    f.put_past_caches(y.at(y_w * r + channel), total)
            with normally:
                for r, total in enumerate(sums):
                    y.at(y_w * r + channel).put(total)
    f.done()
    return f


def _pack(module: ir.Module, dtype: str, target: Target, group: Group, width: int) -> None:
    """Weights of any layout as [vector][i][c][j][lane]; the last vector overlaps its neighbour."""
    lanes = target.lanes(dtype)
    f, array, thread, threads = kernel(module, "pack", dtype)
    a = PACK.read(array)
    taps = a["kernel_h"] * width
    first, end = share((a["channels"] + (lanes - 1)) // lanes * group.depth, thread, threads)
    one_piece = f.all_of(a["w_j"].compare("==", 1), a["w_i"].compare("==", width))
    with f.loop(end, start=first) as task:
        vector, c = task.index // group.depth, task.index % group.depth
        channel = (vector * lanes).at_most(a["channels"] - lanes)
        start = channel // group.outputs * a["w_g"] + channel % group.outputs * a["w_k"]
        w = f.address(a["w"]).at(start + c * a["w_c"])
        own = [w.at(a["w_g"] * (lane // group.outputs) + a["w_k"] * (lane % group.outputs)) for lane in range(lanes)]
        packed = f.address(a["packed"]).at((vector * taps * group.depth + c * width) * lanes)
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


# ---------------------------------------------------------------------------------------------------------------------
# Weight gradient
# ---------------------------------------------------------------------------------------------------------------------

_PIXELS_A_SUM = 256
"""Sums are begun anew after so many pixels: short chains of roundings (see `direct.py`)."""


@dataclass(frozen=True, slots=True)
class _Split:
    """How the weight gradient is shared out, and its tiles of taps."""

    group: Group
    vectors: int
    width: int
    rows_a_tile: int
    tap_rows: int
    """Of the kernel, rounded up to whole tiles."""
    splits: int
    """Of the pixels, each with sums of its own."""
    chunks: int
    """Of the channels."""
    block_rows: int
    sums_bytes: int
    inside: int
    """The first output of a row with all its columns in the image, and behind the last of them:"""
    inside_end: int

    @classmethod
    def of(cls, problem: Problem, threads: int) -> _Split:
        s, target = problem.forward(), targets.current()
        v, h, group = s.vertical, s.horizontal, _group(problem, False)
        vectors = ceil_div(problem.y_shape[1], target.lanes(problem.dtype))
        rows_a_tile = _tap_rows(target, v.kernel, h.kernel * group.depth)
        tap_rows = round_up(v.kernel, rows_a_tile)
        # By channels where there are plenty, else by rows of pixels: then each split sums for itself.
        by_channels = vectors >= 8 * threads or (vectors >= threads and vectors % threads == 0)
        splits, chunks = (1, threads) if by_channels else (max(1, min(threads, s.images * v.out)), 1)
        sums_bytes = splits * vectors * tap_rows * h.kernel * group.depth * target.vector_bytes
        block_rows = max(1, _PIXELS_A_SUM // h.out)
        inside = min(max(0, ceil_div(h.pad, h.stride)), h.out)
        inside_end = max(inside, min(h.out, (h.size - h.kernel + h.pad) // h.stride + 1))
        cut = (rows_a_tile, tap_rows, splits, chunks, block_rows, sums_bytes, inside, inside_end)
        return cls(group, vectors, h.kernel, *cut)

    def depths(self, target: Target) -> list[range]:
        return _depths(self.group, target, self.rows_a_tile, self.width)

    def columns(self, target: Target) -> int:
        return _columns(target, self.rows_a_tile * self.width * len(self.depths(target)[0]))

    def step(self, stride: int, lanes: int, target: Target) -> TileStep:
        """What a tile takes for its neighbouring output pixels."""
        columns, depth = self.columns(target), len(self.depths(target)[0])
        inputs = self.rows_a_tile * len({n * stride + j for n in range(columns) for j in range(self.width)})
        products = self.rows_a_tile * self.width * depth * columns
        return TileStep(products, columns, inputs * _loads(self.group, lanes, depth))


_CYCLES_A_BORDER_SUM = 2.0
"""For each pixel whose inputs may lie outside the image, beside the step."""
_CYCLES_A_PIXEL_ROW = 70.0
"""To find the rows of x, for a row of pixels and a tile of taps."""
_GRADIENT_BYTES_A_CYCLE = 12.0
"""The sums on their way into the layout of the weights."""


def cycles_of_weight_gradient(problem: Problem, threads: int) -> float:
    """What it takes: the steps of all tiles of taps over all pixels, and x's and dy's way through the caches."""
    s, target = problem.forward(), targets.current()
    lanes = target.lanes(problem.dtype)
    split = _Split.of(problem, threads)
    columns, depths = split.columns(target), split.depths(target)
    sums = (split.rows_a_tile * split.width * len(depths[0]), "")
    tile = Tile.of(target, problem.dtype, sums, (1, ""), step=split.step(s.horizontal.stride, lanes, target))
    tiles = split.vectors * (split.tap_rows // split.rows_a_tile) * len(depths)
    border = s.horizontal.out - (split.inside_end - split.inside)
    row = s.horizontal.out / columns * tile.cycles + border * tile.sums * _CYCLES_A_BORDER_SUM + _CYCLES_A_PIXEL_ROW
    computing = s.images * s.vertical.out * tiles * row
    collecting = split.sums_bytes / _GRADIENT_BYTES_A_CYCLE
    together = traffic.bytes_of(problem)
    return (computing + traffic.cycles(together, 0, together, target) + collecting) / threads


def describe_weight_gradient(problem: Problem, threads: int) -> Description:
    """The loops of the weight gradient."""
    s, target = problem.forward(), targets.current()
    size, lanes = DTYPE_BYTES[problem.dtype], target.lanes(problem.dtype)
    v, h, threads = s.vertical, s.horizontal, worth(threads, s.macs)
    split = _Split.of(problem, threads)
    columns, depths = split.columns(target), split.depths(target)
    rows = min(split.block_rows, v.out)
    units = [
        many(split.splits, "split") + " of the pixels" if split.splits > 1 else "",
        many(split.chunks, "chunk") + " of channels" if split.chunks > 1 else "",
    ]
    taps = f"{many(split.rows_a_tile, 'row')} of taps"
    if len(depths) > 1:
        taps += f" × {many(len(depths[0]), 'channel')} of a group"
    loops = (
        Level(
            split.splits * split.chunks,
            "unit",
            f"shared out among {many(threads, 'thread')}: {' × '.join(filter(None, units)) or 'all of it'}",
        ),
        Level(
            ceil_div(s.images * ceil_div(v.out, rows), split.splits),
            "block",
            f"of at most {many(rows, 'row')} of pixels",
        ),
        Level(ceil_div(split.vectors, split.chunks), "vector", f"of {lanes} output channels"),
        Level(split.tap_rows // split.rows_a_tile * len(depths), "tile", f"of {taps}"),
        Level(rows, "row"),
        Level(ceil_div(h.out, columns), "step", f"of {many(columns, 'pixel')}"),
    )
    held = (
        Held("the input rows of a block", ((rows - 1) * v.stride + v.kernel) * h.size * problem.x_shape[1] * size),
        Held("the sums of all splits", split.sums_bytes),
    )
    sums = (split.rows_a_tile * split.width * len(depths[0]), "weights")
    return Description(
        loops,
        Tile.of(target, problem.dtype, sums, (1, "output channels"), step=split.step(h.stride, lanes, target)),
        held,
        Inner(build_weight_gradient, "gradient_tile_0", (split.group, split.rows_a_tile, split.width, h.stride)),
        after="add the sums of the splits" if split.splits > 1 else "",
    )


def prepare_weight_gradient(name: str, problem: Problem, threads: int) -> Prepared:
    """w's gradient, into `w`, from x and y's gradient, in `y`."""
    s, target = problem.forward(), targets.current()
    v, h = s.vertical, s.horizontal
    group, channels = _group(problem, False), problem.y_shape[1]
    threads = worth(threads, s.macs)
    split = _Split.of(problem, threads)
    rows_a_tile, tap_rows, splits, chunks = split.rows_a_tile, split.tap_rows, split.splits, split.chunks
    layout = Layout()
    parts = layout.take(split.sums_bytes)
    w = ("w", s.w_start * DTYPE_BYTES[problem.dtype])
    kernels = code(
        build_weight_gradient, ("correlate", "collect"), problem.dtype, target, group, rows_a_tile, h.kernel, h.stride
    )
    correlate = {
        "x_n": s.x_n, "x_h": v.x_step, "x_w": h.x_step, "dy_n": s.y_n, "dy_h": v.y_step, "dy_w": h.y_step,
        "images": s.images, "channels": channels, "height": v.size, "width": h.size,
        "out_height": v.out, "out_width": h.out, "kernel_h": v.kernel, "tap_rows": tap_rows,
        "stride_h": v.stride, "dilation_h": v.dilation, "pad_top": v.pad, "pad_left": h.pad,
        "inside": split.inside, "inside_end": split.inside_end, "splits": splits, "chunks": chunks,
        "block_rows": split.block_rows,
    }  # fmt: skip
    collect = {
        "splits": splits, "tap_rows": tap_rows, "kernel_h": v.kernel, "channels": channels,
        "w_k": s.w_k, "w_c": s.w_c, "w_i": v.w_step, "w_j": h.w_step,
    }  # fmt: skip
    sums = ("work", parts)
    at = {"x": ("x", 0), "dy": ("y", 0), "parts": sums, "zeros": ("zeros", 0)}
    steps = (
        step(kernels["correlate"], CORRELATE, correlate, at),
        step(kernels["collect"], COLLECT, collect, {"parts": sums, "w": w}),
    )
    return Prepared(name, threads, Program(steps), layout.size)


def _tap_rows(target: Target, kernel: int, sums_a_row: int) -> int:
    """Tap rows of a tile: the fewest passes over the pixels, counting that fewer than eight sums wait for each other,
    and that a kernel's last tile may have rows too many."""
    most = max(1, _most_sums(target) // sums_a_row)
    return min(range(1, min(most, kernel) + 1), key=lambda rows: ceil_div(kernel, rows) * max(rows, 8 / sums_a_row))


def _depths(group: Group, target: Target, tap_rows: int, width: int) -> list[range]:
    """The channels of a group, as many to a tile as registers hold the sums of."""
    depth = max(1, min(group.depth, _most_sums(target) // (tap_rows * width)))
    return [range(c, min(c + depth, group.depth)) for c in range(0, group.depth, depth)]


def _columns(target: Target, sums: int) -> int:
    """Neighbouring outputs that share inputs, beside so many sums."""
    return 2 if sums <= target.registers // 2 else 1


def _most_sums(target: Target) -> int:
    """Beside the sums a vector of dy, an input and what it is shuffled from are in registers."""
    return target.registers - 4


def build_weight_gradient(
    module: ir.Module, dtype: str, target: Target, group: Group, tap_rows: int, width: int, stride: int
) -> None:
    """Adds the kernels `correlate` and `collect` to the module; a tile has `tap_rows` × `width` taps, and as many of a
    group's channels as registers hold the sums of."""
    lanes = target.lanes(dtype)
    tiles = [
        _gradient_tile(module, dtype, target, group, depth, tap_rows, width, stride)
        for depth in _depths(group, target, tap_rows, width)
    ]
    f, array, thread, threads = kernel(module, "correlate", dtype)
    a = CORRELATE.read(array)
    vectors = (a["channels"] + (lanes - 1)) // lanes
    sums = a["tap_rows"] * (width * group.depth * lanes)  # of one vector of channels
    first, end = share(a["splits"] * a["chunks"], thread, threads)
    with f.loop(end, start=first) as unit:
        first_vector, end_vector = share(vectors, unit.index % a["chunks"], a["chunks"])
        split = unit.index // a["chunks"]
        parts = f.address(a["parts"]).at(split * vectors * sums)
        fill_zeros(f, parts.at(first_vector * sums), (end_vector - first_vector) * sums, lanes)
        first_row, end_row = share(a["images"] * a["out_height"], split, a["splits"])
        first_image, end_image = first_row // a["out_height"], (end_row + a["out_height"] - 1) // a["out_height"]
        with f.loop(end_image, start=first_image) as image:
            begin = (first_row - image.index * a["out_height"]).at_least(0)
            stop = (end_row - image.index * a["out_height"]).at_most(a["out_height"])
            with (
                f.loop(stop, start=begin, step=a["block_rows"]) as block,
                f.loop(end_vector, start=first_vector) as vector,
                f.loop(a["tap_rows"], step=tap_rows) as tap_row,
            ):
                rows = (stop - block.index).at_most(a["block_rows"])
                channel = (vector.index * lanes).at_most(a["channels"] - lanes)
                x = f.address(a["x"]).at(image.index * a["x_n"] + group.first_input(channel))
                dy = f.address(a["dy"]).at(image.index * a["dy_n"] + channel)
                to = parts.at(vector.index * sums + tap_row.index * (width * group.depth * lanes))
                for tile in tiles:
                    f.call(tile, array, x, dy, to, block.index, block.index + rows, tap_row.index)
    f.done()
    _collect(module, dtype, target, group, width)


def _gradient_tile(
    module: ir.Module,
    dtype: str,
    target: Target,
    group: Group,
    depth: range,
    tap_rows: int,
    width: int,
    stride: int,
) -> Function:
    """Adds to the sums of `tap_rows` × `width` taps × the channels of `depth`, for one vector of output channels, over
    some output rows.

    Arguments: those of the kernel, x and dy of the image and channels, sums, first row, end row, first tap row.
    """
    lanes = target.lanes(dtype)
    f = Function(module, f"gradient_tile_{depth.start}", [PTR, PTR, PTR, PTR, I64, I64, I64], dtype, internal=True)
    a = CORRELATE.read(f.pointer(0, I64))
    x, dy, to = (f.pointer(n) for n in (1, 2, 3))
    first, end, first_tap = (f.integer(n) for n in (4, 5, 6))
    zeros = f.address(a["zeros"])
    taps = [(i, j, c) for i in range(tap_rows) for j in range(width) for c in depth]
    columns = _columns(target, len(taps))
    with f.loop(end, start=first, carry=[f.zeros(lanes)] * len(taps)) as row:
        top = row.index * a["stride_h"] - a["pad_top"] + first_tap * a["dilation_h"]
        there = [top + a["dilation_h"] * i for i in range(tap_rows)]
        met = [
            f.all_of(r.compare(">=", 0), r.compare("<", a["height"]), (first_tap + i).compare("<", a["kernel_h"]))
            for i, r in enumerate(there)
        ]
        # A row outside the image is a zero vector again and again.
        x_steps = [f.choose(inside, a["x_w"], 0) for inside in met]
        x_rows = [
            f.pick(inside, x.at(r * a["x_h"] - a["pad_left"] * a["x_w"]), zeros)
            for inside, r in zip(met, there, strict=True)
        ]
        dy_row = dy.at(row.index * a["dy_h"])

        def meet(sums: dict[tuple[int, int, int], Value], x: Pointer, i: int, numbers: dict[int, Value]) -> None:
            """An input, in tap row i, meets the numbers of dy that have it under their tap j."""
            loaded = group.load(x, lanes)
            for c in depth:
                spread = group.spread(f, x, loaded, c, lanes)
                for j, number in numbers.items():
                    sums[i, j, c] = f.fma(spread, number, sums[i, j, c])

        def at_border(loop: Loop) -> None:
            """One output, each of whose inputs may lie outside."""
            number = dy_row.at(loop.index * a["dy_w"]).vector(lanes)
            sums = dict(zip(taps, loop.values, strict=True))
            for j in range(width):
                column = loop.index * stride + j
                inside = f.all_of(
                    column.compare(">=", a["pad_left"]), (column - a["pad_left"]).compare("<", a["width"])
                )
                for i in range(tap_rows):
                    meet(sums, f.pick(inside, x_rows[i].at(column * x_steps[i]), zeros), i, {j: number})
            loop.carry(list(sums.values()))

        inside, inside_end = a["inside"], a["inside_end"]
        inside_end = inside + (inside_end - inside) // columns * columns
        with f.loop(inside, carry=row.values) as q:
            at_border(q)
        with f.loop(inside_end, start=inside, step=columns, carry=q.values) as q:
            numbers = [dy_row.at((q.index + n) * a["dy_w"]).vector(lanes) for n in range(columns)]
            sums = dict(zip(taps, q.values, strict=True))
            for i in range(tap_rows):
                here = x_rows[i].at(q.index * stride * x_steps[i])
                for m in range((columns - 1) * stride + width):
                    under = {m - n * stride: numbers[n] for n in range(columns) if 0 <= m - n * stride < width}
                    meet(sums, here.at(x_steps[i] * m), i, under)
            q.carry(list(sums.values()))
        with f.loop(a["out_width"], start=inside_end, carry=q.values) as q:
            at_border(q)
        row.carry(q.values)
    for (i, j, c), total in zip(taps, row.values, strict=True):
        here = to.at(((i * width + j) * group.depth + c) * lanes)
        here.put(f.add(here.vector(lanes), total))
    f.done()
    return f


def _collect(module: ir.Module, dtype: str, target: Target, group: Group, width: int) -> None:
    """dw = the sum of the parts, in the layout of the weights."""
    lanes = target.lanes(dtype)
    f, array, thread, threads = kernel(module, "collect", dtype)
    a = COLLECT.read(array)
    vectors = (a["channels"] + (lanes - 1)) // lanes
    sums = a["tap_rows"] * (width * group.depth * lanes)
    first, end = share(vectors, thread, threads)
    with (
        f.loop(end, start=first) as vector,
        f.loop(a["kernel_h"]) as i,
        f.loop(width) as j,
        f.loop(group.depth) as c,
    ):
        channel = (vector.index * lanes).at_most(a["channels"] - lanes)
        number = (i.index * width + j.index) * group.depth + c.index
        own = f.address(a["parts"]).at(vector.index * sums + number * lanes)
        with f.loop(a["splits"], start=1, carry=[own.vector(lanes)]) as split:
            split.carry([f.add(split.values[0], own.at(split.index * vectors * sums).vector(lanes))])
        to = f.address(a["w"]).at(channel * a["w_k"] + c.index * a["w_c"] + i.index * a["w_i"] + j.index * a["w_j"])
        for lane in range(lanes):
            to.at(a["w_k"] * lane).put(f.builder.extract_element(split.values[0], ir.Constant(I32, lane)))
    f.done()
