"""The loop nest of kernels that go over tensors number by number: as few and as long rows as the strides allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...native.ir import Function, Int, Value
from ...native.runtime import usable_threads
from ...spec import ceil_div
from ..tensor import Strides, Tensor

_NUMBERS_A_TASK = 8192
_NUMBERS_WORTH_A_THREAD = 16_384


def worth(threads: int, numbers: int) -> int:
    """As many of the threads as so many numbers, read and written, pay for."""
    return max(1, min(threads, numbers // _NUMBERS_WORTH_A_THREAD, 4 * usable_threads()))


def each_channel(
    f: Function, count: Int, lanes: int, beside: bool, vectors: int, body: Callable[[Int, int, Value | None], None]
) -> None:
    """`body(first channel, vectors, mask)` for `count` channels: `vectors` of them at a time where there are so many,
    then one by one. Where channels do not lie beside each other, `lanes` is 1."""
    wide = count // (vectors * lanes) * (vectors * lanes)
    with f.loop(wide, step=vectors * lanes) as block:
        body(block.index, vectors, None)
    if beside:
        f.each_vector(count - wide, lanes, lambda number, mask: body(number * lanes + wide, 1, mask))
    else:
        with f.loop(count, start=wide) as channel:
            body(channel.index, 1, None)


@dataclass(frozen=True)
class Rows:
    """Sizes, from the outermost loop to a row, and each tensor's steps through them."""

    sizes: tuple[int, ...]
    strides: tuple[Strides, ...]

    @classmethod
    def of(cls, tensors: Sequence[Tensor], depth: int = 4) -> Rows:
        """Of tensors that have the same shape; exactly `depth` loops. Axes are ordered by the first tensor's steps, the
        smallest innermost, and joined where all tensors step over them as over one.

        Raises `ValueError` where more loops are needed.
        """
        axes = [(size, tuple(t.strides[a] for t in tensors)) for a, size in enumerate(tensors[0].shape) if size != 1]
        axes.sort(key=lambda axis: tuple(-abs(step) for step in axis[1]))
        joined: list[tuple[int, tuple[int, ...]]] = []
        for size, steps in axes:
            if joined and all(outer == size * inner for outer, inner in zip(joined[-1][1], steps, strict=True)):
                joined[-1] = joined[-1][0] * size, steps
            else:
                joined.append((size, steps))
        if len(joined) > depth:
            raise ValueError(f"{len(joined)} loops are needed, and there are {depth}")
        nothing = (1, (0,) * len(tensors))
        joined = [nothing] * (depth - len(joined)) + joined
        if len(axes) == 0:
            joined[-1] = 1, (1,) * len(tensors)
        return cls(tuple(size for size, _ in joined), tuple(zip(*(steps for _, steps in joined), strict=True)))

    @property
    def cut(self) -> tuple[int, int]:
        """How many rows and how many numbers of a row make a task."""
        piece = min(self.sizes[-1], _NUMBERS_A_TASK)
        return max(1, min(self.sizes[-2], _NUMBERS_A_TASK // max(piece, 1))), piece

    @property
    def tasks(self) -> int:
        """How many there are."""
        rows, piece = self.cut
        *outer, last, row = self.sizes
        count = ceil_div(last, rows) * ceil_div(row, max(piece, 1))
        for size in outer:
            count *= size
        return count
