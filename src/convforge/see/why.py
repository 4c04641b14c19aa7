"""The answer taken apart: what each place of a layer's maps, and each channel there, contributed to a class.

**Class-activation map** (Zhou, Khosla, Lapedriza, Oliva & Torralba, "Learning deep features for discriminative
localization", 2016). Where a network ends in the mean over its last maps and a linear layer,

    logit[k] = b[k] + Σ_c w[k, c] · (1/HW) Σ_y Σ_x a[c, y, x]  =  b[k] + Σ_y Σ_x Σ_c  w[k, c] · a[c, y, x] / HW,

so every place and every channel has a contribution, and together with the bias they are the logit: exactly, as the
model computes it in eval mode. Where the maps go into the linear layer as they are, flattened, each has a weight of
its own, and the same holds; and where the mean over the last maps is the answer itself, the weights are 1. Whether a
network ends so is not read off its code but off its numbers: the linear layer's input is compared with the maps before.

**LayerCAM** (Jiang, Zhang, Hou, Cheng & Wei, "LayerCAM: exploring hierarchical class activation maps for localization",
2021): each number of any layer's maps times its gradient, where that is positive. It shows where, and adds up to
nothing in particular.

Two classes are compared by the difference of their logits, which is taken apart in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import UserError
from .gradients import passed
from .hooks import has_channels
from .lru import Kept
from .network import Layer, Network, NotThere
from .origin import Origin, origin
from .pictures import Pictures
from .verdict import Verdict, Verdicts
from .watch import Moment

Array = NDArray[np.float64]
Method = Literal["cam", "layercam"]

_KEPT = 96 * 2**20
_FAR = 16  # layers between the last maps and the answer, at most
_ALIKE = 1e-5


class AddsUpNowhere(UserError):
    """The network does not end in a way that can be taken apart exactly."""


@dataclass(frozen=True)
class Contributions:
    """What was contributed to a class, or to one against another.

    Args:
        method: how it was found.
        layer: whose maps these are.
        ending: how the maps become the answer, in words.
        activations: `(C, H, W)`.
        weights: what they are multiplied with, `(C, H, W)` or such that it is repeated to that.
        bias: what is added besides; 0 for a method that adds up to nothing in particular.
        logit: what the model computed.
    """

    method: Method
    layer: int
    ending: str
    activations: Array
    weights: Array
    bias: float
    logit: float

    @property
    def values(self) -> Array:
        """Each contribution, `(C, H, W)`."""
        values: Array = self.activations * self.weights
        return values

    @property
    def by_place(self) -> Array:
        """Summed over the channels, `(H, W)`."""
        places: Array = self.values.sum(0)
        return places

    @property
    def bytes(self) -> int:
        return int(self.activations.nbytes + self.weights.nbytes)


@dataclass(frozen=True)
class Carried:
    """What one channel carried at a place; or over the whole image, with the mean activation and the sum of its
    weights, which are no numbers where it is weighed differently from place to place."""

    channel: int
    activation: float
    weight: float
    value: float


@dataclass(frozen=True)
class _Ending:
    """How a network's last maps become its answer: `weights` is `(K, C, 1, 1)` or `(K, C, H, W)`, `bias` `(K,)`."""

    layer: int
    maps: Array
    weights: Array
    bias: Array
    words: str


class Why:
    """The answers of one network to some images, taken apart.

    Args:
        network: what is looked into.
        pictures: what it is shown.
        verdicts: what it answers.
    """

    def __init__(self, network: Network, pictures: Pictures, verdicts: Verdicts) -> None:
        self._network, self._pictures, self._verdicts = network, pictures, verdicts
        self._kept = Kept[Contributions](_KEPT, lambda found: found.bytes)

    def layers(self) -> list[Layer]:
        """Those at which LayerCAM can be asked for: modules that make maps of more than one number."""
        return [layer for layer in self._network.layers if has_channels(layer) and prod(layer.map_shape[1:]) > 1]

    def of(
        self, image: int, of: int, against: int | None = None, method: Method = "cam", layer: int | None = None
    ) -> Contributions:
        """What was contributed to class `of`, or to it against another.

        Raises:
            AddsUpNowhere: if a class-activation map is asked for, and the network does not end so.
            NotThere: if there is no such class, image or layer.
        """
        verdict = self._verdicts.of(image)
        for number in (of, against):
            if number is not None and number >= len(verdict.logits):
                raise NotThere(
                    f"there is no class {number}: there are {len(verdict.logits)}, and counting starts at 0."
                )
        key = image, of, against, method, layer
        if method == "cam":
            return self._kept.find(key, lambda: self._exactly(image, verdict, of, against))
        return self._kept.find(key, lambda: self._layercam(image, verdict, of, against, layer))

    def carried(
        self, found: Contributions, row: int | None, column: int | None, count: int
    ) -> tuple[list[Carried], float]:
        """The channels that carried most at a place of the maps, or over all places; and the sum of all channels there.

        Raises `NotThere` if there is no such place.
        """
        values = found.values
        weights = np.broadcast_to(found.weights, values.shape)
        if row is None or column is None:
            sums = values.sum((1, 2))
            one_weight = found.weights.shape[1:] == (1, 1)
            nothing = np.full(len(sums), np.nan)
            means = found.activations.mean((1, 2)) if one_weight else nothing
            shared = weights.sum((1, 2)) if one_weight else nothing
        else:
            if row >= values.shape[1] or column >= values.shape[2]:
                raise NotThere(f"there is no place {row}, {column}: the maps are {values.shape[1]}×{values.shape[2]}.")
            sums = values[:, row, column]
            means, shared = found.activations[:, row, column], weights[:, row, column]
        order = np.argsort(-np.abs(sums), kind="stable")[:count].tolist()
        return [Carried(c, float(means[c]), float(shared[c]), float(sums[c])) for c in order], float(sums.sum())

    def origin(self, image: int, layer: int, channel: int, row: int, column: int) -> Origin | None:
        """The convolution whose number became that of this channel at this place."""
        return origin(self._network, partial(self._look, image), layer, channel, row, column)

    # --- exactly ------------------------------------------------------------------------------------------------------

    def _look(self, image: int, index: int) -> Moment:
        return self._network.look(image, partial(self._pictures.input, image), index)

    def _exactly(self, image: int, verdict: Verdict, of: int, against: int | None) -> Contributions:
        ending = self._ending(image, verdict)
        weights, bias, logit = ending.weights[of], ending.bias[of], float(verdict.logits[of])
        if against is not None:
            weights, bias = weights - ending.weights[against], bias - ending.bias[against]
            logit -= float(verdict.logits[against])
        return Contributions("cam", ending.layer, ending.words, ending.maps, weights, float(bias), logit)

    def _ending(self, image: int, verdict: Verdict) -> _Ending:
        last = verdict.layer
        if last is None or not verdict.are_logits:
            raise AddsUpNowhere(
                f"what {self._network.name} answers is not the output of its last layer, so it is no sum of that "
                "layer's products: LayerCAM and occlusion still show where."
            )
        last = self._maker(image, last)
        linear = _linear(self._network.layer(last), self._look(image, last))
        if linear is None:  # the mean of the maps may be the answer itself
            count = len(verdict.logits)
            one = np.eye(count)
            vector, weight, bias, name = verdict.logits.astype(np.float64), one, np.zeros(count), ""
            after = last + 1
        else:
            vector, weight, bias = linear
            name, after = self._network.layer(last).name, last
        for index in reversed(range(max(0, after - _FAR), after)):
            layer = self._network.layer(index)
            if not layer.has_maps:
                continue
            moment = self._look(image, index)
            for tensor, place in ((moment.output, index), (moment.input, self._before(index, moment.input))):
                if tensor is None or place is None or tensor.ndim != 4 or tensor.shape[2] * tensor.shape[3] < 2:
                    continue
                maps = tensor[0].double().numpy()
                size = maps.shape[1] * maps.shape[2]
                if maps.shape[0] == len(vector) and _alike(maps.mean((1, 2)), vector):
                    words = f"mean over {maps.shape[1]}×{maps.shape[2]} places"
                    words += f", then the linear layer {name!r}" if name else ", which is the answer"
                    return _Ending(place, maps, weight[:, :, None, None] / size, bias, words)
                if maps.size == len(vector) and _alike(maps.reshape(-1), vector):
                    words = f"each number of the maps has a weight of its own in the linear layer {name!r}"
                    return _Ending(place, maps, weight.reshape(-1, *maps.shape), bias, words)
        raise AddsUpNowhere(
            f"{self._network.name} does not end in a mean over maps and a linear layer, so its answer is no sum over "
            "places: LayerCAM and occlusion still show where."
        )

    def _maker(self, image: int, last: int) -> int:
        """The layer that made these numbers: what flattens them makes none."""
        made = self._look(image, last).output
        assert made is not None
        while last > 0 and self._network.layer(last - 1).has_maps:
            before = self._look(image, last - 1).output
            if before is None or not torch.equal(before.flatten(), made.flatten()):
                break
            last -= 1
        return last

    def _before(self, index: int, given: Tensor | None) -> int | None:
        """The layer that what a layer was given is shown as: the last one before it with maps of that shape."""
        shape = None if given is None else tuple(given.shape)
        return next((i for i in reversed(range(index)) if self._network.layer(i).row.output_shape == shape), None)

    # --- by gradients -------------------------------------------------------------------------------------------------

    def _layercam(self, image: int, verdict: Verdict, of: int, against: int | None, index: int | None) -> Contributions:
        usable = self.layers()
        if index is None and not usable:
            raise UserError(f"{self._network.name} has no layer with maps at which gradients could be taken.")
        layer = usable[-1] if index is None else self._network.layer(index)
        if layer not in usable:
            raise UserError(f"{layer.name!r} ({layer.type}) has no maps at which gradients can be taken.")
        picture = self._pictures.input(image)

        def run() -> tuple[Array, Array]:
            ran = passed(self._network, layer, picture)
            wanted = ran.logits[of] - (0 if against is None else ran.logits[against])
            gradient = ran.gradient(wanted, ran.made)[0].double().clamp_min(0)
            return ran.made.detach()[0].double().numpy(), gradient.numpy()

        activations, gradient = self._network.compute(run)
        logit = float(verdict.logits[of]) - (0.0 if against is None else float(verdict.logits[against]))
        words = "each number times its gradient, where that is positive"
        return Contributions("layercam", layer.index, words, activations, gradient, 0.0, logit)


def _linear(layer: Layer, moment: Moment) -> tuple[Array, Array, Array] | None:
    """Input, weight `(K, C)` and bias of a layer that is linear in a vector; None for another."""
    given = moment.input
    if given is None or given.shape[0] != 1:
        return None
    if isinstance(layer.module, nn.Linear) and given.ndim == 2:
        weight: Tensor = layer.module.weight
        bias: Tensor | None = layer.module.bias
    elif moment.convolution is not None and given.shape[2:] == (1, 1) and moment.convolution.spec.groups == 1:
        weight, bias = moment.convolution.weight, moment.convolution.bias
        if tuple(weight.shape[2:]) != (1, 1):
            return None
    else:
        return None
    matrix = _numbers(weight).reshape(weight.shape[0], -1)
    return _numbers(given).reshape(-1), matrix, np.zeros(len(matrix)) if bias is None else _numbers(bias)


def _numbers(tensor: Tensor) -> Array:
    numbers: Array = tensor.detach().double().numpy()
    return numbers


def _alike(found: Array, wanted: Array) -> bool:
    return bool(np.abs(found - wanted).max(initial=0) <= _ALIKE * max(1e-30, float(np.abs(wanted).max(initial=0))))


# ---------------------------------------------------------------------------------------------------------------------
# Occlusion
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Occluded:
    """By how much the logit fell as a grey square covered each place: `drops` is `(rows, columns)`; the square has
    `side` pixels, and moves by `step`."""

    drops: Array
    side: int
    step: int
    logit: float


def places(size: Sequence[int], across: int = 7) -> tuple[int, int, list[int], list[int]]:
    """Side and step of a square that covers about a `across`-th of the shorter side, and where it goes, (tops, lefts).

    >>> places((28, 28))
    (4, 2, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24], [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24])
    """
    side = max(1, round(min(size) / across))
    step = max(1, side // 2)
    tops, lefts = (list(range(0, length - side + 1, step)) for length in size)
    return side, step, tops, lefts


@dataclass(frozen=True, eq=False)
class Covered:
    """What the network answers as a grey square covers each place: `logits` is `(rows, columns, classes)`, `whole` is
    `(classes,)`, without a square."""

    logits: Array
    whole: Array
    side: int
    step: int

    @property
    def bytes(self) -> int:
        return int(self.logits.nbytes + self.whole.nbytes)

    def lost(self, of: int, against: int | None = None) -> Occluded:
        """By how much the logit of a class fell, or its distance to another's."""
        whole, logits = (
            part[..., of] - (0 if against is None else part[..., against]) for part in (self.whole, self.logits)
        )
        return Occluded(whole - logits, self.side, self.step, float(whole))


def cover(network: Network, image: Tensor, progress: Any, batch: int = 8) -> Covered:
    """Cover one place after another with the colour that normalisation makes 0, the mean one, and see what the network
    answers.

    Args:
        network: is run in the turns of a job.
        image: `(C, H, W)`, normalised.
        progress: is told how far it is.
        batch: images at a time.
    """
    side, step, tops, lefts = places(image.shape[1:])
    spots = [(top, left) for top in tops for left in lefts]

    def ask(images: Tensor) -> Array:
        with network.turns.background(), torch.inference_mode():
            found: Array = network.answered(images).flatten(1).double().numpy()
        return found

    (whole,) = ask(image[None])
    found = []
    for begin in range(0, len(spots), batch):
        progress(begin, len(spots), f"covering place {begin + 1} of {len(spots)}")
        part = spots[begin : begin + batch]
        covered = image.repeat(len(part), 1, 1, 1)
        for one, (top, left) in zip(covered, part, strict=True):
            one[:, top : top + side, left : left + side] = 0
        found.append(ask(covered))
    return Covered(np.concatenate(found).reshape(len(tops), len(lefts), -1), whole, side, step)
