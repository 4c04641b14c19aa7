"""Averaging behind a 1×1 convolution goes before it, where there are fewer pixels to convolve.

    mean(w · x + b)  =  w · mean(x) + b

DenseNet's transitions convolve four times as many pixels as they keep; with this pass they convolve what they keep.
"""

from __future__ import annotations

from ..nodes import Convolution, Graph, Node, Pooling, Reduce
from .draft import Draft


def before(graph: Graph) -> Graph:
    """Average poolings and means of whole images moved before the 1×1 convolution whose result they take."""
    draft = Draft(graph)
    for node in graph.nodes:
        made = draft.made_by(node.inputs[0], Convolution)
        if made is None or not draft.read_once(made.output) or not isinstance(made.operation, Convolution):
            continue
        if _every_pixel_alone(made.operation) and _averages(node, made.operation.bias):
            mean = draft.put_before(node.output, node.operation, made.inputs[:1], f"{node.output}.mean")
            draft.put(made.operation, (mean, *made.inputs[1:]), node.output)
            draft.drop_unread(made.output)
    return draft.done()


def _every_pixel_alone(operation: Convolution) -> bool:
    spec = operation.spec
    one = spec.kernel_size == spec.stride == (1, 1) and spec.padding == ((0, 0), (0, 0))
    return one and not operation.residual and operation.activation is None


def _averages(node: Node, bias: bool) -> bool:
    """Whether it is a mean: with a bias, of pixels that the convolution has made, none of them padding."""
    operation = node.operation
    if isinstance(operation, Reduce):
        return operation.kind == "mean" and operation.keep and {axis % 4 for axis in operation.axes} <= {2, 3}
    if not isinstance(operation, Pooling) or operation.kind != "average" or max(operation.stride) == 1:
        return False
    padded = operation.count_padding and operation.pads != ((0, 0), (0, 0))
    return not (bias and padded)
