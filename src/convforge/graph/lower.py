"""From a graph to the steps that run it: which kernel, which algorithm, and where every value lies.

Images lie with their channels side by side. What only looks at numbers differently (reshape, transpose, slice) moves
nothing as long as steps along the axes can express it. A concat is no step at all where its inputs can be computed to
where they belong; an addition before a convolution's activation takes the place of the summand that is no longer
needed. Numbers that are computed from each other one by one (`Binary`, `Unary`) are one pass over memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..engine.geometry import Problem
from ..engine.kernels.epilogue import Epilogue
from ..engine.kernels.functions import spelled
from ..engine.passes import prepare
from ..engine.plan import Pass
from ..engine.program import Place, Prepared, Step
from ..engine.target import DTYPE_BYTES, Target
from . import operations as ops
from .kernels.copying import copying
from .kernels.elementwise import Expression, elementwise
from .kernels.pooling import Windows, pooling
from .kernels.reduction import reduction
from .kernels.resizing import resizing
from .kernels.softmax import softmax
from .nodes import Graph, Node
from .operations.base import GraphError
from .store import Store
from .tensor import Tensor, row_major

_MOST_INPUTS = 6
"""Of an expression that is computed in one pass."""


class CannotLower(GraphError):
    """The engine has no kernel for a node: the message says for which."""


@dataclass(frozen=True, slots=True)
class Line:
    """What was made of a node: its output, what it is, by what, and which steps these are."""

    output: str
    what: str
    how: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Lowered:
    """A graph as steps: what was made of each node, in order, and the bytes of each slot that is neither an input, an
    output nor a constant."""

    lines: tuple[Line, ...]
    slots: dict[str, int]
    zeros: int

    @property
    def steps(self) -> tuple[Step, ...]:
        """All of them, in order."""
        return tuple(step for line in self.lines for step in line.steps)


_Pending = tuple[Expression, tuple[str, ...]]
_ELEMENTWISE = (ops.Unary, ops.Binary, ops.PRelu)
_VIEWS = (ops.Reshape, ops.Transpose, ops.Slice, ops.Expand, ops.Concat)
_WRITES_ANYWHERE = (
    ops.Convolution, ops.TransposedConvolution, ops.Pooling, ops.AdaptivePooling, ops.Binary, ops.Unary, ops.PRelu,
    ops.Resize, ops.Concat, ops.Pad,
)  # fmt: skip
_PADS = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def lower(
    graph: Graph, given: dict[str, Tensor], store: Store, target: Target, threads: int, exact: bool = False
) -> Lowered:
    """The steps of a graph whose inputs lie as the tensors `given` say; its outputs are dense, in slots `output N`.

    Raises `CannotLower` where there is no kernel for a node.
    """
    return _Lowering(graph, given, store, target, threads, exact).lowered()


class _Lowering:
    def __init__(
        self, graph: Graph, given: dict[str, Tensor], store: Store, target: Target, threads: int, exact: bool
    ) -> None:
        self.graph, self.store, self.target, self.threads, self.exact = graph, store, target, threads, exact
        self.dtype, self.size = store.dtype, DTYPE_BYTES[store.dtype]
        self.shapes = graph.shapes()
        self.homes: dict[str, Tensor] = dict(given)
        self.placed: dict[str, Tensor] = {}
        self.pending: dict[str, _Pending] = {}
        self.slots: dict[str, int] = {}
        self.lines: list[Line] = []
        self.zeros = 0
        self.made_by = {node.output: node for node in graph.nodes}
        self.readers = Counter(name for node in graph.nodes for name in node.inputs)
        self.last_read = self._last_reads()

    def lowered(self) -> Lowered:
        self._place_outputs()
        self._place_concats()
        for index, node in enumerate(self.graph.nodes):
            if not (isinstance(node.operation, _ELEMENTWISE) and self._postponed(node)):
                self._node(index, node)
        for number, name in enumerate(self.graph.outputs):
            slot, home = f"output {number}", self.home(name)
            if home.slot != slot:
                y = Tensor.dense(slot, self.shapes[name])
                self._line(name, "output", "copied", copying(home, y, self.dtype, self.target, self.threads))
        return Lowered(tuple(self.lines), self.slots, self.zeros)

    # --- where values lie ---------------------------------------------------------------------------------------------

    def _last_reads(self) -> dict[str, float]:
        """For each value, the last node that reads it or anything that may be a view of it."""
        last: dict[str, float] = dict.fromkeys(self.graph.outputs, math.inf)
        for index in reversed(range(len(self.graph.nodes))):
            node = self.graph.nodes[index]
            through = last.get(node.output, -1.0) if isinstance(node.operation, _VIEWS) else float(index)
            if isinstance(node.operation, _ELEMENTWISE):  # it may be computed later, with what reads it
                through = max(float(index), last.get(node.output, -1.0))
            for name in node.inputs:
                last[name] = max(last.get(name, -1.0), through, float(index))
        return last

    def _place_outputs(self) -> None:
        for number, name in enumerate(self.graph.outputs):
            node = self.made_by.get(name)
            if (
                node
                and isinstance(node.operation, (*_WRITES_ANYWHERE, ops.Linear, ops.Reduce))
                and name not in self.placed
            ):
                self.placed[name] = Tensor.dense(f"output {number}", self.shapes[name])

    def _place_concats(self) -> None:
        """The inputs of concats to where they belong, from the last concat to the first: what goes into one that is
        itself part of another is computed into that one's memory."""
        for node in reversed(self.graph.nodes):
            if not isinstance(node.operation, ops.Concat):
                continue
            whole = self.placed.get(node.output) or self._new(node.output)
            self.placed[node.output] = whole
            for name, rows in self._parts(node):
                maker = self.made_by.get(name)
                free = maker and isinstance(maker.operation, _WRITES_ANYWHERE) and name not in self.placed
                if free and node.inputs.count(name) == 1:
                    self.placed[name] = whole.sliced(node.operation.axis % len(whole.shape), rows)

    def _parts(self, node: Node) -> list[tuple[str, range]]:
        """A concat's inputs, and which rows of it each is."""
        assert isinstance(node.operation, ops.Concat)
        parts, first = [], 0
        for name in node.inputs:
            size = self.shapes[name][node.operation.axis]
            parts.append((name, range(first, first + size)))
            first += size
        return parts

    def _new(self, name: str) -> Tensor:
        """New memory for a value."""
        slot = f"value {name}"
        self.slots[slot] = self.size * math.prod(self.shapes[name])
        return Tensor.nhwc(slot, self.shapes[name])

    def _scratch(self, what: str, size: int) -> str:
        slot = f"{what} {len(self.slots)}"
        self.slots[slot] = size
        return slot

    def _temporary(self, shape: tuple[int, ...]) -> Tensor:
        return Tensor.nhwc(self._scratch("copy", self.size * math.prod(shape)), shape)

    def result(self, node: Node) -> Tensor:
        """Where a node's result goes."""
        home = self.placed.get(node.output) or self._new(node.output)
        self.homes[node.output] = home
        return home

    def home(self, name: str) -> Tensor:
        """Where a value lies that is there already; a constant's, as images with channels side by side."""
        if name in self.pending:
            self._compute_pending(name)
        if name not in self.homes:
            values, shape = self.graph.constants[name], self.shapes[name]
            order = (0, 2, 3, 1) if len(shape) == 4 else tuple(range(len(shape)))
            slot = self.store.named(f"{name} {order}", np.transpose(values, order))
            self.homes[name] = Tensor.nhwc(slot, shape)
        return self.homes[name]

    def place(self, name: str) -> Place:
        """The address of a constant in row-major order, as convolutions take it."""
        if name in self.graph.constants:
            return self.store.named(name, self.graph.constants[name]), 0
        home = self.home(name)
        dense = home if home.strides == row_major(home.shape) else self._copied(home)
        return dense.place(self.size)

    def _copied(self, x: Tensor) -> Tensor:
        y = Tensor.dense(self._scratch("copy", self.size * x.numbers), x.shape)
        self._line("", "copy", "copied", copying(x, y, self.dtype, self.target, self.threads))
        return y

    def _line(self, output: str, what: str, how: str, steps: tuple[Step, ...]) -> None:
        self.lines.append(Line(output, what, how, steps))

    def _replaceable(self, index: int, name: str, shape: tuple[int, ...]) -> bool:
        """Whether a node may write its result over this value: it is not needed any more, and owns its memory."""
        maker = self.made_by.get(name)
        if maker is None or isinstance(maker.operation, _VIEWS) or name in self.placed or self.shapes[name] != shape:
            return False
        return self.last_read[name] <= index and self.homes[name].slot == f"value {name}"

    # --- nodes --------------------------------------------------------------------------------------------------------

    def _node(self, index: int, node: Node) -> None:
        lowering = _LOWERINGS.get(type(node.operation))
        if lowering is None:
            raise CannotLower(f"there is no kernel for {node.operation.name} (node {node.output!r}).")
        lowering(self, index, node)

    def _postponed(self, node: Node) -> bool:
        """Keep an elementwise node to be computed with the one that reads it, where that is another of its kind."""
        expression, inputs = self._expression(node)
        readers = [other for other in self.graph.nodes if node.output in other.inputs]
        with_reader = (
            len(readers) == 1
            and isinstance(readers[0].operation, _ELEMENTWISE)
            and self.readers[node.output] == 1
            and self.shapes[readers[0].output] == self.shapes[node.output]
            and node.output not in self.graph.outputs
            and node.output not in self.placed
            and len(inputs) < _MOST_INPUTS
        )
        self.pending[node.output] = expression, inputs
        return with_reader

    def _expression(self, node: Node) -> _Pending:
        """What a node computes number by number, with what its inputs were postponed to."""
        inputs: list[str] = []
        parts: list[list[tuple[str, tuple[int, ...]]]] = []
        whose: list[tuple[str, _Pending | None]] = []
        for name in node.inputs:
            pending = self.pending.get(name)
            whose.append((name, pending))
            for read in pending[1] if pending else (name,):
                if read not in inputs:
                    inputs.append(read)
        steps: list[tuple[str, tuple[int, ...]]] = []
        operands = []
        for name, pending in whose:
            if pending is None:
                operands.append(inputs.index(name))
                continue
            expression, read = pending
            first = len(inputs) + len(steps)
            places = [inputs.index(each) for each in read]
            steps += [
                (word, tuple(places[n] if n < len(read) else first + n - len(read) for n in of))
                for word, of in expression
            ]
            operands.append(len(inputs) + len(steps) - 1)
            del self.pending[name]
        del parts
        operation = node.operation
        if isinstance(operation, ops.Unary):
            word = spelled(operation.kind, operation.parameters)
        else:
            word = "prelu" if isinstance(operation, ops.PRelu) else operation.kind  # type: ignore[attr-defined]
        return (*steps, (word, tuple(operands))), tuple(inputs)

    def _elementwise(self, index: int, node: Node) -> None:
        if node.output in self.pending:
            self._compute_pending(node.output, index)

    def _compute_pending(self, name: str, index: int | None = None) -> None:
        expression, inputs = self.pending.pop(name)
        shape = self.shapes[name]
        given = [self.home(read) for read in inputs]
        over = None
        if index is not None and name not in self.placed:
            over = next((read for read in inputs if self._replaceable(index, read, shape)), None)
        y = self.homes[over] if over else self.placed.get(name) or self._new(name)
        self.homes[name] = y
        steps = elementwise(expression, given, y, self.dtype, self.target, self.threads)
        self._line(name, ", ".join(word for word, _ in expression), "elementwise", steps)

    def _convolution(self, index: int, node: Node) -> None:
        operation = node.operation
        assert isinstance(operation, ops.Convolution)
        names, spec = dict(zip(operation.operands, node.inputs, strict=True)), operation.spec
        x = self._readable(self.home(names["x"]))
        sides = spec.sides((x.shape[2], x.shape[3]))
        if spec.padding_mode != "zeros" and any(map(any, sides)):
            pads = ((0, 0), (0, 0), *sides)
            x = self._padded(x, ops.Pad(pads, _PADS[spec.padding_mode]))
            sides = ((0, 0), (0, 0))
        residual = names.get("residual")
        y, beside = self._with_residual(index, node, residual)
        activation = operation.activation
        word = spelled(activation.kind, activation.parameters) if activation else ""
        apart = residual is not None and beside is None  # it lies elsewhere than the result: a pass of its own
        finish = Epilogue(operation.bias, "" if apart else word, beside is not None)
        w = self.shapes[names["w"]]
        problem = Problem(
            self.dtype, _four(x.shape), _four(w), _four(y.shape), spec.stride, (sides[0][0], sides[1][0]), spec.dilation,
            spec.groups, _four(x.strides), _four(row_major(w)), _four(y.strides),
        )  # fmt: skip
        self._product(node.output, Pass.FORWARD, problem, finish, names, {"x": x, "y": y, "residual": beside})
        if apart:
            assert residual is not None
            expression: Expression = (("add", (0, 1)), *(((word, (2,)),) if word else ()))
            steps = elementwise(expression, [y, self.home(residual)], y, self.dtype, self.target, self.threads)
            self._line(node.output, "add", "elementwise", steps)

    def _with_residual(self, index: int, node: Node, residual: str | None) -> tuple[Tensor, Tensor | None]:
        """Where a convolution's result goes, and the residual, where it lies as the result does."""
        if residual is None:
            return self.result(node), None
        beside = self.home(residual)
        if node.output not in self.placed and self._replaceable(index, residual, self.shapes[node.output]):
            self.homes[node.output] = beside
            return beside, beside
        y = self.result(node)
        return y, beside if y.same_places(beside) else None

    def _product(
        self, output: str, which: Pass, problem: Problem, finish: Epilogue, names: dict[str, str],
        tensors: dict[str, Tensor | None],
    ) -> None:  # fmt: skip
        """The steps of a convolution: its weights packed beforehand where they are constants, else by a step."""
        weights = self.graph.constants.get(names["w"])
        kept = weights is not None
        prepared = prepare(problem, which, self.threads, self.exact, kept=kept, finish=finish, target=self.target)
        self.zeros = max(self.zeros, prepared.zeros.nbytes)
        work = self._scratch("work", max(prepared.compute.work_bytes, prepared.weights.work_bytes))
        at = {name: tensor.place(self.size) for name, tensor in tensors.items() if tensor is not None}
        at |= {"work": (work, 0), "zeros": ("zeros", 0)}
        if finish.bias:
            at["bias"] = self.place(names["bias"])
        if weights is not None and prepared.packed_bytes:
            at["packed"] = self.store.packed(names["w"], weights, prepared), 0
        elif prepared.packed_bytes:
            at["packed"] = self._scratch("packed", prepared.packed_bytes), 0
        if any(
            name == "w" for step in (*prepared.compute.steps, *prepared.weights.steps) for _, name, _ in step.addresses
        ):
            needed = not (kept and prepared.packed_bytes) or _reads_weights(prepared)
            if needed:
                at["w"] = self.place(names["w"])
        steps = prepared.compute.steps if kept else (*prepared.weights.steps, *prepared.compute.steps)
        self._line(output, _what(which, problem, finish), prepared.algorithm, tuple(moved(step, at) for step in steps))

    def _readable(self, x: Tensor) -> Tensor:
        """The tensor itself, or where numbers are repeated by steps of 0, a copy."""
        repeated = any(size > 1 and step == 0 for size, step in zip(x.shape, x.strides, strict=True))
        if not repeated:
            return x
        y = self._temporary(x.shape)
        self._line("", "copy", "copied", copying(x, y, self.dtype, self.target, self.threads))
        return y

    def _transposed_convolution(self, index: int, node: Node) -> None:
        operation = node.operation
        assert isinstance(operation, ops.TransposedConvolution)
        names, spec = dict(zip(operation.operands, node.inputs, strict=True)), operation.spec
        x, y, w = self._readable(self.home(names["x"])), self.result(node), self.shapes[names["w"]]
        (top, _), (left, _) = spec.sides((y.shape[2], y.shape[3]))
        activation = operation.activation
        finish = Epilogue(operation.bias, spelled(activation.kind, activation.parameters) if activation else "")
        problem = Problem(
            self.dtype, _four(y.shape), _four(w), _four(x.shape), spec.stride, (top, left), spec.dilation, spec.groups,
            _four(y.strides), _four(row_major(w)), _four(x.strides),
        )  # fmt: skip
        self._product(node.output, Pass.INPUT_GRADIENT, problem, finish, names, {"x": y, "y": x})

    def _linear(self, index: int, node: Node) -> None:
        operation = node.operation
        assert isinstance(operation, ops.Linear)
        names = dict(zip(operation.operands, node.inputs, strict=True))
        x, y, (outputs, channels) = self.home(names["x"]), self.result(node), self.shapes[names["w"]]
        rows = math.prod(y.shape[:-1])
        flat = self._rows(x, rows, channels)
        to = y.reshaped((rows, outputs))
        target = to or Tensor.dense(self._scratch("copy", self.size * y.numbers), (rows, outputs))
        activation = operation.activation
        finish = Epilogue(operation.bias, spelled(activation.kind, activation.parameters) if activation else "")
        self._matrix(node.output, flat, target, (channels, 1), finish, names)
        if to is None:
            steps = copying(
                replace(target, shape=y.shape, strides=row_major(y.shape)), y, self.dtype, self.target, self.threads
            )
            self._line(node.output, "copy", "copied", steps)

    def _rows(self, x: Tensor, rows: int, channels: int) -> Tensor:
        flat = x.reshaped((rows, channels))
        return self._copied(x).reshaped((rows, channels)) or x if flat is None else flat

    def _matrix(
        self, output: str, x: Tensor, y: Tensor, w_strides: tuple[int, int], finish: Epilogue, names: dict[str, str]
    ) -> None:
        """(rows, channels) times weights: a convolution of one row of pixels with 1×1 kernels."""
        (rows, channels), outputs = x.shape, y.shape[1]
        x4 = Tensor(
            x.slot,
            (1, channels, 1, rows),
            (rows * x.strides[0], x.strides[1], rows * x.strides[0], x.strides[0]),
            x.offset,
        )
        y4 = Tensor(
            y.slot,
            (1, outputs, 1, rows),
            (rows * y.strides[0], y.strides[1], rows * y.strides[0], y.strides[0]),
            y.offset,
        )
        problem = Problem(
            self.dtype, _four(x4.shape), (outputs, channels, 1, 1), _four(y4.shape), (1, 1), (0, 0), (1, 1), 1,
            _four(x4.strides), (*w_strides, 1, 1), _four(y4.strides),
        )  # fmt: skip
        self._product(output, Pass.FORWARD, problem, finish, names, {"x": x4, "y": y4})

    def _pooling(self, index: int, node: Node) -> None:
        operation = node.operation
        assert isinstance(operation, ops.Pooling | ops.AdaptivePooling)
        x, y = self.home(node.inputs[0]), self.result(node)
        windows = [Windows.of(operation, axis, x.shape[2 + axis], y.shape[2 + axis]) for axis in (0, 1)]
        tables = [(self.store.array(window.places), 0) for window in windows]
        tables += [(self.store.array(window.shares(self.dtype)), 0) for window in windows]
        steps = pooling(operation.kind, windows, tables, x, y, self.dtype, self.target, self.threads)
        self._line(node.output, operation.name, "pooling", steps)

    def _reduce(self, index: int, node: Node) -> None:
        operation = node.operation
        assert isinstance(operation, ops.Reduce)
        x, y = self.home(node.inputs[0]), self.result(node)
        try:
            steps = reduction(operation.kind, operation.axes, x, y, self.dtype, self.target, self.threads)
        except ValueError:
            steps = reduction(operation.kind, operation.axes, self._copied(x), y, self.dtype, self.target, self.threads)
        self._line(node.output, operation.name, "reduction", steps)

    def _resize(self, index: int, node: Node) -> None:
        operation = node.operation
        assert isinstance(operation, ops.Resize)
        x, y = self.home(node.inputs[0]), self.result(node)
        pairs, shares = [], []
        for axis in (0, 1):
            size, out = x.shape[2 + axis], y.shape[2 + axis]
            if operation.mode == "nearest":
                first = second = operation.nearest(axis, size, out)
                share = np.zeros(out)
            else:
                first, second, share = operation.between(axis, size, out)
            pairs.append(np.stack([first, second], axis=1).astype(np.int64))
            shares.append(share.astype(self.dtype))
        tables = [(self.store.array(table), 0) for table in (*pairs, *shares)]
        linear = operation.mode != "nearest"
        self._line(
            node.output,
            operation.mode,
            "resizing",
            resizing(linear, tables, x, y, self.dtype, self.target, self.threads),
        )

    def _pad(self, index: int, node: Node) -> None:
        operation = node.operation
        assert isinstance(operation, ops.Pad)
        self._pad_into(self.home(node.inputs[0]), self.result(node), operation)

    def _padded(self, x: Tensor, operation: ops.Pad) -> Tensor:
        y = self._temporary(operation.shape(x.shape))
        self._pad_into(x, y, operation)
        return y

    def _pad_into(self, x: Tensor, y: Tensor, operation: ops.Pad) -> None:
        if operation.mode == "constant":
            fill = elementwise(((f"={operation.value!r}", ()),), [], y, self.dtype, self.target, self.threads)
            inside = y
            for axis, (before, _) in enumerate(operation.pads):
                inside = inside.sliced(axis, range(before, before + x.shape[axis]))
            steps = (*fill, *copying(x, inside, self.dtype, self.target, self.threads))
        else:
            if len(x.shape) != 4 or any(map(any, operation.pads[:2])):
                raise CannotLower(f"there is no kernel for a {operation.mode} pad of other axes than height and width.")
            pairs, shares = [], []
            for axis in (2, 3):
                before, after = operation.pads[axis]
                rows = np.pad(np.arange(x.shape[axis]), (before, after), mode=operation.mode)  # type: ignore[call-overload]
                pairs.append(np.stack([rows, rows], axis=1).astype(np.int64))
                shares.append(np.zeros(len(rows), self.dtype))
            tables = [(self.store.array(table), 0) for table in (*pairs, *shares)]
            steps = resizing(False, tables, x, y, self.dtype, self.target, self.threads)
        self._line("", f"{operation.mode} pad", "padding", steps)

    def _softmax(self, index: int, node: Node) -> None:
        operation = node.operation
        assert isinstance(operation, ops.Softmax)
        x, y = self.home(node.inputs[0]), self.result(node)
        axis = operation.axis % len(x.shape)
        last = tuple(a for a in range(len(x.shape)) if a != axis) + (axis,)
        back = tuple(last.index(a) for a in range(len(last)))

        def dense() -> Tensor:
            shape = tuple(x.shape[a] for a in last)
            return Tensor.dense(self._scratch("copy", self.size * x.numbers), shape).transposed(back)

        beside = [tensor.strides[axis] == 1 or tensor.shape[axis] == 1 for tensor in (x, y)]
        of, to = x, y
        if not beside[0]:
            of = dense()
            self._line("", "copy", "copied", copying(x, of, self.dtype, self.target, self.threads))
        if not beside[1]:
            to = dense()
        self._line(
            node.output,
            "softmax",
            "softmax",
            softmax(operation.log, axis, of, to, self.dtype, self.target, self.threads),
        )
        if to is not y:
            self._line("", "copy", "copied", copying(to, y, self.dtype, self.target, self.threads))

    def _concat(self, index: int, node: Node) -> None:
        operation = node.operation
        assert isinstance(operation, ops.Concat)
        whole = self.placed[node.output]
        self.homes[node.output] = whole
        axis = operation.axis % len(whole.shape)
        steps: tuple[Step, ...] = ()
        for name, rows in self._parts(node):
            part, home = whole.sliced(axis, rows), self.home(name)
            if (home.slot, home.offset) != (part.slot, part.offset) or not home.same_places(part):
                steps += copying(home, part, self.dtype, self.target, self.threads)
        self._line(node.output, "concat", "copied" if steps else "in place", steps)

    def _slice(self, index: int, node: Node) -> None:
        operation, x = node.operation, self.home(node.inputs[0])
        assert isinstance(operation, ops.Slice)
        axis = operation.axis % len(x.shape)
        self._view(node, x.sliced(axis, operation.rows(x.shape[axis])))

    def _transpose(self, index: int, node: Node) -> None:
        assert isinstance(node.operation, ops.Transpose)
        self._view(node, self.home(node.inputs[0]).transposed(node.operation.order))

    def _expand(self, index: int, node: Node) -> None:
        self._view(node, self.home(node.inputs[0]).expanded(self.shapes[node.output]))

    def _reshape(self, index: int, node: Node) -> None:
        x, shape = self.home(node.inputs[0]), self.shapes[node.output]
        view = x.reshaped(shape)
        if view is None:
            dense = Tensor.dense(self._scratch("copy", self.size * x.numbers), x.shape)
            self._line(node.output, "reshape", "copied", copying(x, dense, self.dtype, self.target, self.threads))
            view = replace(dense, shape=shape, strides=row_major(shape))
        self._view(node, view)

    def _view(self, node: Node, view: Tensor) -> None:
        self.homes[node.output] = view
        to = self.placed.get(node.output)
        if to is not None:
            self.homes[node.output] = to
            self._line(
                node.output, node.operation.name, "copied", copying(view, to, self.dtype, self.target, self.threads)
            )

    def _matmul(self, index: int, node: Node) -> None:
        """Products of matrices, each as a convolution whose weights are the second one."""
        a, b, y = (*(self.home(name) for name in node.inputs), self.result(node))
        batches = y.shape[:-2]
        rows, channels, outputs = a.shape[-2], a.shape[-1], y.shape[-1]
        a, b = a.expanded((*batches, rows, channels)), b.expanded((*batches, channels, outputs))
        for number in np.ndindex(*batches):
            parts = []
            for tensor in (a, b, y):
                for place in number:
                    tensor = Tensor(
                        tensor.slot, tensor.shape[1:], tensor.strides[1:], tensor.offset + place * tensor.strides[0]
                    )
                parts.append(tensor)
            x, w, to = parts
            key = f"matrix {len(self.slots)}"
            self.homes[key], self.shapes[key] = w, w.shape
            x4, y4 = (
                Tensor(
                    t.slot,
                    (1, t.shape[1], 1, rows),
                    (rows * t.strides[0], t.strides[1], rows * t.strides[0], t.strides[0]),
                    t.offset,
                )
                for t in (x, to)
            )
            problem = Problem(
                self.dtype, _four(x4.shape), (outputs, channels, 1, 1), _four(y4.shape), (1, 1), (0, 0), (1, 1), 1,
                _four(x4.strides), (w.strides[1], w.strides[0], 1, 1), _four(y4.strides),
            )  # fmt: skip
            prepared = prepare(problem, Pass.FORWARD, self.threads, self.exact, target=self.target)
            self.zeros = max(self.zeros, prepared.zeros.nbytes)
            work = self._scratch("work", max(prepared.compute.work_bytes, prepared.weights.work_bytes))
            at = {
                "x": x4.place(self.size),
                "y": y4.place(self.size),
                "w": w.place(self.size),
                "work": (work, 0),
                "zeros": ("zeros", 0),
            }
            at["packed"] = self._scratch("packed", max(prepared.packed_bytes, 1)), 0
            steps = tuple(moved(step, at) for step in (*prepared.weights.steps, *prepared.compute.steps))
            self._line(node.output, "matmul", prepared.algorithm, steps)


_LOWERINGS: dict[type[ops.Operation], Callable[[_Lowering, int, Node], None]] = {
    ops.Convolution: _Lowering._convolution,
    ops.TransposedConvolution: _Lowering._transposed_convolution,
    ops.Linear: _Lowering._linear,
    ops.MatMul: _Lowering._matmul,
    ops.Pooling: _Lowering._pooling,
    ops.AdaptivePooling: _Lowering._pooling,
    ops.Reduce: _Lowering._reduce,
    ops.Unary: _Lowering._elementwise,
    ops.Binary: _Lowering._elementwise,
    ops.PRelu: _Lowering._elementwise,
    ops.Resize: _Lowering._resize,
    ops.Pad: _Lowering._pad,
    ops.Softmax: _Lowering._softmax,
    ops.Concat: _Lowering._concat,
    ops.Slice: _Lowering._slice,
    ops.Transpose: _Lowering._transpose,
    ops.Expand: _Lowering._expand,
    ops.Reshape: _Lowering._reshape,
}


def moved(step: Step, at: dict[str, Place]) -> Step:
    """The same step with its addresses in other buffers: `at` says for each of its own where that begins."""
    addresses = tuple((position, at[name][0], at[name][1] + offset) for position, name, offset in step.addresses)
    return replace(step, addresses=addresses)


def _reads_weights(prepared: Prepared) -> bool:
    return any(name == "w" for step in prepared.compute.steps for _, name, _ in step.addresses)


def _what(which: Pass, problem: Problem, finish: Epilogue) -> str:
    """A convolution in a few words."""
    outputs, channels, height, width = problem.w_shape
    stride = f" stride {problem.stride[0]}" if max(problem.stride) > 1 else ""
    groups = f" in {problem.groups} groups" if problem.groups > 1 else ""
    kind = "transposed " if which is Pass.INPUT_GRADIENT else ""
    parts = [f"{kind}{height}×{width}{stride}, {channels * problem.groups}→{outputs}{groups}"]
    parts += ["bias"] if finish.bias else []
    parts += ["add"] if finish.residual else []
    parts += [finish.activation] if finish.activation else []
    return ", ".join(parts)


def _four(values: tuple[int, ...]) -> tuple[int, int, int, int]:
    a, b, c, d = values
    return a, b, c, d
