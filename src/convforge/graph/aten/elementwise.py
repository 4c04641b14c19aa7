"""What is computed number by number."""

from __future__ import annotations

import math
from typing import Any

from ..nodes import Binary, Compare, PRelu, Reshape, Slice, Softmax, Unary, Where
from .arguments import axis_of, known
from .builder import Arguments, Builder, Cannot, Converter, Value


def _unary(kind: str, *parameters: str) -> Converter:
    return lambda b, a: b.add(Unary(kind, tuple(float(a[p]) for p in parameters)), a["self"])


def binary(kind: str) -> Converter:
    def convert(b: Builder, a: Arguments) -> Any:
        x, other = b.operand(a["self"]), b.operand(a["other"])
        if a.get("rounding_mode") is not None:
            raise Cannot(f"with rounding_mode={a['rounding_mode']!r} is not known")
        if a.get("alpha", 1) != 1:
            other = b.add(Binary("mul"), other, b.operand(a["alpha"]))
        return b.add(Binary(kind), x, other)

    return convert


def _rsub(b: Builder, a: Arguments) -> Any:
    return binary("sub")(b, a | {"self": a["other"], "other": a["self"]})


def _clamp(b: Builder, a: Arguments) -> Any:
    low, high = a.get("min"), a.get("max")
    if isinstance(low, Value) or isinstance(high, Value):
        name = a["self"].name
        for kind, limit in (("max", low), ("min", high)):
            if limit is not None:
                name = b.add(Binary(kind), name, limit)
        return name
    return b.add(Unary("clip", (-math.inf if low is None else low, math.inf if high is None else high)), a["self"])


def _hardtanh(b: Builder, a: Arguments) -> Any:
    return b.add(Unary("clip", (a["min_val"], a["max_val"])), a["self"])


def _elu(b: Builder, a: Arguments) -> Any:
    return b.add(Unary("elu", (a["alpha"], a["scale"], a["input_scale"])), a["self"])


def _selu(b: Builder, a: Arguments) -> Any:
    return b.add(Unary("elu", (1.6732632423543772848170429916717, 1.0507009873554804934193349852946)), a["self"])


def _celu(b: Builder, a: Arguments) -> Any:
    return b.add(Unary("elu", (a["alpha"], 1.0, 1 / a["alpha"])), a["self"])


def _gelu(b: Builder, a: Arguments) -> Any:
    return b.add(Unary("gelu_tanh" if a["approximate"] == "tanh" else "gelu"), a["self"])


def _prelu(b: Builder, a: Arguments) -> Any:
    x, slope = a["self"], a["weight"]
    if slope.rank == 1 and x.rank > 2:
        slope = b.add(Reshape((-1, *(1,) * (x.rank - 2))), slope)
    return b.add(PRelu(), x, slope)


def _softmax(log: bool) -> Converter:
    return lambda b, a: b.add(Softmax(axis_of(a["self"], a["dim"]), log), a["self"])


def _addc(kind: str) -> Converter:
    """self + value · tensor1 · tensor2, or divided by it."""

    def convert(b: Builder, a: Arguments) -> Any:
        made = b.add(Binary(kind), a["tensor1"], a["tensor2"])
        if a["value"] != 1:
            made = b.add(Binary("mul"), made, b.operand(a["value"]))
        return b.add(Binary("add"), a["self"], made)

    return convert


def _lerp(b: Builder, a: Arguments) -> Any:
    share = b.add(Binary("mul"), b.add(Binary("sub"), a["end"], a["self"]), b.operand(a["weight"]))
    return b.add(Binary("add"), a["self"], share)


def _power(b: Builder, a: Arguments) -> Any:
    exponent = a["exponent"]
    if exponent == 2:
        return b.add(Unary("square"), a["self"])
    if exponent == 0.5:
        return b.add(Unary("sqrt"), a["self"])
    return b.add(Binary("pow"), b.operand(a["self"]), b.operand(exponent))


def _glu(b: Builder, a: Arguments) -> Any:
    x = a["self"]
    axis = axis_of(x, a["dim"])
    half = known(x.sizes[axis]) // 2
    gate = b.add(Unary("sigmoid"), b.add(Slice(axis, half), x))
    return b.add(Binary("mul"), b.add(Slice(axis, 0, half), x), gate)


def _where(b: Builder, a: Arguments) -> Any:
    return b.add(Where(), a["condition"], b.operand(a["self"]), b.operand(a["other"]))


def _masked_fill(b: Builder, a: Arguments) -> Any:
    return b.add(Where(), a["mask"], b.operand(a["value"]), a["self"])


def _threshold(b: Builder, a: Arguments) -> Any:
    """x above the threshold, a number elsewhere; NaN stays NaN."""
    low = b.add(Compare("less_equal"), a["self"], b.operand(a["threshold"]))
    return b.add(Where(), low, b.operand(a["value"]), a["self"])


def _hardshrink(b: Builder, a: Arguments) -> Any:
    """0 where |x| ≤ λ."""
    small = b.add(Compare("less_equal"), b.add(Unary("abs"), a["self"]), b.operand(a["lambd"]))
    return b.add(Where(), small, b.operand(0.0), a["self"])


def _softshrink(b: Builder, a: Arguments) -> Any:
    """x moved by λ towards 0, and 0 within λ of it."""
    limit = float(a["lambd"])
    return b.add(Binary("sub"), a["self"], b.add(Unary("clip", (-limit, limit)), a["self"]))


def _leaky_mean(b: Builder, a: Arguments) -> Any:
    """Slopes are drawn in training, and their mean is taken else."""
    if a["training"]:
        raise Cannot("in training mode draws random numbers: call eval() first")
    return b.add(Unary("leaky_relu", ((float(a["lower"]) + float(a["upper"])) / 2,)), a["self"])


def _scaled(kind: str, factor: float) -> Converter:
    """A function times a number: logarithms to other bases."""
    return lambda b, a: b.add(Binary("mul"), b.add(Unary(kind), a["self"]), b.operand(factor))


def _truncated(b: Builder, a: Arguments) -> str:
    """Towards zero."""
    negative = b.add(Compare("less"), a["self"], b.operand(0.0))
    return b.add(Where(), negative, b.add(Unary("ceil"), a["self"]), b.add(Unary("floor"), a["self"]))


CONVERTERS: dict[str, Converter] = {
    **{kind: _unary(kind) for kind in ("relu", "relu6", "sigmoid", "log_sigmoid", "hardsigmoid", "hardswish", "silu")},
    **{kind: _unary(kind) for kind in ("mish", "softsign", "tanh", "exp", "log", "sqrt", "rsqrt", "square", "neg")},
    **{kind: _unary(kind) for kind in ("abs", "reciprocal", "erf", "sin", "cos", "sign", "floor", "ceil", "round")},
    "leaky_relu": _unary("leaky_relu", "negative_slope"),
    "softplus": _unary("softplus", "beta"),
    "hardtanh": _hardtanh,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "clip": _clamp,
    "elu": _elu,
    "selu": _selu,
    "celu": _celu,
    "gelu": _gelu,
    "glu": _glu,
    "prelu": _prelu,
    **dict.fromkeys(("softmax", "_softmax"), _softmax(False)),
    **dict.fromkeys(("log_softmax", "_log_softmax"), _softmax(True)),
    "add": binary("add"),
    "sub": binary("sub"),
    "rsub": _rsub,
    "mul": binary("mul"),
    "div": binary("div"),
    "maximum": binary("max"),
    "minimum": binary("min"),
    "pow": _power,
    "addcmul": _addc("mul"),
    "addcdiv": _addc("div"),
    "lerp": _lerp,
    "rrelu": _leaky_mean,
    "log2": _scaled("log", 1 / math.log(2)),
    "log10": _scaled("log", 1 / math.log(10)),
    "exp2": lambda b, a: b.add(Binary("pow"), b.operand(2.0), a["self"]),
    "trunc": _truncated,
    "frac": lambda b, a: b.add(Binary("sub"), a["self"], _truncated(b, a)),
    "tan": lambda b, a: b.add(Binary("div"), b.add(Unary("sin"), a["self"]), b.add(Unary("cos"), a["self"])),
    "where": _where,
    "masked_fill": _masked_fill,
    "threshold": _threshold,
    "hardshrink": _hardshrink,
    "softshrink": _softshrink,
}
