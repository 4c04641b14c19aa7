"""What this machine can do at most, measured with code that the engine itself generates: the roofline.

The roofline (Williams, Waterman & Patterson, 2009): a computation that does I operations for every byte it moves runs
at no more than min(FMA peak, I · bandwidth). Three measurements, on as many threads as the layers have:

- the FMA peak: multiply-adds that wait for nothing, on registers;
- the memory's bandwidth: reading an array that no cache holds;
- the caches' bandwidth: reading, on each thread, an array of half of its L2.

Layers whose tensors stay in the caches from one call to the next may run above the memory's line, and algorithms that
multiply less often than the definition does (Winograd) above the FMA peak: operations are counted by the definition.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch  # noqa: F401  its OpenMP must be there before the engine looks for one
from llvmlite import ir

from ..engine import runtime, target
from ..engine.ir import Arguments, kernel, share

_STEPS = 4096
_MEMORY_BYTES = 256 << 20
_STREAM = Arguments("data vectors sink")


@dataclass(frozen=True, slots=True)
class Machine:
    """The limits of this machine on so many threads: operations a second, bytes a second."""

    target: str
    threads: int
    peak: float
    memory: float
    cache: float

    @property
    def ridge(self) -> float:
        """The arithmetic intensity from which on the FMA peak is the limit, not the memory."""
        return self.peak / self.memory

    def attainable(self, intensity: float) -> float:
        """The roofline.

        >>> small = Machine("avx2", threads=1, peak=100e9, memory=20e9, cache=50e9)
        >>> small.ridge, small.attainable(2.0) / 1e9, small.attainable(50.0) / 1e9
        (5.0, 40.0, 100.0)
        """
        return min(self.peak, intensity * self.memory)

    def at_its_best(self, peak: float) -> Machine:
        """The same machine, where a later measurement shows that it can do more."""
        return replace(self, peak=max(peak, self.peak))

    def seconds(self, cycles: float) -> float:
        """What the engine's model counts in cycles, in which every thread does two vector multiply-adds."""
        lanes = target.current().lanes("float32")
        return cycles * 4 * lanes * self.threads / self.peak


def measure(threads: int) -> Machine:
    """All three limits, each the best of some tries: what disturbs them only lowers them."""
    return Machine(
        target.current().name,
        threads,
        fma_peak(threads),
        bandwidth(threads, _MEMORY_BYTES),
        bandwidth(threads, target.current().l2_bytes // 2 * threads),
    )


def fma_peak(threads: int) -> float:
    """Operations a second of multiply-adds that wait for nothing: independent sums, as many as there are registers for,
    up to 24."""
    here = target.current()
    sums, lanes = min(24, here.registers - 4), here.lanes("float32")

    def build(module: ir.Module) -> None:
        f, _, _, _ = kernel(module, "peak", "float32")
        x = f.pointer(0).vector(lanes)
        start = [f.pointer(0).at(n * lanes).vector(lanes) for n in range(sums)]
        with f.loop(_STEPS, carry=start) as step:
            step.carry([f.fma(x, x, s) for s in step.values])
        for n, total in enumerate(step.values):
            f.pointer(0).at((n + 8) * lanes).put(total)
        f.done()

    address = runtime.code(f"{__name__}.peak", build, ["peak"], here)["peak"]
    rounds = 20
    # The arguments are the numbers themselves: zeros, so that nothing overflows.
    run = _program(address, [0] * (32 * lanes), rounds, threads)
    return 2 * lanes * sums * _STEPS * rounds * threads / _best(run)


def bandwidth(threads: int, size: int) -> float:
    """Bytes a second of reading `size` bytes over and over, all threads together."""
    here = target.current()
    lanes, sums = here.lanes("float32"), 8

    def build(module: ir.Module) -> None:
        f, array, thread, count = kernel(module, "stream", "float32")
        a = _STREAM.read(array)
        data = f.address(a["data"])
        first, end = share(a["vectors"] // sums, thread, count)
        with f.loop(end, start=first, carry=[f.zeros(lanes)] * sums) as step:
            here_ = data.at(step.index * (sums * lanes))
            step.carry([f.add(total, here_.at(n * lanes).vector(lanes)) for n, total in enumerate(step.values)])
        sink = f.address(a["sink"]).at(thread * (sums * lanes))
        for n, total in enumerate(step.values):
            sink.at(n * lanes).put(total)
        f.done()

    address = runtime.code(f"{__name__}.stream", build, ["stream"], here)["stream"]
    data = np.zeros(size // 4, np.float32)
    data.fill(1.0)  # written, so that every page is memory of its own
    sink = np.zeros(threads * sums * lanes, np.float32)
    numbers = {"data": data.ctypes.data, "vectors": data.size // lanes, "sink": sink.ctypes.data}
    rounds = max(1, (64 << 20) // size)
    run = _program(address, _STREAM.pack(numbers), rounds, threads)
    return rounds * data.size // (lanes * sums) * (lanes * sums) * 4 / _best(run)


def _program(address: int, arguments: list[int], rounds: int, threads: int) -> Callable[[], None]:
    block, _ = runtime.program([(address, arguments)], first=0, end=1, rounds=rounds)
    program = (ctypes.c_int64 * len(block))(*block)
    return lambda: runtime.run(program, threads)


def _best(run: Callable[[], None]) -> float:
    """The shortest time of a twentieth of a second of tries."""
    best, begin = float("inf"), time.perf_counter()
    end = begin + 0.05
    while begin < end:
        run()
        now = time.perf_counter()
        best, begin = min(best, now - begin), now
    return best
