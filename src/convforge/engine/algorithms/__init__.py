"""How a convolution can be computed: a file for each algorithm, or pass of one, and the table of them all."""

from __future__ import annotations

from collections.abc import Callable

from ..kernels.winograd_tiles import Shape
from ..plan import Algorithm, Job, Plan, Refusal
from . import (
    depthwise,
    direct,
    direct_weight_gradient,
    grouped,
    grouped_weight_gradient,
    planar,
    winograd,
    winograd_weight_gradient,
)
from .groups import groups_of_one, small_groups


def _by_pass(
    images: Callable[..., Plan | Refusal], weights: Callable[..., Plan | Refusal], **how: object
) -> Callable[[Job], Plan | Refusal]:
    """An algorithm whose weight gradient is decided elsewhere than its passes that make images."""
    return lambda job: (weights if job.for_weights else images)(job, **how)


def _winograd(shape: Shape) -> Algorithm:
    m, r = shape.outputs, shape.taps
    return Algorithm(
        shape.name,
        _by_pass(winograd.plan, winograd_weight_gradient.plan, shape=shape),
        f"tiles of {m}×{m} outputs need {shape.products} products instead of {(m * r) ** 2}",
        exact=False,
    )


ALGORITHMS = (
    _winograd(Shape(4, 3)),
    _winograd(Shape(2, 3)),
    _winograd(Shape(2, 5)),
    Algorithm(
        "depthwise",
        _by_pass(grouped.plan, grouped_weight_gradient.plan, groups=groups_of_one),
        "every channel has a kernel of its own, so vectors run along channels, which are read where they lie",
        bits="depthwise",
    ),
    Algorithm(
        "depthwise packed",
        depthwise.plan,
        "every channel has a kernel of its own, so vectors run along channels, which are brought side by side first",
        bits="depthwise",
    ),
    Algorithm(
        "grouped",
        _by_pass(grouped.plan, grouped_weight_gradient.plan, groups=small_groups),
        "a group has so few channels that a vector takes in several groups",
    ),
    Algorithm(
        "planar",
        planar.plan,
        "few output channels: vectors run along the pixels of a row instead, so that every lane has work",
        bits="planar",
    ),
    Algorithm(
        "direct",
        _by_pass(direct.plan, direct_weight_gradient.plan),
        "it multiplies each input by each weight that it meets",
        bits="direct",
    ),
)
"""All algorithms; where two promise the same, the earlier one is taken."""
