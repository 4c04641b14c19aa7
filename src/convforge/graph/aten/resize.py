"""Images of another size, and read at points that a grid says."""

from __future__ import annotations

from typing import Any

from ..nodes import GridSample, MatMul, Reshape, Resize, Transpose
from ..operations.sampling import middles_of
from .arguments import images, known, pair
from .builder import Arguments, Builder, Cannot, Converter


def _resize(mode: str, coordinates: str, rounding: str = "floor", antialias: bool = False) -> Converter:
    def convert(b: Builder, a: Arguments) -> Any:
        x = images(a["input"] if "input" in a else a["self"])
        if antialias and a["align_corners"]:
            raise Cannot("with align_corners is not known")
        how: dict[str, Any] = {"mode": mode, "coordinates": coordinates, "rounding": rounding}
        if a.get("align_corners"):
            how["coordinates"] = "align_corners"
        if antialias:  # torch has Pillow's parameter of cubic interpolation here, and another one else
            how |= {"antialias": True, "inside": True, "cubic": -0.5}
        scales = a.get("scale_factors") or [a.get("scales_h"), a.get("scales_w")]
        if None not in scales and len(scales) == 2:
            return b.add(Resize(scales=(float(scales[0]), float(scales[1])), **how), x)
        return b.add(Resize(pair(a["result"].sizes[2:]), **how), x)

    return convert


_MODES = ("bilinear", "nearest", "bicubic")
_BEYOND = ("zeros", "border", "reflection")
"""By torch's numbers."""


def _grid_sample(b: Builder, a: Arguments) -> Any:
    mode, beyond = _MODES[a["interpolation_mode"]], _BEYOND[a["padding_mode"]]
    return b.add(GridSample(mode, beyond, a["align_corners"]), images(a["input"]), a["grid"])


def _affine_grid(b: Builder, a: Arguments) -> Any:
    if len(a["size"]) != 4:
        raise Cannot(f"is over {len(a['size']) - 2} axes, and only two-dimensional ones are known")
    height, width = (known(size) for size in a["size"][2:])
    middles = b.constant(middles_of(height, width, a["align_corners"]))
    made = b.add(MatMul(), middles, b.add(Transpose((0, 2, 1)), a["theta"]))
    return b.add(Reshape((0, height, width, 2)), made)


CONVERTERS: dict[str, Converter] = {
    "upsample_nearest2d": _resize("nearest", "asymmetric"),
    "_upsample_nearest_exact2d": _resize("nearest", "half_pixel", "round_prefer_ceil"),
    "upsample_bilinear2d": _resize("bilinear", "half_pixel"),
    "upsample_bicubic2d": _resize("bicubic", "half_pixel"),
    "_upsample_bilinear2d_aa": _resize("bilinear", "half_pixel", antialias=True),
    "_upsample_bicubic2d_aa": _resize("bicubic", "half_pixel", antialias=True),
    **dict.fromkeys(("grid_sampler", "grid_sampler_2d"), _grid_sample),
    "affine_grid_generator": _affine_grid,
}
