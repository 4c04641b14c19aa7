"""A border that a convolution or a pooling can lay itself."""

from __future__ import annotations

import math
from dataclasses import replace

from ...spec import Sides
from ..nodes import Convolution, Graph, Node, Pad, Pooling
from .draft import Draft


def fold(graph: Graph) -> Graph:
    """Without borders of zeros before convolutions, and of what pooling takes for nothing before poolings."""
    draft = Draft(graph)
    for node in graph.nodes:
        pad = draft.made_by(node.inputs[0], Pad)
        if pad is None or not isinstance(pad.operation, Pad) or pad.operation.mode != "constant":
            continue
        if any(side for pair in pad.operation.pads[:2] for side in pair):
            continue
        operation = _with_pads(node, pad.operation)
        if operation is not None:
            draft.put(operation, (pad.inputs[0], *node.inputs[1:]), node.output)
            draft.drop_unread(pad.output)
    return draft.done()


def _with_pads(node: Node, pad: Pad) -> Convolution | Pooling | None:
    operation, value = node.operation, pad.value
    if isinstance(operation, Convolution):
        spec = operation.spec
        if value != 0 or spec.padding_mode != "zeros" or isinstance(spec.padding, str):
            return None
        return replace(operation, spec=replace(spec, padding=_sum(spec.padding, pad)))
    if isinstance(operation, Pooling) and not operation.ceil:
        bare = operation.pads == ((0, 0), (0, 0))
        if operation.kind == "max" and value == -math.inf:
            return replace(operation, pads=_sum(operation.pads, pad))
        if operation.kind == "average" and value == 0 and (bare or operation.count_padding):
            return replace(operation, pads=_sum(operation.pads, pad), count_padding=True)
    return None


def _sum(sides: Sides, pad: Pad) -> Sides:
    vertical, horizontal = (
        (sides[axis][0] + pad.pads[2 + axis][0], sides[axis][1] + pad.pads[2 + axis][1]) for axis in (0, 1)
    )
    return vertical, horizontal
