"""A network's constants: weights in the kernels' own form, and tables. Plans for several image sizes share them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.program import Prepared
from ..engine.runtime import memory


@dataclass
class Store:
    """Constants by name of their slot: where they lie, and what keeps them alive."""

    dtype: str
    addresses: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    _alive: list[object] = field(default_factory=list)
    _slots: dict[object, str] = field(default_factory=dict)

    def array(self, values: NDArray[Any]) -> str:
        """The slot of a small array; equal ones share it."""
        values = np.ascontiguousarray(values)
        return self._slot((values.dtype.str, values.tobytes()), values.nbytes, lambda at: _copy(values, at))

    def named(self, name: str, values: NDArray[Any]) -> str:
        """The slot of an array that has a name of its own, as numbers of the store's dtype in row-major order."""
        key, size = ("named", name), values.size * np.dtype(self.dtype).itemsize
        return self._slot(key, size, lambda at: _copy(np.ascontiguousarray(values, self.dtype), at))

    def packed(self, name: str, values: NDArray[Any], prepared: Prepared) -> str:
        """The slot of weights of that name, brought into the form that a pass needs."""

        def pack(at: int) -> None:
            whole = np.ascontiguousarray(values, self.dtype)
            prepared.pack(int(whole.ctypes.data), at)

        return self._slot(("packed", name, prepared.form), prepared.packed_bytes, pack)

    def _slot(self, key: object, size: int, fill: Callable[[int], None]) -> str:
        slot = self._slots.get(key)
        if slot is None:
            slot = f"constant {len(self._slots)}"
            at, alive = memory(size)
            fill(at)
            self._slots[key], self.addresses[slot], self.bytes[slot] = slot, at, size
            self._alive.append(alive)
        return slot


def _copy(values: NDArray[Any], at: int) -> None:
    ctypes.memmove(at, values.ctypes.data, values.nbytes)
