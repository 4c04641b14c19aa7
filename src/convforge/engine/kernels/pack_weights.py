"""Weights of any layout as panels of output channels, the form that register tiles read as one stream.

    [group][panel][i][j][c][lane]

A panel is `tile_vectors` vectors of output channels wide; a group's last one may be one vector, whose lanes beyond the
last channel are zeros. Four ways to read them, told apart at run time by the strides: vectors turned in registers where
an output channel's weights are one piece, copied where output channels lie side by side, else one by one.

The gradient of the weights is summed in the same form, by each thread for itself, and brought back from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from ...spec import ceil_div
from ..geometry import Sliding
from .ir import Arguments, Function, Int, IntLike, Pointer, Value, kernel, tasks
from .tile import filled

PACK_WEIGHTS = Arguments("w w_g w_k w_c w_i w_j groups panels outputs channels kernel_h kernel_w weights")

COLLECT = Arguments("parts splits groups panels outputs channels kernel_h kernel_w w w_g w_k w_c w_i w_j")

CHANNELS_A_TASK = 64


def panels_of(s: Sliding, panel: int) -> dict[str, int]:
    """Where the weights are, as panels of outputs."""
    return s.weights | {"panels": ceil_div(s.weights["outputs"], panel)}


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel of a group's output channels while code for it is generated."""

    first: Int
    outputs: Int
    width: Int
    """With the lanes that are filled up: whole vectors."""

    @classmethod
    def of(cls, a: dict[str, Int], index: Int, panel: int, lanes: int, group: Int | None = None) -> Panel:
        """Of a `group` where groups are panels of channels, the last of which may have fewer."""
        first = index * panel
        outputs = a["outputs"] - first
        if group is not None:
            outputs = outputs.at_most(a["all_outputs"] - group * a["outputs"] - first)
        outputs = outputs.at_most(panel)
        return cls(first, outputs, filled(outputs, lanes))

    def weights(self, f: Function, a: dict[str, Int], group: IntLike, channel: IntLike = 0) -> Pointer:
        """Where the tensor has those of its first output and an input channel."""
        return f.address(a["w"]).at(a["w_g"] * group + self.first * a["w_k"] + a["w_c"] * channel)


def pack_function(module: ir.Module, dtype: str, lanes: int) -> Function:
    """`pack`: some input channels of a panel, `channels` of them, as [i][j][c][lane], from the first of their weights,
    `w`, and the strides by output, input, row and column; `room` is for how many channels there is room from tap to
    tap."""
    names = "*w w_k w_c w_i w_j kernel_h kernel_w *to room channels outputs"
    f = Function(module, "pack", names, dtype, internal=True)
    a = {name: f.integer(name) for name in (*_WHERE, "room")}
    w, to, (channels, outputs) = f.pointer("w"), f.pointer("to"), f.integers("channels outputs")
    width = filled(outputs, lanes)
    weights = _Weights(f, a, w, to, channels, outputs, width, lanes)
    taps = a["kernel_h"] * a["kernel_w"]
    for_taps_inside = f.all_of(
        a["w_j"].compare("==", 1), a["w_i"].compare("==", a["kernel_w"]), a["w_c"].compare("==", taps)
    )
    # How the weights of one output channel lie, where all lanes are in use:
    whole = outputs.compare("==", width)
    with f.if_else(f.all_of(whole, for_taps_inside)) as (taps_inside, other):  # (c, i, j), torch's contiguous
        with taps_inside:
            weights.pack_taps_inside()
        with other, f.if_else(f.all_of(whole, a["w_c"].compare("==", 1))) as (channels_inside, rest):  # (i, j, c)
            with channels_inside:
                weights.pack_channels_inside()
            with rest, f.if_else(f.all_of(whole, a["w_k"].compare("==", 1))) as (lanes_inside, scattered):
                with lanes_inside:  # channels_last in the input gradient, where channels change places
                    weights.pack_lanes_inside()
                with scattered:
                    weights.pack_one_by_one(f.const(0), channels * taps)
    f.done()
    return f


_WHERE = ("w_k", "w_c", "w_i", "w_j", "kernel_h", "kernel_w")


def pack_channels(
    f: Function, a: dict[str, Int], pack: Function, p: Panel, w: Pointer, first: Int, count: Int, room: Int, to: Pointer
) -> None:
    """`count` input channels of a panel from the `first` on, where `w` are the weights of that one, to their place in a
    panel that begins at `to` and has `room` for all."""
    where = {name: a[name] for name in _WHERE}
    f.call(pack, w=w, **where, to=to.at(first * p.width), room=room, channels=count, outputs=p.outputs)


def pack_weights_kernel(module: ir.Module, dtype: str, pack: Function, lanes: int, panel: int) -> None:
    """All weights, zeros in the lanes beyond the last output channel."""
    f, a = kernel(module, "pack_weights", dtype, PACK_WEIGHTS)
    taps = a["kernel_h"] * a["kernel_w"]
    parts = (a["channels"] + (CHANNELS_A_TASK - 1)) // CHANNELS_A_TASK
    with tasks(f, a["groups"] * a["panels"] * parts) as task:
        panel_index, group = task.index // parts % a["panels"], task.index // parts // a["panels"]
        first_channel = task.index % parts * CHANNELS_A_TASK
        channels = (a["channels"] - first_channel).at_most(CHANNELS_A_TASK)
        p = Panel.of(a, panel_index, panel, lanes)
        to = f.address(a["weights"]).at((group * a["panels"] + panel_index) * panel * taps * a["channels"])
        pack_channels(f, a, pack, p, p.weights(f, a, group, first_channel), first_channel, channels, a["channels"], to)
    f.done()


def collect_kernel(module: ir.Module, dtype: str, copy: Function, lanes: int, panel: int) -> None:
    """The gradient of the weights: the sum of the threads' `parts`, panels as above, in the layout of the weights."""
    f, a = kernel(module, "collect", dtype, COLLECT)
    kernel_size = a["kernel_h"] * a["kernel_w"]
    part_size = a["groups"] * a["panels"] * panel * kernel_size * a["channels"]
    with tasks(f, a["groups"] * a["panels"] * kernel_size) as task:
        tap, panel_index = task.index % kernel_size, task.index // kernel_size % a["panels"]
        group = task.index // kernel_size // a["panels"]
        p = Panel.of(a, panel_index, panel, lanes)
        before = (group * a["panels"] + panel_index) * panel * kernel_size * a["channels"]
        total = f.address(a["parts"]).at(before + tap * a["channels"] * p.width)
        with f.loop(a["splits"], start=1) as split:
            part = total.at(split.index * part_size)
            with f.loop(a["channels"] * p.width, step=lanes) as at:
                here = total.at(at.index)
                here.put(f.add(here.vector(lanes), part.at(at.index).vector(lanes)))
        corner = p.weights(f, a, group).at(tap // a["kernel_w"] * a["w_i"] + tap % a["kernel_w"] * a["w_j"])
        f.call(
            copy, to=corner, to_i=a["w_k"], to_j=a["w_c"], source=total, source_i=1, source_j=p.width, width=p.outputs,
            length=a["channels"],
        )  # fmt: skip
    f.done()


@dataclass(frozen=True)
class _Weights:
    """Some input channels of one panel's weights, on their way into the packed form."""

    f: Function
    a: dict[str, Int]
    source: Pointer
    target: Pointer
    channels: Int
    outputs: Int
    width: Int
    lanes: int

    def pack_taps_inside(self) -> None:
        """Each output channel's weights are one piece in the order (c, i, j): read as vectors, turned in registers."""
        f, a, taps = self.f, self.a, self.a["kernel_h"] * self.a["kernel_w"]
        whole = self.channels * taps // self.lanes * self.lanes
        with f.loop(whole, step=self.lanes) as at, f.loop(self.width, step=self.lanes) as lane:
            for offset, column in enumerate(self._turned(lane.index * a["w_k"] + at.index)):
                c, tap = (at.index + offset) // taps, (at.index + offset) % taps
                self._row(c, tap).at(lane.index).put(column)
        self.pack_one_by_one(whole, self.channels * taps)

    def pack_channels_inside(self) -> None:
        """Each tap's weights are one piece along the channels (channels_last): the same, tap by tap."""
        f, a = self.f, self.a
        whole = self.channels // self.lanes * self.lanes
        with f.loop(a["kernel_h"]) as i, f.loop(a["kernel_w"]) as j:
            tap = i.index * a["kernel_w"] + j.index
            corner = i.index * a["w_i"] + j.index * a["w_j"]
            with f.loop(whole, step=self.lanes) as c, f.loop(self.width, step=self.lanes) as lane:
                for offset, column in enumerate(self._turned(corner + lane.index * a["w_k"] + c.index)):
                    self._row(c.index + offset, tap).at(lane.index).put(column)
        taps = a["kernel_h"] * a["kernel_w"]
        self.pack_one_by_one(whole * taps, self.channels * taps)

    def pack_lanes_inside(self) -> None:
        """Output channels lie side by side already: vectors are copied."""
        f, a = self.f, self.a
        with f.loop(a["kernel_h"]) as i, f.loop(a["kernel_w"]) as j, f.loop(self.channels) as c:
            here = self.source.at(c.index * a["w_c"] + i.index * a["w_i"] + j.index * a["w_j"])
            there = self._row(c.index, i.index * a["kernel_w"] + j.index)
            with f.loop(self.width, step=self.lanes) as lane:
                there.at(lane.index).put(here.at(lane.index).vector(self.lanes))

    def pack_one_by_one(self, first: Int, end: Int) -> None:
        """The weights from number `first` on, counted in the order (c, i, j); zeros in the lanes without a channel."""
        f, a, taps = self.f, self.a, self.a["kernel_h"] * self.a["kernel_w"]
        with f.loop(end, start=first) as at:
            c, tap = at.index // taps, at.index % taps
            i, j = tap // a["kernel_w"], tap % a["kernel_w"]
            here, there = self.source.at(c * a["w_c"] + i * a["w_i"] + j * a["w_j"]), self._row(c, tap)
            with f.loop(self.outputs) as lane:
                there.at(lane.index).put(here.at(lane.index * a["w_k"]).scalar())
            with f.loop(self.width, start=self.outputs) as lane:
                there.at(lane.index).put(f.scalar_zero())

    def _turned(self, corner: Int) -> list[Value]:
        rows = [self.source.at(corner + self.a["w_k"] * row).vector(self.lanes) for row in range(self.lanes)]
        return self.f.transposed(rows)

    def _row(self, c: Int, tap: Int) -> Pointer:
        return self.target.at((tap * self.a["room"] + c) * self.width)
