"""What became of a network, step by step, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

_HEADINGS = {"what": "step", "by": "by", "makes": "makes"}


@dataclass(frozen=True)
class StepReport:
    """One step: what it is, by which algorithm, the shape of what it makes, and whether the engine does it.

    `output` is the name that the network's author or exporter gave to what it makes.
    """

    what: str
    by: str
    makes: tuple[int, ...] = ()
    output: str = ""
    on_engine: bool = True


@dataclass(frozen=True)
class NetworkReport:
    """The steps in their order, and sentences on the whole; prints as a table.

    >>> print(NetworkReport((StepReport("3×3, 3→8, relu", "direct", (1, 8, 7, 7)),), ("all of it on the engine",)))
    step            by      makes
    3×3, 3→8, relu  direct  1×8×7×7
    all of it on the engine
    """

    steps: tuple[StepReport, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = [tuple(_HEADINGS.values()), *((s.what, s.by, "×".join(map(str, s.makes))) for s in self.steps)]
        return "\n".join([*aligned(rows), *self.notes])

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"steps": [asdict(step) for step in self.steps], "notes": list(self.notes)}


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines in columns."""
    wide = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, wide, strict=True)).rstrip() for row in rows]
