"""What a convolution's tensors take through the caches and from memory, for the models of algorithms that memory paces.

A depthwise layer does nine multiply-adds on eight bytes: where input and output do not fit into L2, one core's share of
L3's or the memory's bandwidth is what it waits for. The rates are those of one core of Zen 5 while all cores are busy.
"""

from __future__ import annotations

import math

from .geometry import Problem
from .target import DTYPE_BYTES, Target

L2_BYTES_A_CYCLE = 14.0
L3_BYTES_A_CYCLE = 16.0
BYTES_A_CYCLE = 7.0
"""From memory."""


def bytes_of(problem: Problem) -> int:
    """Of input and output."""
    return (math.prod(problem.x_shape) + math.prod(problem.y_shape)) * DTYPE_BYTES[problem.dtype]


def cycles(read: float, written: float, together: int, target: Target, past_caches: bool = False) -> float:
    """For one core to read and write so many bytes of tensors that take so many `together`. They are taken to be where
    the layer before has left them: in the closest cache that has room for all. From memory, a line is read before it
    is written, unless it goes `past_caches`."""
    if together <= target.l2_bytes * 3 // 2:
        return (read + written) / L2_BYTES_A_CYCLE
    if together <= target.l3_bytes * 3 // 4:
        return (read + written) / L3_BYTES_A_CYCLE
    return (read + (1 if past_caches else 2) * written) / BYTES_A_CYCLE


_PACKED_BYTES_A_CYCLE = 8.0
_CYCLES_A_STEP = 18_000.0
"""Until the last thread has packed and all go on."""


def packing(weights: int, threads: int) -> float:
    """To bring so many bytes of weights into the form of the kernels."""
    return _CYCLES_A_STEP + weights / _PACKED_BYTES_A_CYCLE / threads
