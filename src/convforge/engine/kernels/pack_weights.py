"""Weights of any layout as panels of output channels, the form that register tiles read as one stream.

    [group][panel][i][j][c][lane]

A panel is `tile_vectors` vectors of output channels wide; a group's last one may be one vector, whose lanes beyond the
last channel are zeros. Three ways to read them, told apart at run time by the strides: where an output channel's
weights are one piece, all of it as vectors that are turned in registers; where channels or output channels lie side by
side, tap by tap (`pack.copy_function`); else one by one.

The gradient of the weights is summed in the same form, by each thread for itself, and brought back from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from ...native.ir import Arguments, Function, Int, IntLike, Pointer, indices, kernel, tasks
from ...spec import ceil_div
from ..geometry import Sliding
from .pack import fill_zeros
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


def pack_function(module: ir.Module, dtype: str, lanes: int, copy: Function) -> Function:
    """`pack`: some input channels of a panel, `channels` of them, as [i][j][c][lane], from the first of their weights,
    `w`, and the strides by output, input, row and column; `room` is for how many channels there is room from tap to
    tap."""
    names = "*w w_k w_c w_i w_j kernel_h kernel_w *to room channels outputs"
    f = Function(module, "pack", names, dtype, internal=True)
    w, to = f.pointers("w to")
    w_k, w_c, w_i, w_j, kernel_h, kernel_w = f.integers(" ".join(_WHERE))
    room, channels, outputs = f.integers("room channels outputs")
    width, taps = filled(outputs, lanes), kernel_h * kernel_w

    def row(number: Int) -> Pointer:
        """Where the lanes begin of the weights of that number, counted in the order (c, i, j)."""
        return to.at((number % taps * room + number // taps) * width)

    def corner(tap: Int) -> Pointer:
        """Its weights of the first channel."""
        return w.at(tap // kernel_w * w_i + tap % kernel_w * w_j)

    every = channels * taps
    in_order = (w_j.compare("==", 1), w_i.compare("==", kernel_w), w_c.compare("==", taps))
    with f.if_else(f.all_of(outputs.compare("==", width), *in_order)) as (one_piece, rest):
        with one_piece:  # torch's contiguous: an output channel's weights as vectors, turned in registers
            whole = every // lanes * lanes
            with f.loop(whole, step=lanes) as at, f.loop(width, step=lanes) as lane:
                rows = [w.at(lane.index * w_k + at.index + w_k * n).vector(lanes) for n in range(lanes)]
                for offset, column in enumerate(f.transposed(rows)):
                    row(at.index + offset).at(lane.index).put(column)
            with f.loop(every, start=whole) as at, f.loop(width) as lane:
                row(at.index).at(lane.index).put(w.at(lane.index * w_k + at.index).scalar())
        with rest, f.if_else(f.any_of(w_c.compare("==", 1), w_k.compare("==", 1))) as (side_by_side, scattered):
            with side_by_side, f.loop(taps) as tap:
                with f.if_(outputs.compare("<", width)):
                    fill_zeros(f, row(tap.index), channels * width, lanes)
                f.call(
                    copy, to=row(tap.index), to_i=1, to_j=width, source=corner(tap.index), source_i=w_k, source_j=w_c,
                    width=outputs, length=channels,
                )  # fmt: skip
            with scattered, f.loop(every) as at:
                here, there = corner(at.index % taps).at(at.index // taps * w_c), row(at.index)
                with f.loop(outputs) as lane:
                    there.at(lane.index).put(here.at(lane.index * w_k).scalar())
                with f.loop(width, start=outputs) as lane:
                    there.at(lane.index).put(f.scalar_zero())
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
        group, panel_index, part = indices(task.index, a["panels"], parts)
        first_channel = part * CHANNELS_A_TASK
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
        group, panel_index, tap = indices(task.index, a["panels"], kernel_size)
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
