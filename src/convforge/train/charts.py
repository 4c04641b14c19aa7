"""Learning curves as geometry: where the lines, ticks and labels of a chart go. The page's template draws them as SVG.

Coordinates are in the chart's own units, `WIDTH` by `HEIGHT`, y downwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

WIDTH, HEIGHT = 440, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 366, 14, 236
_LABEL_GAP = 16


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Line:
    """One curve: `paths` are its unbroken stretches (a loss that is not a number leaves a gap), `end` its last point,
    `label_y` where its name stands beside it."""

    name: str
    paths: tuple[str, ...]
    points: tuple[Point, ...]
    end: Point
    label_y: float


@dataclass(frozen=True)
class Chart:
    title: str
    description: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]


def chart(
    title: str,
    epochs: Sequence[float],
    curves: dict[str, Sequence[float]],
    show: Callable[[float], str],
    top: float | None = None,
) -> Chart:
    """A chart of `curves`, a value an epoch each, over `epochs`.

    Args:
        title: what is measured.
        epochs: the epoch numbers, rising.
        curves: a name and its values; values that are not finite are left out.
        show: how a value is written.
        top: the upper end of the axis, where there is a natural one (1 for an accuracy).

    >>> made = chart("Loss", [1, 2, 3], {"train": [2.0, 1.0, 0.5], "test": [2.1, float("nan"), 0.9]}, "{:.1f}".format)
    >>> [tick.label for tick in made.y_ticks], len(made.lines[1].paths)
    (['0.5', '1.0', '1.5', '2.0', '2.5'], 2)
    """
    finite = [value for values in curves.values() for value in values if isfinite(value)]
    lowest, highest = min(finite, default=0.0), max(finite, default=1.0)
    if top is not None:
        # Curves at the very top still need an axis below it, long enough that its labels differ in the first decimal.
        lowest, highest = min(lowest, top - 0.02 * abs(top)), max(highest, top)
    y_values = nice_steps(lowest, highest)
    if top is not None:
        y_values = [value for value in y_values if value <= top + 1e-9]
    low, high = y_values[0], y_values[-1]
    first, last = (min(epochs), max(epochs)) if epochs else (0, 1)

    def x(epoch: float) -> float:
        return LEFT + (RIGHT - LEFT) * ((epoch - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low)

    lines = []
    for name, values in curves.items():
        stretches = _stretches([(x(e), y(v), v, e) for e, v in zip(epochs, values, strict=True)])
        if not stretches:
            continue
        points = tuple(
            Point(px, py, f"{name}, epoch {epoch:g}: {show(value)}")
            for part in stretches
            for px, py, value, epoch in part
        )
        paths = tuple(" ".join(f"{px:.1f},{py:.1f}" for px, py, _, _ in part) for part in stretches)
        value = stretches[-1][-1][2]
        end = Point(points[-1].x, points[-1].y, show(value))
        lines.append(Line(name, paths, points, end, label_y=end.y))
    return Chart(
        title=title,
        description=_in_words(title, lines),
        x_ticks=tuple(Tick(x(epoch), f"{epoch:g}") for epoch in _whole_steps(first, last)) if epochs else (),
        y_ticks=tuple(Tick(y(value), show(value)) for value in y_values),
        lines=_apart(lines),
    )


def nice_steps(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers from below `low` to above `high`, about so many steps of 1, 2, 2.5 or 5 times a power of ten.

    >>> nice_steps(0.93, 1.0)
    [0.92, 0.94, 0.96, 0.98, 1.0]
    """
    # Less than that is a constant: its steps would be lost in the rounding.
    span = high - low if high - low > 1e-9 else max(abs(high), 1e-6)
    power = 10.0 ** floor(log10(span / about))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= about + 0.5)
    start, end = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(step * i, 12) for i in range(start, max(end, start + 1) + 1)]


def _whole_steps(first: float, last: float) -> list[float]:
    return [value for value in nice_steps(first, last) if first <= value <= last and value == int(value)] or [first]


def _stretches(points: list[tuple[float, float, float, float]]) -> list[list[tuple[float, float, float, float]]]:
    parts: list[list[tuple[float, float, float, float]]] = [[]]
    for point in points:
        if isfinite(point[2]):
            parts[-1].append(point)
        else:
            parts.append([])
    return [part for part in parts if part]


def _apart(lines: list[Line]) -> tuple[Line, ...]:
    """Labels beside the ends of the lines, moved just so far that none covers another or leaves the chart."""
    placed: list[Line] = []
    lowest = TOP + 0.0
    for line in sorted(lines, key=lambda line: line.end.y):
        placed.append(Line(line.name, line.paths, line.points, line.end, max(line.end.y, lowest)))
        lowest = placed[-1].label_y + 2 * _LABEL_GAP
    overhang = max(0.0, lowest - 2 * _LABEL_GAP - (BOTTOM - _LABEL_GAP)) if placed else 0.0
    moved = {line.name: Line(line.name, line.paths, line.points, line.end, line.label_y - overhang) for line in placed}
    return tuple(moved[line.name] for line in lines)


def _in_words(title: str, lines: list[Line]) -> str:
    ends = "; ".join(f"{line.name} ends at {line.end.label}" for line in lines)
    return f"{title} by epoch. {ends}." if ends else f"{title}: no epoch was finished."
