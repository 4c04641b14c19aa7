"""Products with a constant matrix are linear layers, whatever they were written as."""

from __future__ import annotations

from ..nodes import Graph, Linear, MatMul
from .draft import Draft


def recognise(graph: Graph) -> Graph:
    """x @ w with a constant w `(in, out)` as `Linear`."""
    draft = Draft(graph)
    for node in graph.nodes:
        w = draft.constants.get(node.inputs[-1])
        if isinstance(node.operation, MatMul) and w is not None and w.ndim == 2:
            turned = draft.constant(w.T, f"{node.inputs[-1]}.turned")
            draft.put(Linear(), (node.inputs[0], turned), node.output)
    return draft.done()
