"""The matrices of Winograd's short convolutions, from their interpolation points, in exact rationals (Cook–Toom).

F(m, r) computes m neighbouring outputs of a kernel of r taps, yᵢ = Σₖ x₍ᵢ₊ₖ₎ wₖ, with n = m + r − 1 products:

    y = Aᵀ [ (G w) ⊙ (Bᵀ x) ]

Where that comes from. Multiplying the polynomials w(t) and v(t), of r and m coefficients, gives one of n coefficients.
It is determined by its values w(aⱼ)·v(aⱼ) at n − 1 points aⱼ and by its leading coefficient, "the value at infinity":
n products. G and A evaluate at the points. With Nⱼ = ∏ₗ≠ⱼ (aⱼ − aₗ) taken into G:

    Gⱼₖ = aⱼᵏ / Nⱼ      Aⱼᵢ = aⱼⁱ      and the last row of each is (0 … 0 1)

Lagrange's formula gives the coefficients back: row j of Bᵀ holds those of ∏ₗ≠ⱼ (t − aₗ), the last row those of
∏ₗ (t − aₗ). A product of polynomials is a full convolution; transposing the bilinear form (B changes from output to
input, A from input to output) makes it the sliding sum that a layer needs, with the same number of products.

Choosing the points. Their powers are multiplied by rounded numbers, so rounding errors grow with their size and with
the size of their inverses; numbers with few binary digits are multiplied exactly. {0, ±3/4, ±3/2} has half the error
of the textbook's {0, ±1, ±2}: powers from 81/256 to 81/16 instead of 1 to 16, all with short binary fractions, against
denominators that only meet the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import prod

Matrix = tuple[tuple[Fraction, ...], ...]

# By n, the number of products along an axis; infinity is always one of the points.
POINTS: dict[int, tuple[Fraction, ...]] = {
    4: (Fraction(0), Fraction(1), Fraction(-1)),
    6: (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)),
}


@dataclass(frozen=True, slots=True)
class ShortConvolution:
    """F(m, r): y = `out` [(`kernel` w) ⊙ (`into` x)]; the shapes are m×n, n×r and n×n."""

    out: Matrix
    kernel: Matrix
    into: Matrix


@cache
def short_convolution(outputs: int, taps: int) -> ShortConvolution:
    """F(outputs, taps), with the points that `POINTS` has for it.

    >>> f = short_convolution(2, 3)
    >>> x, w = (1, 2, 3, 4), (5, 6, 7)
    >>> apply = lambda m, v: [sum(a * b for a, b in zip(row, v)) for row in m]
    >>> y = apply(f.out, [a * b for a, b in zip(apply(f.kernel, w), apply(f.into, x))])
    >>> [int(number) for number in y]
    [38, 56]
    """
    points = POINTS[outputs + taps - 1]
    return ShortConvolution(
        out=tuple(zip(*_powers(points, outputs), strict=True)),
        kernel=tuple(
            tuple(power / scale for power in row)
            for row, scale in zip(_powers(points, taps), [*_scales(points), Fraction(1)], strict=True)
        ),
        into=_lagrange(points),
    )


def _powers(points: tuple[Fraction, ...], count: int) -> list[tuple[Fraction, ...]]:
    """A polynomial of so many coefficients evaluated at the points and at infinity."""
    at_infinity = (*(Fraction(0),) * (count - 1), Fraction(1))
    return [*(tuple(a**k for k in range(count)) for a in points), at_infinity]


def _scales(points: tuple[Fraction, ...]) -> list[Fraction]:
    return [prod((a - other for other in points if other != a), start=Fraction(1)) for a in points]


def _lagrange(points: tuple[Fraction, ...]) -> Matrix:
    rows = [(*_with_roots([b for b in points if b != a]), Fraction(0)) for a in points]
    return (*rows, _with_roots(list(points)))


def _with_roots(roots: list[Fraction]) -> tuple[Fraction, ...]:
    """The coefficients of ∏ (t − root), the constant one first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [a - root * b for a, b in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return tuple(coefficients)
