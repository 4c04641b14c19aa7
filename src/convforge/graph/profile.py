"""Where a network's time goes: a row for each node that takes steps, what it took beside what the model says.

The members of a team note the CPU's time stamp as each step ends (`native/team.py`), so looking costs nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..native.target import Target
from .lowering import Line

_CALLS = 31


@dataclass(frozen=True, slots=True)
class StepTime:
    """What was made of one node.

    Args:
        output: the node's.
        what: what it is.
        how: by what.
        seconds: what it took, the median of some calls.
        share: of the whole call.
        macs: multiply-adds of the definition; Winograd's kernels do fewer.
        bytes: of what it reads and writes, each once.
        predicted: seconds by the engine's model, 0 where there is none; so it is where no peak was given.
        of_peak: 2·macs a second over the peak; 0 where no peak was given.
    """

    output: str
    what: str
    how: str
    seconds: float
    share: float
    macs: int = 0
    bytes: int = 0
    predicted: float = 0.0
    of_peak: float = 0.0


@dataclass(frozen=True, slots=True)
class Profile:
    """The steps in their order; prints as a table."""

    seconds: float
    """Of a whole call."""
    steps: tuple[StepTime, ...]

    def __str__(self) -> str:
        head = f"{'share':>6} {'µs':>9} {'predicted':>9} {'of peak':>7} {'GB/s':>6}  step"
        rows = [
            f"{s.share:>6.1%} {1e6 * s.seconds:>9.1f} {_or_dash(1e6 * s.predicted, '9.1f')} "
            f"{_or_dash(s.of_peak, '7.0%')} {_or_dash(s.bytes / max(s.seconds, 1e-9) / 1e9, '6.1f')}  "
            f"{s.what} ({s.how})"
            for s in self.steps
        ]
        return "\n".join([head, *rows, f"{1:>6.0%} {1e6 * self.seconds:>9.1f}"])


def _or_dash(number: float, form: str) -> str:
    return f"{number:>{form}}" if number else f"{'–':>{form.split('.')[0]}}"


def profiled(
    run: Callable[[], object], clocks: Callable[[], list[int]], lines: Sequence[Line], target: Target, threads: int,
    peak: float,
) -> Profile:  # fmt: skip
    """Medians over some calls of `run`, after each of which `clocks` says when the steps of these lines ended.

    The first step begins where the call before ended, so it holds what a call itself costs. `peak` is in operations a
    second of all threads, 0 where it is not known.
    """
    run()
    calls = [clocks()]
    begin = time.perf_counter()
    for _ in range(_CALLS):
        run()
        calls.append(clocks())
    elapsed = time.perf_counter() - begin
    if not calls[0]:
        return Profile(elapsed / _CALLS, ())
    seconds_a_tick = elapsed / (calls[-1][-1] - calls[0][-1])
    ticks = [
        statistics.median(after[n] - (after[n - 1] if n else before[-1]) for before, after in pairwise(calls))
        for n in range(len(calls[0]))
    ]
    whole, cycle = sum(ticks), 4 * target.lanes("float32") * threads / peak if peak else 0.0
    rows, at = [], 0
    for line in lines:
        mine = sum(ticks[at : at + len(line.steps)])
        at += len(line.steps)
        if line.steps:
            seconds = mine * seconds_a_tick
            of_peak = 2 * line.macs / seconds / peak if peak and seconds else 0.0
            rows.append(
                StepTime(line.output, line.what, line.how, seconds, mine / whole, line.macs, line.bytes,
                         line.cycles * cycle, of_peak)
            )  # fmt: skip
    return Profile(whole * seconds_a_tick, tuple(rows))
