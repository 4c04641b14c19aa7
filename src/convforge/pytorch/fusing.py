"""Batch norm in a graph that Dynamo has captured: with the sum and the activation behind it, it becomes one call of
`batch_norm`, where nobody else reads what is between them.

Such a graph calls what the modules call, and changes tensors in place where they do. The one call stands where its last
part stood, so nothing that it reads may be written to in between.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from .batch_norm import batch_norm

_NAMES = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_USUAL = {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5}

_SUMS: tuple[Any, ...] = (operator.add, torch.add, "add")
_SUMS_IN_PLACE: tuple[Any, ...] = (operator.iadd, "add_")
_IN_PLACE = {
    getattr(operator, f"i{name}") for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
}
_ACTIVATIONS: dict[Any, str] = {
    torch.relu: "relu", torch.relu_: "relu", "relu": "relu", "relu_": "relu", F.relu: "relu",
    F.relu6: "relu6", F.silu: "silu", F.hardswish: "hardswish",
}  # fmt: skip


@dataclass(frozen=True)
class _Chain:
    """A batch norm and what follows it, as far as it is one call."""

    parts: tuple[fx.Node, ...]
    residual: fx.Node | None = None
    activation: str = ""


def fuse_batch_norms(graph: fx.Graph) -> None:
    """Put `batch_norm` in the place of torch's, and of what follows."""
    places = {node: number for number, node in enumerate(graph.nodes)}
    writers = [node for node in graph.nodes if _writes(node)]
    for norm in graph.find_nodes(op="call_function", target=F.batch_norm):
        chain = _chain(norm)
        while any(places[norm] < places[n] < places[chain.parts[-1]] and n not in chain.parts for n in writers):
            chain = _chain(norm, len(chain.parts) - 1)
        last = chain.parts[-1]
        given: dict[str, Any] = _USUAL | dict(zip(_NAMES, norm.args, strict=False)) | norm.kwargs
        with graph.inserting_before(last):
            new = graph.call_function(
                batch_norm, kwargs=given | {"residual": chain.residual, "activation": chain.activation}
            )
        new.meta, places[new] = dict(last.meta), places[last]
        last.replace_all_uses_with(new)
        for part in reversed(chain.parts):
            graph.erase_node(part)


def _chain(norm: fx.Node, most: int = 3) -> _Chain:
    """The longest one, of so many parts at most."""
    chain = _Chain((norm,))
    if len(chain.parts) < most and (found := _sum(norm)) is not None:
        chain = _Chain((norm, found[0]), found[1])
    if len(chain.parts) < most and (reader := _only_reader(chain.parts[-1])) is not None:
        activation = _activation(reader)
        if activation and (chain.residual is None or activation == "relu"):
            chain = _Chain((*chain.parts, reader), chain.residual, activation)
    return chain


def _sum(norm: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """What adds another tensor of the same kind, and that."""
    reader = _only_reader(norm)
    if reader is None or reader.kwargs or len(reader.args) != 2:
        return None
    one, other = reader.args
    if reader.target in _SUMS and other is norm:
        one, other = other, one
    elif reader.target not in (*_SUMS, *_SUMS_IN_PLACE):
        return None
    alike = isinstance(other, fx.Node) and one is norm and other is not norm and _kind(other) == _kind(norm) is not None
    return (reader, other) if alike else None  # type: ignore[return-value]


def _kind(node: fx.Node) -> tuple[Any, ...] | None:
    value = node.meta.get("example_value")
    return (value.dtype, *value.shape) if isinstance(value, Tensor) else None


def _activation(node: fx.Node) -> str:
    """Its name, "" for what is none."""
    given = {key: value for key, value in node.kwargs.items() if key != "inplace"}
    if node.target is F.hardtanh and not given and tuple(node.args[1:3]) == (0.0, 6.0):
        return "relu6"
    return _ACTIVATIONS.get(node.target, "") if not given else ""


def _only_reader(node: fx.Node) -> fx.Node | None:
    (reader, *others) = node.users or [None]
    return None if others or reader is None or reader.op not in ("call_function", "call_method") else reader


def _writes(node: fx.Node) -> bool:
    """Whether it may change a tensor of which a batch norm makes use: all that is in place, but counting."""
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    in_place = name.endswith("_") or "out" in node.kwargs or node.kwargs.get("inplace") is True
    in_place |= True in node.args[1:] and node.target in (F.hardtanh, F.hardswish)
    in_place |= name in ("setitem", "__setitem__") or node.target in _IN_PLACE
    first = node.args[0] if node.args else None
    value = first.meta.get("example_value") if isinstance(first, fx.Node) else None
    return bool(in_place) and not (isinstance(value, Tensor) and value.dtype == torch.int64)
