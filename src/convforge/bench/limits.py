"""What this CPU does at most, measured: multiply-adds a second, and bytes a second from memory or from a cache."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from llvmlite import ir

from ..engine.prepared import Prepared
from ..native import runtime
from ..native import target as targets
from ..native.ir import Arguments, kernel, share
from ..native.program import Program, Step

_STEPS = 80_000  # a quarter of a millisecond: long beside a fork and join
_PEAK = Arguments("")  # they are the numbers themselves
_STREAM = Arguments("data vectors times sink")


def fma_peak(threads: int) -> float:
    """Operations a second of multiply-adds that wait for nothing: independent sums, as many as there are registers for,
    up to 24."""
    here = targets.current()
    sums, lanes = min(24, here.registers - 4), here.lanes("float32")

    def build(module: ir.Module) -> None:
        f, _ = kernel(module, "peak", "float32", _PEAK)
        x = f.pointer("arguments").vector(lanes)
        start = [f.pointer("arguments").at(n * lanes).vector(lanes) for n in range(sums)]
        with f.loop(_STEPS, carry=start) as step:
            step.carry([f.fma(x, x, s) for s in step.values])
        for n, total in enumerate(step.values):
            f.pointer("arguments").at((n + 8) * lanes).put(total)
        f.done()

    address = runtime.code(f"{__name__}.fma_peak", build, ["peak"], here)["peak"]
    # Zeros, so that nothing overflows.
    return 2 * lanes * sums * _STEPS * threads / _best(_program(address, [0] * (32 * lanes), threads))


def bandwidth(threads: int, size: int) -> float:
    """Bytes a second of reading `size` bytes over and over, all threads together."""
    here = targets.current()
    lanes, sums = here.lanes("float32"), 8

    def build(module: ir.Module) -> None:
        f, a = kernel(module, "stream", "float32", _STREAM)
        data = f.address(a["data"])
        thread, threads = f.integers("thread threads")
        first, end = share(a["vectors"] // sums, thread, threads)
        with f.loop(a["times"], carry=[f.zeros(lanes)] * sums) as again:
            with f.loop(end, start=first, carry=again.values) as step:
                vectors = [data.at(step.index * (sums * lanes) + n * lanes).vector(lanes) for n in range(sums)]
                step.carry([f.add(total, vector) for total, vector in zip(step.values, vectors, strict=True)])
            again.carry(step.values)
        sink = f.address(a["sink"]).at(thread * (sums * lanes))
        for n, total in enumerate(again.values):
            sink.at(n * lanes).put(total)
        f.done()

    address = runtime.code(f"{__name__}.bandwidth", build, ["stream"], here)["stream"]
    data = np.zeros(size // 4, np.float32)
    data.fill(1.0)  # written, so that every page is memory of its own
    sink = np.zeros(threads * sums * lanes, np.float32)
    times = max(1, (64 << 20) // size)
    numbers = {"data": data.ctypes.data, "vectors": data.size // lanes, "times": times, "sink": sink.ctypes.data}
    whole = data.size // (lanes * sums) * (lanes * sums)
    return times * whole * 4 / _best(_program(address, _STREAM.pack(numbers), threads))


def _program(address: int, arguments: list[int], threads: int) -> Callable[[], None]:
    return Prepared("limit", threads, Program((Step(address, threads, tuple(arguments), ()),))).run


def _best(run: Callable[[], None]) -> float:
    """The shortest time of a twentieth of a second of tries."""
    best, begin = float("inf"), time.perf_counter()
    end = begin + 0.05
    while begin < end:
        run()
        now = time.perf_counter()
        best, begin = min(best, now - begin), now
    return best
