"""What ways and waiting cost on this machine (`target.Costs`): measured in half a second, and kept on disk.

`convforge tune` does that, and processes that start afterwards read it. Nothing measures by itself, for a choice should
not depend on what the machine was busy with when it was first asked for; and in exact precision, where an image's
result always has the same bits, the choice does not look at it at all (`select.py`).
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import asdict

from llvmlite import ir

from .. import disk
from ..engine import runtime, team
from ..engine import target as targets
from ..engine.kernels.ir import Arguments, kernel
from ..engine.target import Costs
from .limits import bandwidth, fma_peak

_PHASES, _TRIES = 50, 40
_BEYOND_CACHES = 64 << 20, 256 << 20
"""Bytes: at least, and at most, however large the caches are said to be."""


def measured() -> Costs:
    """Of this machine, while all cores do the same."""
    target, threads = targets.current(), runtime.usable_threads()
    cycles_a_second = fma_peak(threads) / threads / (4 * target.lanes("float32"))

    def bytes_a_cycle(all_threads: int) -> float:
        return bandwidth(threads, all_threads) / threads / cycles_a_second

    # L3: what no L2 has room for, and not so much that others who use the same L3 leave no room for it.
    in_l3 = min(max(3 * target.l2_bytes * threads, target.l3_bytes // 4), _BEYOND_CACHES[1])
    call, step = _waiting(threads)
    return Costs(
        l2=bytes_a_cycle(target.l2_bytes // 2 * threads),
        l3=bytes_a_cycle(in_l3),
        memory=bytes_a_cycle(min(max(2 * target.l3_bytes, _BEYOND_CACHES[0]), _BEYOND_CACHES[1])),
        fork=step * cycles_a_second,
        call=call * cycles_a_second,
    )


def _waiting(threads: int) -> tuple[float, float]:
    """Seconds of a program that does nothing, and from one of its steps to the next."""

    def build(module: ir.Module) -> None:
        f, _ = kernel(module, "nothing", "float32", Arguments(""))
        f.done()

    address = runtime.code(f"{__name__}.fork", build, ["nothing"], targets.current())["nothing"]

    def shortest(phases: int) -> float:
        block, _ = team.program([(address, threads, [])] * phases)
        program = (ctypes.c_int64 * len(block))(*block)
        times = []
        for _ in range(_TRIES):
            begin = time.perf_counter()
            team.run(program)
            times.append(time.perf_counter() - begin)
        return min(times)

    call = shortest(1)
    return call, max(shortest(_PHASES) - call, 0.01 * call) / (_PHASES - 1)


def keep() -> Costs:
    """Measure this machine's, and keep them for processes to come, where anything can be kept."""
    costs = measured()
    path = targets.costs_file()
    if path is not None:
        disk.add_to_table(path, {targets.current().machine: asdict(costs)})
        targets.named.cache_clear()  # this process reads it, too
    return costs
