"""What a run does where the user leaves it open: chosen from the data, by these rules, and stored with the run.

Few images need many steps, small batches and much change at random; many images need none of that. How many images are
shown in all grows with the square root of how many there are, and at first that makes most of it: 40 images are shown
300 times, 60,000 ten times. Pixels are bounded so that a few hundred images take a minute or two on two cores.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, sqrt
from typing import TypeVar

from .data import LARGEST_INFERRED_SIDE, Data
from .options import Options
from .split import HELD_OUT

_SMALLEST_SIDE = 64
_SIDES = (128, 112, 96, 80)
_MACS_A_PIXEL = 15e3  # of the default network, at sides of 64 to 128
_BACKWARD = 3  # a step costs three times the forward pass
_AFFORDABLE = 6.5e12  # multiply-accumulates of a whole run: about a minute on two cores
_MANY = 400  # images, from which on a run may take longer in proportion

_IMAGES_AN_EPOCH = 256

FEW_HELD_OUT = 30
"""Fewer images than this do not say which epoch is the best: one that is hard decides their loss. With 50 pictures of
clothes, 10 of them held out, their loss chose an epoch that recognised 40 % of 1,000 others, where the last, to which
the rate had fallen along a cosine, recognised 62 %."""
_MOST_EPOCHS_OF_PATCHES = 12


def shown(images: int) -> int:
    """How many images are shown over a whole run, each counted as often as it comes, at most.

    >>> [shown(images) for images in (32, 160, 1600, 60_000)]
    [9179, 20879, 70400, 631918]
    """
    return round(1600 * sqrt(images) + 4 * images)


def largest_side(images: int) -> int:
    """Pixels a side at most for a folder of so many images, where `--size` says nothing.

    >>> [largest_side(images) for images in (40, 200, 2000, 20_000)]
    [112, 80, 96, 128]
    """
    affordable = (
        _AFFORDABLE * max(1, images / _MANY) / (_BACKWARD * _MACS_A_PIXEL * shown(round(images * (1 - HELD_OUT))))
    )
    return next((side for side in _SIDES if side**2 <= affordable), min(_SMALLEST_SIDE, LARGEST_INFERRED_SIDE))


def chosen(options: Options, data: Data) -> Options:
    """The options with everything decided that was left open."""
    if options.task == "exemplar":
        return _chosen_for_patches(options)
    images = len(data.train)
    batch = options.batch or (8 if images < 24 else 16 if images < 640 else 32 if images < 2560 else 64)
    passes, epochs = options.passes, options.epochs
    if epochs is None:
        passes = passes or max(1, ceil(_IMAGES_AN_EPOCH / images))
        epochs = max(4, ceil(shown(images) / (images * passes)))
    return replace(
        options,
        model=options.model or "vgg",
        epochs=epochs,
        passes=passes or 1,
        batch=batch,
        lr=_or(options.lr, _rate(options)),
        weight_decay=_or(options.weight_decay, 0.05),
        label_smoothing=_or(options.label_smoothing, 0.05),
        patience=_or(options.patience, 0 if len(data.test) < FEW_HELD_OUT else max(3, round(epochs / 5))),
        augment=options.augment if isinstance(options.augment, str) else _augmentation(options.augment),
    )


_Number = TypeVar("_Number", int, float)


def _or(given: _Number | None, otherwise: _Number) -> _Number:
    return otherwise if given is None else given


def _rate(options: Options) -> float:
    if options.pretrained or options.start is not None:
        return 0.001
    return 0.004 if options.model in (None, "vgg", "resnet") else 0.001


def _augmentation(wanted: bool) -> str:
    # Measured on photographs, clothes and digits alike: strong change is no worse than light, and mostly better.
    return "strong" if wanted else "none"


def _chosen_for_patches(options: Options) -> Options:
    """Patches come changed already, and any number of them could be made: a fixed length, and one fall of the rate."""
    return replace(
        options,
        model=options.model or "vgg",
        epochs=options.epochs or _MOST_EPOCHS_OF_PATCHES,
        passes=options.passes or 1,
        batch=options.batch or 64,
        lr=_or(options.lr, _rate(options)),
        weight_decay=_or(options.weight_decay, 0.05),
        label_smoothing=_or(options.label_smoothing, 0.05),
        patience=_or(options.patience, 0),
        augment=options.augment if isinstance(options.augment, str) else "light" if options.augment else "none",
    )
