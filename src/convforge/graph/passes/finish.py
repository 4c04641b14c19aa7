"""What is done to a product's result before anything else reads it becomes part of the product: a residual that is
added, and an activation."""

from __future__ import annotations

from dataclasses import replace

from ..nodes import Binary, Convolution, Graph, Linear, Node, TransposedConvolution, Unary
from .draft import Draft


def fuse(graph: Graph) -> Graph:
    """Additions and activations as finishes of the convolution or linear layer before them."""
    draft = Draft(graph)
    for node in graph.nodes:
        if isinstance(node.operation, Binary) and node.operation.kind == "add":
            _add(draft, node)
        elif isinstance(node.operation, Unary):
            _activate(draft, node, node.operation)
    return draft.done()


def _add(draft: Draft, node: Node) -> None:
    """A convolution and what is added to it. Of two convolutions the one that comes later takes the other one's."""
    places = {name: place for place, name in enumerate(draft.nodes)}
    for name in sorted(node.inputs, key=lambda name: -places.get(name, -1)):
        other = node.inputs[1 - node.inputs.index(name)]
        made = draft.made_by(name, Convolution)
        if made is None or not isinstance(made.operation, Convolution) or not draft.read_once(name):
            continue
        convolution = made.operation
        if convolution.residual or convolution.activation is not None or not draft.same_shape(other, name):
            continue
        draft.put(replace(convolution, residual=True), (*made.inputs, other), node.output)
        draft.drop_unread(name)
        return


def _activate(draft: Draft, node: Node, function: Unary) -> None:
    (name,) = node.inputs
    made = draft.made_by(name, (Convolution, Linear, TransposedConvolution))
    if made is None or not draft.read_once(name):
        return
    operation = made.operation
    assert isinstance(operation, Convolution | Linear | TransposedConvolution)
    if operation.activation is None:
        draft.put(replace(operation, activation=function), made.inputs, node.output)
        draft.drop_unread(name)
