"""A network's constants: weights in the kernels' own form, and tables. Plans for several image sizes share them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.prepared import Prepared
from ..native.runtime import memory
from .deferred import Constant
from .mapped import let_go, still

_Fill = Callable[[NDArray[Any] | None, int], None]
"""Writes a slot, from the constant's numbers, to an address."""


@dataclass
class Store:
    """Constants by name of their slot: where they lie, and what keeps them alive."""

    dtype: str
    addresses: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    _alive: list[object] = field(default_factory=list)
    _slots: dict[object, str] = field(default_factory=dict)
    _made: list[tuple[str, str, int, _Fill]] = field(default_factory=list)
    """Of each slot, its name, that of the constant ("" for tables), its bytes, and how it is filled."""

    def array(self, values: NDArray[Any]) -> str:
        """The slot of a small array; equal ones share it."""
        values = np.ascontiguousarray(values)
        key = values.dtype.str, values.tobytes()
        return self._slot(key, "", None, values.nbytes, lambda _, at: _copy(values, at))

    def named(self, name: str, values: Constant, order: tuple[int, ...] = ()) -> str:
        """The slot of a constant of that name, as numbers of the store's dtype in row-major order, its axes in
        `order`."""

        def fill(values: NDArray[Any] | None, at: int) -> None:
            assert values is not None
            _copy(np.ascontiguousarray(np.transpose(values, order) if order else values, self.dtype), at)

        return self._slot(("named", name, order), name, values, values.size * np.dtype(self.dtype).itemsize, fill)

    def packed(self, name: str, values: Constant, prepared: Prepared) -> str:
        """The slot of weights of that name, brought into the form that a pass needs."""

        def fill(values: NDArray[Any] | None, at: int) -> None:
            whole = np.require(values, self.dtype, ["C", "A"])
            prepared.pack(int(whole.ctypes.data), at)

        return self._slot(("packed", name, prepared.form), name, values, prepared.packed_bytes, fill)

    def renewed(self, constants: Mapping[str, Constant]) -> Store:
        """The same slots with other numbers in the constants, elsewhere in memory."""
        new = Store(self.dtype, _slots=dict(self._slots))
        for slot, name, size, fill in self._made:
            new._fill(slot, name, constants[name] if name else None, size, fill)
        return new

    def _slot(self, key: object, name: str, values: Constant | None, size: int, fill: _Fill) -> str:
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = f"constant {len(self._slots)}"
            self._fill(slot, name, values, size, fill)
        return slot

    def _fill(self, slot: str, name: str, values: Constant | None, size: int, fill: _Fill) -> None:
        at, alive = memory(size)
        fill(values if values is None else still(values), at)
        if values is not None:
            let_go(values)
        self.addresses[slot], self.bytes[slot] = at, size
        self._alive.append(alive)
        self._made.append((slot, name, size, fill))


def _copy(values: NDArray[Any], at: int) -> None:
    ctypes.memmove(at, values.ctypes.data, values.nbytes)
