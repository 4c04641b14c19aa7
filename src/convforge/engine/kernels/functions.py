"""Functions of each number by itself: activations, and what else networks have.

What is computed are torch's own definitions, and its answers for NaN (stays NaN) and ±∞ (−∞·0 is NaN in SiLU, GELU and
hard-swish, as there):

    relu       max(x, 0)                                hardswish   x · min(max(x + 3, 0), 6) / 6
    relu6      min(max(x, 0), 6)                        gelu        x · Φ(x),  Φ(x) = (1 + erf(x/√2)) / 2
    sigmoid    σ(x) = 1 / (1 + e⁻ˣ)                     gelu_tanh   x · (1 + tanh(v)) / 2 = x · σ(2v),
    silu       x · σ(x)                                             v = √(2/π) · (x + 0.044715·x³)

σ and Φ are made of e⁻ᵃ with a ≥ 0, so nothing overflows, and neither side of zero is a difference of two large numbers:

    σ(x) = e⁻ᵃ / (1 + e⁻ᵃ),  a = −x, for x < 0,         Φ(x) = Q(−x) for x < 0,
           1 / (1 + e⁻ᵃ),    a = x,  for x ≥ 0;                1 − Q(x) for x ≥ 0;     Q(x) = e^(−x²/2) · g(x).

So the left tails keep their relative accuracy, down to denormal numbers; torch's float32 GELU is 0 from −5.5 on.
Errors, in units of the last place: at most 3; GELU's are 7 below −1 and 12 below −6; its tanh form, whose 2v is rounded
before the exponential, adds up to 2·|2v| below 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from llvmlite import ir

from ...errors import UserError
from ...native.ir import Function, Value, Vector


def spelled(name: str, parameters: Sequence[float] = ()) -> str:
    """A function and its parameters in one word.

    >>> spelled("relu"), spelled("clip", (0, 1.5))
    ('relu', 'clip(0.0,1.5)')
    """
    return name + (f"({','.join(repr(float(p)) for p in parameters)})" if parameters else "")


def check(word: str) -> tuple[str, tuple[float, ...]]:
    """The name and the parameters of a function `spelled` so.

    Raises:
        UserError: where there is no such function, or it takes another number of parameters.
    """
    name, _, rest = word.partition("(")
    if name not in FUNCTIONS:
        raise UserError(f"{name!r} is not an activation; these are: {', '.join(FUNCTIONS)}.")
    try:
        parameters = tuple(float(number) for number in rest.removesuffix(")").split(",") if number)
    except ValueError:
        raise UserError(f"the parameters of {word!r} are not numbers.") from None
    if len(parameters) != FUNCTIONS[name]:
        raise UserError(f"{name} takes {FUNCTIONS[name]} parameters, not those of {word!r}.")
    return name, parameters


def apply(f: Function, word: str, value: Value, *, written_out: bool = False) -> Value:
    """The function `spelled` so, of a vector; "" leaves it as it is. Long ones are called, unless they are to be
    `written_out`."""
    if not word:
        return value
    name, parameters = check(word)
    if name in _SHORT:
        return _SHORT[name](f.vector(value), *parameters).value
    if written_out:
        return _LONG[name](f.vector(value), _FORMATS[f.dtype], *parameters).value
    return f.builder.call(_function(f, word, value.type), [value])


def is_long(word: str) -> bool:
    """Whether a function is more than a few instructions."""
    return bool(word) and check(word)[0] in _LONG


def _function(f: Function, word: str, vector: ir.VectorType) -> ir.Function:
    """A long function as one of the module, once: a tile has up to 28 vectors, and there are 28 tiles.

    Its symbol is none of the C library's: a `sin` that calls `sin` would call itself."""
    symbol = f"vector {word}"
    made = f.module.globals.get(symbol)
    if made is None:
        name, parameters = check(word)
        inner = Function(f.module, symbol, "x", f.dtype, internal=True, result=vector, type_=vector)
        x = inner.vector(inner.function.args[0])
        inner.done(_LONG[name](x, _FORMATS[f.dtype], *parameters).value)
        made = inner.function
    return made


# ---------------------------------------------------------------------------------------------------------------------
# Short ones, written where they are used
# ---------------------------------------------------------------------------------------------------------------------


def _relu(x: Vector) -> Vector:
    return x.at_least(0.0)


def _relu6(x: Vector) -> Vector:
    return x.at_least(0.0).at_most(6.0)


def _hardswish(x: Vector) -> Vector:
    return _relu6(x + 3.0) * (1 / 6) * x  # divided first: x·6 may overflow


def _clip(x: Vector, low: float, high: float) -> Vector:
    return x.at_least(low).at_most(high)


def _leaky_relu(x: Vector, slope: float) -> Vector:
    return (x * slope).where(x.below(0.0), x)


def _hardsigmoid(x: Vector, slope: float, offset: float) -> Vector:
    return _clip(x.fma(slope, offset), 0.0, 1.0)


_SHORT: dict[str, Callable[..., Vector]] = {
    "relu": _relu,
    "relu6": _relu6,
    "hardswish": _hardswish,
    "identity": lambda x: x,
    "clip": _clip,
    "leaky_relu": _leaky_relu,
    "hardsigmoid": _hardsigmoid,
    "softsign": lambda x: x / (abs(x) + 1.0),
    "square": lambda x: x * x,
    "neg": lambda x: -x,
    "abs": abs,
    "reciprocal": lambda x: 1.0 / x,
    "sign": lambda x: x.like(1.0).where(x.above(0.0), x.like(-1.0).where(x.below(0.0), x)),
    "sqrt": lambda x: x.by_llvm("sqrt"),
    "rsqrt": lambda x: 1.0 / x.by_llvm("sqrt"),
    "floor": lambda x: x.by_llvm("floor"),
    "ceil": lambda x: x.by_llvm("ceil"),
    "round": lambda x: x.by_llvm("rint"),  # halves to the even neighbour
}


# ---------------------------------------------------------------------------------------------------------------------
# The exponential
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Format:
    """A floating-point format, and what e⁻ᵃ and Q need to be as accurate as it can say.

    `limit`: from a = limit on, a·e⁻ᵃ is less than half of the smallest denormal number. `terms`: of the power series of
    eʳ; the first one left out is less than half a unit in the last place for |r| ≤ 0.4. `minus`: e⁻ʳ for
    |r| ≤ (ln 2)/2, and `tail`: g, see `_upper_tail`, as powers by Chebyshev interpolation.
    """

    mantissa: int
    least_exponent: int
    limit: float
    terms: int
    minus: tuple[float, ...]
    tail: tuple[float, ...]

    @property
    def usual(self) -> float:
        """For |a| up to it e^a and e⁻ᵃ are normal numbers."""
        return math.floor(-self.least_exponent * math.log(2))

    @property
    def rounding(self) -> float:
        """A sum with this has no room for fractions: it is rounded to an integer, which stands in its low bits."""
        return 1.5 * 2.0**self.mantissa

    @property
    def biased(self) -> float:
        """The same where the integer is to stand there as an exponent does."""
        return self.rounding + 1 - self.least_exponent

    @property
    def ln2(self) -> tuple[float, float]:
        """ln 2 as a number of few bits, whose product with a small integer is exact, and the rest (Cody and Waite).

        n has at most 8 bits in float32, 11 in float64; 12 + 8 fit into 24, and 32 + 11 into 53.
        """
        bits = 12 if self.mantissa == 23 else 32
        high = round(math.log(2) * 2**bits) / 2**bits
        return high, float(Decimal(2).ln() - Decimal(high))


@dataclass(frozen=True)
class _Exponential:
    """e⁻ᵃ = p · small · large: p in [0.6, 1.5]; `small` below 1 only where the result is less than a normal number."""

    p: Vector
    small: Vector
    large: Vector


def _exp_of_minus(a: Vector, low: Vector | None, end: Value, to: _Format) -> _Exponential:
    """e^−(a + low), for 0 ≤ a ≤ limit and |low| ≤ 0.05; zero in the lanes that `end` has.

    With n = round(−a/ln 2) and r = −a − n·ln 2, |r| ≤ (ln 2)/2 and e⁻ᵃ = 2ⁿ·eʳ.
    """
    high, rest = to.ln2
    shifted = a.fma(-1 / math.log(2), to.rounding)
    n = shifted - to.rounding
    r = n.fma(-rest, n.fma(-high, -a))
    if low is not None:
        r = r - low
    p = _polynomial(r, [1 / math.factorial(k) for k in range(to.terms)])
    normal = n.at_least(to.least_exponent)
    zero = Vector(a.f, ir.Constant(a.value.type, [0.0] * a.lanes))
    return _Exponential(p, _power_of_two(n - normal, to), zero.where(end, _power_of_two(normal, to)))


def _power_of_two(n: Vector, to: _Format) -> Vector:
    """2ⁿ for an integer n: n + bias, from the low bits of a sum, moved to where the exponent is."""
    return (n + to.biased).shifted_left(to.mantissa)


def _polynomial(x: Vector, coefficients: list[float] | tuple[float, ...]) -> Vector:
    """Σ coefficients[k]·xᵏ by Horner's rule."""
    result = x.fma(coefficients[-1], coefficients[-2])
    for coefficient in coefficients[-3::-1]:
        result = result.fma(x, coefficient)
    return result


# ---------------------------------------------------------------------------------------------------------------------
# Long ones, a function each
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Gate:
    """A number between 0 and 1 as value · last. Where the two together would be denormal, the value alone is not: a
    factor is applied to it first, and the result is rounded once."""

    value: Vector
    last: Vector

    def times(self, x: Vector) -> Vector:
        return x * self.value * self.last


def _logistic(x: Vector, to: _Format) -> _Gate:
    """σ(x)."""
    a = abs(x)
    e = _exp_of_minus(a.at_most(to.limit), None, a.above(to.limit), to)
    negative = x.below(0.0)
    return _Gate((e.p * e.small).where(negative, 1.0) / e.p.fma(e.large, 1.0), e.large.where(negative, 1.0))


def _normal(x: Vector, to: _Format) -> _Gate:
    """Φ(x)."""
    q = _upper_tail(abs(x), to)
    negative = x.below(0.0)
    return _Gate((q.p * q.small).where(negative, 1.0 - q.p * q.large), q.large.where(negative, 1.0))


def _upper_tail(x: Vector, to: _Format) -> _Exponential:
    """Q(x) = e^(−x²/2) · g(x) for x ≥ 0.

    g(x) = e^(x²/2)·erfc(x/√2)/2 falls from 1/2 to nothing, like 1/(x·√(2π)), and is so smooth in u = (5 − x)/(5 + x),
    between 1 and −1, that a polynomial will do (the substitution is Shepherd's and Laframboise's, "Chebyshev
    approximation of (1+2x)exp(x²)erfc x in 0≤x<∞", Math. Comp. 36, 1981).

    The rounding of x² would be multiplied by x² in its exponential. So x = k + l, where k has half the bits: then k² is
    exact, and x² = k² + (x − k)(x + k).
    """
    end = math.sqrt(2 * to.limit)
    beyond = x.above(end)
    x = x.at_most(end)
    g = _polynomial((x / (x + 5.0)).fma(-2.0, 1.0), to.tail)
    k = x.masked(-1 << (to.mantissa + 2) // 2)
    e = _exp_of_minus(k * k * 0.5, (x - k) * (x + k) * 0.5, beyond, to)
    return _Exponential(e.p * g, e.small, e.large)


def _one_and_exp_of_minus(x: Vector, to: _Format) -> Vector:
    """1 + e⁻ˣ where |x| ≤ `usual`, so that e⁻ˣ is a normal number: a third of the instructions of `_exp_of_minus`.

    Not |x|, for the sum of positive numbers loses nothing on either side of zero. r is minus that of `_exp_of_minus`.
    """
    high, rest = to.ln2
    shifted = x.fma(-1 / math.log(2), to.biased)
    n = shifted - to.biased
    r = n.fma(rest, n.fma(high, x))
    return _polynomial(r, to.minus).fma(shifted.shifted_left(to.mantissa), 1.0)


def _unless_far(x: Vector, to: _Format, usually: Vector, else_: Callable[[], Vector]) -> Vector:
    """`usually`, which is right where |x| ≤ `usual` in every lane; computed in another way where it is not."""
    f, b = x.f, x.f.builder
    far = b.not_(b.fcmp_ordered("<=", abs(x).value, x.like(to.usual).value))  # NaN is, too
    some = b.icmp_unsigned("!=", b.bitcast(far, ir.IntType(x.lanes)), ir.Constant(ir.IntType(x.lanes), 0))
    return Vector(f, f.only_if(some, [usually.value], lambda: [else_().value])[0])


def _sigmoid(x: Vector, to: _Format) -> Vector:
    def far() -> Vector:
        gate = _logistic(x, to)
        return gate.value * gate.last

    return _unless_far(x, to, 1.0 / _one_and_exp_of_minus(x, to), far)


def _silu(x: Vector, to: _Format) -> Vector:
    return _unless_far(x, to, x / _one_and_exp_of_minus(x, to), lambda: _logistic(x, to).times(x))


def _gelu(x: Vector, to: _Format) -> Vector:
    return _normal(x, to).times(x)


def _gelu_tanh(x: Vector, to: _Format) -> Vector:
    slope = 2 * math.sqrt(2 / math.pi)
    return _logistic(x * (x * x).fma(slope * 0.044715, slope), to).times(x)


def _exp(x: Vector, to: _Format) -> Vector:
    """eˣ, for x > 0 as 1 / e⁻ˣ."""
    a = abs(x)
    e = _exp_of_minus(a.at_most(to.limit), None, a.above(to.limit), to)
    power = e.p * e.small * e.large
    return (1.0 / power).where(x.above(0.0), power)


def _elu(x: Vector, to: _Format, alpha: float, scale: float, inner: float) -> Vector:
    """scale · (x for x > 0, else α · (e^(inner·x) − 1)): SELU and CELU, too."""
    below = (_exp((x * inner).at_most(0.0), to) - 1.0) * alpha
    return x.where(x.above(0.0), below) * scale


def _softplus(x: Vector, to: _Format, beta: float) -> Vector:
    """ln(1 + e^(βx)) / β = max(x, 0) + ln(1 + e^−|βx|) / β."""
    return (_exp(-abs(x * beta), to) + 1.0).by_llvm("log") * (1 / beta) + x.at_least(0.0)


def _mish(x: Vector, to: _Format) -> Vector:
    """x · tanh(ln(1 + eˣ)), where with e = e^−|x| the tangent is (e² + 2e) / (e² + 2e + 2) for x < 0, and
    (1 + 2e) / (1 + 2e + 2e²) else."""
    e = _exp(-abs(x), to)
    negative = x.below(0.0)
    above = (e * (e + 2.0)).where(negative, e.fma(2.0, 1.0))
    return x * (above / (above + e.like(2.0).where(negative, e * e * 2.0)))


_LONG: dict[str, Callable[..., Vector]] = {
    "sigmoid": _sigmoid,
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "tanh": lambda x, to: _sigmoid(x + x, to).fma(2.0, -1.0),
    "log_sigmoid": lambda x, to: -_softplus(-x, to, 1.0),
    "softplus": _softplus,
    "mish": _mish,
    "elu": _elu,
    "exp": _exp,
    "erf": lambda x, to: (_normal(x * math.sqrt(2), to).times(x.like(1.0))).fma(2.0, -1.0),
    # Rare in networks: number by number, by the C library.
    "log": lambda x, to: x.by_llvm("log"),
    "sin": lambda x, to: x.by_llvm("sin"),
    "cos": lambda x, to: x.by_llvm("cos"),
}

ACTIVATIONS = ("relu", "relu6", "hardswish", "sigmoid", "silu", "gelu", "gelu_tanh")
"""Those without parameters that networks have between their layers."""

_PARAMETERS = {"clip": 2, "leaky_relu": 1, "hardsigmoid": 2, "softplus": 1, "elu": 3}
FUNCTIONS = {name: _PARAMETERS.get(name, 0) for name in (*ACTIVATIONS, *_SHORT, *_LONG)}
"""The names that `apply` knows, and how many parameters each takes."""

# e⁻ʳ is within 2.0e-9 (float32) and 3.2e-18 (float64) of it; g(u) between u(√(2·limit)) and 1, within 2.1e-8 and
# 1.1e-17, relatively. tests/engine/test_epilogue.py computes the coefficients from the definitions again.
_FORMATS = {
    "float32": _Format(
        mantissa=23,
        least_exponent=-126,
        limit=110.0,
        terms=8,
        minus=(1.0, -1.00000004, 0.500000005, -0.166664145, 0.0416663516, -0.0083752102, 0.00139412131),
        tail=(
            0.0769193054, 0.143457547, 0.116068762, 0.080884226, 0.0478561647, 0.0234095074, 0.00898844781,
            0.00240093516, 0.000212859606, -0.000173072927, -2.46831425e-5,
        ),
    ),
    "float64": _Format(
        mantissa=52,
        least_exponent=-1022,
        limit=760.0,
        terms=14,
        minus=(
            1.0, -1.0, 0.50000000000000186, -0.16666666666666681, 0.041666666666486661, -0.0083333333333194903,
            0.0013888888952696516, -0.00019841269890340665, 2.4801485074105117e-5, -2.7557240604663896e-6,
            2.7632790542117181e-7, -2.5110153646928931e-8,
        ),
        tail=(
            0.07691930497500629, 0.14345755526401197, 0.11606881188600329, 0.08088387726412741, 0.04785535228416992,
            0.023413900487692464, 0.00899137055059221, 0.0023788443566885955, 0.00021955073759693708,
            -0.00013427684339531457, -6.0427482635404585e-05, -9.613059581580094e-07, 6.644420671830841e-06,
            1.2700758761570419e-06, -6.750775856325949e-07, -2.4334833379081194e-07, 7.710672259035855e-08,
            3.917175212610051e-08, -1.0996018549561296e-08, -5.692992770745568e-09, 1.8275474502361224e-09,
            5.711332362757349e-10, -2.3267287135153e-10,
        ),
    ),
}  # fmt: skip
