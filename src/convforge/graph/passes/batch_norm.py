"""Batch norm with known statistics is a factor and a summand a channel: scale / √(variance + eps), and
shift − mean · factor. `scales` then folds them into the convolution before or behind."""

from __future__ import annotations

import numpy as np

from ..nodes import BatchNorm, Binary, Graph
from .draft import Draft, as_stored


def split(graph: Graph) -> Graph:
    """Every batch norm whose numbers are constants as `mul` and `add`."""
    draft = Draft(graph)
    for node in graph.nodes:
        if not isinstance(node.operation, BatchNorm) or any(name not in draft.constants for name in node.inputs[1:]):
            continue
        stored = [draft.constants[name] for name in node.inputs[1:]]
        scale, shift, mean, variance = (array.astype(np.float64) for array in stored)
        factor = scale / np.sqrt(variance + node.operation.eps)
        summand = shift - mean * factor
        channel = (-1, *(1,) * (len(draft.shapes[node.output]) - 2))
        numbers = [as_stored(array.reshape(channel), *stored) for array in (factor, summand)]
        mul = draft.constant(numbers[0], f"{node.output}.factor")
        add = draft.constant(numbers[1], f"{node.output}.summand")
        product = draft.put_before(node.output, Binary("mul"), (node.inputs[0], mul), f"{node.output}.product")
        draft.put(Binary("add"), (product, add), node.output)
    return draft.done()
