"""Images of another size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ....spec import Pair
from ...nodes import Resize
from ...operations.resize import COORDINATES
from ..attributes import Attributes, Cannot, integers, numbers
from ..values import Value, Varies
from .common import Converter, Inputs, axis_of, given, optional, rank
from .windows import Rows

if TYPE_CHECKING:
    from ..reading import Reading


def _resize(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    """From version 11 on; the one before, and `Upsample`, take scales and the simplest coordinates only."""
    x = given(inputs, 0)
    if a.opset < 11 or a.operator == "Upsample":
        scales = a.floats("scales") if len(inputs) < 2 else numbers(r.array(inputs[1], "scales"), "scales")
        return _resized(r, x, a.text("mode", "nearest"), "asymmetric", "floor", scales, None, None)
    mode, coordinates = a.text("mode", "nearest"), a.text("coordinate_transformation_mode", "half_pixel")
    rounding = a.text("nearest_mode", "round_prefer_floor")
    if a.flag("antialias", False):
        raise Cannot("smooths what it makes smaller (antialias=1), which is not known")
    policy = a.text("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        raise Cannot(f"keeps the aspect ratio ({policy!r}), which is not known")
    cubic, outside = a.number("cubic_coeff_a", -0.75), a.flag("exclude_outside", False)
    if mode == "cubic" and outside:
        raise Cannot("leaves out what lies outside (exclude_outside=1), which is not known")
    a.ignore("extrapolation_value")  # of other coordinates
    axes = a.ints("axes")
    sizes = optional(inputs, 3)
    if sizes is not None:
        wanted = [integers(array, "sizes") for array in r.arrays(sizes, "sizes")]
        return _resized(r, x, mode, coordinates, rounding, None, wanted, axes, cubic)
    factors = numbers(r.array(optional(inputs, 2), "scales"), "scales")
    return _resized(r, x, mode, coordinates, rounding, factors, None, axes, cubic)


def _resized(
    r: Reading,
    x: Value,
    mode: str,
    coordinates: str,
    rounding: str,
    scales: Sequence[float] | None,
    sizes: Sequence[Sequence[int]] | None,
    axes: Sequence[int] | None,
    cubic: float = -0.75,
) -> Value:
    rows = Rows(r, x)
    along = list(range(rank(x))) if axes is None else [axis_of(x, axis) for axis in axes]
    modes = {"nearest": "nearest", "linear": "bilinear", "bilinear": "bilinear", "cubic": "bicubic"}
    if mode not in modes:
        raise Cannot(f"has the mode {mode!r}: known are nearest, linear and cubic")
    if coordinates not in COORDINATES:
        raise Cannot(f"has coordinates {coordinates!r}, which are not known")
    how: dict[str, Any] = {"mode": modes[mode], "coordinates": coordinates}
    if mode == "nearest":
        how["rounding"] = rounding
    if mode == "cubic":
        how["cubic"] = cubic
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


OPERATORS: dict[str, Converter] = {
    "Resize": _resize,
    "Upsample": _resize,
}
