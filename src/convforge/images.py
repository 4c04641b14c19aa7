"""Image files in, pixel arrays out: the one way in for training and for prediction, so both see the same pixels.

Every picture goes the same way: decoded, turned upright by its EXIF orientation, transparency laid on white, reduced
to 8 bits, converted to one channel (luma) or three (RGB), then scaled to cover the wanted size and cropped at the
centre. What cannot be read raises `UserError` with the file's name.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import UserError

MAX_PIXELS = 89_478_485
"""Largest image that is decoded: a quarter of a gigabyte as RGB, Pillow's own default. The header is read first, so a
file of a few bytes that claims 100,000×100,000 pixels is refused before any memory is taken for it."""

# Formats that Pillow decodes inside the process. Not EPS, for which it would start Ghostscript.
_WANTED = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

_UPRIGHT_SWAPS_SIDES = (5, 6, 7, 8)
_ORIENTATION = 0x0112


def read_image(path: str | Path, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The image file as a uint8 array of shape `(channels, *size)`.

    Args:
        path: a PNG, JPEG, WebP, GIF (its first frame), BMP, TIFF, PPM, JPEG 2000 or, where Pillow has it, AVIF file.
        channels: 1 for greyscale, 3 for RGB; the file may have any.
        size: `(height, width)`. The picture is scaled to cover it and cropped at the centre, never stretched.

    Raises:
        UserError: naming the file, if it is missing, a folder, unreadable, not an image, damaged, or larger than
            `MAX_PIXELS` pixels.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGBA", (40, 20), "red").save(f"{folder}/red.png")
    ...     pixels = read_image(f"{folder}/red.png", channels=3, size=(10, 10))
    >>> pixels.shape, pixels[:, 0, 0].tolist()
    ((3, 10, 10), [255, 0, 0])
    """
    with _open_file(path) as file:
        return _decode(file, str(path), channels, size)


def decode_image(data: bytes, name: str, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Like `read_image`, from the bytes of a file; `name` is what errors call it."""
    return _decode(BytesIO(data), name, channels, size)


def image_shape(path: str | Path) -> tuple[int, int, int]:
    """`(channels, height, width)` of the upright image, from its header: 1 channel if it is greyscale, else 3.

    Nothing is decoded, so it is fast and says nothing about damage further on. Raises `UserError` as `read_image` does.
    """
    with _open_file(path) as file, _opened(file, str(path)) as image:
        width, height = image.size
        with suppress(Exception):  # broken EXIF data means no orientation, as in `to_array`
            if image.getexif().get(_ORIENTATION) in _UPRIGHT_SWAPS_SIDES:
                width, height = height, width
        return (1 if _is_grey(image) else 3), height, width


def to_array(image: Image.Image, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """An opened Pillow image as a uint8 array of shape `(channels, *size)`, by the rules at the top of this module.

    Raises `UserError` for pixels with no defined range (floating point, 32-bit integers beyond 16 bits).
    """
    if channels not in (1, 3):
        raise UserError(f"images have 1 channel (greyscale) or 3 (RGB), not {channels}: convert the data first.")
    # Orientation is a courtesy of the camera; data so broken that it cannot be read must not cost the picture.
    with suppress(Exception):
        image = ImageOps.exif_transpose(image)
    upright = _to_eight_bits(image).convert("L" if channels == 1 else "RGB")
    height, width = size
    if upright.size != (width, height):
        upright = ImageOps.fit(upright, (width, height), method=Image.Resampling.BILINEAR)
    pixels = np.array(upright, dtype=np.uint8)
    return np.ascontiguousarray(pixels[np.newaxis] if channels == 1 else pixels.transpose(2, 0, 1))


# ---------------------------------------------------------------------------------------------------------------------
# Opening
# ---------------------------------------------------------------------------------------------------------------------


def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _WANTED if name in Image.OPEN)


def _open_file(path: str | Path) -> IO[bytes]:
    place = Path(path)
    try:
        if place.is_dir():
            raise UserError(f"{path} is a folder: name the image files in it.")
        if not place.exists():
            raise UserError(f"{path} does not exist: check the name of the image file.")
        if not place.is_file():  # a pipe or a device would block or never end
            raise UserError(f"{path} is not a regular file: name an image file.")
        return place.open("rb")
    except OSError as failure:
        reason = failure.strerror or failure
        raise UserError(f"{path} cannot be read ({reason}): check the name and its permissions.") from failure


@contextmanager
def _opened(file: IO[bytes], name: str) -> Iterator[Image.Image]:
    """The image with its header read; whatever Pillow raises inside the block becomes a `UserError`."""
    too_large = UserError(
        f"{name} claims to have more than {MAX_PIXELS:,} pixels, the most that is decoded: make it smaller first."
    )
    # Pillow warns of odd metadata, of which the user can make nothing; a too large image it must refuse.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file, formats=_formats()) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise too_large
                yield image
        except UserError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as failure:
            raise too_large from failure
        except UnidentifiedImageError as failure:
            raise UserError(
                f"{name} is not an image, whatever its name says: use PNG, JPEG, WebP, GIF, BMP or TIFF files."
            ) from failure
        # Decoders raise nearly every type there is on hostile bytes (struct.error, SyntaxError, EOFError, …).
        except Exception as failure:
            raise UserError(f"{name} is damaged or cut short ({failure}): replace it or leave it out.") from failure


def _decode(file: IO[bytes], name: str, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    with _opened(file, name) as image:
        # A JPEG can be decoded at a half, a quarter or an eighth; twice the wanted size keeps the scaling good.
        image.draft(None, (2 * max(size), 2 * max(size)))
        image.load()
        try:
            return to_array(image, channels, size)
        except UserError as mistake:
            raise UserError(f"{name}: {mistake}") from mistake


# ---------------------------------------------------------------------------------------------------------------------
# Pixels
# ---------------------------------------------------------------------------------------------------------------------


def _is_grey(image: Image.Image) -> bool:
    if image.mode == "P" and image.palette is not None:
        return image.palette.mode == "RGB" and all(r == g == b for r, g, b in _triples(image.getpalette() or []))
    return image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16")


def _triples(flat: list[int]) -> Iterator[tuple[int, int, int]]:
    return zip(flat[0::3], flat[1::3], flat[2::3], strict=True)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise UserError(
                f"its pixels have no defined range (mode {image.mode}, {values.min():g} to {values.max():g}); "
                "save it with 8 or 16 bits a channel."
            )
        # 65535 = 257 · 255: white stays white. Pillow's own conversion would clip everything above 255.
        return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers)
    return image
