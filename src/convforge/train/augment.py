"""Light augmentation: every image slightly turned, scaled and shifted, and mirrored where mirrors mean the same."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor
from torch.nn import functional

DEGREES = 10.0
SCALE = 0.1
SHIFT = 0.08


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
    count, _, height, width = images.shape
    angle, scale, right, down, mirror = torch.rand(5, count, generator=draw) * 2 - 1
    angle, scale = angle * (DEGREES * pi / 180), 1 + scale * SCALE
    mirrored = torch.where((mirror < 0) & flips, -1.0, 1.0)
    # affine_grid has both axes from −1 to 1, so a turn in pixels needs the aspect ratio.
    aspect = height / width
    rows = (
        torch.stack([scale * angle.cos() * mirrored, -scale * angle.sin() * aspect, 2 * SHIFT * right], dim=1),
        torch.stack([scale * angle.sin() / aspect * mirrored, scale * angle.cos(), 2 * SHIFT * down], dim=1),
    )
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
