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
