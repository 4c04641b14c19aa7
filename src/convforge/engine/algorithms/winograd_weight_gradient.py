"""The gradient of the weights by Winograd's convolution, over the same tiles as the forward pass.

What it computes. The gradient of an r×r kernel is a sliding sum too: r×r outputs, of a patch of x with the m×m tile of
dy in the place of the kernel. That is F(r×r, m×m), which has n = m + r − 1 points like F(m×m, r×r):

    dw = A'ᵀ [ Σ_tiles (G' dy G'ᵀ) ⊙ (Bᵀ x B) ] A'

B depends on the points alone, so the patches of x become what they become in the forward pass. For each of the n²
places ξ there is one matrix product, whose sum runs over tiles:

    S[ξ][c, k] = Σ_t V[ξ][t, c] · W[ξ][t, k]

When it applies: as the forward pass (`winograd.py`). F(3×3, 4×4) needs 4 times fewer products, and its rounding errors
are those of a direct float32 sum (1.3e-6 at 256 channels): the sums over tiles are 16 times shorter.

The loops. A unit of the work is a split of the tiles × a part of the panels of output channels × a part of the vectors
of input channels. One thread takes it from x and dy to dw, in memory that no other thread reads or writes:

    for unit (split, group, part of the panels, part of the vectors):         shared out among the threads
        for chunk of the split's tiles:
            V ← x, the unit's input channels
            for panel of the unit:
                W ← dy, the panel's output channels
                for vector of the unit's input channels:
                    for ξ: S[ξ] += Vᵀ[ξ] W[ξ]
                    after the last chunk: dw ← S
    where there are several splits, each has a dw of its own, and these are added up (`collect`)

Why nothing is shared: where two cores do not share an L3, each line of V and W that one writes and the other reads
takes the way between two caches, and a pass over small images then takes up to 1.7 times as long; where they do, there
is still a barrier after each chunk. The price is that parts repeat transforms: x's for each part of the panels and dy's
for each part of the vectors; splits repeat nothing, but each has all of S, which must come from and go to dw. Small
gradients of large images have splits (64 → 64 channels: S has 590 KB), large ones of small images parts. `divided`
counts both.

What lies where. W of a panel and a chunk takes half of L2: each task (a panel and a vector) reads all of it. The other
half takes what streams past: V of a vector, and S of a task (36·16·32 numbers, 74 KB), which where one chunk is enough
is made and used up there. Else it is kept between the chunks; its place is known before its sums are, so where all the
unit's S is larger than L2, the next ξ's lines are asked for while one is multiplied (256 channels, 56×56, 16 images:
42 → 39 ms). V is [vector][ξ][tile][lane], so that the 16 channels of a task are one stream of cache lines, of which the
register tile broadcasts two times 8 numbers. The tiles of a chunk are an odd number in memory: the 36 lines that one
vector of a patch is written to would else fall into the same few sets of the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from ...native.ir import I64, Arguments, Int, Pointer, indices, kernel, share, tasks
from ...native.program import Layout, Program, code, step
from ...native.runtime import KEPT_BYTES
from ...native.target import Target
from ...spec import ceil_div
from ..kernels.blocks import runs_of_tiles, thread_scratch
from ..kernels.cook_toom import short_convolution
from ..kernels.pack import copy_function, reorder
from ..kernels.pack_weights import COLLECT, Panel, collect_kernel
from ..kernels.tile import product_tiles
from ..kernels.transforms import NO_RESIDUAL, gather_function, locate_function, spread_function
from ..kernels.winograd_tiles import TABLE, TILE_ARGUMENTS, Shape, Tiled, locate_input, locate_output, transform_images
from ..nest import Held, Inner, Level, Nest, RegisterTile, largest_tile, many, shared_out
from ..plan import Job, Plan, Refusal
from ..prepared import Prepared, zeros_for
from .relayout import Dense
from .winograd import OF_MEMORY, cycles_of_transform, in_tiles

ACCUMULATE = Arguments(
    TILE_ARGUMENTS
    + "w_g w_k w_c w_i w_j splits k_parts c_parts chunks parts w part_at v_at w_at sums_at sums_step ahead"
    # y: its gradient; parts: dw of every split; part_at, v_at, w_at, sums_at: where in a thread's scratch are dw of one
    # task on its way, V, W and S; sums_step: from one task's to the next one's, 0 where they are not kept; ahead:
    # whether they are asked for
)

KERNELS = ("reorder", "accumulate", "collect")


def plan(job: Job, shape: Shape) -> Plan | Refusal:
    """Where the forward pass is one of `winograd.py`."""
    tiled = in_tiles(job, shape)
    if isinstance(tiled, Refusal):
        return tiled
    division = divided(job, tiled)
    return WinogradWeightGradient(job, cycles(job, tiled, division), tiled, division)


@dataclass(frozen=True, slots=True)
class Division:
    """The work of each group cut into splits × k_parts × c_parts units, and what the largest of them has."""

    splits: int
    k_parts: int
    c_parts: int
    chunks: int
    chunk: int
    """Tiles of one."""
    panels: int
    vectors: int
    """Of input channels."""
    v_bytes: int
    w_bytes: int
    task_bytes: int
    """S of one panel and vector."""
    sums_bytes: int
    """All of S that is kept."""
    dw_bytes: int
    """The sums of all splits; nothing where there is but one, which goes straight to where dw belongs."""

    @classmethod
    def of(cls, job: Job, tiled: Tiled, splits: int = 1, k_parts: int = 1, c_parts: int = 1) -> Division:
        s, products, lanes, panel, target = tiled.sliding, tiled.shape.products, job.lanes, job.panel, job.target
        all_panels, all_vectors = ceil_div(s.outputs, panel), ceil_div(s.channels, lanes)
        panels, vectors = ceil_div(all_panels, k_parts), ceil_div(all_vectors, c_parts)
        # W of a panel takes half of L2: 116 tiles of 36·32 numbers where that is 1 MB.
        a_tile = products * panel * job.size
        count = ceil_div(tiled.count, splits)
        chunks = ceil_div(count, max(1, target.l2_bytes // 2 // a_tile))
        chunk = ceil_div(count, chunks)
        task = a_tile * lanes
        return cls(
            splits, k_parts, c_parts, chunks, chunk, panels, vectors,
            v_bytes=products * vectors * target.vector_bytes * (chunk | 1),
            w_bytes=a_tile * (chunk | 1),
            task_bytes=task,
            sums_bytes=task * (panels * vectors if chunks > 1 else 1),
            dw_bytes=splits * s.groups * all_panels * panel * s.taps * job.size if splits > 1 else 0,
        )  # fmt: skip

    def memory(self, threads: int) -> int:
        return threads * (self.v_bytes + self.w_bytes + self.sums_bytes) + self.dw_bytes


def divided(job: Job, tiled: Tiled) -> Division:
    """The division that takes the fewest cycles, of those whose memory is kept between calls, if there are any.

    As many units as threads at most; more, which a thread does one after the other in the same memory, only where that
    many need too much of it (1024 → 1024 channels: S has 151 MB).
    """
    s, threads = tiled.sliding, job.threads
    panels, vectors = ceil_div(s.outputs, job.panel), ceil_div(s.channels, job.lanes)

    def rank(d: Division) -> tuple[bool, float]:
        return d.memory(threads) > KEPT_BYTES, cycles(job, tiled, d)

    for most in (threads, 4 * threads, 16 * threads):
        best = min(
            (
                Division.of(job, tiled, splits, k_parts, c_parts)
                for splits in range(1, min(most, tiled.count) + 1)
                for k_parts in range(1, min(most // splits, panels) + 1)
                for c_parts in range(1, min(most // splits // k_parts, vectors) + 1)
            ),
            key=rank,
        )
        if best.memory(threads) <= KEPT_BYTES:
            break
    return best


# Measured on one core of Zen 5, as those of `winograd.py`, in 250 divisions of 38 layers.
_CYCLES_A_TILE = 6.0
"""Calling a register tile, and its sums on their way to S."""
_CYCLES_A_TABLE = 80.0
"""Finding a tile's pixels."""
_CYCLES_OF_X, _CYCLES_OF_DY = 2.7, 1.4
"""Transforming a vector, for each of the n² results; of dy there are fewer pixels than half."""
# Of what a core reads from L3 while it does nothing else:
_PIXELS_OF_L3 = 18 / 20
"""x and dy, on their way to a core that has asked for them before."""
_V_OF_L3 = 50 / 20
"""V, of which the multiplications hide the most."""
_SUMS_OF_L3 = 25 / 20
"""S that is kept, read and written."""
_DW_OF_L3 = 10 / 20
"""dw, written or added up."""


def cycles(job: Job, tiled: Tiled, d: Division) -> float:
    """What the thread with the most units takes: products, transforms, and what pixels, V and S cost on their way."""
    s, shape, lanes, target, threads = tiled.sliding, tiled.shape, job.lanes, job.target, job.threads
    costs, outputs = target.costs, min(d.panels * target.tile_vectors, ceil_div(s.outputs, lanes))
    count = d.chunks * d.chunk
    # A register tile of fewer than four rows waits for the multiply-add's latency.
    rows = min(s.channels, lanes)
    row_tiles = ceil_div(rows, target.tile_rows)
    product = count * shape.products * d.vectors * outputs * max(rows, 4 * row_tiles) / 2
    product += d.chunks * shape.products * d.vectors * d.panels * row_tiles * _CYCLES_A_TILE
    vectors = d.vectors * _CYCLES_OF_X + outputs * _CYCLES_OF_DY
    transforms = count * (vectors * shape.products + (1 + d.panels) * _CYCLES_A_TABLE)
    pixels = count * shape.outputs**2 * (d.vectors + outputs) * target.vector_bytes
    v, sums = d.chunks * d.panels * d.v_bytes, 2 * (d.chunks - 1) * d.sums_bytes
    far = max(0.0, 1 - target.l3_bytes / 2 / (d.v_bytes * threads))
    ways = (pixels / _PIXELS_OF_L3 + sums / _SUMS_OF_L3) / costs.l3 + far * v / (costs.memory * OF_MEMORY)
    if d.v_bytes + d.w_bytes > target.l2_bytes:
        ways += v / (costs.l3 * _V_OF_L3)
    dw = shape.taps**2 * target.vector_bytes / (costs.l3 * _DW_OF_L3)  # of a channel and a vector
    back = d.vectors * lanes * outputs * (cycles_of_transform(shape) / 2 + dw)
    units = ceil_div(s.groups * d.splits * d.k_parts * d.c_parts, threads)
    total = units * (product + transforms + ways + back) + costs.fork
    if d.splits > 1:
        parts = (d.splits + 1) * s.groups * s.channels * ceil_div(s.outputs, lanes)
        total += parts * dw / threads + costs.fork
    return total


@dataclass(frozen=True)
class WinogradWeightGradient(Plan):
    """w's gradient, into `w`, from x and y's gradient, in `y`."""

    tiled: Tiled
    division: Division

    def prepared(self, name: str) -> Prepared:
        job, tiled, d = self.job, self.tiled, self.division
        s, shape, size, lanes, panel, target = tiled.sliding, tiled.shape, job.size, job.lanes, job.panel, job.target
        kernels = code(build, KERNELS, job.dtype, target, shape)
        layout = Layout()
        x, dy = Dense.input(s, layout, size), Dense.output(s, layout, size)
        parts = layout.take(d.dw_bytes)
        scratch = Layout()
        scratch.take(2 * TABLE * 8)
        numbers = tiled.arguments(panel) | x.arguments("x") | dy.arguments("y") | {
            "splits": d.splits, "k_parts": d.k_parts, "c_parts": d.c_parts, "chunks": d.chunks,
            "part_at": scratch.take(shape.taps**2 * lanes * panel * size),
            "w_at": scratch.take(d.w_bytes), "sums_at": scratch.take(d.sums_bytes), "v_at": scratch.take(d.v_bytes),
            "sums_step": d.task_bytes // size if d.chunks > 1 else 0,
            "ahead": int(d.sums_bytes > target.l2_bytes),
            "scratch_bytes": scratch.size,
        }  # fmt: skip
        at = job.places(s) | {
            "x": x.address("x", size),
            "y": dy.address("y", size),
            "parts": ("work", parts),
            "scratch": ("work", layout.take(scratch.size * job.threads)),
        }
        steps = [
            *x.copies(kernels["reorder"], job.threads, "x", size),
            *dy.copies(kernels["reorder"], job.threads, "y", size),
        ]
        steps.append(step(kernels["accumulate"], job.threads, ACCUMULATE, numbers, at))
        if d.splits > 1:
            steps.append(step(kernels["collect"], job.threads, COLLECT, numbers, at))
        zeros = zeros_for(max(s.all_channels, s.all_outputs))
        return Prepared(name, job.threads, Program(tuple(steps), layout.size), zeros=zeros)

    @property
    def nest(self) -> Nest:
        job, target, d = self.job, self.job.target, self.division
        s, shape, lanes, panel = self.tiled.sliding, self.tiled.shape, job.lanes, job.panel
        channels = min(s.channels, lanes)
        rows = largest_tile(channels, target.tile_rows)
        vectors = job.tile_vectors(s.outputs)
        m, n, r = shape.outputs, shape.points, shape.taps
        units = [
            Level(s.groups, "group"),
            Level(d.splits, "split", "of the tiles"),
            Level(d.k_parts, "part", "of the output channels"),
            Level(d.c_parts, "part", "of the input channels"),
        ]
        levels = (
            shared_out("unit", job.threads, units),
            Level(
                d.chunks,
                "chunk",
                f"of at most {many(d.chunk, 'tile')} of {m}×{m} output pixels",
                f"V: transform the {n}×{n} input pixels that each tile sees",
            ),
            Level(
                d.panels, "panel", f"of {panel} output channels", f"W: transform the {m}×{m} pixels of dy of each tile"
            ),
            Level(d.vectors, "vector", f"of {channels} input channels"),
            Level(shape.products, "matrix product", "S[ξ] += Vᵀ[ξ]·W[ξ]"),
            Level(ceil_div(channels, rows), "register tile", f"of at most {rows} input channels"),
            Level(d.chunk, "tile", "added to every sum of the register tile"),
        )
        held = (
            Held("V of a chunk", d.v_bytes),
            Held("W of a panel", d.w_bytes * vectors // target.tile_vectors, "L2"),
            Held("S of a task", d.task_bytes * vectors // target.tile_vectors, "L2"),
            *((Held("S of a unit", d.sums_bytes),) if d.chunks > 1 else ()),
        )
        after = f"dw: transform S back into the {r}×{r} weights, after the last chunk"
        return Nest(
            levels,
            RegisterTile(rows, "input channels", vectors, "output channels", lanes, target.registers),
            held,
            Inner(build, f"product_{rows}x{vectors}", (shape,)),
            after=f"{after}; add up the splits" if d.splits > 1 else after,
        )


# ---------------------------------------------------------------------------------------------------------------------
# Kernels
# ---------------------------------------------------------------------------------------------------------------------


def build(module: ir.Module, dtype: str, target: Target, shape: Shape) -> None:
    """Adds the `KERNELS` to the module."""
    lanes, panel = target.lanes(dtype), target.panel(dtype)
    forward, backward = short_convolution(shape.outputs, shape.taps), short_convolution(shape.taps, shape.outputs)
    copy = copy_function(module, dtype, lanes)
    locate_patch, locate_tile, locate_taps = (
        locate_function(module, dtype, pixels) for pixels in (shape.points, shape.outputs, shape.taps)
    )
    spread_patch = spread_function(module, dtype, lanes, forward.into)
    spread_tile = spread_function(module, dtype, lanes, backward.kernel)
    gather = gather_function(module, dtype, lanes, backward.out)
    products = product_tiles(module, dtype, target, min(lanes, target.tile_rows), transposed=True)
    reorder(module, dtype, copy)
    collect_kernel(module, dtype, copy, lanes, panel)

    f, a = kernel(module, "accumulate", dtype, ACCUMULATE)
    scratch = thread_scratch(f, a)
    table, zeros = f.address(scratch, I64), f.address(a["zeros"])
    v, w, all_sums, own_part = (f.address(scratch + a[name]) for name in ("v_at", "w_at", "sums_at", "part_at"))

    def multiply(
        v: Pointer, w: Pointer, width: Int, count: Int, pitch: Int, rows: Int, sums: Pointer, add: Int
    ) -> None:
        """S[ξ] += Vᵀ[ξ] W[ξ], for all ξ of a task; where there is nothing to `add` to, S begins with them."""
        with f.loop(shape.products) as xi:
            here = sums.at(xi.index * lanes * width)
            with f.if_(a["ahead"].compare("!=", 0)), f.loop(width * lanes, step=lanes) as line:
                f.prefetch(here.at(width * lanes + line.index), write=True)
            with runs_of_tiles(f, rows, products.most_rows) as (first, size, many):
                products.call(
                    f, size, width, many=many, x=v.at(xi.index * pitch * lanes + first), step=lanes,
                    w=w.at(xi.index * pitch * width), count=count, y=here.at(first * width), add=add,
                )  # fmt: skip

    def back(sums: Pointer, split: Int, group: Int, index: Int, channel: Int, rows: Int) -> None:
        """dw of a task ← S, as [tap][channel][lane]: into the split's own, or by way of scratch to where dw belongs."""
        p = Panel.of(a, index, panel, lanes)
        straight = a["splits"].compare("==", 1)
        before = ((split * a["groups"] + group) * a["panels"] + index) * panel * shape.taps**2 * a["channels"]
        to = f.pick(straight, own_part, f.address(a["parts"]).at(before + channel * p.width))
        tap = f.choose(straight, lanes, a["channels"]) * p.width
        with f.loop(rows) as row:
            here = to.at(row.index * p.width)
            f.call(
                locate_taps, table=table, x=here, x_h=tap * shape.taps, x_w=tap, top=0, height=shape.taps, left=0,
                width=shape.taps, outside=here, gap_h=1, gap_w=1,
            )  # fmt: skip
            f.call(
                gather, table=table, channels=p.width, values=sums.at(row.index * p.width), step=p.width * lanes,
                base=zeros, following=table, residual=NO_RESIDUAL, outside=0,
            )  # fmt: skip
        with f.if_(straight), f.loop(shape.taps) as i, f.loop(shape.taps) as j:
            dw = p.weights(f, a, group, channel).at(i.index * a["w_i"] + j.index * a["w_j"])
            source = to.at((i.index * shape.taps + j.index) * tap)
            f.call(
                copy, to=dw, to_i=a["w_k"], to_j=a["w_c"], source=source, source_i=1, source_j=p.width,
                width=p.outputs, length=rows,
            )  # fmt: skip

    with tasks(f, a["splits"] * a["groups"] * a["k_parts"] * a["c_parts"]) as unit:
        split, group, k_part, c_part = indices(unit.index, a["groups"], a["k_parts"], a["c_parts"])
        first_tile, end_tile = share(a["images"] * a["tiles_h"] * a["tiles_w"], split, a["splits"])
        first_panel, end_panel = share(a["panels"], k_part, a["k_parts"])
        first_vector, end_vector = share((a["channels"] + (lanes - 1)) // lanes, c_part, a["c_parts"])
        first_channel, vectors = first_vector * lanes, end_vector - first_vector
        channels = (a["channels"] - first_channel).at_most(vectors * lanes)
        own = a | {"x": f.address(a["x"]).at(first_channel).number()}
        patch = locate_input(f, own, locate_patch, shape.outputs, group)
        with f.loop(a["chunks"]) as chunk:
            first, after = share(end_tile - first_tile, chunk.index, a["chunks"])
            first, count = first_tile + first, after - first
            pitch = count // 2 * 2 + 1
            transform_images(
                f, patch, spread_patch, first, count, channels, v, f.const(lanes), pitch * lanes,
                pitch * (shape.products * lanes), table,
            )  # fmt: skip
            with f.loop(end_panel, start=first_panel) as index:
                p = Panel.of(a, index.index, panel, lanes)
                pixels = locate_output(f, a, locate_tile, shape.outputs, group * a["outputs"] + p.first, zeros)
                transform_images(
                    f, pixels, spread_tile, first, count, p.outputs, w, p.width, pitch * p.width, lanes, table
                )
                with f.loop(vectors) as vector:
                    rows = (channels - vector.index * lanes).at_most(lanes)
                    sums = all_sums.at(((index.index - first_panel) * vectors + vector.index) * a["sums_step"])
                    v_of_task = v.at(vector.index * shape.products * pitch * lanes)
                    multiply(v_of_task, w, p.width, count, pitch, rows, sums, chunk.index)
                    with f.if_(chunk.index.compare("==", a["chunks"] - 1)):
                        back(sums, split, group, index.index, first_channel + vector.index * lanes, rows)
    f.done()
