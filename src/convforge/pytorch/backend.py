"""`torch.compile(model, backend="convforge")`: the convolutions of a captured graph on the engine.

PyTorch finds the backend by the entry point `torch_dynamo_backends` of the installed package. The rest of the graph
runs as torch runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from .functional import conv2d, conv_transpose2d
from .modules import Conv2d, ConvTranspose2d

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
    for node in graph.graph.nodes:
        if node.op == "call_function":
            node.target = _FUNCTIONS.get(node.target, node.target)
        elif node.op == "call_module":
            module = graph.get_submodule(node.target)
            if type(module) in _MODULES:
                graph.set_submodule(node.target, _on_engine(module))
    graph.recompile()
    return graph.forward


def _on_engine(module: torch.nn.Module) -> torch.nn.Module:
    """The module in our class, on the same parameters; the user's own stays as it is."""
    ours_class = _MODULES[type(module)]
    ours = ours_class.__new__(ours_class)
    ours.__dict__ = module.__dict__
    return ours
