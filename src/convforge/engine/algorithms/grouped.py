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
lies, and a register tile is a piece of two output rows, in which neighbouring outputs share inputs:

    task = (image, band of rows, chunk of channels)
        for a block of two output rows
            list the input rows that they meet, inside the image: those of the first row alone, of both, of the other
            for a tile of the rows
                for a vector of channels
                    for a listed row, for a channel of the group   registers: the tile's sums and two rows of weights
                        each input is loaded once and meets every output and tap that it belongs to

For 3×3 at stride 1 and 2×7 outputs that is 36 + 12 loads for 126 multiply-adds. An input row is read for two blocks
instead of three output rows: three rows (28 KB each for 512 channels at 14×14) do not stay in L1, and L2 gives half a
line a cycle where a line of outputs takes nine multiply-adds. Two rows were 1.2 to 1.5 times as fast there, three and
four little more. Rows whose taps do not coincide (dilated, or k ≤ s) are taken one by one; so are those of several
channels a group, whose loads are few beside their products, and where there are registers for fewer than 2×4 sums (5×5
with 16 registers).

The list turns the border above and below into fewer rows, and the same tile serves any kernel height and dilation of
rows, and the input gradient: there the rows are those whose tap meets output row h, and the tile's pattern of (output,
input, tap) is the transposed one. At stride 2 it writes even and odd columns side by side, so dx is written once, front
to back. Only tiles at the left and right border look where a column lies, and only for those that can be outside (k − 1
at each end); these are read from a zero vector.

Depthwise moves 8 bytes for 9 multiply-adds, so from L3 outwards memory sets the pace. Where input and output together
are more than a part of L3, each tile asks for the rows that the next output rows add, while it computes: at
16×32×112×112 that took 3.9 → 1.9 ms; where the caches hold both, it costs 10 to 20 %. Where they exceed L3, the output
goes past the caches, so that its lines are not read before they are written: 1.9 → 1.3 ms.

The last vector of channels ends where the channels end and overlaps its neighbour; only where there is a residual,
which may be the result itself, are stores masked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from ...native.ir import I64, Arguments, Function, Int, IntLike, Pointer, Value, kernel, share, tasks
from ...native.program import LINE, Layout, Program, code, step
from ...native.target import Target
from ...spec import ceil_div, round_up
from .. import traffic
from ..kernels.blocks import thread_scratch
from ..kernels.functions import apply
from ..kernels.transforms import NO_RESIDUAL
from ..nest import Held, Inner, Level, Nest, RegisterTile, TileStep, largest_tile, shared_out
from ..plan import Job, Plan, Refusal
from ..prepared import Prepared
from .groups import Group

PACK = Arguments("w w_g w_k w_c w_i w_j channels kernel_h weights")

SLIDE = Arguments(
    "x x_n x_h x_w y y_n y_h y_w images channels height width out_height out_width chunk chunks bands "
    "kernel_h row_h row_0 row_i row_m shift left weights bias bias_step residual zeros scratch scratch_bytes "
    "ahead past_caches"
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
    """How the result of one pass is cut into tasks and tiles: `channels` of it, in images of `height` × `width`."""

    group: Group
    channels: int
    vectors: int
    height: int
    width: int
    taps: int
    """Products that are summed for one output."""
    form: Form
    shift: int
    """What one output row meets as its tap i, its neighbour meets as tap i + shift."""
    chunk: int
    """Vectors of channels of a task, and into how many bands of rows each image is cut:"""
    bands: int

    @classmethod
    def of(cls, job: Job, group: Group) -> Cut:
        s = job.problem.forward()
        v, h = s.vertical, s.horizontal
        _, channels, height, width = job.problem.x_shape if job.backward else job.problem.y_shape
        vectors, taps = ceil_div(channels, job.lanes), v.kernel * h.kernel * group.depth
        if job.backward:
            shift, phase, edge = int(v.dilation == 1), h.pad % h.stride, ceil_div(h.kernel - 1, h.stride)
            right = (h.size - 1 + h.pad) // h.stride - (
                h.out - 1
            )  # columns that x's last number meets beyond dy's last
            edge = edge if h.pad >= 0 and right <= edge else _ALL
        else:
            shift, rest = divmod(v.stride, v.dilation)
            right = (h.out - 1) * h.stride + h.kernel - h.pad - h.size
            shift, phase, edge = 0 if rest else shift, 0, h.kernel - 1 if max(h.pad, right) < h.kernel else _ALL
        pairs = group.depth == 1 and 0 < shift < v.kernel and height > 1 and _room(job.target, h.kernel, 2) >= 4
        form = Form("backward" if job.backward else "forward", h.kernel, h.stride, phase, 2 if pairs else 1, edge)
        most = max(1, job.target.l1_bytes // 2 // (taps * job.lanes * job.size))
        chunks, blocks = ceil_div(vectors, most), ceil_div(height, form.height)
        tasks = _TASKS_A_THREAD * job.threads if job.threads > 1 else 1
        bands = min(blocks, ceil_div(tasks, s.images * chunks))
        chunks = min(vectors, max(chunks, ceil_div(tasks, s.images * bands)))
        return cls(group, channels, vectors, height, width, taps, form, shift, ceil_div(vectors, chunks), bands)

    @property
    def chunks(self) -> int:
        return ceil_div(self.vectors, self.chunk)

    def tiles(self, target: Target) -> tuple[int, int]:
        """Tiles of a row, and outputs of the largest of them."""
        unit, most = self.form.unit, self.form.most(target)
        units, most_units = ceil_div(self.width, unit), most // unit
        return ceil_div(units, most_units), min(largest_tile(units, most_units) * unit, self.width)

    def tile(self, job: Job) -> RegisterTile:
        """The largest tile, and what it takes for a listed row that all of its outputs meet."""
        (_, outputs), lanes = self.tiles(job.target), job.lanes
        products, _ = self.form.products(outputs)
        inputs, weights = len({m for _, m, _ in products}), len({j for _, _, j in products}) * self.form.height
        depth = self.group.depth
        read = weights * (depth - 1) + inputs * self.group.loads(lanes, depth)
        step = TileStep(len(products) * depth * self.form.height, weights, read)
        sums = self.form.height * outputs
        return RegisterTile(sums, "result pixels", 1, "result channels", lanes, job.target.registers, step=step)


# What the model of cycles is made of, measured on one core of Zen 5.
_CYCLES_A_SHUFFLE = 0.5


def cycles(job: Job, cut: Cut) -> float:
    """What it takes: the steps of all tiles, and x's and y's way through the caches, which does not hide behind them;
    where the weights are not kept, packing them as well."""
    s, target, lanes, size = job.problem.forward(), job.target, job.lanes, job.size
    group, tile, (count, _) = cut.group, cut.tile(job), cut.tiles(target)
    rows = s.vertical.kernel / (s.vertical.stride if job.backward else 1)
    row = tile.cycles
    if group.depth > 1 and group.outputs < lanes:
        row += tile.multiply_adds / s.horizontal.kernel * _CYCLES_A_SHUFFLE
    computing = s.images * ceil_div(cut.height, cut.form.height) * cut.vectors * count * rows * row
    packing = 0.0 if job.kept else traffic.packing(cut.vectors * cut.taps * lanes * size, job.threads, target)
    together = traffic.bytes_of(job.problem)
    written = s.images * cut.channels * cut.height * cut.width * size
    moving = traffic.cycles(together - written, written, together, target, past_caches=True)
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
        units = [
            Level(s.images, "image"),
            Level(cut.bands, "band", "of rows"),
            Level(cut.chunks, "chunk", "of channels"),
        ]
        blocks, height = ceil_div(cut.height, cut.form.height), cut.form.height
        levels = (
            shared_out("task", job.threads, units, 3),
            Level(ceil_div(blocks, cut.bands), "block", f"of {height} rows: list the rows of taps that meet the image"),
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
        name = _name((height, outputs), cut.form.edges(job.target, cut.group)[0])
        return Nest(levels, cut.tile(job), held, Inner(build, name, (cut.group, cut.form)))

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
        together = traffic.bytes_of(job.problem)
        ahead = together > job.target.l3_bytes // _ASKED_OF_L3
        past_caches = traffic.from_memory(together, job.target) and aligned and not job.finish.residual
        layout = Layout()
        scratch_bytes = round_up((v.kernel + 3 * v.stride + 2) * 16, LINE)  # the list of rows
        scratch = layout.take(scratch_bytes * job.threads)
        parameters = (cut.group, cut.form, job.finish.activation)
        kernels = code(build, ("pack", "slide"), job.dtype, job.target, *parameters)
        numbers |= {
            "channels": cut.channels, "chunk": cut.chunk, "chunks": cut.chunks, "bands": cut.bands, "shift": cut.shift,
            "scratch_bytes": scratch_bytes, "ahead": int(ahead), "past_caches": int(past_caches),
        }  # fmt: skip
        at = job.places(s) | {"weights": ("packed", 0), "scratch": ("work", scratch)}
        return Prepared(
            name,
            job.threads,
            Program((step(kernels["slide"], job.threads, SLIDE, numbers, at),), layout.size),
            Program((step(kernels["pack"], job.threads, PACK, numbers, at),)),
            cut.vectors * cut.taps * lanes * size,
        )


_ASKED_OF_L3 = 4
"""Input and output of more than this part of L3 are asked for ahead: others use it, too."""

_TASKS_A_THREAD = 8
"""So that it does not matter much that one thread has a task more than another."""

Pattern = list[tuple[int, int, int]]
"""Products of a tile: (output, input, tap of the row)."""

_ALL = 99
"""Columns of any tile."""


@dataclass(frozen=True, slots=True)
class Form:
    """What the kernels are written for: taps of a row (`width`), how they lie, and the tile's output rows."""

    direction: str
    width: int
    stride: int
    phase: int
    height: int
    edge: int
    """Columns at each end of a tile that may be outside the image."""

    @property
    def unit(self) -> int:
        """A tile's outputs come in so many: backward each phase of the stride meets taps of its own."""
        return self.stride if self.direction == "backward" else 1

    def most(self, target: Target) -> int:
        """Outputs of a row of the largest tile; not eight where seven can be had, for images are multiples of it."""
        room = _room(target, self.width, self.height)
        return max(1, room // self.unit) * self.unit if self.unit > 1 else min(room, 7)

    def edges(self, target: Target, group: Group) -> tuple[int, ...]:
        """Of each form of the tiles, which differ in the columns that may be outside. To look where these lie costs
        15 % in a tile of 2×4 sums, nothing in one of 2×7 or beside several channels of products: then one will do."""
        if self.edge == 0 or group.depth > 1 or self.height * self.most(target) > 8:
            return (self.edge,)
        return (0, self.edge)

    def products(self, outputs: int) -> tuple[Pattern, int]:
        """What is multiplied for one row of a tile of so many outputs, and where its first input lies.

        Forward, output q meets inputs q·s + j, the first of them at q₀·s − pad. Backward, with u = w + pad = s·t +
        phase of the tile's first output, output u + r meets the inputs (u + r − j)/s that are whole; they are counted
        from the smallest one, t + `first`.
        """
        width, stride, phase = self.width, self.stride, self.phase
        if self.direction == "forward":
            return [(q, q * stride + j, j) for q in range(outputs) for j in range(width)], 0
        met = [(r, (phase + r - j) // stride, j) for r in range(outputs) for j in range(width)]
        met = [(r, q, j) for r, q, j in met if q * stride + j == phase + r]
        first = math.ceil((phase - (width - 1)) / stride)
        return [(r, q - first, j) for r, q, j in met], first


def _room(target: Target, width: int, height: int) -> int:
    """Outputs of a row for which there are registers, beside a row of weights for each row of outputs, and an input.
    Eight sums cover the latency of the multiply-adds."""
    return min(8, (target.registers - 2) // height - width)


def _name(size: tuple[int, int], edge: int) -> str:
    return f"tile_{size[0]}x{size[1]}_{'border' if edge else 'inside'}"


def build(module: ir.Module, dtype: str, target: Target, group: Group, form: Form, activation: str = "") -> None:
    """Adds the kernels `pack` and `slide` to the module."""
    lanes, direction, width, stride = target.lanes(dtype), form.direction, form.width, form.stride
    _pack(module, dtype, target, group, width)
    height, unit, most = form.height, form.unit, form.most(target)
    edges = form.edges(target, group)
    kinds = [(rows, edge) for rows in range(1, height + 1) for edge in edges]
    tiles = {
        kind * (most + 1) + n: _tile(module, dtype, target, group, (rows, n), form, edge, activation)
        for kind, (rows, edge) in enumerate(kinds)
        for n in range(1, most + 1)
    }

    f, a = kernel(module, "slide", dtype, SLIDE)
    rows = f.address(thread_scratch(f, a), I64)
    row_weights = width * group.depth * lanes
    vectors = (a["channels"] + (lanes - 1)) // lanes
    aligned = (a["y"] % target.vector_bytes).compare("==", 0)
    past_caches = f.choose(aligned, a["past_caches"], 0)
    distance = f.choose(a["residual"].compare("!=", 0), a["residual"] - a["y"], NO_RESIDUAL)
    blocks = (a["out_height"] + (height - 1)) // height
    units = (a["out_width"] + (unit - 1)) // unit
    tile_count = (units + (most // unit - 1)) // (most // unit)
    with tasks(f, a["images"] * a["bands"] * a["chunks"]) as task:
        chunk, place = task.index % a["chunks"], task.index // a["chunks"]
        image, band = place // a["bands"], place % a["bands"]
        x, y = f.address(a["x"]).at(image * a["x_n"]), f.address(a["y"]).at(image * a["y_n"])
        first_vector = chunk * a["chunk"]
        end_vector = (first_vector + a["chunk"]).at_most(vectors)
        first_block, end_block = share(blocks, band, a["bands"])
        with f.loop(end_block, start=first_block) as block:
            top = block.index * height
            out = _Rows(f, a, top, (a["out_height"] - top).at_most(height), direction)
            ends = out.listed(x, rows, row_weights)
            ahead = out.listed_next(x, rows.at(ends[-1] * 2), height)
            with f.loop(tile_count) as tile:
                q = tile.index * units // tile_count * unit
                q_end = ((tile.index + 1) * units // tile_count * unit).at_most(a["out_width"])
                n = q_end - q
                if direction == "backward":
                    column = (q + a["left"]) // stride + form.products(1)[1]
                    inputs = (n + (stride - 1)) // stride + (width - 1) // stride + 1  # or fewer
                else:
                    column = q * stride + a["left"]
                    inputs = (n - 1) * stride + width
                inside = f.all_of(column.compare(">=", 0), (column + inputs).compare("<=", a["width"]))
                arguments: dict[str, Int | Pointer | int] = {
                    "rows": rows, "end_0": ends[0], "end_1": ends[1], "end_2": ends[2],
                    "behind": a["shift"] * -row_weights, "x_w": a["x_w"], "column": column, "width": a["width"],
                    "zeros": a["zeros"], "y": y.at(out.first * a["y_h"] + q * a["y_w"]), "y_w": a["y_w"],
                    "y_other": a["y_h"] * out.step, "weights": a["weights"], "kernel_h": a["kernel_h"],
                    "bias": a["bias"], "bias_step": a["bias_step"], "first": first_vector, "end": end_vector,
                    "channels": a["channels"], "ahead": ahead, "past_caches": past_caches, "distance": distance,
                }  # fmt: skip
                kind = (out.count - 1) * len(edges) + (f.choose(inside, 0, 1) if len(edges) == 2 else 0)
                f.dispatch(kind * (most + 1) + n, tiles, **arguments)
    f.done()


class _Rows:
    """One output row, or two neighbouring ones, while code for them is generated.

    `first` is the one whose taps come first in the list of input rows: forward the upper, backward the lower; the other
    one lies a `step` from it. What that one meets as its tap i, the first one would meet as its tap i + shift: so the
    list has the rows that only the first one meets, then those that both do, then those of the other one alone.
    """

    def __init__(self, f: Function, a: dict[str, Int], row: Int, count: Int, direction: str) -> None:
        self.f, self.a, self.count, self.forward = f, a, count, direction == "forward"
        self.first = row if self.forward else row + count - 1
        self.step = 1 if self.forward else -1

    def _met(self, row: Int, tap: IntLike) -> tuple[Int, Value]:
        """The input row that an output row meets as its tap, and whether there is one, inside the image."""
        a, f = self.a, self.f
        scaled = row * a["row_h"] + a["row_0"] + a["row_i"] * tap
        met = scaled if self.forward else scaled // a["row_m"]
        inside = f.all_of(scaled.compare(">=", 0), met.compare("<", a["height"]))
        return met, inside if self.forward else f.all_of(inside, (met * a["row_m"]).compare("==", scaled))

    def listed(self, x: Pointer, rows: Pointer, row_weights: int) -> list[Int]:
        """Writes (address of the input row, where the first output row's weights for it begin) for those inside the
        image; where in the list its three parts end."""
        f, a = self.f, self.a
        two, taps = self.count.compare("==", 2), a["kernel_h"]
        ends, count, begin = list[Int](), f.const(0), f.const(0)
        for end in (f.choose(two, a["shift"], taps), taps, f.choose(two, taps + a["shift"], taps)):
            with f.loop(end, start=begin, carry=[count]) as tap:
                (count,) = tap.values
                met, inside = self._met(self.first, tap.index)
                rows.at(count * 2).put(x.at(met * a["x_h"]).number().value)
                rows.at(count * 2 + 1).put((tap.index * row_weights).value)
                tap.carry([f.choose(inside, count + 1, count)])
            (count,), begin = tap.values, end
            ends.append(count)
        return ends

    def listed_next(self, x: Pointer, rows: Pointer, most: int) -> Int:
        """Writes the addresses of the input rows that the next output rows, `most` of them, add to these; how many.
        Those outside the image are as good as any: they are asked for, not read."""
        f, a = self.f, self.a
        if self.forward:  # the last tap of the last of them, and what is above it
            last, _ = self._met(self.first + (self.count - 1 + most), a["kernel_h"] - 1)
            added = a["row_h"] * most
        else:
            last, _ = self._met(self.first + most, 0)
            added = (a["row_m"] - 1 + most) // a["row_m"]
        added = f.choose(a["ahead"].compare("!=", 0), added, 0)
        with f.loop(added) as back:
            rows.at(back.index * 2).put(x.at((last - back.index) * a["x_h"]).number().value)
        return added


def _tile(
    module: ir.Module,
    dtype: str,
    target: Target,
    group: Group,
    size: tuple[int, int],
    form: Form,
    edge: int,
    activation: str,
) -> Function:
    """A tile of `size` output rows × neighbouring outputs, over the vectors of channels from `first` to before `end`;
    so many columns at each `edge` may be outside the image. `behind`: from where the first row's weights are to where
    the other's are. `distance` is in bytes from y to the residual, or `NO_RESIDUAL`."""
    lanes, (height, outputs), width = target.lanes(dtype), size, form.width
    pattern, _ = form.products(outputs)
    names = (
        "*rows end_0 end_1 end_2 behind x_w column width zeros *y y_w y_other weights kernel_h bias bias_step first "
        "end channels ahead past_caches distance"
    )
    f = Function(module, _name(size, edge), names, dtype, internal=True)
    rows, y = f.pointer("rows", I64), f.pointer("y")
    x_w, column, x_width, zeros, y_w, y_other, behind = f.integers("x_w column width zeros y_w y_other behind")
    weights, kernel_h, bias, bias_step = f.integers("weights kernel_h bias bias_step")
    first, end, channels, ahead, past_caches, distance = f.integers("first end channels ahead past_caches distance")
    columns, taps = ({product[n] for product in pattern} for n in (1, 2))
    most = max(columns, default=-1)
    with f.loop(end, start=first) as vector:
        channel = (vector.index * lanes).at_most(channels - lanes)
        base = f.address(bias).at(channel * bias_step).vector(lanes)
        first_input = group.first_input(channel)
        own_weights = f.address(weights).at(vector.index * kernel_h * (width * group.depth * lanes))
        sums = [[base] * outputs for _ in range(height)]

        def add(part: tuple[int, ...], begin: IntLike, end: Int) -> None:
            """To these rows' sums the products of a part of the list."""
            with f.loop(end, start=begin, carry=[total for r in part for total in sums[r]]) as row:
                x = f.address(rows.at(row.index * 2).integer()).at(first_input + column * x_w)
                w = own_weights.at(rows.at(row.index * 2 + 1).integer())
                inputs = {}
                for m in sorted(columns):
                    here = x.at(x_w * m)
                    if m < edge:
                        here = f.pick((column + m).compare(">=", 0), here, f.address(zeros))
                    if m > most - edge:
                        here = f.pick((column + m).compare("<", x_width), here, f.address(zeros))
                    inputs[m] = here, group.load(here, lanes)
                totals = [row.values[n * outputs : (n + 1) * outputs] for n in range(len(part))]
                for c in range(group.depth):
                    held = [{j: w.at(behind * r).at((c * width + j) * lanes).vector(lanes) for j in taps} for r in part]
                    for m, (here, loaded) in inputs.items():
                        number = group.spread(f, here, loaded, c, lanes)
                        for total, of in zip(totals, held, strict=True):
                            for q, met, j in pattern:
                                if met == m:
                                    total[q] = f.fma(number, of[j], total[q])
                row.carry([value for total in totals for value in total])
            for n, r in enumerate(part):
                sums[r] = row.values[n * outputs : (n + 1) * outputs]

        add((0,), 0, f.integer("end_0"))
        if height == 2:
            add((0, 1), f.integer("end_0"), f.integer("end_1"))
            add((1,), f.integer("end_1"), f.integer("end_2"))
        with f.if_((vector.index % (LINE // target.vector_bytes)).compare("==", 0)), f.loop(ahead) as row:
            # Where a row is one piece, in the order of memory, which the hardware's own prefetching then follows.
            one_piece = f.all_of(x_w.compare("==", channels), first.compare("==", 0))
            piece = f.choose(one_piece, vector.index * (most + 1) * lanes, first_input) + column * x_w
            x = f.address(rows.at((f.integer("end_2") + row.index) * 2).integer()).at(piece)
            line = f.choose(one_piece, lanes, x_w)
            for m in range(most + 1):
                f.prefetch(x.at(line * m))
        places = [y.at(y_other * r + y_w * q + channel) for r in range(height) for q in range(outputs)]
        totals = [total for row in sums for total in row]
        has_residual = distance.compare("!=", NO_RESIDUAL)

        def with_residual() -> list[Value]:
            return [
                f.add(total, f.address(place.number() + distance).vector(lanes))
                for place, total in zip(places, totals, strict=True)
            ]

        totals = f.only_if(has_residual, totals, with_residual)
        if activation:
            totals = [apply(f, activation, total) for total in totals]
        with f.if_else(past_caches.compare("!=", 0)) as (past, normally):
            with past:
                for place, total in zip(places, totals, strict=True):
                    f.put_past_caches(place, total)
            with normally, f.if_else(has_residual) as (once, again):
                with once:  # the residual may be y: what the neighbouring vector has stored is not to be added to
                    fresh = f.lanes_from(vector.index * lanes - channel, lanes)
                    for place, total in zip(places, totals, strict=True):
                        f.put_masked(place, total, fresh)
                with again:
                    for place, total in zip(places, totals, strict=True):
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
