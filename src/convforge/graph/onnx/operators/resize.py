"""Images of another size, and read at points that a grid says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ....spec import Pair
from ...nodes import GridSample, MatMul, Resize, Transpose
from ...operations.resize import COORDINATES
from ...operations.sampling import BEYOND, middles_of
from ..attributes import Attributes, Cannot, integers, numbers
from ..values import Value, Varies
from .common import Converter, Inputs, axis_of, given, optional, rank
from .windows import Rows

if TYPE_CHECKING:
    from ..reading import Reading


_MODES = {
    "nearest": "nearest",
    "linear": "bilinear",
    "cubic": "bicubic",
    "bilinear": "bilinear",
    "bicubic": "bicubic",  # of older versions
}


def _resize(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    """From version 11 on; the one before, and `Upsample`, take scales and the simplest coordinates only."""
    x = given(inputs, 0)
    if a.opset < 11 or a.operator == "Upsample":
        scales = a.floats("scales") if len(inputs) < 2 else numbers(r.array(inputs[1], "scales"), "scales")
        return _resized(r, x, a.text("mode", "nearest"), "asymmetric", "floor", scales, None, None)
    mode, coordinates = a.text("mode", "nearest"), a.text("coordinate_transformation_mode", "half_pixel")
    rounding = a.text("nearest_mode", "round_prefer_floor")
    policy = a.text("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        raise Cannot(f"keeps the aspect ratio ({policy!r}), which is not known")
    more: dict[str, Any] = {"inside": a.flag("exclude_outside", False), "antialias": a.flag("antialias", False)}
    cubic = a.number("cubic_coeff_a", -0.75)
    if mode == "cubic":
        more["cubic"] = cubic
    if mode == "nearest":
        more = {}
    a.ignore("extrapolation_value")  # of other coordinates
    axes = a.ints("axes")
    sizes = optional(inputs, 3)
    if sizes is not None:
        wanted = [integers(array, "sizes") for array in r.arrays(sizes, "sizes")]
        return _resized(r, x, mode, coordinates, rounding, None, wanted, axes, more)
    factors = numbers(r.array(optional(inputs, 2), "scales"), "scales")
    return _resized(r, x, mode, coordinates, rounding, factors, None, axes, more)


def _resized(
    r: Reading,
    x: Value,
    mode: str,
    coordinates: str,
    rounding: str,
    scales: Sequence[float] | None,
    sizes: Sequence[Sequence[int]] | None,
    axes: Sequence[int] | None,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> Value:
    rows = Rows(r, x)
    along = list(range(rank(x))) if axes is None else [axis_of(x, axis) for axis in axes]
    if mode not in _MODES:
        raise Cannot(f"has the mode {mode!r}: known are nearest, linear and cubic")
    if coordinates not in COORDINATES:
        raise Cannot(f"has coordinates {coordinates!r}, which are not known")
    how: dict[str, Any] = {"mode": _MODES[mode], "coordinates": coordinates, **more}
    if mode == "nearest":
        how["rounding"] = rounding
    if len(along) != len(scales if scales is not None else sizes[0] if sizes else ()):
        raise Cannot(f"needs a number for each of {len(along)} axes")
    if scales is not None:
        by_axis = dict(zip(along, (float(scale) for scale in scales), strict=True))
        if any(by_axis.get(axis, 1.0) != 1.0 for axis in (0, 1)) or not all(s > 0 and s < 2**31 for s in scales):
            raise Cannot(f"has the scales {tuple(scales)}, and only height and width can change")
        pair = (by_axis.get(2, 1.0), by_axis.get(3, 1.0)) if not rows.rows else (1.0, by_axis.get(2, 1.0))
        return rows.back(r.add(Resize(scales=pair, **how), rows.x))
    asked = [dict(zip(along, wanted, strict=True)) for wanted in sizes or ()]
    targets: list[Pair] = []
    for probe, (by, shape) in enumerate(zip(asked, x.shapes, strict=True)):
        if any(by.get(axis, shape[axis]) != shape[axis] for axis in (0, 1)):
            if probe:
                raise Varies(probe)
            raise Cannot(f"makes sizes {by} of {shape}, and only height and width can change")
        full = [by.get(axis, shape[axis]) for axis in range(2, rank(x))]
        targets.append((1, full[0]) if rows.rows else (full[0], full[1]))
    if all(target == targets[0] for target in targets):
        return rows.back(r.add(Resize(size=targets[0], **how), rows.x))
    # Another size for another input: a whole multiple of it, or the size of another image of the network.
    ratios = [(t[0] / shape[2], t[1] / shape[3]) for t, shape in zip(targets, rows.x.shapes, strict=True)]
    if all(ratio == ratios[0] for ratio in ratios) and all(q >= 1 and q == int(q) for q in ratios[0]):
        return rows.back(r.add(Resize(scales=ratios[0], **how), rows.x))
    like = r.image_of(targets)
    if like is not None and not rows.rows:
        return r.add(Resize(like=True, **how), rows.x, like)
    return rows.back(r.add(Resize(size=r.same(targets), **how), rows.x))


def _grid_sample(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    mode, beyond = a.text("mode", "linear"), a.text("padding_mode", "zeros")
    if mode not in _MODES:
        raise Cannot(f"has the mode {mode!r}: known are nearest, linear and cubic")
    if beyond not in BEYOND:
        raise Cannot(f"has the padding {beyond!r}: known are {', '.join(BEYOND)}")
    x = given(inputs, 0)
    if rank(x) != 4:
        raise Cannot(f"takes images (N, C, H, W), not {x.shapes[0]}")
    return r.add(GridSample(_MODES[mode], beyond, a.flag("align_corners", False)), x, given(inputs, 1))


def _affine_grid(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    sizes = [integers(array, "sizes") for array in r.arrays(optional(inputs, 1), "sizes")]
    if len(sizes[0]) != 4:
        raise Cannot(f"is over {len(sizes[0]) - 2} axes, and known are images (N, C, H, W)")
    height, width = r.same([size[2:] for size in sizes])
    if min(height, width) < 1:
        raise Cannot(f"makes a grid of {height}×{width} points")
    r.spend((height, width, 3))
    middles = middles_of(height, width, a.flag("align_corners", False))
    points = r.add(MatMul(), r.constant(middles), r.add(Transpose((0, 2, 1)), given(inputs, 0)))
    return r.reshape(points, [(shape[0], height, width, 2) for shape in points.shapes])


OPERATORS: dict[str, Converter] = {
    "AffineGrid": _affine_grid,
    "GridSample": _grid_sample,
    "Resize": _resize,
    "Upsample": _resize,
}
