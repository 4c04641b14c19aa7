"""What a convolution's tensors take through the caches and from memory, for the models of algorithms that memory paces.

A depthwise layer does nine multiply-adds on eight bytes: where input and output do not fit into L2, one core's share of
L3's or the memory's bandwidth is what it waits for. The rates are those of one core of Zen 5 while all cores are busy.
"""

from __future__ import annotations

import math

from .geometry import Problem
from .target import DTYPE_BYTES, Target

L2_BYTES_A_CYCLE = 32.0
L3_BYTES_A_CYCLE = 12.0
BYTES_A_CYCLE = 5.0
"""From memory."""


def bytes_of(problem: Problem) -> int:
    """Of input and output."""
    return (math.prod(problem.x_shape) + math.prod(problem.y_shape)) * DTYPE_BYTES[problem.dtype]


def cycles(moved: float, together: int, target: Target) -> float:
    """For one core to move so many bytes of tensors that take so many `together`. They are taken to be where the layer
    before has left them: in the closest cache that has room for all."""
    if together <= target.l2_bytes * 3 // 2:
        return moved / L2_BYTES_A_CYCLE
    return moved / (L3_BYTES_A_CYCLE if together <= target.l3_bytes * 3 // 4 else BYTES_A_CYCLE)
