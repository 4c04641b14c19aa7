"""PyTorch's operators as nodes: one function an operator, found by its name, a family a file.

`CONVERTERS["relu"]` takes a `Builder` and the operator's arguments by the names of its schema, in which tensors are
`Value`s, and returns the value that it makes, or several. Nothing here needs torch itself. What an operator asks for
that the nodes do not have raises `Cannot`, the end of a sentence that begins with the operator's name.
"""

from __future__ import annotations

from . import borders, elementwise, identities, moves, norms, parts, pooling, products, reductions, resize, truths
from .builder import Builder, Cannot, Converter, Value
from .pooling import READS_PLACES

__all__ = ["CONVERTERS", "READS_PLACES", "TRUTHS", "Builder", "Cannot", "Value"]

TRUTHS = truths.CONVERTERS
"""What makes truth values, which are 1 and 0 in our graphs."""

CONVERTERS: dict[str, Converter] = {
    **TRUTHS,
    **products.CONVERTERS,
    **norms.CONVERTERS,
    **pooling.CONVERTERS,
    **reductions.CONVERTERS,
    **elementwise.CONVERTERS,
    **moves.CONVERTERS,
    **parts.CONVERTERS,
    **borders.CONVERTERS,
    **resize.CONVERTERS,
    **identities.CONVERTERS,
}
