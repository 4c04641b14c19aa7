"""A report as text: one line a pass, in full from 110 columns on and in fewer words below, and sentences that say what
the headings mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Literal

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from ..engine.plan import Pass
from .contenders import CHANNELS_LAST, PLAIN
from .layers import Layer
from .machine import Machine
from .run import Report, Row

WIDTH = 120
_WIDE = 110
_SHORT = {
    CHANNELS_LAST: "torch\nch.\nlast",
    PLAIN: "torch\nplain",
    "ONNX Runtime": "ONNX\nRun-\ntime",
    "OpenVINO": "Open-\nVINO",
}


def as_table(report: Report) -> RenderableType:
    """The report as something that Rich prints."""
    above = [Text(sentence) for sentence in _above(report)]
    below = [Text(sentence) for sentence in _below(report)]
    return Group(*above, *([_Rows(report)] if report.rows else []), *below)


@dataclass(frozen=True)
class _Rows:
    """The table. In a narrow terminal it names the fastest library instead of giving each a column."""

    report: Report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._table(_all_columns(self.report) if options.max_width >= _WIDE else _narrow_columns())

    def _table(self, columns: list[_Column]) -> Table:
        passes = list(dict.fromkeys(row.which for row in self.report.rows))
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column(f"Layer, {passes[0]}" if len(passes) == 1 else "Layer")
        for column in columns:
            side: Literal["left", "right"] = "left" if column.is_text else "right"
            table.add_column(column.heading, justify=side, no_wrap=True)
        for layer, group in groupby(self.report.rows, key=lambda row: row.layer):
            said = Text("\n".join(_layer_lines(layer)))
            if len(passes) > 1:
                table.add_row(said, style="bold")
            for row in group:
                first = Text(f"  {row.which}") if len(passes) > 1 else said
                table.add_row(first, *(Text(column.cell(row, self.report.limits)) for column in columns))
        return table


@dataclass(frozen=True)
class _Column:
    heading: str
    cell: Callable[[Row, Machine], str]
    is_text: bool = False


_ALGORITHM = _Column("Algorithm", lambda row, _: row.algorithm, is_text=True)
_TIME = _Column("Time", lambda row, _: duration(row.ours.seconds))
_SPEED = _Column("GFLOP\n/s", lambda row, _: f"{row.operations_per_second / 1e9:.0f}")
_OF_PEAK = _Column("Of\npeak", lambda row, limits: f"{row.operations_per_second / limits.peak:.0%}")
_OF_ROOF = _Column("Of\nroof", lambda row, limits: f"{row.operations_per_second / _roof(row, limits):.0%}")
_RATIO = _Column("Ratio", lambda row, _: f"{row.ratio:.2f}")
_OVER = _Column("to", lambda row, _: row.fastest, is_text=True)
_COLD = _Column("Cold\ntime", lambda row, _: duration(row.cold[row.ours_is]) if row.cold else "–")
_COLD_RATIO = _Column("Cold\nratio", lambda row, _: f"{row.cold_ratio:.2f}" if row.cold else "–")
_ERROR = _Column("Error", lambda row, _: f"{row.ours.error:.1e}")
_FASTER = _Column("Faster", lambda row, _: _faster(row), is_text=True)


def _narrow_columns() -> list[_Column]:
    return [_ALGORITHM, _TIME, _OF_PEAK, _RATIO, _OVER, _ERROR]


def _all_columns(report: Report) -> list[_Column]:
    names = dict.fromkeys(name for row in report.rows for name in row.others)
    others = [_Column(_SHORT.get(name, name), partial(_ratio, name=name)) for name in names]
    if any(row.algorithms for row in report.rows):
        return [_ALGORITHM, _TIME, _OF_PEAK, *others, _RATIO, _ERROR, _FASTER]
    if any(row.cold for row in report.rows):
        return [_ALGORITHM, _TIME, _OF_PEAK, *others, _RATIO, _COLD, _COLD_RATIO, _ERROR]
    return [_ALGORITHM, _TIME, _SPEED, _OF_PEAK, _OF_ROOF, *others, _RATIO, _ERROR]


def _ratio(row: Row, _: Machine, name: str) -> str:
    other = row.others.get(name)
    return f"{other.seconds / row.ours.seconds:.2f}" if other else "–"


def _roof(row: Row, limits: Machine) -> float:
    return limits.attainable(row.layer.intensity(row.which))


def _layer_lines(layer: Layer) -> list[str]:
    """What it is; and what it is called, and how often it occurs, as far as that is known."""
    name = layer.name if len(layer.name) <= 30 else f"…{layer.name[-29:]}"
    known = [name] if name else []
    known += [f"×{layer.count}"] if layer.count > 1 else []
    return [str(layer), " ".join(known)] if known else [str(layer)]


def _faster(row: Row) -> str:
    """The algorithm that would have been faster, and how much longer the chosen one takes."""
    best = min(row.algorithms, key=lambda name: row.algorithms[name].seconds, default=row.algorithm)
    return "" if best == row.algorithm else f"{best}, {row.loss:.0%}"


def duration(seconds: float) -> str:
    """Three digits and a unit.

    >>> duration(0.001234), duration(0.0000421), duration(12.3)
    ('1.23 ms', '42.1 µs', '12.3 s')
    """
    value, unit = seconds, "s"
    for smaller in ("ms", "µs"):
        if value >= 0.9995:
            break
        value, unit = value * 1000, smaller
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def limits_sentence(limits: Machine) -> str:
    """The machine in one line."""
    threads = f"{limits.threads} thread{'s' if limits.threads > 1 else ''}"
    return (
        f"{limits.target}, {threads} · FMA peak {limits.peak / 1e9:.0f} GFLOP/s · "
        f"memory {limits.memory / 1e9:.0f} GB/s · L2 {limits.cache / 1e9:.0f} GB/s"
    )


def _above(report: Report) -> Iterator[str]:
    yield limits_sentence(report.limits)
    yield " · ".join(f"{name} {number}" for name, number in report.versions.items())
    if report.memory_kept:
        yield "Freed memory is kept and used again, for all alike."
    elif report.memory_kept is not None:
        yield "Freed memory goes back to the system: times include the page faults of fresh memory, for all alike."
    if report.training:
        yield "As in training: weights change before every call, so nothing is kept of them."
    else:
        yield "Forward as in inference: weights stay, and their packed form is kept. In the gradients they change."


def _below(report: Report) -> Iterator[str]:
    yield (
        "GFLOP/s: operations of the definition, 2 a multiply-add; Winograd does a quarter to a half of them, so it can "
        "be above the peak. Of roof: of min(peak, operations a byte × memory). "
        "Ratio: the fastest library's time over ours, above 1 we are faster; below a library's name: its own. "
        "Error: relative L2, against float64."
    )
    if any(row.algorithms for row in report.rows):
        yield "Faster: an algorithm that the engine did not choose, and how much longer the chosen one takes."
    if any(row.cold for row in report.rows):
        yield "Cold: weights and input come from memory, as in a network; copies of the layer take turns."
    for what, mean_of in (("the ratios", report.geometric_mean), ("the cold ratios", report.cold_mean)):
        means = [(which.value, mean_of(which)) for which in Pass]
        known = [f"{name} {mean:.2f}" for name, mean in means if mean is not None]
        overall = mean_of()
        if overall is not None:
            yield f"Geometric mean of {what}: {overall:.2f} ({', '.join(known)})."
    if worst := _worst_error(report):
        yield worst
    compared = [row for row in report.rows if row.algorithms]
    if compared:
        near = sum(row.loss <= 0.05 for row in compared)
        worst_loss = max(row.loss for row in compared)
        yield (
            f"The chosen algorithm is within 5 % of the fastest on {near} of {len(compared)} rows; "
            f"at worst it takes {worst_loss:.0%} longer."
        )
    yield from report.notes


def _worst_error(report: Report) -> str:
    """The largest error, beside torch's on the same row."""
    with_torch = [row for row in report.rows if CHANNELS_LAST in row.others]
    if not with_torch:
        return ""
    row = max(with_torch, key=lambda row: row.ours.error)
    theirs = row.others[CHANNELS_LAST].error
    return f"Largest error: {row.ours.error:.1e}, {row.which.value} of {row.layer}; torch's own there {theirs:.1e}."
