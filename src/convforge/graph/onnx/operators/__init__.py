"""ONNX's operators as nodes: one function an operator, found by its name, a family a file.

`OPERATORS["Relu"]` takes the `Reading`, a node's attributes and its inputs (None for one that is left out), and returns
the value that it makes, or several. What a node asks for that our graphs do not have raises `Cannot`.
"""

from __future__ import annotations

from . import elementwise, moves, norms, pooling, products, resize
from .common import Converter

OPERATORS: dict[str, Converter] = {
    **elementwise.OPERATORS,
    **products.OPERATORS,
    **pooling.OPERATORS,
    **norms.OPERATORS,
    **moves.OPERATORS,
    **resize.OPERATORS,
}
