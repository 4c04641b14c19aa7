"""Images with channels side by side, for kernels that want them so: the tensor itself, or a copy of it in work memory.

A copy is a step of its own, before the kernels or after them: whoever runs several passes can see it, and leave it out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...native.program import Layout, Step, step
from .. import traffic
from ..geometry import Sliding
from ..kernels.pack import REORDER
from ..plan import Job


@dataclass(frozen=True, slots=True)
class Dense:
    """Images with channels side by side: the tensor itself, or a copy of it in the workspace (`offset`) where the
    tensor's channels lie elsewhere, as in NCHW."""

    strides: tuple[int, int, int, int]
    start: int
    shape: tuple[int, int, int, int]
    offset: int | None

    @classmethod
    def input(cls, s: Sliding, layout: Layout, size: int) -> Dense:
        """x, for kernels that want its channels side by side."""
        v, h = s.vertical, s.horizontal
        shape, strides = (s.images, s.all_channels, v.size, h.size), (s.x_n, s.x_c, v.x_step, h.x_step)
        beside = s.x_c == 1 or s.all_channels == 1
        return cls(strides, s.x_start, shape, None if beside else layout.take(math.prod(shape) * size))

    @classmethod
    def output(cls, s: Sliding, layout: Layout, size: int) -> Dense:
        """y, likewise."""
        return cls.input(s.exchanged(), layout, size)

    @property
    def used(self) -> tuple[int, int, int, int]:
        """The strides that the kernels see."""
        _, c, h, w = self.shape
        return self.strides if self.offset is None else (h * w * c, 1, w * c, c)

    def arguments(self, name: str) -> dict[str, int]:
        n, _, h, w = self.used
        return {f"{name}_n": n, f"{name}_h": h, f"{name}_w": w}

    def address(self, buffer: str, size: int) -> tuple[str, int]:
        return (buffer, self.start * size) if self.offset is None else ("work", self.offset)

    def copies(self, kernel_address: int, threads: int, buffer: str, size: int, back: bool = False) -> tuple[Step, ...]:
        """The step that makes the copy, or brings it `back` into the tensor."""
        if self.offset is None:
            return ()
        names = ("to", "of") if back else ("of", "to")
        n, c, h, w = self.shape
        if all(strides[2] == w * strides[3] for strides in (self.strides, self.used)):
            h, w = 1, h * w  # rows that touch are one long row
        numbers = {"images": n, "channels": c, "height": h, "width": w}
        for name, strides in zip(names, (self.strides, self.used), strict=True):
            numbers |= {f"{name}_{axis}": stride for axis, stride in zip("nchw", strides, strict=True)}
        at = {names[0]: (buffer, self.start * size), names[1]: ("work", self.offset)}
        return (step(kernel_address, threads, REORDER, numbers, at),)


def cycles(job: Job, s: Sliding) -> float:
    """What copies of the images take, where their channels do not lie side by side: once through the caches each."""
    total = 0.0
    for images in (Dense.input(s, Layout(), job.size), Dense.output(s, Layout(), job.size)):
        if images.offset is not None:
            copied = math.prod(images.shape) * job.size
            total += traffic.cycles(copied, copied, 2 * copied, job.target)
    return total / job.threads
