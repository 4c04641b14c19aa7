"""One forward pass of which gradients can be asked for, and what one call of one layer was given and made in it.

The pass is made on a copy of the model that shares its numbers, so that hooks and weights put into it are its own. What
a layer makes is handed on as a copy, for the layers after it may work in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import UserError
from ..inference.shares import classes_of
from .hooks import dtype_of, structure_of
from .network import Layer, Network


@dataclass(frozen=True)
class Passed:
    """A forward pass with its graph.

    Args:
        logits: `(K,)`, what the model returned for the image.
        given, made: what the layer was given and made, with the batch of one.
        weight: the layer's weight in this very call, a leaf of the graph; None unless it was asked for.
        model: the copy that was run.
    """

    logits: Tensor
    given: Tensor
    made: Tensor
    weight: Tensor | None
    model: nn.Module

    def gradient(self, of: Tensor, by: Tensor) -> Tensor:
        """∂of/∂by; zeros where the one does not depend on the other."""
        (found,) = torch.autograd.grad(of, by, retain_graph=True, allow_unused=True)
        return torch.zeros_like(by) if found is None else found.detach()


def passed(network: Network, layer: Layer, image: Tensor, weight: bool = False) -> Passed:
    """The pass of an image, `(C, H, W)` and normalised. With `weight`, the layer's weight takes part in the graph: in
    this call alone, where the layer is called several times. To be called when it is one's turn (`Network.compute`).

    Raises:
        UserError: where the layer is no module that makes a tensor, or the network does not answer in classes.
    """
    if layer.path is None:
        raise UserError(f"{layer.name!r} ({layer.type}) is no module, so no gradient can be taken at it.")
    model = structure_of(network.model)
    module = model.get_submodule(layer.path)
    call = _Call(module, layer.occurrence, weight)
    with torch.enable_grad(), call:
        answer = model(image[None].to(dtype_of(model)).requires_grad_())
    logits = next((leaf for leaf in tree_leaves(answer) if isinstance(leaf, Tensor)), None)
    if logits is None or (count := classes_of(tuple(logits.shape))) is None:
        raise UserError(f"{network.name} does not answer with one number a class, so there is nothing to take apart.")
    if call.given is None or call.made is None:
        raise UserError(f"with this image the model's code does not come to {layer.name!r}, or it makes no tensor.")
    return Passed(logits.reshape(count).float(), call.given, call.made, call.weight, model)


class _Call:
    """Watches one call of a module."""

    def __init__(self, module: nn.Module, occurrence: int, weight: bool) -> None:
        self._module, self._left, self._wants_weight = module, occurrence, weight
        self._replaced: nn.Parameter | None = None
        self.given: Tensor | None = None
        self.made: Tensor | None = None
        self.weight: Tensor | None = None

    def __enter__(self) -> None:
        before = self._module.register_forward_pre_hook(self._before)
        self._handles = [before, self._module.register_forward_hook(self._after)]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, module: nn.Module, inputs: Any) -> None:
        if self._left == 0:
            self.given = next((leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)), None)
            own = module._parameters.get("weight")
            if self._wants_weight and own is not None:
                self._replaced = own
                leaf = nn.Parameter(own.detach().clone())
                module._parameters["weight"] = self.weight = leaf

    def _after(self, module: nn.Module, _: Any, result: Any) -> Any:
        self._left -= 1
        if self._left != -1:
            return None
        if self._replaced is not None:
            module._parameters["weight"] = self._replaced
        if not isinstance(result, Tensor):
            return None
        self.made = result
        return result.clone()
