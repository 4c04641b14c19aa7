"""Training images changed at random, so that a network cannot learn them by heart: lightly, which keeps a character the
character that it is, or strongly, as photographs bear."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor
from torch.nn import functional

LEVELS = ("none", "light", "strong")

DEGREES = 10.0
SCALE = 0.1
SHIFT = 0.08

SMALLEST_PART = 0.6
"""Of an image's area that a strongly changed one shows at least."""
_ASPECT = 0.15  # as a power of e
_CONTRAST, _BRIGHTNESS, _SATURATION, _TINT = 0.25, 0.12, 0.25, 0.08


def augment(images: Tensor, draw: torch.Generator, flips: bool) -> Tensor:
    """Each image moved at random: turned by up to ±10°, scaled by up to ±10 %, shifted by up to ±8 % of its size.

    Args:
        images: float, of shape (N, C, H, W).
        draw: where the random numbers come from.
        flips: whether to mirror every second image, left to right.

    What moves in from beyond the border repeats the border.

    >>> still = torch.ones(2, 3, 8, 8)
    >>> torch.allclose(augment(still, torch.Generator().manual_seed(0), flips=True), still)
    True
    """
    count = len(images)
    angle, scale, right, down, mirror = torch.rand(5, count, generator=draw) * 2 - 1
    scale = 1 + scale * SCALE
    return _moved(images, angle, scale, scale, 2 * SHIFT * right, 2 * SHIFT * down, (mirror < 0) & flips, "border")


def augment_strongly(images: Tensor, draw: torch.Generator, flips: bool) -> Tensor:
    """A random part of each image, at least 60 % of its area, made a little wider or narrower and turned by up to ±10°;
    contrast, brightness, saturation and tint changed. Arguments as of `augment`, values from 0 to 1.

    What lies beyond the border mirrors what lies before it: photographs go on, and a repeated border would be stripes.

    >>> grey = torch.full((2, 3, 8, 8), 0.5)
    >>> changed = augment_strongly(grey, torch.Generator().manual_seed(0), flips=True)
    >>> bool((0 <= changed).all() and (changed <= 1).all()), changed.shape
    (True, torch.Size([2, 3, 8, 8]))
    """
    count, channels = images.shape[:2]
    angle, mirror, aspect, right, down, contrast, brightness, saturation = torch.rand(8, count, generator=draw) * 2 - 1
    part = (1 - (1 - SMALLEST_PART) * torch.rand(count, generator=draw)).sqrt()
    room = (1 - part).clamp(min=SHIFT)  # how far a part may lie from the middle
    wider = (aspect * _ASPECT).exp()
    found = _moved(
        images, angle, part * wider, part / wider, room * right, room * down, (mirror < 0) & flips, "reflection"
    )
    mean = found.mean((2, 3), keepdim=True)
    found = mean + (found - mean) * _each(1 + contrast * _CONTRAST) + _each(brightness * _BRIGHTNESS)
    if channels == 3:
        grey = found.mean(1, keepdim=True)
        tint = 1 + _TINT * (torch.rand(count, channels, 1, 1, generator=draw) * 2 - 1)
        found = (grey + (found - grey) * _each(1 + saturation * _SATURATION)) * tint
    return found.clamp_(0, 1)


def changed(images: Tensor, level: str, draw: torch.Generator, flips: bool) -> Tensor:
    """The images, changed as `level` says: 'none', 'light' or 'strong'."""
    if level == "none":
        return images
    return (augment if level == "light" else augment_strongly)(images, draw, flips)


def _moved(
    images: Tensor,
    angle: Tensor,
    across: Tensor,
    along: Tensor,
    right: Tensor,
    down: Tensor,
    mirror: Tensor,
    beyond: str,
) -> Tensor:
    """Images turned by `angle` times ±10°, scaled by `across` and `along` the height, shifted by `right` and `down` in
    halves of their size, mirrored where `mirror` says so. All of shape (N,)."""
    height, width = images.shape[2:]
    angle = angle * (DEGREES * pi / 180)
    mirrored = torch.where(mirror, -1.0, 1.0)
    # affine_grid has both axes from −1 to 1, so a turn in pixels needs the aspect ratio.
    aspect = height / width
    rows = (
        torch.stack([across * angle.cos() * mirrored, -along * angle.sin() * aspect, right], dim=1),
        torch.stack([across * angle.sin() / aspect * mirrored, along * angle.cos(), down], dim=1),
    )
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode=beyond, align_corners=False)


def _each(values: Tensor) -> Tensor:
    """One number an image, beside (N, C, H, W)."""
    return values.view(-1, 1, 1, 1)
