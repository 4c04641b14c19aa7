"""Depthwise convolution: each channel has a kernel of its own, and nothing is summed over channels.

What it computes (one input channel and one output channel a group):

    y[n, p, q, c] = bias[c] + Σᵢ Σⱼ  x[n, p·s + i·d − pad, q·s + j·d − pad, c] · w[c, i, j]

When it applies: groups = input channels = output channels. A broadcast would fill a vector for one channel; here the
lanes are channels instead, on both sides. `grouped.py` computes it on images that can be read where they lie. Elsewhere
(NCHW, fewer channels than lanes, columns dilated) they are packed: a panel of channels takes the place of a group, and
the loops of `direct.py` and `direct_weight_gradient.py` run unchanged around `lanewise` tiles, with one number summed a
tap:

- forward and input gradient: a tile of pixels × vectors of channels, the sum runs over taps;
- weight gradient: a tile of the taps of a kernel row × vectors of channels, the sum runs over pixels.

A step does 28 FMAs on 28 loaded vectors and is bound by loads; the packing of the input is one more load and store an
input number, beside k·k loads in the tiles.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ...spec import ceil_div
from .. import traffic
from ..geometry import Sliding
from ..nest import RegisterTile, largest_tile
from ..plan import Job, Plan, Refusal
from .direct import Direct
from .direct_weight_gradient import DirectWeightGradient
from .groups import NOT_DEPTHWISE, is_depthwise


def plan(job: Job) -> Plan | Refusal:
    """Any depthwise convolution, in any layout."""
    if not is_depthwise(job.problem):
        return NOT_DEPTHWISE
    slidings = tuple(by_panels(s, job.panel) for s in job.slidings)
    if job.for_weights:
        return DirectWeightGradient(job, sum(cycles_of_weight_gradient(job, s) for s in slidings), slidings)
    return Direct(job, cycles(job, slidings), slidings)


def by_panels(s: Sliding, panel: int) -> Sliding:
    """The same channels, `panel` of them to a group; the last group may have fewer."""
    return replace(
        s,
        groups=ceil_div(s.groups, panel),
        channels=panel,
        outputs=panel,
        all_channels=s.groups,
        lanewise=True,
        w_g=panel * s.w_g,
        w_k=s.w_g,
    )


# What the model of cycles is made of, measured on one core of Zen 5.
_CYCLES_A_TILE = 15.0
"""To call a tile and to store its sums."""
_COPIED = 4.0
"""To bring a vector's numbers to or from scratch, turned or not."""
_COLLECTED_BYTES_A_CYCLE = 2.3
"""Sums on their way into the layout of the weights."""
_STEPS_LONGER = 1.3
"""Of the weight gradient, whose tiles have few sums."""


def cycles(job: Job, slidings: Iterable[Sliding]) -> float:
    """What the forward pass or the input gradient takes: the input copied, the tiles of all slidings, and the tensors'
    way through the caches, once for each sliding; where the weights are not kept, packing them as well."""
    target, total, packing, read, written = job.target, 0.0, 0.0, 0, 0
    for s in slidings:
        v, h, vectors = s.vertical, s.horizontal, ceil_div(s.all_channels, job.lanes)
        count, taps = ceil_div(h.out, target.tile_rows), v.kernel * h.kernel
        rows = largest_tile(h.out, target.tile_rows)
        tile = RegisterTile(rows, "", target.tile_vectors, "", job.lanes, target.registers, lanewise=True)
        tiles = s.images * v.out * count * ceil_div(vectors, target.tile_vectors)
        inputs, outputs = s.images * v.size * h.size, s.images * v.out * h.out
        total += tiles * (taps * tile.cycles + _CYCLES_A_TILE)
        total += vectors * _COPIED * (inputs + (outputs if s.y_c != 1 else 0))
        packing += 0.0 if job.kept else traffic.packing(vectors * taps * job.lanes * job.size, job.threads, target)
        read += inputs * s.all_channels * job.size
        written += outputs * s.all_channels * job.size
    moving = traffic.cycles(read, written, traffic.bytes_of(job.problem), target)
    return (total + moving) / job.threads + packing


def cycles_of_weight_gradient(job: Job, s: Sliding) -> float:
    """What it takes: x and dy copied, and for each pixel a step of each row of taps."""
    target = job.target
    v, h, vectors = s.vertical, s.horizontal, ceil_div(s.all_channels, job.lanes)
    tile = RegisterTile(h.kernel, "", target.tile_vectors, "", job.lanes, target.registers, lanewise=True)
    inputs, outputs = s.images * v.size * h.size, s.images * v.out * h.out
    steps = outputs * v.kernel * ceil_div(vectors, target.tile_vectors)
    total = steps * tile.cycles * _STEPS_LONGER
    total += vectors * _COPIED * (inputs + outputs)
    total += vectors * v.kernel * h.kernel * job.lanes * job.size / _COLLECTED_BYTES_A_CYCLE
    together = traffic.bytes_of(job.problem)
    return (total + traffic.cycles(together, 0, together, target)) / job.threads
