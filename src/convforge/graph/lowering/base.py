"""What lowering has done so far: where every value lies, and the steps that compute it there.

Images lie with their channels side by side. What only looks at numbers differently (reshape, transpose, slice) moves
nothing as long as steps along the axes can express it. A concat is no step at all where its inputs can be computed to
where they belong.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ...engine.kernels.functions import spelled
from ...native.program import Place, Step
from ...native.target import DTYPE_BYTES, Target
from .. import operations as ops
from ..kernels.copying import copying
from ..kernels.elementwise import Expression, elementwise
from ..nodes import Graph, Node
from ..operations.base import GraphError, Shape
from ..store import Store
from ..tensor import Tensor, row_major


class CannotLower(GraphError):
    """The engine has no kernel for a node: the message says for which."""


@dataclass(frozen=True, slots=True)
class Line:
    """What was made of a node: its output, what it is, by what, and which steps these are.

    `bytes` are those of the tensors that it reads and writes, each once; `macs`, the multiply-adds of the definition;
    `cycles`, what the engine's model says that it takes, 0 where there is none.
    """

    output: str
    what: str
    how: str
    steps: tuple[Step, ...]
    bytes: int
    macs: int = 0
    cycles: float = 0.0


ELEMENTWISE = (ops.Unary, ops.Binary, ops.PRelu, ops.Compare, ops.Where)
VIEWS = (ops.Reshape, ops.Transpose, ops.Slice, ops.Expand, ops.Concat)
WRITES_ANYWHERE = (
    ops.Convolution, ops.TransposedConvolution, ops.Pooling, ops.AdaptivePooling, ops.Binary, ops.Unary, ops.PRelu,
    ops.Compare, ops.Where, ops.Resize, ops.Concat, ops.Pad, ops.PoolingPlaces, ops.Unpooling, ops.GridSample,
)  # fmt: skip
"""Operations whose kernels take any steps between channels, rows and pixels of their result."""


class Lowering:
    """A graph on its way to steps. Its inputs lie as the tensors `given` say, and its outputs go to the tensors
    `results`, each in a slot of its own.

    `homes` says where values lie that are there already, `placed` where some are to go, `pending` what elementwise
    nodes compute that are left for the node that reads them; `slots` are the bytes of all memory but inputs, outputs
    and constants.
    """

    def __init__(
        self,
        graph: Graph,
        given: dict[str, Tensor],
        results: tuple[Tensor, ...],
        store: Store,
        target: Target,
        threads: int,
        exact: bool,
    ) -> None:
        self.graph, self.store, self.target, self.threads, self.exact = graph, store, target, threads, exact
        self.dtype, self.size = store.dtype, DTYPE_BYTES[store.dtype]
        self.shapes = graph.shapes()
        self.homes: dict[str, Tensor] = dict(given)
        self.results = results
        self.placed: dict[str, Tensor] = {}
        self.pending: dict[str, tuple[Expression, tuple[str, ...]]] = {}
        self.slots: dict[str, int] = {}
        self.lines: list[Line] = []
        self.zeros = 0
        self.made_by = {node.output: node for node in graph.nodes}
        self.readers = Counter(name for node in graph.nodes for name in node.inputs)
        self.usual_activation = self._usual_activation()
        # Whether weights have left the caches when a layer is called again, since those of all others went through.
        self.cold = sum(a.size for a in graph.constants.values()) * self.size > target.l3_bytes // 2
        self._last_read = self._last_reads()
        self._place_outputs()
        self._place_concats()

    def _usual_activation(self) -> str:
        """The one that most layers have, of those that have any; "" if none has."""
        operations = [node.operation for node in self.graph.nodes]
        products = [one for one in operations if isinstance(one, (ops.Convolution, ops.Linear)) and one.activation]
        words = Counter(spelled(one.activation.kind, one.activation.parameters) for one in products if one.activation)
        return max(words, key=words.__getitem__, default="")

    # --- where values are to go ---------------------------------------------------------------------------------------

    def _last_reads(self) -> dict[str, float]:
        """For each value, the last node that reads it or anything that may be a view of it."""
        last: dict[str, float] = dict.fromkeys(self.graph.outputs, math.inf)
        for index in reversed(range(len(self.graph.nodes))):
            node = self.graph.nodes[index]
            # A view is read later, and so is what an elementwise node is computed from that is left for its reader.
            later = isinstance(node.operation, VIEWS + ELEMENTWISE)
            read = max(float(index), last.get(node.output, -1.0) if later else -1.0)
            for name in node.inputs:
                last[name] = max(last.get(name, -1.0), read)
        return last

    def _place_outputs(self) -> None:
        for number, name in enumerate(self.graph.outputs):
            node = self.made_by.get(name)
            able = node and isinstance(node.operation, (*WRITES_ANYWHERE, ops.Linear, ops.Reduce))
            if able and name not in self.placed:
                self.placed[name] = self.results[number]

    def _place_concats(self) -> None:
        """The inputs of concats to where they belong, from the last concat to the first: what goes into one that is
        itself part of another is computed into that one's memory."""
        for node in reversed(self.graph.nodes):
            if not isinstance(node.operation, ops.Concat):
                continue
            whole = self.placed.get(node.output) or self._new(node.output)
            self.placed[node.output] = whole
            for name, rows in self.parts(node):
                maker = self.made_by.get(name)
                free = maker and isinstance(maker.operation, WRITES_ANYWHERE) and name not in self.placed
                if free and node.inputs.count(name) == 1:
                    self.placed[name] = whole.sliced(node.operation.axis % len(whole.shape), rows)

    def parts(self, node: Node) -> list[tuple[str, range]]:
        """A concat's inputs, and which rows of it each is."""
        assert isinstance(node.operation, ops.Concat)
        parts, first = [], 0
        for name in node.inputs:
            size = self.shapes[name][node.operation.axis]
            parts.append((name, range(first, first + size)))
            first += size
        return parts

    def result(self, node: Node) -> Tensor:
        """Where a node's result goes."""
        home = self.placed.get(node.output) or self._new(node.output)
        self.homes[node.output] = home
        return home

    def replaceable(self, index: int, name: str, shape: Shape) -> bool:
        """Whether node `index` may write its result over this value: it is not needed any more, and owns its memory."""
        maker = self.made_by.get(name)
        if maker is None or isinstance(maker.operation, VIEWS) or name in self.placed or self.shapes[name] != shape:
            return False
        return self._last_read[name] <= index and self.homes[name].slot == f"value {name}"

    def _gives_way(self, index: int, read: str, name: str, given: list[Tensor]) -> bool:
        """Whether an expression's result may be written over one of its inputs: what else it reads of that memory, it
        reads number by number with it."""
        home = self.homes[read]
        elsewhere = [x for x in given if x.slot == home.slot and (x.offset != home.offset or not x.same_places(home))]
        return not elsewhere and self.replaceable(index, read, self.shapes[name])

    # --- memory -------------------------------------------------------------------------------------------------------

    def _new(self, name: str) -> Tensor:
        """New memory for a value."""
        slot = f"value {name}"
        self.slots[slot] = self.size * math.prod(self.shapes[name])
        return Tensor.nhwc(slot, self.shapes[name])

    def scratch(self, what: str, size: int) -> str:
        """A slot of so many bytes."""
        slot = f"{what} {len(self.slots)}"
        self.slots[slot] = size
        return slot

    def temporary(self, shape: Shape, *, images: bool = False) -> Tensor:
        """New memory for a copy: dense, or with channels side by side."""
        slot = self.scratch("copy", self.size * math.prod(shape))
        return Tensor.nhwc(slot, shape) if images else Tensor.dense(slot, shape)

    # --- where values lie ---------------------------------------------------------------------------------------------

    def home(self, name: str) -> Tensor:
        """Where a value lies that is there already; a constant's, as images with channels side by side."""
        if name in self.pending:
            self.compute_pending(name)
        if name not in self.homes:
            values, shape = self.graph.constants[name], self.shapes[name]
            order = (0, 2, 3, 1) if len(shape) == 4 else tuple(range(len(shape)))
            slot = self.store.named(name, values, order)
            self.homes[name] = Tensor.nhwc(slot, shape)
        return self.homes[name]

    def place(self, name: str) -> Place:
        """The address of weights or of a bias, in row-major order."""
        if name in self.graph.constants:
            return self.store.named(name, self.graph.constants[name]), 0
        return self.dense(self.home(name)).place(self.size)

    def dense(self, x: Tensor) -> Tensor:
        """In row-major order: the tensor itself, or a copy."""
        return x if x.strides == row_major(x.shape) else self.copied(x, self.temporary(x.shape))

    def readable(self, x: Tensor) -> Tensor:
        """For convolutions: the images themselves, or a copy where numbers are repeated by steps of 0."""
        repeated = any(size > 1 and step == 0 for size, step in zip(x.shape, x.strides, strict=True))
        return self.copied(x, self.temporary(x.shape, images=True)) if repeated else x

    # --- steps --------------------------------------------------------------------------------------------------------

    def line(
        self, output: str, what: str, how: str, steps: tuple[Step, ...], tensors: Iterable[Tensor | None],
        numbers: int = 0, macs: int = 0, cycles: float = 0.0,
    ) -> None:  # fmt: skip
        """These steps come next; they touch these tensors and so many `numbers` beside."""
        numbers += sum(tensor.different for tensor in tensors if tensor)
        self.lines.append(Line(output, what, how, steps, numbers * self.size if steps else 0, macs, cycles))

    def copied(self, x: Tensor, to: Tensor, output: str = "") -> Tensor:
        """x copied there; that is returned."""
        self.line(output, "copy", "copied", copying(x, to, self.dtype, self.target, self.threads), (x, to))
        return to

    def compute_pending(self, name: str, index: int | None = None) -> None:
        """Compute what was left for a reader; over an input that is needed no more where it is node `index`'s turn."""
        expression, inputs = self.pending.pop(name)
        given = [self.home(read) for read in inputs]
        over = None
        if index is not None and name not in self.placed:
            over = next((read for read in inputs if self._gives_way(index, read, name, given)), None)
        y = self.homes[over] if over else self.placed.get(name) or self._new(name)
        self.homes[name] = y
        steps = elementwise(expression, given, y, self.dtype, self.target, self.threads)
        self.line(name, ", ".join(word for word, _ in expression), "elementwise", steps, (*given, y))


def moved(step: Step, at: dict[str, Place]) -> Step:
    """The same step with its addresses in other buffers: `at` says for each of its own where that begins."""
    addresses = tuple((position, at[name][0], at[name][1] + offset) for position, name, offset in step.addresses)
    return replace(step, addresses=addresses)
