"""The images that were named on the command line, or are in memory: listed once, read when they are looked at.

Each goes the way of `convforge.images`: bounded, upright, made the network's size as in training and prediction. An
image is known by its number in the list; no path ever comes from a request. Files may change or go while the page is
open: whoever asks for one that is gone is told so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..images.read import image_shape, read_image, to_array
from .crops import cropped
from .lru import Kept
from .network import Box, NotThere

MOST = 20_000
"""Images that are listed; a page with more could not be used."""

LONGEST_SIDE, LONGEST_THUMBNAIL = 1600, 512
_MOST_BOX = 4096
_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif",
)  # fmt: skip
_INPUTS_KEPT, _FILES_KEPT = 96 * 2**20, 96 * 2**20


@dataclass(frozen=True, eq=False)
class InMemory:
    """An image that is in no file: uint8 `(C, H, W)` of 1 or 3 channels, what to call it, and the class it shows."""

    name: str
    pixels: NDArray[np.uint8]
    label: str | None = None


@dataclass(frozen=True)
class Picture:
    """One image: where it is, what to call it, its size, the class it shows if that is known; its pixels, if it is in
    no file."""

    path: Path | None
    name: str
    width: int
    height: int
    label: str | None = None
    pixels: NDArray[np.uint8] | None = None


class Pictures:
    """The images, as the network sees them.

    Args:
        paths: files and folders; folders are searched with everything below them.
        shape: (C, H, W), the network's input.
        mean, std: its normalisation.
        labels: whether the sub-folders of a folder are classes; None: if all of its images lie in sub-folders.
        in_memory: images that are in no file; they come before the others.

    Raises:
        UserError: if nothing can be read, with the first reason. Where some can, `notes` names the others.
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        shape: tuple[int, int, int],
        mean: Sequence[float],
        std: Sequence[float],
        labels: bool | None = None,
        in_memory: Iterable[InMemory] = (),
    ) -> None:
        self.shape = shape
        named = list(map(Path, paths))
        channels = shape[0]
        self._mean = torch.tensor(mean, dtype=torch.float32).view(channels, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32).view(channels, 1, 1)
        self._pictures = [
            Picture(None, image.name, image.pixels.shape[2], image.pixels.shape[1], image.label, image.pixels)
            for image in islice(in_memory, MOST)
        ]
        self._inputs = Kept[NDArray[np.uint8]](_INPUTS_KEPT, lambda pixels: pixels.nbytes)
        self._files = Kept[bytes](_FILES_KEPT, len)
        reasons: list[str] = []
        left_out = 0
        for path, name, label in _listed(named, labels):
            if len(self._pictures) == MOST:
                left_out += 1
                continue
            try:
                _, height, width = image_shape(path)
            except UserError as reason:
                reasons.append(str(reason))
                continue
            self._pictures.append(Picture(path, name, width, height, label))
        if not self._pictures:
            folders = ", ".join(map(str, named[:5])) + (", …" if len(named) > 5 else "")
            raise UserError(
                reasons[0] if reasons else f"there are no images in {folders}; name image files, or folders of them."
            )
        self.notes = tuple(
            [f"Left out: {reason}" for reason in reasons[:5]]
            + ([f"Left out: {len(reasons) - 5:,} more files that could not be read."] if len(reasons) > 5 else [])
            + ([f"Left out: {left_out:,} images beyond the first {MOST:,}."] if left_out else [])
        )

    def first(self, count: int) -> Pictures:
        """The first images alone; what is kept of them is shared."""
        part = copy(self)
        part._pictures = self._pictures[:count]
        return part

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, number: int) -> Picture:
        """Raises `NotThere` if there is none of that number."""
        if not 0 <= number < len(self._pictures):
            raise NotThere(f"there is no image {number}: there are {len(self)}, and counting starts at 0.")
        return self._pictures[number]

    def id(self, number: int) -> int:
        """What requests call it: its number."""
        return number

    def name(self, number: int) -> str:
        return self[number].name

    def label(self, number: int) -> str | None:
        return self[number].label

    def pixels(self, number: int) -> NDArray[np.uint8]:
        """The pixels that the network sees, before normalisation: uint8 `(C, H, W)`.

        Raises:
            UserError: if the file has gone, or cannot be read.
        """
        picture = self[number]
        channels, height, width = self.shape

        def read() -> NDArray[np.uint8]:
            pixels = _read(picture, 3 if channels == 3 else 1, (height, width))
            # A model of another number of channels is shown the brightness in each of them.
            return pixels if pixels.shape[0] == channels else np.repeat(pixels, channels, 0)

        return self._inputs.find(number, read)

    def input(self, number: int) -> Tensor:
        """What the network is fed: float32 `(C, H, W)`, (pixel / 255 − mean) / std."""
        return (torch.from_numpy(self.pixels(number)).float() / 255 - self._mean) / self._std

    def fingerprint(self) -> str:
        """Changes with the list, with the files' sizes and times, and with how they are brought to the network."""
        digest = hashlib.sha256(repr((self.shape, self._mean.tolist(), self._std.tolist())).encode())
        for picture in self._pictures:
            path = picture.path
            if path is None:
                assert picture.pixels is not None
                digest.update(repr((picture.name, picture.pixels.shape, picture.label)).encode())
                digest.update(np.ascontiguousarray(picture.pixels).data)
                continue
            try:
                state = path.stat()
                facts = (str(path.absolute()), state.st_size, state.st_mtime_ns, picture.label)
            except OSError:
                facts = (str(path.absolute()), -1, -1, picture.label)
            digest.update(repr(facts).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    # --- as files for the page ------------------------------------------------------------------------------------

    def original(self, number: int) -> bytes:
        """A PNG of the image, at most `LONGEST_SIDE` pixels long: in colour, or in grey where the network sees grey."""
        return self._as_it_is(number, LONGEST_SIDE)

    def thumbnail(self, number: int, side: int) -> bytes:
        """A PNG of the image, at most `side` pixels long."""
        return self._as_it_is(number, min(side, LONGEST_THUMBNAIL))

    def seen(self, number: int, box: Box | None = None) -> bytes:
        """A PNG of what the network sees, or of a part of it, clear where the part reaches outside.

        Raises:
            UserError: if the part is empty or larger than 4096 pixels a side.
        """
        self[number]
        if box is not None and not all(0 < side <= _MOST_BOX for side in box[2:]):
            raise UserError(f"a part of an image is 1 to {_MOST_BOX} pixels a side, not {box[2]}×{box[3]}.")

        def drawn() -> bytes:
            pixels = self.pixels(number)
            if pixels.shape[0] not in (1, 3):
                pixels = pixels[:1]
            return _png(cropped(pixels, box or (0, 0, *self.shape[1:])))

        return self._files.find(("seen", number, box), drawn)

    def _as_it_is(self, number: int, side: int) -> bytes:
        picture = self[number]
        shrink = min(1.0, side / max(picture.width, picture.height))
        size = max(1, round(picture.height * shrink)), max(1, round(picture.width * shrink))
        channels = 1 if self.shape[0] == 1 else 3
        return self._files.find(("as it is", number, side), lambda: _drawn(_read(picture, channels, size)))


def _read(picture: Picture, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    pixels = picture.pixels
    if pixels is not None:
        if pixels.shape == (channels, *size):
            return pixels
        return to_array(Image.fromarray(_last(pixels)), channels, size)
    assert picture.path is not None
    try:
        return read_image(picture.path, channels, size)
    except UserError as reason:
        if not picture.path.exists():
            raise NotThere(
                f"{picture.name} is no longer there: it was moved or deleted since this page was started."
            ) from None
        raise UserError(str(reason)) from reason


def _last(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`(C, H, W)` as Pillow has it: channels last, grey without any."""
    return np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def _drawn(pixels: NDArray[np.uint8]) -> bytes:
    return _png(_last(pixels))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """`(height, width)` or `(height, width, 2 to 4)`: grey or colours, and how much of them is to be seen."""
    buffer = BytesIO()
    # It goes over loopback: time counts, not size.
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------------------------
# Listing
# ---------------------------------------------------------------------------------------------------------------------


def _listed(paths: Iterable[Path], labels: bool | None) -> Iterable[tuple[Path, str, str | None]]:
    """Every file with its name and label: those that were named, and those in folders that look like images."""
    for path in paths:
        if not _is_folder(path):
            yield path, path.name, None
            continue
        files = [
            file for file in sorted(path.rglob("*"))
            if file.suffix.lower() in _SUFFIXES and not file.name.startswith(".") and file.is_file()
        ]  # fmt: skip
        inside = [file.relative_to(path).parts for file in files]
        by_folder = all(len(parts) > 1 for parts in inside) if labels is None else labels
        for file, parts in zip(files, inside, strict=True):
            yield file, "/".join(parts), parts[0] if by_folder and len(parts) > 1 else None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
