"""A data set that trains in a blink: three classes of 8×8 patterns, told apart by where the light is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a sub-folder a class, 15 images each."""
    draw = np.random.default_rng(0)
    for label, name in enumerate(("left", "middle", "right")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(15):
            pixels = draw.integers(0, 90, (8, 8), dtype=np.uint8)
            pixels[:, 3 * label : 3 * label + 2] += 150
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"
