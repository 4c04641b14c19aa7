"""Grouped convolution with few channels a group: every mapping of lanes to groups, and where it stands back."""

from __future__ import annotations

import pytest
from oracle import Case, check_each

from convforge import Conv2dSpec
from convforge.engine import Problem, select
from convforge.engine.algorithms.groups import Group
from convforge.engine.plan import Job, Pass
from convforge.native import target

NHWC = ("NHWC", "NHWC", "NHWC")


def check(case: Case, *applying: str) -> None:
    assert check_each(case, "grouped", "direct") == set(applying or ("grouped", "direct"))


@pytest.mark.parametrize(
    ("per_group", "outputs"), [(1, 2), (1, 4), (2, 1), (2, 2), (3, 4), (4, 4), (5, 2), (8, 4), (8, 8), (12, 8), (16, 8)]
)
def test_channels_of_a_group(per_group: int, outputs: int) -> None:
    """Groups so many that a vector of outputs does not end where the channels end."""
    groups = 32 // min(per_group, outputs) + 1
    spec = Conv2dSpec(groups * per_group, groups * outputs, 3, padding=1, groups=groups)
    no_mapping = (per_group, outputs) == (5, 2)  # neither is a part of a vector
    check(Case(spec, (4, 9), layouts=NHWC), *(["direct"] if no_mapping else []))


@pytest.mark.parametrize(
    ("kernel", "stride", "per_group", "dtype"),
    [
        (1, 1, 4, "float32"), (1, 2, 2, "float32"), (2, 2, 4, "float64"), (3, 1, 2, "float64"), (3, 2, 4, "float32"),
        (3, 2, 8, "float64"), (3, 3, 2, "float32"), (5, 1, 8, "float32"), (5, 2, 4, "float64"),
    ],
)  # fmt: skip
def test_kernels_and_strides(kernel: int, stride: int, per_group: int, dtype: str) -> None:
    spec = Conv2dSpec(32, 32, kernel, stride, padding=(kernel // 2, (kernel + 1) // 2), groups=32 // per_group)
    check(Case(spec, (7, 21), dtype=dtype, layouts=("NHWC", "NCHW", "NHWC")))


@pytest.mark.parametrize("layouts", [("NHWC slice", "strided", "NHWC slice"), ("flipped", "flipped", "flipped")])
def test_images_with_gaps_and_backwards(layouts: tuple[str, str, str]) -> None:
    check(Case(Conv2dSpec(40, 40, 3, 2, padding=1, groups=10), (8, 9), layouts=layouts))


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
@pytest.mark.parametrize("size", [(3, 4), (33, 20)])
def test_threads(size: tuple[int, int], threads: int) -> None:
    check(Case(Conv2dSpec(64, 64, 3, padding=1, groups=16), size, layouts=NHWC, threads=threads))


def test_a_group_says_which_inputs_its_lanes_meet() -> None:
    """Worked out by hand, 16 lanes."""
    assert Group(4, 4).inputs(16) == 16
    assert Group(4, 2).inputs(16) == 32
    assert Group(2, 8).inputs(16) == 4
    assert Group(3, 32).inputs(16) == 3
    assert [Group(depth, outputs).fits(16) for depth, outputs in ((4, 4), (5, 2), (4, 3), (7, 32))] == [
        True, False, False, True,
    ]  # fmt: skip


def test_it_is_taken_for_few_channels_a_group_and_for_no_others() -> None:
    def chosen(channels: int, groups: int, channels_last: bool = True) -> set[str]:
        spec = Conv2dSpec(channels, channels, 3, padding=1, groups=groups)
        problem = Problem.of(spec, 1, (14, 14), channels_last=channels_last)
        gradients = (Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT)
        return {select.choose(Job.of(problem, which, 2), exact=True).algorithm.name for which in gradients}

    assert chosen(128, 32) == {"grouped"}
    assert "grouped" in chosen(256, 32)
    assert chosen(128, 1) == chosen(128, 2) == {"direct"}
    assert chosen(128, 32, channels_last=False) == {"direct"}
    assert chosen(target.current().lanes("float32") // 2, 2) <= {"direct", "depthwise packed"}


def test_exact_results_are_left_to_an_algorithm_for_every_memory_format() -> None:
    problem = Problem.of(Conv2dSpec(128, 128, 3, padding=1, groups=32), 16, (14, 14))
    job = Job.of(problem, Pass.FORWARD, 2)
    assert select.choose(job).algorithm.name == "grouped"
    assert select.choose(job, exact=True).algorithm.name == "direct"
    assert "memory formats" in select.considered(job, exact=True).refused["grouped"]
