"""Gradients of networks with ReLUs, compared though rounding decides about some of them.

A ReLU's derivative jumps where its input is 0. Of a network's millions of such inputs a few lie within rounding of it,
and what is computed in float32 may be on the other side than in float64: a single one changes a deep network's
gradients by 10⁻³ to 10⁻², torch's as well as ours. So a run is asked what was decided in it (`Told`, `telling`), and
float64 computes the derivatives of just these pieces (`Following`). It notes as well how far a piece's result lies from
the function's own, which is how far beyond the border its input was: no more than rounding, or the decision was wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Kink:
    """A function in pieces. `decide` says of each number of the result on which piece it lies; `piece` computes that
    piece of the input."""

    decide: Callable[..., Tensor]
    piece: Callable[[Tensor, Tensor], Tensor]
    by_input: bool = False
    """Whether `decide` takes the input, and the function's other arguments, instead of the result."""


def _bent(high: float, middle: Callable[[Tensor], Tensor], above: Callable[[Tensor], Tensor]) -> Kink:
    """0, then `middle`, then `above`, from where the result is `high`."""

    def piece(x: Tensor, part: Tensor) -> Tensor:
        return torch.where(part > 0, above(x), middle(x)) * (part >= 0)

    return Kink(lambda y: (y >= high).to(torch.int8) - (y == 0).to(torch.int8), piece)


def _largest(x: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """Which number each window takes."""
    return F.max_pool2d(x, *arguments, **options | {"return_indices": True})[1]


def _taken(x: Tensor, part: Tensor) -> Tensor:
    return x.flatten(2).gather(2, part.flatten(2)).view(part.shape)


_RELU6 = _bent(6.0, lambda x: x, lambda x: torch.full_like(x, 6.0))
KINKS: dict[Any, Kink] = {
    F.relu: (relu := Kink(lambda y: y > 0, lambda x, part: x * part)),
    torch.relu: relu,
    torch.relu_: relu,
    Tensor.relu: relu,
    Tensor.relu_: relu,
    "relu": relu,
    "relu_": relu,
    F.relu6: _RELU6,
    F.hardtanh: _RELU6,  # by which nn.ReLU6 is computed
    F.hardsigmoid: _bent(1.0, lambda x: x / 6 + 0.5, torch.ones_like),
    F.hardswish: _bent(3.0, lambda x: x * (x + 3) / 6, lambda x: x),
    F.max_pool2d: Kink(_largest, _taken, by_input=True),
    torch.max_pool2d: Kink(_largest, _taken, by_input=True),
}
"""By what modules call, and what Dynamo makes of it."""


class Told(TorchFunctionMode):
    """In `parts`, what is decided while a model runs layer by layer."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[Tensor] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kink, kwargs = KINKS.get(function), kwargs or {}
        if kink is None:
            return function(*args, **kwargs)
        before = kink.decide(args[0].detach(), *args[1:], **kwargs) if kink.by_input else None
        result = function(*args, **kwargs)
        self.parts.append(kink.decide(result.detach()) if before is None else before)
        return result


def telling(backend: Callable[..., Any], parts: list[Tensor]) -> Callable[..., Any]:
    """A backend for `torch.compile` that runs what another one makes of the graph, and lists what is decided there.

    The graph's kinks have their results, or what is pooled, as outputs besides; nothing else of it is other.
    """

    def compiled(graph: fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
        (output,) = graph.graph.find_nodes(op="output")
        nodes = [node for node in graph.graph.nodes if node.target in KINKS]
        kinks = [KINKS[node.target] for node in nodes]
        shown = [node.args[0] if kink.by_input else node for node, kink in zip(nodes, kinks, strict=True)]
        own = len(output.args[0])
        output.args = ((*output.args[0], *shown),)
        graph.recompile()
        others = [(node.args[1:], dict(node.kwargs)) for node in nodes]
        run = backend(graph, examples)

        def called(*arguments: Any) -> Any:
            results = run(*arguments)
            for y, kink, (args, kwargs) in zip(results[own:], kinks, others, strict=True):
                given = (args, kwargs) if kink.by_input else ((), {})
                parts.append(kink.decide(y.detach(), *given[0], **given[1]))
            return results[:own]

        return called

    return compiled


class Following(TorchFunctionMode):
    """Runs a model with the decisions of another run."""

    def __init__(self, parts: Sequence[Tensor]) -> None:
        super().__init__()
        self._parts = list(parts)[::-1]
        self.decided = sum(part.numel() for part in parts)
        self.others = 0
        """Decisions that are not those of this run's own numbers."""
        self.beyond = 0.0
        """How far these lie from the function's own result, at most, in standard deviations of its input."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kink, kwargs = KINKS.get(function), kwargs or {}
        if kink is None:
            return function(*args, **kwargs)
        x, part = args[0], self._parts.pop()
        result = kink.piece(x, part)
        with torch.no_grad():
            plain = function(x.clone(), *args[1:], **kwargs)
            self.others += int((result != plain).sum())
            self.beyond = max(self.beyond, float((result - plain).abs().max() / x.std().clamp_min(1e-30)))
        return result

    def __exit__(self, *problem: Any) -> None:
        super().__exit__(*problem)
        assert problem[0] or not self._parts, "another run decided more often"


def loss_of(answer: Any) -> Tensor:
    """All numbers of all results, each with a factor of its own."""
    total = torch.zeros((), dtype=torch.float64)
    for number, y in enumerate(tree_leaves(answer)):
        drawn = torch.randn(y.shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        total = total + (y * drawn.to(y.dtype)).sum() / y.numel() ** 0.5
    return total


def gradients(model: nn.Module, run: Callable[[Tensor], Any], x: Tensor) -> dict[str, Tensor]:
    """Of all parameters, and of the images."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    loss_of(run(x)).backward()
    every = {"images": x, **dict(model.named_parameters())}
    assert all(p.grad is not None for p in every.values())
    return {name: p.grad.double() for name, p in every.items()}
