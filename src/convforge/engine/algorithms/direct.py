"""Direct convolution: every input multiplied by every weight that it meets, in NHWC, through the register tile.

What it computes (`sliding`), for a group of C input and K output channels, with x zero outside the image:

    y[n, p, q, k] = bias[k] + Σᵢ Σⱼ Σ_c  x[n, p·s + i·d − pad, q·s + j·d − pad, c] · w[k, c, i, j]

When it applies: always. Kernel, stride, per-side padding (negative ones crop), dilation, groups, sizes and layouts are
numbers that the generated code reads at run time, so one compiled form serves all. The input gradient runs through the
same code: it is one `sliding` for each phase of the stride (see `geometry.py`).

The loops, from outside in, with what each level keeps close:

    task = (image, group, block of output pixels, panel of output channels)      shared out among the threads
        pack the block's input                     once a block: it stays in L2 while the panels change
        for a part of the sum                      short chains of roundings; its weights stay in L2 or L1
            for output row, for tile in the row
                for tap row, for run, for number   registers: rows × vectors sums, never spilled

Weights are packed as [group][panel][i][j][c][lane]: the inner loop reads them as one stream. A panel is
`tile_vectors` vectors of output channels wide (32 on AVX-512); the last one may be narrower.

The sum is cut into parts of 512 products, each begun at zero and then added to the output. One chain of n float32
additions has a relative error of about √(n/2)·2.4e-8 (each rounding is relative to the sum so far): 1.1e-6 for the
4,608 products of 512 channels, but 3.8e-7 for 512. The tile's way through memory once more costs 28 loads, additions
and stores for 512 steps of 14 cycles.

Example, AVX-512, 64→64 channels, 3×3, 56×56: a part's weights are 512·32·4 = 64 KB, streamed from L2 at 128 bytes in
14 cycles; a block of 8 rows sees 10·58·64·4 = 148 KB of input.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property

from llvmlite import ir

from ...native.ir import Arguments, Function, Int, Pointer, Value, kernel, tasks
from ...native.program import LINE, Layout, Program, Step, code, step
from ...native.target import DTYPE_BYTES, Target
from ...spec import ceil_div
from .. import traffic
from ..geometry import Blocking, Sliding, blocking
from ..kernels.blocks import BLOCK_ARGUMENTS, Block, runs_of_tiles, thread_scratch
from ..kernels.epilogue import NOTHING
from ..kernels.functions import is_long
from ..kernels.pack import Image, copy_function, copy_image, fill_zeros
from ..kernels.pack_weights import (
    CHANNELS_A_TASK,
    PACK_WEIGHTS,
    Panel,
    pack_channels,
    pack_function,
    pack_weights_kernel,
    panels_of,
)
from ..kernels.tile import ASKED_FOR, PAST_CACHES, Tiles, asked_ahead, forward_tiles, lines_a_round
from ..nest import Held, Inner, Level, Nest, RegisterTile, largest_tile, many, shared_out
from ..plan import PRODUCTS_A_SUM, Job, Plan, Refusal
from ..prepared import Prepared

SLIDING = Arguments(
    BLOCK_ARGUMENTS
    + " y y_n y_c y_h y_w outputs all_outputs depth panels weights u_part v_part l_part"
    + " bias bias_step residual zeros staging"
    + " each_packs packed w w_g w_k w_c w_i w_j input_ahead output activated"
    # outputs: channels of one group; depth: input channels that are summed for one of them; residual: or 0;
    # each_packs: whether each thread packs the weights w for itself, `packed` numbers into its scratch; input_ahead:
    # whether a tile asks for the next tile's input, not for the weights of the next part of the sum; output: whether it
    # asks for the next tile's output, or sends its own past the caches; activated: whether the code's activation is
    # applied
)
CLEAR = Arguments("y y_n y_c y_h y_w images all_outputs out_height out_width")


def plan(job: Job) -> Plan | Refusal:
    """Always possible."""
    return Direct(job, cycles(job, job.slidings), job.slidings)


@dataclass(frozen=True)
class Blocked:
    """One of a pass's slidings, as it is cut into blocks and panels."""

    sliding: Sliding
    blocks: Blocking
    panels: int
    """Of output channels, in a group."""

    @classmethod
    def of(cls, job: Job, s: Sliding) -> Blocked:
        """A panel of output that must cross to another layout is staged in an eighth of L2."""
        panel_bytes = job.target.tile_vectors * job.target.vector_bytes
        blocks = blocking(s, job.dtype, job.target, job.target.l2_bytes // 8 // panel_bytes, job.threads)
        return cls(s, blocks, ceil_div(s.outputs, job.panel))

    @cached_property
    def count(self) -> int:
        """Blocks of one group."""
        return self.sliding.images * math.prod(self.blocks.count(self.sliding))


@dataclass(frozen=True)
class Direct(Plan):
    """The forward pass or the input gradient: its slidings, one after the other."""

    slidings: tuple[Sliding, ...]

    @cached_property
    def blocked(self) -> tuple[Blocked, ...]:
        return tuple(Blocked.of(self.job, s) for s in self.slidings)

    def each_packs(self, each: Blocked) -> bool:
        """Whether threads had better go through all blocks for one panel after the other, each packing the weights of
        its own panels when it comes to them: they come from L2 then, and no thread waits for another or reads what
        another one wrote. The input is read once a panel, so it must be small, and nothing that has to be packed."""
        s = each.sliding
        pixels = s.images * s.vertical.size * s.horizontal.size
        small = pixels * s.channels * self.job.size <= self.job.target.l2_bytes
        return s.groups == 1 and not s.lanewise and small and (each.blocks.in_place or each.count == 1)

    def input_ahead(self, each: Blocked) -> bool:
        """Whether tiles ask for the next tile's input: where pixels touch, so that it is what follows, and the weights
        stay in L2 from block to block. Else they ask for the next part's weights, which come from further away."""
        s = each.sliding
        weights = s.groups * each.panels * self.job.panel * s.taps * self.job.size
        return each.blocks.in_place and s.taps == s.depth and weights <= self.job.target.l2_bytes // 2

    def output(self, each: Blocked) -> int:
        """What is done where the result has no room in the L2 caches, so that every line is read from further away
        before it is written; a tile's stores come all at once, and a short sum does not last until the lines are there.

        Tiles ask for the pixels that the next tile writes. Where input and output are more than twice L3, so that
        whoever reads the result next finds nothing of it there, whole vectors to which nothing is added any more go
        past the caches: their lines are not read at all.
        """
        s, job = each.sliding, self.job
        result = s.images * s.all_outputs * s.vertical.out * s.horizontal.out * job.size
        if s.y_c != 1 or result <= 2 * job.target.l2_bytes * job.threads:
            return 0
        cut, lanes = cut_of_sum(s, each.blocks), job.lanes
        once = (
            cut["u_part"] >= s.vertical.kernel and cut["v_part"] >= cut["runs"] and cut["l_part"] >= cut["run_length"]
        )
        aligned = all(number % lanes == 0 for number in (s.outputs, s.y_n, s.vertical.y_step, s.horizontal.y_step))
        last = once and not job.finish.residual and not is_long(job.finish.activation)
        far = traffic.bytes_of(job.problem) > 2 * job.target.l3_bytes
        return PAST_CACHES if far and last and aligned else ASKED_FOR

    def prepared(self, name: str) -> Prepared:
        job, size = self.job, self.job.size
        packing: list[Step] = []
        steps: list[Step] = []
        unpacked: list[Step] = []
        packed_layout, work_bytes, unpacked_bytes = Layout(), 0, 0
        lanewise = self.slidings[0].lanewise
        kernels = code(build, KERNELS, job.dtype, job.target, lanewise, job.finish.activation or job.spare)
        for each in self.blocked:
            s, blocks, panels = each.sliding, each.blocks, each.panels
            # Pixels of x that the kernel does not meet: their gradient is zero. What is to be added to it, or an
            # activation of it, needs the tiles, which add up no products.
            if not s.taps and job.finish == NOTHING:
                steps.append(step(kernels["clear"], job.threads, CLEAR, s.numbers, job.places(s)))
                unpacked.append(steps[-1])
                continue
            packed = packed_layout.take(s.groups * panels * job.panel * s.taps * size)
            staged = 0 if s.y_c == 1 else blocks.rows * blocks.columns * job.panel
            scratch = Layout()
            _, staging = (scratch.take(count * size) // size for count in (blocks.scratch_numbers, staged))
            at = job.places(s) | {"weights": ("packed", packed), "scratch": ("work", 0)}
            if s.taps:
                packing.append(step(kernels["pack_weights"], job.threads, PACK_WEIGHTS, panels_of(s, job.panel), at))
            slide = job.numbers(s) | blocks.arguments(s) | cut_of_sum(s, blocks) | {
                "panels": panels, "staging": staging, "scratch_bytes": scratch.size, "each_packs": 0, "packed": 0,
                "input_ahead": int(self.input_ahead(each)), "output": self.output(each),
                "activated": int(job.finish.activation != ""),
            }  # fmt: skip
            steps.append(step(kernels["sliding"], job.threads, SLIDING, slide, at))
            # The slidings run one after the other and share the memory.
            work_bytes = max(work_bytes, scratch.size * job.threads)
            if self.each_packs(each):
                slide |= {"each_packs": 1, "packed": scratch.take(s.taps * job.panel * size) // size}
                slide |= {"scratch_bytes": scratch.size}
                unpacked.append(step(kernels["sliding"], job.threads, SLIDING, slide, at))
                unpacked_bytes = max(unpacked_bytes, scratch.size * job.threads)
        every_one = len(unpacked) == len(steps)
        return Prepared(
            name, job.threads, Program(tuple(steps), work_bytes), Program(tuple(packing)), packed_layout.size,
            unpacked=Program(tuple(unpacked), unpacked_bytes) if every_one else None,
        )  # fmt: skip

    @property
    def nest(self) -> Nest:
        """The loops of the largest of the slidings."""
        job, target, size = self.job, self.job.target, self.job.size
        each = max(self.blocked, key=lambda each: each.sliding.macs)
        s, blocks = each.sliding, each.blocks
        cut = cut_of_sum(s, blocks)
        count = 1
        for whole, piece in ((s.vertical.kernel, "u_part"), (cut["runs"], "v_part"), (cut["run_length"], "l_part")):
            count *= ceil_div(whole, cut[piece])
        products = cut["u_part"] * cut["v_part"] * cut["l_part"]
        rows = largest_tile(blocks.columns, target.tile_rows)
        vectors = job.tile_vectors(s.outputs)
        units = [
            Level(each.count, "block", f"of {blocks.rows}×{blocks.columns} result pixels"),
            Level(s.groups, "panel", f"of {job.panel} channels") if s.lanewise else Level(s.groups, "group"),
            Level(each.panels, "panel", f"of {job.panel} result channels"),
        ]
        before = "read the input where it is"
        if not blocks.in_place:
            pixels = f"{blocks.scratch_numbers // blocks.pitch:,} pixels of {s.channels} channels"
            before = f"for a new block, copy its input: {pixels}, zeros for the padding"
        packed = Held("a block's packed input", blocks.scratch_numbers * size, "L2")
        levels = (
            shared_out("task", job.threads, units, 1 + s.lanewise, before),
            Level(count, "part", f"of the sum, of at most {products} products each"),
            Level(blocks.rows * ceil_div(blocks.columns, rows), "tile", f"of at most {rows} pixels of a row"),
            Level(products, "product", f"from {many(cut['u_part'], 'row')} of taps, added to every sum of the tile"),
        )
        held = (
            Held("all weights, packed", s.groups * each.panels * job.panel * s.taps * size),
            *(() if blocks.in_place else (packed,)),
            Held("weights of a panel and part of the sum", products * vectors * target.vector_bytes, "L2"),
        )
        phases = sum(each.sliding.taps > 0 for each in self.blocked)
        return Nest(
            levels,
            RegisterTile(rows, "result pixels", vectors, "result channels", job.lanes, target.registers, s.lanewise),
            held,
            Inner(build, f"forward_{rows}x{vectors}", (s.lanewise,)),
            note=f"the largest of {phases} phases of the stride, which run one after the other" if phases > 1 else "",
        )


# Weights on their way to being packed: the share of the rate at which a core reads from L3 alone.
_PACKING_OF_L3 = 10 / 20
# What few output channels wait for, in groups or in the short sums of a strided input gradient's phases: a tile being
# called and its sums stored; and a pixel of a group being copied.
_CYCLES_A_TILE = 100.0
_CYCLES_A_PIXEL = 10.0


def cycles(job: Job, slidings: Sequence[Sliding]) -> float:
    """What the multiply-adds take, two vectors a cycle at the nine tenths that large layers reach (lanes beyond the
    last output channel count as well), or the weights' way from memory; where they are not `kept`, packing too."""
    target, total, phases = job.target, 0.0, len(slidings) > 1
    for s in slidings:
        outputs = ceil_div(s.outputs, job.lanes)
        row_tiles = s.vertical.out * ceil_div(s.horizontal.out, target.tile_rows)
        pixels = s.images * max(s.vertical.out * s.horizontal.out, 4 * row_tiles)
        weights = s.groups * s.taps * outputs * job.lanes * job.size
        # A tile of one vector needs a broadcast for each multiply-add.
        product = pixels * s.groups * s.taps * (outputs // 2 * 2 / 0.93 + outputs % 2 / 0.78) / 2
        if s.groups > 1 or (phases and outputs == 1):
            product += s.images * row_tiles * s.groups * ceil_div(outputs, 2) * _CYCLES_A_TILE
        if s.groups > 1 and s.taps > s.channels:  # else it is read where it is
            product += s.images * s.vertical.size * s.horizontal.size * s.groups * _CYCLES_A_PIXEL
        total += max(product, traffic.of_weights(weights, target)) / job.threads
        if not job.kept:
            total += 2 * weights / (target.costs.l3 * _PACKING_OF_L3) / job.threads
    return total


def cut_of_sum(s: Sliding, blocks: Blocking) -> dict[str, int]:
    """The sum as runs of numbers that lie side by side, and how much of (tap rows, runs, numbers of a run) makes a part
    of at most `PRODUCTS_A_SUM` products.

    Whether the taps of a row touch is a matter of the memory format; where the sum is cut is not, or the last bits
    would depend on it. So a part holds whole taps, or less than one.
    """
    numbers, taps = blocks.arguments(s), s.horizontal.kernel
    runs, length, depth = numbers["runs"], numbers["run_length"], max(s.depth, 1)
    if depth > PRODUCTS_A_SUM:
        runs, length = taps, s.depth
    l_part = min(length, PRODUCTS_A_SUM // depth * depth or PRODUCTS_A_SUM)
    v_part = min(runs, PRODUCTS_A_SUM // max(l_part, 1)) if l_part == length else 1
    u_part = min(s.vertical.kernel, PRODUCTS_A_SUM // max(v_part * l_part, 1)) if v_part == runs else 1
    return {
        "runs": runs, "run_length": length,
        "u_part": max(u_part, 1), "v_part": max(v_part, 1), "l_part": max(l_part, 1),
    }  # fmt: skip


KERNELS = ("pack_weights", "clear", "sliding")


def clear_weights(job: Job) -> Step:
    """Zeros in all of w, for the taps that are nowhere inside the image."""
    problem = job.problem
    (outputs, channels, height, width), (w_k, w_c, w_i, w_j) = problem.w_shape, problem.w_strides
    numbers = {
        "y_n": w_k, "y_c": w_c, "y_h": w_i, "y_w": w_j,
        "images": outputs, "all_outputs": channels, "out_height": height, "out_width": width,
    }  # fmt: skip
    kernels = code(build, KERNELS, job.dtype, job.target, False, "")
    return step(kernels["clear"], job.threads, CLEAR, numbers, {"y": ("w", 0)})


def build(module: ir.Module, dtype: str, target: Target, lanewise: bool = False, activation: str = "") -> None:
    """Adds the `KERNELS` to the module; `lanewise` for depthwise (see `depthwise.py`)."""
    lanes, panel = target.lanes(dtype), target.panel(dtype)
    copy = copy_function(module, dtype, lanes)
    pack = pack_function(module, dtype, lanes, copy)
    pack_weights_kernel(module, dtype, pack, lanes, panel)
    _clear(module, dtype, lanes)
    forward = forward_tiles(module, dtype, target, lanewise, activation)

    f, a = kernel(module, "sliding", dtype, SLIDING)
    scratch = f.address(thread_scratch(f, a))
    blocks = a["images"] * a["groups"] * a["row_blocks"] * a["column_blocks"]
    none_yet = f.const(-1)
    each_packs = a["each_packs"].compare("!=", 0)
    taps = a["kernel_h"] * a["kernel_w"] * a["depth"]
    with tasks(f, blocks * a["panels"], carry=[none_yet, none_yet]) as task:
        packed_block, packed_panel = task.values
        index = f.choose(each_packs, task.index % blocks, task.index // a["panels"])
        panel_index = f.choose(each_packs, task.index // blocks, task.index % a["panels"])
        block = Block(f, a, index, lanes)
        p = Panel.of(a, panel_index, panel, lanes, block.group)
        with f.if_(f.all_of(index.compare("!=", packed_block), a["in_place"].compare("==", 0))):
            block.pack_input(scratch, copy)
        with f.if_(f.all_of(each_packs, panel_index.compare("!=", packed_panel))):
            _pack_panel(f, a, pack, p, scratch.at(a["packed"]))
        # All panels but a group's last are `panel` wide, and the last one is stored at the same distance.
        all_packed = f.address(a["weights"]).at((block.group * a["panels"] + panel_index) * panel * taps)
        weights = f.pick(each_packs, scratch.at(a["packed"]), all_packed)
        x = f.pick(a["in_place"].compare("!=", 0), block.input_in_place(), scratch)
        _panel(block, p, x, weights, scratch, panel, forward, copy)
        task.carry([index, panel_index])
    f.done()


def _clear(module: ir.Module, dtype: str, lanes: int) -> None:
    """Zeros in images: where pixels lie side by side, plane by plane of a row, else pixel by pixel."""
    f, a = kernel(module, "clear", dtype, CLEAR)
    with tasks(f, a["images"] * a["out_height"]) as task:
        image, row = task.index // a["out_height"], task.index % a["out_height"]
        y = f.address(a["y"]).at(image * a["y_n"] + row * a["y_h"])
        pixels, outputs, planes = a["out_width"], a["all_outputs"], a["y_w"].compare("==", 1)
        count, step = f.choose(planes, outputs, pixels), f.choose(planes, a["y_c"], a["y_w"])
        numbers, distance = f.choose(planes, pixels, outputs), f.choose(planes, 1, a["y_c"])
        with f.loop(count) as each:
            here = y.at(each.index * step)
            with f.if_else(distance.compare("==", 1)) as (together, apart):
                with together:
                    fill_zeros(f, here, numbers, lanes)
                with apart, f.loop(numbers) as number:
                    here.at(number.index * distance).put(f.scalar_zero())
    f.done()


def _pack_panel(f: Function, a: dict[str, Int], pack: Function, p: Panel, to: Pointer) -> None:
    """The weights of a panel, some input channels at a time."""
    with f.loop(a["depth"], step=CHANNELS_A_TASK) as each:
        count = (a["depth"] - each.index).at_most(CHANNELS_A_TASK)
        pack_channels(f, a, pack, p, p.weights(f, a, 0, each.index), each.index, count, a["depth"], to)


def _panel(
    block: Block, p: Panel, x: Pointer, weights: Pointer, scratch: Pointer, panel: int, forward: Tiles, copy: Function
) -> None:
    """One block of output pixels × one panel of output channels."""
    f, a = block.f, block.a
    first_output = block.group * a["outputs"] + p.first
    bias = f.address(a["bias"]).at(first_output * a["bias_step"])

    # Channels side by side: straight into the output. Otherwise into scratch, and from there across.
    straight, corner = a["y_c"].compare("==", 1), block.corner(first_output)
    y, residual = f.address(a["y"]).at(corner), f.address(a["residual"]).at(corner)
    staged = scratch.at(a["staging"])
    to = f.pick(straight, y, staged)
    to_row = f.choose(straight, a["y_h"], block.columns * panel)
    to_column = f.choose(straight, a["y_w"], panel)

    # A residual goes to where the sums will be, so that they are added to it.
    apart = a["y_c"].compare("!=", 1)
    zeros, has_residual = f.address(a["zeros"]), a["residual"].compare("!=", 0)
    beside = Image(staged, 1, to_row, to_column)
    with f.if_(f.all_of(has_residual, apart)):
        there = Image(residual, a["y_c"], a["y_h"], a["y_w"])
        copy_image(f, copy, beside, there, p.outputs, block.rows, block.columns)
    residual = f.pick(straight, residual, staged)

    begin_step = f.choose(has_residual, to_column, 0)
    line = LINE // DTYPE_BYTES[f.dtype]
    input_ahead = a["input_ahead"].compare("!=", 0)
    vector_bytes = forward.lanes * DTYPE_BYTES[f.dtype]
    unaligned = f.all_of((y.number() % vector_bytes).compare("!=", 0), a["output"].compare("==", PAST_CACHES))
    output = f.choose(unaligned, ASKED_FOR, a["output"])

    with _parts(f, a) as (first, last, (u, v, number), (u_count, v_count, length)):
        part_weights = weights.at(((u * a["runs"] + v) * a["run_length"] + number) * p.width)
        part_input = x.at(u * a["slot_i"] * a["row_pitch"] + v * a["run_step"] + number)
        # What follows in memory: the next part's weights, and after the last part the next panel's.
        products, pixels = u_count * v_count * length, block.rows * block.columns
        numbers = products * p.width
        with (
            f.loop(block.rows) as row,
            runs_of_tiles(f, block.columns, forward.most_rows) as (column, columns, many),
        ):
            pixel = part_input.at(row.index * a["slot_r"] * a["row_pitch"] + column * a["stride_w"] * a["pitch"])
            offset = row.index * to_row + column * to_column
            target = to.at(offset)
            base = f.pick(first, residual.at(offset), target)
            base_step = f.choose(first, begin_step, to_column)
            weights_ahead, weights_step, weights_tile = asked_ahead(
                part_weights.at(numbers), numbers, row.index * block.columns + column, columns, pixels, products,
                lines_a_round(columns, f.dtype),
            )  # fmt: skip
            input_tile = columns * a["stride_w"] * a["pitch"]
            ahead = f.pick(input_ahead, pixel.at(input_tile), weights_ahead)
            ahead_step, ahead_tile = (
                f.choose(input_ahead, *either) for either in ((line, weights_step), (input_tile, weights_tile))
            )
            forward.call(
                f, columns, p.width, many=many, x=pixel, x_u=a["slot_i"] * a["row_pitch"], x_v=a["run_step"],
                u_count=u_count, v_count=v_count, length=length, w=part_weights,
                y=target, y_step=to_column, bias=f.pick(first, bias, zeros), base=base, base_step=base_step,
                channels=p.outputs, pixel_step=a["stride_w"] * a["pitch"], finished=f.choose(last, a["activated"], 0),
                ahead=ahead, ahead_step=ahead_step, ahead_tile=ahead_tile, output=output,
            )  # fmt: skip
    with f.if_(apart):
        there = Image(y, a["y_c"], a["y_h"], a["y_w"])
        copy_image(f, copy, there, beside, p.outputs, block.rows, block.columns)


@contextmanager
def _parts(f: Function, a: dict[str, Int]) -> Iterator[tuple[Value, Value, list[Int], list[Int]]]:
    """The sum over (u: tap row, v: run, l: number of it) in parts of at most `u_part` × `v_part` × `l_part`
    products; `cut_of_sum` chooses them. Of a part: whether it is the first and the last, where it begins, how much it
    has of each.

    What no tap meets has one, empty part, which still writes what the sums begin with.
    """
    wholes, most = (a["kernel_h"], a["runs"], a["run_length"]), (a["u_part"], a["v_part"], a["l_part"])
    with ExitStack() as loops:
        begin = [
            loops.enter_context(f.loop(whole.at_least(1), step=step)).index
            for whole, step in zip(wholes, most, strict=True)
        ]
        each = list(zip(begin, wholes, most, strict=True))
        yield (
            f.all_of(*[at.compare("==", 0) for at in begin]),
            f.all_of(*[(at + step).compare(">=", whole) for at, whole, step in each]),
            begin,
            [(whole - at).at_most(step) for at, whole, step in each],
        )
