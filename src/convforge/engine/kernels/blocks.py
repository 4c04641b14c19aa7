"""Blocks of output pixels, and the piece of the input that each of them sees, packed into a thread's scratch memory.

A block is `block_rows` × `block_columns` output pixels of one image and one group. Its input is copied into scratch
with the padding written out as zeros, channels side by side, `pitch` numbers a pixel, so that the inner kernels meet no
border and no layout. Copying costs each input number once a block, against k·k·K/g multiply-adds that it feeds.

Rows in scratch are numbered by slots. Tap i of output row r is in slot r·slot_r + i·slot_i. Two ways to number them:

- dense:   every input row between the first and the last one once; slot_r = stride, slot_i = dilation;
- sparse:  for each output row its k tap rows; slot_r = k, slot_i = 1. Fewer rows where dilation or stride leaves gaps.

Where the input needs no packing at all (channels side by side, nothing padded), the kernels read it in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...native.ir import Function, Int, Pointer, indices
from .pack import fill_zeros

# The numbers that describe the images and the blocks of their outputs. Strides count elements.
IMAGE_ARGUMENTS = (
    "x x_n x_c x_h x_w images groups channels all_channels height width "  # channels: those of one group
    "out_height out_width kernel_h kernel_w stride_h stride_w dilation_h dilation_w pad_top pad_left "
    "block_rows block_columns row_blocks column_blocks "
)
# And how each block's input lies; each algorithm adds its own.
BLOCK_ARGUMENTS = IMAGE_ARGUMENTS + (
    "pitch row_pitch in_place "  # numbers a pixel and a row, in scratch or, where in_place, in the input itself
    "slot_r slot_i "  # the slot of a tap, as above
    "slot_sets set_size set_step member_step "  # which input row each slot holds: see pack_input
    "runs run_step run_length "  # a row of taps as runs of numbers that lie side by side
    "scratch scratch_bytes"  # of each thread
)


class Block:
    """One block while code for it is generated: where it is, how large, and where its input lies."""

    def __init__(self, f: Function, a: dict[str, Int], index: Int, lanes: int) -> None:
        """`index` counts (image, group, row block, column block), the last running fastest."""
        self.f, self.a, self.lanes = f, a, lanes
        places = indices(index, a["groups"], a["row_blocks"], a["column_blocks"])
        self.image, self.group, row_block, column_block = places
        # Where channels do not divide evenly (depthwise, by whole vectors), the last group has fewer.
        self.channels = (a["all_channels"] - self.group * a["channels"]).at_most(a["channels"])
        self.first_row = row_block * a["block_rows"]
        self.first_column = column_block * a["block_columns"]
        self.rows = (a["out_height"] - self.first_row).at_most(a["block_rows"])
        self.columns = (a["out_width"] - self.first_column).at_most(a["block_columns"])
        self.top = self.first_row * a["stride_h"] - a["pad_top"]
        self.left = self.first_column * a["stride_w"] - a["pad_left"]

    def corner(self, output: Int) -> Int:
        """Where in y the block's first pixel of an output channel is."""
        a = self.a
        return self.image * a["y_n"] + output * a["y_c"] + self.first_row * a["y_h"] + self.first_column * a["y_w"]

    def source(self) -> Pointer:
        """Channel 0 of the block's image and group."""
        a = self.a
        return self.f.address(a["x"]).at(self.image * a["x_n"] + self.group * a["channels"] * a["x_c"])

    def input_in_place(self) -> Pointer:
        return self.source().at(self.top * self.a["x_h"] + self.left * self.a["x_w"])

    def columns_seen(self) -> tuple[Int, Int, Int]:
        """How many the block's kernels span, and where of these begin and end those that are in the image; the rest is
        padding."""
        a = self.a
        span = (self.columns - 1) * a["stride_w"] + (a["kernel_w"] - 1) * a["dilation_w"] + 1
        inside = (self.left * -1).at_least(0).at_most(span)
        return span, inside, (a["width"] - self.left).at_most(span).at_least(inside)

    def pack_input(self, scratch: Pointer, copy: Function) -> None:
        """Copy the block's input into scratch, zeros where it lies outside the image."""
        f, a = self.f, self.a
        source, (span, inside, inside_end) = self.source(), self.columns_seen()
        # Slots come in sets: dense, a set is one input row; sparse, the tap rows of one output row.
        sets = (self.rows - 1) * (a["slot_r"] // a["set_size"]) + a["slot_sets"]
        with f.loop(sets) as set_, f.loop(a["set_size"]) as member:
            slot = set_.index * a["set_size"] + member.index
            row = self.top + set_.index * a["set_step"] + member.index * a["member_step"]
            target = scratch.at(slot * a["row_pitch"])
            row_inside = f.all_of(row.compare(">=", 0), row.compare("<", a["height"]))
            with f.if_else(row_inside) as (copied, empty):
                with copied:
                    fill_zeros(f, target, inside * a["pitch"], self.lanes)
                    here = source.at(row * a["x_h"] + (self.left + inside) * a["x_w"])
                    self._copy_row(copy, target.at(inside * a["pitch"]), here, inside_end - inside)
                    after = target.at(inside_end * a["pitch"])
                    fill_zeros(f, after, (span - inside_end) * a["pitch"], self.lanes)
                with empty:
                    fill_zeros(f, target, span * a["pitch"], self.lanes)

    def _copy_row(self, copy: Function, to: Pointer, from_: Pointer, pixels: Int) -> None:
        f, a = self.f, self.a
        touching = f.all_of(
            a["x_c"].compare("==", 1), a["x_w"].compare("==", self.channels), a["pitch"].compare("==", self.channels)
        )
        # A row whose pixels touch on both sides is one long "pixel": few channels then still move as whole vectors.
        width = f.choose(touching, pixels * self.channels, self.channels)
        length = f.choose(touching, f.choose(pixels.compare(">", 0), 1, 0), pixels)
        f.call(
            copy, to=to, to_i=1, to_j=a["pitch"], source=from_, source_i=a["x_c"], source_j=a["x_w"], width=width,
            length=length,
        )  # fmt: skip


@contextmanager
def tiles(f: Function, columns: Int, rows: int) -> Iterator[tuple[Int, Int]]:
    """Cut `columns` into as few tiles of at most `rows` as there must be, all of nearly the same size.

    `with tiles(f, columns, 14) as (first, size):` runs the body, for 15 columns, with (0, 7) and (7, 8).
    """
    count = (columns + (rows - 1)) // rows
    with f.loop(count) as loop:
        first = loop.index * columns // count
        yield first, (loop.index + 1) * columns // count - first


@contextmanager
def runs_of_tiles(f: Function, columns: Int, rows: int) -> Iterator[tuple[Int, Int, Int]]:
    """The same tiles, those of one size at a time: where the first one begins, their size, and how many they are.

    `with runs_of_tiles(f, columns, 14) as (first, size, many):` runs the body, for 15 columns, with (0, 8, 1) and
    (8, 7, 1), for 28 columns with (0, 14, 2) only. What a call of a tile's code costs, some 70 cycles, is paid once a
    run.
    """
    count = (columns + (rows - 1)) // rows
    size = columns // count.at_least(1)
    larger = columns - size * count
    with f.loop(2, start=f.choose(larger.compare("==", 0), 1, 0)) as kind:
        smaller = kind.index.compare("==", 1)
        first = f.choose(smaller, larger * (size + 1), 0)
        yield first, size + 1 - kind.index, f.choose(smaller, count - larger, larger)


def thread_scratch(f: Function, a: dict[str, Int]) -> Int:
    """Where the calling thread's own scratch memory is."""
    return a["scratch"] + f.integer("thread") * a["scratch_bytes"]
