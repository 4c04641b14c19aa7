"""Medians of interleaved rounds, so that a slow moment of the machine meets every contender alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import TypeAlias

Burst: TypeAlias = Callable[[], list[float]]
"""Runs something several times, one after the other, and says how many seconds each run took."""

_BURST_SECONDS = 0.01
_FEWEST_RUNS = 5


def burst(run: Callable[[], object], seconds: float = _BURST_SECONDS) -> list[float]:
    """One untimed run, which wakes the threads and fetches the data that another contender has displaced; then timed
    ones for ten milliseconds or so many `seconds`, or a single one that takes longer."""
    run()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while not taken or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begin)
    return taken


def in_turn(runs: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """One after the other, a call each, round and round: if they are enough, what one has used is out of the caches
    when it is called again.

    >>> run = in_turn([lambda: 1, lambda: 2])
    >>> run(), run(), run()
    (1, 2, 1)
    """
    turns = cycle(runs)
    return lambda: next(turns)()


def rounds(bursts: Sequence[Burst], seconds: float) -> list[list[float]]:
    """The seconds of every run of each: rounds in which every contender has a burst, for about `seconds` altogether.

    >>> rounds([lambda: [2.0, 1.0, 9.0], lambda: [4.0] * 5], seconds=0.0)
    [[2.0, 1.0, 9.0, 2.0, 1.0, 9.0], [4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]]
    """
    times: list[list[float]] = [[] for _ in bursts]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times), default=_FEWEST_RUNS) < _FEWEST_RUNS:
        for one, taken in zip(bursts, times, strict=True):
            taken += one()
    return times


def interleaved(bursts: Sequence[Burst], seconds: float) -> list[float]:
    """The median seconds of each, in `rounds`.

    >>> interleaved([lambda: [2.0, 1.0, 9.0]], seconds=0.0)
    [2.0]
    """
    return [statistics.median(taken) for taken in rounds(bursts, seconds)]
