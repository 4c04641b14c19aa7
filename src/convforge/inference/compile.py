"""`compile`: a torch module as a `Model`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from ..graph.capture import CannotCapture, captured
from ..graph.lowering.base import CannotLower
from . import answers
from .about import About
from .compiled import Compiled
from .model import Model

if TYPE_CHECKING:
    import torch

_DTYPES = ("float32", "float64")


def compile(
    model: torch.nn.Module,
    example_input: torch.Tensor | Sequence[torch.Tensor],
    *,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    threads: int = 0,
) -> Model:
    """The whole network as one program of machine code, from a torch module in eval mode.

    The weights are copied as they are now: what changes in the module afterwards changes nothing in what is returned.

    Args:
        model: on the CPU, in float32 or float64.
        example_input: what it is called with, normalised: a tensor `(N, C, H, W)`, or one for each input. Its numbers
            do not matter. Later calls may have other batch sizes, unless the network itself depends on this one, and
            the same height and width.
        classes: names in the order of the outputs, for `predict`.
        mean, std: one number a channel, for `predict`: the network is fed (pixel / 255 − mean) / std.
        threads: how many to use; 0 for all cores.

    Raises:
        UserError: for a module in training mode, on another device or in another type of numbers.
        CannotCapture, CannotLower: UserErrors, too, that name the operator for which there is no node or no kernel:
            `convforge.optimize` runs such a network layer by layer.

    >>> import torch
    >>> layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).eval()
    >>> fast = compile(layers, torch.zeros(1, 3, 9, 9))
    >>> x = torch.ones(2, 3, 9, 9)
    >>> torch.allclose(fast(x), layers(x), atol=1e-6)
    True
    """
    import torch

    if not isinstance(model, torch.nn.Module):
        raise UserError(f"compile takes a torch.nn.Module, not {type(model).__name__}.")
    if any(module.training for module in model.modules()):
        raise UserError(
            f"{type(model).__name__} is in training mode, in which dropout and batch norm compute something else: call "
            "model.eval() first."
        )
    examples = [example_input] if isinstance(example_input, torch.Tensor) else example_input
    dtype = _dtype(model, examples)
    about = About(classes, mean, std)  # type: ignore[arg-type]
    try:
        found = captured(model, *examples)
        graph = found.graph
        graph = replace(graph, constants={name: np.array(array) for name, array in graph.constants.items()}, sources={})
        answer = answers.plain(found.rebuilt(range(len(graph.outputs))))
        return Model(Compiled(graph, dtype, threads), about, answer)
    except CannotCapture as error:
        raise CannotCapture(f"{error} {_INSTEAD}") from error
    except CannotLower as error:
        raise CannotLower(f"{type(model).__name__} cannot be compiled: {error} {_INSTEAD}") from error


_INSTEAD = "convforge.optimize(model) runs it layer by layer."


def _dtype(model: torch.nn.Module, examples: Any) -> str:
    import torch

    if not isinstance(examples, list | tuple) or not examples or not all(isinstance(x, torch.Tensor) for x in examples):
        raise UserError("example_input must be a tensor, or a list of them, one for each input of the network.")
    numbers = {str(x.dtype).removeprefix("torch.") for x in (*examples, *model.parameters())}
    devices = {x.device.type for x in (*examples, *model.parameters())}
    if devices != {"cpu"}:
        raise UserError(
            f"{type(model).__name__} is on {' and '.join(sorted(devices))}: move it to the CPU with .cpu()."
        )
    if len(numbers) > 1 or not numbers <= set(_DTYPES):
        raise UserError(
            f"{type(model).__name__} and its input are {' and '.join(sorted(numbers))}, and whole networks compute in "
            "float32 or float64: convert both with .float()."
        )
    return str(np.dtype(numbers.pop()))
