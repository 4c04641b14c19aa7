"""How well each class is recognised: precision, recall and their harmonic mean, F1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassScore:
    """Of one class, on the held-out images; None where there is nothing to divide by.

    `recall` is the part of its images that are recognised, `precision` the part of what was said to be it that is.
    """

    name: str
    images: int
    precision: float | None
    recall: float | None
    f1: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def class_scores(confusion: NDArray[np.int64], classes: Sequence[str]) -> tuple[ClassScore, ...]:
    """Of `confusion[t, p]`, how many images of class t were taken for p.

    >>> cat, dog = class_scores(np.array([[3, 1], [0, 4]]), ("cat", "dog"))
    >>> cat.precision, cat.recall, round(cat.f1, 3), dog.precision
    (1.0, 0.75, 0.857, 0.8)
    """
    right, are, said = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    return tuple(
        ClassScore(
            name=name,
            images=int(are[i]),
            precision=float(right[i] / said[i]) if said[i] else None,
            recall=float(right[i] / are[i]) if are[i] else None,
            f1=float(2 * right[i] / (are[i] + said[i])) if are[i] + said[i] else None,
        )
        for i, name in enumerate(classes)
    )
