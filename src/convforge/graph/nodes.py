"""A network as a list of nodes: small, plain, and with a meaning that NumPy can compute.

>>> import numpy as np
>>> from convforge.graph.nodes import Binary, Graph, Node, Unary
>>> doubled = Graph(
...     inputs={"x": (1, 3)},
...     outputs=("y",),
...     nodes=(Node(Binary("add"), ("x", "x"), "sum"), Node(Unary("relu"), ("sum",), "y")),
...     constants={},
... )
>>> doubled.compute(x=np.array([[-1.0, 0.0, 2.0]]))[0].tolist()
[[0.0, 0.0, 4.0]]
>>> doubled.with_input((5, 3)).shapes()["y"]
(5, 3)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from . import operations
from .deferred import Constant
from .operations import *  # noqa: F403  the names that graphs are written with, in one place
from .operations import Array, GraphError, Operation, Shape

__all__ = [*operations.__all__, "Graph", "Node"]


@dataclass(frozen=True)
class Node:
    """An operation, the names of the values it takes, and the name of the one it makes."""

    operation: Operation
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """A network: what goes in, what comes out, the nodes in an order that can run, and the weights.

    Args:
        inputs: the name and shape of each.
        outputs: names of inputs, constants or what nodes make.
        nodes: each after those that make its inputs.
        constants: weights and other numbers by name, of any floating type. They may share memory with a model's, or be
            computed of such when they are read.
        fixed: for each input, the axes whose size the graph was made for and cannot be changed, see `with_input`.
        sources: for constants that are a model's parameters or buffers, their names there.

    Names are unique. A graph is not changed once it is made: passes make another. Printed, it has a line a node.
    """

    inputs: dict[str, Shape]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Constant]
    fixed: dict[str, tuple[int, ...]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        shapes = self._shapes
        rows = [(name, _sizes(shape), "input") for name, shape in self.inputs.items()]
        rows += [
            (node.output, _sizes(shapes[node.output]), f"{node.operation.name}({', '.join(node.inputs)})")
            for node in self.nodes
        ]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = [f"{name:<{widths[0]}}  {sizes:>{widths[1]}}  {what}" for name, sizes, what in rows]
        return "\n".join([*lines, f"outputs: {', '.join(self.outputs)}"])

    def __repr__(self) -> str:
        return f"<Graph of {len(self.nodes)} nodes: {', '.join(self.inputs)} → {', '.join(self.outputs)}>"

    def shapes(self) -> dict[str, Shape]:
        """The shape of every value, by its name.

        Raises `GraphError` that names the first node whose inputs do not fit it.
        """
        return dict(self._shapes)

    @cached_property
    def _shapes(self) -> dict[str, Shape]:
        known = dict(self.inputs) | {name: tuple(array.shape) for name, array in self.constants.items()}
        for node in self.nodes:
            for name in node.inputs:
                if name not in known:
                    raise GraphError(f"node {node.output!r} reads {name!r}, which nothing before it makes.")
            try:
                known[node.output] = node.operation.shape(*(known[name] for name in node.inputs))
            except GraphError as error:
                raise GraphError(f"node {node.output!r}: {error}") from None
        return known

    def compute(self, **arrays: ArrayLike) -> tuple[Array, ...]:
        """The outputs, in float64, for an array an input: the meaning of the graph.

        Raises `GraphError` where an input is missing, unknown or of another shape than the graph has it.
        """
        if arrays.keys() != self.inputs.keys():
            raise GraphError(f"the graph takes {', '.join(self.inputs)}, not {', '.join(arrays) or 'nothing'}.")
        values: dict[str, Array] = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
        for name, array in values.items():
            if array.shape != self.inputs[name]:
                raise GraphError(f"the graph takes {name!r} of shape {self.inputs[name]}, not {array.shape}.")
        readers = Counter([*(name for node in self.nodes for name in node.inputs), *self.outputs])
        for name in self.constants.keys() & readers.keys():
            values[name] = np.asarray(self.constants[name], np.float64)
        for node in self.nodes:
            values[node.output] = node.operation.compute(*(values[name] for name in node.inputs))
            readers.subtract(node.inputs)
            for name in set(node.inputs):
                if not readers[name]:
                    del values[name]  # a whole network's feature maps would be much memory
        return tuple(values[name] for name in self.outputs)

    def with_input(self, shape: Shape | Mapping[str, Shape]) -> Graph:
        """The same graph for another batch or image size: a shape for each input that changes, or for the only one.

        Raises `GraphError` where a node does not fit it, and where an axis is `fixed`.
        """
        if not isinstance(shape, Mapping):
            if len(self.inputs) != 1:
                raise GraphError(f"the graph has the inputs {', '.join(self.inputs)}: say which one has shape {shape}.")
            shape = dict.fromkeys(self.inputs, shape)
        for name, sizes in shape.items():
            if name not in self.inputs:
                raise GraphError(f"the graph has no input {name!r}: it has {', '.join(self.inputs)}.")
            if len(sizes) != len(self.inputs[name]):
                raise GraphError(f"input {name!r} has {len(self.inputs[name])} axes, not shape {tuple(sizes)}.")
            for axis in self.fixed.get(name, ()):
                if sizes[axis] != self.inputs[name][axis]:
                    raise GraphError(
                        f"the network was made for size {self.inputs[name][axis]} along axis {axis} of {name!r}, and "
                        f"cannot take {sizes[axis]}."
                    )
        changed = replace(self, inputs=self.inputs | {name: tuple(sizes) for name, sizes in shape.items()})
        changed.check()
        return changed

    def check(self) -> None:
        """Raises `GraphError` where names are used twice or read before they are made, or shapes do not fit."""
        names = Counter([*self.inputs, *self.constants, *(node.output for node in self.nodes)])
        for name, times in names.items():
            if times > 1:
                raise GraphError(f"the name {name!r} is given to {times} values: each needs its own.")
        known = self._shapes
        for name in self.outputs:
            if name not in known:
                raise GraphError(f"the output {name!r} is made by no node.")

    def readers(self) -> dict[str, list[Node]]:
        """The nodes that read each value, in their order. What is an output has that reader besides."""
        found: dict[str, list[Node]] = {name: [] for name in self._shapes}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found[name].append(node)
        return found


def _sizes(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "1 number"
