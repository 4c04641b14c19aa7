"""Pooling: windows of images and rows."""

from __future__ import annotations

import math
from typing import Any

from ..nodes import AdaptivePooling, Binary, Pooling, PoolingPlaces, Reduce, Slice, Unpooling
from .arguments import images, known, pair, same
from .builder import Arguments, Builder, Cannot, Converter
from .shapes import as_row, row_of


def _windows(kind: str, a: Arguments) -> Pooling:
    kernel = pair(a["kernel_size"])
    top, left = pair(a["padding"])
    return Pooling(
        kind,
        kernel,
        pair(a["stride"], usual=kernel),
        ((top, top), (left, left)),
        pair(a.get("dilation", 1)),
        a.get("count_include_pad", True),
        a["ceil_mode"],
    )


def _pooling(kind: str) -> Converter:
    def convert(b: Builder, a: Arguments) -> Any:
        x, pool = images(a["self"]), _windows(kind, a)
        divisor = a.get("divisor_override")
        if divisor is None:
            return b.add(pool, x)
        if pool.ceil:
            raise Cannot("with a divisor and rounded-up sizes is not known")
        counted = Pooling(pool.kind, pool.kernel, pool.stride, pool.pads, count_padding=True)
        return b.add(Binary("mul"), b.add(counted, x), b.operand(math.prod(pool.kernel) / divisor))

    return convert


def _largest_and_places(b: Builder, a: Arguments) -> Any:
    """With places only where something reads them, as most networks do not."""
    x, pool = images(a["self"]), _windows("max", a)
    return [b.add(pool, x), b.add(PoolingPlaces(pool), x) if 1 in a.get("read", (1,)) else None]


def _unpooling(b: Builder, a: Arguments) -> Any:
    return b.add(Unpooling(pair(a["output_size"])), images(a["self"]), a["indices"])


def _largest_of_rows(b: Builder, a: Arguments) -> Any:
    x, kernel = a["self"], list(a["kernel_size"])
    if x.rank != 3:
        raise Cannot(f"takes rows of shape (N, C, L), not {x.rank} axes")
    asked: dict[str, Any] = {
        "kernel_size": [1, *kernel],
        "stride": [1, *(a["stride"] or kernel)],
        "padding": [0, *a["padding"]],
    }
    asked |= {"dilation": [1, *a["dilation"]], "self": as_row(b, x)}
    return row_of(b, _pooling("max")(b, a | asked))


def _average_of_neighbours(b: Builder, a: Arguments) -> Any:
    """`avg_pool3d` along one axis, one number further each time: the means that `local_response_norm` takes."""
    x, kernel = a["self"], [known(k) for k in a["kernel_size"]]
    usual = {"stride": [1, 1, 1], "padding": [0, 0, 0]}
    if x.rank != 5 or kernel[1:] != [1, 1] or any(list(a[name]) != value for name, value in usual.items()):
        raise Cannot("is over three axes, and only two-dimensional ones are known")
    count = known(x.sizes[2]) - kernel[0] + 1
    total, *others = (b.add(Slice(2, first, first + count), x) for first in range(kernel[0]))
    for other in others:
        total = b.add(Binary("add"), total, other)
    return b.add(Binary("mul"), total, b.operand(1 / kernel[0]))


def _adaptive(kind: str) -> Converter:
    def convert(b: Builder, a: Arguments) -> Any:
        x = images(a["self"])
        asked = [a["output_size"]] if isinstance(a["output_size"], int) else list(a["output_size"])
        size = pair(asked)
        if size == (1, 1):
            return b.add(Reduce("mean" if kind == "average" else "max", (2, 3)), x)
        if all(same(*sizes) for sizes in zip(size, x.sizes[2:], strict=True)):
            return x.name
        return b.add(AdaptivePooling(kind, size), x)

    return convert


CONVERTERS: dict[str, Converter] = {
    "max_pool1d": _largest_of_rows,
    "max_pool2d": _pooling("max"),
    "max_pool2d_with_indices": _largest_and_places,
    "max_unpool2d": _unpooling,
    "avg_pool2d": _pooling("average"),
    "avg_pool3d": _average_of_neighbours,
    "adaptive_avg_pool2d": _adaptive("average"),
    "_adaptive_avg_pool2d": _adaptive("average"),
    "adaptive_max_pool2d": lambda b, a: [_adaptive("max")(b, a), None],
}

READS_PLACES = {"max_unpool2d"}
"""Operators that take whole numbers, which are numbers like any others in our graphs."""
