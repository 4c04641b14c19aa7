"""Who lives where when: one arena for all that a network keeps between its steps.

A slot lives from the first step that touches it to the last. Two slots may share memory where their lives do not meet.
Placed are the largest first, each at the lowest address that is free during its life; that is within a few per cent of
the least possible for networks (the same as in XNNPACK's and TensorFlow Lite's planners; see Pisarchyk & Lee,
"Efficient memory management for deep neural net inference", 2020, "greedy by size").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..native.target import LINE
from ..spec import round_up


@dataclass(frozen=True, slots=True)
class Life:
    """A slot's bytes, and the first and the last step that touch it."""

    size: int
    first: int
    last: int

    def meets(self, other: Life) -> bool:
        """Whether there is a step that both live through."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class Arena:
    """Where in it each slot begins, and how large it is."""

    offsets: Mapping[str, int]
    size: int


def arranged(lives: Mapping[str, Life]) -> Arena:
    """An arena for these slots; every one begins at a cache line.

    >>> arranged({"a": Life(100, 0, 1), "b": Life(50, 1, 2), "c": Life(60, 2, 3)}).offsets
    {'a': 0, 'c': 0, 'b': 128}
    """
    offsets: dict[str, int] = {}
    size = 0
    for name in sorted(lives, key=lambda name: -lives[name].size):
        mine = lives[name]
        taken = sorted(
            (offsets[other], offsets[other] + round_up(lives[other].size, LINE))
            for other in offsets
            if lives[other].meets(mine)
        )
        at = 0
        for begin, end in taken:
            if at + mine.size <= begin:
                break
            at = max(at, end)
        offsets[name] = at
        size = max(size, at + round_up(mine.size, LINE))
    return Arena(offsets, size)
