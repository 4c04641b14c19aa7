"""A graph while a pass changes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..deferred import Array, Constant, Deferred
from ..nodes import Graph, GraphError, Node, Operation, Shape


class Draft:
    """Nodes by what they make, in an order that can run, and who reads what.

    A pass goes over a copy of `nodes` and replaces a node by one that makes the same value. What such a node reads is
    made before it, because what it replaces read it, or read what was made of it.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.shapes: dict[str, Shape] = graph.shapes()
        self._elsewhere = [other.shapes() for other in _other_sizes(graph)]
        self.constants = dict(graph.constants)
        self.nodes: dict[str, Node] = {node.output: node for node in graph.nodes}
        self.outputs = list(graph.outputs)
        self._reads = Counter([*(name for node in graph.nodes for name in node.inputs), *graph.outputs])

    def made_by(self, name: str, kind: type[Operation] | tuple[type[Operation], ...]) -> Node | None:
        """The node that makes a value, if it is of this kind."""
        node = self.nodes.get(name)
        return node if node is not None and isinstance(node.operation, kind) else None

    def read_once(self, name: str) -> bool:
        """Whether a value is read in one place only, and is no output."""
        return self._reads[name] == 1

    def same_shape(self, one: str, other: str) -> bool:
        """Whether two values have the same shape, for other batch and image sizes, too."""
        return all(shapes[one] == shapes[other] for shapes in (self.shapes, *self._elsewhere))

    def put(self, operation: Operation, inputs: tuple[str, ...], output: str) -> None:
        """A node in the place of the one that makes `output` now."""
        self._reads.subtract(self.nodes[output].inputs)
        self._reads.update(inputs)
        self.nodes[output] = Node(operation, inputs, output)
        self._shape(output, operation, inputs)

    def put_before(self, output: str, operation: Operation, inputs: tuple[str, ...], about: str) -> str:
        """A new node in front of the one that makes `output`; the name of what it makes."""
        name = self._new(about)
        nodes = self.nodes
        self.nodes = {}
        for made, node in nodes.items():
            if made == output:
                self.nodes[name] = Node(operation, inputs, name)
            self.nodes[made] = node
        self._reads.update(inputs)
        self._shape(name, operation, inputs)
        return name

    def drop(self, output: str) -> None:
        """Takes out a node whose value nothing reads any more."""
        self._reads.subtract(self.nodes.pop(output).inputs)

    def drop_unread(self, name: str) -> None:
        """Takes out the node that makes a value, and those before it, as far as nothing else reads them."""
        node = self.nodes.get(name)
        if node is not None and not self._reads[name]:
            self.drop(name)
            for before in dict.fromkeys(node.inputs):
                self.drop_unread(before)

    def instead(self, old: str, new: str) -> None:
        """Whoever reads `old` reads `new`, which must be made before its first reader; outputs, too."""
        for node in list(self.nodes.values()):
            if old in node.inputs:
                self.nodes[node.output] = replace(node, inputs=tuple(new if i == old else i for i in node.inputs))
        self.outputs = [new if name == old else name for name in self.outputs]
        self._reads[new] += self._reads.pop(old, 0)
        self.drop_unread(old)

    def constant(self, array: Constant, about: str) -> str:
        """A new constant, whose name begins with `about`."""
        name = self._new(about)
        self.constants[name] = array
        for shapes in (self.shapes, *self._elsewhere):
            shapes[name] = array.shape
        return name

    def computed(self, compute: Callable[[Array], Array], w: Constant, about: str) -> str:
        """A new constant with the shape and type of `w`, computed of it whenever it is read."""
        deferred = Deferred(lambda numbers: as_stored(compute(numbers), numbers), (w,), w.shape, w.dtype)
        return self.constant(deferred, about)

    def number(self, name: str) -> float | None:
        """The value of a constant with one number in it."""
        array = self.constants.get(name)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def done(self) -> Graph:
        """The graph, without constants that nothing reads any more."""
        read = {name for node in self.nodes.values() for name in node.inputs} | set(self.outputs)
        return replace(
            self.graph,
            nodes=tuple(self.nodes.values()),
            constants={name: array for name, array in self.constants.items() if name in read},
            sources={name: source for name, source in self.graph.sources.items() if name in read},
            outputs=tuple(self.outputs),
        )

    def _shape(self, name: str, operation: Operation, inputs: tuple[str, ...]) -> None:
        for shapes in (self.shapes, *self._elsewhere):
            shapes[name] = operation.shape(*(shapes[i] for i in inputs))

    def _new(self, about: str) -> str:
        name, number = about, 1
        while name in self.shapes:
            number += 1
            name = f"{about}.{number}"
        return name


def _other_sizes(graph: Graph) -> list[Graph]:
    """The graph with another batch, and with images of twice the size, where it takes them."""
    found = []
    for axes in ((0,), (2, 3)):
        shapes = {name: _changed(shape, axes, graph.fixed.get(name, ())) for name, shape in graph.inputs.items()}
        if shapes != graph.inputs:
            with suppress(GraphError):
                found.append(graph.with_input(shapes))
    return found


def _changed(shape: Shape, axes: tuple[int, ...], fixed: tuple[int, ...]) -> Shape:
    if axes != (0,) and len(shape) != 4:
        return shape
    return tuple(2 * size if axis in axes and axis not in fixed else size for axis, size in enumerate(shape))


def as_stored(result: NDArray[np.float64], *sources: Constant) -> NDArray[Any]:
    """A result in the number format of the arrays that it was computed of; single numbers among them do not count."""
    types = [array.dtype for array in sources if array.ndim]
    return result.astype(np.result_type(*types)) if types else result
