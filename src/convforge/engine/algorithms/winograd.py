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
the layers with small images took twice as long there. `divided` weighs one against the other.

- many tiles, few weights: splits. Each weight that is loaded meets T tiles of a chunk, so U takes 128/T bytes a cycle:
  9 for 14 tiles, 3 for 42; U comes from L3 once a chunk.
- many channels, small images: shares. U (37 MB at 512×512) is streamed once, each panel of it to one core.

The weights, as panels (`pack_weights.py`), are transformed to U: [group][panel][ξ][c][lane]. In inference that is done
once and kept; or the panels are, where it takes less time to make U of them again than to wait for all of it: see
`Weights`. In training each thread transforms its own panels, for itself, when it comes to them. If all its tiles
are one chunk, that is U of one panel in the place of the one before, and U never goes to memory at all.

Tiles are numbered through all images, so the register tile's 14 rows are full even for images of four tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from llvmlite import ir

from ...native.ir import I64, Arguments, Function, Int, Pointer, indices, kernel, share, tasks
from ...native.program import LINE, Layout, Program, code, step
from ...native.target import Target
from ...spec import ceil_div, round_up
from ..geometry import scratch_pitch
from ..kernels.blocks import runs_of_tiles, thread_scratch
from ..kernels.cook_toom import short_convolution
from ..kernels.pack import copy_function, reorder
from ..kernels.pack_weights import Panel, pack_function
from ..kernels.tile import asked_ahead, filled, lines_a_round, product_tiles
from ..kernels.transforms import NO_RESIDUAL, gather_function, locate_function, spread_function
from ..kernels.winograd_tiles import (
    TABLE_BYTES,
    TILE_ARGUMENTS,
    Shape,
    Tiled,
    each_tile,
    locate_input,
    locate_output,
    transform_images,
)
from ..nest import Held, Inner, Level, Nest, RegisterTile, largest_tile, many
from ..plan import PRODUCTS_A_SUM, Job, Plan, Refusal
from ..prepared import Prepared, zeros_for
from . import relayout
from .relayout import Dense

TRANSFORM_WEIGHTS = Arguments(
    "w w_g w_k w_c w_i w_j groups panels outputs channels weights scratch scratch_bytes past_caches"
)

SLIDING = Arguments(
    TILE_ARGUMENTS
    + "weights bias bias_step residual pitch v m u u_step u_channels piece part each_packs splits shares chunks "
    "w w_g w_k w_c w_i w_j past_caches ask taps"
    # pitch: numbers a row of V; v, m, u, part: where they are in each thread's scratch; each_packs: whether U is
    # made there, from w or, where these are `taps`, from the weights; u_step: numbers from a panel's U to the next;
    # u_channels: input channels that U has room for; piece: those whose products are summed at once; chunks: of a
    # split; ask: whether U or the taps come from beyond L2
)

KERNELS = ("transform_weights", "pack_taps", "reorder", "blocks")

_CHANNELS_A_PART = 32
_PIECE = 64
"""Input channels whose U is made just before it is used: 36·64·32 numbers, 295 KB, that never leave L2. The products
pay for it with a sum to load and to store after 64 multiply-adds, a twentieth of their time."""


def plan(job: Job, shape: Shape) -> Plan | Refusal:
    """The forward pass or the input gradient by F(m×m, r×r), where the kernel is r×r and moves by one."""
    tiled = in_tiles(job, shape)
    if isinstance(tiled, Refusal):
        return tiled
    weights = [Weights.KEPT_U, Weights.KEPT_TAPS] if job.kept else [Weights.AS_THEY_ARE]
    ways = [
        (each, divided(job, tiled, each)) for each in weights if each is not Weights.KEPT_TAPS or in_pieces(job, tiled)
    ]
    prices = [cycles(job, tiled, division, each, job.cold) for each, division in ways]
    price, (each, division) = min(zip(prices, ways, strict=True), key=lambda way: way[0])
    return Winograd(job, price + relayout.cycles(job, tiled.sliding), tiled, division, each is Weights.KEPT_TAPS)


def in_tiles(job: Job, shape: Shape) -> Tiled | Refusal:
    """The pass in tiles, for all three passes."""
    if job.problem.groups > 1 and job.problem.w_shape[1] == 1:
        return Refusal("saves products that are summed over channels, and here a group has but one")
    strided = Refusal("is for stride 1")
    if len(job.slidings) > 1:
        wide = Refusal("is for kernels that do not span far more than the image")
        return strided if max(job.problem.stride) > 1 else wide
    (s,) = job.slidings
    if any(axis.stride > 1 for axis in (s.vertical, s.horizontal)):
        return strided
    if any(axis.kernel != shape.taps for axis in (s.vertical, s.horizontal)):
        return Refusal(f"is for kernels of {shape.taps}×{shape.taps}")
    return Tiled(s, shape)


class Weights(Enum):
    """What a call is given of the weights."""

    AS_THEY_ARE = "as they are"
    KEPT_U = "transformed"
    KEPT_TAPS = "as taps, in panels"
    """Each piece of which becomes U in L2, just before it is multiplied. For 3×3 kernels U is 1.8 or 4 times as large;
    where few tiles meet it and it comes from memory, that takes longer than to make it."""


@dataclass(frozen=True, slots=True)
class Division:
    """Who does what: `splits` of the tiles times `shares` of the panels of a group; each split in `chunks` of at most
    `chunk` tiles."""

    splits: int
    shares: int
    chunk: int
    chunks: int


@dataclass(frozen=True)
class Winograd(Plan):
    """The forward pass or the input gradient: V, U and M, and who makes them."""

    tiled: Tiled
    division: Division
    taps: bool
    """Whether packed weights are taps."""

    def prepared(self, name: str) -> Prepared:
        job, tiled, size, lanes, panel = self.job, self.tiled, self.job.size, self.job.lanes, self.job.panel
        s, shape = tiled.sliding, tiled.shape
        source, _, result = job.which.roles
        kernels = code(build, KERNELS, job.dtype, job.target, shape, job.finish.activation)
        layout = Layout()
        x, y = Dense.input(s, layout, size), Dense.output(s, layout, size)
        panels = ceil_div(s.outputs, panel)

        panel_numbers = shape.products * product_pitch(s.channels, panel, lanes)
        u_bytes = s.groups * panels * panel_numbers * size
        packed_bytes = s.groups * panels * _panel_of_taps(s.channels, shape, panel) * size if self.taps else u_bytes
        part_bytes = _part_bytes(shape, panel, size)
        pitch = scratch_pitch(round_up(s.channels, lanes), 1, size)
        numbers = job.numbers(s) | tiled.arguments(panel) | x.arguments("x") | y.arguments("y") | {"pitch": pitch}
        at = job.places(s) | {
            "x": x.address(source, size),
            "y": y.address(result, size),
            "weights": ("packed", 0),
            "scratch": ("work", 0),
        }
        to_memory = int(u_bytes > _in_caches(job.target))
        transform = numbers | {"scratch_bytes": part_bytes, "past_caches": to_memory}
        brought = kernels["pack_taps" if self.taps else "transform_weights"]
        packing = step(brought, job.threads, TRANSFORM_WEIGHTS, transform, at)
        before = x.copies(kernels["reorder"], job.threads, source, size)
        if job.finish.residual:
            residual = Dense.output(s, layout, size)
            at["residual"] = residual.address("residual", size)
            before += residual.copies(kernels["reorder"], job.threads, "residual", size)
        after = y.copies(kernels["reorder"], job.threads, result, size, back=True)

        def program(packed: bool) -> Program:
            """The steps where the weights are packed, or each thread takes them as they are."""
            kept, taps = packed and not self.taps, packed and self.taps
            weights = Weights.KEPT_TAPS if taps else Weights.KEPT_U if kept else Weights.AS_THEY_ARE
            division = self.division if packed == job.kept else divided(job, tiled, weights)
            scratch = Layout()
            scratch.take(2 * TABLE_BYTES + panel * size)
            offsets = {
                "v": scratch.take(shape.products * (division.chunk * pitch + lanes) * size),
                "m": scratch.take(shape.products * (division.chunk * panel + lanes) * size),
                "u": 0,
                "u_step": panel_numbers,
                "u_channels": s.channels,
                "piece": PRODUCTS_A_SUM,
                "part": 0,
            }
            if not kept:
                offsets["part"] = scratch.take(part_bytes)
                panels_at_once = ceil_div(panels, division.shares)
                if division.chunks == 1:  # each panel's U is needed once: the next one takes its place
                    offsets["u_step"], panels_at_once = 0, 1
                u_numbers = panels_at_once * panel_numbers
                if in_pieces(job, tiled):
                    offsets |= {"piece": _PIECE, "u_channels": _PIECE}
                    u_numbers = shape.products * product_pitch(_PIECE, panel, lanes)
                offsets["u"] = scratch.take(u_numbers * size)
            past_caches = division.chunks > 1 and u_bytes * division.splits > _in_caches(job.target)
            ask = taps or (kept and panel_numbers * size * ceil_div(panels, division.shares) > job.target.l2_bytes // 2)
            sliding = numbers | offsets | {
                "ask": int(ask), "taps": int(taps),
                "each_packs": int(not kept), "past_caches": int(past_caches), "scratch_bytes": scratch.size,
                "splits": division.splits, "shares": division.shares, "chunks": division.chunks,
            }  # fmt: skip
            blocks = step(kernels["blocks"], job.threads, SLIDING, sliding, at | {"scratch": ("work", layout.size)})
            return Program((*before, blocks, *after), layout.size + scratch.size * job.threads)

        return Prepared(
            name, job.threads, program(packed=True), Program((packing,), part_bytes * job.threads), packed_bytes,
            zeros_for(s.all_channels), unpacked=program(packed=False),
        )  # fmt: skip

    @property
    def nest(self) -> Nest:
        job, target, size, panel = self.job, self.job.target, self.job.size, self.job.panel
        s, shape, division = self.tiled.sliding, self.tiled.shape, self.division
        panels, pitch = ceil_div(s.outputs, panel), scratch_pitch(round_up(s.channels, job.lanes), 1, size)
        rows = largest_tile(division.chunk, target.tile_rows)
        vectors = job.tile_vectors(s.outputs)
        m, n = shape.outputs, shape.points
        products = min(s.channels, PRODUCTS_A_SUM)
        work = f"{many(division.splits, 'split')} of the tiles times {many(division.shares, 'share')} of the panels"
        levels = (
            Level(
                s.groups * division.splits * division.shares,
                "task",
                f"{work}, shared out among {many(job.threads, 'thread')}",
                "" if job.kept and not self.taps else "U: transform the weights of its panels",
            ),
            Level(
                division.chunks,
                "chunk",
                f"of at most {many(division.chunk, 'tile')} of {m}×{m} result pixels",
                f"V: transform the {n}×{n} input pixels that each tile sees",
            ),
            Level(ceil_div(panels, division.shares), "panel", f"of {panel} result channels"),
            Level(shape.products, "matrix product", "M[ξ] = V[ξ]·U[ξ]"),
            Level(ceil_div(s.channels, PRODUCTS_A_SUM), "part", f"of the sum, of at most {products} products each"),
            Level(ceil_div(division.chunk, rows), "register tile", f"of at most {rows} tiles"),
            Level(products, "product", "added to every sum of the register tile"),
        )
        v_bytes, m_bytes = (shape.products * division.chunk * numbers * size for numbers in (pitch, panel))
        held = (
            (
                Held("all weights, packed", s.groups * panels * _panel_of_taps(s.channels, shape, panel) * size)
                if self.taps
                else Held("U, all weights transformed", s.groups * panels * shape.products * s.channels * panel * size)
            ),
            Held("U of a panel and ξ", s.channels * vectors * target.vector_bytes, "L2"),
            Held("V of a chunk", v_bytes, "L2" if v_bytes + m_bytes < target.l2_bytes else ""),
            Held("M of a panel", m_bytes, "L2"),
        )
        return Nest(
            levels,
            RegisterTile(rows, "tiles", vectors, "result channels", job.lanes, target.registers),
            held,
            Inner(build, f"product_{rows}x{vectors}", (shape, "")),
            after=f"y: transform M back into the {m}×{m} pixels of each tile, after every panel",
        )


def _part_bytes(shape: Shape, panel: int, size: int) -> int:
    """What a part of the weights needs on its way to U: its taps, packed, and the table of where they are."""
    return round_up(TABLE_BYTES + _CHANNELS_A_PART * shape.taps**2 * panel * size, LINE)


def _panel_of_taps(channels: Any, shape: Shape, panel: int) -> Any:
    """Numbers of a panel's weights, kept as taps in whole parts of the input channels."""
    return (channels + (_CHANNELS_A_PART - 1)) // _CHANNELS_A_PART * (_CHANNELS_A_PART * shape.taps**2 * panel)


def _most_in_l3(job: Job, tiled: Tiled, threads: int) -> int:
    """Tiles of which M of a panel stays in L2 and V, of all threads, in L3."""
    products, l2_bytes = tiled.shape.products, job.target.l2_bytes
    m_fits = l2_bytes * 3 // 5 // (products * job.panel * job.size)
    return min(m_fits, 12 * l2_bytes // threads // (products * tiled.sliding.channels * job.size))


def in_pieces(job: Job, tiled: Tiled) -> bool:
    """Whether trained weights are transformed a piece at a time, just before they are multiplied. Then all tiles must
    be one chunk. It does not depend on the number of threads, and so neither do the roundings."""
    return tiled.count <= _most_in_l3(job, tiled, 1)


def divided(job: Job, tiled: Tiled, weights: Weights) -> Division:
    """The division of which `cycles` expects the least, with a kept U that comes from memory: so it does in a network,
    where other layers were computed since. A chunk is either so small that V and M stay in L2, or as large as M alone
    allows; then V comes from L3, once a panel, but U meets more tiles each time."""
    s, products, rows = tiled.sliding, tiled.shape.products, job.target.tile_rows
    most_in_l2 = job.target.l2_bytes * 2 // 5 // (products * (s.channels + job.panel) * job.size)
    if weights is not Weights.KEPT_U and in_pieces(job, tiled):
        most_in_l2 = most_in_l3 = round_up(tiled.count, rows)
    else:
        most_in_l3 = _most_in_l3(job, tiled, job.threads)
    together = max(1, job.threads // s.groups)
    divisions = []
    for shares in range(1, min(together, ceil_div(s.outputs, job.panel)) + 1):
        splits = min(together // shares, tiled.count)
        mine = ceil_div(tiled.count, splits)
        for most in {max(most // rows, 1) * rows for most in (most_in_l2, most_in_l3)}:
            chunks = ceil_div(mine, most)
            divisions.append(Division(splits, shares, ceil_div(mine, chunks), chunks))
    return min(divisions, key=lambda division: cycles(job, tiled, division, weights, from_memory=job.kept))


# What the model of `cycles` is made of: shares of the rates at which a core reads while it does nothing else
# (`target.Costs`), measured on Zen 5.
_OF_L3 = 12 / 20
"""What comes from L3 or goes there."""
_ASKED_OF_MEMORY = 5 / 7
"""U from memory, where it is asked for while products are summed (Zen 3)."""
_SEEN_OF_U, _SEEN_OF_A_ROW = 0.4, 1 / 15
"""Of the way of U from L3, once a chunk, and of what L2 has no room for of V, once a panel, where each row of a tile is
a stream of its own; the rest goes on beside the products (Zen 3, six rows; Zen 5). Of U that is from there in less than
0.7 of the time of its products less is seen, by the square of that (Zen 5)."""
OF_MEMORY = 3 / 7
"""Memory that is written for the first time, or comes from beyond L3."""
_PACKING_OF_L3 = 14 / 20
"""Weights being transformed, where the caches hold the result."""
_PACKING_OF_MEMORY = 6 / 7
"""The same where it goes to memory."""
_CYCLES_OF_TAPS, _CYCLES_A_XI = 25, 1.5
"""Of a vector of taps that becomes U: at all and for each ξ, of which a line comes from L2 to L1 to be written, and
another one leaves (Zen 5)."""


def _in_caches(target: Target) -> int:
    """So many bytes of transformed weights are left in L3 when they are needed."""
    return target.l3_bytes * 3 // 8


def cycles_of_transform(shape: Shape) -> float:
    """One vector of channels of one patch: its loads and stores, and 2·n products of a matrix with a vector."""
    return 3.8 * shape.products


def cycles(job: Job, tiled: Tiled, division: Division, weights: Weights, from_memory: bool = False) -> float:
    """What the busiest thread takes: the products of each chunk or, where that takes longer, U's way from L3 or memory;
    V's, in part; the transforms; and where U is not kept, the transform of its weights.

    U, or the taps that it is made of, comes from L3 if that has room; for the first chunk, where it is said so,
    `from_memory`."""
    kept = weights is Weights.KEPT_U
    s, shape, target, size, lanes = tiled.sliding, tiled.shape, job.target, job.size, job.lanes
    mine = ceil_div(tiled.count, division.splits)
    panels = ceil_div(s.outputs, job.panel)
    own_panels = ceil_div(panels, division.shares)
    inputs, outputs = ceil_div(s.channels, lanes), min(ceil_div(s.outputs, lanes), own_panels * target.tile_vectors)
    # Register tiles of a few rows wait for the latency of the multiply-add, four cycles for their two sums each.
    rows = max(mine, 4 * ceil_div(division.chunk, target.tile_rows) * division.chunks)
    product = rows * shape.products * s.channels * outputs / 2 / 0.88
    u_bytes = shape.products * s.channels * outputs * lanes * size
    v_bytes = shape.products * inputs * lanes * division.chunk * size
    all_weights = shape.products * s.channels * s.outputs * size
    l3, memory = target.costs.l3 * _OF_L3, target.costs.memory * OF_MEMORY
    in_passing = not kept and division.chunks == 1
    if in_passing:
        stays = u_bytes / own_panels <= target.l2_bytes // 2
    else:
        stays = u_bytes + v_bytes <= target.l2_bytes * 7 // 8
    of_u = 0.0 if stays else u_bytes
    in_l3 = in_passing or all_weights * division.splits < target.l3_bytes
    again = of_u / (l3 if in_l3 else memory)
    asked = target.costs.memory * _ASKED_OF_MEMORY
    first = of_u / asked if kept and (from_memory or not in_l3) else again
    if not kept and in_pieces(job, tiled):
        product *= 1.05  # a sum to load and to store for each piece
        first = again = 0.0
    if weights is Weights.KEPT_TAPS:
        taps = shape.taps**2 * s.channels * outputs * lanes * size
        in_l3 = shape.taps**2 * s.channels * s.outputs * size < target.l3_bytes
        first = taps / (asked if from_memory or not in_l3 else l3)
    each = product / division.chunks
    seen = _SEEN_OF_U * min(1.0, 2 * (again / each) ** 2)
    products = max(each, first) + (division.chunks - 1) * (max(each, again) + seen * again)
    beyond_l2 = v_bytes - target.l2_bytes * 3 // 4
    v_in_l3 = beyond_l2 > 0
    if v_in_l3:
        products += min(1.0, _SEEN_OF_A_ROW * target.tile_rows) * beyond_l2 * division.chunks * own_panels / l3
    # What does not fill a vector is loaded and stored in parts, four times as slowly: of groups, and of 3 channels.
    few = 4 if s.groups > 1 and min(s.channels, s.outputs) < lanes else 1
    few_inputs = 4 if s.channels < lanes else few
    total = products + mine * (inputs * few_inputs + outputs * few) * cycles_of_transform(shape)
    if v_in_l3:
        total += 2 * v_bytes * division.chunks / l3
    if weights is Weights.KEPT_TAPS:
        total += (_CYCLES_OF_TAPS + _CYCLES_A_XI * shape.products) * s.channels * outputs
    elif not kept:
        in_caches = in_passing or all_weights * division.splits <= _in_caches(target)
        rate = target.costs.l3 * _PACKING_OF_L3 if in_caches else target.costs.memory * _PACKING_OF_MEMORY
        total += u_bytes * (1 + shape.taps**2 / shape.products) / rate
    return ceil_div(s.groups, max(1, min(job.threads, s.groups))) * total


# ---------------------------------------------------------------------------------------------------------------------
# Kernels
# ---------------------------------------------------------------------------------------------------------------------


def build(module: ir.Module, dtype: str, target: Target, shape: Shape, activation: str) -> None:
    """Adds the `KERNELS` to the module."""
    copy = copy_function(module, dtype, target.lanes(dtype))
    reorder(module, dtype, copy)
    kernels = _Kernels(module, dtype, target, shape, activation, copy)
    kernels.transform_weights()
    kernels.pack_taps()
    kernels.blocks()


def product_pitch(channels: Any, width: Any, lanes: int) -> Any:
    """Numbers from one ξ of a panel's U to the next: a cache line more than there are, because 32·c numbers are often a
    multiple of the caches' size over their ways, and one patch's 36 vectors would all fall into the same set."""
    return channels * width + lanes


def odd_lines(numbers: Int, lanes: int) -> Int:
    """At least so many numbers, an odd count of vectors: a step that spreads what lies so far apart over all sets of
    the caches."""
    return (numbers // (2 * lanes) * 2 + 1) * lanes


class _Kernels:
    """What is fixed when their code is written, and the functions that they call."""

    def __init__(
        self, module: ir.Module, dtype: str, target: Target, shape: Shape, activation: str, copy: Function
    ) -> None:
        self.module, self.dtype, self.shape, self.lanes = module, dtype, shape, target.lanes(dtype)
        self.panel = target.panel(dtype)
        matrices = short_convolution(shape.outputs, shape.taps)
        self.locate_input, self.locate_output, self.locate_taps = (
            locate_function(module, dtype, size) for size in (shape.points, shape.outputs, shape.taps)
        )
        self.spread = spread_function(module, dtype, self.lanes, matrices.into)
        self.gather = gather_function(module, dtype, self.lanes, matrices.out, activation)
        self.products = product_tiles(module, dtype, target)
        self.pack = pack_function(module, dtype, self.lanes, copy)
        self.spread_weights, self.spread_weights_past_caches = (
            spread_function(module, dtype, self.lanes, matrices.kernel, past_caches=past) for past in (False, True)
        )
        self.part = self.transform_part()

    def transform_part(self) -> Function:
        """U = G w Gᵀ of at most `_CHANNELS_A_PART` input channels of a panel: packed as [i][j][c][lane], which stays in
        L1, they are a patch of r×r "pixels" with c·lanes "channels".

        `w` are the weights of the part's first channel, or `taps` is the address of them packed, `to` is its U, `step`
        from one ξ to the next; `past_caches`, whether U goes there, so that its lines are not read into one in order to
        be written.
        """
        names = "*w w_k w_c w_i w_j taps channels outputs *to step scratch past_caches"
        f = Function(self.module, "transform_part", names, self.dtype, internal=True)
        strides = {name: f.integer(name) for name in ("w_k", "w_c", "w_i", "w_j")}
        w, to = f.pointers("w to")
        channels, outputs, step_, scratch, past_caches = f.integers("channels outputs step scratch past_caches")
        table, own = f.address(scratch, I64), f.address(scratch + TABLE_BYTES)
        width, taps, unpacked = filled(outputs, self.lanes), self.shape.taps, f.integer("taps").compare("==", 0)
        with f.if_(unpacked):
            f.call(
                self.pack, w=w, **strides, kernel_h=taps, kernel_w=taps, to=own, room=_CHANNELS_A_PART,
                channels=channels, outputs=outputs,
            )  # fmt: skip
        packed = f.pick(unpacked, own, f.address(f.integer("taps")))
        tap = width * _CHANNELS_A_PART
        f.call(
            self.locate_taps, table=table, x=packed, x_h=tap * taps, x_w=tap, top=0, height=taps, left=0, width=taps,
            outside=packed, gap_h=1, gap_w=1,
        )  # fmt: skip
        arguments: dict[str, Int | Pointer | int] = {
            "table": table, "channels": channels * width, "out": to, "step": step_, "vector_step": self.lanes,
            "following": table,
        }  # fmt: skip
        with f.if_else(past_caches.compare("!=", 0)) as (large, small):
            with large:
                f.call(self.spread_weights_past_caches, **arguments)
            with small:
                f.call(self.spread_weights, **arguments)
        f.done()
        return f

    def transform_panel(
        self, f: Function, a: dict[str, Int], p: Panel, group: Int, first: Int, channels: Int, to: Pointer, pitch: Int,
        scratch: Int, taps: Pointer | None = None,
    ) -> None:  # fmt: skip
        """U of `channels` input channels of a panel, from the `first` on, part by part; `to` is where that one's
        begins, and so is `taps`, where the weights are kept as these."""
        w = p.weights(f, a, group, first)
        with f.loop(channels, step=_CHANNELS_A_PART) as each:
            packed = taps.at(each.index * self.shape.taps**2 * p.width).number() if taps else f.const(0)
            if taps:
                packed = f.choose(a["taps"].compare("!=", 0), packed, 0)
            f.call(
                self.part, w=w.at(each.index * a["w_c"]), w_k=a["w_k"], w_c=a["w_c"], w_i=a["w_i"], w_j=a["w_j"],
                taps=packed, channels=(channels - each.index).at_most(_CHANNELS_A_PART), outputs=p.outputs,
                to=to.at(each.index * p.width), step=pitch, scratch=scratch, past_caches=a["past_caches"],
            )  # fmt: skip

    def transform_weights(self) -> None:
        """All of U, to be kept."""
        f, a = kernel(self.module, "transform_weights", self.dtype, TRANSFORM_WEIGHTS)
        parts = (a["channels"] + (_CHANNELS_A_PART - 1)) // _CHANNELS_A_PART
        a_panel = self.shape.products * product_pitch(a["channels"], self.panel, self.lanes)
        with tasks(f, a["groups"] * a["panels"] * parts) as task:
            group, index, part = indices(task.index, a["panels"], parts)
            p, first = Panel.of(a, index, self.panel, self.lanes), part * _CHANNELS_A_PART
            channels = (a["channels"] - first).at_most(_CHANNELS_A_PART)
            to = f.address(a["weights"]).at((group * a["panels"] + index) * a_panel + first * p.width)
            pitch = product_pitch(a["channels"], p.width, self.lanes)
            self.transform_panel(f, a, p, group, first, channels, to, pitch, thread_scratch(f, a))
        f.done()

    def pack_taps(self) -> None:
        """All weights as taps, to be kept: [group][panel][part of the input channels][i][j][c][lane]."""
        f, a = kernel(self.module, "pack_taps", self.dtype, TRANSFORM_WEIGHTS)
        parts, taps = (a["channels"] + (_CHANNELS_A_PART - 1)) // _CHANNELS_A_PART, self.shape.taps
        with tasks(f, a["groups"] * a["panels"] * parts) as task:
            group, index, part = indices(task.index, a["panels"], parts)
            p, first = Panel.of(a, index, self.panel, self.lanes), part * _CHANNELS_A_PART
            to = f.address(a["weights"]).at(
                (group * a["panels"] + index) * _panel_of_taps(a["channels"], self.shape, self.panel)
                + first * taps**2 * p.width
            )
            f.call(
                self.pack, w=p.weights(f, a, group, first), w_k=a["w_k"], w_c=a["w_c"], w_i=a["w_i"], w_j=a["w_j"],
                kernel_h=taps, kernel_w=taps, to=to, room=_CHANNELS_A_PART,
                channels=(a["channels"] - first).at_most(_CHANNELS_A_PART), outputs=p.outputs,
            )  # fmt: skip
        f.done()

    def transform_output(
        self, f: Function, a: dict[str, Int], p: Panel, group: Int, first: Int, count: Int, m: Pointer, m_step: Int,
        table: Pointer, outside: Pointer,
    ) -> None:  # fmt: skip
        """A panel's output pixels of `count` tiles from number `first` on ← M."""
        channel = group * a["outputs"] + p.first
        locate = locate_output(f, a, self.locate_output, self.shape.outputs, channel, outside)
        bias = f.address(a["bias"]).at(channel * a["bias_step"])
        distance = f.choose(a["residual"].compare("!=", 0), a["residual"] - a["y"], NO_RESIDUAL)
        with each_tile(f, locate, first, count, table) as (t, here, following):
            f.call(
                self.gather, table=here, channels=p.outputs, values=m.at(t * p.width), step=m_step, base=bias,
                following=following, residual=distance, outside=outside.number(),
            )  # fmt: skip

    def blocks(self) -> None:
        """All stages for a split of the tiles and a share of the panels, by one thread."""
        lanes, products, tile_rows = self.lanes, self.shape.products, self.products.most_rows
        f, a = kernel(self.module, "blocks", self.dtype, SLIDING)
        scratch = thread_scratch(f, a)
        table, outside = f.address(scratch, I64), f.address(scratch + 2 * TABLE_BYTES)
        v, m, own_u = (f.address(scratch + a[name]) for name in "vmu")
        a_panel = products * product_pitch(a["channels"], self.panel, lanes)
        tiles_ = a["images"] * a["tiles_h"] * a["tiles_w"]
        # Chunks are tasks of their own, unless a thread makes U in the first of them for those that follow.
        chunks = f.choose(a["each_packs"].compare("!=", 0), 1, a["chunks"])
        with tasks(f, a["groups"] * a["shares"] * a["splits"] * chunks) as task:
            group, own_share, split, first_chunk = indices(task.index, a["shares"], a["splits"], chunks)
            first_panel, last_panel = share(a["panels"], own_share, a["shares"])
            kept_u = f.address(a["weights"]).at((group * a["panels"] + first_panel) * a_panel)
            u = f.pick(a["each_packs"].compare("!=", 0), own_u, kept_u)
            first_tile, last_tile = share(tiles_, split, a["splits"])
            end_chunk = f.choose(a["each_packs"].compare("!=", 0), a["chunks"], first_chunk + 1)
            with f.loop(end_chunk, start=first_chunk) as chunk:
                first, after = share(last_tile - first_tile, chunk.index, a["chunks"])
                first, count = first_tile + first, after - first
                v_step = odd_lines(count * a["pitch"], lanes)
                patch = locate_input(f, a, self.locate_input, self.shape.outputs, group)
                transform_images(
                    f, patch, self.spread, first, count, a["channels"], v, a["pitch"], v_step, lanes, table
                )
                with f.loop(last_panel, start=first_panel) as index:
                    p = Panel.of(a, index.index, self.panel, lanes)
                    m_step = odd_lines(count * p.width, lanes)
                    panel_u = u.at((index.index - first_panel) * a["u_step"])
                    u_pitch = product_pitch(a["u_channels"], p.width, lanes)
                    all_taps = f.address(a["weights"]).at(
                        (group * a["panels"] + index.index) * _panel_of_taps(a["channels"], self.shape, self.panel)
                    )
                    with f.loop(a["channels"], step=a["piece"]) as piece:
                        channels = (a["channels"] - piece.index).at_most(a["piece"])
                        piece_taps = all_taps.at(piece.index * self.shape.taps**2 * p.width)
                        # Where U has no room for all channels, each piece takes the place of the one before.
                        here = piece.index.at_most(a["u_channels"] - channels)
                        piece_u = panel_u.at(here * p.width)
                        with f.if_(f.all_of(a["each_packs"].compare("!=", 0), chunk.index.compare("==", 0))):
                            part = scratch + a["part"]
                            self.transform_panel(
                                f, a, p, group, piece.index, channels, piece_u, u_pitch, part, piece_taps
                            )
                        # M[ξ] += V[ξ] · U[ξ], of the piece: its first channels write M, the others add to it. Where U
                        # does not stay in L2, that of the next ξ is asked for, or where it is made of taps a part of
                        # the next piece's: by each tile its share.
                        of_taps = a["taps"].compare("!=", 0)
                        numbers = channels * p.width
                        taps_a_xi = numbers * self.shape.taps**2 // products
                        numbers = f.choose(a["ask"].compare("!=", 0), f.choose(of_taps, taps_a_xi, numbers), 0)
                        next_taps = piece_taps.at(channels * self.shape.taps**2 * p.width)
                        with f.loop(products) as xi, runs_of_tiles(f, count, tile_rows) as (row, rows, many):
                            u_xi = piece_u.at(xi.index * u_pitch)
                            following = f.pick(of_taps, next_taps.at(xi.index * taps_a_xi), u_xi.at(u_pitch))
                            ahead, ahead_step, ahead_tile = asked_ahead(
                                following, numbers, row, rows, count, channels, lines_a_round(rows, f.dtype)
                            )
                            self.products.call(
                                f, rows, p.width, many=many,
                                x=v.at(xi.index * v_step + row * a["pitch"] + piece.index),
                                step=a["pitch"], w=u_xi, count=channels,
                                y=m.at(xi.index * m_step + row * p.width), add=piece.index,
                                ahead=ahead, ahead_step=ahead_step, ahead_tile=ahead_tile,
                            )  # fmt: skip
                    self.transform_output(f, a, p, group, first, count, m, m_step, table, outside)
        f.done()
