"""What `Model.predict` takes: files, Pillow images and arrays of pixels, all brought to the network's size alike."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Encoded:
    """A picture's file that lies elsewhere than in a folder: what it is called, and what its bytes are read with, by
    one of the threads that decode. `read` raises `UserError` or `OSError` where it cannot be read."""

    name: str
    read: Callable[[], bytes]


Picture: TypeAlias = "str | os.PathLike[str] | Image | NDArray[np.uint8] | Encoded"


Read: TypeAlias = "NDArray[np.uint8] | UserError"
"""A picture's pixels, or why there are none."""

_READERS = 4
"""Threads that decode, at most; Pillow lets go of Python's lock meanwhile."""


def listed(pictures: Picture | Iterable[Picture]) -> list[Picture]:
    """One picture, or several, as a list; a folder stands for the images in it."""
    one = isinstance(pictures, str | os.PathLike | Encoded) or _is_image(pictures)
    if one or (isinstance(pictures, np.ndarray) and pictures.ndim < 4):
        pictures = [pictures]  # type: ignore[list-item]
    found: list[Picture] = []
    for picture in pictures:  # type: ignore[union-attr]
        if isinstance(picture, str | os.PathLike) and os.path.isdir(picture):
            from ..images.folders import image_files

            found += image_files(picture)
        else:
            found.append(picture)
    return found


def are_pictures(thing: object) -> bool:
    """Whether it is a picture in a file or of Pillow, or a list of such: numbers are not, which may be normalised."""
    one = isinstance(thing, str | os.PathLike) or _is_image(thing)
    return one or (isinstance(thing, list | tuple) and len(thing) > 0 and all(map(are_pictures, thing)))


def name_of(picture: Picture, number: int) -> str:
    """A file's path; what comes from memory is counted, from 1."""
    if isinstance(picture, str | os.PathLike):
        return os.fspath(picture)
    if isinstance(picture, Encoded):
        return picture.name
    return getattr(picture, "filename", "") or f"picture {number + 1}"


def read_ahead(
    pictures: Iterable[Picture], channels: int, size: tuple[int, int], ahead: int
) -> Iterator[tuple[str, Read]]:
    """The name and the pixels of each picture, in order; `ahead` of them are read while the last one is in use.

    So what is in memory is bounded, however many pictures there are; they may be listed while they are read.
    """

    def read(number: int, picture: Picture) -> tuple[str, Read]:
        name = name_of(picture, number)
        try:
            return name, pixels(picture, name, channels, size)
        except UserError as mistake:
            return name, mistake

    if isinstance(pictures, list) and len(pictures) == 1:
        yield read(0, pictures[0])
        return
    readers = ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1))
    try:
        waiting: deque[Future[tuple[str, Read]] | tuple[int, Picture]] = deque()
        for number, picture in enumerate(pictures):
            # Only files: two threads must not decode one and the same Pillow image.
            is_file = isinstance(picture, str | os.PathLike | Encoded)
            waiting.append(readers.submit(read, number, picture) if is_file else (number, picture))
            if len(waiting) > ahead:
                first = waiting.popleft()
                yield first.result() if isinstance(first, Future) else read(*first)
        while waiting:
            first = waiting.popleft()
            yield first.result() if isinstance(first, Future) else read(*first)
    finally:
        readers.shutdown(cancel_futures=True)


def pixels(picture: Picture, name: str, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture as uint8 `(channels, *size)`: upright, scaled to cover the size, cropped at the centre.

    Raises `UserError` that names it where it cannot be read or is no picture.
    """
    from PIL.Image import Image

    from ..images.read import decode_image, read_image, to_array

    if isinstance(picture, str | os.PathLike):
        return read_image(os.fspath(picture), channels, size)
    if isinstance(picture, Encoded):
        try:
            return decode_image(picture.read(), name, channels, size)
        except OSError as error:
            raise UserError(f"{name} cannot be read ({error}): check the name and its permissions.") from error
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
