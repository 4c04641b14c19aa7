"""What the models of cycles must hold whatever their constants are."""

from __future__ import annotations

import pytest
from oracle import applies, choices

from convforge.bench.layers import parse
from convforge.engine import target as targets
from convforge.engine.algorithms import ALGORITHMS
from convforge.engine.geometry import Problem
from convforge.engine.plan import Job, Pass, Plan

LAYERS = (
    "64,28,64,3,padding=1,groups=64", "32,30,32,3,stride=2,padding=1,groups=32", "40,20,40,5,padding=2,groups=40",
    "128,28,128,3,padding=1,groups=32", "64,28,128,3,padding=1,groups=64", "96,14,96,1,groups=24",
    "64,28,3,3,padding=1", "64,28,64,3,padding=1", "3,64,64,7,stride=2,padding=3", "32,14,32,5,padding=2",
)  # fmt: skip


def problem_of(text: str, batch: int, channels_last: bool) -> Problem:
    layer = parse(text, batch)
    return Problem.of(layer.spec, layer.batch, layer.size, channels_last=channels_last)


@pytest.mark.parametrize("name", targets.available())
@pytest.mark.parametrize("which", Pass)
@pytest.mark.parametrize("text", LAYERS)
def test_every_algorithm_says_what_it_takes(text: str, which: Pass, name: str) -> None:
    """More than nothing, more for more images, no more where packed weights are kept, and no more on two threads."""
    target = targets.named(name)
    for channels_last in (True, False):
        one, many = problem_of(text, 1, channels_last), problem_of(text, 16, channels_last)
        for algorithm in ALGORITHMS:

            def cycles(problem: Problem, threads: int, kept: bool) -> float:
                plan = algorithm.plan(Job(problem, which, target, threads, kept))  # noqa: B023
                assert isinstance(plan, Plan)
                return plan.cycles

            if applies(algorithm, one, which):
                alone = cycles(one, 1, False)
                assert 0 < alone < cycles(many, 1, False)
                assert cycles(one, 1, True) <= alone
                assert cycles(many, 2, False) < cycles(many, 1, False)


@pytest.mark.parametrize("which", Pass)
def test_algorithms_of_small_groups_are_taken_where_they_were_measured_to_be_faster(which: Pass) -> None:
    """By half and more each, at 16 images."""
    large = choices(problem_of("128,56,128,3,stride=2,padding=1,groups=128", 16, True), which)
    assert large[0].algorithm.name == "depthwise"
    turned = choices(problem_of("128,56,128,3,padding=1,groups=128", 16, False), which)
    assert turned[0].algorithm.name == "depthwise packed"
    fours = choices(problem_of("128,56,128,3,padding=1,groups=32", 16, True), which)
    assert fours[0].algorithm.name == "grouped"
