"""Images of another size."""

from __future__ import annotations

from typing import Any

from ..nodes import Resize
from .arguments import images, pair
from .builder import Arguments, Builder, Converter


def _resize(mode: str, coordinates: str, rounding: str = "floor") -> Converter:
    def convert(b: Builder, a: Arguments) -> Any:
        x = images(a["input"] if "input" in a else a["self"])
        points = "align_corners" if a.get("align_corners") else coordinates
        scales = a.get("scale_factors") or [a.get("scales_h"), a.get("scales_w")]
        if None not in scales and len(scales) == 2:
            return b.add(Resize(None, (float(scales[0]), float(scales[1])), mode, points, rounding), x)
        return b.add(Resize(pair(a["result"].sizes[2:]), None, mode, points, rounding), x)

    return convert


CONVERTERS: dict[str, Converter] = {
    "upsample_nearest2d": _resize("nearest", "asymmetric"),
    "_upsample_nearest_exact2d": _resize("nearest", "half_pixel", "round_prefer_ceil"),
    "upsample_bilinear2d": _resize("bilinear", "half_pixel"),
    "upsample_bicubic2d": _resize("bicubic", "half_pixel"),
}
