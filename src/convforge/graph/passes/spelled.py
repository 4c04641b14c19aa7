"""Functions that are spelled out: x · clip(x + 3, 0, 6) / 6 is hard-swish.

There are many ways to spell one, so their forms are not compared but what they compute: nodes that make one value of
one other, number by number, are a function of one number. Where it agrees with a function that we know at points from
1e-4 to 1e4 on both sides of zero, it is that one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from ..nodes import Array, Binary, Graph, Unary
from .draft import Draft

_LONGEST = 14
"""Nodes of the longest spelling that is tried; GELU by tanh takes 9 to 12."""

_POINTS: Array = np.unique(np.concatenate([-np.logspace(-4, 4, 61), np.linspace(-8, 8, 129), np.logspace(-4, 4, 61)]))


def recognise(graph: Graph) -> Graph:
    """Each spelling of a function that `Unary` knows as one node."""
    draft = Draft(graph)
    for output in reversed(list(draft.nodes)):  # from the end, so that the longest spelling is seen before its parts
        node = draft.nodes.get(output)
        if node is not None and isinstance(node.operation, Binary | Unary):
            _try(draft, output)
    return draft.done()


def _try(draft: Draft, output: str) -> None:
    for x, spelling in _spellings(draft, output):
        if not draft.same_shape(x, output):
            continue
        function = _known(_values(draft, x, spelling, output))
        if function is not None:
            draft.put(function, (x,), output)
            for name in spelling[::-1]:
                draft.drop_unread(name)
            return


def _spellings(draft: Draft, output: str) -> Iterator[tuple[str, list[str]]]:
    """(x, the nodes from x to the output) for every x that the output is a function of; the longest first."""
    nodes, found = _reach(draft, output), []
    starts = {name for made in nodes for name in draft.nodes[made].inputs if draft.number(name) is None}
    for x in starts:
        spelling = _between(draft, x, output, nodes)
        if spelling is not None and len(spelling) > 1:
            found.append((x, spelling))
    yield from sorted(found, key=lambda pair: -len(pair[1]))


def _reach(draft: Draft, output: str) -> list[str]:
    """What the output is made of by arithmetic and functions, as far as a spelling may reach."""
    reached: list[str] = []
    todo = [output]
    while todo and len(reached) < _LONGEST:
        name = todo.pop(0)
        node = draft.nodes.get(name)
        if node is None or name in reached or not isinstance(node.operation, Binary | Unary):
            continue
        reached.append(name)
        todo += node.inputs
    return reached


def _between(draft: Draft, x: str, output: str, nodes: list[str]) -> list[str] | None:
    """The nodes between x and the output, in order; None where the output is made of something else, too."""
    order: list[str] = []

    def visit(name: str) -> bool:
        if name == x or draft.number(name) is not None or name in order:
            return True
        if name not in nodes or not all(visit(before) for before in draft.nodes[name].inputs):
            return False
        order.append(name)
        return True

    return order if visit(output) else None


def _values(draft: Draft, x: str, spelling: list[str], output: str) -> Array:
    """What the nodes make of the points."""
    values = {x: _POINTS}
    with np.errstate(all="ignore"):
        for name in spelling:
            node = draft.nodes[name]
            inputs = (values[i] if i in values else np.asarray(draft.number(i), np.float64) for i in node.inputs)
            values[name] = np.broadcast_to(node.operation.compute(*inputs), _POINTS.shape)
    return values[output]


def _known(made: Array) -> Unary | None:
    """The function with these values. Where the spelling overflows, as log(1 + exp(x)) does, it does not count."""
    counted = np.isfinite(made)
    if counted.sum() < _POINTS.size // 2:
        return None
    for function in (*_PLAIN, *_with_parameters(made)):
        if np.allclose(made[counted], _meant(function)[counted], rtol=2e-6, atol=1e-7):
            return function
    return None


_PLAIN = tuple(
    Unary(kind)
    for kind in (
        *("identity", "relu", "relu6", "sigmoid", "hardsigmoid", "hardswish", "silu", "gelu", "gelu_tanh", "mish"),
        *("softplus", "tanh", "softsign", "log_sigmoid", "abs", "square", "rsqrt"),
    )
)


@lru_cache(maxsize=64)
def _meant(function: Unary) -> Array:
    with np.errstate(all="ignore"):
        return function.compute(_POINTS)


def _with_parameters(made: Array) -> Iterator[Unary]:
    """Functions whose parameters can be read off the values far from zero, or where they rise."""
    low, high = float(made[0]), float(made[-1])
    if not np.isfinite([low, high]).all():
        return
    yield Unary("leaky_relu", (low / float(_POINTS[0]),))
    yield Unary("clip", (low, high))
    rising = np.flatnonzero((made > 0.05) & (made < 0.95))
    if (low, high) == (0, 1) and rising.size > 1:
        first, last = rising[0], rising[-1]
        slope = float((made[last] - made[first]) / (_POINTS[last] - _POINTS[first]))
        yield Unary("hardsigmoid", (slope, float(made[first] - slope * _POINTS[first])))
