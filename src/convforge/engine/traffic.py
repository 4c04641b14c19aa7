"""What a convolution's tensors take through the caches and from memory, for the models of algorithms that memory paces.

A depthwise layer does nine multiply-adds on eight bytes: where input and output do not fit into L2, one core's share of
L3's or the memory's bandwidth is what it waits for. Shares of what a core reads while it does nothing else
(`target.Costs`); found on Zen 5.
"""

from __future__ import annotations

import math

from ..native.target import DTYPE_BYTES, Target
from .geometry import Problem

_OF_L2 = 14 / 48
_OF_L3 = 16 / 20
_WEIGHTS_OF_L3 = 4.5 / 20
_PACKING_OF_L3 = 8 / 20
_FORKS_A_STEP = 5
"""Until the last thread has packed and all go on."""


def bytes_of(problem: Problem) -> int:
    """Of input and output."""
    return (math.prod(problem.x_shape) + math.prod(problem.y_shape)) * DTYPE_BYTES[problem.dtype]


def from_memory(together: int, target: Target) -> bool:
    """Whether tensors that take so many bytes together find no room in L3, which others use, too."""
    return together > target.l3_bytes * 3 // 4


def cycles(read: float, written: float, together: int, target: Target, past_caches: bool = False) -> float:
    """For one core to read and write so many bytes of tensors that take so many `together`. They are taken to be where
    the layer before has left them: in the closest cache that has room for all. From memory, a line is read before it
    is written, unless it goes `past_caches`."""
    if together <= target.l2_bytes * 3 // 2:
        return (read + written) / (target.costs.l2 * _OF_L2)
    if not from_memory(together, target):
        return (read + written) / (target.costs.l3 * _OF_L3)
    return (read + (1 if past_caches else 2) * written) / target.costs.memory


def of_weights(size: int, target: Target) -> float:
    """For one core to read so many bytes of packed weights, from beyond L2."""
    return size / (target.costs.l3 * _WEIGHTS_OF_L3)


def packing(weights: int, threads: int, target: Target) -> float:
    """To bring so many bytes of weights into the form of the kernels."""
    return target.costs.fork * _FORKS_A_STEP + weights / (target.costs.l3 * _PACKING_OF_L3) / threads
