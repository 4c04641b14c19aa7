"""The gradient of the weights by Winograd's convolution, over the same tiles as the forward pass.

What it computes. The gradient of an r×r kernel is a sliding sum too: r×r outputs, of a patch of x with the m×m tile of
dy in the place of the kernel. That is F(r×r, m×m), which has n = m + r − 1 points like F(m×m, r×r):

    dw = A'ᵀ [ Σ_tiles (G' dy G'ᵀ) ⊙ (Bᵀ x B) ] A'

B depends on the points alone, so the patches of x become what they become in the forward pass. For each of the n²
places ξ there is one matrix product, whose sum runs over tiles:

    S[ξ][c, k] = Σ_t V[ξ][t, c] · W[ξ][t, k]

When it applies: as the forward pass (`winograd.py`). F(3×3, 4×4) needs 4 times fewer products, and its rounding errors
are those of a direct float32 sum (1.3e-6 at 256 channels): the sums over tiles are 16 times shorter.

The loops, for a group and a chunk of tiles, so few that a panel of W stays in L2 (128: 36·128·128 bytes = 590 KB):

    for tile:                   V ← x, W ← dy                     shared out by tiles
    for (panel, 16 channels):   for ξ: S[ξ] += Vᵀ[ξ] W[ξ]         shared out among the threads
                                after the last chunk: dw ← S

V is [ξ][vector of channels][tile][lane], so that the 16 channels of a task are one stream of cache lines, of which the
register tile broadcasts two times 8 numbers. Where one chunk is enough, S of a task (36·16·32 numbers, 74 KB) never
leaves its thread's L2; else it is kept between the chunks. The tiles of a chunk are an odd number in memory: the
36·C/16 lines that one patch is written to would else fall into the same few sets of the cache.
"""

from __future__ import annotations

from llvmlite import ir

from . import target as targets
from .blocks import tiles
from .cook_toom import short_convolution
from .describe import Description, Held, Inner, Loop, Tile, largest_tile, many
from .direct import panels_of
from .direct_weight_gradient import COLLECT, add_collect
from .gemm import product_tile
from .geometry import Sliding
from .ir import I64, Arguments, Function, Int, kernel, share
from .pack import copy_function
from .prepared import Layout, Prepared, Program, code, step, worth, zeros_for
from .target import DTYPE_BYTES, Target
from .winograd import (
    CYCLES_A_STAGE,
    L3_BYTES_A_CYCLE,
    TABLE,
    TILE_ARGUMENTS,
    Dense,
    Shape,
    Tiled,
    cycles_of_transform,
    locate_input,
    locate_output,
    reorder,
    transform_images,
)
from .winograd_transforms import NO_RESIDUAL, gather_function, locate_function, spread_function

ACCUMULATE = Arguments(
    TILE_ARGUMENTS + "v w sums sums_step parts chunks chunk_pitch"
    # chunk_pitch: rows of V and W; sums_step: from one task's sums to the next one's, 0 where they are the thread's own
)

KERNELS = ("reorder", "transform_both", "accumulate", "collect")

_MOST_TILES = 128


def prepare(name: str, s: Sliding, shape: Shape, dtype: str, threads: int) -> Prepared:
    """w's gradient, into `w`, from x and y's gradient, in `y`; `s` is the forward pass."""
    size, target = DTYPE_BYTES[dtype], targets.current()
    lanes = target.lanes(dtype)
    panel = lanes * target.tile_vectors
    threads = worth(threads, s.macs)
    tiled = Tiled(s, shape)
    kernels = code(build, KERNELS, dtype, target, shape)
    layout = Layout()
    x, dy = Dense.input(s, layout, size), Dense.output(s, layout, size)
    panels, vectors = -(-s.outputs // panel), -(-s.channels // lanes)
    chunks = -(-tiled.count // _MOST_TILES)
    pitch = -(-tiled.count // chunks) | 1

    parts = layout.take(s.groups * panels * panel * s.taps * size)
    v = layout.take(shape.products * vectors * lanes * pitch * size)
    w = layout.take(shape.products * panels * panel * pitch * size)
    task_sums = shape.products * lanes * panel
    scratch = Layout()
    scratch.take((2 * TABLE) * 8)
    own_sums = scratch.take(task_sums * size)
    threads_scratch = layout.take(scratch.size * threads)
    sums = layout.take(panels * vectors * task_sums * size) if chunks > 1 else threads_scratch + own_sums
    numbers = tiled.arguments(panel) | x.arguments("x") | dy.arguments("y") | {
        "sums_step": task_sums if chunks > 1 else 0, "chunks": chunks, "chunk_pitch": pitch,
        "scratch_bytes": scratch.size,
    }  # fmt: skip
    at = {
        "x": x.address("x", size),
        "y": dy.address("y", size),
        "zeros": ("zeros", 0),
        "v": ("work", v),
        "w": ("work", w),
        "sums": ("work", sums),
        "parts": ("work", parts),
        "scratch": ("work", threads_scratch),
    }
    before = (*x.copies(kernels["reorder"], "x", size), *dy.copies(kernels["reorder"], "y", size))
    stages = [step(kernels[stage], ACCUMULATE, numbers, at) for stage in ("transform_both", "accumulate")]
    collect = step(
        kernels["collect"],
        COLLECT,
        panels_of(s, panel) | {"splits": 1},
        {"parts": ("work", parts), "w": ("w", s.w_start * size)},
    )
    program = Program((*before, *stages, collect), len(before), len(before) + len(stages), s.groups * chunks)
    zeros = zeros_for(max(s.all_channels, s.all_outputs))
    return Prepared(name, threads, program, layout.size, zeros=zeros)


def describe(s: Sliding, shape: Shape, dtype: str, threads: int) -> Description:
    """The loops of the weight gradient; `s` is the forward pass."""
    target, size = targets.current(), DTYPE_BYTES[dtype]
    lanes, panel = target.lanes(dtype), target.lanes(dtype) * target.tile_vectors
    threads = worth(threads, s.macs)
    tiled = Tiled(s, shape)
    panels, parts = -(-s.outputs // panel), -(-s.channels // lanes)
    chunks = -(-tiled.count // _MOST_TILES)
    chunk, channels = -(-tiled.count // chunks), min(s.channels, lanes)
    rows = largest_tile(channels, target.tile_rows)
    vectors = 1 if s.outputs <= panel // 2 else target.tile_vectors
    m, n, r = shape.outputs, shape.points, shape.taps
    shared = f"shared out among {many(threads, 'thread')}"
    loops = (
        Loop(
            s.groups * chunks,
            "chunk",
            f"of at most {many(chunk, 'tile')} of {m}×{m} output pixels",
            f"V, W: transform the {n}×{n} input pixels and the {m}×{m} of dy that belong to each tile, {shared}",
        ),
        Loop(panels * parts, "task", f"of {panel} output × {channels} input channels, {shared}"),
        Loop(shape.products, "matrix product", "S[ξ] += Vᵀ[ξ]·W[ξ]"),
        Loop(-(-channels // rows), "register tile", f"of at most {rows} input channels"),
        Loop(chunk, "tile", "added to every sum of the register tile"),
    )
    held = (
        Held("V of a chunk", shape.products * parts * lanes * chunk * size),
        Held("W of a panel", shape.products * vectors * target.vector_bytes * chunk, "L2"),
        Held("S of a task", shape.products * channels * vectors * target.vector_bytes, "L2"),
    )
    return Description(
        loops,
        Tile.of(target, dtype, (rows, "input channels"), (vectors, "output channels"), False),
        held,
        Inner(build, f"product_{rows}x{vectors}", (shape,)),
        after=f"dw: transform S back into the {r}×{r} weights, after the last chunk",
    )


def cycles(s: Sliding, shape: Shape, dtype: str, threads: int) -> float:
    """What it takes, by the model of `winograd.cycles`: products, transforms, and the traffic of V, W and S."""
    target, size = targets.current(), DTYPE_BYTES[dtype]
    lanes = target.lanes(dtype)
    tiled = Tiled(s, shape)
    inputs, outputs = -(-s.channels // lanes), -(-s.outputs // lanes)
    tasks = inputs * -(-s.outputs // (lanes * target.tile_vectors))
    busy = min(threads, tasks)
    rows = min(s.channels, lanes)
    product = tiled.count * shape.products * inputs * outputs * max(rows, 4 * -(-rows // target.tile_rows)) / 2 / 0.9
    transform = tiled.count * (inputs + outputs) * cycles_of_transform(shape)
    bytes_ = 2 * tiled.count * shape.products * (inputs + outputs) * lanes * size
    chunks = -(-tiled.count // _MOST_TILES)
    sums = 2 * (chunks - 1) * shape.products * s.channels * outputs * lanes * size
    collected = inputs * outputs * lanes * (cycles_of_transform(shape) / 2 + shape.taps**2 * size * lanes / 10)
    shared = (transform + (bytes_ + sums) / L3_BYTES_A_CYCLE + collected) / threads
    return s.groups * (product / busy + shared) + CYCLES_A_STAGE * 2 * s.groups * chunks


def build(module: ir.Module, dtype: str, target: Target, shape: Shape) -> None:
    """Adds the `KERNELS` to the module."""
    lanes = target.lanes(dtype)
    panel = lanes * target.tile_vectors
    forward, backward = short_convolution(shape.outputs, shape.taps), short_convolution(shape.taps, shape.outputs)
    copy = copy_function(module, dtype, lanes)
    locate_patch, locate_tile, locate_taps = (
        locate_function(module, dtype, pixels) for pixels in (shape.points, shape.outputs, shape.taps)
    )
    spread_patch = spread_function(module, dtype, lanes, forward.into)
    spread_tile = spread_function(module, dtype, lanes, backward.kernel)
    gather = gather_function(module, dtype, lanes, backward.out)
    sizes = range(1, min(lanes, target.tile_rows) + 1)
    wide = {r: product_tile(module, dtype, target, r, target.tile_vectors) for r in sizes}
    narrow = {r: product_tile(module, dtype, target, r, 1) for r in sizes}
    reorder(module, dtype, copy)
    add_collect(module, dtype, copy, lanes, panel)

    # V and W of a chunk of tiles.
    f, array, thread, threads = kernel(module, "transform_both", dtype)
    a = ACCUMULATE.read(array)
    table = f.address(a["scratch"] + thread * a["scratch_bytes"], I64)
    group, chunk = a["round"] // a["chunks"], a["round"] % a["chunks"]
    first, after = share(a["images"] * a["tiles_h"] * a["tiles_w"], chunk, a["chunks"])
    mine, end = share(after - first, thread, threads)
    pitch, vectors = a["chunk_pitch"], (a["channels"] + (lanes - 1)) // lanes
    transform_images(
        f, a, locate_input(f, a, locate_patch, shape.outputs, group), spread_patch, first + mine, end - mine,
        a["channels"], f.address(a["v"]).at(mine * lanes), f.const(lanes), vectors * pitch * lanes, pitch * lanes,
        table,
    )  # fmt: skip
    with f.loop(a["panels"]) as each:
        outputs, width = _width(f, a, each.index, panel)
        zeros = f.address(a["zeros"])
        locate = locate_output(f, a, locate_tile, shape.outputs, group * a["outputs"] + each.index * panel, zeros)
        to = f.address(a["w"]).at(each.index * shape.products * pitch * panel + mine * width)
        transform_images(
            f, a, locate, spread_tile, first + mine, end - mine, outputs, to, width, pitch * width, lanes, table
        )
    f.done()

    # S, and from it dw.
    f, array, thread, threads = kernel(module, "accumulate", dtype)
    a = ACCUMULATE.read(array)
    table = f.address(a["scratch"] + thread * a["scratch_bytes"], I64)
    group, chunk = a["round"] // a["chunks"], a["round"] % a["chunks"]
    first, after = share(a["images"] * a["tiles_h"] * a["tiles_w"], chunk, a["chunks"])
    count, pitch, vectors = after - first, a["chunk_pitch"], (a["channels"] + (lanes - 1)) // lanes
    mine, end = share(a["panels"] * vectors, thread, threads)
    own = f.choose(a["sums_step"].compare("==", 0), thread * a["scratch_bytes"], 0)
    with f.loop(end, start=mine) as task:
        p, vector = task.index // vectors, task.index % vectors
        outputs, width = _width(f, a, p, panel)
        channels = (a["channels"] - vector * lanes).at_most(lanes)
        sums = f.address(a["sums"] + own).at(task.index * a["sums_step"])
        with f.loop(shape.products) as xi, tiles(f, channels, target.tile_rows) as rows:
            arguments = (
                f.address(a["v"]).at((xi.index * vectors + vector) * pitch * lanes + rows.first), f.const(1),
                f.const(lanes), f.address(a["w"]).at((p * panel * shape.products + xi.index * width) * pitch), count,
                sums.at((xi.index * lanes + rows.first) * width), chunk,
            )  # fmt: skip
            with f.if_else(width.compare("==", panel)) as (two, one):
                with two:
                    f.dispatch(rows.size, wide, *arguments)
                with one:
                    f.dispatch(rows.size, narrow, *arguments)
        with f.if_(chunk.compare("==", a["chunks"] - 1)), f.loop(channels) as row:
            dw = f.address(a["parts"]).at((group * a["panels"] + p) * panel * shape.taps**2 * a["channels"])
            here = dw.at((vector * lanes + row.index) * width)
            tap, taps = a["channels"] * width, f.const(shape.taps)
            f.call(locate_taps, table, here, tap * shape.taps, tap, 0, taps, 0, taps, here, 1, 1)
            zeros = f.address(a["zeros"])
            f.call(gather, table, width, sums.at(row.index * width), width * lanes, zeros, table, NO_RESIDUAL, 0)
    f.done()


def _width(f: Function, a: dict[str, Int], index: Int, panel: int) -> tuple[Int, Int]:
    """A panel's output channels: how many, and how many with the lanes that are filled up."""
    outputs = (a["outputs"] - index * panel).at_most(panel)
    return outputs, f.choose(outputs.compare(">", panel // 2), panel, panel // 2)
