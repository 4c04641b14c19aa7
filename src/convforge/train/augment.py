"""Training images changed at random, so that a network cannot learn them by heart: lightly, which keeps a character the
character that it is, or strongly, as photographs bear."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Places:
    """Where images stand in their batch: `rows` of `of`. What chance does to an image depends on its place alone, and
    not on who else has the rest of the batch.

    >>> whole, part = (torch.Generator().manual_seed(0) for _ in range(2))
    >>> bool((torch.rand(5, 8, generator=whole)[:, 2:4] == Places(torch.tensor([2, 3]), 8).rand(part, 5)).all())
    True
    """

    rows: Tensor
    of: int

    @classmethod
    def all(cls, images: Tensor) -> Places:
        """Of a whole batch."""
        return cls(torch.arange(len(images)), len(images))

    def rand(self, draw: torch.Generator, numbers: int) -> Tensor:
        """So many random numbers from 0 to 1 for each image: of shape `(numbers, N)`."""
        return torch.rand(numbers, self.of, generator=draw)[:, self.rows]


def augment(images: Tensor, draw: torch.Generator, flips: bool, places: Places | None = None) -> Tensor:
    """Each image moved at random: turned by up to ±10°, scaled by up to ±10 %, shifted by up to ±8 % of its size.

    Args:
        images: float, of shape (N, C, H, W).
        draw: where the random numbers come from.
        flips: whether to mirror every second image, left to right.
        places: of the images in their batch; by default they are all of it.

    What moves in from beyond the border repeats the border.

    >>> still = torch.ones(2, 3, 8, 8)
    >>> torch.allclose(augment(still, torch.Generator().manual_seed(0), flips=True), still)
    True
    """
    angle, scale, right, down, mirror = (places or Places.all(images)).rand(draw, 5) * 2 - 1
    scale = 1 + scale * SCALE
    return _moved(images, angle, scale, scale, 2 * SHIFT * right, 2 * SHIFT * down, (mirror < 0) & flips, "border")


def augment_strongly(images: Tensor, draw: torch.Generator, flips: bool, places: Places | None = None) -> Tensor:
    """A random part of each image, at least 60 % of its area, made a little wider or narrower and turned by up to ±10°;
    contrast, brightness, saturation and tint changed. Arguments as of `augment`, values from 0 to 1.

    What lies beyond the border mirrors what lies before it: photographs go on, and a repeated border would be stripes.

    >>> grey = torch.full((2, 3, 8, 8), 0.5)
    >>> changed = augment_strongly(grey, torch.Generator().manual_seed(0), flips=True)
    >>> bool((0 <= changed).all() and (changed <= 1).all()), changed.shape
    (True, torch.Size([2, 3, 8, 8]))
    """
    channels, places = images.shape[1], places or Places.all(images)
    angle, mirror, aspect, right, down, contrast, brightness, saturation = places.rand(draw, 8) * 2 - 1
    part = (1 - (1 - SMALLEST_PART) * places.rand(draw, 1)[0]).sqrt()
    room = (1 - part).clamp(min=SHIFT)  # how far a part may lie from the middle
    wider = (aspect * _ASPECT).exp()
    found = _moved(
        images, angle, part * wider, part / wider, room * right, room * down, (mirror < 0) & flips, "reflection"
    )
    mean = found.mean((2, 3), keepdim=True)
    found = mean + (found - mean) * _each(1 + contrast * _CONTRAST) + _each(brightness * _BRIGHTNESS)
    if channels == 3:
        grey = found.mean(1, keepdim=True)
        # A row an image: the order in which a batch's numbers have always been drawn.
        tint = 1 + _TINT * (torch.rand(places.of, channels, 1, 1, generator=draw)[places.rows] * 2 - 1)
        found = (grey + (found - grey) * _each(1 + saturation * _SATURATION)) * tint
    return found.clamp_(0, 1)


def changed(images: Tensor, level: str, draw: torch.Generator, flips: bool, places: Places | None = None) -> Tensor:
    """The images, changed as `level` says: 'none', 'light' or 'strong'."""
    if level == "none":
        return images
    return (augment if level == "light" else augment_strongly)(images, draw, flips, places)


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
