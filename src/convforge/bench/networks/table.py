"""A report as text: a table a network, one line a contender, and sentences that say what the headings mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from ...graph.profile import StepTime
from ..contenders import OURS
from ..table import duration, limits_sentence
from .run import Measured, Report, Row

_WIDE = 100
_MOST_STEPS = 20


def as_table(report: Report) -> RenderableType:
    """The report as something that Rich prints."""
    parts: list[RenderableType] = [
        Text(limits_sentence(report.limits)),
        Text(" · ".join(f"{name} {number}" for name, number in report.versions.items())),
    ]
    for network in report.networks:
        parts += [Text(), Text(_title(network), style="bold"), *([_Rows(network)] if network.rows else [])]
        parts += [Text(sentence) for sentence in _about(network)]
        if network.steps:
            parts += [Text(), Text("Our steps by their share of the time"), _steps(network.steps)]
    return Group(*parts, Text(), *(Text(sentence) for sentence in _below(report)))


@dataclass(frozen=True)
class _Column:
    heading: str
    cell: Callable[[Measured, Row], str]
    narrow: bool = True
    """Whether there is room for it in a narrow terminal."""


_COLUMNS = (
    _Column("Median", lambda _, row: duration(row.seconds)),
    _Column("Shortest", lambda _, row: duration(row.shortest), narrow=False),
    _Column("Images\n/s", lambda network, row: f"{network.batch / row.seconds:.1f}", narrow=False),
    _Column("Ratio", lambda network, row: _over_ours(network, row)),
    _Column("Error", lambda _, row: f"{row.error:.1e}"),
    _Column("Peak\nmemory", lambda _, row: f"{row.memory.peak / 1e6:.0f} MB" if row.memory.peak else "–"),
    _Column("First\nresult", lambda _, row: duration(row.first), narrow=False),
)
_BUSY = (
    _Column("Beside\nbusy", lambda _, row: "–" if row.busy is None else duration(row.busy)),
    _Column("Times\nquiet", lambda _, row: "–" if row.slowdown is None else f"{row.slowdown:.2f}"),
)


@dataclass(frozen=True)
class _Rows:
    """A network's contenders, the quickest first."""

    network: Measured

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = sorted(self.network.rows.items(), key=lambda item: item[1].seconds)
        wanted = [*_COLUMNS, *(_BUSY if any(row.busy is not None for _, row in rows) else ())]
        columns = [column for column in wanted if column.narrow or options.max_width >= _WIDE]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("")
        for column in columns:
            table.add_column(column.heading, justify="right", no_wrap=True)
        for title, row in rows:
            cells = (Text(column.cell(self.network, row)) for column in columns)
            table.add_row(Text(title), *cells, style="bold" if title == OURS else "")
        yield table


def _over_ours(network: Measured, row: Row) -> str:
    return f"{row.seconds / network.ours.seconds:.2f}" if network.ours else "–"


def _title(network: Measured) -> str:
    images = "1 image" if network.batch == 1 else f"{network.batch} images"
    what = ", training step" if network.training else ""
    return f"{network.title}{what}, {images} of {'×'.join(map(str, network.image))}"


def _about(network: Measured) -> Iterator[str]:
    if network.ratio is not None:
        yield f"Ratio to the fastest of the others, {network.fastest}: {network.ratio:.2f}."
    if (first := network.first) is not None:
        yield (
            f"Our first result in a new process: {duration(first.cold)} with an empty cache (reading the network "
            f"{duration(first.cold_capture)} of it), {duration(first.warm)} with the code on disk "
            f"({duration(first.warm_capture)})."
        )


def _steps(steps: tuple[StepTime, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("Share", "Time", "Pre-\ndicted", "Of\npeak", "GB\n/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("What")
    table.add_column("How")
    ranked = sorted(steps, key=lambda step: -step.share)
    for step in ranked[:_MOST_STEPS]:
        numbers = (
            f"{step.share:.1%}",
            duration(step.seconds),
            duration(step.predicted) if step.predicted else "–",
            f"{step.of_peak:.0%}" if step.of_peak else "–",
            f"{step.bytes / step.seconds / 1e9:.0f}" if step.seconds else "–",
        )
        table.add_row(*numbers, Text(step.what), Text(step.how))
    if rest := ranked[_MOST_STEPS:]:
        share, seconds = (sum(values) for values in zip(*((step.share, step.seconds) for step in rest), strict=True))
        table.add_row(f"{share:.1%}", duration(seconds), "", "", "", Text(f"{len(rest)} others"), "")
    return table


def _below(report: Report) -> Iterator[str]:
    yield (
        "Float32; each in a process of its own, by turns, on random images and weights. Ratio: its median over ours, "
        "above 1 we are faster. Error: relative L2, against float64. Peak memory: beyond the process with its "
        "libraries loaded. First result: from the module or file, the libraries loaded."
    )
    if any(network.training for network in report.networks):
        yield (
            "Training step: forward, loss, backward and a step of SGD with momentum. Error: of all gradients of the "
            "first step; a number near 0 that rounding puts on the other side of a ReLU makes most of it."
        )
    rows = [row for network in report.networks for row in network.rows.values()]
    if any(row.busy is not None for row in rows):
        yield "Beside busy: one other process counts all the while; times quiet: that median over the quiet one."
    if any(title.endswith(", default") for network in report.networks for title in network.rows):
        yield "OpenVINO, default: in the precision that it picks by itself, bfloat16 on some CPUs; not in the ratios."
    if any(network.steps for network in report.networks):
        yield (
            "Predicted: by the engine's model; of peak: multiply-adds of the definition, of which Winograd's kernels "
            "do a quarter to a half; GB/s: of all that is read and written, each once. The first step holds what a "
            "call itself costs."
        )
    if len(report.networks) > 1 and (mean := report.geometric_mean) is not None:
        yield f"Geometric mean of the ratios to the fastest of the others: {mean:.2f}."
    yield from report.notes
