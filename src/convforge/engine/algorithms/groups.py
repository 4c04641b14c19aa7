"""Which groups the algorithms are for: several of few channels, and depthwise ones."""

from __future__ import annotations

from ..geometry import Problem
from ..kernels.groups import Group
from ..plan import PRODUCTS_A_SUM, Job, Refusal

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


def small_groups(job: Job, most_outputs: int) -> Group | Refusal:
    """Groups of at most so many results of the pass. The input gradient sums over what the forward pass computes."""
    problem = job.problem
    depth, outputs = problem.w_shape[1], problem.w_shape[0] // problem.groups
    group = Group(outputs, depth) if job.backward else Group(depth, outputs)
    if problem.groups == 1:
        return Refusal("is for several groups of channels")
    if group == Group():
        return Refusal("is what depthwise is for groups of one channel")
    if group.outputs > most_outputs or group.depth > DEEPEST:
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
