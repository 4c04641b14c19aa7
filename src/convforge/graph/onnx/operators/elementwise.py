"""What is computed number by number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ...nodes import Binary, Compare, PRelu, Unary, Where
from ..attributes import Attributes, Cannot
from ..files import FLOATING, type_name
from ..values import Known, Value
from .common import Converter, Inputs, axis_of, expanded, given, optional, rank

if TYPE_CHECKING:
    from ..reading import Reading


def _function(kind: str, *parameters: tuple[str, float]) -> Converter:
    """A function of each number, its parameters by the names of ONNX's attributes with their usual values."""

    def convert(r: Reading, a: Attributes, inputs: Inputs) -> Value:
        a.ignore("consumed_inputs")
        return r.add(Unary(kind, tuple(a.number(name, usual) for name, usual in parameters)), given(inputs, 0))

    return convert


def _selu(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    alpha, gamma = a.number("alpha", 1.6732632423543772), a.number("gamma", 1.0507009873554805)
    return r.add(Unary("elu", (alpha, gamma)), given(inputs, 0))


def _celu(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    alpha = a.number("alpha", 1.0)
    if not alpha:
        raise Cannot("has alpha=0, by which it divides")
    return r.add(Unary("elu", (alpha, 1.0, 1 / alpha)), given(inputs, 0))


def _gelu(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    kinds = {"none": "gelu", "tanh": "gelu_tanh"}
    approximate = a.text("approximate", "none")
    if approximate not in kinds:
        raise Cannot(f"has the approximation {approximate!r}, which is not known")
    return r.add(Unary(kinds[approximate]), given(inputs, 0))


def _swish(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    x, alpha = given(inputs, 0), a.number("alpha", 1.0)
    if alpha == 1.0:
        return r.add(Unary("silu"), x)
    return r.add(Binary("mul"), x, r.add(Unary("sigmoid"), r.add(Binary("mul"), x, r.constant(alpha))))


def _clip(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    x = given(inputs, 0)
    limits: list[Value | float] = []
    for position, (name, usual) in enumerate((("min", -math.inf), ("max", math.inf)), 1):
        limit = optional(inputs, position)
        number = a.number(name, usual)
        limits.append(number if limit is None else r.array(limit, name).item() if isinstance(limit, Known) else limit)
    low, high = limits
    if isinstance(low, float | int) and isinstance(high, float | int):
        return r.add(_clipped(float(low), float(high)), x)
    for kind, bound in (("max", low), ("min", high)):
        x = r.add(Binary(kind), x, r.constant(bound) if isinstance(bound, float | int) else bound)
    return x


def _clipped(low: float, high: float) -> Unary:
    if (low, high) == (0.0, math.inf):
        return Unary("relu")
    return Unary("relu6") if (low, high) == (0.0, 6.0) else Unary("clip", (low, high))


_TRUTHS = 9
"""ONNX's number of the type of truth values, which are 1 and 0 in our graphs."""


def _cast(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    a.ignore("saturate", "round_mode")
    to = a.integer("to", 0)
    if to == _TRUTHS:
        return r.add(Compare("not_equal"), given(inputs, 0), r.constant(0.0))
    if to not in FLOATING:
        raise Cannot(f"makes {type_name(to)} of what the network computes, which has floating-point numbers only")
    return given(inputs, 0)


def _same(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    return given(inputs, 0)


def _cast_like(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    """To the type of another input; what the network computes has floating-point numbers already."""
    a.ignore("saturate", "round_mode")
    x, like = given(inputs, 0), given(inputs, 1)
    if isinstance(like, Known) and like.arrays[0].dtype.kind != "f":
        raise Cannot(f"makes {like.arrays[0].dtype} of what the network computes")
    return Known(tuple(array.astype(np.float32) for array in x.arrays)) if isinstance(x, Known) else x


def _dropout(r: Reading, a: Attributes, inputs: Inputs) -> list[Value]:
    a.ignore("ratio", "seed", "is_test")
    training = optional(inputs, 2)
    if training is not None and r.array(training, "training_mode").item():
        raise Cannot("is in training mode: export the network in eval mode")
    x = given(inputs, 0)
    return [x, Known(tuple(np.broadcast_to(np.True_, shape) for shape in x.shapes))]


def _binary(kind: str) -> Converter:
    def convert(r: Reading, a: Attributes, inputs: Inputs) -> Value:
        x, other = given(inputs, 0), given(inputs, 1)
        if a.opset < 7:
            a.ignore("consumed_inputs", "broadcast")
            if "axis" in a:  # the second operand's first axis lies on this one of the first's
                behind = rank(x) - axis_of(x, a.integer("axis", 0)) - rank(other)
                other = r.reshape(other, [(*shape, *(1,) * behind) for shape in other.shapes])
        return r.add(Binary(kind), x, other)

    return convert


def _chain(kind: str) -> Converter:
    def convert(r: Reading, a: Attributes, inputs: Inputs) -> Value:
        a.ignore("consumed_inputs")
        total = given(inputs, 0)
        for i in range(1, len(inputs)):
            total = r.add(Binary(kind), total, given(inputs, i))
        return total

    return convert


def _mean(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    return r.add(Binary("div"), _chain("add")(r, a, inputs), r.constant(float(len(inputs))))


def _prelu(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    x, slope = given(inputs, 0), given(inputs, 1)
    if a.opset < 7 and rank(slope) == 1 and rank(x) > 2:  # one a channel
        slope = r.reshape(slope, [(*shape, *(1,) * (rank(x) - 2)) for shape in slope.shapes])
    return r.add(PRelu(), x, slope)


def _where(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    """Where a condition that is known is the same for all numbers, what it chooses."""
    condition, x, other = (given(inputs, position) for position in range(3))
    if isinstance(condition, Known):
        array = r.same(condition.arrays)
        r.spend(array.shape)
        if array.all() or not array.any():
            chosen = x if array.all() else other
            shapes = [
                np.broadcast_shapes(array.shape, one, two) for one, two in zip(x.shapes, other.shapes, strict=True)
            ]
            return expanded(r, chosen, shapes)
    return r.add(Where(), condition, x, other)


def _compare(kind: str) -> Converter:
    return lambda r, a, inputs: r.add(Compare(kind), given(inputs, 0), given(inputs, 1))


def _thresholded(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    """x above alpha, else 0."""
    x = given(inputs, 0)
    return r.add(Where(), r.add(Compare("greater"), x, r.constant(a.number("alpha", 1.0))), x, r.constant(0.0))


def _shrink(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    """x beyond lambd moved by bias towards 0, else 0."""
    x, limit, bias = given(inputs, 0), a.number("lambd", 0.5), a.number("bias", 0.0)
    above = r.add(Compare("greater"), x, r.constant(limit))
    below = r.add(Compare("less"), x, r.constant(-limit))
    rest = r.add(Where(), below, r.add(Binary("add"), x, r.constant(bias)), r.constant(0.0))
    return r.add(Where(), above, r.add(Binary("sub"), x, r.constant(bias)), rest)


def _not(r: Reading, a: Attributes, inputs: Inputs) -> Value:
    return r.add(Compare("equal"), given(inputs, 0), r.constant(0.0))


OPERATORS: dict[str, Converter] = {
    "Abs": _function("abs"),
    "Add": _binary("add"),
    "And": _binary("mul"),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _function("ceil"),
    "Celu": _celu,
    "Clip": _clip,
    "Cos": _function("cos"),
    "Div": _binary("div"),
    "Dropout": _dropout,
    "Elu": _function("elu", ("alpha", 1.0)),
    "Equal": _compare("equal"),
    "Erf": _function("erf"),
    "Exp": _function("exp"),
    "Floor": _function("floor"),
    "Gelu": _gelu,
    "Greater": _compare("greater"),
    "GreaterOrEqual": _compare("greater_equal"),
    "HardSigmoid": _function("hardsigmoid", ("alpha", 0.2), ("beta", 0.5)),
    "HardSwish": _function("hardswish"),
    "Identity": _same,
    "LeakyRelu": _function("leaky_relu", ("alpha", 0.01)),
    "Less": _compare("less"),
    "LessOrEqual": _compare("less_equal"),
    "Log": _function("log"),
    "Max": _chain("max"),
    "Mean": _mean,
    "Min": _chain("min"),
    "Mish": _function("mish"),
    "Mul": _binary("mul"),
    "Neg": _function("neg"),
    "Not": _not,
    "Or": _binary("max"),
    "PRelu": _prelu,
    "Pow": _binary("pow"),
    "Reciprocal": _function("reciprocal"),
    "Relu": _function("relu"),
    "Round": _function("round"),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": _function("sigmoid"),
    "Sign": _function("sign"),
    "Sin": _function("sin"),
    "Softplus": _function("softplus"),
    "Softsign": _function("softsign"),
    "Sqrt": _function("sqrt"),
    "Sub": _binary("sub"),
    "Sum": _chain("add"),
    "Swish": _swish,
    "Tanh": _function("tanh"),
    "ThresholdedRelu": _thresholded,
    "Where": _where,
    "Xor": _compare("not_equal"),
}
