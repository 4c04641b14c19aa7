"""Options of layers as they are written, in lines of layers and in the short notation alike.

`stride 2` and `stride=2` say the same, so do `same`, `padding same`, `padding=same` and `padding='same'`, and `pad 1`
and `padding=1`.
"""

from __future__ import annotations

import re

PADDINGS = ("same", "valid", "same_ceil", "same_half")
"""Padding by the name of its rule."""

CALLED = {
    "dense": "linear", "fc": "linear", "fully_connected": "linear", "conv2d": "conv", "convolution": "conv",
    "maxpool": "pool", "max_pool": "pool", "maxpool2d": "pool", "maxpooling2d": "pool", "avg_pool": "avgpool",
    "averagepooling2d": "avgpool", "avgpool2d": "avgpool", "global_average_pooling": "gap", "global_avg_pool": "gap",
    "globalaveragepooling2d": "gap", "batchnorm": "bn", "batch_norm": "bn", "batchnorm2d": "bn",
    "batchnormalization": "bn", "swish": "silu",
}  # fmt: skip
"""Names that layers have elsewhere, and those that they have here."""


def split(text: str) -> list[str]:
    """The words of a layer: what stands before and after an = are two, and quotes are left out.

    >>> split("conv 64 3x3 stride=2 padding = 'same'")
    ['conv', '64', '3x3', 'stride', '2', 'padding', 'same']
    """
    return [word.strip("'\"‘’“”") for word in re.sub(r"\s*=\s*", " ", text).split()]
