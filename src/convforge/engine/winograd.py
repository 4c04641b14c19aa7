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

The steps: pack the weights as panels (`direct.py`), transform them to U: [group][panel][ξ][c][lane]; that is the form
that is kept for inference. Then one of two schedules:

- by blocks: a thread takes a block of tiles through all three stages. V and a panel of M stay in its L2, U comes from
  L3 once a block:  for block: V ← x;  for panel: { for ξ: M[ξ] ← V[ξ]·U[panel][ξ];  y ← M }.
  Each weight that is loaded meets T tiles, so U takes 128/T bytes a cycle: 9 for 14 tiles, 3 for 42.
- by stages: all threads transform a chunk of tiles, then share out the products (panel, ξ), then transform back. U is
  streamed once a chunk, and once only for a small image; V and M cross the cores through L3, (C + K)·32 cycles for C·K
  of products. For many channels, where U (37 MB at 512×512) does not stay in any cache.

Tiles are numbered through all images, so the register tile's 14 rows are full even for images of four tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from . import target as targets
from .blocks import tiles
from .cook_toom import short_convolution
from .describe import Description, Held, Inner, Loop, largest_tile, many
from .describe import Tile as RegisterTile
from .direct import pack_part, panels_of
from .epilogue import Epilogue
from .gemm import product_tile
from .geometry import Axis, Sliding, scratch_pitch
from .ir import I64, Arguments, Function, Int, Pointer, kernel, share
from .pack import copy_function
from .prepared import Layout, Prepared, Program, Step, code, step, worth, zeros_for
from .target import DTYPE_BYTES, Target
from .winograd_transforms import NO_RESIDUAL, gather_function, locate_function, spread_function

TRANSFORM_WEIGHTS = Arguments(
    "w w_g w_k w_c w_i w_j groups panels outputs channels kernel_h kernel_w weights scratch scratch_bytes past_caches"
)

# The numbers that describe the images, of one layout (channels side by side), and how they are cut into tiles.
TILE_ARGUMENTS = (
    "images height width pad_top pad_left dilation_h dilation_w out_height out_width tiles_h tiles_w "
    "groups channels outputs panels "  # channels of one group
    "x x_n x_h x_w y y_n y_h y_w zeros scratch scratch_bytes "
)
SLIDING = Arguments(
    TILE_ARGUMENTS + "weights bias bias_step residual pitch v m chunk chunks"
    # pitch: numbers a row of V; v, m: of all threads, or (by blocks) where they are in each thread's scratch;
    # chunk: the most tiles of a block or chunk, chunks: how many of them
)
REORDER = Arguments("of of_n of_c of_h of_w to to_n to_c to_h to_w images channels height width")

_PRODUCTS_A_PART = 512
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
        return axis.dilation * -(-axis.out // (axis.dilation * self.shape.outputs))

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
            "groups": s.groups, "channels": s.channels, "outputs": s.outputs, "panels": -(-s.outputs // panel),
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
    panels = -(-s.outputs // panel)

    packed_bytes = s.groups * panels * shape.products * product_pitch(s.channels, panel, lanes) * size
    part = Layout()
    part.take(_TABLE_BYTES + _CHANNELS_A_PART * shape.taps**2 * panel * size)
    packing = step(
        kernels["transform_weights"],
        TRANSFORM_WEIGHTS,
        # Where no cache can hold U, its lines are not read into one in order to be written.
        panels_of(s, panel) | {"scratch_bytes": part.size, "past_caches": int(packed_bytes > _in_caches(target))},
        {
            "w": (weights, s.w_start * size),
            "weights": ("packed", 0),
            "scratch": ("work", layout.take(threads * part.size)),
        },
    )

    # Images, by blocks or by stages. Each thread's scratch begins with its table and the line for pixels outside.
    schedule = scheduled(tiled, dtype, target, threads)
    pitch = scratch_pitch(-(-s.channels // lanes) * lanes, 1, size)
    numbers = tiled.arguments(panel) | x.arguments("x") | y.arguments("y") | {
        "bias_step": int(epilogue.bias), "residual": 0,
        "pitch": pitch, "chunk": schedule.chunk, "chunks": schedule.chunks,
    }  # fmt: skip
    at = {
        "x": x.address(source, size),
        "y": y.address(result, size),
        "weights": ("packed", 0),
        "bias": ("bias", 0) if epilogue.bias else ("zeros", 0),
        "zeros": ("zeros", 0),
    }
    before = x.copies(kernels["reorder"], source, size)
    if epilogue.residual:
        residual = Dense.output(s, layout, size)
        at["residual"] = residual.address("residual", size)
        before += residual.copies(kernels["reorder"], "residual", size)
    stages, rounds = ["blocks"], 1
    if schedule.by_stages:
        stages, rounds = ["transform_input", "multiply", "transform_output"], s.groups * schedule.chunks
    scratch = Layout()
    scratch.take(2 * _TABLE_BYTES + panel * size)
    v_bytes = shape.products * (schedule.chunk * pitch + lanes) * size
    m_bytes = shape.products * (schedule.chunk * panel + lanes) * size
    if schedule.by_stages:
        at["v"], at["m"] = ("work", layout.take(v_bytes)), ("work", layout.take(m_bytes * panels))
    else:
        numbers["v"], numbers["m"] = scratch.take(v_bytes), scratch.take(m_bytes)
    numbers["scratch_bytes"] = scratch.size
    at["scratch"] = ("work", layout.take(scratch.size * threads))

    after = y.copies(kernels["reorder"], result, size, back=True)
    steps = [step(kernels[stage], SLIDING, numbers, at) for stage in stages]
    program = Program((*before, *steps, *after), len(before), len(before) + len(steps), rounds)
    return Prepared(name, threads, program, layout.size, Program((packing,)), packed_bytes, zeros_for(s.all_channels))


@dataclass(frozen=True, slots=True)
class Schedule:
    """By blocks or by stages, and how many tiles a block or chunk has."""

    by_stages: bool
    chunk: int
    chunks: int


def scheduled(tiled: Tiled, dtype: str, target: Target, threads: int) -> Schedule:
    """By blocks where a block of full register tiles fits into L2 and U into L3; else by stages."""
    s, products, size = tiled.sliding, tiled.shape.products, DTYPE_BYTES[dtype]
    panel = target.lanes(dtype) * target.tile_vectors
    a_tile = products * (s.channels + panel) * size
    rows = target.tile_rows
    weights = products * s.channels * s.outputs * size
    too_few = weights > target.l2_bytes and tiled.count < threads * rows
    # By blocks U is read once a block: up to 10 MB of it L3 keeps up, beyond that it does not (45 ms against 70 for
    # 256 → 512 channels, 28×28, 16 images).
    if too_few or a_tile * rows > target.l2_bytes * 3 // 5 or weights > 10 * target.l2_bytes:
        most = 12 * target.l2_bytes // (products * (s.channels + s.outputs) * size)
        chunks = -(-tiled.count // max(most, rows))
        return Schedule(True, -(-tiled.count // chunks), chunks)
    most = max(target.l2_bytes * 2 // 5 // a_tile // rows, 1) * rows
    blocks = -(-tiled.count // most)
    blocks = min(-(-blocks // threads) * threads, tiled.count)  # as many for each thread
    return Schedule(False, -(-tiled.count // blocks), blocks)


# What the model of `cycles` is made of, measured on one core of Zen 5; other CPUs differ by less than the algorithms.
L3_BYTES_A_CYCLE = 12.0
"""V and M written by one core and read by another, through L3."""
BYTES_A_CYCLE = 3.0
"""Memory that is written for the first time, or comes from beyond L3."""
PACKING_BYTES_A_CYCLE = 14.0
"""Weights being transformed, where the caches hold the result."""
PAST_CACHES_BYTES_A_CYCLE = 6.0
"""The same where it goes to memory."""
CYCLES_A_STAGE = 3500.0
"""A fork, a join, and waiting for the slowest thread."""


def _in_caches(target: Target) -> int:
    """So many bytes of transformed weights are left in L3 when they are needed."""
    return target.l3_bytes * 3 // 8


def cycles_of_transform(shape: Shape) -> float:
    """One vector of channels of one patch: its loads and stores, and 2·n products of a matrix with a vector."""
    return 3.8 * shape.products


def cycles(s: Sliding, shape: Shape, dtype: str, threads: int, kept: bool) -> float:
    """What it takes on so many threads: products, transforms, the weights' way from L3 or memory, and, where they are
    not `kept` between calls, their transform."""
    target, size = targets.current(), DTYPE_BYTES[dtype]
    lanes = target.lanes(dtype)
    tiled = Tiled(s, shape)
    inputs, outputs = -(-s.channels // lanes), -(-s.outputs // lanes)
    schedule = scheduled(tiled, dtype, target, threads)
    # Register tiles of a few rows wait for the latency of the multiply-add, four cycles for their two sums each.
    row_tiles = -(-schedule.chunk // target.tile_rows) * schedule.chunks
    rows = max(tiled.count, 4 * row_tiles)
    busy = threads if schedule.by_stages else min(threads, s.groups * schedule.chunks)
    product = rows * shape.products * s.channels * outputs / 2 / 0.88 / busy
    weights = shape.products * s.channels * outputs * lanes * size
    times = schedule.chunks if schedule.by_stages else schedule.chunks / busy
    streaming = weights * times / (L3_BYTES_A_CYCLE if weights < 32 * target.l2_bytes else BYTES_A_CYCLE) / threads
    # Groups that do not fill a vector are loaded and stored in parts, four times as slowly.
    few = 4 if s.groups > 1 and min(s.channels, s.outputs) < lanes else 1
    transform = tiled.count * (inputs + outputs) * few * cycles_of_transform(shape) / busy
    total = max(product, streaming) + transform
    if schedule.by_stages:
        bytes_ = 2 * tiled.count * shape.products * (inputs + outputs) * lanes * size
        total += bytes_ / L3_BYTES_A_CYCLE / threads + 3 * schedule.chunks * CYCLES_A_STAGE
    if not kept:
        rate = PACKING_BYTES_A_CYCLE if weights <= _in_caches(target) else PAST_CACHES_BYTES_A_CYCLE
        total += weights * (1 + shape.taps**2 / shape.products) / rate / threads
    return s.groups * total


def describe(s: Sliding, shape: Shape, dtype: str, threads: int) -> Description:
    """The loops of either schedule."""
    target, size = targets.current(), DTYPE_BYTES[dtype]
    lanes, panel = target.lanes(dtype), target.lanes(dtype) * target.tile_vectors
    threads = worth(threads, s.macs)
    tiled = Tiled(s, shape)
    schedule = scheduled(tiled, dtype, target, threads)
    panels, pitch = -(-s.outputs // panel), scratch_pitch(-(-s.channels // lanes) * lanes, 1, size)
    rows = largest_tile(schedule.chunk, target.tile_rows)
    vectors = 1 if s.outputs <= panel // 2 else target.tile_vectors
    m, n = shape.outputs, shape.points
    shared = f"shared out among {many(threads, 'thread')}"
    forth = f"V: transform the {n}×{n} input pixels that each tile sees"
    back = f"y: transform M back into the {m}×{m} pixels of each tile"
    count = f"of at most {many(schedule.chunk, 'tile')} of {m}×{m} result pixels"
    number, each = s.groups * schedule.chunks, "M[ξ] = V[ξ]·U[ξ]"
    outer = [Loop(number, "chunk", count, f"{forth}, {shared}")]
    outer += [Loop(panels * shape.products, "matrix product", f"{each} of a panel of {panel} channels, {shared}")]
    if not schedule.by_stages:
        outer = [
            Loop(number, "block", f"{count}, {shared}", forth),
            Loop(panels, "panel", f"of {panel} result channels"),
        ]
        outer += [Loop(shape.products, "matrix product", each)]
    products = min(s.channels, _PRODUCTS_A_PART)
    loops = (
        *outer,
        Loop(-(-s.channels // _PRODUCTS_A_PART), "part", f"of the sum, of at most {products} products each"),
        Loop(-(-schedule.chunk // rows), "register tile", f"of at most {rows} tiles"),
        Loop(products, "product", "added to every sum of the register tile"),
    )
    cache = "" if schedule.by_stages else "L2"
    held = (
        Held("U, all weights transformed", s.groups * panels * shape.products * s.channels * panel * size),
        Held("U of a panel and ξ", s.channels * vectors * target.vector_bytes, "L2"),
        Held(f"V of a {outer[0].unit}", shape.products * schedule.chunk * pitch * size, cache),
        Held("M of a panel", shape.products * schedule.chunk * panel * size, cache),
    )
    return Description(
        loops,
        RegisterTile.of(target, dtype, (rows, "tiles"), (vectors, "result channels"), False),
        held,
        Inner(build, f"product_{rows}x{vectors}", (shape, "")),
        after=f"{back}, {shared}, after every chunk" if schedule.by_stages else f"{back}, after every panel",
    )


# ---------------------------------------------------------------------------------------------------------------------
# Kernels
# ---------------------------------------------------------------------------------------------------------------------

KERNELS = (
    "transform_weights", "reorder", "blocks", "transform_input", "multiply", "transform_output"
)  # fmt: skip


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
    transform_weights(module, dtype, lanes, panel, shape)
    reorder(module, dtype, copy)
    form = _Form(shape, lanes, panel, target.tile_rows)
    _by_blocks(module, dtype, functions, form)
    _by_stages(module, dtype, functions, form)


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


def transform_weights(module: ir.Module, dtype: str, lanes: int, panel: int, shape: Shape) -> None:
    """U = G w Gᵀ, some input channels of a panel at a time: packed as [i][j][c][lane], which stays in L1, they are a
    patch of r×r "pixels" with c·lanes "channels"."""
    locate = locate_function(module, dtype, shape.taps)
    matrix = short_convolution(shape.outputs, shape.taps).kernel
    spread = spread_function(module, dtype, lanes, matrix)
    spread_past_caches = spread_function(module, dtype, lanes, matrix, past_caches=True)
    f, array, thread, threads = kernel(module, "transform_weights", dtype)
    a = TRANSFORM_WEIGHTS.read(array)
    scratch = a["scratch"] + thread * a["scratch_bytes"]
    table, packed = f.address(scratch, I64), f.address(scratch + _TABLE_BYTES)
    parts = (a["channels"] + (_CHANNELS_A_PART - 1)) // _CHANNELS_A_PART
    first, end = share(a["groups"] * a["panels"] * parts, thread, threads)
    with f.loop(end, start=first) as task:
        part, which = task.index % parts, task.index // parts
        channel, index, group = part * _CHANNELS_A_PART, which % a["panels"], which // a["panels"]
        channels = (a["channels"] - channel).at_most(_CHANNELS_A_PART)
        outputs = (a["outputs"] - index * panel).at_most(panel)
        width = f.choose(outputs.compare(">", panel // 2), panel, panel // 2)
        source = f.address(a["w"]).at(group * a["w_g"] + index * panel * a["w_k"] + channel * a["w_c"])
        in_part = a | {"channels": f.const(_CHANNELS_A_PART)}
        pack_part(f, in_part, source, packed, channels, outputs, width, lanes)
        tap, taps = width * _CHANNELS_A_PART, f.const(shape.taps)
        f.call(locate, table, packed, tap * shape.taps, tap, 0, taps, 0, taps, packed, 1, 1)
        to = f.address(a["weights"]).at(which * shape.products * product_pitch(a["channels"], panel, lanes))
        step_ = product_pitch(a["channels"], width, lanes)
        arguments = (table, channels * width, to.at(channel * width), step_, f.const(lanes), table)
        with f.if_else(a["past_caches"].compare("!=", 0)) as (large, small):
            with large:
                f.call(spread_past_caches, *arguments)
            with small:
                f.call(spread, *arguments)
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


@dataclass(frozen=True)
class _Panel:
    """A panel of output channels: the first of them, how many, and how many with the lanes that are filled up."""

    first_output: Int
    outputs: Int
    width: Int
    weights: Pointer

    @classmethod
    def of(cls, f: Function, a: dict[str, Int], group: Int, index: Int, form: _Form) -> _Panel:
        panel, products = form.panel, form.shape.products
        outputs = (a["outputs"] - index * panel).at_most(panel)
        width = f.choose(outputs.compare(">", panel // 2), panel, panel // 2)
        pitch = product_pitch(a["channels"], panel, form.lanes)
        weights = f.address(a["weights"]).at((group * a["panels"] + index) * products * pitch)
        return cls(group * a["outputs"] + index * panel, outputs, width, weights)


@dataclass(frozen=True, slots=True)
class _Form:
    """What is fixed when the code is written: the tiles' shape and the vectors'."""

    shape: Shape
    lanes: int
    panel: int
    tile_rows: int


def _multiply(
    f: Function,
    a: dict[str, Int],
    functions: _Functions,
    form: _Form,
    p: _Panel,
    xi: Int,
    v: Pointer,
    m: Pointer,
    count: Int,
) -> None:
    """M[ξ] = V[ξ] · U[ξ] for `count` tiles and a panel: rows of `pitch` numbers times `width` columns."""
    weights = p.weights.at(xi * product_pitch(a["channels"], p.width, form.lanes))
    with f.loop(a["channels"], step=_PRODUCTS_A_PART) as part, tiles(f, count, form.tile_rows) as rows:
        arguments = (
            v.at(rows.first * a["pitch"] + part.index), a["pitch"], f.const(1), weights.at(part.index * p.width),
            (a["channels"] - part.index).at_most(_PRODUCTS_A_PART), m.at(rows.first * p.width), part.index,
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


def _by_blocks(module: ir.Module, dtype: str, functions: _Functions, form: _Form) -> None:
    """A block of tiles through all stages, by one thread."""
    f, array, thread, threads = kernel(module, "blocks", dtype)
    a = SLIDING.read(array)
    scratch = a["scratch"] + thread * a["scratch_bytes"]
    table, outside = f.address(scratch, I64), f.address(scratch + 2 * _TABLE_BYTES)
    v, m = f.address(scratch + a["v"]), f.address(scratch + a["m"])
    begin, end = share(a["groups"] * a["chunks"], thread, threads)
    with f.loop(end, start=begin) as task:
        group, block = task.index // a["chunks"], task.index % a["chunks"]
        first, after = share(a["images"] * a["tiles_h"] * a["tiles_w"], block, a["chunks"])
        count = after - first
        v_step = odd_lines(count * a["pitch"], form.lanes)
        transform_images(
            f, a, locate_input(f, a, functions.locate_input, form.shape.outputs, group), functions.spread, first,
            count, a["channels"], v, a["pitch"], v_step, form.lanes, table,
        )  # fmt: skip
        with f.loop(a["panels"]) as index:
            p = _Panel.of(f, a, group, index.index, form)
            m_step = odd_lines(count * p.width, form.lanes)
            with f.loop(form.shape.products) as xi:
                v_xi, m_xi = v.at(xi.index * v_step), m.at(xi.index * m_step)
                _multiply(f, a, functions, form, p, xi.index, v_xi, m_xi, count)
            _transform_output(f, a, functions, form, p, first, count, m, m_step, table, outside)
    f.done()


def _by_stages(module: ir.Module, dtype: str, functions: _Functions, form: _Form) -> None:
    """The stages apart, for a round (group, chunk of tiles): V is [ξ][tile][channel], M [panel][ξ][tile][lane]."""

    def begin(name: str) -> tuple[Function, dict[str, Int], Int, Int, Int, Int, Int]:
        f, array, thread, threads = kernel(module, name, dtype)
        a = SLIDING.read(array)
        group, chunk = a["round"] // a["chunks"], a["round"] % a["chunks"]
        first, after = share(a["images"] * a["tiles_h"] * a["tiles_w"], chunk, a["chunks"])
        return f, a, thread, threads, group, first, after - first

    f, a, thread, threads, group, first, count = begin("transform_input")
    table = f.address(a["scratch"] + thread * a["scratch_bytes"], I64)
    mine, after = share(count, thread, threads)
    v = f.address(a["v"]).at(mine * a["pitch"])
    transform_images(
        f, a, locate_input(f, a, functions.locate_input, form.shape.outputs, group), functions.spread, first + mine,
        after - mine, a["channels"], v, a["pitch"], odd_lines(count * a["pitch"], form.lanes), form.lanes, table,
    )  # fmt: skip
    f.done()

    f, a, thread, threads, group, _, count = begin("multiply")
    mine, after = share(a["panels"] * form.shape.products, thread, threads)
    with f.loop(after, start=mine) as task:
        xi = task.index % form.shape.products
        p = _Panel.of(f, a, group, task.index // form.shape.products, form)
        v = f.address(a["v"]).at(xi * odd_lines(count * a["pitch"], form.lanes))
        m = f.address(a["m"]).at(task.index * odd_lines(count * form.panel, form.lanes))
        _multiply(f, a, functions, form, p, xi, v, m, count)
    f.done()

    f, a, thread, threads, group, first, count = begin("transform_output")
    scratch = a["scratch"] + thread * a["scratch_bytes"]
    table, outside = f.address(scratch, I64), f.address(scratch + 2 * _TABLE_BYTES)
    mine, after = share(count, thread, threads)
    with f.loop(a["panels"]) as index:
        p = _Panel.of(f, a, group, index.index, form)
        step_ = odd_lines(count * form.panel, form.lanes)
        m = f.address(a["m"]).at(index.index * form.shape.products * step_ + mine * p.width)
        _transform_output(f, a, functions, form, p, first + mine, after - mine, m, step_, table, outside)
    f.done()
