"""Number by number: functions of one array, and arithmetic between two."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .base import Array, GraphError, Operation, Shape, an_axis

_erf: Callable[[Array], Array] = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    result: Array = np.exp(-np.logaddexp(0.0, -x))  # never the exponential of a large number
    return result


def _softplus(x: Array, beta: float = 1.0) -> Array:
    softened: Array = np.logaddexp(0.0, beta * x) / beta
    return softened


def _clip(x: Array, low: float, high: float) -> Array:
    result: Array = np.minimum(np.maximum(x, low), high)
    return result


def _elu(x: Array, alpha: float, scale: float = 1.0, inner: float = 1.0) -> Array:
    bent: Array = scale * np.where(x > 0, x, alpha * np.expm1(inner * np.minimum(x, 0)))
    return bent


def _gelu_tanh(x: Array) -> Array:
    result: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return result


def _hardsigmoid(x: Array, slope: float, offset: float) -> Array:
    return _clip(slope * x + offset, 0.0, 1.0)


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[float | None, ...]]] = {
    "identity": (lambda x: x, ()),
    "relu": (lambda x: np.maximum(x, 0), ()),
    "relu6": (lambda x: _clip(x, 0, 6), ()),
    "clip": (_clip, (None, None)),  # low, high
    "sigmoid": (_sigmoid, ()),
    "log_sigmoid": (lambda x: -_softplus(-x), ()),
    "hardsigmoid": (_hardsigmoid, (1 / 6, 0.5)),  # slope, offset
    "hardswish": (lambda x: x * _hardsigmoid(x, 1 / 6, 0.5), ()),
    "silu": (lambda x: x * _sigmoid(x), ()),
    "gelu": (lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))), ()),
    "gelu_tanh": (_gelu_tanh, ()),
    "leaky_relu": (lambda x, slope: np.where(x > 0, x, slope * x), (0.01,)),
    "elu": (_elu, (1.0, 1.0, 1.0)),  # alpha, scale of everything, scale inside the exponential: selu and celu, too
    "mish": (lambda x: x * np.tanh(_softplus(x)), ()),
    "softplus": (_softplus, (1.0,)),  # beta
    "softsign": (lambda x: x / (1 + np.abs(x)), ()),
    "tanh": (np.tanh, ()),
    "exp": (np.exp, ()),
    "log": (np.log, ()),
    "sqrt": (np.sqrt, ()),
    "rsqrt": (lambda x: 1 / np.sqrt(x), ()),
    "square": (np.square, ()),
    "neg": (np.negative, ()),
    "abs": (np.abs, ()),
    "reciprocal": (lambda x: 1 / x, ()),
    "erf": (_erf, ()),
    "sin": (np.sin, ()),
    "cos": (np.cos, ()),
    "sign": (np.sign, ()),
    "floor": (np.floor, ()),
    "ceil": (np.ceil, ()),
    "round": (np.round, ()),  # halves to the even neighbour
}
"""Kind → (meaning, the parameters' usual values; None where one must be given)."""


@dataclass(frozen=True)
class Unary(Operation):
    """A function of each number by itself. Parameters that have usual values may be left out.

    >>> Unary("leaky_relu").parameters, Unary("clip", (0, 1)).parameters
    ((0.01,), (0.0, 1.0))
    """

    kind: str
    parameters: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in FUNCTIONS:
            raise GraphError(f"there is no function {self.kind!r}: it may be one of {', '.join(FUNCTIONS)}.")
        usual = FUNCTIONS[self.kind][1]
        given = (*self.parameters, *usual[len(self.parameters) :])
        numbers = [float(p) for p in given if p is not None]
        if len(numbers) != len(usual):
            raise GraphError(f"{self.kind} takes {len(usual)} parameters, not {self.parameters}.")
        object.__setattr__(self, "parameters", tuple(numbers))

    @property
    def name(self) -> str:
        return self.kind

    def _shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def compute(self, *inputs: Array) -> Array:
        result: Array = np.asarray(FUNCTIONS[self.kind][0](inputs[0], *self.parameters), np.float64)
        return result


ARITHMETIC: dict[str, Callable[[Array, Array], Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "pow": np.power,
}


COMPARISONS: dict[str, Callable[[Array, Array], Any]] = {
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
}


def _together(name: str, shapes: tuple[Shape, ...]) -> Shape:
    """The shape that arrays are broadcast to."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise GraphError(f"{name} cannot broadcast {' with '.join(map(str, shapes))}.") from None


@dataclass(frozen=True)
class _OfTwo(Operation):
    """Two arrays, number by number, with NumPy's broadcasting, by a function of a table."""

    kind: str
    table: ClassVar[Mapping[str, Callable[[Array, Array], Any]]]
    what: ClassVar[str]

    def __post_init__(self) -> None:
        if self.kind not in self.table:
            raise GraphError(f"there is no {self.what} {self.kind!r}: it may be one of {', '.join(self.table)}.")

    @property
    def name(self) -> str:
        return self.kind

    @property
    def operands(self) -> tuple[str, ...]:
        return "x", "other"

    def _shape(self, *inputs: Shape) -> Shape:
        return _together(self.kind, inputs)

    def compute(self, *inputs: Array) -> Array:
        return np.asarray(self.table[self.kind](*inputs), np.float64)


class Binary(_OfTwo):
    """Two arrays, number by number, with NumPy's broadcasting."""

    table = ARITHMETIC
    what = "arithmetic"


class Compare(_OfTwo):
    """1 where two arrays compare so, 0 elsewhere, with NumPy's broadcasting; NaN is only not equal to anything."""

    table = COMPARISONS
    what = "comparison"


@dataclass(frozen=True)
class Where(Operation):
    """x where the condition is not 0, the other elsewhere, with NumPy's broadcasting. What is not taken does not count,
    be it NaN."""

    @property
    def operands(self) -> tuple[str, ...]:
        return "condition", "x", "other"

    def _shape(self, *inputs: Shape) -> Shape:
        return _together(self.name, inputs)

    def compute(self, *inputs: Array) -> Array:
        condition, x, other = inputs
        return np.where(condition != 0, x, other)


@dataclass(frozen=True)
class PRelu(Operation):
    """x where it is positive, slope · x elsewhere; `slope` broadcasts with x, `(C, 1, 1)` for one a channel."""

    @property
    def operands(self) -> tuple[str, ...]:
        return "x", "slope"

    def _shape(self, *inputs: Shape) -> Shape:
        x, slope = inputs
        try:
            fits = np.broadcast_shapes(x, slope) == x
        except ValueError:
            fits = False
        if not fits:
            raise GraphError(f"PRelu cannot broadcast slopes of shape {slope} to {x}.")
        return x

    def compute(self, *inputs: Array) -> Array:
        x, slope = inputs
        return np.where(x > 0, x, slope * x)


@dataclass(frozen=True)
class Softmax(Operation):
    """exp(x) / Σ exp(x) along an axis, or its logarithm."""

    axis: int = -1
    log: bool = False

    def _shape(self, *inputs: Shape) -> Shape:
        an_axis(self.axis, len(inputs[0]), self.name)
        return inputs[0]

    def compute(self, *inputs: Array) -> Array:
        shifted = inputs[0] - inputs[0].max(axis=self.axis, keepdims=True)
        logarithm: Array = shifted - np.log(np.exp(shifted).sum(axis=self.axis, keepdims=True))
        return logarithm if self.log else np.exp(logarithm)
