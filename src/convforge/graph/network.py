"""A network that runs: one native call, one team of threads, one block of memory.

>>> import numpy as np
>>> from convforge.graph.nodes import Graph, Node, Unary
>>> from convforge.graph.network import Network
>>> network = Network(Graph({"x": (1, 3)}, ("y",), (Node(Unary("relu"), ("x",), "y"),), {}))
>>> network(np.array([[-1.0, 0.0, 2.0]], np.float32))[0].tolist()
[[0.0, 0.0, 2.0]]
"""

from __future__ import annotations

import threading
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..native import target as targets
from ..native.program import Program
from ..native.runtime import memory, usable_threads
from ..native.target import LINE
from ..native.team import Team, clocks
from ..spec import round_up
from .addresses import address_of
from .deferred import Deferred
from .lowering import Line, Lowered, Lowering, lower, moved
from .mapped import in_file
from .memory import Arena, Life, arranged
from .nodes import Graph
from .operations.base import GraphError
from .passes import optimized
from .profile import Profile, profiled
from .store import Store
from .tensor import Tensor

Array = NDArray[Any]

_MOST_PLANS = 64
"""For input shapes and layouts; the newest are kept."""


@dataclass(frozen=True)
class Planned:
    """A network for inputs of certain shapes and layouts, ready to run."""

    lowered: Lowered
    lives: dict[str, Life]
    arena: Arena
    program: Program
    fixed: NDArray[np.int64]
    """The addresses of a call's buffers, as far as they are always the same."""
    outputs: tuple[Tensor, ...]
    """Where each is written, in a buffer of its own."""
    zeros: Array
    tables: list[Table] = field(default_factory=list, init=False)
    """Of calls that are over."""


class Table:
    """The addresses of one call's buffers, and that of the table itself."""

    __slots__ = ("address", "numbers")

    def __init__(self, fixed: NDArray[np.int64]) -> None:
        self.numbers = array("q", fixed.tobytes())
        self.address = self.numbers.buffer_info()[0]


class Network:
    """A graph, planned for the shapes that it is called with.

    It may be called by several threads at once: each has its own memory, and they take turns.

    Args:
        graph: what to compute; it is simplified first.
        threads: how many to use; 0 for all cores.
        exact: leave out algorithms that rearrange products (Winograd).

    Raises:
        CannotLower: at once or at a call, where there is no kernel for a node.
    """

    def __init__(self, graph: Graph, threads: int = 0, exact: bool = False, dtype: str = "float32") -> None:
        self.graph = optimized(graph)
        self.threads = threads or usable_threads()
        self.exact, self.dtype = exact, dtype
        self._type = np.dtype(dtype)
        self._store = Store(dtype)
        self._plans: dict[object, Planned] = {}
        self._last: Planned | None = None
        self._planning = threading.Lock()
        self._free: list[tuple[int, object, int]] = []

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        """The outputs for these inputs, in the graph's order; arrays are new at every call."""
        given: Sequence[Array] = arrays
        planned = self._met(arrays)
        if planned is None:
            names = tuple(self.graph.inputs)
            if len(arrays) != len(names):
                raise GraphError(f"the network takes {len(names)} inputs ({', '.join(names)}), not {len(arrays)}.")
            given = [self._readable(name, array) for name, array in zip(names, arrays, strict=True)]
            planned = self._planned(given)
        outputs = tuple([np.empty(tensor.shape, self._type) for tensor in planned.outputs])
        self.run(planned, [address_of(a) for a in given], [address_of(y) for y in outputs])
        return outputs

    def _met(self, arrays: Sequence[Any]) -> Planned | None:
        """The plan for such arrays as they lie in memory, if they have come before."""
        for a in arrays:
            if type(a) is not np.ndarray or a.dtype != self._type or not a.flags.aligned:
                return None
        planned = self._plans.get((*[(a.shape, a.strides) for a in arrays], ()))
        if planned is not None:
            self._last = planned
        return planned

    def run(self, planned: Planned, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """On these addresses."""
        program, arena = planned.program, planned.arena.size
        room = self._memory(arena + LINE + program.bytes)
        try:
            table = planned.tables.pop()
        except IndexError:
            table = Table(planned.fixed)
        numbers, at = table.numbers, room[0]
        numbers[0] = at
        for n, address in enumerate((*inputs, *outputs), 1):
            numbers[n] = address
        Team.of(self.threads).lead_on(program.address, at + arena, table.address)
        planned.tables.append(table)
        self._free.append(room)

    def _memory(self, size: int) -> tuple[int, object, int]:
        """An address, what keeps the memory there alive, and its bytes: that of a call that is over, if it will do."""
        try:
            room = self._free.pop()
            if room[2] >= size:
                return room
        except IndexError:
            pass
        return *memory(size), size

    def _readable(self, name: str, array: Array) -> Array:
        array = np.asarray(array)
        if array.dtype != self._type:
            raise GraphError(f"the network takes {self.dtype} numbers for {name!r}, not {array.dtype}.")
        rank = len(self.graph.inputs[name])
        if array.ndim != rank:
            raise GraphError(f"the network takes {rank} axes for {name!r}, not shape {array.shape}.")
        if (
            array.ndim == 4
            and array.transpose(0, 2, 3, 1).flags.c_contiguous
            and array.ctypes.data % array.itemsize == 0
        ):
            return array
        return np.require(array, requirements=["C", "A"])

    def planned(self, *arrays: Array, channels_last: tuple[bool, ...] = ()) -> Planned:
        """The plan for such inputs; of images among the outputs, those that are to be `channels_last`."""
        names = tuple(self.graph.inputs)
        given = [self._readable(name, array) for name, array in zip(names, arrays, strict=True)]
        return self._planned(given, channels_last)

    def _planned(self, given: list[Array], channels_last: tuple[bool, ...] = ()) -> Planned:
        key = (*((a.shape, a.strides) for a in given), channels_last)
        planned = self._plans.get(key)  # without a lock: a fork may come at any call
        if planned is None:
            with self._planning:
                planned = self._plans.get(key) or self._plan(given, channels_last)
                others = list(self._plans.items())[-_MOST_PLANS + 1 :]
                self._plans = dict(others) | {key: planned}
        self._last = planned
        return planned

    def _plan(self, given: list[Array], channels_last: tuple[bool, ...]) -> Planned:
        names = tuple(self.graph.inputs)
        shapes = {name: tuple(a.shape) for name, a in zip(names, given, strict=True)}
        graph = self.graph if shapes == self.graph.inputs else self.graph.with_input(shapes)
        tensors = {
            name: Tensor(f"input {n}", tuple(a.shape), tuple(step // a.itemsize for step in a.strides))
            for n, (name, a) in enumerate(zip(names, given, strict=True))
        }
        all_shapes = graph.shapes()
        last = (*channels_last, *[False] * (len(graph.outputs) - len(channels_last)))
        results = tuple(
            (Tensor.nhwc if nhwc else Tensor.dense)(f"output {n}", all_shapes[name])
            for n, (name, nhwc) in enumerate(zip(graph.outputs, last, strict=True))
        )
        target = targets.current()
        lowered = lower(Lowering(graph, tensors, results, self._store, target, self.threads, self.exact))
        lives = _lives(lowered)
        arena = arranged(lives)
        outputs = [tensor.slot for tensor in results]
        constants = list(self._store.addresses)
        buffers = ("arena", *(tensor.slot for tensor in tensors.values()), *outputs, "zeros", *constants)
        at = {name: (name, 0) for name in buffers} | {name: ("arena", offset) for name, offset in arena.offsets.items()}
        program = Program(tuple(moved(step, at) for step in lowered.steps), buffers=buffers)
        zeros = np.zeros(max(lowered.zeros // 8, 1))
        before = [0] * (1 + len(tensors) + len(outputs))
        fixed = np.array([*before, zeros.ctypes.data, *(self._store.addresses[name] for name in constants)], np.int64)
        arena = Arena(arena.offsets, round_up(arena.size, LINE))
        return Planned(lowered, lives, arena, program, fixed, results, zeros)

    def renewed(self, graph: Graph) -> Network:
        """The network of the same graph with other numbers in its constants. Where its passes come to the same nodes,
        all that is planned stays so, and only the constants are packed."""
        new = Network(graph, self.threads, self.exact, self.dtype)
        if not _alike(new.graph, self.graph):
            return new
        with self._planning:
            new._store = self._store.renewed(new.graph.constants)
            addresses = list(new._store.addresses.values())
            for key, planned in self._plans.items():
                first = 2 + len(graph.inputs) + len(planned.outputs)
                fixed = planned.fixed.copy()
                fixed[first:] = addresses[: len(fixed) - first]
                new._plans[key] = replace(planned, fixed=fixed)
            new._last = next(reversed(new._plans.values()), None)
        return new

    @property
    def lines(self) -> tuple[Line, ...]:
        """What was made of each node, for the shapes that it was called with last."""
        return self._last.lowered.lines if self._last else ()

    @property
    def kept_bytes(self) -> int:
        """What it takes beside the weights that it was given: its constants in the kernels' own form, those that its
        passes have made, and the memory of calls that are over."""
        return sum(self._store.bytes.values()) + sum(room for _, _, room in self._free) + self._constants()["memory"]

    def _constants(self) -> Counter[str]:
        """The bytes of the graph's constants by where they lie: in "memory", in a "file", with the "model" that they
        are parameters of, or nowhere, "deferred" until they are read."""
        found = Counter({"memory": 0, "file": 0, "model": 0, "deferred": 0})
        for name, a in self.graph.constants.items():
            if isinstance(a, Deferred):
                found["deferred"] += a.nbytes
            else:
                found["file" if in_file(a) else "model" if name in self.graph.sources else "memory"] += a.nbytes
        return found

    def clocks(self) -> list[int]:
        """When each step of the last call ended, in ticks of the CPU's time stamp counter; nothing on arm64."""
        if self._last is None:
            return []
        return clocks(self._free[-1][0] + self._last.arena.size, len(self._last.program.steps))

    def profile(self, *arrays: Array, peak: float = 0.0) -> Profile:
        """Where the time of a call with these inputs goes, a row a node: measured, predicted by the engine's model,
        multiply-adds beside the machine's `peak` (operations a second of all threads; `bench.limits` measures it), and
        bytes. No rows on arm64, which has no time stamps that a program may read."""
        self(*arrays)
        return profiled(lambda: self(*arrays), self.clocks, self.lines, targets.current(), self.threads, peak)

    def memory(self) -> str:
        """Who lives where when, for the shapes that it was called with last: a line for each slot of the arena; and
        what else there is of the network."""
        planned = self._last
        if planned is None:
            return "nothing yet: the network is planned when it is called"
        rows = sorted(planned.lives.items(), key=lambda row: (row[1].first, row[1].last))
        lines = [
            f"{planned.arena.offsets[name]:>12,}  {life.size:>12,}  {life.first:>4} to {life.last:<4}  {name}"
            for name, life in rows
        ]
        total = sum(life.size for life in planned.lives.values())
        head = f"{'at byte':>12}  {'bytes':>12}  {'steps':<12}  slot"
        where = self._constants()
        foot = (
            f"arena {planned.arena.size:,} bytes for slots of {total:,}; calls that are over have left "
            f"{sum(room for _, _, room in self._free):,} bytes to the next ones",
            f"constants {sum(self._store.bytes.values()):,} bytes in the kernels' own form; in their first one "
            f"{where['memory']:,} in memory, {where['model']:,} that are the model's, {where['file']:,} in a file, "
            f"{where['deferred']:,} computed when they are packed",
        )
        return "\n".join([head, *lines, *foot])


def _alike(one: Graph, other: Graph) -> bool:
    """Whether graphs differ in nothing but the numbers of their constants."""
    return (one.inputs, one.outputs, one.nodes, _kinds(one)) == (
        other.inputs,
        other.outputs,
        other.nodes,
        _kinds(other),
    )


def _kinds(graph: Graph) -> dict[str, object]:
    return {name: (array.shape, array.dtype) for name, array in graph.constants.items()}


def _lives(lowered: Lowered) -> dict[str, Life]:
    """From the first step that touches a slot to the last."""
    touched: dict[str, tuple[int, int]] = {}
    for index, step in enumerate(lowered.steps):
        for _, slot, _ in step.addresses:
            if slot in lowered.slots:
                touched[slot] = touched.get(slot, (index, index))[0], index
    return {slot: Life(lowered.slots[slot], *when) for slot, when in touched.items()}
