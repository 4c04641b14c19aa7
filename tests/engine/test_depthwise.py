"""Depthwise convolution, read in place and packed: every kernel with a tile and some without, borders, tails."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import Case, Data, check_each, choices

from convforge import Conv2dSpec, engine
from convforge.engine import Problem
from convforge.engine.algorithms import groups
from convforge.engine.plan import Pass
from convforge.native import target

NHWC = ("NHWC", "NCHW", "NHWC")


def check(case: Case) -> None:
    """In place where that applies, and packed."""
    assert check_each(case, "depthwise", "depthwise packed")


def applying(spec: Conv2dSpec, size: tuple[int, int], channels_last: bool = True) -> set[str]:
    problem = Problem.of(spec, 2, size, channels_last=channels_last)
    return {
        choice.algorithm.name
        for which in Pass
        for choice in choices(problem, which)
        if choice.algorithm.name.startswith("depthwise")
    }


@pytest.mark.parametrize(
    ("kernel", "stride"),
    [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3), (3, 4), (4, 1), (5, 1), (5, 2), (6, 3), (7, 2), (8, 1)],
)  # fmt: skip
def test_every_kernel_and_stride_that_has_a_tile_and_the_next_that_has_none(kernel: int, stride: int) -> None:
    spec = Conv2dSpec(19, 19, kernel, stride, padding=kernel // 2, groups=19)
    for size in ((9, 30), (12, 7)):
        check(Case(spec, size, layouts=NHWC))
    tiled = kernel <= groups.WIDEST and stride <= groups.LARGEST_STRIDE
    assert applying(spec, (9, 30)) == ({"depthwise", "depthwise packed"} if tiled else {"depthwise packed"})


@pytest.mark.parametrize("width", range(1, 36))
@pytest.mark.parametrize("stride", [1, 2])
def test_every_width(width: int, stride: int) -> None:
    check(Case(Conv2dSpec(17, 17, 3, stride, padding=1, groups=17), (4, width), layouts=NHWC))


@pytest.mark.parametrize("before", range(6))
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_every_phase_of_the_padding(before: int, stride: int) -> None:
    spec = Conv2dSpec(16, 16, (3, 4), stride, padding=((before, 1), (before, 2)), groups=16)
    check(Case(spec, (7, 11), layouts=NHWC))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [*range(2, 20), 31, 32, 33, 70])
def test_channels_that_end_anywhere_in_a_vector(channels: int, dtype: str) -> None:
    check(Case(Conv2dSpec(channels, channels, 3, padding=1, groups=channels), (5, 9), dtype=dtype, layouts=NHWC))


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (Conv2dSpec(16, 16, (9, 1), padding=(4, 0), groups=16), (11, 5)),
        (Conv2dSpec(16, 16, (31, 5), padding=(15, 2), groups=16), (13, 12)),
        (Conv2dSpec(16, 16, 3, (3, 2), padding=(2, 1), dilation=(2, 1), groups=16), (17, 12)),
        (Conv2dSpec(16, 16, 3, (4, 2), padding=(6, 1), dilation=(6, 1), groups=16), (17, 12)),
        (Conv2dSpec(16, 16, 3, padding=30, groups=16), (3, 4)),
        (Conv2dSpec(16, 16, (2, 3), (5, 1), groups=16), (13, 9)),
        (Conv2dSpec(16, 16, 3, 3, padding=1, groups=16), (1, 1)),
    ],
)
def test_rows_far_from_the_image_and_from_each_other(spec: Conv2dSpec, size: tuple[int, int]) -> None:
    check(Case(spec, size, layouts=NHWC))


@pytest.mark.parametrize("layouts", [("NHWC slice", "NHWC", "NHWC slice"), ("flipped", "flipped", "flipped")])
def test_images_with_gaps_and_backwards(layouts: tuple[str, str, str]) -> None:
    check(Case(Conv2dSpec(40, 40, 3, 2, padding=1, groups=40), (8, 9), layouts=layouts))


def test_where_it_does_not_apply_the_packed_form_computes() -> None:
    spec, size = Conv2dSpec(64, 64, 3, padding=1, groups=64), (8, 8)
    assert applying(spec, size) == {"depthwise", "depthwise packed"}
    assert applying(spec, size, channels_last=False) == {"depthwise packed"}
    few = target.current().lanes("float32") - 1
    assert applying(Conv2dSpec(few, few, 3, groups=few), size) == {"depthwise packed"}
    assert applying(Conv2dSpec(64, 64, 3, dilation=2, groups=64), size) == {"depthwise packed"}


def test_results_do_not_depend_on_the_threads() -> None:
    spec = Conv2dSpec(48, 48, 3, 2, padding=1, groups=48)
    data = Data.of(Case(spec, (41, 40)))
    x, dy = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for a in (data.x, data.dy))
    out = [np.empty_like(a) for a in (dy, x)]
    y = {engine.conv2d(x, data.w, data.bias, spec, out=out[0], threads=n).tobytes() for n in (1, 2, 3, 5)}
    dx = {engine.input_gradient(dy, data.w, (41, 40), spec, out=out[1], threads=n).tobytes() for n in (1, 2, 3, 5)}
    assert len(y) == len(dx) == 1
