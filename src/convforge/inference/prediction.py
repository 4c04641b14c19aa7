"""What a network answers for one picture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prediction:
    """The answer for one picture: `ranking` has the most probable class first, `(name, probability)` each. Where the
    picture could not be read it is empty, and `error` is the sentence that says why."""

    image: str
    ranking: tuple[tuple[str, float], ...] = ()
    error: str | None = None

    def __str__(self) -> str:
        r"""
        >>> print(Prediction("cat.jpg", (("cat", 0.9312), ("dog", 0.0688))))
        cat.jpg: cat 93.1 %, dog 6.9 %
        """
        if self.error is not None:
            return self.error
        return f"{self.image}: " + ", ".join(f"{name} {share:.1%}".replace("%", " %") for name, share in self.ranking)
