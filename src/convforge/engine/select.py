"""Which algorithm computes which convolution, and why. The table is data: the first row that applies is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import depthwise
from .geometry import Sliding


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One row: `arranged` brings a sliding into the form that it runs on, `reason` is what people are told."""

    name: str
    applies: Callable[[int, int, int], bool]
    """Asked with the groups, and a group's input and output channels."""
    arranged: Callable[[Sliding, int], Sliding]
    reason: str


ALGORITHMS = (
    Algorithm(
        "depthwise",
        depthwise.applies,
        depthwise.by_panels,
        "every channel has a kernel of its own, so vectors run along channels on both sides",
    ),
    Algorithm(
        "direct",
        lambda groups, channels, outputs: True,
        lambda s, panel: s,
        "it multiplies each input by each weight that it meets",
    ),
)


def choose(groups: int, channels: int, outputs: int) -> Algorithm:
    """The algorithm for all passes of a convolution with so many input and output channels a group."""
    return next(algorithm for algorithm in ALGORITHMS if algorithm.applies(groups, channels, outputs))
