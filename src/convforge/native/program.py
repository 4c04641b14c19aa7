"""A program: which kernels, with which numbers, in which order, with how much memory. A call fills in addresses.

A `Program` is immutable, so threads may run the same one at the same time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TypeAlias

from llvmlite import ir

from ..spec import round_up
from . import runtime, team
from .ir import Arguments
from .target import LINE as LINE  # to which every piece of work memory is aligned
from .target import Target
from .team import Step as Step

Place: TypeAlias = tuple[str, int]
"""An address: the buffer that it is in, and the offset in bytes."""


def step(kernel: int, threads: int, arguments: Arguments, numbers: dict[str, int], at: dict[str, Place]) -> Step:
    """A call of `kernel` with those of these numbers, and of the addresses `at`, that it takes."""
    places = {name: place for name, place in at.items() if name in arguments.names}
    addresses = tuple((arguments.position(name), buffer, offset) for name, (buffer, offset) in places.items())
    return Step(kernel, threads, tuple(arguments.pack(numbers | dict.fromkeys(places, 0))), addresses)


class Layout:
    """Memory of one call, handed out piece by piece in whole cache lines."""

    def __init__(self) -> None:
        self.size = 0

    def take(self, size: int) -> int:
        """Where in it the next `size` bytes begin."""
        offset = self.size
        self.size += round_up(size, LINE)
        return offset


class Program:
    """Steps as one block of numbers, the places in it where a call puts its addresses, and the work memory it needs.

    `buffers` names what there are addresses of, in the order in which a call gives them.
    """

    def __init__(self, steps: tuple[Step, ...], work_bytes: int = 0, buffers: tuple[str, ...] = team.BUFFERS) -> None:
        self.steps, self.work_bytes, self.buffers = steps, work_bytes, buffers
        self.block = team.program(steps, buffers)
        self.address = int(self.block.ctypes.data)
        self.bytes = self.block.nbytes  # at most, of the copy that a call works on

    def run(self, *addresses: int) -> None:
        """Run it by itself on these buffers, in the order of `buffers`; that of "work", which is lent here, is 0."""
        work, alive = runtime.workspace(self.work_bytes + self.bytes)
        table = (ctypes.c_int64 * len(addresses))(*addresses)
        table[self.buffers.index("work")] = work
        team.call_on(self.block, self.address, work + self.work_bytes, ctypes.addressof(table))
        del alive

    def preceded_by(self, steps: tuple[Step, ...], work_bytes: int = 0) -> Program:
        """The same, with these steps before it."""
        return Program((*steps, *self.steps), max(self.work_bytes, work_bytes))


def code(
    build: Callable[..., None], kernels: tuple[str, ...], dtype: str, target: Target, *parameters: object
) -> runtime.Code:
    """The compiled form of the kernels that `build(module, dtype, target, *parameters)` writes."""

    def write(module: ir.Module) -> None:
        build(module, dtype, target, *parameters)

    return runtime.code(f"{build.__module__}.{build.__name__}", write, kernels, target, dtype, *parameters)
