"""A file followed node by node, for several sizes of its inputs at once.

ONNX files compute sizes like any other numbers: the shape of an image is taken, its batch size picked out, put
beside −1, and used to reshape. Such numbers are computed here while the file is read (`folding`), and not only for the
sizes that are asked for, but for others too, the `Probe`s: with three times the batch, with twice the height. What is
the same for all of them is a constant. What is not must be said in a way that holds for any size (`Reshape` can say "as
many as there are"); where it cannot, or where the network does not fit another size, the probe is let go, and that axis
is `fixed` in the graph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ...spec import SpecError
from ..nodes import Axes, Graph, GraphError, Node, Operation, Reshape, Shape, Unary
from .attributes import Attributes, Cannot
from .files import LARGEST_SIZE, MOST_AXES, PIXELS, File, array_of, opened
from .folding import FOLDED, OF_SHAPES, Budget, fold
from .operators import OPERATORS
from .probes import BATCH, Probe, probes
from .values import Array, Known, Made, T, Value, Varies

_MOST_NUMBERS = 2**34
"""In one tensor. Larger ones are no network's."""
_MOST_REPEATED = 2**28
"""Numbers of constants beyond those that the file holds: repeated ones, which take no memory while the file is read."""


def read(
    source: str | PathLike[str] | bytes | File,
    shapes: Mapping[str, Shape] | None = None,
    known: Mapping[str, ArrayLike] | None = None,
) -> Graph:
    """The network in an ONNX file as a graph.

    Args:
        source: the file's path, its bytes, or what `opened` made of it. Weights that lie in other files must be in the
            path's folder.
        shapes: sizes of inputs, by name, where the file leaves them open. An open batch is 1 where nothing is said.
        known: inputs that are the same at every call and become part of the network: sizes, axes, limits.

    Which axes may have other sizes later (`Graph.with_input`) is found out: all but `Graph.fixed`.

    Raises:
        GraphError: with one sentence, for a file that is damaged or malicious, and for an operator, an attribute or a
            type of numbers that is not known; it names the node.
    """
    file = source if isinstance(source, File) else opened(source)
    fixed = {name: _as_array(name, value) for name, value in (known or {}).items()}
    return Reading(file, probes(file, shapes or {}, fixed), fixed).graph()


def _as_array(name: str, value: ArrayLike) -> Array:
    try:
        return np.asarray(value)
    except ValueError:
        raise GraphError(f"what is known of the input {name!r} is no array.") from None


@dataclass
class Reading:
    """One walk through a file."""

    file: File
    probes: list[Probe]
    known: Mapping[str, Array]
    """Inputs that are the same at every call."""
    values: dict[str, Value] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Outputs that are not computed here, the mask of a dropout, say, and which node they are of."""
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    about: str = ""
    """The name of the node that is being followed."""
    where: str = ""
    """What messages call it."""
    wanted: list[str] = field(default_factory=list)
    """The names of its outputs, empty for those that nothing asks for."""

    def __post_init__(self) -> None:
        weights = self.file.weights
        self._budget = Budget(sum(array.size for array in weights.values()))
        self._used = {*self.probes[0].shapes, *weights, *(name for node in self.file.nodes for name in node.output)}
        self._repeated = _MOST_REPEATED + sum(array.size for array in weights.values())
        self._pixels = {v.name for v in self.file.inputs if v.type.tensor_type.elem_type in PIXELS} - {*self.known}
        """Inputs that are whole numbers."""
        self._number = 0
        self._fresh: set[str] = set()
        """Names that were made up for what the node in hand makes."""
        self._names = {id(array): (name, array) for name, array in weights.items()}
        """Of constants, by the identity of their arrays, which are kept alive."""

    def graph(self) -> Graph:
        first = self.probes[0].shapes
        for name, array in (*self.file.weights.items(), *self.known.items()):
            self.values[name] = Known((array,) * len(self.probes))
        for name in first:
            self.values[name] = Made(name, tuple(probe.shapes[name] for probe in self.probes))
        for node in self.file.nodes:
            self._follow(node)
        outputs = tuple(self._output(name) for name in self.file.outputs)
        if not outputs:
            raise GraphError("the file has no outputs.")
        self._answers_follow_the_batch()
        fixed = {
            name: tuple(
                axis
                for axis, size in enumerate(shape)
                if all(probe.shapes[name][axis] == size for probe in self.probes)
            )
            for name, shape in first.items()
        }
        needed = {*(name for node in self.nodes for name in node.inputs), *outputs}
        constants = {name: array for name, array in self.constants.items() if name in needed}
        graph = Graph(dict(first), outputs, tuple(self.nodes), constants, fixed)
        graph.check()
        return graph

    def _answers_follow_the_batch(self) -> None:
        """The number of images that the file gives is meant where no answer has another shape for another one: some
        exporters write the places of so many images' numbers into the file, and more images would be left out."""
        at = next((at for at, probe in enumerate(self.probes) if probe.symbol == BATCH), None)
        answers = [made.shapes for name in self.file.outputs if isinstance(made := self.values.get(name), Made)]
        if at is not None and all(shapes[at] == shapes[0] for shapes in answers):
            self._let_go(Varies(at))

    def _output(self, name: str) -> str:
        value = self.values.get(name)
        if value is None:
            why = f"{self.missing[name]}, which is not computed here" if name in self.missing else "made by no node"
            raise GraphError(f"the file's output {name!r} is {why}.")
        if isinstance(value, Made) and value.name != name:  # another name of the same
            if value.name in self.file.outputs or value.name in self.probes[0].shapes or name in self.constants:
                self.nodes.append(Node(Unary("identity"), (value.name,), name))
                return name
            return self._renamed(value, name)
        try:
            return self.operand(value, name)
        except Cannot as error:
            raise GraphError(f"the file's output {name!r} {error}.") from None
        except Varies as error:  # of the last probe that is left, the next time
            self._let_go(error)
            return self._output(name)

    def _renamed(self, value: Made, name: str) -> str:
        """The value under its other name, everywhere."""
        self.nodes = [
            Node(
                node.operation,
                tuple(name if i == value.name else i for i in node.inputs),
                name if node.output == value.name else node.output,
            )
            for node in self.nodes
        ]
        renamed = Made(name, value.shapes)
        self.values = {
            key: renamed if isinstance(v, Made) and v.name == value.name else v for key, v in self.values.items()
        }
        return name

    def _follow(self, node: Any) -> None:
        """One node of the file; where a probe has to be let go, again without it."""
        self.about = node.name or (node.output[0] if node.output else "")
        self.where = f"the node {self.about!r} ({node.op_type})"
        self.wanted, self._number = list(node.output), 0
        before = len(self.nodes)
        while True:
            try:
                self._fresh.clear()
                results = self._results(node)
                break
            except Varies as error:
                del self.nodes[before:]
                self._let_go(error)
            except Cannot as error:
                raise GraphError(f"{self.where} {error}.") from None
            except SpecError as error:
                raise GraphError(f"{self.where}: {error}") from None
            except (ArithmeticError, MemoryError) as error:  # of absurd numbers
                raise GraphError(f"{self.where} cannot be computed with: {error}.") from None
        for position, name in enumerate(node.output):
            if name in self.values:
                raise GraphError(f"{self.where} makes {name!r}, which there is already.")
            result = results[position] if position < len(results) else None
            if name and result is None:
                self.missing[name] = f"output {position} of {self.where}"
            elif name and result is not None:
                self.values[name] = self._named(result, name)

    def _results(self, node: Any) -> list[Value | None]:
        if node.domain not in ("", "ai.onnx"):
            raise Cannot(f"is an operator of {node.domain!r}, and only ONNX's own are known")
        attributes, inputs = Attributes(node, self.file.opset), [self._input(name) for name in node.input]
        kind = node.op_type
        pixels = self._pixels.intersection(node.input)
        if pixels and kind not in ("Cast", *OF_SHAPES):
            raise Cannot(
                f"reads the whole numbers of {min(pixels)!r}, which have to be cast to floating-point ones first"
            )
        if kind == "If":
            made: Any = self._branch(attributes, inputs)
        elif kind in FOLDED and (kind in OF_SHAPES or all(v is None or isinstance(v, Known) for v in inputs)):
            made = self._folded(kind, attributes, inputs)
        elif kind in OPERATORS:
            made = OPERATORS[kind](self, attributes, inputs)
        elif kind in FOLDED:
            raise Cannot("is known for sizes and constants only, not for what the network computes")
        else:
            raise Cannot("is an operator that is not known")
        if attributes.left:
            raise Cannot(f"has the attribute {attributes.left[0]!r}, which is not known")
        return list(made) if isinstance(made, list | tuple) else [made]

    def _branch(self, attributes: Attributes, inputs: Sequence[Value | None]) -> list[Value | None]:
        """The branch that is taken, in the place of the node; its names are those of the graph around it, too."""
        branches = attributes.graph("then_branch"), attributes.graph("else_branch")
        condition = self.array(inputs[0] if inputs else None, "the condition")
        branch = branches[0] if condition.size == 1 and condition.item() else branches[1]
        if branch is None:
            raise Cannot("has no such branch")
        saved = self.about, self.where, self.wanted
        for tensor in branch.initializer:
            self.values.setdefault(tensor.name, Known((array_of(tensor, self.file.folder),) * len(self.probes)))
        for node in branch.node:
            self._follow(node)
        self.about, self.where, self.wanted = saved
        self._fresh.clear()
        return [self._input(value.name) for value in branch.output]

    def _folded(self, kind: str, attributes: Attributes, inputs: Sequence[Value | None]) -> list[Value | None]:
        """Computed now, once for all probes that have the same numbers."""
        done: dict[tuple[Any, ...], list[Array]] = {}
        results = []
        for i in range(len(self.probes)):
            if kind in OF_SHAPES:
                shape = next((v.shapes[i] for v in inputs if v is not None), None)
                if shape is None:
                    raise Cannot("has no input")
                results.append(fold(kind, self._budget, attributes, [np.broadcast_to(np.int8(0), shape)]))
                continue
            arrays = [v.arrays[i] if isinstance(v, Known) else None for v in inputs]
            key = tuple(map(id, arrays))
            if key not in done:
                try:
                    done[key] = fold(kind, self._budget, attributes, arrays)
                except Cannot:
                    if i:
                        raise Varies(i, cannot_say=False) from None
                    raise
            results.append(done[key])
        return [Known(made) for made in zip(*results, strict=True)]

    def _let_go(self, error: Varies) -> None:
        """Goes on without a probe, or without all of its symbol."""
        failed = self.probes[error.probe]
        every = error.cannot_say or not failed.may_fail
        stay = [i for i, p in enumerate(self.probes) if p is not failed and not (every and p.symbol == failed.symbol)]
        self.probes = [self.probes[i] for i in stay]
        for name, value in self.values.items():
            if isinstance(value, Known):
                self.values[name] = Known(tuple(value.arrays[i] for i in stay))
            else:
                self.values[name] = Made(value.name, tuple(value.shapes[i] for i in stay))

    def _input(self, name: str) -> Value | None:
        if not name:
            return None
        if name in self.missing:
            raise Cannot(f"reads {name!r}, {self.missing[name]}, which is not computed here")
        if name not in self.values:
            raise Cannot(f"reads {name!r}, which nothing before it makes")
        return self.values[name]

    def _named(self, value: Value, name: str) -> Value:
        """A value that the last node has made, under the file's name for it."""
        last = self.nodes[-1] if self.nodes else None
        if isinstance(value, Made) and last and last.output == value.name and value.name in self._fresh:
            self.nodes[-1] = replace(last, output=name)
            self._fresh.discard(value.name)
            return Made(name, value.shapes)
        return value

    # --- what operators ask for ---------------------------------------------------------------------------------------

    def add(self, operation: Operation, *inputs: Value) -> Made:
        """A node."""
        names = tuple(self.operand(value) for value in inputs)
        shapes = tuple(
            self._shaped(i, operation, [value.shapes[i] for value in inputs]) for i in range(len(self.probes))
        )
        name = self._new_name()
        self._fresh.add(name)
        self.nodes.append(Node(operation, names, name))
        return Made(name, shapes)

    def _shaped(self, probe: int, operation: Operation, shapes: Sequence[Shape]) -> Shape:
        try:
            shape = operation.shape(*shapes)
            large = len(shape) > MOST_AXES or any(not 0 < size < LARGEST_SIZE for size in shape)
            if large or math.prod(shape) > _MOST_NUMBERS:
                raise GraphError(f"it would make a tensor of shape {shape}.")
            return shape
        except (GraphError, SpecError) as error:
            if probe:
                raise Varies(probe, cannot_say=False) from None
            raise GraphError(f"{self.where}: {error}") from None

    def _new_name(self) -> str:
        while True:
            self._number += 1
            name = f"{self.about}.{self._number}"
            if name not in self._used:
                self._used.add(name)
                return name

    def operand(self, value: Value, name: str = "") -> str:
        """The name of a value; what is known becomes a constant of the graph, of floating-point numbers."""
        if isinstance(value, Made):
            return value.name
        array = self.same(value.arrays)
        if array.dtype.kind not in "fiub":
            raise Cannot(f"computes with {array.dtype}")
        if not array.size:
            raise Cannot(f"takes an empty tensor of shape {array.shape}")
        if not name:
            name = self._names[id(array)][0] if id(array) in self._names else self._new_name()
            self._names[id(array)] = (name, array)
        if name in self.constants:
            return name
        self._repeated -= array.size
        if self._repeated < 0:
            raise Cannot(f"takes a constant of shape {array.shape}: with those before, far more than the file holds")
        if array.dtype.kind != "f":
            self.spend(array.shape)
            array = array.astype(np.float32 if abs(array.astype(np.float64)).max() < 2**24 else np.float64)
        self.constants[name] = array
        return name

    def constant(self, array: ArrayLike) -> Known:
        """A number or an array that is the same at every call."""
        made = array if isinstance(array, np.ndarray) else np.asarray(array, np.float32)
        return Known((made,) * len(self.probes))

    def spend(self, shape: Shape) -> None:
        """Before so many constant numbers are gone through."""
        self._budget.take(shape)

    def same(self, items: Sequence[T]) -> T:
        """What is alike for all probes."""
        first = items[0]
        for i, other in enumerate(items[1:], 1):
            alike = other is first
            if not alike and isinstance(first, np.ndarray) and isinstance(other, np.ndarray):
                if first.shape == other.shape and first.size > 2**16:
                    self.spend(first.shape)
                alike = first.dtype == other.dtype and np.array_equal(first, other, equal_nan=first.dtype.kind == "f")
            elif not alike:
                alike = bool(first == other)
            if not alike:
                raise Varies(i)
        return first

    def arrays(self, value: Value | None, what: str) -> tuple[Array, ...]:
        """The numbers of an input that must be known, for each probe."""
        if not isinstance(value, Known):
            raise Cannot(
                f"takes {what} from the network's inputs: it must be known when the file is read"
                if value is not None
                else f"needs {what}"
            )
        return value.arrays

    def array(self, value: Value | None, what: str) -> Array:
        """The same, where it must not depend on the sizes of the network's inputs."""
        return self.same(self.arrays(value, what))

    def image_of(self, sizes: Sequence[Sequence[int]]) -> Made | None:
        """An image of the network that has this height and width in each probe."""
        for value in self.values.values():
            if not isinstance(value, Made) or len(value.shapes[0]) != 4:
                continue
            if all(shape[2:] == tuple(size) for shape, size in zip(value.shapes, sizes, strict=True)):
                return value
        return None

    def reshape(self, x: Value, targets: Sequence[Sequence[int]]) -> Value:
        """x with these sizes, one list of them a probe."""
        if isinstance(x, Known):
            self.spend(x.shapes[0])
            return Known(tuple(array.reshape(tuple(t)) for array, t in zip(x.arrays, targets, strict=True)))
        if all(tuple(shape) == tuple(target) for shape, target in zip(x.shapes, targets, strict=True)):
            return x
        for i, (shape, target) in enumerate(zip(x.shapes, targets, strict=True)):
            if math.prod(shape) != math.prod(target) or min(target, default=1) < 1:
                if i:
                    raise Varies(i, cannot_say=False)
                raise Cannot(f"cannot make {tuple(target)} of {shape}")
        rank = self.same([len(target) for target in targets])
        sizes = [_size(x.shapes, [target[axis] for target in targets], axis) for axis in range(rank)]
        unsaid = [axis for axis, size in enumerate(sizes) if size is None]
        if len(unsaid) > 1:
            axis = unsaid[1]
            raise Varies(next(i for i, target in enumerate(targets) if target[axis] != targets[0][axis]))
        return self.add(Reshape(tuple(-1 if size is None else size for size in sizes)), x)


def _size(shapes: Sequence[Shape], sizes: Sequence[int], axis: int) -> int | Axes | None:
    """One size of a reshape in a way that holds for other sizes, too; None where there is none but "what is left"."""
    if all(size == sizes[0] for size in sizes):
        return sizes[0]
    if all(axis < len(shape) and shape[axis] == size for shape, size in zip(shapes, sizes, strict=True)):
        return 0
    rank = min(len(shape) for shape in shapes)
    for length in range(1, rank + 1):
        for first in range(rank - length + 1):
            products = [math.prod(shape[first : first + length]) for shape in shapes]
            over = products[0] // sizes[0] if sizes[0] else 0
            if over and all(product == over * size for product, size in zip(products, sizes, strict=True)):
                return Axes(first, first + length, over)
    return None
