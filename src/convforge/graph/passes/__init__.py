"""Passes: each takes a graph and returns one that means the same and is less work. One a file.

`Graph.compute` before and after gives the same numbers, but for the rounding of folded weights, which keep the number
format of the weights. A pass's result is for the same sizes as its graph; `with_input` may be asked of it, too.
"""

from __future__ import annotations

from collections.abc import Callable

from ..nodes import Graph
from . import (
    averages,
    batch_norm,
    constants,
    dead,
    finish,
    linear,
    norms,
    pads,
    parallel,
    pixels,
    rows,
    scales,
    spelled,
)

PASSES: tuple[Callable[[Graph], Graph], ...] = (
    constants.fold,
    dead.remove,  # identities stand between what belongs together
    spelled.recognise,  # before finishes take the parts of a spelling apart
    linear.recognise,
    pads.fold,  # before scales, which a border of zeros does not let through
    batch_norm.split,
    scales.fold,
    pixels.lift,  # behind scales, which may stand between a linear layer and the transpose
    parallel.merge,
    averages.before,
    finish.fuse,
    norms.spell,
    rows.spell,
    constants.fold,
    dead.remove,
)


def optimized(graph: Graph) -> Graph:
    """The graph after all passes, in their order."""
    for one in PASSES:
        graph = one(graph)
    return graph
