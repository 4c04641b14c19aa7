"""The gradient of the weights of groups of few channels, depthwise among them (`grouped.py`).

    dw[k, c, i, j] = Σ_n Σ_p Σ_q  x[n, p·s + i·d − pad, q·s + j − pad, c] · dy[n, p, q, k]

The sums of a tile of weights (all nine of 3×3 depthwise; a row of taps × 4 channels) are held in registers while it
passes over the pixels: lanes are output channels, dy is loaded as it is, and x spread as `grouped.py` does.

A vector of channels is a line of each pixel, and pixels are so far apart that no CPU sees what comes next. So where
they come from memory, with each line that is read the one beside it is asked for, which the next vector of the block
reads: sixteen images take 1.2 to 1.5 times less. In the caches the requests would cost up to a sixth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from ...native.ir import I32, I64, Arguments, Function, Loop, Pointer, Value, kernel, share, tasks
from ...native.program import Layout, Program, code, step
from ...native.target import Target
from ...spec import ceil_div, round_up
from .. import traffic
from ..kernels.pack import fill_zeros
from ..nest import Held, Inner, Level, Nest, RegisterTile, TileStep, many, shared_out
from ..plan import Job, Plan, Refusal
from ..prepared import Prepared
from .groups import Group

CORRELATE = Arguments(
    "x x_n x_h x_w y y_n y_h y_w images channels height out_height out_width width kernel_h tap_rows stride_h "
    "dilation_h pad_top pad_left inside inside_end splits chunks block_rows parts zeros"
    # y: its gradient; tap_rows: kernel_h, rounded up to whole tiles; inside … inside_end: outputs with all their
    # columns in the image
)

COLLECT = Arguments("parts splits tap_rows kernel_h channels w w_k w_c w_i w_j")


def plan(job: Job, groups: Callable[[Job], Group | Refusal]) -> Plan | Refusal:
    """Of groups of few channels or of one."""
    group = groups(job)
    if isinstance(group, Refusal):
        return group
    split = _Split.of(job, group)
    return GroupedWeightGradient(job, cycles(job, split), split)


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
    depths: tuple[range, ...]
    """The channels of a group that each tile has."""
    columns: int
    """Neighbouring outputs of a step."""
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
    def of(cls, job: Job, group: Group) -> _Split:
        s, target, threads = job.problem.forward(), job.target, job.threads
        v, h = s.vertical, s.horizontal
        vectors = ceil_div(job.problem.y_shape[1], job.lanes)
        rows_a_tile = _tap_rows(target, v.kernel, h.kernel * group.depth)
        tap_rows = round_up(v.kernel, rows_a_tile)
        depths = _depths(group, target, rows_a_tile, h.kernel)
        columns = _columns(target, rows_a_tile * h.kernel * len(depths[0]))
        # By channels where there are plenty, else by rows of pixels: then each split sums for itself.
        by_channels = vectors >= 8 * threads or (vectors >= threads and vectors % threads == 0)
        splits, chunks = (1, threads) if by_channels else (max(1, min(threads, s.images * v.out)), 1)
        sums_bytes = splits * vectors * tap_rows * h.kernel * group.depth * target.vector_bytes
        block_rows = max(1, _PIXELS_A_SUM // h.out)
        inside = min(max(0, ceil_div(h.pad, h.stride)), h.out)
        inside_end = max(inside, min(h.out, (h.size - h.kernel + h.pad) // h.stride + 1))
        cut = (rows_a_tile, tap_rows, depths, columns, splits, chunks, block_rows, sums_bytes, inside, inside_end)
        return cls(group, vectors, h.kernel, *cut)

    def tile(self, job: Job) -> RegisterTile:
        """The largest tile, and what it takes for its neighbouring output pixels."""
        stride, lanes, depth = job.problem.stride[1], job.lanes, len(self.depths[0])
        inputs = self.rows_a_tile * len({n * stride + j for n in range(self.columns) for j in range(self.width)})
        weights = self.rows_a_tile * self.width * depth
        step = TileStep(weights * self.columns, self.columns, inputs * self.group.loads(lanes, depth))
        return RegisterTile(weights, "weights", 1, "output channels", lanes, job.target.registers, step=step)


_CYCLES_A_BORDER_SUM = 2.0
"""For each pixel whose inputs may lie outside the image, beside the step."""
_CYCLES_A_PIXEL_ROW = 70.0
"""To find the rows of x, for a row of pixels and a tile of taps."""
_GRADIENT_BYTES_A_CYCLE = 12.0
"""The sums on their way into the layout of the weights."""


def cycles(job: Job, split: _Split) -> float:
    """What it takes: the steps of all tiles of taps over all pixels, and x's and dy's way through the caches."""
    s, target = job.problem.forward(), job.target
    tile = split.tile(job)
    tiles = split.vectors * (split.tap_rows // split.rows_a_tile) * len(split.depths)
    border = s.horizontal.out - (split.inside_end - split.inside)
    row = (
        s.horizontal.out / split.columns * tile.cycles + border * tile.sums * _CYCLES_A_BORDER_SUM + _CYCLES_A_PIXEL_ROW
    )
    computing = s.images * s.vertical.out * tiles * row
    collecting = split.sums_bytes / _GRADIENT_BYTES_A_CYCLE
    together = traffic.bytes_of(job.problem)
    return (computing + traffic.cycles(together, 0, together, target) + collecting) / job.threads


@dataclass(frozen=True)
class GroupedWeightGradient(Plan):
    """w's gradient, into `w`, from x and y's gradient, in `y`."""

    split: _Split

    @property
    def from_memory(self) -> bool:
        """Whether x and dy are too many for what a core may expect to find of them in L3."""
        return traffic.bytes_of(self.job.problem) > self.job.target.l3_bytes // 8

    @property
    def nest(self) -> Nest:
        job, split, size, lanes = self.job, self.split, self.job.size, self.job.lanes
        s = job.problem.forward()
        v, h = s.vertical, s.horizontal
        columns, depths = split.columns, split.depths
        rows = min(split.block_rows, v.out)
        units = [Level(split.splits, "split", "of the pixels"), Level(split.chunks, "chunk", "of channels")]
        taps = f"{many(split.rows_a_tile, 'row')} of taps"
        if len(depths) > 1:
            taps += f" × {many(len(depths[0]), 'channel')} of a group"
        levels = (
            shared_out("unit", job.threads, units),
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
            Held(
                "the input rows of a block", ((rows - 1) * v.stride + v.kernel) * h.size * job.problem.x_shape[1] * size
            ),
            Held("the sums of all splits", split.sums_bytes),
        )
        return Nest(
            levels,
            split.tile(job),
            held,
            Inner(build, "gradient_tile_0", (split.group, split.rows_a_tile, split.width, h.stride, self.from_memory)),
            after="add the sums of the splits" if split.splits > 1 else "",
        )

    def prepared(self, name: str) -> Prepared:
        job, split = self.job, self.split
        s = job.problem.forward()
        layout = Layout()
        at = job.places(s) | {"parts": ("work", layout.take(split.sums_bytes))}
        parameters = (split.group, split.rows_a_tile, split.width, s.horizontal.stride, self.from_memory)
        kernels = code(build, ("correlate", "collect"), job.dtype, job.target, *parameters)
        numbers = s.numbers | {
            "channels": s.all_outputs, "tap_rows": split.tap_rows, "inside": split.inside,
            "inside_end": split.inside_end, "splits": split.splits, "chunks": split.chunks,
            "block_rows": split.block_rows,
        }  # fmt: skip
        steps = (
            step(kernels["correlate"], job.threads, CORRELATE, numbers, at),
            step(kernels["collect"], job.threads, COLLECT, numbers, at),
        )
        return Prepared(name, job.threads, Program(steps, layout.size))


def _tap_rows(target: Target, kernel: int, sums_a_row: int) -> int:
    """Tap rows of a tile: the fewest passes over the pixels, counting that fewer than eight sums wait for each other,
    and that a kernel's last tile may have rows too many."""
    most = max(1, _most_sums(target) // sums_a_row)
    return min(range(1, min(most, kernel) + 1), key=lambda rows: ceil_div(kernel, rows) * max(rows, 8 / sums_a_row))


def _depths(group: Group, target: Target, tap_rows: int, width: int) -> tuple[range, ...]:
    """The channels of a group, as many to a tile as registers hold the sums of."""
    depth = max(1, min(group.depth, _most_sums(target) // (tap_rows * width)))
    return tuple(range(c, min(c + depth, group.depth)) for c in range(0, group.depth, depth))


def _columns(target: Target, sums: int) -> int:
    """Neighbouring outputs that share inputs, beside so many sums: nine, of 3×3, leave 16 registers room for two."""
    return 2 if sums <= target.registers // 2 + 1 else 1


def _most_sums(target: Target) -> int:
    """Beside the sums a vector of dy, an input and what it is shuffled from are in registers."""
    return target.registers - 4


def build(
    module: ir.Module, dtype: str, target: Target, group: Group, tap_rows: int, width: int, stride: int, ahead: bool
) -> None:
    """Adds the kernels `correlate` and `collect` to the module; a tile has `tap_rows` × `width` taps, and as many of a
    group's channels as registers hold the sums of. `ahead`: whether it asks for what is read next."""
    lanes = target.lanes(dtype)
    tiles = [
        _gradient_tile(module, dtype, target, group, depth, tap_rows, width, stride, ahead)
        for depth in _depths(group, target, tap_rows, width)
    ]
    f, a = kernel(module, "correlate", dtype, CORRELATE)
    vectors = (a["channels"] + (lanes - 1)) // lanes
    sums = a["tap_rows"] * (width * group.depth * lanes)  # of one vector of channels
    with tasks(f, a["splits"] * a["chunks"]) as unit:
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
                dy = f.address(a["y"]).at(image.index * a["y_n"] + channel)
                to = parts.at(vector.index * sums + tap_row.index * (width * group.depth * lanes))
                # What is read next: the next vector or, after the last one, the first of the next block.
                last = (vector.index + 1).compare(">=", end_vector)
                following = f.choose(last, first_vector, vector.index + 1) * lanes
                down = f.choose(last, a["block_rows"], 0)
                x_ahead = group.first_input(following) - group.first_input(channel) + down * a["stride_h"] * a["x_h"]
                dy_ahead = following - channel + down * a["y_h"]
                for tile in tiles:
                    f.call(
                        tile, arguments=f.pointer("arguments", I64), x=x, dy=dy, to=to, first=block.index,
                        end=block.index + rows, first_tap=tap_row.index, x_ahead=x_ahead, dy_ahead=dy_ahead,
                    )  # fmt: skip
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
    ahead: bool,
) -> Function:
    """Adds to the sums of `tap_rows` × `width` taps × the channels of `depth`, for one vector of output channels, over
    some output rows.

    `arguments` are those of the kernel, x and dy of the image and channels; what is read next lies `x_ahead` and
    `dy_ahead` numbers further on.
    """
    lanes = target.lanes(dtype)
    names = "*arguments *x *dy *to first end first_tap x_ahead dy_ahead"
    f = Function(module, f"gradient_tile_{depth.start}", names, dtype, internal=True)
    a = CORRELATE.read(f.pointer("arguments", I64))
    x, dy, to = f.pointers("x dy to")
    first, end, first_tap = f.integers("first end first_tap")
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
        dy_row = dy.at(row.index * a["y_h"])

        def meet(sums: dict[tuple[int, int, int], Value], x: Pointer, i: int, numbers: dict[int, Value]) -> None:
            """An input, in tap row i, meets the numbers of dy that have it under their tap j."""
            loaded = group.load(x, lanes)
            for c in depth:
                spread = group.spread(f, x, loaded, c, lanes)
                for j, number in numbers.items():
                    sums[i, j, c] = f.fma(spread, number, sums[i, j, c])

        def step(q: Loop, columns: int, guarded: bool) -> None:
            """Neighbouring outputs; `guarded` where each of their inputs may lie outside."""
            places = [dy_row.at((q.index + n) * a["y_w"]) for n in range(columns)]
            numbers = [place.vector(lanes) for place in places]
            for place in places if ahead else ():
                f.prefetch(place.at(f.integer("dy_ahead")))
            sums = dict(zip(taps, q.values, strict=True))
            for i in range(tap_rows):
                start = x_rows[i].at(q.index * stride * x_steps[i])
                if ahead and i >= tap_rows - stride:  # rows that the row of pixels before has not met
                    for m in range(columns * stride):
                        f.prefetch(start.at(x_steps[i] * m).at(f.integer("x_ahead")))
                for m in range((columns - 1) * stride + width):
                    under = {m - n * stride: numbers[n] for n in range(columns) if 0 <= m - n * stride < width}
                    here, column = start.at(x_steps[i] * m), q.index * stride + m - a["pad_left"]
                    if guarded:
                        inside = f.all_of(column.compare(">=", 0), column.compare("<", a["width"]))
                        here = f.pick(inside, here, zeros)
                    meet(sums, here, i, under)
            q.carry(list(sums.values()))

        inside, inside_end = a["inside"], a["inside_end"]
        inside_end = inside + (inside_end - inside) // columns * columns
        with f.loop(inside, carry=row.values) as q:
            step(q, 1, guarded=True)
        with f.loop(inside_end, start=inside, step=columns, carry=q.values) as q:
            step(q, columns, guarded=False)
        with f.loop(a["out_width"], start=inside_end, carry=q.values) as q:
            step(q, 1, guarded=True)
        row.carry(q.values)
    for (i, j, c), total in zip(taps, row.values, strict=True):
        here = to.at(((i * width + j) * group.depth + c) * lanes)
        here.put(f.add(here.vector(lanes), total))
    f.done()
    return f


def _collect(module: ir.Module, dtype: str, target: Target, group: Group, width: int) -> None:
    """dw = the sum of the parts, in the layout of the weights."""
    lanes = target.lanes(dtype)
    f, a = kernel(module, "collect", dtype, COLLECT)
    vectors = (a["channels"] + (lanes - 1)) // lanes
    sums = a["tap_rows"] * (width * group.depth * lanes)
    with tasks(f, vectors) as vector, f.loop(a["kernel_h"]) as i, f.loop(width) as j, f.loop(group.depth) as c:
        channel = (vector.index * lanes).at_most(a["channels"] - lanes)
        number = (i.index * width + j.index) * group.depth + c.index
        own = f.address(a["parts"]).at(vector.index * sums + number * lanes)
        with f.loop(a["splits"], start=1, carry=[own.vector(lanes)]) as split:
            split.carry([f.add(split.values[0], own.at(split.index * vectors * sums).vector(lanes))])
        to = f.address(a["w"]).at(channel * a["w_k"] + c.index * a["w_c"] + i.index * a["w_i"] + j.index * a["w_j"])
        for lane in range(lanes):
            to.at(a["w_k"] * lane).put(f.builder.extract_element(split.values[0], ir.Constant(I32, lane)))
    f.done()
