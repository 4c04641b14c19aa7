"""Groups of few channels as lanes: which of them there are algorithms for, depthwise ones among them; which inputs a
vector of outputs meets, and how they are spread over its lanes."""

from __future__ import annotations

from dataclasses import dataclass

from ...native.ir import Function, Int, Pointer, Value
from ...spec import ceil_div
from ..geometry import Problem
from ..plan import PRODUCTS_A_SUM, Job, Refusal


@dataclass(frozen=True, slots=True)
class Group:
    """Channels of a group: `depth` of them are summed for each of `outputs`. Depthwise has one of both.

    The lanes of a vector of outputs belong to `lanes / outputs` groups, or all to one. Lane l meets as its channel c
    number l//outputs·depth + c of the inputs from the first of these groups on: a shuffle of what is loaded once, or,
    where all are of one group, a broadcast.
    """

    depth: int = 1
    outputs: int = 1

    def fits(self, lanes: int) -> bool:
        """Whole groups to a vector, whose inputs are two vectors at most; or whole vectors to a group."""
        whole = lanes % self.outputs == 0 and lanes // self.outputs * self.depth <= 2 * lanes
        return whole or self.outputs % lanes == 0

    def inputs(self, lanes: int) -> int:
        """Channels of input that a vector of outputs meets."""
        return max(1, lanes // self.outputs) * self.depth

    def first_input(self, channel: Int) -> Int:
        """Of the vector that begins at this output."""
        return channel if self.depth == self.outputs == 1 else channel // self.outputs * self.depth

    def load(self, x: Pointer, lanes: int) -> list[Value]:
        """What is loaded once for all channels of the groups."""
        if self.outputs >= lanes:
            return []
        count = self.inputs(lanes)
        return [x.vector(count)] if count <= lanes else [x.vector(lanes), x.at(lanes).vector(count - lanes)]

    def spread(self, f: Function, x: Pointer, loaded: list[Value], c: int, lanes: int) -> Value:
        """Channel c of its own group in every lane."""
        if self.outputs >= lanes:
            return f.splat(x.at(c).scalar(), lanes)
        if self.depth == self.outputs == 1:
            return loaded[0]
        low, high = (loaded * 2)[:2]
        if high.type.count < low.type.count:  # a shuffle takes two vectors of one size
            high = f.shuffle(high, high, [*range(high.type.count), *[0] * (low.type.count - high.type.count)])
        return f.shuffle(low, high, [lane // self.outputs * self.depth + c for lane in range(lanes)])

    def loads(self, lanes: int, channels: int) -> int:
        """Loads of an input, for so many channels of its group."""
        return channels if self.outputs >= lanes else ceil_div(self.inputs(lanes), lanes)


WIDEST = 7
"""Taps of a row: as many weights are held in registers."""
LARGEST_STRIDE = 3
"""Each width and stride is compiled for itself, and these are the ones that networks have."""

MOST_ROWS_AHEAD = 64
"""Of the input, which the next output row adds and is asked for."""

MOST_OUTPUTS, DEEPEST = 8, 16
"""Channels of a group: from 16 outputs on the direct algorithm is as fast."""

NOT_DEPTHWISE = Refusal("is for several groups of one channel each, in and out")


def is_depthwise(problem: Problem) -> bool:
    """One channel in, one channel out, in every group; a single group is what the direct algorithm is for."""
    return problem.groups > 1 and problem.w_shape[1] == 1 and problem.w_shape[0] == problem.groups


def groups_of_one(job: Job) -> Group | Refusal:
    """Depthwise groups whose channels are read where they lie."""
    return _that_fit(job, Group()) if is_depthwise(job.problem) else NOT_DEPTHWISE


def small_groups(job: Job) -> Group | Refusal:
    """Several groups of few channels. The input gradient sums over what the forward pass computes; the weights'
    gradient has fewer sums that wait for each other, and takes groups of fewer channels."""
    problem = job.problem
    depth, outputs = problem.w_shape[1], problem.w_shape[0] // problem.groups
    group = Group(outputs, depth) if job.backward else Group(depth, outputs)
    if problem.groups == 1:
        return Refusal("is for several groups of channels")
    if group == Group():
        return Refusal("is what depthwise is for groups of one channel")
    most = MOST_OUTPUTS
    if job.for_weights:
        most = max(most // 2, min(job.lanes // 2, most))
    if group.outputs > most or group.depth > DEEPEST:
        return Refusal("is for groups of few channels: with more of them direct fills its vectors")
    return _that_fit(job, group)


def _that_fit(job: Job, group: Group) -> Group | Refusal:
    """The kernels want channels side by side, enough of them for a vector, and a row of taps for which there is a
    tile."""
    problem, s = job.problem, job.problem.forward()
    if not problem.x_strides[1] == problem.y_strides[1] == 1:
        return Refusal("reads channels where they lie, side by side (channels_last)")
    if min(problem.x_shape[1], problem.y_shape[1]) < job.lanes:
        return Refusal(f"needs a vector of {job.lanes} channels")
    if not group.fits(job.lanes):
        return Refusal(
            f"needs whole groups of {group.outputs} in a vector of {job.lanes} channels, which meet two vectors of "
            "inputs at most"
        )
    if s.horizontal.kernel > WIDEST or s.horizontal.stride > LARGEST_STRIDE or s.horizontal.dilation > 1:
        return Refusal(f"is for rows of at most {WIDEST} taps without gaps, at a stride of at most {LARGEST_STRIDE}")
    if s.vertical.stride > MOST_ROWS_AHEAD:
        return Refusal(f"is for a stride of at most {MOST_ROWS_AHEAD} down")
    if s.vertical.kernel * s.horizontal.kernel * group.depth > PRODUCTS_A_SUM:
        return Refusal(f"sums a whole kernel in one chain, and has at most {PRODUCTS_A_SUM} products for that")
    return group
