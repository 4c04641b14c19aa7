"""Convolution with few output channels: lanes along the pixels of an image row, tile rows along the output channels.

What it computes is what `direct.py` computes, at stride 1. There, lanes are output channels, so three outputs leave
thirteen of sixteen lanes empty, and one vector of outputs needs a broadcast for every multiply-add. Here a vector holds
pixels, so every lane works whatever the number of outputs.

The input gradient at stride s has one sliding for each of its s·s phases (see `geometry.py`). Here they are taken
together, as s·s times as many output channels of one convolution at stride 1 with T = ⌈k/s⌉ taps an axis:

    h + pad = p'·s + ρ,   i = t·s + ρ   ⇒   dx[h, c] = Σ_t Σ_k  dy[p' − t, k] · w[k, c, t·s + ρ]

Output channel (ρ, c) at p' is dx at h; taps with t·s + ρ ≥ k have weight zero. That multiplies by zeros (a share of
1 − (k/sT)² of the time: 23 % for 7×7 at stride 2, 16 % for 11×11 at stride 4), but three output channels become 12 or
48, and dy is read once for all of them.

When it applies: one group; stride 1, or an input gradient with dilation 1 where the stride is above 1, but not above
16, for then nearly all of it would be zeros; and gaps that do not take the kernel across far more than the image.

The loops, from outside in:

    task = (image, block of output pixels, group of R output channels)     shared out among the threads
        pack the block's input as [c][row][column], zeros in the padding   once a block: it stays in L2
        for a part of the sum, for V vectors of pixels
            for c, i, j                                                    registers: R × V sums
        bring the group's outputs into the tensor's layout

A block's rows lie one after the other with the padding between them, `pitch` numbers a row, and vectors run over
row ends: what they compute for a column in the padding is not used. So no tile is cut at the end of an image row, for a
loss of (k − 1)/(W + k − 1).

The tile, on AVX-512: 12 outputs × 2 vectors (24 sums, 2 inputs, 1 weight of 32 registers), 3 × 7, 6 × 4: the most
vectors that fit. A step of 12×2 is 24 FMAs, 12 cycles, beside 12 broadcast weights and 2 loads of input, which are
not aligned and count twice: 16 of the 24 loads that 12 cycles have room for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from llvmlite import ir

from ...native.ir import Arguments, Function, Int, Pointer, Value, kernel, tasks
from ...native.program import LINE, Layout, Program, code, step
from ...native.target import Target
from ...spec import ceil_div, round_up
from .. import traffic
from ..geometry import Axis, Problem, Sliding
from ..kernels.blocks import IMAGE_ARGUMENTS, Block, thread_scratch, tiles
from ..kernels.functions import apply
from ..kernels.pack import Image, copy_function, copy_image, fill_zeros
from ..kernels.tile import Tile
from ..nest import Held, Inner, Level, Nest, RegisterTile, largest_tile, many, shared_out
from ..plan import PRODUCTS_A_SUM, Job, Plan, Refusal
from ..prepared import Prepared

PACK_WEIGHTS = Arguments(
    "w w_k w_c w_i w_j outputs phase_outputs phases_h phases_w channels kernel_h kernel_w taps_h taps_w turned weights"
    # kernel: of the convolution at stride 1; taps: those that the weights have
)

PLANAR = Arguments(
    IMAGE_ARGUMENTS + "pitch plane outputs row_groups phase_outputs phases_h phases_w crop_top crop_left "
    "y y_n y_c y_h y_w y_height y_width weights bias bias_step residual c_part "
    "input_numbers staged_plane bias_at staged_at residual_at scratch scratch_bytes"
)

_MOST_VECTORS = 8
_LARGEST_STRIDE = 16


@dataclass(frozen=True, slots=True)
class Phased:
    """A convolution at stride 1 whose output channels are (phase, channel): `sliding` reads x and writes no further
    than the phases; position q of phase ρ is y's q·phases + ρ − crop."""

    sliding: Sliding
    phases: tuple[int, int]
    crops: tuple[int, int]
    y_size: tuple[int, int]
    taps: tuple[int, int]
    turned: bool

    @property
    def outputs(self) -> int:
        return self.phases[0] * self.phases[1] * self.sliding.outputs


_ONE_GROUP = Refusal("is for one group of channels")
_TOO_WIDE = Refusal("packs all rows that a kernel spans, and this one spans far more than the image has")


def forward(problem: Problem) -> Phased | Refusal:
    """The forward pass, where its stride is 1."""
    s = problem.forward()
    if problem.groups > 1:
        return _ONE_GROUP
    if s.vertical.stride > 1 or s.horizontal.stride > 1:
        return Refusal("reads neighbouring pixels as vectors, which a stride tears apart")
    if len(list(s.pieces())) > 1:
        return _TOO_WIDE
    size = (s.vertical.out, s.horizontal.out)
    return Phased(s, (1, 1), (0, 0), size, (s.vertical.kernel, s.horizontal.kernel), turned=False)


def input_gradient(problem: Problem) -> Phased | Refusal:
    """All phases of the input gradient at once."""
    s = problem.forward()
    axes = (s.vertical, s.horizontal)
    if problem.groups > 1:
        return _ONE_GROUP
    if any(a.stride > 1 and a.dilation > 1 for a in axes):
        return Refusal("takes all phases of a stride together, which gaps between taps forbid")
    if any(a.stride > _LARGEST_STRIDE for a in axes):
        return Refusal(f"takes all phases of a stride together: above {_LARGEST_STRIDE} nearly all would be zeros")

    def together(a: Axis) -> Axis:
        taps, first = ceil_div(a.kernel, a.stride), a.pad // a.stride
        return replace(
            a.exchanged(),
            out=(a.size - 1 + a.pad) // a.stride - first + 1,
            kernel=taps,
            stride=1,
            pad=(taps - 1) * a.dilation - first,
        )

    v, h = axes
    return Phased(
        replace(s.exchanged(), vertical=together(v), horizontal=together(h)),
        (v.stride, h.stride),
        (v.pad % v.stride, h.pad % h.stride),
        (v.size, h.size),
        (v.kernel, h.kernel),
        turned=True,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Sizes
# ---------------------------------------------------------------------------------------------------------------------


def vectors_beside(rows: int, target: Target) -> int:
    """The most vectors of pixels with which so many rows of sums, the inputs and a weight (and, where there is no FMA,
    a product) stay in registers."""
    return max(1, min(_MOST_VECTORS, (target.registers - 2) // (rows + 1)))


def rows_of(outputs: int, target: Target) -> int:
    """Output channels of a tile, beside which there is room for two vectors: as few groups as there must be, all of the
    same size."""
    return ceil_div(outputs, ceil_div(outputs, (target.registers - 2) // 2 - 1))


@dataclass(frozen=True, slots=True)
class _Blocks:
    rows: int
    columns: int
    pitch: int
    plane: int
    staged_plane: int
    cycles: float
    """What the thread with the most blocks takes."""


def _blocks(job: Job, p: Phased, threads: int) -> _Blocks:
    """Blocks whose packed input takes at most half of L2, as many as come out fastest for the threads."""
    s, v, h = p.sliding, p.sliding.vertical, p.sliding.horizontal
    reach_h, reach_w = v.extent - 1, h.extent - 1
    budget = job.target.l2_bytes // 2 // (s.channels * job.size)
    columns = max(1, min(h.out, max(2 * job.lanes, budget // (reach_h + 2) - reach_w)))
    columns = ceil_div(h.out, max(1, ceil_div(h.out, columns)))
    most = max(1, min(v.out, budget // max(1, columns + reach_w) - reach_h))
    fewest = max(1, ceil_div(v.out, most))
    candidates = range(fewest, min(max(1, v.out), fewest + 4 * threads) + 1)
    return min((_cut(job, p, threads, ceil_div(v.out, n), columns) for n in candidates), key=lambda b: b.cycles)


def _cut(job: Job, p: Phased, threads: int, rows: int, columns: int) -> _Blocks:
    """Blocks of so many rows and columns, and what they cost: multiply-adds of whole vectors, at the 0.88 of the peak
    that tiles reach, numbers that are packed (0.6 cycles each: transposed, in L2) and numbers that are brought back."""
    s, lanes, line = p.sliding, job.lanes, LINE // job.size
    v, h = s.vertical, s.horizontal
    pitch = h.seen_by(columns)
    # An odd number of lines a plane, so that the planes' pixels do not share cache sets.
    plane = (ceil_div(v.seen_by(rows) * pitch, line) | 1) * line
    staged_plane = (ceil_div(rows * pitch, lanes) | 1) * lanes
    tile_rows = rows_of(p.outputs, job.target)
    groups = ceil_div(p.outputs, tile_rows)
    vectors = ceil_div((rows - 1) * pitch + columns, lanes)
    one = s.taps * tile_rows * vectors / (2 * 0.88) + tile_rows * rows * columns * 30 / lanes
    blocks = s.images * ceil_div(v.out, max(1, rows)) * ceil_div(h.out, max(1, columns))
    tasks = ceil_div(blocks * groups, threads)  # of the thread with the most
    cycles = tasks * one + ceil_div(tasks, groups) * s.channels * plane * 10 / lanes
    return _Blocks(rows, columns, pitch, plane, staged_plane, cycles)


def plan(job: Job) -> Plan | Refusal:
    """The forward pass at stride 1, and input gradients, of one group.

    Priced for two threads, so that the choice, and with it the last bits of the result, is the same for any number.
    """
    if job.for_weights:
        return Refusal("computes images; the gradient of the weights is none")
    phased = input_gradient(job.problem) if job.backward else forward(job.problem)
    if isinstance(phased, Refusal):
        return phased
    packing = 0.0 if job.kept else 3.0 * phased.outputs * phased.sliding.taps
    weights = traffic.of_weights(phased.outputs * phased.sliding.taps * job.size, job.target)
    cycles = (2 * _blocks(job, phased, 2).cycles + weights + packing) / job.threads
    return Planar(job, cycles, phased)


@dataclass(frozen=True)
class Planar(Plan):
    """The forward pass or the input gradient: blocks of the image × groups of output channels."""

    phased: Phased

    @cached_property
    def blocks(self) -> _Blocks:
        return _blocks(self.job, self.phased, self.job.threads)

    @property
    def rows(self) -> int:
        """Output channels of a tile."""
        return rows_of(self.phased.outputs, self.job.target)

    @property
    def nest(self) -> Nest:
        """The loops over blocks, groups of output channels, vectors of pixels and products."""
        job, p, b, rows, size = self.job, self.phased, self.blocks, self.rows, self.job.size
        s = p.sliding
        v, h = s.vertical, s.horizontal
        groups = ceil_div(p.outputs, rows)
        blocks = s.images * ceil_div(v.out, b.rows) * ceil_div(h.out, b.columns)
        channels = min(s.channels, _channels_a_part(s))
        in_block = ceil_div((b.rows - 1) * b.pitch + b.columns, job.lanes)
        vectors = largest_tile(in_block, vectors_beside(rows, job.target))
        units = [
            Level(blocks, "block", f"of {b.rows}×{b.columns} result pixels"),
            Level(groups, "group", f"of {rows} result channels"),
        ]
        copied = f"copy its input as {many(s.channels, 'plane')}, zeros for the padding"
        past_rows = f"of at most {many(vectors, 'vector')} of pixels, past the ends of rows"
        levels = (
            shared_out("task", job.threads, units, 1, f"for a new block, {copied}"),
            Level(ceil_div(s.channels, channels), "part", f"of the sum, of at most {many(channels, 'channel')}"),
            Level(ceil_div(in_block, vectors), "tile", past_rows),
            Level(channels * v.kernel, "row", "of taps"),
            Level(h.kernel, "product", "added to every sum of the tile"),
        )
        held = (
            Held("all weights, packed", groups * rows * s.taps * size),
            Held("a block's packed input", s.channels * b.plane * size, "L2"),
            Held("a block's sums of a group of channels", rows * b.staged_plane * size, "L2"),
            Held("weights of a part of the sum", rows * channels * v.kernel * h.kernel * size, "L1"),
        )
        phases = p.phases[0] * p.phases[1]
        return Nest(
            levels,
            RegisterTile(
                rows, "result channels", vectors, "result pixels", job.lanes, job.target.registers, factor="weight"
            ),
            held,
            Inner(build, f"planar_{rows}x{vectors}", (rows,)),
            after="bring the results into their layout",
            note=f"all {phases} phases of the stride together, as {p.outputs} result channels" if phases > 1 else "",
        )

    def prepared(self, name: str) -> Prepared:
        job, p, b, rows, size = self.job, self.phased, self.blocks, self.rows, self.job.size
        s = p.sliding
        v, h = s.vertical, s.horizontal
        row_groups = ceil_div(p.outputs, rows)
        kernels = code(build, ("pack_weights", "planar"), job.dtype, job.target, rows, job.finish.activation)
        # Tiles may read past the last plane: up to a tile's vectors and a kernel's reach.
        most = vectors_beside(rows, job.target)
        beyond = most * job.lanes + (v.extent - 1) * b.pitch + h.kernel * h.dilation
        input_numbers = round_up(s.channels * b.plane + beyond, LINE // size)
        staged, scratch = rows * b.staged_plane, Layout()
        counts = (input_numbers, rows * job.lanes, staged, staged if job.finish.residual else 0)
        _, bias_at, staged_at, residual_at = (scratch.take(count * size) // size for count in counts)
        numbers = job.numbers(s) | {
            "outputs": p.outputs, "phase_outputs": s.outputs, "phases_h": p.phases[0], "phases_w": p.phases[1],
            "taps_h": p.taps[0], "taps_w": p.taps[1], "turned": int(p.turned),
            "block_rows": b.rows, "block_columns": b.columns,
            "row_blocks": ceil_div(v.out, max(1, b.rows)), "column_blocks": ceil_div(h.out, max(1, b.columns)),
            "pitch": b.pitch, "plane": b.plane, "row_groups": row_groups,
            "crop_top": p.crops[0], "crop_left": p.crops[1], "y_height": p.y_size[0], "y_width": p.y_size[1],
            "c_part": _channels_a_part(s), "input_numbers": input_numbers, "staged_plane": b.staged_plane,
            "bias_at": bias_at, "staged_at": staged_at, "residual_at": residual_at, "scratch_bytes": scratch.size,
        }  # fmt: skip
        layout, packed = Layout(), Layout()
        at = job.places(s) | {
            "weights": ("packed", packed.take(row_groups * rows * s.taps * size)),
            "scratch": ("work", layout.take(scratch.size * job.threads)),
        }
        pack = step(kernels["pack_weights"], job.threads, PACK_WEIGHTS, numbers, at)
        compute = step(kernels["planar"], job.threads, PLANAR, numbers, at)
        return Prepared(name, job.threads, Program((compute,), layout.size), Program((pack,)), packed.size)


def _channels_a_part(s: Sliding) -> int:
    """Input channels of a part of the sum."""
    return max(1, PRODUCTS_A_SUM // (s.vertical.kernel * s.horizontal.kernel))


# ---------------------------------------------------------------------------------------------------------------------
# Kernels
# ---------------------------------------------------------------------------------------------------------------------


def build(module: ir.Module, dtype: str, target: Target, rows: int, activation: str = "") -> None:
    """Adds the kernels `pack_weights` and `planar`, for tiles of so many rows, to the module."""
    lanes, most = target.lanes(dtype), vectors_beside(rows, target)
    copy = copy_function(module, dtype, lanes)
    _pack_weights(module, dtype, rows)
    tile_of = {v: _tile(module, dtype, lanes, rows, v) for v in range(1, most + 1)}

    f, a = kernel(module, "planar", dtype, PLANAR)
    scratch = f.address(thread_scratch(f, a))
    blocks = a["images"] * a["row_blocks"] * a["column_blocks"]
    with tasks(f, blocks * a["row_groups"], carry=[f.const(-1)]) as task:
        index, group = task.index // a["row_groups"], task.index % a["row_groups"]
        block = _Block(f, a, index, group, rows, lanes)
        (packed,) = task.values
        with f.if_(index.compare("!=", packed)):
            block.pack_planes(scratch, copy, packed.compare("<", 0))
        block.spread_bias(scratch.at(a["bias_at"]))
        block.slide(scratch, tile_of, most)
        block.finish(scratch, copy, activation)
        block.bring_back(scratch.at(a["staged_at"]), copy)
        task.carry([index])
    f.done()


class _Block(Block):
    """One block of output pixels × one group of output channels while code for it is generated."""

    def __init__(self, f: Function, a: dict[str, Int], index: Int, outputs: Int, tile_rows: int, lanes: int) -> None:
        super().__init__(f, a, index, lanes)
        self.tile_rows, self.outputs = tile_rows, outputs
        self.first_output = outputs * tile_rows
        self.end_output = (self.first_output + tile_rows).at_most(a["outputs"])

    def pack_planes(self, scratch: Pointer, copy: Function, first: Value) -> None:
        """The block's input as [c][row][column]; zeros in the padding and behind the planes."""
        f, a, top = self.f, self.a, self.top
        rows = self.rows + (a["kernel_h"] - 1) * a["dilation_h"]
        _, inside, inside_end = self.columns_seen()
        # The thread's block before has left zeros beside whole rows; rows above and below the image it has not.
        fresh = (first, a["column_blocks"].compare(">", 1), top.compare("<", 0), (top + rows).compare(">", a["height"]))
        with f.if_(f.any_of(*fresh)):
            fill_zeros(f, scratch, a["input_numbers"], self.lanes)
        with f.loop(rows) as slot:
            row = top + slot.index
            exists = (row.compare(">=", 0), row.compare("<", a["height"]), inside_end.compare(">", inside))
            with f.if_(f.all_of(*exists)):
                here = self.source().at(row * a["x_h"] + (self.left + inside) * a["x_w"])
                there = scratch.at(slot.index * a["pitch"] + inside)
                f.call(
                    copy, to=there, to_i=a["plane"], to_j=1, source=here, source_i=a["x_c"], source_j=a["x_w"],
                    width=a["channels"], length=inside_end - inside,
                )  # fmt: skip

    def spread_bias(self, to: Pointer) -> None:
        """What each output channel's sums are added to, in all lanes; zeros where there is no channel."""
        f, a = self.f, self.a
        fill_zeros(f, to, f.const(self.tile_rows * self.lanes), self.lanes)
        with f.if_(a["bias_step"].compare("!=", 0)), f.loop(self.end_output, start=self.first_output) as output:
            number = f.address(a["bias"]).at(output.index % a["phase_outputs"]).scalar()
            to.at((output.index - self.first_output) * self.lanes).put(f.splat(number, self.lanes))

    def slide(self, scratch: Pointer, tile_of: dict[int, Function], most: int) -> None:
        f, a, lanes = self.f, self.a, self.lanes
        staged, bias = scratch.at(a["staged_at"]), scratch.at(a["bias_at"])
        taps = a["kernel_h"] * a["kernel_w"]
        vectors = ((self.rows - 1) * a["pitch"] + self.columns + (lanes - 1)) // lanes
        weights = f.address(a["weights"]).at(self.outputs * a["channels"] * taps * self.tile_rows)
        with f.loop(a["channels"], step=a["c_part"]) as part, tiles(f, vectors, most) as (vector, size):
            x = scratch.at(part.index * a["plane"] + vector * lanes)
            to = staged.at(vector * lanes)
            first = part.index.compare("==", 0)
            f.dispatch(
                size, tile_of, x=x, x_c=a["plane"], x_i=a["dilation_h"] * a["pitch"], x_j=a["dilation_w"],
                c_count=(a["channels"] - part.index).at_most(a["c_part"]), i_count=a["kernel_h"],
                j_count=a["kernel_w"], w=weights.at(part.index * taps * self.tile_rows), y=to, y_r=a["staged_plane"],
                base=f.pick(first, bias, to), base_r=f.choose(first, lanes, a["staged_plane"]),
                base_v=f.choose(first, 0, lanes),
            )  # fmt: skip

    def finish(self, scratch: Pointer, copy: Function, activation: str) -> None:
        """The residual added, which is brought beside the sums first, and the activation. It is the forward pass that
        has them, whose outputs are those of one phase."""
        f, a, lanes = self.f, self.a, self.lanes
        staged, beside = scratch.at(a["staged_at"]), scratch.at(a["residual_at"])
        outputs = self.end_output - self.first_output
        numbers = self.rows * a["pitch"]

        def change(new: Callable[[Int], Value]) -> None:
            with f.loop(outputs) as output, f.loop(numbers, step=lanes) as part:
                at = output.index * a["staged_plane"] + part.index
                staged.at(at).put(new(at))

        with f.if_(a["residual"].compare("!=", 0)):
            residual = f.address(a["residual"]).at(self.corner(self.first_output))
            here = Image(residual, a["y_c"], a["y_h"], a["y_w"])
            there = Image(beside, a["staged_plane"], a["pitch"], 1)
            copy_image(f, copy, there, here, outputs, self.rows, self.columns)
            change(lambda at: f.add(staged.at(at).vector(lanes), beside.at(at).vector(lanes)))
        if activation:
            change(lambda at: apply(f, activation, staged.at(at).vector(lanes)))

    def bring_back(self, staged: Pointer, copy: Function) -> None:
        """The group's outputs, phase by phase and row by row, to where they belong in y."""
        f, a = self.f, self.a
        per_phase = a["phase_outputs"]
        with f.loop((self.end_output - 1) // per_phase + 1, start=self.first_output // per_phase) as phase:
            lowest = (phase.index * per_phase).at_least(self.first_output)
            highest = ((phase.index + 1) * per_phase).at_most(self.end_output)
            down, across = phase.index // a["phases_w"], phase.index % a["phases_w"]
            # Of the positions of this phase, the first and the last may lie outside y.
            begin = f.choose(across.compare("<", a["crop_left"]), 1, 0) - self.first_column
            stop = (a["y_width"] + a["crop_left"] - across + (a["phases_w"] - 1)) // a["phases_w"] - self.first_column
            begin, stop = begin.at_least(0), stop.at_most(self.columns)
            first_w = (self.first_column + begin) * a["phases_w"] + across - a["crop_left"]
            to = f.address(a["y"]).at(
                self.image * a["y_n"] + (lowest - phase.index * per_phase) * a["y_c"] + first_w * a["y_w"]
            )
            from_ = staged.at((lowest - self.first_output) * a["staged_plane"] + begin)
            with f.loop(self.rows) as row:
                h = (self.first_row + row.index) * a["phases_h"] + down - a["crop_top"]
                exists = (h.compare(">=", 0), h.compare("<", a["y_height"]), stop.compare(">", begin))
                with f.if_(f.all_of(*exists)):
                    f.call(
                        copy, to=to.at(h * a["y_h"]), to_i=a["y_c"], to_j=a["phases_w"] * a["y_w"],
                        source=from_.at(row.index * a["pitch"]), source_i=a["staged_plane"], source_j=1,
                        width=highest - lowest, length=stop - begin,
                    )  # fmt: skip


def _tile(module: ir.Module, dtype: str, lanes: int, rows: int, vectors: int) -> Function:
    """Sums for `rows` output channels and `vectors` vectors of pixels.

    y[r, v] = base[r, v] + Σ_c Σ_i Σ_j  x[c·x_c + i·x_i + j·x_j + v] · w[c, i, j, r]
    """
    names = "*x x_c x_i x_j c_count i_count j_count *w *y y_r *base base_r base_v"
    f = Function(module, f"planar_{rows}x{vectors}", names, dtype, internal=True)
    x, w, y, base = f.pointers("x w y base")
    x_c, x_i, x_j, c_count, i_count, j_count = f.integers("x_c x_i x_j c_count i_count j_count")
    y_r, base_r, base_v = f.integers("y_r base_r base_v")
    tile = Tile(rows, vectors, lanes)  # its rows are output channels here, and its vectors pixels
    sums = tile.filled_with([f.zeros(lanes)] * vectors)
    with f.loop(c_count, carry=[x, w, *sums]) as c:
        plane = c.values[0]
        with f.loop(i_count, carry=c.values) as i:
            line = i.values[0]
            with f.loop(j_count, carry=i.values) as j:
                here, weights, *sums = j.values
                sums = tile.multiply(f, weights.at, here, sums)
                j.carry([here.at(x_j), weights.at(rows), *sums])
            i.carry([line.at(x_i), *j.values[1:]])
        c.carry([plane.at(x_c), *i.values[1:]])
    for (r, v), total in zip(tile.places, c.values[2:], strict=True):
        y.at(y_r * r + v * lanes).put(f.add(total, base.at(base_r * r + base_v * v).vector(lanes)))
    f.done()
    return f


def _pack_weights(module: ir.Module, dtype: str, rows: int) -> None:
    """Weights of any layout as [group of rows][c][i][j][row], zeros where there is no output channel or no tap."""
    f, a = kernel(module, "pack_weights", dtype, PACK_WEIGHTS)
    taps = a["kernel_h"] * a["kernel_w"]
    padded = (a["outputs"] + (rows - 1)) // rows * rows
    with tasks(f, padded * taps) as task:
        output, tap = task.index // taps, task.index % taps
        i, j = tap // a["kernel_w"], tap % a["kernel_w"]
        phase, k = output // a["phase_outputs"], output % a["phase_outputs"]
        # Turned, the taps run from the last to the first, and belong to the phase.
        turned = a["turned"].compare("!=", 0)
        i = f.choose(turned, (a["kernel_h"] - 1 - i) * a["phases_h"] + phase // a["phases_w"], i)
        j = f.choose(turned, (a["kernel_w"] - 1 - j) * a["phases_w"] + phase % a["phases_w"], j)
        exists = (output.compare("<", a["outputs"]), i.compare("<", a["taps_h"]), j.compare("<", a["taps_w"]))
        source = f.address(a["w"]).at(k * a["w_k"] + i * a["w_i"] + j * a["w_j"])
        group, row = output // rows, output % rows
        to = f.address(a["weights"]).at((group * a["channels"] * taps + tap) * rows + row)
        with f.if_else(f.all_of(*exists)) as (weights, nothing):
            with weights, f.loop(a["channels"]) as c:
                to.at(c.index * taps * rows).put(source.at(c.index * a["w_c"]).scalar())
            with nothing, f.loop(a["channels"]) as c:
                to.at(c.index * taps * rows).put(f.scalar_zero())
    f.done()
