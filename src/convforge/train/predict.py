"""Which class an image file shows, by a trained network: read as in training, normalised as in training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from ..errors import UserError
from ..images.read import read_image
from ..inference.prediction import Prediction
from ..models.checkpoint import Architecture
from .evaluation import normalise

_BATCH = 64


def predict(
    model: nn.Module, architecture: Architecture, images: Iterable[str | Path], top: int = 1
) -> Iterator[Prediction]:
    """The `top` most probable classes of each image file, in the order given.

    Args:
        model: in eval mode, as `convforge.models.checkpoint.load` returns it.
        architecture: the one that came with it.
        images: files; one that cannot be read becomes a `Prediction` with an error and stops nothing.
        top: how many classes to name; all of them if there are fewer.

    Raises:
        UserError: if the network's outputs are not numbers.
    """
    waiting = iter(images)
    while batch := [str(image) for image in islice(waiting, _BATCH)]:
        yield from _predict_batch(model, architecture, batch, top)


def _predict_batch(model: nn.Module, architecture: Architecture, names: list[str], top: int) -> list[Prediction]:
    channels, height, width = architecture.input_shape
    pixels, errors = {}, {}
    for place, name in enumerate(names):
        try:
            pixels[place] = torch.from_numpy(read_image(name, channels, (height, width)))
        except UserError as mistake:
            errors[place] = Prediction(name, error=str(mistake))
    answers = {}
    if pixels:
        with torch.inference_mode():
            inputs = normalise(torch.stack(list(pixels.values())), architecture)
            probabilities = model(inputs).float().softmax(1)
        if not probabilities.isfinite().all():
            raise UserError(
                "the network answers with values that are not numbers: its weights are damaged, train it again."
            )
        best = probabilities.topk(min(top, len(architecture.classes)))
        for place, values, indices in zip(pixels, best.values.tolist(), best.indices.tolist(), strict=True):
            ranking = tuple((architecture.classes[i], value) for i, value in zip(indices, values, strict=True))
            answers[place] = Prediction(names[place], ranking)
    return [answers.get(place) or errors[place] for place in range(len(names))]
