"""Image files in, pixel arrays out: the one way in for training and for prediction, so both see the same pixels.

Every picture goes the same way: decoded, transparency laid on white, reduced to 8 bits, converted to one channel (luma)
or three (RGB), scaled to cover the wanted size and cropped at the centre, then turned upright by its EXIF orientation.
What cannot be read raises `UserError` with the file's name.

However many threads read at once, what they decode into takes `MOST_BYTES` together, or one is decoded alone. Nothing
else is as large as the whole image: it is converted and scaled a strip of rows at a time.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import UserError
from ..shown import shown
from .memory import Budget, give_back

MAX_PIXELS = 89_478_485
"""Largest image that is decoded: a quarter of a gigabyte as RGB, Pillow's own default. The header is read first, so a
file of a few bytes that claims 100,000×100,000 pixels is refused before any memory is taken for it."""

MAX_SIDE = 1_000_000
"""Longest side that is decoded, in pixels: one row of a strip must not be a large image itself."""

MOST_BYTES = 384 * 2**20
"""Of memory that all images take which are being decoded at the same time: room for the largest PNG file."""

MOST_BYTES_OF_ONE = 2**30
"""Of memory that one image may take, which is then alone. Some formats' libraries hold all pixels several times."""

_decoding = Budget(MOST_BYTES)
_LARGE = 16 * 2**20  # bytes from which on the system gets its memory back at once
_STRIP = 2**18  # pixels that are converted and scaled at a time

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
        UserError: naming the file, if it is missing, a folder, unreadable, not an image, damaged, larger than
            `MAX_PIXELS` pixels or `MAX_SIDE` a side, or if decoding it would take more than `MOST_BYTES_OF_ONE`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGBA", (40, 20), "red").save(f"{folder}/red.png")
    ...     pixels = read_image(f"{folder}/red.png", channels=3, size=(10, 10))
    >>> pixels.shape, pixels[:, 0, 0].tolist()
    ((3, 10, 10), [255, 0, 0])
    """
    with _open_file(path) as file:
        return _decode(file, shown(path), channels, size)


def decode_image(data: bytes, name: str, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Like `read_image`, from the bytes of a file; `name` is what errors call it."""
    return _decode(BytesIO(data), shown(name), channels, size)


def image_shape(path: str | Path) -> tuple[int, int, int]:
    """`(channels, height, width)` of the upright image, from its header: 1 channel if it is greyscale, else 3.

    Nothing is decoded, so it is fast and says nothing about damage further on. Raises `UserError` as `read_image` does.
    """
    with _open_file(path) as file, _opened(file, shown(path)) as image:
        width, height = image.size
        if _orientation(image) in _UPRIGHT_SWAPS_SIDES:
            width, height = height, width
        return (1 if _is_grey(image) else 3), height, width


def to_array(image: Image.Image, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """An opened Pillow image as a uint8 array of shape `(channels, *size)`, by the rules at the top of this module.

    Raises `UserError` for pixels with no defined range (floating point, 32-bit integers beyond 16 bits).
    """
    if channels not in (1, 3):
        raise UserError(f"images have 1 channel (greyscale) or 3 (RGB), not {channels}: convert the data first.")
    _check_range(image)
    orientation = _orientation(image)
    swaps = orientation in _UPRIGHT_SWAPS_SIDES
    fitted = _fitted(image, "L" if channels == 1 else "RGB", size if swaps else size[::-1])
    fitted.getexif()[_ORIENTATION] = orientation
    pixels = np.array(ImageOps.exif_transpose(fitted), dtype=np.uint8)
    return np.ascontiguousarray(pixels[np.newaxis] if channels == 1 else pixels.transpose(2, 0, 1))


# ---------------------------------------------------------------------------------------------------------------------
# Opening
# ---------------------------------------------------------------------------------------------------------------------


def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _WANTED if name in Image.OPEN)


def _open_file(path: str | Path) -> IO[bytes]:
    place, path = Path(path), shown(path)
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
                if max(image.size) > MAX_SIDE:
                    raise UserError(
                        f"{name} claims a side of {max(image.size):,} pixels, and at most {MAX_SIDE:,} are decoded: "
                        "make it smaller first."
                    )
                needed = _bytes_to_decode(image, image.width * image.height)
                if needed > MOST_BYTES_OF_ONE:
                    raise UserError(
                        f"{name} would take {needed / 2**30:.1f} GiB of memory to decode, and at most "
                        f"{MOST_BYTES_OF_ONE / 2**30:.0f} GiB are taken: make it smaller first, or save it as PNG."
                    )
                try:
                    yield image
                finally:
                    image.close()  # its pixels, too
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
            traceback.clear_frames(failure.__traceback__)  # Pillow's hold the pixels as long as the error is known
            reason = shown(str(failure))
            raise UserError(f"{name} is damaged or cut short ({reason}): replace it or leave it out.") from failure


def _decode(file: IO[bytes], name: str, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    # What is taken of the budget is let go of when the image is closed, and its memory is the system's again.
    with ExitStack() as taken, _opened(file, name) as image:
        whole = image.width * image.height
        # A JPEG can be decoded at a half, a quarter or an eighth; twice the wanted size keeps the scaling good.
        image.draft(None, (2 * max(size), 2 * max(size)))
        needed = _bytes_to_decode(image, whole)
        taken.enter_context(_decoding.take(needed))
        if needed > _LARGE:
            taken.callback(give_back)
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


# Bytes a pixel that Pillow and the format's library take beside the picture itself: whole frames before and after
# conversion. Measured with pictures of 36 to 81 million pixels.
_BESIDE = {"WEBP": 12, "AVIF": 12, "JPEG2000": 15, "TIFF": 4}


def _bytes_to_decode(image: Image.Image, whole: int) -> int:
    """Memory for the pixels of an image whose header is read, `whole` in the file, fewer where it is a draft."""
    bands = len(image.getbands())
    # A JPEG's coefficients, which may come in several passes, are of all pixels.
    beside = whole * (2 * bands if image.format == "JPEG" else _BESIDE.get(image.format or "", 0))
    a_pixel = 2 if image.mode.startswith("I;16") else 1 if bands == 1 and image.mode not in ("I", "F") else 4
    return beside + a_pixel * image.width * image.height


def _triples(flat: list[int]) -> Iterator[tuple[int, int, int]]:
    return zip(flat[0::3], flat[1::3], flat[2::3], strict=True)


def _orientation(image: Image.Image) -> int:
    """As EXIF numbers it; 1, upright, where nothing is said."""
    # A courtesy of the camera: data so broken that it cannot be read must not cost the picture.
    with suppress(Exception):
        return int(image.getexif().get(_ORIENTATION, 1))
    return 1


def _check_range(image: Image.Image) -> None:
    if image.mode not in ("I", "F"):
        return
    least, most = cast(tuple[float, float], image.getextrema())  # of one band
    if image.mode == "F" or not 0 <= least <= most <= 65535:
        raise UserError(
            f"its pixels have no defined range (mode {image.mode}, {least:g} to {most:g}); "
            "save it with 8 or 16 bits a channel."
        )


def _fitted(image: Image.Image, mode: str, size: tuple[int, int]) -> Image.Image:
    """The image in another mode, `(width, height)` large: its middle, as large as can be, scaled.

    Scaling is separable: rows are scaled in width, a strip of them at a time, and all columns in height afterwards.
    """
    left, top, right, bottom = _middle(image.size, size)
    # At its border a smaller image takes in as many rows outside of the box as one of its rows stands for.
    beyond = 1 + int(max(1, (bottom - top) / size[1]))
    first, last = max(0, int(top) - beyond), min(image.height, int(bottom) + 1 + beyond)
    narrow = Image.new(mode, (size[0], last - first))
    rows = max(1, _STRIP // image.width)
    for row in range(first, last, rows):
        strip = image.crop((0, row, image.width, min(row + rows, last)))
        strip = _to_eight_bits(strip).convert(mode)
        box = (left, 0, right, strip.height)
        narrow.paste(strip.resize((size[0], strip.height), Image.Resampling.BILINEAR, box), (0, row - first))
    return narrow.resize(size, Image.Resampling.BILINEAR, (0, top - first, size[0], bottom - first))


def _middle(whole: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest box of the shape `size` in the middle of the `whole`: left, top, right, bottom, in pixels."""
    (width, height), shape = whole, size[0] / size[1]
    wanted = (float(width), width / shape) if width / height < shape else (height * shape, float(height))
    left, top = (width - wanted[0]) / 2, (height - wanted[1]) / 2
    return left, top, left + wanted[0], top + wanted[1]


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        # 65535 = 257 · 255: white stays white. Pillow's own conversion would clip everything above 255.
        return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers)
    return image
