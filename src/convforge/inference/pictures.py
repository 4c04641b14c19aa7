"""What `Model.predict` takes: files, Pillow images and arrays of pixels, all brought to the network's size alike."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

Picture: TypeAlias = "str | os.PathLike[str] | Image | NDArray[np.uint8]"


def listed(pictures: Picture | Iterable[Picture]) -> list[Picture]:
    """One picture, or several, as a list."""
    one = isinstance(pictures, str | os.PathLike) or _is_image(pictures)
    if one or (isinstance(pictures, np.ndarray) and pictures.ndim < 4):
        return [pictures]  # type: ignore[list-item]
    return list(pictures)  # type: ignore[arg-type]


def name_of(picture: Picture, number: int) -> str:
    """A file's path; what comes from memory is counted, from 1."""
    if isinstance(picture, str | os.PathLike):
        return os.fspath(picture)
    return getattr(picture, "filename", "") or f"picture {number + 1}"


def pixels(picture: Picture, name: str, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture as uint8 `(channels, *size)`: upright, scaled to cover the size, cropped at the centre.

    Raises `UserError` that names it where it cannot be read or is no picture.
    """
    from PIL.Image import Image

    from ..images.read import read_image, to_array

    if isinstance(picture, str | os.PathLike):
        return read_image(os.fspath(picture), channels, size)
    try:
        if isinstance(picture, Image):
            return to_array(picture, channels, size)
        if isinstance(picture, np.ndarray):
            return to_array(_image(picture), channels, size)
    except UserError as error:
        raise UserError(f"{name} cannot be taken: {error}") from None
    except OSError as error:  # Pillow reads a file's pixels late
        raise UserError(f"{name} cannot be read ({error}): it is damaged or was cut short.") from error
    raise UserError(f"{name} must be a path, a Pillow image or an array of pixels, not {type(picture).__name__}.")


def _image(array: NDArray[Any]) -> Image:
    from PIL import Image

    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))):
        raise UserError(
            f"arrays of pixels are uint8 of shape (H, W), (H, W, 3) or (H, W, 4), not {array.dtype} of {array.shape}; "
            "call the model itself with numbers that are normalised already."
        )
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _is_image(thing: object) -> bool:
    image = sys.modules.get("PIL.Image")  # who has an image has imported it
    return image is not None and isinstance(thing, image.Image)
