"""What a network makes of images that it is not learning from: its loss and its accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..models.checkpoint import Architecture
from .data import Data
from .ranks import ALONE, Ranks
from .split import Split
from .stop import Stop
from .streamed import Streamed

_BATCH = 250
_PIXELS = 2**21  # of a batch: large images are looked at few at a time, so that a stop is answered soon


def normalise(images: Tensor, how: Data | Architecture) -> Tensor:
    """(pixel / 255 − mean) / std of uint8 images (N, C, H, W), in torch's channels_last memory format."""
    return standardised(images.float().div_(255), how)


def standardised(images: Tensor, how: Data | Architecture) -> Tensor:
    """(value − mean) / std of values from 0 to 1, in torch's channels_last memory format."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (how.mean, how.std))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def at_a_time(shape: Sequence[int]) -> int:
    """How many images of such a shape, `(…, H, W)`, are looked at together."""
    return max(1, min(_BATCH, _PIXELS // (shape[-2] * shape[-1])))


def evaluate(
    model: nn.Module,
    split: Split | Streamed,
    how: Data | Architecture,
    stop: Stop,
    weights: Tensor | None = None,
    ranks: Ranks = ALONE,
) -> tuple[float, float] | None:
    """Mean cross-entropy and accuracy (0 to 1) on a split, in eval mode; None as soon as `stop` was asked.

    With `weights`, one a class, the loss is the mean over images weighted by their class. Several `ranks` look at each
    image once, together, and all get the same.
    """
    model.eval()
    together = at_a_time(split.shape)
    stop.doing = f"these {together} held-out images"
    loss, right, total, seen, left = 0.0, 0, 0.0, 0, False
    with torch.inference_mode():
        parts = [rows for rows in torch.split(ranks.every(len(split)), together) if len(rows)]
        for part in split.read(parts):
            if stop.asked:
                left = True
                break
            logits = model(normalise(part.images, how)).float()
            loss += float(functional.cross_entropy(logits, part.labels, weight=weights, reduction="sum"))
            right += int((logits.argmax(1) == part.labels).sum())
            total += float(len(part) if weights is None else weights[part.labels].sum())
            seen += len(part)
    loss, recognised, total, images, stopped = ranks.sums(loss, right, total, seen, left)
    return None if stopped else (loss / total, recognised / images)
