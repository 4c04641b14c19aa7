"""The roofline of this machine, from limits that are measured with code that the engine itself generates.

The roofline (Williams, Waterman & Patterson, 2009): a computation that does I operations for every byte it moves runs
at no more than min(FMA peak, I · bandwidth). Three measurements, on as many threads as the layers have:

- the FMA peak: multiply-adds that wait for nothing, on registers;
- the memory's bandwidth: reading an array that no cache holds;
- the caches' bandwidth: reading, on each thread, an array of half of its L2.

Layers whose tensors stay in the caches from one call to the next may run above the memory's line, and algorithms that
multiply less often than the definition does (Winograd) above the FMA peak: operations are counted by the definition.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch  # noqa: F401  its OpenMP must be there before the engine looks for one

from ..native import target
from .limits import bandwidth, fma_peak

__all__ = ["Machine", "fma_peak", "measure", "memory_bandwidth"]

_MEMORY_BYTES = 256 << 20


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

    def to_dict(self) -> dict[str, str | float]:
        """For reports that programs read."""
        return {
            "target": self.target, "threads": self.threads, "fma_peak_gflops": self.peak / 1e9,
            "memory_gb_per_s": self.memory / 1e9, "cache_gb_per_s": self.cache / 1e9,
        }  # fmt: skip

    def at_its_best(self, peak: float, memory: float = 0.0, cache: float = 0.0) -> Machine:
        """The same machine, where a later measurement shows that it can do more."""
        best = max(peak, self.peak), max(memory, self.memory), max(cache, self.cache)
        return Machine(self.target, self.threads, *best)

    def seconds(self, cycles: float) -> float:
        """What the engine's model counts in cycles, in which every thread does two vector multiply-adds."""
        lanes = target.current().lanes("float32")
        return cycles * 4 * lanes * self.threads / self.peak


def memory_bandwidth(threads: int) -> float:
    """Reading what no cache holds, in bytes a second."""
    return bandwidth(threads, _MEMORY_BYTES)


def measure(threads: int) -> Machine:
    """All three limits, each the best of some tries: what disturbs them only lowers them."""
    return Machine(
        target.current().name,
        threads,
        fma_peak(threads),
        memory_bandwidth(threads),
        bandwidth(threads, target.current().l2_bytes // 2 * threads),
    )
