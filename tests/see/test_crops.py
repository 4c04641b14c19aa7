"""Parts of images, borders included."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from convforge.see.crops import cropped, outside, png, shown

IMAGE = np.arange(2 * 5 * 6, dtype=np.uint8).reshape(2, 5, 6)


@pytest.mark.parametrize(
    "box", [(0, 0, 5, 6), (1, 2, 2, 3), (-2, -1, 4, 9), (3, 4, 5, 5), (-9, -9, 30, 30), (7, 0, 2, 2), (-4, 0, 2, 2)]
)
def test_a_part_is_the_image_where_it_is_inside(box: tuple[int, int, int, int]) -> None:
    part = cropped(IMAGE, box)
    assert part.shape == (*box[2:], 3)
    beyond = 0
    for row in range(box[2]):
        for column in range(box[3]):
            y, x = box[0] + row, box[1] + column
            inside = 0 <= y < 5 and 0 <= x < 6
            beyond += not inside
            assert part[row, column].tolist() == ([*IMAGE[:, y, x], 255] if inside else [0, 0, 0])
    assert bool(outside(box, (5, 6))) == bool(beyond)


def test_how_far_it_reaches_outside() -> None:
    assert outside((-2, 1, 9, 4), (5, 6)) == {"top": 2, "bottom": 2}
    assert outside((0, 0, 5, 6), (5, 6)) == {}


def test_what_covers_the_image_is_drawn_as_the_image() -> None:
    assert shown((-100, -200, 491, 491), (224, 224)) == (0, 0, 224, 224)
    assert shown((-100, 0, 200, 200), (224, 224)) == (-100, 0, 200, 200)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_png_has_the_pixels(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 7, channels), np.uint8)
    found = np.asarray(Image.open(BytesIO(png(pixels))))
    np.testing.assert_array_equal(found.reshape(pixels.shape), pixels)
