"""A plan as text: two tables, readable at 100 columns, and sentences that explain their headings; or a short form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from math import prod
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ..spec import LESSON_NEURONS, Pair, Sides

if TYPE_CHECKING:
    from .rows import DenseEquivalent, Plan, Row

WIDTH = 100


def human(number: int) -> str:
    """A count, exact below a million and with three digits above.

    >>> human(1728), human(86_704_128), human(483_385_147_392)
    ('1,728', '86.7 M', '483 G')
    """
    if number < 1_000_000:
        return f"{number:,}"
    value, unit = number / 10**6, "M"
    for larger in "GTPEZY":
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def exact(number: int) -> str:
    """A count in full, as long as that fits into a column.

    >>> exact(483_385_147_392), exact(7_552_892_920_447_107_000)
    ('483,385,147,392', '7.55 E')
    """
    return f"{number:,}" if number < 10**15 else human(number)


def factor(ratio: float) -> str:
    """How many times; with a decimal where the whole number would hide it.

    >>> factor(87111.1), factor(0.51)
    ('87,111×', '0.5×')
    """
    return f"{ratio:,.0f}×" if ratio >= 10 else f"{ratio:.1f}×"


def human_bytes(number: int) -> str:
    """Bytes in binary units.

    >>> human_bytes(1000), human_bytes(12_845_056)
    ('1000 B', '12.2 MiB')
    """
    value, unit = float(number), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"


def as_text(plan: Plan, width: int = WIDTH) -> str:
    """The tables as plain text, without colours."""
    console = Console(file=StringIO(), width=width, color_system=None, legacy_windows=False, force_jupyter=False)
    with console.capture() as capture:
        console.print(as_table(plan))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def as_table(plan: Plan) -> RenderableType:
    """The tables as something that Rich prints."""
    parts: list[RenderableType] = [_Layers(plan, plan.rows, (), ("Memory", "Stride", "Pad")), _sums(plan)]
    if any(row.dense for row in plan.rows):
        parts += [Text(), _Dense(plan), _dense_explained()]
    if plan.notes:
        parts += [Text(), *(Text(f"Note: {note}") for note in plan.notes)]
    return Group(*parts)


def as_short_table(plan: Plan) -> RenderableType:
    """For who is on the way to something else: the layers that learn or change the size, a line each."""
    rows = [row for row in plan.rows if row.parameters or row.shared or prod(row.input_shape) != prod(row.output_shape)]
    return _Layers(plan, rows, ("Stride", "Pad", "Memory"), ("Kernel", "MACs"))


def short_sums(plan: Plan) -> list[str]:
    """What stands below the short table, a line each."""
    totals = plan.totals
    sums = [f"{totals.parameters:,} parameters, {human(totals.macs)} multiply-accumulates"]
    if totals.dense:
        sums.append(
            f"Fully connected layers that make the same maps would take {human(totals.dense.same_maps)} weights "
            f"instead of {human(totals.dense.weights)}."
        )
    return sums + [f"Note: {note}" for note in plan.notes]


# ---------------------------------------------------------------------------------------------------------------------
# Layers
# ---------------------------------------------------------------------------------------------------------------------


def _by(numbers: tuple[int, ...]) -> str:
    return "×".join(str(n) for n in numbers)


def _pair(pair: Pair | None) -> str:
    if pair is None:
        return ""
    return str(pair[0]) if pair[0] == pair[1] else _by(pair)


def _sides(sides: Sides | None, mode: str) -> str:
    if sides is None:
        return ""
    (top, bottom), (left, right) = sides
    if top == bottom and left == right:
        text = _pair((top, left))
    elif (top, bottom) == (left, right):
        text = f"{top}+{bottom}"
    else:
        text = f"{top}+{bottom}×{left}+{right}"
    return text if mode == "zeros" or not any((top, bottom, left, right)) else f"{text} {mode}"


def _kernel(row: Row) -> str:
    if row.kernel is None:
        return ""
    text = _by(row.kernel)
    if row.dilation not in (None, (1, 1)):
        text += f" d{_pair(row.dilation)}"
    if row.groups > 1:
        text += " dw" if row.groups == row.input_shape[-3] else f" g{row.groups}"
    return text


def _field(row: Row) -> str:
    if isinstance(row.receptive_field, str):
        return row.receptive_field
    return "?" if row.receptive_field is None else _by(row.receptive_field)


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        pad_edge=False, show_edge=False, header_style="bold",
    )  # fmt: skip


def _cells(row: Row) -> dict[str, str]:
    return {
        "Layer": row.name,
        "Type": row.type if row.type != row.name else "",
        "Kernel": _kernel(row),
        "Stride": _pair(row.stride),
        "Pad": _sides(row.padding, row.padding_mode),
        "Output": _by(row.output_shape[1:]),
        "Field": _field(row) if row.output_shape else "",
        "Params": "shared" if row.shared else human(row.parameters) if row.parameters else "",
        "MACs": human(row.macs) if row.macs else "",
        "Memory": human_bytes(row.activation_bytes) if row.activation_bytes else "",
    }


@dataclass(frozen=True)
class _Layers:
    """The table of `rows` without the columns `never`; and where that keeps each row on one line, without some of the
    columns `perhaps`, the first of them first."""

    plan: Plan
    rows: Sequence[Row]
    never: tuple[str, ...]
    perhaps: tuple[str, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for count in range(len(self.perhaps) + 1):
            table = self._without(self.never + self.perhaps[:count])
            if Measurement.get(console, options.update(width=10_000), table).maximum <= options.max_width:
                yield table
                if count:
                    yield Text(f"Left out, for want of width: {', '.join(self.perhaps[:count])}.", style="italic")
                return
        yield self._without(self.never)  # a name is longer than the line, and is folded

    def _without(self, headings: tuple[str, ...]) -> Table:
        table = _table(f"{self.plan.model} on {_by(self.plan.input_shape[1:])}, batch {self.plan.input_shape[0]}")
        rows = [_cells(row) for row in self.rows]
        shown = [heading for heading in _COLUMNS if heading not in headings]
        for heading in shown:
            right = heading in ("Params", "MACs", "Memory")
            if heading in ("Layer", "Type"):
                longest = max((len(row[heading]) for row in rows), default=0)
                table.add_column(heading, overflow="fold", min_width=min(8, max(longest, len(heading))))
            else:
                table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "Pad")
        for row in rows:
            table.add_row(*(row[heading] for heading in shown))
        return table


_COLUMNS = ("Layer", "Type", "Kernel", "Stride", "Pad", "Output", "Field", "Params", "MACs", "Memory")


def _sums(plan: Plan) -> Group:
    totals = plan.totals
    return Group(
        Text(),
        Text.assemble(
            ("Totals  ", "bold"),
            f"{totals.parameters:,} parameters ({human_bytes(totals.parameter_bytes)}) · {totals.macs:,} MACs · "
            f"{human_bytes(totals.activation_bytes)} of outputs",
        ),
        Text(
            "Field: rows × columns of the input that one output number depends on, across skips; 'all' is the whole "
            "input. MACs: multiply-accumulates, products with padded zeros included, biases not; twice as many FLOPs. "
            "Memory: of the output, none where a layer works in place. dw: depthwise; g: groups; d: dilation."
        ),
    )


# ---------------------------------------------------------------------------------------------------------------------
# What sharing saves
# ---------------------------------------------------------------------------------------------------------------------


def _dense_cells(dense: DenseEquivalent, write: Callable[[int], str]) -> tuple[str, ...]:
    return (
        exact(dense.weights),
        write(dense.to_neurons),
        factor(dense.to_neurons_factor),
        write(dense.same_maps),
        factor(dense.same_maps_factor),
    )


@dataclass(frozen=True)
class _Dense:
    """The comparison: with headings on one line where there is room, in full numbers where those fit."""

    plan: Plan

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        ample = options.update(width=10_000)
        tables = [_dense(self.plan, exact, narrow=False), _dense(self.plan, exact, narrow=True)]
        fitting = (table for table in tables if Measurement.get(console, ample, table).maximum <= options.max_width)
        yield next(fitting, _dense(self.plan, human, narrow=True))


def _dense(plan: Plan, write: Callable[[int], str], narrow: bool) -> Table:
    rows = [(row.name, *_dense_cells(row.dense, write)) for row in plan.rows if row.dense]
    sums = [("Together", *_dense_cells(plan.totals.dense, write))] if plan.totals.dense and len(rows) > 1 else []
    longest = [max(map(len, column)) for column in zip(*rows, *sums, strict=True)]
    table = _table("Each convolution beside the fully connected layer it stands for (weights, without biases)")
    table.add_column("Convolution", overflow="fold", min_width=8)
    headings = ("Its weights", f"(a) Dense, {LESSON_NEURONS:,} neurons", "Factor", "(b) Dense, same maps", "Factor")
    for heading, width in zip(headings, longest[1:], strict=True):
        least = max(width, *(len(word) for word in heading.split()))
        table.add_column(heading, justify="right", width=least if narrow else None)
    for cells in rows:
        table.add_row(*cells)
    for cells in sums:
        table.add_section()
        table.add_row(*cells)
    return table


def _dense_explained() -> Group:
    return Group(
        Text(),
        Text(
            f"(a) From the convolution's input to {LESSON_NEURONS:,} neurons: C·H·W·{LESSON_NEURONS:,} weights. "
            "(b) Like for like, a dense layer that makes the same feature maps: C·H·W · K·H_out·W_out weights, one "
            "from every input number to every output number. Factor: how many times the convolution's weights."
        ),
    )
