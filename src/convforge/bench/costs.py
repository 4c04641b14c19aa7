"""What ways and waiting cost on this machine (`target.Costs`): measured in half a second, and kept on disk.

`convforge tune` does that, and processes that start afterwards read it. Nothing measures by itself, for a choice should
not depend on what the machine was busy with when it was first asked for; and in exact precision, where an image's
result always has the same bits, the choice does not look at it at all (`select.py`).
"""

from __future__ import annotations

import time
from dataclasses import asdict

import numpy as np
from llvmlite import ir

from .. import disk
from ..engine.prepared import Prepared
from ..native import runtime
from ..native import target as targets
from ..native.ir import I64, Arguments, Int, kernel
from ..native.program import Program, Step
from ..native.target import Costs
from .limits import bandwidth, fma_peak

_PHASES, _TRIES = 50, 40
_PATIENCE = 1 << 16
"""Looks at a number, some milliseconds: the system may have no core for a thread."""
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
        memory=bytes_a_cycle(min(max(2 * targets.cache_bytes()[2], _BEYOND_CACHES[0]), _BEYOND_CACHES[1])),
        fork=step * cycles_a_second,
        call=call * cycles_a_second,
    )


_MEET = Arguments("met threads")


def _meet(module: ir.Module) -> None:
    """A kernel whose shares wait for each other, so that each is done by another thread, but not for ever."""
    f, a = kernel(module, "meet", "float32", _MEET)
    met = f.address(a["met"], I64)
    met.count()
    with f.loop(_PATIENCE):
        # A number that another thread changes is read by changing it, too.
        seen = Int(f.builder, f.builder.atomic_rmw("add", met.value, f.const(0).value, "seq_cst"))
        with f.if_(seen.compare(">=", a["threads"])):
            f.done()
    f.done()


def _waiting(threads: int) -> tuple[float, float]:
    """Seconds of a program in which threads do nothing but meet, and from one of its steps to the next."""
    address = runtime.code(f"{__name__}.meet", _meet, ["meet"], targets.current())["meet"]

    def shortest(steps: int) -> float:
        met = np.zeros(steps, np.int64)
        numbers = [(int(met.ctypes.data) + 8 * n, threads) for n in range(steps)]
        program = Prepared("meet", threads, Program(tuple(Step(address, threads, n, ()) for n in numbers)))
        times = []
        for _ in range(_TRIES):
            met[:] = 0
            begin = time.perf_counter()
            program.run()
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
