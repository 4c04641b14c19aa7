"""Direct convolution: every input multiplied by every weight that it meets, in NHWC, through the register tile.

What it computes (`sliding`), for a group of C input and K output channels, with x zero outside the image:

    y[n, p, q, k] = bias[k] + Σᵢ Σⱼ Σ_c  x[n, p·s + i·d − pad, q·s + j·d − pad, c] · w[k, c, i, j]

When it applies: always. Kernel, stride, per-side padding (negative ones crop), dilation, groups, sizes and layouts are
numbers that the generated code reads at run time, so one compiled form serves all. The input gradient runs through the
same code: it is one `sliding` for each phase of the stride (see `geometry.py`).

The loops, from outside in, with what each level keeps close:

    task = (image, group, block of output pixels, panel of output channels)      shared out among the threads
        pack the block's input                     once a block: it stays in L2 while the panels change
        for a part of the kernel's rows            the panel's weights for the part fit into half of L2
            for output row, for tile in the row
                for tap row, for run, for number   registers: rows × vectors sums, never spilled

Weights are packed as [group][panel][i][j][c][lane]: the inner loop reads them as one stream. A panel is
`tile_vectors` vectors of output channels wide (32 on AVX-512); the last one may be narrower.

Example, AVX-512, 64→64 channels, 3×3, 56×56: a panel's weights are 9·64·32·4 = 74 KB, streamed from L2 at 128 bytes
a 14 cycles; a block of 8 rows sees 10·58·64·4 = 148 KB of input.
"""

from __future__ import annotations

from llvmlite import ir

from .blocks import BLOCK_ARGUMENTS, Block, thread_scratch, tiles
from .gemm import forward_tile
from .ir import Arguments, Function, Int, Pointer, kernel, share
from .pack import copy_function, fill_zeros
from .target import Target

PACK_WEIGHTS = Arguments("w w_g w_k w_c w_i w_j groups panels outputs channels kernel_h kernel_w packed")

SLIDING = Arguments(
    BLOCK_ARGUMENTS
    + " y y_n y_c y_h y_w outputs panels weights rows_a_part bias bias_step staging"  # outputs: of one group
)


def build(module: ir.Module, dtype: str, target: Target) -> None:
    """Adds the kernels `pack_weights` and `sliding` to the module."""
    lanes, panel = target.lanes(dtype), target.lanes(dtype) * target.tile_vectors
    copy = copy_function(module, dtype, lanes)
    _pack_weights(module, dtype, copy, lanes, panel)
    wide = {r: forward_tile(module, dtype, target, r, target.tile_vectors) for r in _sizes(target)}
    narrow = {r: forward_tile(module, dtype, target, r, 1) for r in _sizes(target)}

    f, array, thread, threads = kernel(module, "sliding", dtype)
    a = SLIDING.read(array)
    scratch = thread_scratch(f, a, thread)
    blocks = a["images"] * a["groups"] * a["row_blocks"] * a["column_blocks"]
    first, end = share(blocks * a["panels"], thread, threads)
    none_yet = f.const(-1).value
    with f.loop(end, start=first, carry=[none_yet]) as task:
        index = task.index // a["panels"]
        panel_index = task.index % a["panels"]
        block = Block(f, a, index, lanes)
        packed_block = Int(f.builder, task.values[0])
        with f.if_(f.all_of(index.compare("!=", packed_block), a["in_place"].compare("==", 0))):
            block.pack_input(scratch, copy)
        x = f.pick(a["in_place"].compare("!=", 0), block.input_in_place(), scratch)
        _panel(f, a, block, x, scratch, panel_index, panel, wide, narrow, copy, target.tile_rows)
        task.carry([index.value])
    f.done()


def _sizes(target: Target) -> range:
    return range(1, target.tile_rows + 1)


def _panel(
    f: Function,
    a: dict[str, Int],
    block: Block,
    x: Pointer,
    scratch: Pointer,
    panel_index: Int,
    panel: int,
    wide: dict[int, Function],
    narrow: dict[int, Function],
    copy: Function,
    tile_rows: int,
) -> None:
    """One block of output pixels × one panel of output channels."""
    channel = panel_index * panel
    outputs = (a["outputs"] - channel).at_most(panel)
    width = f.choose(outputs.compare(">", panel // 2), panel, panel // 2)
    taps = a["kernel_h"] * a["kernel_w"] * a["channels"]
    # All panels but a group's last are `panel` wide, and the last one is stored at the same distance.
    weights = f.address(a["weights"]).at((block.group * a["panels"] + panel_index) * panel * taps)
    bias = f.address(a["bias"]).at((block.group * a["outputs"] + channel) * a["bias_step"])

    # Channels side by side: straight into the output. Otherwise into scratch, and from there across.
    straight = a["y_c"].compare("==", 1)
    y = f.address(a["y"]).at(
        block.image * a["y_n"]
        + (block.group * a["outputs"] + channel) * a["y_c"]
        + block.first_row * a["y_h"]
        + block.first_column * a["y_w"]
    )
    staged = scratch.at(a["staging"])
    to = f.pick(straight, y, staged)
    to_row = f.choose(straight, a["y_h"], block.columns * panel)
    to_column = f.choose(straight, a["y_w"], panel)

    # A phase of an input gradient may have no tap at all; its one, empty part still writes the zeros.
    with f.loop(a["kernel_h"].at_least(1), step=a["rows_a_part"]) as part:
        first_tap = part.index
        tap_rows = (a["kernel_h"] - first_tap).at_most(a["rows_a_part"])
        part_weights = weights.at(first_tap * a["kernel_w"] * a["channels"] * width)
        fresh = first_tap.compare("==", 0)
        with f.loop(block.rows) as row, tiles(f, block.columns, tile_rows) as tile:
            pixel = x.at(
                (row.index * a["slot_r"] + first_tap * a["slot_i"]) * a["row_pitch"]
                + tile.first * a["stride_w"] * a["pitch"]
            )
            target = to.at(row.index * to_row + tile.first * to_column)
            start = f.pick(fresh, bias, target)
            start_step = f.choose(fresh, 0, to_column)
            arguments = (
                pixel, a["slot_i"] * a["row_pitch"], a["run_step"], tap_rows, a["runs"], a["run_length"],
                part_weights, target, to_column, start, start_step, outputs,
                a["stride_w"] * a["pitch"],
            )  # fmt: skip
            with f.if_else(outputs.compare(">", panel // 2)) as (two, one):
                with two:
                    f.dispatch(tile.size, wide, *arguments)
                with one:
                    f.dispatch(tile.size, narrow, *arguments)
    with f.if_(a["y_c"].compare("!=", 1)):
        # Rows that touch go across as one.
        one_row = a["y_h"].compare("==", block.columns * a["y_w"])
        rows = f.choose(one_row, 1, block.rows)
        columns = f.choose(one_row, block.rows * block.columns, block.columns)
        with f.loop(rows) as row:
            target = y.at(row.index * a["y_h"])
            f.call(
                copy, target, a["y_c"], a["y_w"], staged.at(row.index * to_row), f.const(1), to_column, outputs, columns
            )


def _pack_weights(module: ir.Module, dtype: str, copy: Function, lanes: int, panel: int) -> None:
    """Weights of any layout as [group][panel][i][j][c][lane], zeros in the lanes beyond the last output channel."""
    f, array, thread, threads = kernel(module, "pack_weights", dtype)
    a = PACK_WEIGHTS.read(array)
    kernel_size = a["kernel_h"] * a["kernel_w"]
    first, end = share(a["groups"] * a["panels"] * kernel_size, thread, threads)
    with f.loop(end, start=first) as task:
        tap, panel_index = task.index % kernel_size, task.index // kernel_size % a["panels"]
        group = task.index // kernel_size // a["panels"]
        i, j = tap // a["kernel_w"], tap % a["kernel_w"]
        outputs = (a["outputs"] - panel_index * panel).at_most(panel)
        width = f.choose(outputs.compare(">", panel // 2), panel, panel // 2)
        source = f.address(a["w"]).at(group * a["w_g"] + panel_index * panel * a["w_k"] + i * a["w_i"] + j * a["w_j"])
        block = f.address(a["packed"]).at((group * a["panels"] + panel_index) * panel * kernel_size * a["channels"])
        target = block.at(tap * a["channels"] * width)
        with f.if_(outputs.compare("<", width)):
            fill_zeros(f, target, a["channels"] * width, lanes)
        f.call(copy, target, f.const(1), width, source, a["w_k"], a["w_c"], outputs, a["channels"])
    f.done()
