"""Sizes of images as they are written."""

from __future__ import annotations

import re
from typing import TypeAlias

from ..errors import UserError

Shape: TypeAlias = tuple[int, int, int]
"""`(C, H, W)`."""

IMAGENET: Shape = (3, 224, 224)
"""What the lesson and torchvision's models look at: assumed where nothing else is said."""


def parse_shape(text: str) -> Shape:
    """(C, H, W) as written on the command line.

    >>> parse_shape("3x224x224")
    (3, 224, 224)

    Raises:
        UserError: if it is something else.
    """
    numbers = re.split(r"[x×,*]", text.strip().lower())
    if len(numbers) != 3 or not all(re.fullmatch(r"\s*0*[1-9][0-9]{0,8}\s*", n) for n in numbers):
        raise UserError(f"the input size must be channels x height x width such as 3x224x224, not {text!r}.")
    channels, height, width = (int(n) for n in numbers)
    return channels, height, width
