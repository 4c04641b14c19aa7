"""What is left of axes: sums, means, the largest and the smallest, variances, norms of vectors."""

from __future__ import annotations

import math
from typing import Any

from ..nodes import Binary, Reduce, Unary
from .arguments import axis_of, known
from .builder import Arguments, Builder, Cannot, Converter, Value
from .elementwise import binary


def reduce(kind: str) -> Converter:
    """Along the axes `dim`, one or several, or along all."""

    def convert(b: Builder, a: Arguments) -> Any:
        x, dims = a["self"], a.get("dim")
        dims = [dims] if isinstance(dims, int) else list(dims or range(x.rank))
        axes = tuple(sorted(axis_of(x, axis) for axis in dims))
        return b.add(Reduce(kind, axes, bool(a.get("keepdim", False))), x)

    return convert


def _largest(kind: str) -> Converter:
    """`max` and `min`: of two tensors, of all numbers, or along an axis, with indices that have no node."""
    one, both = reduce(kind), binary(kind)
    return lambda b, a: both(b, a) if "other" in a else [one(b, a), None] if "dim" in a else one(b, a)


def _variance(b: Builder, a: Arguments) -> Any:
    x = a["self"]
    axes = tuple(sorted(axis_of(x, axis) for axis in (a.get("dim") or range(x.rank))))
    count = math.prod(x.sizes[axis] for axis in axes)
    correction = a.get("correction", int(a.get("unbiased", True)))
    correction = 1 if correction is None else correction
    centred = b.add(Binary("sub"), x, b.add(Reduce("mean", axes), x))
    variance = b.add(Reduce("mean", axes, a.get("keepdim", False)), b.add(Unary("square"), centred))
    if correction:
        variance = b.add(Binary("mul"), variance, b.operand(known(count) / (known(count) - correction)))
    return variance


def _var_mean(b: Builder, a: Arguments) -> Any:
    return [_variance(b, a), reduce("mean")(b, a)]


def _norm(b: Builder, a: Arguments) -> Any:
    order, total = a.get("ord", a.get("p", 2)), reduce("sum")
    order = 2 if order is None else order
    if order == 1:
        return total(b, a | {"self": _made(a, b.add(Unary("abs"), a["self"]))})
    if order != 2:
        raise Cannot(f"of order {order} is not known")
    return b.add(Unary("sqrt"), total(b, a | {"self": _made(a, b.add(Unary("square"), a["self"]))}))


def _made(a: Arguments, name: str) -> Value:
    return Value(name, a["self"].sizes)


CONVERTERS: dict[str, Converter] = {
    "mean": reduce("mean"),
    "sum": reduce("sum"),
    "prod": reduce("prod"),
    "amax": reduce("max"),
    "amin": reduce("min"),
    "max": _largest("max"),
    "min": _largest("min"),
    "var": _variance,
    "var_mean": _var_mean,
    "std": lambda b, a: b.add(Unary("sqrt"), _variance(b, a)),
    "std_mean": lambda b, a: [b.add(Unary("sqrt"), _variance(b, a)), reduce("mean")(b, a)],
    "norm": _norm,
    "linalg_vector_norm": _norm,
}
