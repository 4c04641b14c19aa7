"""What depends on constants only is computed once."""

from __future__ import annotations

import numpy as np

from ..nodes import Graph
from .draft import Draft, as_stored

LARGEST = 16
"""How many times the numbers of its inputs a result may have: repeating numbers is no saving."""


def fold(graph: Graph) -> Graph:
    """Replaces nodes whose inputs are all constants by what they make."""
    draft = Draft(graph)
    for output in list(draft.nodes):
        node = draft.nodes[output]  # with the constants that those before it have become
        arrays = [draft.constants[name] for name in node.inputs if name in draft.constants]
        if len(arrays) < len(node.inputs):
            continue
        size = np.prod(draft.shapes[node.output])
        if size > LARGEST * max(array.size for array in arrays) and size > 1 << 16:
            continue
        result = node.operation.compute(*(array.astype(np.float64) for array in arrays))
        draft.instead(node.output, draft.constant(as_stored(result, *arrays), f"{node.output}.folded"))
    return draft.done()
