"""Weight gradients of 1×1 layers, as products of matrices."""

from __future__ import annotations

from dataclasses import replace

import pytest
from oracle import Case, check

from convforge import Conv2dSpec
from convforge.engine.algorithms import pointwise_weight_gradient
from convforge.engine.algorithms.pointwise_weight_gradient import PointwiseWeightGradient
from convforge.engine.geometry import Problem
from convforge.engine.plan import Job, Pass
from convforge.native.target import Target

NHWC = ("NHWC", "NHWC", "NHWC")
AVX2 = Target("avx2", "", "", 32, 16, 6, 2, 32 << 10, 512 << 10, 32 << 20)


def planned(
    spec: Conv2dSpec, size: tuple[int, int], threads: int, channels_last: bool = True, target: Target | None = None
) -> object:
    problem = Problem.of(spec, 1, size, channels_last=channels_last)
    return pointwise_weight_gradient.plan(Job.of(problem, Pass.WEIGHT_GRADIENT, threads, target=target))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("inputs", "outputs", "size", "stride"),
    [
        (5, 3, (1, 1), 1),  # one pixel
        (24, 40, (26, 27), 1),  # several blocks, both read in place
        (40, 23, (26, 27), 1),  # lanes beyond the last channel
        (1, 70, (19, 20), 1),
        (70, 1, (19, 20), 1),
        (7, 300, (26, 27), 1),  # more panels than are held
        (300, 290, (7, 8), 1),  # pixels far apart: rows are packed, in several slabs
        (129, 65, (9, 11), 2),  # rows of the image that do not touch
        (33, 20, (2, 700), (2, 1)),  # rows that are cut
    ],
)
def test_products(
    inputs: int, outputs: int, size: tuple[int, int], stride: int | tuple[int, int], threads: int, dtype: str
) -> None:
    spec = Conv2dSpec(inputs, outputs, 1, stride)
    assert planned(spec, size, threads)
    case = Case(spec, size, threads=threads, dtype=dtype, layouts=NHWC, algorithm="direct", passes=("dw",))
    check(case)
    check(replace(case, layouts=("NHWC slice", "NCHW", "NHWC slice")))
    check(replace(case, layouts=("NHWC", "HWNC", "NHWC")))  # lanes of dw are far apart


def test_every_way_to_divide_the_work_is_taken() -> None:
    """Few pixels are not split; many are, where the gradient is small; lanes may be of either side."""
    few = planned(Conv2dSpec(256, 512, 1), (3, 3), 2, target=AVX2)
    many = planned(Conv2dSpec(24, 64, 1), (112, 112), 2, target=AVX2)
    assert isinstance(few, PointwiseWeightGradient)
    assert isinstance(many, PointwiseWeightGradient)
    assert few.cut.splits == 1
    assert few.straight
    assert many.cut.splits == 2
    assert not many.straight
    narrow = planned(Conv2dSpec(32, 24, 1), (56, 56), 2, target=AVX2)
    wide = planned(Conv2dSpec(24, 32, 1), (56, 56), 2, target=AVX2)
    assert isinstance(narrow, PointwiseWeightGradient)
    assert isinstance(wide, PointwiseWeightGradient)
    assert narrow.turned
    assert not wide.turned


@pytest.mark.parametrize(
    ("spec", "channels_last"),
    [
        (Conv2dSpec(8, 8, 3, padding=1), True),
        (Conv2dSpec(8, 8, 1, padding=1), True),
        (Conv2dSpec(8, 8, 1, groups=2), True),
        (Conv2dSpec(8, 8, 1), False),
    ],
)
def test_what_is_no_product(spec: Conv2dSpec, channels_last: bool) -> None:
    assert planned(spec, (9, 9), 2, channels_last) is None
