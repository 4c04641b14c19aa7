"""A pass, ready to run: which kernels, with which numbers, in which order, with how much memory.

Everything that depends on sizes and layouts alone is worked out once; a call fills in addresses. A `Prepared` is
immutable, so threads may run the same one at the same time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from . import runtime
from .ir import Arguments
from .target import Target

LINE = 64
"""Bytes of a cache line, to which every piece of work memory is aligned."""

_FEW_ZEROS = np.zeros(64)


def zeros_for(count: int) -> NDArray[np.float64]:
    """At least `count` zeros of any dtype, and a panel of them: what sums are added to where there is no bias."""
    return _FEW_ZEROS if count <= _FEW_ZEROS.size else np.zeros(count)


# Below this a fork and join (half a microsecond each) costs more than a second thread brings.
_MACS_WORTH_A_THREAD = 20_000


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel call: its address, its numbers, and which of them are addresses: (position, buffer, byte offset)."""

    kernel: int
    numbers: tuple[int, ...]
    addresses: tuple[tuple[int, str, int], ...]


def step(kernel: int, arguments: Arguments, numbers: dict[str, int], at: dict[str, tuple[str, int]]) -> Step:
    """A call of `kernel` with these numbers; `at` says for each address the buffer it is in and the offset in bytes."""
    addresses = tuple((arguments.position(name), buffer, offset) for name, (buffer, offset) in at.items())
    return Step(kernel, tuple(arguments.pack(numbers | dict.fromkeys(at, 0))), addresses)


class Layout:
    """Memory of one call, handed out piece by piece in whole cache lines."""

    def __init__(self) -> None:
        self.size = 0

    def take(self, size: int) -> int:
        offset = self.size
        self.size += -(-size // LINE) * LINE
        return offset


class Program:
    """Steps as one block of numbers, and the places in it where a call puts its addresses."""

    def __init__(self, steps: tuple[Step, ...], first: int = 0, end: int = 0, rounds: int = 1) -> None:
        """The steps from `first` to before `end` are repeated `rounds` times, as a group."""
        block, starts = runtime.program([(s.kernel, s.numbers) for s in steps], first, end, rounds)
        self.length, self.block = len(block), np.asarray(block, np.int64).tobytes()
        self.type = ctypes.c_int64 * self.length
        self.addresses = tuple(
            (start + position, buffer, offset)
            for s, start in zip(steps, starts, strict=True)
            for position, buffer, offset in s.addresses
        )

    def run(self, buffers: dict[str, int], threads: int) -> None:
        block = self.type.from_buffer_copy(self.block)
        for position, buffer, offset in self.addresses:
            block[position] = buffers[buffer] + offset
        runtime.run(block, threads)


@dataclass(frozen=True)
class Prepared:
    """A pass for one problem: run it as often as you like.

    The weights are brought into the kernels' own form first (`packed_bytes` of it, written by `weights`). Whoever
    knows that they have not changed keeps that form and passes its address to `run`.
    """

    algorithm: str
    threads: int
    compute: Program
    workspace_bytes: int
    weights: Program | None = None
    packed_bytes: int = 0
    zeros: NDArray[np.float64] = field(default_factory=lambda: _FEW_ZEROS)

    @cached_property
    def _zeros(self) -> int:
        return int(self.zeros.ctypes.data)

    def run(self, packed: int = 0, **buffers: int) -> None:
        """Run on the addresses `x`, `w`, `y` and `bias`, as far as the pass knows them; `packed`, where it is given, is
        where `pack` has been."""
        buffers["zeros"] = self._zeros
        kept = 0 if packed else self.packed_bytes
        buffers["work"], alive = runtime.workspace(self.workspace_bytes + kept)
        if self.weights is not None:
            buffers["packed"] = packed or buffers["work"] + self.workspace_bytes
            if not packed:
                self.weights.run(buffers, self.threads)
        self.compute.run(buffers, self.threads)
        del alive  # the workspace is ours until here

    def pack(self, w: int, packed: int) -> None:
        """Bring the weights at `w` into the kernels' form at `packed`."""
        if self.weights is not None:
            work, alive = runtime.workspace(self.workspace_bytes)
            self.weights.run({"w": w, "packed": packed, "work": work}, self.threads)
            del alive


def worth(threads: int, macs: int) -> int:
    """As many of the threads as so much work pays for."""
    return max(1, min(threads, macs // _MACS_WORTH_A_THREAD))


def code(
    build: Callable[..., None], kernels: tuple[str, ...], dtype: str, target: Target, *parameters: object
) -> runtime.Code:
    """The compiled form of the kernels that `build(module, dtype, target, *parameters)` writes."""

    def write(module: ir.Module) -> None:
        build(module, dtype, target, *parameters)

    return runtime.code(f"{build.__module__}.{build.__name__}", write, kernels, target, dtype, *parameters)
