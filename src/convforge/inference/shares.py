"""From the numbers that a network answers with to the probability of each class, and which classes come first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_SUM = 1e-4


def classes_of(shape: Sequence[int]) -> int | None:
    """How many classes such an output, with its batch, has a number for; None where it has something else.

    >>> classes_of((1, 10)), classes_of((1, 10, 1, 1)), classes_of((1, 21, 7, 7))
    (10, 10, None)
    """
    return shape[1] if len(shape) >= 2 and all(size == 1 for size in shape[2:]) else None


def probabilities(logits: Array) -> Array:
    """Softmax over the last axis: exp(z) / Σ exp(z).

    >>> probabilities(np.log([[1.0, 3.0]]))
    array([[0.25, 0.75]])
    """
    shares: Array = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return shares


def are_probabilities(numbers: Array) -> bool:
    """Whether a vector is one of probabilities already: nothing in it is negative, and together they are 1. What comes
    out of a linear layer is so only by an accident that nobody will see.

    >>> are_probabilities(np.array([0.25, 0.75])), are_probabilities(np.array([0.25, 3.0]))
    (True, False)
    """
    return bool(numbers.min(initial=0) >= 0 and abs(float(numbers.sum(dtype=np.float64)) - 1) < _SUM)


def best_first(shares: Array, top: int) -> list[int]:
    """The most probable classes, by their numbers; of equal ones the lower number first.

    >>> best_first(np.array([0.2, 0.5, 0.2, 0.1]), 3)
    [1, 0, 2]
    """
    order: list[int] = np.argsort(-shares, kind="stable")[:top].tolist()
    return order


def class_name(number: int, classes: Sequence[str] | None) -> str:
    """A class's name; where nobody has said it, its number is its name."""
    return classes[number] if classes else str(number)
