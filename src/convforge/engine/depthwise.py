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

from dataclasses import replace

from .geometry import Sliding


def applies(groups: int, channels: int, outputs: int) -> bool:
    """One channel in, one channel out, in every group; a single group is what the direct algorithm is for."""
    return groups > 1 and channels == outputs == 1


def by_panels(s: Sliding, panel: int) -> Sliding:
    """The same channels, `panel` of them to a group; the last group may have fewer."""
    return replace(
        s,
        groups=-(-s.groups // panel),
        channels=panel,
        outputs=panel,
        all_channels=s.groups,
        lanewise=True,
        w_g=panel * s.w_g,
        w_k=s.w_g,
    )
