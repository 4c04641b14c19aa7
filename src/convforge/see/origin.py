"""From a number of a feature map back to the convolution that made it, through what works channel by channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .network import Layer, Network
from .watch import Moment

Look = Callable[[int], Moment]

_SAME_PLACE = ("norm", "act", "join")
_NOTHING_DONE = ("Dropout", "Dropout2d", "Identity", "StochasticDepth", "DropPath")


class Origin(NamedTuple):
    """An output number of a convolution."""

    layer: int
    channel: int
    row: int
    column: int


def origin(network: Network, look: Look, layer: int, channel: int, row: int, column: int) -> Origin | None:
    """The convolution whose number became the one at this place of a layer's maps.

    Norms and activations are passed at the same place, sums along one summand (the first, or the last layer before
    where a sum was written over it), poolings to the largest number of the window. None where the way leads through
    something else, or to another than the first of several maps that were put together.
    """
    at: int | None = layer
    while at is not None:
        one = network.layer(at)
        if one.convolution is not None:
            return Origin(at, channel, row, column)
        moment = look(at)
        if one.kind == "pool":
            place = _largest(one, moment, channel, row, column)
            if place is None:
                return None
            row, column = place
        elif one.kind not in _SAME_PLACE and one.type not in _NOTHING_DONE:
            return None
        if moment.input is None or moment.input.ndim != 4 or channel >= moment.input.shape[1]:
            return None
        maker = _maker(network, look, at, moment.input)
        if maker is None and one.kind == "join" and one.type != "cat":
            maker = _last_alike(network, at, tuple(moment.input.shape))
        at = maker
    return None


def _last_alike(network: Network, before: int, shape: tuple[int, ...]) -> int | None:
    """The last layer before this one that makes maps of such a shape."""
    return next((i for i in reversed(range(before)) if network.layer(i).row.output_shape == shape), None)


def _maker(network: Network, look: Look, before: int, tensor: Tensor) -> int | None:
    """The last layer before this one that made such a tensor."""
    for index in reversed(range(before)):
        layer = network.layer(index)
        if layer.has_maps and layer.row.output_shape == tuple(tensor.shape):
            made = look(index).output
            if made is not None and torch.equal(made, tensor):
                return index
    return None


def _largest(layer: Layer, moment: Moment, channel: int, row: int, column: int) -> tuple[int, int] | None:
    """Where in its window a pooling found the largest number."""
    facts = layer.row
    if facts.kernel is None or facts.stride is None or facts.padding is None or moment.input is None:
        return None
    maps = moment.input
    tops = [at * facts.stride[axis] - facts.padding[axis][0] for axis, at in enumerate((row, column))]
    spans = [slice(max(0, top), min(maps.shape[2 + axis], top + facts.kernel[axis])) for axis, top in enumerate(tops)]
    window = maps[0, channel, spans[0], spans[1]]
    if not window.numel():
        return None
    down, across = divmod(int(window.argmax()), window.shape[1])
    return spans[0].start + down, spans[1].start + across
