"""A pass, ready to run: which kernels, with which numbers, in which order, with how much memory.

Everything that depends on sizes and layouts alone is worked out once; a call fills in addresses. A `Prepared` is
immutable, so threads may run the same one at the same time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from ..spec import round_up
from . import runtime, team
from .kernels.ir import Arguments
from .target import LINE as LINE  # to which every piece of work memory is aligned
from .target import Target
from .team import Step as Step

_FEW_ZEROS = np.zeros(64)


def zeros_for(count: int) -> NDArray[np.float64]:
    """At least `count` zeros of any dtype, and a panel of them: what sums are added to where there is no bias."""
    return _FEW_ZEROS if count <= _FEW_ZEROS.size else np.zeros(count)


# Below this a fork and join (half a microsecond each) costs more than a second thread brings.
_MACS_WORTH_A_THREAD = 20_000


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


@dataclass(frozen=True)
class Prepared:
    """A pass for one problem: run it as often as you like.

    The weights are brought into the kernels' own form first (`packed_bytes` of it, written by `weights`). Whoever
    knows that they have not changed keeps that form and passes its address to `run`. `unpacked`, where there is one,
    takes the weights as they are: each thread packs those that it needs, so that no form is handed from core to core.
    """

    algorithm: str
    threads: int
    compute: Program
    weights: Program = field(default_factory=lambda: Program(()))
    packed_bytes: int = 0
    zeros: NDArray[np.float64] = field(default_factory=lambda: _FEW_ZEROS)
    unpacked: Program | None = None
    cycles: float = 0.0
    """What its plan costs by the model."""

    @cached_property
    def form(self) -> bytes:
        """Says how the weights are packed: passes that agree in it can use each other's packed weights."""
        return repr((self.packed_bytes, [replace(step, threads=1) for step in self.weights.steps])).encode()

    @cached_property
    def _from_weights(self) -> tuple[Program, int, int]:
        """Where no packed weights are given: the steps, the memory they need, and where in it the packed form is."""
        if self.unpacked:
            return self.unpacked, self.unpacked.work_bytes, 0
        whole = self.compute.preceded_by(self.weights.steps, self.weights.work_bytes)
        return whole, whole.work_bytes + self.packed_bytes, whole.work_bytes

    def work_bytes(self, packed: bool) -> int:
        """Work memory of a call, with or without packed weights at hand."""
        return self.compute.work_bytes if packed else self._from_weights[1]

    @cached_property
    def _zeros(self) -> int:
        return int(self.zeros.ctypes.data)

    def run(self, packed: int = 0, x: int = 0, w: int = 0, y: int = 0, bias: int = 0, residual: int = 0) -> None:
        """Run on these addresses, as far as the pass knows them; `packed`, where it is given, is where `pack` has
        been."""
        if packed:
            program, offset = self.compute, 0
            room = program.work_bytes
        else:
            program, room, offset = self._from_weights
        work, alive = runtime.workspace(room + program.bytes)
        at = packed or work + offset
        team.call(program.block, program.address, work + room, x, w, y, bias, residual, at, work, self._zeros)
        del alive  # the workspace is ours until here

    def pack(self, w: int, packed: int) -> None:
        """Bring the weights at `w` into the kernels' form at `packed`."""
        program = self.weights
        room = program.work_bytes
        work, alive = runtime.workspace(room + program.bytes)
        team.call(program.block, program.address, work + room, 0, w, 0, 0, 0, packed, work, self._zeros)
        del alive


def most_threads() -> int:
    """Four a core: more of them could only wait for each other, and each has memory of its own."""
    return 4 * runtime.usable_threads()


def worth(threads: int, macs: int) -> int:
    """As many of the threads as so much work pays for."""
    return max(1, min(threads, macs // _MACS_WORTH_A_THREAD, most_threads()))


def code(
    build: Callable[..., None], kernels: tuple[str, ...], dtype: str, target: Target, *parameters: object
) -> runtime.Code:
    """The compiled form of the kernels that `build(module, dtype, target, *parameters)` writes."""

    def write(module: ir.Module) -> None:
        build(module, dtype, target, *parameters)

    return runtime.code(f"{build.__module__}.{build.__name__}", write, kernels, target, dtype, *parameters)
