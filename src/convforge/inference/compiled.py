"""A graph on the engine, for the precision that is set at the call."""

from __future__ import annotations

import math
import threading

import numpy as np

from ..engine.prepared import most_threads
from ..errors import UserError
from ..graph.network import Array, Network
from ..graph.nodes import Graph, GraphError, Node, Reshape, Softmax
from ..precision import get_precision
from .report import NetworkReport, StepReport


class Compiled:
    """What `Model` runs: the graph, planned for the sizes that it is called with.

    Args:
        graph: nobody else may change its constants.
        dtype: what it computes in, 'float32' or 'float64'.
        threads: how many to use; 0 for all cores. More than four a core are not started.

    Raises:
        UserError: for a number of threads that there cannot be.
        GraphError: where there is no kernel for a node (`CannotLower`); everything is planned for the graph's own sizes
            at once, so that a call fails for other sizes only.
    """

    def __init__(self, graph: Graph, dtype: str = "float32", threads: int = 0) -> None:
        self.dtype, self._threads = dtype, _team(threads)
        self._lock = threading.Lock()
        self._networks: dict[bool, Network] = {}
        try:
            first = self._networks[_exact()] = Network(graph, self._threads, _exact(), dtype)
            self.graph = first.graph
            first.planned(*self._examples())
        except RecursionError as error:
            raise GraphError("the network has too long a chain of nodes for its passes.") from error

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """The shape of each input that it was made for."""
        return self.graph.inputs

    @property
    def outputs(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of what it makes of these."""
        shapes = self.graph.shapes()
        return tuple(shapes[name] for name in self.graph.outputs)

    @property
    def probabilities(self) -> bool:
        """Whether its first output ends with a softmax already."""
        made: dict[str, Node] = {node.output: node for node in self.graph.nodes}
        node = made.get(self.graph.outputs[0])
        while node is not None and isinstance(node.operation, Reshape):
            node = made.get(node.inputs[0])
        return node is not None and isinstance(node.operation, Softmax) and not node.operation.log

    def batch(self) -> int | None:
        """The batch size that it is bound to, if it is."""
        name, shape = next(iter(self.graph.inputs.items()))
        return shape[0] if 0 in self.graph.fixed.get(name, ()) else None

    def __call__(self, *arrays: Array) -> tuple[Array, ...]:
        """The outputs, new at every call."""
        return self._network()(*arrays)

    def _network(self) -> Network:
        exact = _exact()
        found = self._networks.get(exact)
        if found is None:
            with self._lock:
                found = self._networks.get(exact) or Network(self.graph, self._threads, exact, self.dtype)
                self._networks[exact] = found
        return found

    def _examples(self) -> list[Array]:
        return [np.zeros(shape, self.dtype) for shape in self.graph.inputs.values()]

    def report(self) -> NetworkReport:
        """Its steps, for the sizes that it was made for."""
        network = self._network()
        planned = network.planned(*self._examples())
        shapes = self.graph.shapes()
        steps = tuple(
            StepReport(line.what, line.how, shapes.get(line.output, ()), line.output) for line in planned.lowered.lines
        )
        weights = sum(array.nbytes for array in self.graph.constants.values())
        numbers = sum(math.prod(shape) for shape in self.outputs)
        team = "1 thread" if network.threads == 1 else f"{network.threads} threads"
        return NetworkReport(
            steps,
            (
                f"{len(steps)} steps in one call of machine code by {team}, all on convforge's engine; "
                f"{numbers:,} {'number' if numbers == 1 else 'numbers'} come out",
                f"{weights / 1e6:,.1f} MB of weights; {planned.arena.size / 1e6:,.1f} MB for what is computed between",
            ),
        )


def _team(threads: int) -> int:
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 0:
        raise UserError(f"threads must be a whole number, or 0 for all cores, not {threads!r}.")
    return min(threads, most_threads())


def _exact() -> bool:
    return get_precision() == "exact"
