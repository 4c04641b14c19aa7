"""A pass, ready to run: what depends on sizes and layouts alone is worked out once; a call fills in addresses.

A `Prepared` is immutable, so threads may run the same one at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..native import runtime, team
from ..native.program import Program

_FEW_ZEROS = np.zeros(64)


def zeros_for(count: int) -> NDArray[np.float64]:
    """At least `count` zeros of any dtype, and a panel of them: what sums are added to where there is no bias."""
    return _FEW_ZEROS if count <= _FEW_ZEROS.size else np.zeros(count)


# Below this a fork and join (half a microsecond each) costs more than a second thread brings.
_MACS_WORTH_A_THREAD = 20_000


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
