"""The gradient of the weights: one more convolution, of the input with the output's gradient.

What it computes:

    dw[k, c, i, j] = Σ_n Σ_p Σ_q  x[n, p·s + i·d − pad, q·s + j·d − pad, c] · dy[n, p, q, k]

Here the sum runs over pixels, and the tile's rows are weights: for a tap row i, the numbers of a run (taps side by side
× channels) are neighbours in packed input, so R of them are broadcast from one or two cache lines a pixel.

The loops, from outside in:

    unit = (split, group, chunk of panels, slice of runs)  shared out among the threads
        for block of output pixels in the split            small enough that the panel's dy stays in L1
            pack the block's input; for panel: pack dy as [pixel][lane]
                for tap row, run, tile of the run
                    for row, for pixel                     registers: rows × vectors sums
                    dw part += sums

Splits cut the sum over pixels where there are too few panels for the threads; each split sums into a part of its own,
and `collect` adds the parts up and brings them into the layout of the weights. Summing block by block also keeps the
rounding error of long sums down: 802,816 pixels are summed as some 4,000 sums of 200.

Packed dw: [split][group][panel][i][j][c][lane].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from llvmlite import ir

from ...native.ir import Arguments, Function, Int, Pointer, indices, kernel, share, tasks
from ...native.program import Layout, Program, Step, code, step
from ...native.target import Target
from ...spec import ceil_div
from ..geometry import Blocking, Sliding, blocking
from ..kernels.blocks import BLOCK_ARGUMENTS, Block, runs_of_tiles, thread_scratch
from ..kernels.pack import Image, copy_function, copy_image, fill_zeros
from ..kernels.pack_weights import COLLECT, Panel, collect_kernel, panels_of
from ..kernels.tile import Tiles, gradient_tiles
from ..nest import Held, Inner, Level, Nest, RegisterTile, largest_tile, shared_out
from ..plan import Job, Plan, Refusal
from ..prepared import Prepared
from . import pointwise_weight_gradient

ACCUMULATE = Arguments(
    BLOCK_ARGUMENTS
    + " y y_n y_c y_h y_w outputs all_outputs depth row_step panels splits chunks slices panel_dy parts w w_c"
    # y: its gradient; outputs: channels of one group; depth: weights of one tap and output; panel_dy: where in scratch
    # a panel's dy goes; w_c: how far apart the channels' rows are in w, where sums go straight there, else 0
)


def plan(job: Job) -> Plan | Refusal:
    """Always possible; in NHWC, 1×1 layers are products of matrices."""
    if pointwise := pointwise_weight_gradient.plan(job):
        return pointwise
    return DirectWeightGradient(job, sum(cycles(job, s) for s in job.slidings), job.slidings)


@dataclass(frozen=True)
class DirectWeightGradient(Plan):
    """w's gradient, into `w`, from x and y's gradient, in `y`. The slidings are the forward pass, which is more than
    one where each has taps of its own."""

    slidings: tuple[Sliding, ...]

    @cached_property
    def divisions(self) -> tuple[Division, ...]:
        return tuple(Division.of(self.job, s) for s in self.slidings)

    def prepared(self, name: str) -> Prepared:
        made = [division.steps(self.job) for division in self.divisions]
        steps = tuple(step for steps, _ in made for step in steps)
        return Prepared(name, self.job.threads, Program(steps, max(work_bytes for _, work_bytes in made)))

    @property
    def nest(self) -> Nest:
        return max(self.divisions, key=lambda division: division.sliding.macs).nest(self.job)


@dataclass(frozen=True)
class Division:
    """One of the slidings, with x and dy in each other's place where it is `turned`, and how it is shared out: into
    `splits` of the pixels, `chunks` of the panels and `slices` of the runs."""

    sliding: Sliding
    turned: bool
    blocks: Blocking
    panels: int
    runs: int
    run_length: int
    splits: int
    chunks: int
    slices: int

    @classmethod
    def of(cls, job: Job, s: Sliding) -> Division:
        """A panel of dy stays in L1 while all taps pass over it; the rest of L1 is for the lines of the input."""
        turned = _turns(s, job)
        s = s.exchanged() if turned else s
        panel_bytes = job.target.tile_vectors * job.target.vector_bytes
        blocks = blocking(s, job.dtype, job.target, job.target.l1_bytes * 5 // 8 // panel_bytes, 1)
        panels, numbers = ceil_div(s.outputs, job.panel), blocks.arguments(s)
        # lanewise, a tile's rows are the taps of a kernel row
        runs, length = (1, s.horizontal.kernel) if s.lanewise else (numbers["runs"], numbers["run_length"])
        units = _units(s, blocks, panels, ceil_div(length, job.target.tile_rows), job.threads)
        return cls(s, turned, blocks, panels, runs, length, *units)

    @property
    def straight(self) -> bool:
        """Whether sums go straight to where they belong."""
        s = self.sliding
        return self.splits == s.w_k == s.groups == 1 and s.taps == s.channels and not s.lanewise

    def steps(self, job: Job) -> tuple[list[Step], int]:
        """The steps, and the memory that they need."""
        s, blocks, size = self.sliding, self.blocks, job.size
        kernels = code(build, ("accumulate", "collect"), job.dtype, job.target, s.lanewise)
        layout = Layout()
        parts = 0
        if not self.straight:
            parts = layout.take(self.splits * s.groups * self.panels * job.panel * s.taps * size)
        scratch = Layout()
        counts = (blocks.scratch_numbers, blocks.rows * blocks.columns * job.panel)
        _, panel_dy = (scratch.take(count * size) // size for count in counts)
        accumulate = blocks.arguments(s) | {
            "panels": self.panels, "runs": self.runs, "run_length": self.run_length,
            "splits": self.splits, "chunks": self.chunks, "slices": self.slices, "panel_dy": panel_dy,
            "scratch_bytes": scratch.size, "row_step": s.horizontal.dilation * blocks.pitch if s.lanewise else 1,
            "w_c": s.w_c if self.straight else 0,
        }  # fmt: skip
        at = job.places(s, self.turned)
        at |= {"scratch": ("work", layout.take(scratch.size * job.threads)), "parts": ("work", parts)}
        steps = [step(kernels["accumulate"], job.threads, ACCUMULATE, accumulate, at)]
        if not self.straight:
            collect = panels_of(s, job.panel) | {"splits": self.splits}
            steps.append(step(kernels["collect"], job.threads, COLLECT, collect, at))
        return steps, layout.size

    def nest(self, job: Job) -> Nest:
        s, blocks, target, size = self.sliding, self.blocks, job.target, job.size
        block_count = s.images * math.prod(blocks.count(s))
        rows = largest_tile(self.run_length, target.tile_rows)
        vectors = job.tile_vectors(s.outputs)
        weights = "taps of a kernel row" if s.lanewise else "weights of a kernel row"
        lanes, rows_are = ("input", "output") if self.turned else ("output", "input")
        packed_dy = f"a panel's {'x' if self.turned else 'dy'} of a block"
        units = [
            Level(s.groups, "panel", f"of {job.panel} channels") if s.lanewise else Level(s.groups, "group"),
            Level(self.splits, "split", "of the pixels"),
            Level(self.chunks, "chunk", f"of {lanes} channels"),
            Level(self.slices, "slice", f"of the {rows_are} channels"),
        ]
        levels = (
            shared_out("unit", job.threads, units, always=int(s.lanewise)),
            Level(
                ceil_div(block_count, self.splits),
                "block",
                f"of {blocks.rows}×{blocks.columns} output pixels",
                "" if blocks.in_place else "copy the block's input, zeros for the padding",
            ),
            Level(
                ceil_div(self.panels, self.chunks),
                "panel",
                f"of {job.panel} {lanes} channels",
                f"copy the panel's {'x' if self.turned else 'dy'} of the block",
            ),
            Level(
                s.vertical.kernel * self.runs * ceil_div(self.run_length, rows), "tile", f"of at most {rows} {weights}"
            ),
            Level(blocks.rows * blocks.columns, "pixel", "added to every sum of the tile"),
        )
        held = (
            *(() if blocks.in_place else (Held("a block's packed input", blocks.scratch_numbers * size, "L2"),)),
            Held(packed_dy, blocks.rows * blocks.columns * vectors * target.vector_bytes, "L1"),
            Held("the sums of all splits", self.splits * s.groups * self.panels * job.panel * s.taps * size),
        )
        return Nest(
            levels,
            RegisterTile(rows, weights, vectors, f"{lanes} channels", job.lanes, target.registers, s.lanewise),
            held,
            Inner(build, f"gradient_{rows}x{vectors}", (s.lanewise,)),
            after="add up the splits, and bring the sums into the layout of the weights",
        )


_FEW_PIXELS = 256


def _turns(s: Sliding, job: Job) -> bool:
    """Whether x and dy change places: where each pixel of x meets one pixel of dy, the sum over pixels of their
    products is the same, turned. The lanes are then input channels, as the weights lie in memory, and sums go straight
    to where they belong.

    The operand of the lanes is the one that is packed: it should be the one of fewer channels, unless pixels are few
    and each packed number meets several tiles. And a gradient that does not stay in L2 should be added to once, for its
    rows are short pieces far apart.
    """
    v, h = s.vertical, s.horizontal
    few_pixels = s.images * v.out * h.out <= _FEW_PIXELS
    in_l2 = s.outputs * s.channels * job.size <= job.target.l2_bytes
    if s.channels > s.outputs and not (few_pixels and s.outputs > 4 * job.target.tile_rows):
        return False
    if not (few_pixels or in_l2):
        return False
    pointwise = v.kernel == h.kernel == v.stride == h.stride == 1 and v.pad == h.pad == 0
    return pointwise and (v.size, h.size) == (v.out, h.out) and not s.lanewise and s.w_c == 1 and s.groups == 1


# To copy a pixel of a group: groups of few channels wait for that.
_CYCLES_A_PIXEL = 10.0


def cycles(job: Job, s: Sliding) -> float:
    """What the multiply-adds take at the nine tenths that large layers reach, and once through the gradient."""
    outputs = ceil_div(s.outputs, job.lanes)
    pixels = s.images * s.vertical.out * s.horizontal.out
    product = s.groups * pixels * s.taps * outputs / (2 * 0.9)
    if s.groups > 1:  # tiles of fewer than eight sums wait for them
        waiting = max(0, 8 * s.vertical.kernel - s.taps * outputs) / (2 * 0.9)
        product += s.groups * pixels * (waiting + _CYCLES_A_PIXEL)
    parts = s.groups * s.taps * outputs * job.lanes * job.size
    return (product + 3 * parts / 6) / job.threads


def _units(s: Sliding, blocks: Blocking, panels: int, tiles_a_run: int, threads: int) -> tuple[int, int, int]:
    """Into how many splits of the pixels, chunks of the panels and slices of the runs the work is cut, so that every
    thread has as much.

    Chunks alone where they come out even: they need no further memory. Slices repeat the packing of dy. Splits need a
    sum of their own each, and are left for small gradients and many pixels.
    """
    for chunks in range(1, panels + 1):
        if panels % chunks == 0 and s.groups * chunks % threads == 0:
            return 1, chunks, 1
    if s.groups * panels >= 8 * threads:
        return 1, panels, 1
    for slices in range(2, tiles_a_run // 2 + 1):
        if s.groups * panels * slices % threads == 0:
            return 1, panels, slices
    block_count = s.images * math.prod(blocks.count(s))
    return max(1, min(threads, block_count)), 1, 1


def build(module: ir.Module, dtype: str, target: Target, lanewise: bool = False) -> None:
    """Adds the kernels `accumulate` and `collect` to the module; `lanewise` for depthwise (see `depthwise.py`)."""
    lanes, panel = target.lanes(dtype), target.panel(dtype)
    copy = copy_function(module, dtype, lanes)
    gradients = gradient_tiles(module, dtype, target, lanewise)

    f, a = kernel(module, "accumulate", dtype, ACCUMULATE)
    scratch = f.address(thread_scratch(f, a))
    images_blocks = a["row_blocks"] * a["column_blocks"]
    blocks = a["images"] * images_blocks  # of one group
    taps = a["kernel_h"] * a["kernel_w"] * a["depth"]
    with tasks(f, a["splits"] * a["groups"] * a["chunks"] * a["slices"]) as unit:
        split, group, chunk, slice_ = indices(unit.index, a["groups"], a["chunks"], a["slices"])
        first_panel, end_panel = share(a["panels"], chunk, a["chunks"])
        first_block, end_block = share(blocks, split, a["splits"])
        run = share(a["run_length"], slice_, a["slices"])
        part = f.address(a["parts"]).at((split * a["groups"] + group) * a["panels"] * panel * taps)
        with f.loop(end_block, start=first_block) as step:
            image, inside = step.index // images_blocks, step.index % images_blocks
            block = Block(f, a, (image * a["groups"] + group) * images_blocks + inside, lanes)
            with f.if_(a["in_place"].compare("==", 0)):
                block.pack_input(scratch, copy)
            x = f.pick(a["in_place"].compare("!=", 0), block.input_in_place(), scratch)
            add = step.index - first_block
            with f.loop(end_panel, start=first_panel) as index:
                dw = part.at(index.index * panel * taps)
                p = Panel.of(a, index.index, panel, lanes, block.group)
                _panel(block, p, x, scratch, dw, run, add, gradients, copy)
    f.done()
    collect_kernel(module, dtype, copy, lanes, panel)


def _panel(
    block: Block, p: Panel, x: Pointer, scratch: Pointer, dw: Pointer, numbers: tuple[Int, Int], add: Int,
    gradients: Tiles, copy: Function,
) -> None:  # fmt: skip
    """One block of output pixels × one panel of output channels, some of the numbers of each run."""
    f, a, (first_number, end_number) = block.f, block.a, numbers
    dy = scratch.at(a["panel_dy"])
    source = f.address(a["y"]).at(block.corner(block.group * a["outputs"] + p.first))
    with f.if_(p.outputs.compare("<", p.width)):
        fill_zeros(f, dy, block.rows * block.columns * p.width, gradients.lanes)
    packed = Image(dy, 1, block.columns * p.width, p.width)
    copy_image(f, copy, packed, Image(source, a["y_c"], a["y_h"], a["y_w"]), p.outputs, block.rows, block.columns)

    row_step = a["slot_r"] * a["row_pitch"]
    pixel_step = a["stride_w"] * a["pitch"]
    straight = a["w_c"].compare("!=", 0)
    dw_step = f.choose(straight, a["w_c"], p.width)
    stored = f.choose(straight, p.outputs, p.width)
    with (
        f.loop(a["kernel_h"]) as i,
        f.loop(a["runs"]) as run,
        runs_of_tiles(f, end_number - first_number, gradients.most_rows) as (row, rows, many),
    ):
        number = first_number + row
        here = x.at(i.index * a["slot_i"] * a["row_pitch"] + run.index * a["run_step"] + number * a["row_step"])
        to = dw.at(((i.index * a["runs"] + run.index) * a["run_length"] + number) * p.width)
        to = f.pick(straight, f.address(a["w"]).at(number * a["w_c"] + p.first), to)
        gradients.call(
            f, rows, p.width, many=many, x=here, x_p=row_step, x_q=pixel_step, p_count=block.rows,
            q_count=block.columns, dy=dy, dw=to, row_step=a["row_step"], dw_step=dw_step, channels=stored, add=add,
        )  # fmt: skip
