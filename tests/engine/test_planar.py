"""Lanes along pixels: right where it applies, in both passes that it has, whatever the engine would choose."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from oracle import LAYOUTS, Case, check, choices, some_case

from convforge import Conv2dSpec, UserError
from convforge.engine.algorithms import planar
from convforge.engine.geometry import Problem
from convforge.engine.plan import Pass, Refusal
from convforge.native import target


def check_planar(case: Case) -> int:
    """Check the passes that it applies to; how many they are."""
    problem = Problem.of(case.spec, case.batch, case.size)
    if not case.batch:
        return 0
    asked = {"y": planar.forward(problem), "dx": planar.input_gradient(problem)}
    passes = tuple(name for name, answer in asked.items() if not isinstance(answer, Refusal))
    check(replace(case, algorithm="planar", passes=passes))
    return len(passes)


def test_any_convolution() -> None:
    choose = random.Random(3)
    checked = 0
    for _ in range(200):
        kind = choose.choice(("dense", "pointwise"))
        case = some_case(lambda options: choose.choice(list(options)), kind)
        checked += check_planar(case)
    assert checked > 40


def test_every_strided_gradient_and_every_forward_pass_at_stride_one_is_checked() -> None:
    """What the counts of `check_planar` rest on."""
    assert check_planar(Case(Conv2dSpec(3, 5, 3, padding=1), (5, 7))) == 2
    assert check_planar(Case(Conv2dSpec(3, 5, 3, 2, padding=1), (6, 7))) == 1


@pytest.mark.parametrize("outputs", range(1, 34))
def test_every_number_of_outputs(outputs: int) -> None:
    layouts = (LAYOUTS[outputs % 2],) * 3
    check_planar(Case(Conv2dSpec(3, outputs, 3, padding=1), (5, 7), layouts=layouts))
    check_planar(Case(Conv2dSpec(outputs, 5, 3, 2, padding=1), (6, 7), layouts=layouts))


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("padding", [0, 1, 2, 3, 7])
def test_phases_of_every_stride_and_padding(stride: int, padding: int) -> None:
    for kernel in (1, 2, 3, 7, 11):
        size = (max(9, kernel - 2 * padding), max(12, kernel - 2 * padding + 1))
        check_planar(Case(Conv2dSpec(3, 6, kernel, stride, padding), size, batch=1))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_of_rows_and_columns(threads: int, layout: str) -> None:
    """Many channels on wide images: blocks of a few rows, and of less than a row."""
    for spec, size in (
        (Conv2dSpec(40, 12, 3, padding=1), (33, 20)),
        (Conv2dSpec(600, 3, (2, 3), padding=((1, 1), (2, 3))), (5, 150)),
        (Conv2dSpec(3, 40, 7, 2, padding=3), (61, 45)),
    ):
        check_planar(Case(spec, size, batch=1, layouts=(layout, "NCHW", layout), threads=threads))


def test_long_sums_are_summed_in_parts() -> None:
    check_planar(Case(Conv2dSpec(1500, 2, 3, padding=1, bias=True), (4, 4), batch=1))


def test_tiles_fit_the_registers() -> None:
    for name in target.available():
        t = target.named(name)
        for outputs in range(1, 100):
            rows = planar.rows_of(outputs, t)
            vectors = planar.vectors_beside(rows, t)
            assert vectors >= 1
            assert rows * vectors + vectors + 1 < t.registers
            assert -(-outputs // rows) * rows - outputs < rows


def test_it_is_taken_for_the_input_gradient_of_a_stem_and_left_alone_for_many_outputs() -> None:
    stem = Problem.of(Conv2dSpec(3, 64, 7, 2, padding=3), 1, (224, 224))
    assert choices(stem, Pass.INPUT_GRADIENT)[0].algorithm.name == "planar"
    wide = Problem.of(Conv2dSpec(64, 64, 5, padding=2), 1, (28, 28))
    assert choices(wide, Pass.FORWARD, exact=True)[0].algorithm.name == "direct"


def test_it_does_not_apply_to_groups_strides_and_weight_gradients() -> None:
    for spec in (Conv2dSpec(8, 8, 3, groups=2), Conv2dSpec(8, 8, 3, stride=2)):
        with pytest.raises(UserError, match="planar"):
            check(Case(spec, (7, 7), algorithm="planar", passes=("y",)))
    with pytest.raises(UserError, match="planar"):
        check(Case(Conv2dSpec(8, 8, 3), (7, 7), algorithm="planar", passes=("dw",)))
