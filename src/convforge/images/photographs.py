"""Photographs that installed packages carry inside: scikit-image's and scikit-learn's. Nothing is fetched.

The files are read where they lie, and the packages are not imported: `skimage.data` would download what it lacks.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ..errors import UserError

_CARRIED = {
    "skimage": ("data", (
        "astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg",
        "retina.jpg", "ihc.png", "brick.png", "grass.png", "gravel.png", "camera.png", "coins.png", "moon.png",
    )),
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
}  # fmt: skip


def photographs() -> list[Path]:
    """The files, in the same order everywhere.

    Raises:
        UserError: if neither package is installed.

    >>> [path.name for path in photographs()][:2]
    ['astronaut.png', 'chelsea.png']
    """
    found = []
    for package, (folder, names) in _CARRIED.items():
        spec = find_spec(package)
        for place in spec.submodule_search_locations or () if spec else ():
            found += [file for name in names if (file := Path(place) / folder / name).is_file()]
    if not found:
        raise UserError("no photographs are installed: pip install scikit-image, or name a folder of your own.")
    return found
