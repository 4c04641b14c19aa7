"""Winograd's convolution: m×m outputs of an r×r kernel from (m + r − 1)² products instead of m²·r².

What it computes, for kernels at stride 1, in tiles of m×m output pixels, each seen by a patch of n×n input pixels,
n = m + r − 1 (the matrices are derived in `cook_toom.py`; ⊙ is the product number by number):

    y = Aᵀ [ Σ_c (G w Gᵀ) ⊙ (Bᵀ x B) ] A

The sum over input channels stands inside, so for each of the n² places ξ it is a matrix product of its own,

    M[ξ][t, k] = Σ_c V[ξ][t, c] · U[ξ][c, k]          t: tiles, c: input channels, k: output channels

F(4×4, 3×3) has 36 products for 16 outputs of 9 products each: 4 times fewer. F(2×2, 3×3) has 2.25 times fewer, from
weights that grow 1.8 times instead of 4 times: it is for images so small that weights, not products, are the limit.

F(2×2, 5×5) has the points of the first, and 36 products instead of 100.

When it applies: 3×3 and 5×5 kernels at stride 1, with or without gaps (dilation d: every d-th output is a convolution
of its own), float32 unless asked for by name. Rounding errors grow with the points: a relative error of 1.5e-6 at 256
channels for F(4×4, 3×3) and 5e-7 for F(2×2, 3×3), against 2.3e-7 for direct sums; precision "exact" does without.

The steps, which a thread takes through all of its work without ever waiting for another:

    for chunk of tiles:  V ← x
        for panel of output channels:  { for ξ: M[ξ] ← V[ξ]·U[panel][ξ];  y ← M }

Who does what: the threads are divided into `splits` of the tiles times `shares` of the panels, and everything that a
thread writes and reads again is its own. That costs a little arithmetic, for each share of a split transforms the
split's tiles again; but a cache line that one core writes and another one reads or writes next costs hundreds of
cycles where the two have no cache in common, as on CPUs made of several dies: with V and M handed from core to core,
the layers with small images took twice as long there. `scheduled` weighs one against the other.

- many tiles, few weights: splits. Each weight that is loaded meets T tiles of a chunk, so U takes 128/T bytes a cycle:
  9 for 14 tiles, 3 for 42; U comes from L3 once a chunk.
- many channels, small images: shares. U (37 MB at 512×512) is streamed once, each panel of it to one core.

The weights, as panels (`direct.py`), are transformed to U: [group][panel][ξ][c][lane]. In inference that is done once
and kept; in training each thread transforms its own panels, for itself, when it comes to them. If all its tiles are one
chunk, that is U of one panel in the place of the one before, and U never goes to memory at all.

Tiles are numbered through all images, so the register tile's 14 rows are full even for images of four tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from ...spec import ceil_div, round_up
from .. import target as targets
from ..describe import Description, Held, Inner, Loop, largest_tile, many
from ..describe import Tile as RegisterTile
from ..geometry import Axis, Sliding, scratch_pitch
from ..kernels.blocks import tiles
from ..kernels.cook_toom import short_convolution
from ..kernels.epilogue import Epilogue
from ..kernels.ir import I64, PTR, Arguments, Function, Int, Pointer, kernel, share
from ..kernels.pack import copy_function
from ..kernels.tile import product_tile
from ..kernels.transforms import NO_RESIDUAL, gather_function, locate_function, spread_function
from ..prepared import LINE, Layout, Prepared, Program, Step, code, step, worth, zeros_for
from ..target import DTYPE_BYTES, Target
from .direct import filled, pack_function, panels_of

TRANSFORM_WEIGHTS = Arguments(
    "w w_g w_k w_c w_i w_j groups panels outputs channels weights scratch scratch_bytes past_caches"
)

# The numbers that describe the images, of one layout (channels side by side), and how they are cut into tiles.
TILE_ARGUMENTS = (
    "images height width pad_top pad_left dilation_h dilation_w out_height out_width tiles_h tiles_w "
    "groups channels outputs panels "  # channels of one group
    "x x_n x_h x_w y y_n y_h y_w zeros scratch scratch_bytes "
)
SLIDING = Arguments(
    TILE_ARGUMENTS
    + "weights bias bias_step residual pitch v m u u_step u_channels piece part own splits shares chunks "
    "w w_g w_k w_c w_i w_j past_caches"
    # pitch: numbers a row of V; v, m, u, part: where they are in each thread's scratch; own: whether U is made
    # there, from w; u_step: numbers from a panel's U to the next; u_channels: input channels that U has room for;
    # piece: those whose products are summed at once; chunks: of a split
)
REORDER = Arguments("of of_n of_c of_h of_w to to_n to_c to_h to_w images channels height width")

_PRODUCTS_A_PART = 512
_PIECE = 64
"""Input channels whose U is made just before it is used: 36·64·32 numbers, 295 KB, that never leave L2. The products
pay for it with a sum to load and to store after 64 multiply-adds, a twentieth of their time."""
TABLE = 64
"""Addresses in a table: those of a patch of up to 8×8 pixels."""
_TABLE_BYTES = TABLE * 8


@dataclass(frozen=True, slots=True)
class Shape:
    """F(m×m, r×r)."""

    outputs: int
    taps: int

    @property
    def points(self) -> int:
        return self.outputs + self.taps - 1

    @property
    def products(self) -> int:
        return self.points**2

    @property
    def name(self) -> str:
        return f"winograd {self.outputs}×{self.outputs}"


def applies(s: Sliding, shape: Shape) -> bool:
    """A square kernel of the right size, at stride 1."""
    return all(axis.kernel == shape.taps and axis.stride == 1 for axis in (s.vertical, s.horizontal))


# ---------------------------------------------------------------------------------------------------------------------
# Prepare
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tiled:
    """A sliding cut into tiles, and its size in them."""

    sliding: Sliding
    shape: Shape

    @property
    def high(self) -> int:
        return self._along(self.sliding.vertical)

    @property
    def wide(self) -> int:
        return self._along(self.sliding.horizontal)

    def _along(self, axis: Axis) -> int:
        """With gaps of d, every d-th output is a convolution of its own, without gaps, of every d-th input."""
        return axis.dilation * ceil_div(axis.out, axis.dilation * self.shape.outputs)

    @property
    def count(self) -> int:
        return self.sliding.images * self.high * self.wide

    def arguments(self, panel: int) -> dict[str, int]:
        """The `TILE_ARGUMENTS`, but for addresses and for where x and y lie (`Dense.arguments`)."""
        s = self.sliding
        return {
            "images": s.images, "height": s.vertical.size, "width": s.horizontal.size,
            "pad_top": s.vertical.pad, "pad_left": s.horizontal.pad,
            "dilation_h": s.vertical.dilation, "dilation_w": s.horizontal.dilation,
            "out_height": s.vertical.out, "out_width": s.horizontal.out, "tiles_h": self.high, "tiles_w": self.wide,
            "groups": s.groups, "channels": s.channels, "outputs": s.outputs, "panels": ceil_div(s.outputs, panel),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dense:
    """Images with channels side by side: the tensor itself, or a copy of it in the workspace (`offset`) where the
    tensor's channels lie elsewhere, as in NCHW."""

    strides: tuple[int, int, int, int]
    start: int
    shape: tuple[int, int, int, int]
    offset: int | None

    @classmethod
    def input(cls, s: Sliding, layout: Layout, size: int) -> Dense:
        """x, for kernels that want its channels side by side."""
        v, h = s.vertical, s.horizontal
        shape, strides = (s.images, s.all_channels, v.size, h.size), (s.x_n, s.x_c, v.x_step, h.x_step)
        return cls._of(shape, strides, s.x_start, layout, size)

    @classmethod
    def output(cls, s: Sliding, layout: Layout, size: int) -> Dense:
        """y, likewise."""
        v, h = s.vertical, s.horizontal
        shape, strides = (s.images, s.all_outputs, v.out, h.out), (s.y_n, s.y_c, v.y_step, h.y_step)
        return cls._of(shape, strides, s.y_start, layout, size)

    @classmethod
    def _of(
        cls, shape: tuple[int, int, int, int], strides: tuple[int, int, int, int], start: int, layout: Layout, size: int
    ) -> Dense:
        n, c, h, w = shape
        if strides[1] == 1 or c == 1:
            return cls(strides, start, shape, None)
        return cls(strides, start, shape, layout.take(n * c * h * w * size))

    @property
    def used(self) -> tuple[int, int, int, int]:
        """The strides that the kernels see."""
        _, c, h, w = self.shape
        return self.strides if self.offset is None else (h * w * c, 1, w * c, c)

    def arguments(self, name: str) -> dict[str, int]:
        n, _, h, w = self.used
        return {f"{name}_n": n, f"{name}_h": h, f"{name}_w": w}

    def address(self, buffer: str, size: int) -> tuple[str, int]:
        return (buffer, self.start * size) if self.offset is None else ("work", self.offset)

    def copies(self, kernel_address: int, buffer: str, size: int, back: bool = False) -> tuple[Step, ...]:
        """The step that makes the copy, or brings it `back` into the tensor."""
        if self.offset is None:
            return ()
        names = ("to", "of") if back else ("of", "to")
        n, c, h, w = self.shape
        if all(strides[2] == w * strides[3] for strides in (self.strides, self.used)):
            h, w = 1, h * w  # rows that touch are one long row
        numbers = {"images": n, "channels": c, "height": h, "width": w}
        for name, strides in zip(names, (self.strides, self.used), strict=True):
            numbers |= {f"{name}_{axis}": stride for axis, stride in zip("nchw", strides, strict=True)}
        at = {names[0]: (buffer, self.start * size), names[1]: ("work", self.offset)}
        return (step(kernel_address, REORDER, numbers, at),)


def prepare(
    name: str, s: Sliding, shape: Shape, dtype: str, threads: int, roles: tuple[str, str, str], epilogue: Epilogue
) -> Prepared:
    """`roles` are the buffers read, multiplied by, and written."""
    source, weights, result = roles
    size, target = DTYPE_BYTES[dtype], targets.current()
    lanes = target.lanes(dtype)
    panel = lanes * target.tile_vectors
    threads = worth(threads, s.macs)
    tiled = Tiled(s, shape)
    kernels = code(build, KERNELS, dtype, target, shape, epilogue.activation)
    layout = Layout()
    x, y = Dense.input(s, layout, size), Dense.output(s, layout, size)
    panels = ceil_div(s.outputs, panel)

    a_panel = shape.products * product_pitch(s.channels, panel, lanes)
    packed_bytes = s.groups * panels * a_panel * size
    part_bytes = _part_bytes(shape, panel, size)
    packing = step(
        kernels["transform_weights"],
        TRANSFORM_WEIGHTS,
        panels_of(s, panel) | {"scratch_bytes": part_bytes, "past_caches": int(packed_bytes > _in_caches(target))},
        {
            "w": (weights, s.w_start * size),
            "weights": ("packed", 0),
            "scratch": ("work", layout.take(threads * part_bytes)),
        },
    )

    pitch = scratch_pitch(round_up(s.channels, lanes), 1, size)
    numbers = tiled.arguments(panel) | x.arguments("x") | y.arguments("y")
    numbers |= {"bias_step": int(epilogue.bias), "residual": 0, "pitch": pitch}
    at = {
        "x": x.address(source, size),
        "y": y.address(result, size),
        "w": (weights, s.w_start * size),
        "weights": ("packed", 0),
        "bias": ("bias", 0) if epilogue.bias else ("zeros", 0),
        "zeros": ("zeros", 0),
    }
    before = x.copies(kernels["reorder"], source, size)
    if epilogue.residual:
        residual = Dense.output(s, layout, size)
        at["residual"] = residual.address("residual", size)
        before += residual.copies(kernels["reorder"], "residual", size)
    after = y.copies(kernels["reorder"], result, size, back=True)

    def program(kept: bool) -> tuple[Program, int]:
        """The steps where U is kept, or made by each thread for itself; and the workspace they need."""
        division = divided(tiled, dtype, target, threads, kept)
        scratch = Layout()
        scratch.take(2 * _TABLE_BYTES + panel * size)
        offsets = {
            "v": scratch.take(shape.products * (division.chunk * pitch + lanes) * size),
            "m": scratch.take(shape.products * (division.chunk * panel + lanes) * size),
            "u": 0,
            "u_step": a_panel,
            "u_channels": s.channels,
            "piece": _PRODUCTS_A_PART,
            "part": 0,
        }
        if not kept:
            offsets["part"] = scratch.take(part_bytes)
            panels_at_once = ceil_div(panels, division.shares)
            if division.chunks == 1:  # each panel's U is needed once: the next one takes its place
                offsets["u_step"], panels_at_once = 0, 1
            u_numbers = panels_at_once * a_panel
            if in_pieces(tiled, dtype, target):
                offsets |= {"piece": _PIECE, "u_channels": _PIECE}
                u_numbers = shape.products * product_pitch(_PIECE, panel, lanes)
            offsets["u"] = scratch.take(u_numbers * size)
        past_caches = division.chunks > 1 and packed_bytes * division.splits > _in_caches(target)
        own = panels_of(s, panel) | numbers | offsets | {
            "own": int(not kept), "past_caches": int(past_caches), "scratch_bytes": scratch.size,
            "splits": division.splits, "shares": division.shares, "chunks": division.chunks,
        }  # fmt: skip
        blocks = step(kernels["blocks"], SLIDING, own, at | {"scratch": ("work", layout.size)})
        return Program((*before, blocks, *after)), layout.size + scratch.size * threads

    compute, workspace_bytes = program(kept=True)
    alone, alone_bytes = program(kept=False)
    return Prepared(
        name, threads, compute, workspace_bytes, Program((packing,)), packed_bytes, zeros_for(s.all_channels),
        alone=alone, alone_bytes=alone_bytes,
    )  # fmt: skip


def _part_bytes(shape: Shape, panel: int, size: int) -> int:
    """What a part of the weights needs on its way to U: its taps, packed, and the table of where they are."""
    return round_up(_TABLE_BYTES + _CHANNELS_A_PART * shape.taps**2 * panel * size, LINE)


@dataclass(frozen=True, slots=True)
class Division:
    """Who does what: `splits` of the tiles times `shares` of the panels of a group; each split in `chunks` of at most
    `chunk` tiles."""

    splits: int
    shares: int
    chunk: int
    chunks: int


def _most_in_l3(tiled: Tiled, dtype: str, target: Target, threads: int) -> int:
    """Tiles of which M of a panel stays in L2 and V, of all threads, in L3."""
    products, size = tiled.shape.products, DTYPE_BYTES[dtype]
    panel = target.lanes(dtype) * target.tile_vectors
    m_fits = target.l2_bytes * 3 // 5 // (products * panel * size)
    return min(m_fits, 12 * target.l2_bytes // threads // (products * tiled.sliding.channels * size))


def in_pieces(tiled: Tiled, dtype: str, target: Target) -> bool:
    """Whether trained weights are transformed a piece at a time, just before they are multiplied. Then all tiles must
    be one chunk. It does not depend on the number of threads, and so neither do the roundings."""
    return tiled.count <= _most_in_l3(tiled, dtype, target, 1)


def divided(tiled: Tiled, dtype: str, target: Target, threads: int, kept: bool) -> Division:
    """The division of which `_cycles` expects the least. A chunk is either so small that V and M stay in L2, or as
    large as M alone allows; then V comes from L3, once a panel, but U meets more tiles each time."""
    s, products, size = tiled.sliding, tiled.shape.products, DTYPE_BYTES[dtype]
    lanes, rows = target.lanes(dtype), target.tile_rows
    panel = lanes * target.tile_vectors
    most_in_l2 = target.l2_bytes * 2 // 5 // (products * (s.channels + panel) * size)
    if not kept and in_pieces(tiled, dtype, target):
        most_in_l2 = most_in_l3 = round_up(tiled.count, rows)
    else:
        most_in_l3 = _most_in_l3(tiled, dtype, target, threads)
    together = max(1, threads // s.groups)
    divisions = []
    for shares in range(1, min(together, ceil_div(s.outputs, panel)) + 1):
        splits = min(together // shares, tiled.count)
        mine = ceil_div(tiled.count, splits)
        for most in {max(most // rows, 1) * rows for most in (most_in_l2, most_in_l3)}:
            chunks = ceil_div(mine, most)
            divisions.append(Division(splits, shares, ceil_div(mine, chunks), chunks))
    return min(divisions, key=lambda division: _cycles(tiled, division, dtype, threads, kept))


# What the model of `_cycles` is made of, measured on one core of Zen 5; other CPUs differ by less than the algorithms.
L3_BYTES_A_CYCLE = 12.0
"""What comes from L3 or goes there."""
BYTES_A_CYCLE = 3.0
"""Memory that is written for the first time, or comes from beyond L3."""
PACKING_BYTES_A_CYCLE = 14.0
"""Weights being transformed, where the caches hold the result."""
PAST_CACHES_BYTES_A_CYCLE = 6.0
"""The same where it goes to memory."""


def _in_caches(target: Target) -> int:
    """So many bytes of transformed weights are left in L3 when they are needed."""
    return target.l3_bytes * 3 // 8


def cycles_of_transform(shape: Shape) -> float:
    """One vector of channels of one patch: its loads and stores, and 2·n products of a matrix with a vector."""
    return 3.8 * shape.products


def cycles(s: Sliding, shape: Shape, dtype: str, threads: int, kept: bool) -> float:
    """What it takes on so many threads, where U is `kept` between calls or not."""
    tiled = Tiled(s, shape)
    return _cycles(tiled, divided(tiled, dtype, targets.current(), threads, kept), dtype, threads, kept)


def _cycles(tiled: Tiled, division: Division, dtype: str, threads: int, kept: bool) -> float:
    """What the busiest thread takes: products or, where that takes longer, the factors' way from L3 or memory; the
    transforms; and where U is not `kept`, the transform of its weights."""
    s, shape, target, size = tiled.sliding, tiled.shape, targets.current(), DTYPE_BYTES[dtype]
    lanes = target.lanes(dtype)
    panel = lanes * target.tile_vectors
    mine = ceil_div(tiled.count, division.splits)
    panels = ceil_div(s.outputs, panel)
    own_panels = ceil_div(panels, division.shares)
    inputs, outputs = ceil_div(s.channels, lanes), min(ceil_div(s.outputs, lanes), own_panels * target.tile_vectors)
    # Register tiles of a few rows wait for the latency of the multiply-add, four cycles for their two sums each.
    rows = max(mine, 4 * ceil_div(division.chunk, target.tile_rows) * division.chunks)
    product = rows * shape.products * s.channels * outputs / 2 / 0.88
    u_bytes = shape.products * s.channels * outputs * lanes * size
    v_bytes = shape.products * inputs * lanes * division.chunk * size
    all_weights = shape.products * s.channels * s.outputs * size
    streaming = 0.0
    in_passing = not kept and division.chunks == 1
    if not kept and in_pieces(tiled, dtype, target):
        product *= 1.05  # a sum to load and to store for each piece
    elif (u_bytes / own_panels if in_passing else u_bytes) > target.l2_bytes // 2:
        in_caches = in_passing or all_weights * division.splits < target.l3_bytes
        streaming += u_bytes * division.chunks / (L3_BYTES_A_CYCLE if in_caches else BYTES_A_CYCLE)
    v_in_l3 = v_bytes > target.l2_bytes * 3 // 4
    if v_in_l3:
        streaming += v_bytes * division.chunks * own_panels / L3_BYTES_A_CYCLE
    # Groups that do not fill a vector are loaded and stored in parts, four times as slowly.
    few = 4 if s.groups > 1 and min(s.channels, s.outputs) < lanes else 1
    total = max(product, streaming) + mine * (inputs + outputs) * few * cycles_of_transform(shape)
    if v_in_l3:
        total += 2 * v_bytes * division.chunks / L3_BYTES_A_CYCLE
    if not kept:
        in_caches = in_passing or all_weights * division.splits <= _in_caches(target)
        rate = PACKING_BYTES_A_CYCLE if in_caches else PAST_CACHES_BYTES_A_CYCLE
        total += u_bytes * (1 + shape.taps**2 / shape.products) / rate
    return ceil_div(s.groups, max(1, min(threads, s.groups))) * total


def describe(s: Sliding, shape: Shape, dtype: str, threads: int, kept: bool) -> Description:
    """The loops, where U is `kept` between calls or not."""
    target, size = targets.current(), DTYPE_BYTES[dtype]
    lanes, panel = target.lanes(dtype), target.lanes(dtype) * target.tile_vectors
    threads = worth(threads, s.macs)
    tiled = Tiled(s, shape)
    division = divided(tiled, dtype, target, threads, kept)
    panels, pitch = ceil_div(s.outputs, panel), scratch_pitch(round_up(s.channels, lanes), 1, size)
    own_panels = ceil_div(panels, division.shares)
    rows = largest_tile(division.chunk, target.tile_rows)
    vectors = 1 if s.outputs <= panel // 2 else target.tile_vectors
    m, n = shape.outputs, shape.points
    products = min(s.channels, _PRODUCTS_A_PART)
    work = f"{many(division.splits, 'split')} of the tiles times {many(division.shares, 'share')} of the panels"
    first = "" if kept else "U: transform the weights of its panels"
    loops = (
        Loop(
            s.groups * division.splits * division.shares,
            "task",
            f"{work}, shared out among {many(threads, 'thread')}",
            first,
        ),
        Loop(
            division.chunks,
            "chunk",
            f"of at most {many(division.chunk, 'tile')} of {m}×{m} result pixels",
            f"V: transform the {n}×{n} input pixels that each tile sees",
        ),
        Loop(own_panels, "panel", f"of {panel} result channels"),
        Loop(shape.products, "matrix product", "M[ξ] = V[ξ]·U[ξ]"),
        Loop(ceil_div(s.channels, _PRODUCTS_A_PART), "part", f"of the sum, of at most {products} products each"),
        Loop(ceil_div(division.chunk, rows), "register tile", f"of at most {rows} tiles"),
        Loop(products, "product", "added to every sum of the register tile"),
    )
    v_bytes, m_bytes = (shape.products * division.chunk * numbers * size for numbers in (pitch, panel))
    held = (
        Held("U, all weights transformed", s.groups * panels * shape.products * s.channels * panel * size),
        Held("U of a panel and ξ", s.channels * vectors * target.vector_bytes, "L2"),
        Held("V of a chunk", v_bytes, "L2" if v_bytes + m_bytes < target.l2_bytes else ""),
        Held("M of a panel", m_bytes, "L2"),
    )
    return Description(
        loops,
        RegisterTile.of(target, dtype, (rows, "tiles"), (vectors, "result channels"), False),
        held,
        Inner(build, f"product_{rows}x{vectors}", (shape, "")),
        after=f"y: transform M back into the {m}×{m} pixels of each tile, after every panel",
    )


# ---------------------------------------------------------------------------------------------------------------------
# Kernels
# ---------------------------------------------------------------------------------------------------------------------

KERNELS = ("transform_weights", "reorder", "blocks")


@dataclass(frozen=True)
class _Functions:
    """What the kernels call."""

    locate_input: Function
    locate_output: Function
    spread: Function
    gather: Function
    wide: dict[int, Function]
    narrow: dict[int, Function]


def build(module: ir.Module, dtype: str, target: Target, shape: Shape, activation: str) -> None:
    """Adds the `KERNELS` to the module."""
    lanes = target.lanes(dtype)
    panel = lanes * target.tile_vectors
    matrices = short_convolution(shape.outputs, shape.taps)
    copy = copy_function(module, dtype, lanes)
    sizes = range(1, target.tile_rows + 1)
    functions = _Functions(
        locate_input=locate_function(module, dtype, shape.points),
        locate_output=locate_function(module, dtype, shape.outputs),
        spread=spread_function(module, dtype, lanes, matrices.into),
        gather=gather_function(module, dtype, lanes, matrices.out, activation),
        wide={r: product_tile(module, dtype, target, r, target.tile_vectors) for r in sizes},
        narrow={r: product_tile(module, dtype, target, r, 1) for r in sizes},
    )
    reorder(module, dtype, copy)
    part = transform_part(module, dtype, lanes, panel, shape, pack_function(module, dtype, lanes, panel))
    form = _Form(shape, lanes, panel, target.tile_rows)
    transform_weights(module, dtype, part, form)
    blocks(module, dtype, functions, part, form)


_PIXELS_A_TASK = 512


def reorder(module: ir.Module, dtype: str, copy: Function) -> None:
    """Images from one layout to another: row by row, in pieces."""
    f, array, thread, threads = kernel(module, "reorder", dtype)
    a = REORDER.read(array)
    pieces = (a["width"] + (_PIXELS_A_TASK - 1)) // _PIXELS_A_TASK
    first, end = share(a["images"] * a["height"] * pieces, thread, threads)
    with f.loop(end, start=first) as task:
        piece, rest = task.index % pieces, task.index // pieces
        image, row = rest // a["height"], rest % a["height"]
        pixel = piece * _PIXELS_A_TASK
        pixels = (a["width"] - pixel).at_most(_PIXELS_A_TASK)
        source = f.address(a["of"]).at(image * a["of_n"] + row * a["of_h"] + pixel * a["of_w"])
        to = f.address(a["to"]).at(image * a["to_n"] + row * a["to_h"] + pixel * a["to_w"])
        f.call(copy, to, a["to_c"], a["to_w"], source, a["of_c"], a["of_w"], a["channels"], pixels)
    f.done()


_CHANNELS_A_PART = 32


def product_pitch(channels: Any, width: Any, lanes: int) -> Any:
    """Numbers from one ξ of a panel's U to the next: a cache line more than there are, because 32·c numbers are often a
    multiple of the caches' size over their ways, and one patch's 36 vectors would all fall into the same set."""
    return channels * width + lanes


def transform_part(module: ir.Module, dtype: str, lanes: int, panel: int, shape: Shape, pack: Function) -> Function:
    """U = G w Gᵀ of at most `_CHANNELS_A_PART` input channels of a panel: packed as [i][j][c][lane], which stays in L1,
    they are a patch of r×r "pixels" with c·lanes "channels".

    Arguments: the weights of the part's first channels, and their strides (output, input, row, column); how many
    channels; how many outputs; U of the first channel; numbers from one ξ to the next; scratch; whether U goes past the
    caches, so that its lines are not read into one in order to be written.
    """
    locate = locate_function(module, dtype, shape.taps)
    matrix = short_convolution(shape.outputs, shape.taps).kernel
    spread = spread_function(module, dtype, lanes, matrix)
    spread_past_caches = spread_function(module, dtype, lanes, matrix, past_caches=True)
    f = Function(module, "transform_part", [PTR, *[I64] * 4, I64, I64, PTR, I64, I64, I64], dtype, internal=True)
    source, to = f.pointer(0), f.pointer(7)
    strides = [f.integer(1 + n) for n in range(4)]
    channels, outputs, step_, scratch, past_caches = (f.integer(n) for n in (5, 6, 8, 9, 10))
    table, packed = f.address(scratch, I64), f.address(scratch + _TABLE_BYTES)
    width, taps = filled(f, outputs, panel), f.const(shape.taps)
    f.call(pack, source, *strides, taps, taps, packed, f.const(_CHANNELS_A_PART), channels, outputs)
    tap = width * _CHANNELS_A_PART
    f.call(locate, table, packed, tap * shape.taps, tap, 0, taps, 0, taps, packed, 1, 1)
    arguments = (table, channels * width, to, step_, f.const(lanes), table)
    with f.if_else(past_caches.compare("!=", 0)) as (large, small):
        with large:
            f.call(spread_past_caches, *arguments)
        with small:
            f.call(spread, *arguments)
    f.done()
    return f


@dataclass(frozen=True)
class _Panel:
    """A panel of a group's output channels: how many they are, and how many with the lanes that are filled up."""

    group: Int
    index: Int
    first_output: Int
    outputs: Int
    width: Int

    @classmethod
    def of(cls, f: Function, a: dict[str, Int], group: Int, index: Int, form: _Form) -> _Panel:
        outputs = (a["outputs"] - index * form.panel).at_most(form.panel)
        first = group * a["outputs"] + index * form.panel
        return cls(group, index, first, outputs, filled(f, outputs, form.panel))


def _transform_panel(
    f: Function, a: dict[str, Int], part: Function, form: _Form, p: _Panel, first: Int, channels: Int, to: Pointer,
    pitch: Int, scratch: Int,
) -> None:  # fmt: skip
    """U of `channels` input channels of a panel, from the `first` on, part by part; `to` is where that one's begins."""
    w = f.address(a["w"]).at(p.group * a["w_g"] + p.index * form.panel * a["w_k"] + first * a["w_c"])
    with f.loop(channels, step=_CHANNELS_A_PART) as each:
        f.call(
            part, w.at(each.index * a["w_c"]), a["w_k"], a["w_c"], a["w_i"], a["w_j"],
            (channels - each.index).at_most(_CHANNELS_A_PART), p.outputs, to.at(each.index * p.width), pitch, scratch,
            a["past_caches"],
        )  # fmt: skip


def transform_weights(module: ir.Module, dtype: str, part: Function, form: _Form) -> None:
    """All of U, to be kept."""
    f, array, thread, threads = kernel(module, "transform_weights", dtype)
    a = TRANSFORM_WEIGHTS.read(array)
    parts = (a["channels"] + (_CHANNELS_A_PART - 1)) // _CHANNELS_A_PART
    a_panel = form.shape.products * product_pitch(a["channels"], form.panel, form.lanes)
    begin, end = share(a["groups"] * a["panels"] * parts, thread, threads)
    with f.loop(end, start=begin) as task:
        first, which = task.index % parts * _CHANNELS_A_PART, task.index // parts
        p = _Panel.of(f, a, which // a["panels"], which % a["panels"], form)
        channels = (a["channels"] - first).at_most(_CHANNELS_A_PART)
        to = f.address(a["weights"]).at(which * a_panel + first * p.width)
        pitch = product_pitch(a["channels"], p.width, form.lanes)
        scratch = a["scratch"] + thread * a["scratch_bytes"]
        _transform_panel(f, a, part, form, p, first, channels, to, pitch, scratch)
    f.done()


@dataclass(frozen=True)
class Tile:
    """One tile: its image, and its first output pixel."""

    image: Int
    row: Int
    column: Int

    @classmethod
    def number(cls, a: dict[str, Int], index: Int, outputs: int) -> Tile:
        """By (image, row, column), the last running fastest; where there are gaps, those of each phase by turns."""
        in_image = index % (a["tiles_h"] * a["tiles_w"])

        def first(number: Int, gap: Int) -> Int:
            return number // gap * gap * outputs + number % gap

        return cls(
            index // (a["tiles_h"] * a["tiles_w"]),
            first(in_image // a["tiles_w"], a["dilation_h"]),
            first(in_image % a["tiles_w"], a["dilation_w"]),
        )


@dataclass(frozen=True, slots=True)
class _Form:
    """What is fixed when the code is written: the tiles' shape and the vectors'."""

    shape: Shape
    lanes: int
    panel: int
    tile_rows: int


def _multiply(
    f: Function, a: dict[str, Int], functions: _Functions, form: _Form, p: _Panel, weights: Pointer, first: Int,
    channels: Int, v: Pointer, m: Pointer, count: Int,
) -> None:  # fmt: skip
    """M[ξ] += V[ξ] · U[ξ] for `count` tiles, a panel, and the input channels from `first` on: rows of `pitch` numbers
    times `width` columns. The first channels write M, the others add to it."""
    with tiles(f, count, form.tile_rows) as rows:
        arguments = (
            v.at(rows.first * a["pitch"] + first), a["pitch"], f.const(1), weights, channels,
            m.at(rows.first * p.width), first,
        )  # fmt: skip
        with f.if_else(p.width.compare("==", form.panel)) as (two, one):
            with two:
                f.dispatch(rows.size, functions.wide, *arguments)
            with one:
                f.dispatch(rows.size, functions.narrow, *arguments)


def transform_images(
    f: Function, a: dict[str, Int], locate: Callable[[Int, Pointer], None], spread: Function, first: Int, count: Int,
    channels: Int, to: Pointer, tile_step: Int, step_: Int, vector_step: Int | int, table: Pointer,
) -> None:  # fmt: skip
    """`count` tiles from number `first` on through `spread`; `locate` fills a table with the addresses of one.

    The next tile's pixels are asked for while one is transformed. Without that the patch comes from L3 or memory at
    12 GB/s: its pixels are pieces too short for the CPU's own prefetchers. With it, 64 channels at 224×224 take a third
    less altogether.
    """
    locate(first, table)
    with f.loop(count) as t:
        here, following = _tables(table, t.index)
        locate(first + t.index + 1, following)
        f.call(spread, here, channels, to.at(t.index * tile_step), step_, vector_step, following)


def locate_input(
    f: Function, a: dict[str, Int], locate: Function, outputs: int, group: Int
) -> Callable[[Int, Pointer], None]:
    """The patch of x that a tile sees, at the group's first channel."""

    def of(t: Int, table: Pointer) -> None:
        tile = Tile.number(a, t, outputs)
        x = f.address(a["x"]).at(tile.image * a["x_n"] + group * a["channels"])
        f.call(
            locate, table, x, a["x_h"], a["x_w"], tile.row - a["pad_top"], a["height"], tile.column - a["pad_left"],
            a["width"], f.address(a["zeros"]), a["dilation_h"], a["dilation_w"],
        )  # fmt: skip

    return of


def locate_output(
    f: Function, a: dict[str, Int], locate: Function, outputs: int, channel: Int, outside: Pointer
) -> Callable[[Int, Pointer], None]:
    """The tile's own pixels of y, at an output channel."""

    def of(t: Int, table: Pointer) -> None:
        tile = Tile.number(a, t, outputs)
        y = f.address(a["y"]).at(tile.image * a["y_n"] + channel)
        f.call(
            locate,
            table,
            y,
            a["y_h"],
            a["y_w"],
            tile.row,
            a["out_height"],
            tile.column,
            a["out_width"],
            outside,
            a["dilation_h"],
            a["dilation_w"],
        )

    return of


def _transform_output(
    f: Function, a: dict[str, Int], functions: _Functions, form: _Form, p: _Panel, first: Int, count: Int, m: Pointer,
    step_: Int, table: Pointer, outside: Pointer,
) -> None:  # fmt: skip
    """A panel's output pixels of `count` tiles from number `first` on ← M, again with the next tile's in view."""

    locate = locate_output(f, a, functions.locate_output, form.shape.outputs, p.first_output, outside)
    bias = f.address(a["bias"]).at(p.first_output * a["bias_step"])
    distance = f.choose(a["residual"].compare("!=", 0), a["residual"] - a["y"], NO_RESIDUAL)
    locate(first, table)
    with f.loop(count) as t:
        here, following = _tables(table, t.index)
        locate(first + t.index + 1, following)
        values = m.at(t.index * p.width)
        f.call(functions.gather, here, p.outputs, values, step_, bias, following, distance, outside.number())


def odd_lines(numbers: Int, lanes: int) -> Int:
    """At least so many numbers, an odd count of vectors: a step that spreads what lies so far apart over all sets of
    the caches."""
    return (numbers // (2 * lanes) * 2 + 1) * lanes


def _tables(table: Pointer, t: Int) -> tuple[Pointer, Pointer]:
    """The tables of this tile and of the next, by turns."""
    return table.at(t % 2 * TABLE), table.at((t + 1) % 2 * TABLE)


def blocks(module: ir.Module, dtype: str, functions: _Functions, part: Function, form: _Form) -> None:
    """All stages for a split of the tiles and a share of the panels, by one thread."""
    f, array, thread, threads = kernel(module, "blocks", dtype)
    a = SLIDING.read(array)
    scratch = a["scratch"] + thread * a["scratch_bytes"]
    table, outside = f.address(scratch, I64), f.address(scratch + 2 * _TABLE_BYTES)
    v, m, own_u = (f.address(scratch + a[name]) for name in "vmu")
    a_panel = form.shape.products * product_pitch(a["channels"], form.panel, form.lanes)
    tiles_ = a["images"] * a["tiles_h"] * a["tiles_w"]
    begin, end = share(a["groups"] * a["shares"] * a["splits"], thread, threads)
    with f.loop(end, start=begin) as task:
        split, rest = task.index % a["splits"], task.index // a["splits"]
        group = rest // a["shares"]
        first_panel, last_panel = share(a["panels"], rest % a["shares"], a["shares"])
        kept_u = f.address(a["weights"]).at((group * a["panels"] + first_panel) * a_panel)
        u = f.pick(a["own"].compare("!=", 0), own_u, kept_u)
        first_tile, last_tile = share(tiles_, split, a["splits"])
        with f.loop(a["chunks"]) as chunk:
            first, after = share(last_tile - first_tile, chunk.index, a["chunks"])
            first, count = first_tile + first, after - first
            v_step = odd_lines(count * a["pitch"], form.lanes)
            transform_images(
                f, a, locate_input(f, a, functions.locate_input, form.shape.outputs, group), functions.spread, first,
                count, a["channels"], v, a["pitch"], v_step, form.lanes, table,
            )  # fmt: skip
            with f.loop(last_panel, start=first_panel) as index:
                p = _Panel.of(f, a, group, index.index, form)
                m_step = odd_lines(count * p.width, form.lanes)
                panel_u = u.at((index.index - first_panel) * a["u_step"])
                u_pitch = product_pitch(a["u_channels"], p.width, form.lanes)
                with f.loop(a["channels"], step=a["piece"]) as piece:
                    channels = (a["channels"] - piece.index).at_most(a["piece"])
                    # Where U has no room for all channels, each piece takes the place of the one before.
                    here = piece.index.at_most(a["u_channels"] - channels)
                    piece_u = panel_u.at(here * p.width)
                    with f.if_(f.all_of(a["own"].compare("!=", 0), chunk.index.compare("==", 0))):
                        part_scratch = scratch + a["part"]
                        _transform_panel(f, a, part, form, p, piece.index, channels, piece_u, u_pitch, part_scratch)
                    with f.loop(form.shape.products) as xi:
                        v_xi, m_xi = v.at(xi.index * v_step), m.at(xi.index * m_step)
                        weights = piece_u.at(xi.index * u_pitch)
                        _multiply(f, a, functions, form, p, weights, piece.index, channels, v_xi, m_xi, count)
                _transform_output(f, a, functions, form, p, first, count, m, m_step, table, outside)
    f.done()
