"""What the network answers for an image: its classes with their probabilities, the most probable first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..inference.shares import are_probabilities, best_first, class_name, classes_of, probabilities
from .network import Layer, Network, NotThere
from .pictures import Pictures


class NoClasses(NotThere):
    """The network answers with something else than one number a class."""


@dataclass(frozen=True)
class Verdict:
    """The answer for one image.

    Args:
        logits: what the network returned, one number a class, float32.
        shares: the probability of each class, float64.
        are_logits: whether the probabilities are the softmax of what was returned; else they were returned.
        layer: the last layer, whose output this is; None where something else came after all layers.
        truth: the number of the class that the image shows, where it is known and one of the network's.
    """

    logits: NDArray[np.float32]
    shares: NDArray[np.float64]
    are_logits: bool
    layer: int | None
    truth: int | None

    def best(self, top: int) -> list[int]:
        """The most probable classes, by their numbers."""
        return best_first(self.shares, top)


class Verdicts:
    """What a network answers for some images.

    Args:
        network: what is asked.
        pictures: what it is shown.
    """

    def __init__(self, network: Network, pictures: Pictures) -> None:
        self._network, self._pictures = network, pictures

    def of(self, image: int) -> Verdict:
        """The answer for an image.

        Raises:
            NoClasses: where the network answers with something else than classes.
            NotThere: if there is no such image.
        """
        network, pictures = self._network, self._pictures
        load: Callable[[], Tensor] = partial(pictures.input, image)
        label = pictures.label(image)
        output = network.output(image, load)
        count = classes_of(tuple(output.shape))
        if count is None or (count < 2 and network.classes is None):
            shape = "×".join(str(n) for n in output.shape[1:])
            raise NoClasses(f"{network.name} answers with {shape or 'one number'}, which is not one number a class.")
        logits: NDArray[np.float32] = output.reshape(count).numpy()
        returned = are_probabilities(logits)
        numbers = logits.astype(np.float64)
        return Verdict(
            logits=logits,
            shares=numbers if returned else probabilities(numbers),
            are_logits=not returned,
            layer=self._layer(image, load, output),
            truth=self._class_of(label, count),
        )

    def name(self, number: int) -> str:
        """Of a class; its number where the network's classes have no names."""
        classes = self._network.classes
        return class_name(number, classes if classes and number < len(classes) else None)

    def _class_of(self, label: str | None, count: int) -> int | None:
        classes = self._network.classes
        if label is None or classes is None or len(classes) != count or label not in classes:
            return None
        return classes.index(label)

    def _layer(self, image: int, load: Callable[[], Tensor], output: Tensor) -> int | None:
        last = next((layer for layer in reversed(self._network.layers) if _answers(layer, output)), None)
        if last is None:
            return None
        made = self._network.look(image, load, last.index).output
        return last.index if made is not None and torch.equal(made.float().flatten(), output.flatten()) else None


def _answers(layer: Layer, output: Tensor) -> bool:
    return layer.has_maps and layer.map_shape == (output.numel(), 1, 1)
