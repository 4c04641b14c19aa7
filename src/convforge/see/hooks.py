"""Layers by their modules: which of them have channels, and seeing what they compute while the network runs.

Unlike `watch`, which sees everything and copies it, a hook costs nothing but what is done with the maps, and lets
gradients through.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import UserError
from .network import Layer

Look = Callable[[int, Tensor], None]


def has_channels(layer: Layer) -> bool:
    """Whether a layer is a module whose output is feature maps (K, H, W), or one number for each of K channels."""
    shape = layer.output_shape
    mixes = layer.type in ("Linear", "LayerNorm")  # on maps these run along the last dimension
    return layer.module is not None and (len(shape) == 1 or (len(shape) == 3 and not mixes))


def check(layer: Layer, channel: int = 0) -> None:
    """Raises `UserError` where a layer has no channels, or not this one."""
    if not has_channels(layer):
        raise UserError(
            f"what excites {layer.name!r} ({layer.type}) cannot be looked for: it is not a module with channels; "
            "choose the layer before or after it."
        )
    if not 0 <= channel < layer.output_shape[0]:
        raise UserError(f"{layer.name!r} has channels 0 to {layer.output_shape[0] - 1}, not {channel}.")


@contextmanager
def watched(model: nn.Module, layers: Sequence[Layer], look: Look) -> Iterator[None]:
    """`look(index, output)` is called as each of the layers has computed; outputs are `(N, K, H, W)`.

    Args:
        model: the network's model, or a copy of it.
        layers: those with channels that are to be watched.
        look: must not keep what it is given longer than the call, or clone it: the next layer may work in place.
    """
    by_path: dict[str, dict[int, int]] = defaultdict(dict)
    for layer in layers:
        assert layer.path is not None
        by_path[layer.path][layer.occurrence] = layer.index

    def hook(occurrences: dict[int, int]) -> Callable[[nn.Module, Any, Tensor], None]:
        calls = iter(range(1 << 30))

        def after(module: nn.Module, inputs: Any, result: Any) -> None:
            index = occurrences.get(next(calls))
            output = next((leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)), None)
            if index is not None and output is not None and output.ndim in (2, 4):
                look(index, output[:, :, None, None] if output.ndim == 2 else output)

        return after

    handles = [model.get_submodule(path).register_forward_hook(hook(of)) for path, of in by_path.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def dtype_of(model: nn.Module) -> torch.dtype:
    """What images are given to a model as."""
    return next((t.dtype for t in model.parameters() if t.is_floating_point()), torch.float32)


def structure_of(model: nn.Module) -> nn.Module:
    """A copy with the same parameters and buffers, which take no memory twice: hooks on it are its own."""
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, dict(shared))
