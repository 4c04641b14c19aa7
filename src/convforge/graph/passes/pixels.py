"""A linear layer along the channels of every pixel is a 1×1 convolution, which can add a residual.

    transpose(linear(x))  =  conv1×1(transpose(x))        for the transpose that takes channels back to axis 1

Networks that are written with channels last (ConvNeXt) have a transpose to `(N, H, W, C)` before their linear layers
and one back behind; this one moves up through functions and linear layers until it meets the other.
"""

from __future__ import annotations

from ...spec import Conv2dSpec
from ..nodes import Convolution, Graph, Linear, Transpose, Unary
from .draft import Draft

_BACK = Transpose((0, 3, 1, 2))


def lift(graph: Graph) -> Graph:
    """Transposes back to `(N, C, H, W)` moved up as far as linear layers and functions go."""
    draft = Draft(graph)
    for node in graph.nodes:
        if node.operation == _BACK:
            _lift(draft, node.output)
    return draft.done()


def _lift(draft: Draft, output: str) -> None:
    while True:
        (name,) = draft.nodes[output].inputs
        above = draft.made_by(name, (Linear, Unary))
        if above is None or not draft.read_once(name):
            return
        if isinstance(above.operation, Linear) and any(i not in draft.constants for i in above.inputs[1:]):
            return
        x = above.inputs[0]
        back = draft.put_before(output, _BACK, (x,), f"{output}.lifted")
        if isinstance(above.operation, Linear):
            w, *bias = above.inputs[1:]
            kernels = draft.constant(draft.constants[w][:, :, None, None], f"{w}.kernels")
            outputs, inputs = draft.shapes[w]
            spec = Conv2dSpec(inputs, outputs, 1)
            convolution = Convolution(spec, above.operation.bias, activation=above.operation.activation)
            draft.put(convolution, (back, kernels, *bias), output)
        else:
            draft.put(above.operation, (back,), output)
        draft.drop_unread(name)
        output = back
