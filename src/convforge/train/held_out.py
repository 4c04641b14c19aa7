"""The images that a run was tested with and did not learn from, found again from what it has written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UserError
from ..models.checkpoint import read_json
from ..shown import shown
from ..spec import ceil_div
from . import data as labelled
from .folder import CONFIG
from .options import Options


@dataclass(frozen=True, eq=False)
class HeldOut:
    """One image: its place among those that were held out, uint8 `(C, H, W)`, and the class it shows."""

    number: int
    pixels: NDArray[np.uint8]
    label: str


def held_out(
    run: str | Path, most: int, track: labelled.Track = labelled.untracked, say: Callable[[str], None] = lambda _: None
) -> list[HeldOut]:
    """The held-out images of a run, at most so many of them, evenly spaced, since they may be sorted by class.

    Args:
        run: a folder of `convforge train`.
        most: how many are wanted at most.
        track, say: as of `data.load`: all images of the data set are read again.

    Raises:
        UserError: where the run did not learn classes, or its images are not there any more or are others.
    """
    config = read_json(Path(run) / CONFIG)
    options, facts = config.get("options"), config.get("data")
    if not isinstance(options, dict) or not isinstance(facts, dict):
        raise UserError(f"{shown(Path(run) / CONFIG)} does not say what the run has learned from.")
    wanted = Options.from_dict(options, str(Path(run) / CONFIG))
    if wanted.task != "classes":
        raise UserError(f"{shown(run)} did not learn classes, so there are no images of which the class is known.")
    largest = wanted.largest or labelled.LARGEST_INFERRED_SIDE
    data = labelled.load(
        wanted.data,
        seed=wanted.seed,
        size=wanted.size,
        flips=wanted.flips,
        val=wanted.val,
        largest=lambda _: largest,
        channels=wanted.channels,
        stream=wanted.stream,
        cache=wanted.cache,
        track=track,
        say=say,
    )
    if data.fingerprint() != facts.get("fingerprint"):
        raise UserError(f"the images of {data.name} are not those that {shown(run)} has learned from.")
    every = ceil_div(len(data.test), most)
    numbers = torch.arange(0, len(data.test), every)
    some = data.test.take(numbers)
    numbers = numbers if some.places is None else numbers[some.places]
    return [
        HeldOut(number, pixels.numpy(), data.classes[label])
        for number, pixels, label in zip(numbers.tolist(), some.images, some.labels.tolist(), strict=True)
    ]
