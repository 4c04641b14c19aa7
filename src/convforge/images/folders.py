"""The images of a folder: which of its files are taken for images where nobody has named them one by one."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UserError
from ..shown import shown

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif",
)  # fmt: skip


def image_files(folder: str | os.PathLike[str]) -> list[Path]:
    """All files in the folder and below whose names end as those of images do, in the order of their names.

    Hidden files and folders are left out; folders that are only linked to are not entered, so that there is an end.

    Raises:
        UserError: where there are none, or the folder cannot be read.
    """
    place, found = Path(folder), []
    try:
        os.listdir(place)
    except OSError as reason:
        raise UserError(f"cannot read the folder {shown(place)}: {reason.strerror or reason}.") from reason
    for at, folders, names in os.walk(place):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(at, name) for name in names if not name.startswith(".") and name.lower().endswith(SUFFIXES)
        ]  # fmt: skip
    if not found:
        raise UserError(f"there are no images in {shown(place)}: none of its files ends with {', '.join(SUFFIXES)}.")
    return sorted(found)
