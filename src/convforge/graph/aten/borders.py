"""Borders: constant, reflected, repeated, and from the opposite side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..nodes import END, Pad, Slice
from .arguments import known
from .builder import Arguments, Builder, Converter, Value
from .shapes import as_row, row_of

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _padded(b: Builder, x: Value, sides: Sequence[Any], mode: str, value: float) -> str:
    """torch's sides: two numbers an axis, the last axis first; negative ones cut off."""
    pads = [(0, 0)] * x.rank
    for i in range(len(sides) // 2):
        pads[x.rank - 1 - i] = (known(sides[2 * i]), known(sides[2 * i + 1]))
    if x.rank == 3 and mode != "constant" and not any(map(any, pads[:2])):
        return row_of(b, _padded(b, as_row(b, x), sides, mode, value))
    name = x.name
    for axis, (before, after) in enumerate(pads):
        if before < 0 or after < 0:
            name = b.add(Slice(axis, max(0, -before), min(0, after) or END), name)
    return b.add(Pad(tuple((max(0, p), max(0, q)) for p, q in pads), _PAD_MODES[mode], value), name)


def _pad(b: Builder, a: Arguments) -> Any:
    return _padded(b, a["self"], a["pad"], a["mode"], float(a["value"] or 0.0))


def _mode_pad(mode: str) -> Converter:
    return lambda b, a: _padded(b, a["self"], a["padding"], mode, 0.0)


CONVERTERS: dict[str, Converter] = {
    "pad": _pad,
    "constant_pad_nd": lambda b, a: _padded(b, a["self"], a["pad"], "constant", float(a["value"])),
    "reflection_pad2d": _mode_pad("reflect"),
    "replication_pad2d": _mode_pad("replicate"),
}
