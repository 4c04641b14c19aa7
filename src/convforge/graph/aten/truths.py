"""What makes truth values, which are 1 and 0 in our graphs."""

from __future__ import annotations

from typing import Any

from ..nodes import Binary, Compare
from .builder import Arguments, Builder, Converter, Value
from .reductions import reduce


def _compare(kind: str) -> Converter:
    return lambda b, a: b.add(Compare(kind), b.operand(a["self"]), b.operand(a["other"]))


def _both(b: Builder, a: Arguments) -> Any:
    return b.add(Binary("mul"), _truth(b, a["self"]), _truth(b, a["other"]))


def _either(b: Builder, a: Arguments) -> Any:
    return b.add(Binary("max"), _truth(b, a["self"]), _truth(b, a["other"]))


def _one_of_both(b: Builder, a: Arguments) -> Any:
    return b.add(Compare("not_equal"), _truth(b, a["self"]), _truth(b, a["other"]))


def _truth(b: Builder, x: Value) -> str:
    """1 where a number is not 0."""
    return b.add(Compare("not_equal"), x, b.operand(0.0))


def _not(b: Builder, a: Arguments) -> Any:
    return b.add(Compare("equal"), a["self"], b.operand(0.0))


def _is_nan(b: Builder, a: Arguments) -> str:
    return b.add(Compare("not_equal"), a["self"], a["self"])


def _any(b: Builder, a: Arguments) -> Any:
    """Whether one number of them is not 0, NaN included."""
    return reduce("max")(b, a | {"self": Value(_truth(b, a["self"]), a["self"].sizes)})


CONVERTERS: dict[str, Converter] = {
    "eq": _compare("equal"),
    "ne": _compare("not_equal"),
    "lt": _compare("less"),
    "le": _compare("less_equal"),
    "gt": _compare("greater"),
    "ge": _compare("greater_equal"),
    **dict.fromkeys(("logical_and", "bitwise_and"), _both),
    **dict.fromkeys(("logical_or", "bitwise_or"), _either),
    **dict.fromkeys(("logical_xor", "bitwise_xor"), _one_of_both),
    **dict.fromkeys(("logical_not", "bitwise_not"), _not),
    "isnan": _is_nan,
    "any": _any,
}
