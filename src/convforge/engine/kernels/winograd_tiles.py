"""Winograd's tiles of pixels: how images are cut into them, where each one's pixels are, and all of them transformed.

Used by the forward pass, the input gradient and the weight gradient alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from ...native.ir import Function, Int, Pointer, indices
from ...spec import ceil_div
from ..geometry import Axis, Sliding

# The numbers that describe the images, of one layout (channels side by side), and how they are cut into tiles.
TILE_ARGUMENTS = (
    "images height width pad_top pad_left dilation_h dilation_w out_height out_width tiles_h tiles_w "
    "groups channels outputs panels "  # channels of one group
    "x x_n x_h x_w y y_n y_h y_w zeros scratch scratch_bytes "
)

TABLE = 64
"""Addresses in a table: those of a patch of up to 8×8 pixels."""
TABLE_BYTES = TABLE * 8


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
        """As users call it; 3×3 kernels are the usual ones."""
        name = f"winograd {self.outputs}×{self.outputs}"
        return name if self.taps == 3 else f"{name} of {self.taps}×{self.taps}"


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
        return s.numbers | {"tiles_h": self.high, "tiles_w": self.wide, "panels": ceil_div(s.outputs, panel)}


def place_of(a: dict[str, Int], tile: Int, outputs: int) -> tuple[Int, Int, Int]:
    """Image, row and column of a tile's first output pixel. Tiles are numbered by these, the last running fastest;
    where there are gaps, those of each phase by turns."""
    image, down, across = indices(tile, a["tiles_h"], a["tiles_w"])

    def first(number: Int, gap: Int) -> Int:
        return number // gap * gap * outputs + number % gap

    return image, first(down, a["dilation_h"]), first(across, a["dilation_w"])


Locate: TypeAlias = Callable[[Int, Pointer], None]
"""Fills a table with the addresses of a tile of that number."""


@contextmanager
def each_tile(
    f: Function, locate: Locate, first: Int, count: Int, table: Pointer
) -> Iterator[tuple[Int, Pointer, Pointer]]:
    """`count` tiles from number `first` on: which of them it is, its addresses and those of the next.

    The next tile's pixels are asked for while one is transformed. Without that the patch comes from L3 or memory at
    12 GB/s: its pixels are pieces too short for the CPU's own prefetchers. With it, 64 channels at 224×224 take a third
    less altogether.
    """
    locate(first, table)
    with f.loop(count) as t:
        here, following = (table.at((t.index + n) % 2 * TABLE) for n in (0, 1))
        locate(first + t.index + 1, following)
        yield t.index, here, following


def transform_images(
    f: Function, locate: Locate, spread: Function, first: Int, count: Int, channels: Int, to: Pointer, tile_step: Int,
    step_: Int, vector_step: Int | int, table: Pointer,
) -> None:  # fmt: skip
    """`count` tiles from number `first` on through `spread`."""
    with each_tile(f, locate, first, count, table) as (t, here, following):
        f.call(
            spread, table=here, channels=channels, out=to.at(t * tile_step), step=step_, vector_step=vector_step,
            following=following,
        )  # fmt: skip


def locate_input(f: Function, a: dict[str, Int], locate: Function, outputs: int, group: Int) -> Locate:
    """The patch of x that a tile sees, at the group's first channel."""

    def of(t: Int, table: Pointer) -> None:
        image, row, column = place_of(a, t, outputs)
        x = f.address(a["x"]).at(image * a["x_n"] + group * a["channels"])
        f.call(
            locate, table=table, x=x, x_h=a["x_h"], x_w=a["x_w"], top=row - a["pad_top"], height=a["height"],
            left=column - a["pad_left"], width=a["width"], outside=f.address(a["zeros"]), gap_h=a["dilation_h"],
            gap_w=a["dilation_w"],
        )  # fmt: skip

    return of


def locate_output(
    f: Function, a: dict[str, Int], locate: Function, outputs: int, channel: Int, outside: Pointer
) -> Locate:
    """The tile's own pixels of y, at an output channel."""

    def of(t: Int, table: Pointer) -> None:
        image, row, column = place_of(a, t, outputs)
        y = f.address(a["y"]).at(image * a["y_n"] + channel)
        f.call(
            locate, table=table, x=y, x_h=a["y_h"], x_w=a["y_w"], top=row, height=a["out_height"],
            left=column, width=a["out_width"], outside=outside, gap_h=a["dilation_h"], gap_w=a["dilation_w"],
        )  # fmt: skip

    return of
