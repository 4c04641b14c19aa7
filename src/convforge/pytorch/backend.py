"""`torch.compile(model, backend="convforge")`: a captured graph as a whole network where nobody asks for gradients, and
its convolutions and batch norms on the engine everywhere else: batch norm with the sum and the activation behind it as
one operation, forward and backward. The rest of the graph runs as torch runs it. (Inductor for that rest, with these
operators, took ResNet-18's training step from 356 to 401 ms, and nine minutes to compile.)

PyTorch finds the backend by the entry point `torch_dynamo_backends` of the installed package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from .functional import conv2d, conv_transpose2d
from .fusing import fuse_batch_norms
from .modules import Conv2d, ConvTranspose2d
from .networks import NOTHING, Networks

_FUNCTIONS: dict[Any, Any] = {
    torch.conv2d: conv2d,
    F.conv2d: conv2d,
    torch.conv_transpose2d: conv_transpose2d,
    F.conv_transpose2d: conv_transpose2d,
}
_MODULES: dict[type, type[torch.nn.Module]] = {
    torch.nn.Conv2d: Conv2d,
    torch.nn.ConvTranspose2d: ConvTranspose2d,
}


def convforge(graph: fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
    """The backend: takes a captured graph, returns what runs in its place.

    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
    >>> fast = torch.compile(model, backend=convforge)
    >>> torch.allclose(fast(torch.ones(1, 3, 9, 9)), model(torch.ones(1, 3, 9, 9)), atol=1e-6)
    True
    """
    convolutions = 0
    for node in graph.graph.nodes:
        if node.op == "call_function":
            convolutions += node.target in _OURS
            node.target = _FUNCTIONS.get(node.target, node.target)
        elif node.op == "call_module":
            module = graph.get_submodule(node.target)
            convolutions += isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))
            if type(module) in _MODULES:
                graph.set_submodule(node.target, _on_engine(module))
    fuse_batch_norms(graph.graph)
    graph.recompile()
    recorded = torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in example_inputs)
    places = _places(graph, example_inputs)
    return _Compiled(graph, places) if convolutions and not recorded and places else graph.forward


_OURS = {*_FUNCTIONS, conv2d, conv_transpose2d}


def _on_engine(module: torch.nn.Module) -> torch.nn.Module:
    """The module in our class, on the same parameters; the user's own stays as it is."""
    ours_class = _MODULES[type(module)]
    ours = ours_class.__new__(ours_class)
    ours.__dict__ = module.__dict__
    return ours


# ---------------------------------------------------------------------------------------------------------------------
# Whole networks
# ---------------------------------------------------------------------------------------------------------------------

_Place = str | tuple[int, int] | None
"""What an argument of a graph is: a weight, by its name; a size, as one of an input's, by that one's place among the
arguments and the axis; None for an input."""


def _places(graph: fx.GraphModule, examples: Sequence[Any]) -> list[_Place] | None:
    """Of all arguments; None where there are others, or where the graph has weights of its own."""
    if any(node.op in ("get_attr", "call_module") for node in graph.graph.nodes):
        return None
    axes: dict[str, tuple[int, int]] = {}
    for number, node in enumerate(graph.graph.find_nodes(op="placeholder")):
        for axis, size in enumerate(getattr(node.meta.get("example_value"), "shape", ())):
            axes.setdefault(str(size), (number, axis))
    found: list[_Place] = []
    for number, example in enumerate(examples):
        if isinstance(example, Tensor):
            kept = isinstance(example, torch.nn.Parameter) or hasattr(example, "_dynamo_static_input_type")
            found.append(f"weight{number}" if kept else None)
        elif isinstance(example, torch.SymInt) and str(example) in axes:
            found.append(axes[str(example)])
        else:
            return None
    return found


class _Graph(torch.nn.Module):
    """A graph whose weights, which Dynamo hands over at each call, are its parameters and buffers."""

    def __init__(self, graph: fx.GraphModule, places: Sequence[_Place]) -> None:
        super().__init__()

        def run(*args: Any) -> Any:
            called: Any = graph
            return called(*args)

        self.run = run  # not as a submodule: Dynamo goes on working at it
        self.places = tuple(places)

    def forward(self, *inputs: Tensor) -> Any:
        given = iter(inputs)
        every: list[Any] = [next(given) if place is None else place for place in self.places]
        every = [getattr(self, x) if isinstance(x, str) else x for x in every]
        return self.run(*(every[x[0]].shape[x[1]] if isinstance(x, tuple) else x for x in every))


class _Compiled:
    """Runs a graph: by a network, or as it is."""

    def __init__(self, graph: fx.GraphModule, places: Sequence[_Place]) -> None:
        self._run = graph.forward
        self._graph = _Graph(graph, places).eval()
        self._networks = Networks()
        self._weights = [(number, place) for number, place in enumerate(places) if isinstance(place, str)]
        self._inputs = [number for number, place in enumerate(places) if place is None]

    def __call__(self, *args: Any) -> Any:
        weights = vars(self._graph)
        for number, name in self._weights:
            weight = args[number]
            kind = "_parameters" if isinstance(weight, torch.nn.Parameter) else "_buffers"
            if weights[kind].get(name) is not weight:
                weights["_parameters"].pop(name, None)
                weights["_buffers"].pop(name, None)
                weights[kind][name] = weight
        inputs = tuple(args[number] for number in self._inputs)
        answer = self._networks.answer(self._graph, inputs, lambda: self._run(*args))
        return self._run(*args) if answer is NOTHING else answer
