"""The gradient of the weights of 1×1 layers: a product of two matrices, summed over very many pixels.

What it computes, at any stride, over the pixels p of all images that the tap meets:

    dw[k, c] = Σ_p dy[p, k] · x[p, c]

When it applies: one tap, no padding, one group, channels side by side (NHWC).

The loops, from outside in:

    unit = (split of the pixels, chunk of panels, slice of rows)              shared out among the threads
        for block of pixels                                                   few: a panel of them stays in L1
            for as many panels as L2 has room for: pack them                  [panel][pixel][lane]
                for slab of eight tiles: pack their rows                      [tile][pixel][row], whole lines of a pixel
                    for panel, for tile of the slab
                        for pixel                                             registers: rows × vectors sums
                        dw += sums

In `direct_weight_gradient.py` a tile's rows are a line or two of each pixel, where it lies, 256 bytes to 16 KB from its
neighbour. From memory that is a step which the CPU does not foresee (256→128 at 76×76, one Zen 3 core: 61 % of the
multiply-add peak, where 90 % is reached in L2); from 2 KB on the lines share a few sets of L1; and of 2,048 channels L2
has room for ten pixels, so a gradient of 32 MB was read and written every ten pixels. So here tiles ask for lines of
the next slab and the next block while they multiply, and rows are packed where pixels are far apart. Where they are
not, they are read in place: packing costs two cycles a pixel and tile, of six for each panel.

Either of x and dy gives the lanes, whichever makes less work. Where they are input channels, sums go straight to their
place. Splits pack nothing twice, but each sums into a part of its own, [split][panel][row][lane], which `collect` adds
up: they are for small gradients and many pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from llvmlite import ir

from ...native.ir import Arguments, Function, Int, Pointer, Value, indices, kernel, share, tasks
from ...native.program import Layout, Program, code, step
from ...native.target import DTYPE_BYTES, LINE, Target
from ...spec import ceil_div
from ..geometry import Sliding
from ..kernels.blocks import thread_scratch
from ..kernels.pack import copy_function
from ..kernels.pack_weights import COLLECT, Panel, collect_kernel, panels_of
from ..kernels.tile import STEPS, Tile, Tiles
from ..nest import Held, Inner, Level, Nest, RegisterTile, largest_tile, many, shared_out
from ..plan import PRODUCTS_A_SUM, Job, Plan
from ..prepared import Prepared

ACCUMULATE = Arguments(
    "x x_n x_h x_w y y_n y_h y_w images height width channels outputs panels tiles blocks row_blocks "
    "block_rows block_columns splits chunks slices held x_asks y_asks in_place scratch "
    "scratch_bytes panels_at parts w w_c"
    # x: what gives the rows, `channels` a pixel; y: what gives the lanes, `outputs`; row_blocks: down all images;
    # held: panels packed at once; x_asks, y_asks: whether a block's pixels are evenly far apart in it, so that the next
    # ones can be asked for; panels_at: where in scratch they are; w_c: how far apart rows are in w, where sums go
    # straight there
)

_TILES_A_SLAB = 8
"""Whose rows together are whole lines, with 6 as well as with 14 rows."""

_LINES_IN_PLACE = 32
"""Pixels so far apart that L1 has room for fewer of their lines are packed."""

_PARTS = 2
"""A tile asks for a line of every pixel in one of so many parts of a block: lines from memory do not come as fast as
one a step."""


def plan(job: Job) -> PointwiseWeightGradient | None:
    """None where it does not apply."""
    if len(job.slidings) != 1:
        return None
    (s,) = job.slidings
    one_tap = all(a.kernel == a.stride == 1 and a.pad == 0 and a.out == a.size for a in (s.vertical, s.horizontal))
    if not one_tap or s.groups > 1 or s.lanewise or (s.x_c, s.y_c) != (1, 1):
        return None
    turned = s.exchanged()  # x and dy in each other's place: the sums are the same, turned
    return min(
        (
            PointwiseWeightGradient(job, _cycles(job, each, cut), each, each is turned, cut)
            for each in (s, turned)
            for cut in _cuts(job, each)
        ),
        key=lambda plan: plan.cycles,
    )


@dataclass(frozen=True, slots=True)
class Cut:
    """How the work is cut: into how many splits, chunks and slices for the threads, and within these into blocks."""

    splits: int
    chunks: int
    slices: int
    block_rows: int
    block_columns: int
    held: int
    in_place: bool
    """Whether rows are read where they lie."""

    @property
    def pixels(self) -> int:
        """Of a block."""
        return self.block_rows * self.block_columns

    def row_blocks(self, s: Sliding) -> int:
        """Blocks down all images, and all of them:"""
        return ceil_div(s.images * s.vertical.out, self.block_rows)

    def blocks(self, s: Sliding) -> int:
        return self.row_blocks(s) * ceil_div(s.horizontal.out, self.block_columns)


def _cuts(job: Job, s: Sliding) -> Iterator[Cut]:
    """All ways to give each thread a unit. A block's panel takes most of L1, which tiles' rows pass through, and panels
    a third of L2; another third is for the panels of the next block, the rest for slabs."""
    target = job.target
    columns, rows, a_pixel = s.horizontal.out, s.images * s.vertical.out, job.panel * job.size
    most = min(PRODUCTS_A_SUM, target.l1_bytes * 5 // 8 // a_pixel)
    columns = ceil_div(columns, ceil_div(columns, most))
    rows = ceil_div(rows, ceil_div(rows, max(1, most // columns)))
    held = max(1, target.l2_bytes // 3 // (rows * columns * a_pixel))
    panels, tiles = ceil_div(s.outputs, job.panel), ceil_div(s.channels, target.tile_rows)
    even = rows == 1 or _evenly_apart(s)[0]
    in_place = even and s.horizontal.x_step * job.size <= target.l1_bytes // _LINES_IN_PLACE
    for splits in range(1, job.threads + 1):
        for chunks in range(1, min(panels, job.threads // splits) + 1):
            slices, in_chunk = min(tiles, job.threads // (splits * chunks)), ceil_div(panels, chunks)
            at_once = ceil_div(in_chunk, ceil_div(in_chunk, held))
            cut = Cut(splits, chunks, slices, rows, columns, at_once, in_place)
            if splits <= cut.blocks(s):
                yield cut


# Of the model: a tile's call and its sums' way through memory; and packing, as a share of what L3 alone gives.
_CYCLES_A_TILE = 60.0
_PACKING_OF_L3 = 8 / 20


@dataclass(frozen=True)
class PointwiseWeightGradient(Plan):
    """w's gradient, into `w`, from x and y's gradient, in `y`; where it is `turned`, `sliding` has them in each other's
    place, and lanes are input channels."""

    sliding: Sliding
    turned: bool
    cut: Cut

    @cached_property
    def panels(self) -> int:
        return ceil_div(self.sliding.outputs, self.job.panel)

    @cached_property
    def tiles(self) -> int:
        return ceil_div(self.sliding.channels, self.job.target.tile_rows)

    @property
    def straight(self) -> bool:
        """Whether sums go straight to where they belong."""
        return _straight(self.sliding, self.cut)

    def prepared(self, name: str) -> Prepared:
        job, s, cut, size = self.job, self.sliding, self.cut, self.job.size
        kernels = code(build, ("accumulate", "collect"), job.dtype, job.target)
        layout, scratch = Layout(), Layout()
        parts = 0 if self.straight else layout.take(cut.splits * self.panels * job.panel * s.channels * size)
        slab = _TILES_A_SLAB * job.target.tile_rows * cut.pixels
        beyond = max(job.target.tile_vectors, _vectors_of_rows(job.target, job.lanes)) * job.lanes  # see `_pack`
        _, panels_at = (scratch.take((n + beyond) * size) // size for n in (slab, cut.held * job.panel * cut.pixels))
        x_even, y_even = _evenly_apart(s)
        numbers = s.numbers | {
            "panels": self.panels, "tiles": self.tiles, "blocks": cut.blocks(s), "row_blocks": cut.row_blocks(s),
            "block_rows": cut.block_rows, "block_columns": cut.block_columns, "splits": cut.splits,
            "chunks": cut.chunks, "slices": cut.slices, "held": cut.held,
            "x_asks": int(x_even or cut.block_rows == 1), "y_asks": int(y_even or cut.block_rows == 1),
            "in_place": int(cut.in_place),
            "scratch_bytes": scratch.size, "panels_at": panels_at, "w_c": s.w_c if self.straight else 0,
        }  # fmt: skip
        at = job.places(s, self.turned)
        at |= {"scratch": ("work", layout.take(scratch.size * job.threads)), "parts": ("work", parts)}
        steps = [step(kernels["accumulate"], job.threads, ACCUMULATE, numbers, at)]
        if not self.straight:
            collect = panels_of(s, job.panel) | {"splits": cut.splits}
            steps.append(step(kernels["collect"], job.threads, COLLECT, collect, at))
        return Prepared(name, job.threads, Program(tuple(steps), layout.size))

    @property
    def nest(self) -> Nest:
        job, s, cut, target = self.job, self.sliding, self.cut, self.job.target
        rows, vectors = largest_tile(s.channels, target.tile_rows), job.tile_vectors(s.outputs)
        lanes, rows_are = ("input", "output") if self.turned else ("output", "input")
        panels, tiles = ceil_div(self.panels, cut.chunks), ceil_div(self.tiles, cut.slices)
        units = [
            Level(cut.splits, "split", "of the pixels"),
            Level(cut.chunks, "chunk", f"of {lanes} channels"),
            Level(cut.slices, "slice", f"of the {rows_are} channels"),
        ]
        at_once, slab = min(cut.held, panels), min(_TILES_A_SLAB, tiles)
        some = f"{many(at_once, 'panel')} of {job.panel} {lanes} channels"
        levels = (
            shared_out("unit", job.threads, units),
            Level(ceil_div(cut.blocks(s), cut.splits), "block", f"of {cut.pixels} pixels"),
            Level(ceil_div(panels, at_once), "set", f"of {some}", f"copy {some}"),
            Level(ceil_div(tiles, slab), "slab", f"of {slab} tiles", "" if cut.in_place else "copy its rows"),
            Level(slab * at_once, "tile", f"of at most {rows} {rows_are} channels"),
            Level(cut.pixels, "pixel", "added to every sum of the tile"),
        )
        a_tile = cut.pixels * rows * job.size
        copied = (Held("the rows of a slab", slab * a_tile, "L2"), Held("the rows of a tile", a_tile, "L1"))
        held = (
            Held("panels of a block", at_once * cut.pixels * vectors * target.vector_bytes, "L2"),
            *(() if cut.in_place else copied),
            Held("the sums of all splits", cut.splits * self.panels * job.panel * s.channels * job.size),
        )
        collected = "add up the splits, and bring the sums into the layout of the weights"
        return Nest(
            levels,
            RegisterTile(rows, f"{rows_are} channels", vectors, f"{lanes} channels", job.lanes, target.registers),
            held,
            Inner(build, f"outer_{rows}x{vectors}"),
            after="" if self.straight else collected,
        )


def _evenly_apart(s: Sliding) -> tuple[bool, bool]:
    """Of x and y, whether all pixels are."""
    v, h = s.vertical, s.horizontal

    def evenly(image: int, row: int, pixel: int) -> bool:
        return row == h.out * pixel and (s.images == 1 or image == v.out * row)

    return evenly(s.x_n, v.x_step, h.x_step), evenly(s.y_n, v.y_step, h.y_step)


def _straight(s: Sliding, cut: Cut) -> bool:
    return cut.splits == s.w_k == 1


def _cycles(job: Job, s: Sliding, cut: Cut) -> float:
    """What the multiply-adds of one thread's unit take, packing, the tiles' ends, and collecting the sums."""
    target, size = job.target, job.size
    blocks = ceil_div(cut.blocks(s), cut.splits)
    pixels = blocks * cut.pixels
    tiles = ceil_div(ceil_div(s.channels, target.tile_rows), cut.slices)
    panels = ceil_div(ceil_div(s.outputs, job.panel), cut.chunks)
    rows, vectors = ceil_div(s.channels, cut.slices), min(ceil_div(s.outputs, job.lanes), panels * target.tile_vectors)
    # A tile of one vector needs a broadcast for each multiply-add.
    product = pixels * rows * (vectors // 2 * 2 / 0.93 + vectors % 2 / 0.78) / 2
    ends = blocks * tiles * panels * _CYCLES_A_TILE
    packed = pixels * (0 if cut.in_place else rows * ceil_div(panels, cut.held)) * size
    packed += pixels * vectors * job.lanes * size
    packing = packed / (target.costs.l3 * _PACKING_OF_L3)
    collecting = 0.0
    if not _straight(s, cut):
        moved = (cut.splits + 1) * s.channels * s.outputs * size
        collecting = target.costs.fork + moved / (target.costs.l3 * _PACKING_OF_L3) / job.threads
    return product + ends + packing + collecting


def build(module: ir.Module, dtype: str, target: Target) -> None:
    """Adds the kernels `accumulate` and `collect` to the module."""
    lanes, panel, most_rows = target.lanes(dtype), target.panel(dtype), target.tile_rows
    pack_rows = _pack(module, "pack_rows", dtype, lanes, _vectors_of_rows(target, lanes))
    pack_panel = _pack(module, "pack_panel", dtype, lanes, target.tile_vectors)
    sums = _outer_tiles(module, dtype, target)

    f, a = kernel(module, "accumulate", dtype, ACCUMULATE)
    slab_at = f.address(thread_scratch(f, a))
    panels_at = slab_at.at(a["panels_at"])
    room = a["block_rows"] * a["block_columns"]
    straight, in_place = (a[name].compare("!=", 0) for name in ("w_c", "in_place"))
    distance = f.choose(in_place, a["x_w"], most_rows)
    with tasks(f, a["splits"] * a["chunks"] * a["slices"]) as unit:
        split, chunk, slice_ = indices(unit.index, a["chunks"], a["slices"])
        first_panel, end_panel = share(a["panels"], chunk, a["chunks"])
        first_tile, end_tile = share(a["tiles"], slice_, a["slices"])
        first_block, end_block = share(a["blocks"], split, a["splits"])
        part = f.address(a["parts"]).at(split * a["panels"] * panel * a["channels"])

        def first_row(tile: Int) -> Int:
            """Tiles are all of nearly the same size."""
            return tile * a["channels"] // a["tiles"]

        with (
            f.loop(end_block, start=first_block) as index,
            f.loop(end_panel, start=first_panel, step=a["held"]) as some,
        ):
            block, first, end = _Block(f, a, index.index), some.index, (some.index + a["held"]).at_most(end_panel)
            with f.loop(end, start=first) as number:
                p = Panel.of(a, number.index, panel, lanes)
                block.pack(pack_panel, "y", p.first, panels_at.at((number.index - first) * room * panel), p.width)
            # What comes after these panels: the next ones of this block, or the first ones of the next one.
            done = end.compare(">=", end_panel)
            after = _Block(f, a, (index.index + f.choose(done, 1, 0)).at_most(end_block - 1))
            next_panel = f.choose(done, first_panel, end)
            lines = (a["outputs"] - next_panel * panel).at_most(a["held"] * panel) // _line(dtype) + 1
            panels_ahead = _Ahead(after.at("y", next_panel * panel), a["y_w"], lines)

            with f.loop(end_tile, start=first_tile, step=_TILES_A_SLAB) as slab:
                end_of_slab = (slab.index + _TILES_A_SLAB).at_most(end_tile)
                with f.if_(a["in_place"].compare("==", 0)), f.loop(end_of_slab, start=slab.index) as tile:
                    to = slab_at.at((tile.index - slab.index) * room * most_rows)
                    block.pack(pack_rows, "x", first_row(tile.index), to, f.const(most_rows))
                following = f.pick(
                    end_of_slab.compare("<", end_tile),
                    block.at("x", first_row(end_of_slab)), after.at("x", first_row(first_tile)),
                )  # fmt: skip
                lines = (first_row(end_of_slab) - first_row(slab.index)) // _line(dtype) + 1
                rows_ahead = _Ahead(following, a["x_w"], lines)
                with f.loop(end, start=first) as number, f.loop(end_of_slab, start=slab.index) as tile:
                    p, row = Panel.of(a, number.index, panel, lanes), first_row(tile.index)
                    packed = slab_at.at((tile.index - slab.index) * room * most_rows)
                    dense = part.at(number.index * panel * a["channels"] + row * p.width)
                    # The first tiles of a slab ask for the next one's rows, the others for panels.
                    call = (number.index - first) * (end_of_slab - slab.index) + tile.index - slab.index
                    left = (_TILES_A_SLAB * (end - first) - lines * _PARTS).at_least(0)
                    later = (slab.index - first_tile) // _TILES_A_SLAB * left + call - lines * _PARTS
                    nothing = (slab_at, f.const(0))
                    others = panels_ahead.asked(f, later, block.pixels, a["y_asks"], nothing)
                    ahead, apart = rows_ahead.asked(f, call, block.pixels, a["x_asks"], others)
                    sums.call(
                        f, first_row(tile.index + 1) - row, p.width, count=block.pixels,
                        x=f.pick(in_place, block.at("x", row), packed), distance=distance,
                        y=panels_at.at((number.index - first) * room * panel),
                        dw=f.pick(straight, f.address(a["w"]).at(row * a["w_c"] + p.first), dense),
                        dw_step=f.choose(straight, a["w_c"], p.width),
                        channels=f.choose(straight, p.outputs, p.width), add=index.index - first_block,
                        ahead=ahead, ahead_step=apart,
                    )  # fmt: skip
    f.done()
    collect_kernel(module, dtype, copy_function(module, dtype, lanes), lanes, panel)


def _line(dtype: str) -> int:
    """Numbers of a cache line."""
    return LINE // DTYPE_BYTES[dtype]


def _vectors_of_rows(target: Target, lanes: int) -> int:
    return ceil_div(target.tile_rows, lanes)


class _Block:
    """Some pixels, while code is generated: rows of all images one after the other, and some columns of them."""

    def __init__(self, f: Function, a: dict[str, Int], index: Int) -> None:
        self.f, self.a = f, a
        row, column = indices(index, a["blocks"] // a["row_blocks"])
        self.row, self.column = row * a["block_rows"], column * a["block_columns"]
        self.rows = (a["images"] * a["height"] - self.row).at_most(a["block_rows"])
        self.columns = (a["width"] - self.column).at_most(a["block_columns"])
        self.pixels = self.rows * self.columns

    def at(self, tensor: str, number: Int, row: Int | int = 0) -> Pointer:
        """Where a row of its pixels begins in x or y: this number of the first one's."""
        a, (image, line) = self.a, indices(self.row + row, self.a["height"])
        offset = image * a[f"{tensor}_n"] + line * a[f"{tensor}_h"] + self.column * a[f"{tensor}_w"]
        return self.f.address(a[tensor]).at(offset + number)

    def pack(self, pack: Function, tensor: str, first: Int, to: Pointer, pitch: Int) -> None:
        """The numbers of each pixel from the `first` on, `pitch` of them."""
        a, count = self.a, self.a[{"x": "channels", "y": "outputs"}[tensor]]
        with self.f.loop(self.rows) as row:
            self.f.call(
                pack, to=to.at(row.index * self.columns * pitch), pitch=pitch, source=self.at(tensor, first, row.index),
                step=a[f"{tensor}_w"], pixels=self.columns, numbers=count - first,
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Ahead:
    """Cache lines of each pixel that are needed next, from the first pixel's first one on, and how far apart pixels
    are."""

    first: Pointer
    apart: Int
    lines: Int

    def asked(
        self, f: Function, number: Int, pixels: Int, allowed: Int, otherwise: tuple[Pointer, Int]
    ) -> tuple[Pointer, Int]:
        """One of the lines, if there are so many; else what is asked for `otherwise`."""
        within = f.all_of(number.compare(">=", 0), number.compare("<", self.lines * _PARTS), allowed.compare("!=", 0))
        here = self.first.at(number // _PARTS * _line(f.dtype) + self.apart * (number % _PARTS * (pixels // _PARTS)))
        return f.pick(within, here, otherwise[0]), f.choose(within, self.apart, otherwise[1])


def _pack(module: ir.Module, name: str, dtype: str, lanes: int, vectors: int) -> Function:
    """`pack`: of pixels that are `step` apart some vectors, each pixel's `pitch` behind the one before. What is beyond
    `numbers` is zeros. A pixel's vectors may be longer than the pitch: the next pixel's are written over what is too
    much, and behind the last one there must be room for it."""
    f = Function(module, name, "*to pitch *source step pixels numbers", dtype, internal=True)
    to, source = f.pointers("to source")
    pitch, step, pixels, numbers = f.integers("pitch step pixels numbers")

    def copy(masked: bool) -> None:
        masks = [f.first_lanes(numbers - v * lanes, lanes) if masked else None for v in range(vectors)]

        def several(stop: Int, start: Int | int, count: int, places: list[Value]) -> list[Value]:
            """`count` pixels a round."""
            with f.loop(stop, start=start, step=count, carry=places) as pixel:
                there, here = (Pointer(f.builder, value, f.float) for value in pixel.values)
                for _ in range(count):
                    for v, mask in enumerate(masks):
                        there.at(v * lanes).put(f.load(here.at(v * lanes), lanes, mask))
                    there, here = there.at(pitch), here.at(step)
                pixel.carry([there.value, here.value])
            return pixel.values

        whole = pixels // STEPS * STEPS
        several(pixels, whole, 1, several(whole, 0, STEPS, [to.value, source.value]))

    with f.if_else(numbers.compare(">=", vectors * lanes)) as (whole, cut):
        with whole:
            copy(masked=False)
        with cut:
            copy(masked=True)
    f.done()
    return f


def _outer_tiles(module: ir.Module, dtype: str, target: Target) -> Tiles:
    """Adds products of rows and packed lanes to a tile's sums in dw.

        dw[r, :] (+)= Σ_p x[p·distance + r] · y[p, :]

    Rows of dw are dw_step apart. Where `add` is 0, dw is not read. Of the vectors' lanes, the first `channels` are
    stored. In each step a line is asked for, from `ahead` on, `ahead_step` numbers apart.
    """

    def make(tile: Tile) -> Function:
        names = "*x distance *y count *dw dw_step channels add *ahead ahead_step"
        f = Function(module, f"outer_{tile.rows}x{tile.vectors}", names, dtype, internal=True)
        x, y, dw, ahead = f.pointers("x y dw ahead")
        distance, count, dw_step, channels, add, ahead_step = f.integers(
            "distance count dw_step channels add ahead_step"
        )
        sums = tile.filled_with([f.zeros(tile.lanes)] * tile.vectors)
        asked = (ahead, ahead_step, STEPS // _PARTS)
        _, sums = tile.multiply_run(f, x, distance, y, count, sums, asked, transposed=True)
        tile.store(f, sums, (dw, dw_step), (dw, dw_step), add.compare("!=", 0), channels)
        f.done()
        return f

    return Tiles(target.tile_rows, target, dtype, make, lanewise=False)
