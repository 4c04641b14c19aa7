"""The roofline as a picture: what was achieved, over the arithmetic intensity, below the machine's limits."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.plan import Pass
from ..errors import UserError
from .run import Report

FORMATS = (".png", ".svg", ".pdf")

# Colours that remain distinct without colour vision (Okabe & Ito), and shapes that remain distinct in print.
_MARKS = (
    ("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"),
    ("#000000", "X"),
)  # fmt: skip


def check(path: Path) -> None:
    """Raise `UserError` if no plot could be written there, before an hour is spent on measuring it."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--plot writes {', '.join(FORMATS)} files, not {str(path)!r}.")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {str(path.parent)!r} for the plot: make it first.")
    if not find_spec("matplotlib"):
        raise UserError("--plot needs matplotlib, which is not installed: pip install 'convforge[bench]'.")


def write(report: Report, path: Path) -> None:
    """Draw the report's rows into a file of one of `FORMATS`: one panel a pass."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    passes = [which for which in Pass if any(row.which is which for row in report.rows)]
    figure = Figure(figsize=(1.8 + 4.4 * len(passes), 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(passes), sharex=True, sharey=True, squeeze=False)[0]
    for which, axes in zip(passes, panels, strict=True):
        draw(report, which, axes)
    limits = report.limits
    figure.suptitle(
        f"{limits.target}, {limits.threads} threads: FMA peak {limits.peak / 1e9:.0f} GFLOP/s, "
        f"memory {limits.memory / 1e9:.0f} GB/s"
    )
    panels[0].set_ylabel("GFLOP/s, operations of the definition")
    known = {label: mark for axes in panels for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        known.values(), known.keys(), loc="outside lower center", ncols=1 + len(passes), fontsize=9, frameon=False
    )
    figure.savefig(path, dpi=160)


def _of_ours(algorithm: str) -> str:
    fewer = " (multiplies less often than the definition)" if algorithm.startswith("winograd") else ""
    return f"convforge, {algorithm}{fewer}"


def draw(report: Report, which: Pass, axes: Any) -> None:
    """One pass on matplotlib's axes. A filled mark is ours, the hollow one that hangs on it the fastest library."""
    from matplotlib.ticker import LogLocator, NullLocator

    limits = report.limits
    intensities = [row.layer.intensity(row.which) for row in report.rows]
    low, high = min([*intensities, limits.ridge / 4]) / 1.5, max([*intensities, limits.ridge * 4]) * 1.5
    x = np.geomspace(low, high, 400)
    roof = [limits.attainable(i) / 1e9 for i in x]
    axes.plot(x, roof, color="black", linewidth=1.5, label="roofline: memory, then FMA peak")
    in_cache = np.minimum(limits.peak, x * limits.cache) / 1e9
    axes.plot(x, in_cache, color="black", linewidth=1, linestyle=":", label="roofline with all data in L2")
    algorithms = sorted({row.algorithm for row in report.rows})
    for row in report.rows:
        if row.which is not which:
            continue
        colour, shape = _MARKS[algorithms.index(row.algorithm) % len(_MARKS)]
        i, ours = row.layer.intensity(which), row.operations_per_second / 1e9
        other = row.layer.flops / row.others[row.fastest].seconds / 1e9
        axes.plot([i, i], [other, ours], color="0.6", linewidth=0.9, zorder=2)
        axes.plot(
            i, other, "o", color="0.4", markerfacecolor="white", markersize=4, zorder=3, label="the fastest library"
        )
        axes.plot(i, ours, shape, color=colour, markersize=5.5, zorder=4, label=_of_ours(row.algorithm))
    axes.set(xscale="log", yscale="log", xlim=(low, high), title=which.value)
    axes.set_xlabel("operations a byte of input, weights and output")
    axes.grid(True, color="0.92")
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_locator(NullLocator())
