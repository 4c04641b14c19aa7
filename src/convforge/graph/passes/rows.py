"""Rows that are taken by constant numbers are slices, one behind the other: evenly spaced ones are one slice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..nodes import END, Axes, Concat, Graph, Node, Reshape, Slice, Take
from .draft import Draft


def spell(graph: Graph) -> Graph:
    """`Take` by constants as slices, which move nothing, and a concat where there are several."""
    draft = Draft(graph)
    for node in graph.nodes:
        if isinstance(node.operation, Take) and node.inputs[1] in draft.constants:
            _spell(draft, node, node.operation)
    return draft.done()


def _spell(draft: Draft, node: Node, operation: Take) -> None:
    x, rows = node.inputs[0], draft.constants[node.inputs[1]]
    shape = draft.shapes[x]
    axis = operation.axis % len(shape)
    numbers = [int(row) % shape[axis] for row in rows.reshape(-1).astype(np.int64)]
    slices = [Slice(axis, *_limits(run)) for run in _runs(numbers)]
    if not slices:
        return
    parts = [draft.put_before(node.output, part, (x,), f"{node.output}.rows") for part in slices]
    whole = draft.put_before(node.output, Concat(axis), tuple(parts), f"{node.output}.taken")
    before = [Axes(a, a + 1) for a in range(axis)]
    after = [Axes(a, a + 1) for a in range(axis + 1, len(shape))]
    draft.put(Reshape((*before, *rows.shape, *after)), (whole,), node.output)


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """Cut where the distance from one number to the next changes.

    >>> _runs([0, 1, 2, 7, 5, 3, 3, 9])
    [[0, 1, 2], [7, 5, 3], [3, 9]]
    """
    runs: list[list[int]] = []
    for number in numbers:
        last = runs[-1] if runs else []
        step = number - last[-1] if last else 0
        if last and step and (len(last) == 1 or step == last[1] - last[0]):
            last.append(number)
        else:
            runs.append([number])
    return runs


def _limits(run: Sequence[int]) -> tuple[int, int, int]:
    """Start, stop and step of a slice that takes these rows."""
    step = run[1] - run[0] if len(run) > 1 else 1
    stop = run[-1] + (1 if step > 0 else -1)
    return run[0], stop if stop >= 0 else -END, step
