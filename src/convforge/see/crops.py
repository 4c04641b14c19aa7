"""What a unit sees: the part of an image inside its receptive field, borders included."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .network import Box


def outside(box: Box, size: tuple[int, int]) -> dict[str, int]:
    """By how many pixels a box reaches beyond each border of an image of `size` (height, width); only where it does.

    >>> outside((-3, 5, 7, 7), (32, 10))
    {'top': 3, 'right': 2}
    """
    top, left, height, width = box
    beyond = {"top": -top, "left": -left, "bottom": top + height - size[0], "right": left + width - size[1]}
    return {side: pixels for side, pixels in beyond.items() if pixels > 0}


def cropped(pixels: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """The box out of an image `(C, H, W)`, as `(height, width, C + 1)`: the last channel is 255 inside the image; where
    the box reaches beyond it, that and all others are 0."""
    top, left, height, width = box
    result = np.zeros((height, width, pixels.shape[0] + 1), np.uint8)
    rows = slice(max(0, top), max(0, min(pixels.shape[1], top + height)))
    columns = slice(max(0, left), max(0, min(pixels.shape[2], left + width)))
    inside = pixels[:, rows, columns].transpose(1, 2, 0)
    place = result[max(0, -top) :, max(0, -left) :][: inside.shape[0], : inside.shape[1]]
    place[..., :-1] = inside
    place[..., -1] = 255
    return result


def shown(box: Box, size: tuple[int, int]) -> Box:
    """The part of a receptive field to be drawn on an image of `size` (height, width): the field, also where it reaches
    outside, but along an axis on which it covers the whole image no more than that.

    >>> shown((-5, -100, 11, 400), (224, 224))
    (-5, 0, 11, 224)
    """
    top, left, height, width = box
    if top <= 0 and top + height >= size[0]:
        top, height = 0, size[0]
    if left <= 0 and left + width >= size[1]:
        left, width = 0, size[1]
    return top, left, height, width


def png(pixels: NDArray[Any]) -> bytes:
    """`(height, width)` or `(height, width, 1 to 4)` of uint8 as a PNG: grey or RGB, with transparency if even."""
    file = BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels).save(file, "PNG", optimize=True)
    return file.getvalue()
