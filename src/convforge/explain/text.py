"""An explanation as text: a paragraph on the layer and the machine, then one on each pass."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ..bench.layers import Layer
from ..bench.machine import Machine
from ..bench.table import duration, limits_sentence
from ..engine.nest import Nest, RegisterTile, many
from ..native.target import USUAL, Costs, Target
from ..planning.table import human, human_bytes
from .assembly import InnerLoop
from .gather import Explanation, PassExplained


def as_text(explanation: Explanation) -> RenderableType:
    """The explanation as something that Rich prints."""
    e = explanation
    parts: list[RenderableType] = [
        _facts([("Layer", _layer(e.layer)), ("Counts", _counts(e.layer)), ("Machine", _machine(e.limits, e.target))])
    ]
    shown: dict[InnerLoop, str] = {}
    for one in e.passes:
        parts += ["", Rule(Text(one.which.value.capitalize(), style="bold"), align="left", characters="─")]
        parts.append(_facts(list(_pass(one, e))))
        if one.inner_loop and one.inner_loop in shown:
            parts += ["", f"The innermost loop is the same as above ({shown[one.inner_loop]})."]
        elif one.inner_loop:
            parts += ["", *_assembly(one.inner_loop)]
            shown[one.inner_loop] = one.which
    return Group(*parts)


def _facts(facts: list[tuple[str, RenderableType]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for name, fact in facts:
        grid.add_row(name, fact)
    return grid


def _layer(layer: Layer) -> str:
    s = layer.spec
    x, y = ("×".join(map(str, shape)) for shape in (layer.x_shape, layer.y_shape))
    return f"{layer.text()}\n{x} → {y}, {'×'.join(map(str, s.kernel_size))} kernels, float32, channels_last"


def _counts(layer: Layer) -> str:
    macs = layer.flops // 2
    return (
        f"{human(layer.spec.weights)} weights, {human(macs)} multiply-adds a pass, which are "
        f"{human(layer.flops)} operations"
    )


def _machine(limits: Machine, target: Target) -> str:
    vector = f"{target.lanes('float32')} float32 a vector, {target.registers} vector registers"
    caches = f"L1 {human_bytes(target.l1_bytes)}, L2 {human_bytes(target.l2_bytes)} a core"
    return (
        f"{limits_sentence(limits)}\n{vector}, {caches}\n"
        f"From {limits.ridge:.0f} operations a byte on the FMA peak is the limit, below it the memory\n"
        f"{_costs(target.costs)}"
    )


def _costs(costs: Costs) -> str:
    source = (
        "as on Zen 5; convforge tune measures this machine" if costs == USUAL else "measured here by convforge tune"
    )
    return (
        f"The model takes {costs.l2:.0f} bytes a cycle from L2, {costs.l3:.0f} from L3, {costs.memory:.1f} from "
        f"memory ({source})"
    )


def _pass(one: PassExplained, e: Explanation) -> Iterator[tuple[str, RenderableType]]:
    yield "Algorithm", f"{one.algorithm}: {one.reason}"
    yield "Considered", _considered(one)
    if one.description:
        yield "Registers", _registers(one.description.tile)
        yield "Caches", _caches(one, e.target)
        yield "Loops", _loops(one.description)
    yield "Roofline", _roofline(one, e.limits)
    yield "Time", _time(one, e)


def _considered(one: PassExplained) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    for other in one.considered:
        predicted = f"{duration(other.predicted)} predicted" if other.predicted else "not predicted"
        chosen = "chosen" if other.name == one.algorithm else ""
        table.add_row(other.name, f"{predicted},", f"{duration(other.measured)} measured", chosen)
    return Group(table, *(Text(f"{name} {why}") for name, why in one.refused.items()))


def _registers(tile: RegisterTile) -> str:
    held, factors = many(tile.held, "vector"), many(tile.read, tile.factor)
    if not tile.lanewise:
        factors += ", each for several sums" if tile.step else ", each broadcast"
    return (
        f"A tile of {tile.rows} {tile.row} × {many(tile.vectors, 'vector')} of {tile.lanes} {tile.lane}\n"
        f"{many(tile.sums, 'sum')} + {tile.held} of a step's vectors + 1 {tile.factor} = "
        f"{tile.registers_used} of {tile.registers} registers\n"
        f"A step: {many(tile.multiply_adds, 'multiply-add')}, {tile.loads} loads ({held}, {factors}): "
        f"{tile.cycles:g} cycles, limited by {tile.limit}"
    )


def _caches(one: PassExplained, target: Target) -> str:
    assert one.description
    sizes = {"L1": target.l1_bytes, "L2": target.l2_bytes}
    lines = []
    for held in one.description.held:
        share = f", {held.bytes / sizes[held.cache]:.0%} of {held.cache}" if held.cache else ""
        lines.append(f"{human_bytes(held.bytes)} {held.what}{share}")
    return "\n".join([*lines, f"{human_bytes(one.work_bytes)} of work memory in all"])


def _loops(description: Nest) -> RenderableType:
    lines = [(0, description.note + ":")] if description.note else []
    depth = 0
    for loop in description.loops:
        if loop.count != 1 or loop is description.loops[0]:
            lines.append((depth, f"for each of {loop}" if loop.count > 1 else str(loop)))
            depth += 1
        if loop.before:
            lines.append((depth, loop.before))
    lines.append((depth, f"{many(description.tile.multiply_adds, 'multiply-add')}: one step of the tile"))
    if description.after:
        lines.append((0, description.after))
    return Group(*(Padding(Text(line), (0, 0, 0, 2 * depth)) for depth, line in lines))


def _roofline(one: PassExplained, limits: Machine) -> str:
    limit = "the FMA peak" if one.intensity >= limits.ridge else "the memory"
    return (
        f"{human_bytes(one.bytes)} of input, weights and output: {one.intensity:.1f} operations a byte, so {limit} "
        f"is the limit: {one.attainable / 1e9:.0f} GFLOP/s"
    )


def _time(one: PassExplained, e: Explanation) -> str:
    speed = e.layer.flops / one.measured
    predicted = f"{duration(one.predicted)} predicted, " if one.predicted else ""
    otherwise = "with weights that change before every call" if one.kept else "with weights that are kept packed"
    more = f"\n{duration(one.otherwise)} {otherwise}" if one.otherwise else ""
    return (
        f"{predicted}{duration(one.measured)} measured: {speed / 1e9:.0f} GFLOP/s, {speed / e.limits.peak:.0%} of the "
        f"FMA peak, {speed / one.attainable:.0%} of the roofline{more}"
    )


def _assembly(loop: InnerLoop) -> Iterator[RenderableType]:
    yield (
        f"The innermost loop, of {loop.function}: {many(loop.multiply_adds, 'multiply-add')} and "
        f"{many(loop.reads, 'read')} of memory in {many(loop.instructions, 'instruction')}"
    )
    yield Padding(Text("\n".join(loop.lines)), (0, 0, 0, 2))
