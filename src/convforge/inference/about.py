"""What a network does not know of itself: the names of its classes, and how its pictures are normalised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from reprlib import repr as short
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

_MOST_CLASSES = 2**20
_LARGEST = 1e6


@dataclass(frozen=True)
class About:
    """Classes and normalisation, as far as they are known.

    Args:
        classes: names in the order of the outputs.
        mean, std: one number a channel; the network is fed (pixel / 255 − mean) / std.

    Raises:
        UserError: for values that cannot be meant.

    >>> About(classes=["cat", "dog"], mean=[0.5], std=[0.25]).classes
    ('cat', 'dog')
    """

    classes: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", _names(self.classes))
        object.__setattr__(self, "mean", _numbers(self.mean, "mean"))
        object.__setattr__(self, "std", _numbers(self.std, "std"))
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise UserError(f"mean and std go together, one number a channel each, not {self.mean} and {self.std}.")
        if min(self.std or (1.0,)) <= 0:
            raise UserError(f"std must be above 0 for each channel, not {self.std}.")

    def normalised(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(pixel / 255 − mean) / std of uint8 pictures `(N, C, H, W)`: the numbers that training made of them."""
        mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (self.mean, self.std))
        result: NDArray[np.float32] = pixels.astype(np.float32)
        result /= np.float32(255)  # in place: new arrays would take as long as the arithmetic
        result -= mean
        result /= std
        return result


def _names(classes: Any) -> tuple[str, ...] | None:
    if classes is None:
        return None
    listed = isinstance(classes, Sequence) and not isinstance(classes, str)
    if not listed or not 0 < len(classes) <= _MOST_CLASSES or not all(isinstance(name, str) for name in classes):
        raise UserError(f"classes must be a list of names in the order of the outputs, not {short(classes)}.")
    return tuple(classes)


def _numbers(values: Any, what: str) -> tuple[float, ...] | None:
    if values is None:
        return None
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if not numbers or not all(math.isfinite(number) and abs(number) <= _LARGEST for number in numbers):
        raise UserError(f"{what} must be one number a channel, such as 0.485, 0.456, 0.406, not {short(values)}.")
    return numbers
