"""Classes of unequal size: said, and weighed alike where that is asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from .data import Data

_UNEQUAL = 3  # times as many images as the smallest class


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """A weight a class, such that every class counts as if it had the same share of the images; their mean over all
    images is 1.

    >>> class_weights(torch.tensor([0, 0, 0, 1]), 2)
    tensor([0.6667, 2.0000])
    """
    counts = torch.bincount(labels, minlength=classes).float()
    return len(labels) / (classes * counts)


def about(data: Data, balanced: bool) -> str | None:
    """What is to be said of the sizes of classes; None where they are about equal."""
    counts = torch.bincount(data.train.labels, minlength=len(data.classes))
    most, least = int(counts.argmax()), int(counts.argmin())
    if counts[most] < _UNEQUAL * counts[least]:
        return None
    sizes = (
        f"Classes differ in size: {data.classes[most]} has {counts[most]:,} images to learn from, "
        f"{data.classes[least]} {counts[least]:,}"
    )
    return f"{sizes}; each counts alike (--balance)." if balanced else f"{sizes}; --balance makes each count alike."
