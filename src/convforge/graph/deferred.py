"""Constants that are computed when they are read, and not kept.

Weights into which a batch norm was folded are needed when they are packed, and never after that. As arrays they would
take as much memory as the model, for as long as the network lives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]


class Deferred:
    """An array that `compute` makes of other arrays, or deferred ones, whenever its numbers are asked for; its shape
    and type are known without. NumPy takes it for an array.

    >>> doubled = Deferred(lambda a: a * 2, (np.arange(3.0),), (3,), np.dtype("float64"))
    >>> doubled.shape, float(np.sum(doubled))
    ((3,), 6.0)
    """

    def __init__(
        self, compute: Callable[..., Array], sources: tuple[Array | Deferred, ...], shape: tuple[int, ...], dtype: Any
    ) -> None:
        self._compute, self.sources = compute, sources
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Of its numbers, once they are there."""
        return self.size * int(self.dtype.itemsize)

    @property
    def T(self) -> Deferred:
        """As an array's."""
        return Deferred(np.transpose, (self,), self.shape[::-1], self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        made = self._compute(*map(np.asarray, self.sources))
        if made.shape != self.shape or made.dtype != self.dtype:
            raise AssertionError(f"{made.dtype}{made.shape} was computed and {self.dtype}{self.shape} was announced")
        return made if dtype is None else made.astype(dtype, copy=False)

    def __getitem__(self, where: Any) -> Array:
        found: Array = np.asarray(self)[where]
        return found

    def astype(self, dtype: Any) -> Array:
        """Its numbers in another type."""
        return np.asarray(self).astype(dtype)

    def reshape(self, *shape: Any) -> Array:
        """Its numbers in another shape."""
        return np.asarray(self).reshape(*shape)


Constant: TypeAlias = Array | Deferred
