"""What gives numbers another shape, order or size, and computes none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..nodes import Concat, Expand, Transpose
from .arguments import axis_of, images, known, same
from .builder import Arguments, Builder, Converter, Value
from .shapes import reshaped


def _view(b: Builder, a: Arguments) -> Any:
    return reshaped(b, a["self"], a["result"].sizes)


def _turned(b: Builder, x: Value, order: Sequence[int]) -> Any:
    return b.add(Transpose(tuple(order)), x)


def _swap(b: Builder, a: Arguments) -> Any:
    x = a["self"]
    order = list(range(x.rank))
    one, other = axis_of(x, a["dim0"]), axis_of(x, a["dim1"])
    order[one], order[other] = order[other], order[one]
    return _turned(b, x, order)


def _permute(b: Builder, a: Arguments) -> Any:
    return _turned(b, a["self"], [axis_of(a["self"], axis) for axis in a["dims"]])


def _movedim(b: Builder, a: Arguments) -> Any:
    x, one = a["self"], isinstance(a["source"], int)
    source = [axis_of(x, s) for s in ([a["source"]] if one else a["source"])]
    target = [axis_of(x, t) for t in ([a["destination"]] if one else a["destination"])]
    rest = iter(axis for axis in range(x.rank) if axis not in source)
    return _turned(b, x, [source[target.index(i)] if i in target else next(rest) for i in range(x.rank)])


def _t(b: Builder, a: Arguments) -> Any:
    return _turned(b, a["self"], range(a["self"].rank)[::-1])


def _matrices_turned(b: Builder, a: Arguments) -> Any:
    return _swap(b, a | {"dim0": -2, "dim1": -1})


def _expand(b: Builder, a: Arguments) -> Any:
    x, sizes = a["self"], a["result"].sizes
    before = (1,) * (len(sizes) - x.rank) + x.sizes
    wanted = [1 if same(old, new) else known(new) for old, new in zip(before, sizes, strict=True)]
    return b.add(Expand(tuple(wanted)), x)


def _repeat(b: Builder, a: Arguments) -> Any:
    x, times = a["self"], [known(t) for t in a["repeats"]]
    name = x.name
    if len(times) > x.rank:
        name = reshaped(b, x, (1,) * (len(times) - x.rank) + x.sizes)
    for axis, many in enumerate(times):
        if many != 1:
            name = b.add(Concat(axis), *[name] * many)
    return name


def _pixel_shuffle(b: Builder, a: Arguments) -> Any:
    x, r = images(a["self"]), known(a["upscale_factor"])
    n, c, h, w = x.sizes
    return _through(b, x, (n, c // (r * r), r, r, h, w), (0, 1, 4, 2, 5, 3), a["result"].sizes)


def _pixel_unshuffle(b: Builder, a: Arguments) -> Any:
    x, r = images(a["self"]), known(a["downscale_factor"])
    n, c, h, w = x.sizes
    return _through(b, x, (n, c, h // r, r, w // r, r), (0, 1, 3, 5, 2, 4), a["result"].sizes)


def _channel_shuffle(b: Builder, a: Arguments) -> Any:
    x, groups = images(a["self"]), known(a["groups"])
    n, c, h, w = x.sizes
    return _through(b, x, (n, groups, c // groups, h, w), (0, 2, 1, 3, 4), x.sizes)


def _through(b: Builder, x: Value, split: Sequence[Any], order: Sequence[int], merged: Sequence[Any]) -> str:
    """Axes split, put into another order, and merged again."""
    apart = Value(reshaped(b, x, split), tuple(split))
    turned = Value(_turned(b, apart, order), tuple(split[axis] for axis in order))
    return reshaped(b, turned, merged)


CONVERTERS: dict[str, Converter] = {
    **dict.fromkeys(("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view"), _view),
    "view_as": _view,
    "reshape_as": _view,
    "transpose": _swap,
    "swapaxes": _swap,
    "permute": _permute,
    "movedim": _movedim,
    "t": _t,
    **dict.fromkeys(("mT", "mH"), _matrices_turned),
    "numpy_T": _t,
    "expand": _expand,
    "expand_as": _expand,
    "repeat": _repeat,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": _channel_shuffle,
}
