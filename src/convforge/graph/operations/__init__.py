"""What nodes do: each operation with its rule for shapes and its meaning in float64, a family a file."""

from .base import Array, GraphError, Operation, Shape
from .elementwise import Binary, Compare, PRelu, Softmax, Unary, Where
from .moves import END, Axes, Concat, Expand, Pad, Reshape, Slice, Take, Transpose
from .norms import BatchNorm, GroupNorm, LayerNorm, LocalResponseNorm
from .pooling import AdaptivePooling, Pooling, PoolingPlaces, Reduce, Unpooling
from .products import Convolution, Linear, MatMul, TransposedConvolution
from .resize import Resize
from .sampling import GridSample

__all__ = [
    "END",
    "AdaptivePooling",
    "Array",
    "Axes",
    "BatchNorm",
    "Binary",
    "Compare",
    "Concat",
    "Convolution",
    "Expand",
    "GraphError",
    "GridSample",
    "GroupNorm",
    "LayerNorm",
    "Linear",
    "LocalResponseNorm",
    "MatMul",
    "Operation",
    "PRelu",
    "Pad",
    "Pooling",
    "PoolingPlaces",
    "Reduce",
    "Reshape",
    "Resize",
    "Shape",
    "Slice",
    "Softmax",
    "Take",
    "Transpose",
    "TransposedConvolution",
    "Unary",
    "Unpooling",
    "Where",
]
